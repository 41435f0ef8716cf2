"""What is left as a termination message, and which files are never touched."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from crannog.runtime.log import Log, LogLevel
from crannog.runtime.termination import (
    FULL,
    LIMIT,
    leave_message,
    leave_reason,
    termination_message,
)


def test_the_reason_comes_first_and_the_notes_after_it() -> None:
    log = Log(LogLevel.FATAL, os.open(os.devnull, os.O_WRONLY))
    log.plain("export SCONE_HEAP=1")  # of SCONE_VERSION=1, before anything has failed
    log.notable("the LAS vouches for little")
    log.warn("something else")
    log.fatal("it failed")
    log.plain("  Caused by: this")
    assert termination_message(log.reasons, log.notes) == (
        b"it failed\n  Caused by: this\nNote: the LAS vouches for little\n"
    )


def test_it_is_cut_at_a_whole_character() -> None:
    message = termination_message(["ä" * 3000], [])
    assert len(message) <= LIMIT
    assert message.decode().endswith("ä\n[cut here]\n")


def test_what_a_terminal_obeys_is_escaped() -> None:
    assert termination_message(["\x1b[2J\n"], []) == b"\\x1b[2J\\n\n"


def test_it_is_appended_to_a_regular_file(tmp_path: Path) -> None:
    file = tmp_path / "log"
    file.write_text("of the program\n")
    assert leave_message(str(file), b"why\n")
    assert file.read_text() == "of the program\nwhy\n"


def test_a_file_that_is_full_grows_no_more(tmp_path: Path) -> None:
    file = tmp_path / "log"
    file.touch()
    # Each probe in a container that executes a launcher fails anew, for as long as the pod lives.
    written = [leave_message(str(file), b"x" * LIMIT) for _ in range(40)]
    assert written[0]
    assert not written[-1]
    assert file.stat().st_size < FULL + LIMIT


def test_a_file_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    assert not leave_message(str(tmp_path / "log"), b"why\n")
    assert list(tmp_path.iterdir()) == []


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "log").symlink_to("file")
    assert not leave_message(str(tmp_path / "log"), b"why\n")
    assert (tmp_path / "file").read_bytes() == b""


@pytest.mark.parametrize("kind", ["directory", "pipe", "socket", "device"])
def test_what_is_no_regular_file_is_not_opened_or_waited_for(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "log"
    with socket.socket(socket.AF_UNIX) as listener:
        match kind:
            case "directory":
                path.mkdir()
            case "pipe":
                os.mkfifo(path)
            case "socket":
                listener.bind(str(path))
            case "device":
                path = Path("/dev/zero")
        assert not leave_message(str(path), b"why\n")


def test_a_path_with_a_nul_is_no_error() -> None:
    assert not leave_message("/\0", b"why\n")


def test_the_environment_names_another_file(tmp_path: Path) -> None:
    (tmp_path / "log").touch()
    log = Log(LogLevel.FATAL, os.open(os.devnull, os.O_WRONLY))
    log.fatal("it failed")
    leave_reason(log, {"CRANNOG_TERMINATION_LOG": str(tmp_path / "log")})
    assert (tmp_path / "log").read_text() == "it failed\n"
