"""What an executable's first bytes say: as fs/binfmt_script.c and fs/binfmt_elf.c read them."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crannog.errors import Unsupported
from crannog.runtime.supervisor import programs
from crannog.runtime.supervisor.programs import NotExecutable, Script, parse_script


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"#!/bin/sh\n", Script(b"/bin/sh", None)),
        (b"#!/bin/sh", Script(b"/bin/sh", None)),
        (b"#! \t/bin/sh \t\nrest", Script(b"/bin/sh", None)),
        (b"#!/bin/sh -e\n", Script(b"/bin/sh", b"-e")),
        (b"#!/usr/bin/env  python3 -u \n", Script(b"/usr/bin/env", b"python3 -u")),
        (b"#!relative\n", Script(b"relative", None)),
        (b"#!/bin/sh\0-e\n", Script(b"/bin/sh", None)),
        (b"#!/bin/sh\r\n", Script(b"/bin/sh\r", None)),
        (b"#!/bin/sh -e\0x\n", Script(b"/bin/sh", b"-e")),
        (b"#!/x " + b"y" * 300, Script(b"/x", b"y" * 250)),
    ],
)
def test_script_lines(head: bytes, expected: Script) -> None:
    assert parse_script(head) == expected


@pytest.mark.parametrize("head", [b"", b"#", b"\x7fELF", b" #!/bin/sh\n", b"text\n"])
def test_what_is_no_script(head: bytes) -> None:
    assert parse_script(head) is None


@pytest.mark.parametrize(
    "head", [b"#!\n", b"#! \t \n", b"#!\0\n", b"#!" + b" " * 300, b"#!/" + b"x" * 300]
)
def test_a_line_without_a_whole_interpreter_is_not_executable(head: bytes) -> None:
    with pytest.raises(NotExecutable):
        parse_script(head)


@given(st.binary(max_size=300))
def test_script_lines_from_any_bytes(data: bytes) -> None:
    try:
        script = parse_script(b"#!" + data)
    except NotExecutable:
        return
    assert script is not None
    assert script.interpreter
    assert not set(script.interpreter) & set(b" \t\n\0")
    assert script.argument is None or script.argument.strip(b" \t")


@given(st.binary(max_size=200))
def test_script_lines_are_what_the_kernel_makes_of_them(data: bytes) -> None:
    """A line that the parser accepts names its interpreter at the line's beginning."""
    head = b"#!" + data
    try:
        script = parse_script(head)
    except NotExecutable:
        return
    assert script is not None
    assert head[2:].lstrip(b" \t").startswith(script.interpreter)


def test_the_loader_of_a_real_program() -> None:
    data = Path(sys.executable).resolve().read_bytes()
    size = programs.header_bytes(data[:64])
    place = programs.loader_range(data[:size])
    assert place is not None
    offset, length, at = place
    loader = programs.parse_loader(data[offset : offset + length], at)
    assert loader is not None
    assert os.path.exists(loader.path)


def test_a_patched_program_names_its_new_loader_and_is_the_same_else() -> None:
    data = bytearray(Path(sys.executable).resolve().read_bytes())
    headers = bytes(data[: programs.header_bytes(bytes(data[:64]))])
    place = programs.loader_range(headers)
    assert place is not None
    loader = programs.parse_loader(bytes(data[place[0] : place[0] + place[1]]), place[2])
    assert loader is not None
    name = b"/proc/thread-self/fd/123"
    patched = bytearray(data)
    for offset, part in programs.loader_patch(headers, loader, len(data), name):
        patched[offset : offset + len(part)] = part
    place = programs.loader_range(bytes(patched[: len(headers)]))
    assert place is not None
    assert bytes(patched[place[0] : place[0] + place[1]]) == name + b"\0"
    assert sum(a != b for a, b in zip(data, patched, strict=False)) <= 16
    assert patched[len(headers) : len(data)] == data[len(headers) :]


@given(st.binary(max_size=300))
def test_headers_from_any_bytes(data: bytes) -> None:
    head = b"\x7fELF\x02\x01\x01" + data
    assert programs.header_bytes(head) >= 0
    place = programs.loader_range(head)
    assert place is None or 2 <= place[1] <= 4096


@pytest.mark.parametrize("count", [0xFFFF, 2000])
def test_endless_program_headers_are_not_read(count: int) -> None:
    head = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack(
        "<HHIQQQIHHHHHH", 2, 62, 1, 0, 64, 0, 0, 64, 56, count, 0, 0, 0
    )
    assert programs.header_bytes(head) == 0


def test_another_machines_program_is_none_of_ours() -> None:
    head = Path(sys.executable).resolve().read_bytes()[:64]
    assert programs.is_program(head, os.uname().machine)
    other = "aarch64" if os.uname().machine == "x86_64" else "x86_64"
    assert not programs.is_program(head, other)


@pytest.mark.parametrize("words", [(b"sh", b"script"), (b"sh", b"-e", b"a script")])
def test_a_starter_puts_words_before_the_arguments(words: tuple[bytes, ...]) -> None:
    show = b'import sys, os; print(sys.argv[1:], os.environ["KEPT"])'
    path = os.fsencode(os.path.realpath(sys.executable))
    image = programs.starter(path, (b"python", b"-c", show, *words), os.uname().machine)
    descriptor = os.memfd_create("starter")
    os.write(descriptor, image)
    done = subprocess.run(
        ["replaced", "one", "two three", ""],
        executable=f"/proc/self/fd/{descriptor}",
        pass_fds=[descriptor],
        env={"KEPT": "kept"},
        capture_output=True,
        text=True,
        check=False,
    )
    os.close(descriptor)
    expected = [word.decode() for word in words] + ["one", "two three", ""]
    assert done.stdout == f"{expected} kept\n", done.stderr


def test_a_starter_whose_program_is_gone_ends_with_126() -> None:
    descriptor = os.memfd_create("starter")
    os.write(descriptor, programs.starter(b"/nowhere", (b"a", b"b"), os.uname().machine))
    done = subprocess.run(
        ["x"], executable=f"/proc/self/fd/{descriptor}", pass_fds=[descriptor], check=False
    )
    os.close(descriptor)
    assert done.returncode == 126


def test_starters_for_arm64_are_made_as_the_manual_says() -> None:
    """Not run here: each instruction is four bytes, and the strings are where the code says."""
    image = programs.starter(b"/bin/sh", (b"sh", b"script"), "aarch64")
    assert struct.unpack_from("<H", image, 18) == (183,)
    code_at = struct.unpack_from("<Q", image, 24)[0] - 0x400000
    words = struct.unpack_from("<18I", image, code_at)
    assert words[0] == 0xF94003E1
    assert words[-1] == 0xD4000001
    low, high = (words[11] >> 5) & 0xFFFF, (words[12] >> 5) & 0xFFFF
    at = (high << 16 | low) - 0x400000
    assert image[at : at + 8] == b"/bin/sh\0"


def test_starters_for_other_machines_are_not_there() -> None:
    with pytest.raises(Unsupported):
        programs.starter(b"/x", (b"a", b"b"), "riscv64")
