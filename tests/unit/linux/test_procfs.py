from __future__ import annotations

import os
import subprocess
import sys

import pytest

from crannog.errors import FormatError
from crannog.linux.memory import read_bytes, read_string, write_bytes
from crannog.linux.procfs import Tasks, parse_status

TEXT = b"""Name:\tsleep
Umask:\t0027
Tgid:\t41
Pid:\t42
Uid:\t1000\t1001\t1002\t1003
Gid:\t2000\t2001\t2002\t2003
Groups:\t5 4 5\x20
CapPrm:\t00000000000000ff
CapEff:\t000001ffffffffff
"""


def test_the_file_system_ids_count() -> None:
    status = parse_status(TEXT)
    assert status.process == 41
    assert status.umask == 0o27
    assert status.credentials == (1003, 2003, (4, 5), 0x1FFFFFFFFFF)


def test_access_asks_about_the_real_ids_without_capabilities() -> None:
    assert parse_status(TEXT).real == (1000, 2000, (4, 5), 0)


def test_access_of_real_root_has_what_is_permitted() -> None:
    text = TEXT.replace(b"Uid:\t1000", b"Uid:\t0")
    assert parse_status(text).real == (0, 2000, (4, 5), 0xFF)


def test_a_name_cannot_forge_a_line() -> None:
    # The kernel escapes a newline in a name; even so the first line of a name counts.
    forged = parse_status(TEXT + b"Uid:\t0\t0\t0\t0\n")
    assert forged.credentials.uid == 1003


@pytest.mark.parametrize("missing", [b"Uid", b"Gid", b"Groups", b"CapEff", b"Tgid", b"Umask"])
def test_a_missing_line_is_refused(missing: bytes) -> None:
    with pytest.raises(FormatError):
        parse_status(TEXT.replace(missing + b":", b"X" + missing))


def test_a_descriptor_of_a_dead_thread_says_nothing_of_its_successor() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    tasks = Tasks()
    task = tasks.find(child.pid)
    assert task.status().process == child.pid
    child.communicate()
    for use in (task.status, lambda: os.stat("cwd", dir_fd=task.directory)):
        with pytest.raises((FileNotFoundError, ProcessLookupError)):
            use()
    with pytest.raises((FileNotFoundError, ProcessLookupError)):
        read_bytes(task.directory, 4096, 1)


def test_tasks_stay_bounded() -> None:
    tasks = Tasks(limit=4)
    first = tasks.renew(os.getpid())
    for _ in range(10):
        tasks.renew(os.getpid())
    assert tasks.find(os.getpid()) is not first


PR_SET_DUMPABLE = 4  # linux/prctl.h


class TestMemory:
    """Our own memory stands for the program's."""

    def setup_method(self) -> None:
        import ctypes

        # A test that started a CAS in this process has made it non-dumpable, and so unreadable.
        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)
        self.directory = os.open("/proc/self", os.O_PATH)
        self.buffer = ctypes.create_string_buffer(16384)
        self.address = ctypes.addressof(self.buffer)

    def teardown_method(self) -> None:
        os.close(self.directory)

    @pytest.mark.parametrize("length", [0, 1, 255, 256, 257, 4000, 4095])
    def test_strings_of_all_lengths(self, length: int) -> None:
        self.buffer.value = b"x" * length
        assert read_string(self.directory, self.address) == b"x" * length

    @pytest.mark.parametrize("length", [4096, 5000, 16383])
    def test_a_longer_one_is_too_long(self, length: int) -> None:
        self.buffer.value = b"x" * length
        with pytest.raises(OSError, match="too long"):
            read_string(self.directory, self.address)

    @pytest.mark.parametrize("address", [0, 1, 2**64 - 1, 2**63, 0xFFFF800000000000])
    def test_what_is_not_mapped_is_a_fault(self, address: int) -> None:
        for use in (
            lambda: read_string(self.directory, address),
            lambda: read_bytes(self.directory, address, 8),
            lambda: write_bytes(self.directory, address, b"x", lambda: None),
        ):
            with pytest.raises(OSError, match="bad address"):
                use()

    def test_nothing_is_written_when_the_caller_is_gone(self) -> None:
        def gone() -> None:
            raise KeyError("gone")

        with pytest.raises(KeyError):
            write_bytes(self.directory, self.address, b"secret", gone)
        assert self.buffer.raw[:6] == bytes(6)

    def test_what_is_written_arrives(self) -> None:
        write_bytes(self.directory, self.address, b"answer", lambda: None)
        assert self.buffer.raw[:6] == b"answer"
