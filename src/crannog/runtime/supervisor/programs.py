"""What an executable's first bytes say, and the small changes we make to them. Pure.

Decided here, as the kernel decides it: whether a file is a script and who interprets it
(fs/binfmt_script.c), whether it is an ELF program and which loader it names (fs/binfmt_elf.c). Left
to `execute`: where those paths lead and whether they may be run.

Two files are made here. A *patched program* names its loader as a descriptor, because the kernel
would open the loader's path on the disk. A *starter* is a program of some 60 instructions' bytes
that puts words before its arguments and executes another path: that is how a script's interpreter
gets its rewritten arguments, in an address space of its own, so that nothing is written into that
of a caller which may share it with its parent (vfork; a goroutine's stack has no room below it).
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from crannog.errors import Unsupported

HEAD_BYTES: Final = 256
"""What the kernel looks at: BINPRM_BUF_SIZE. Longer `#!` lines are cut or refused there."""

ELF_MAGIC: Final = b"\x7fELF"
SCRIPT_MAGIC: Final = b"#!"
PATH_MAX: Final = 4096

_PT_LOAD: Final = 1
_PT_INTERP: Final = 3
_PT_GNU_STACK: Final = 0x6474E551
_MAX_HEADERS_BYTES: Final = 65536
_HEADER: Final = struct.Struct("<16sHHIQQQIHHHHHH")
_PROGRAM_HEADER: Final = struct.Struct("<IIQQQQQQ")
_EM_X86_64: Final = 62
_EM_AARCH64: Final = 183
_MACHINES: Final = {"x86_64": _EM_X86_64, "aarch64": _EM_AARCH64}
_ET_EXEC: Final = 2
_ET_DYN: Final = 3
_BASE: Final = 0x400000
_ALIGN: Final = 0x10000
_SPACE: Final = b" \t"


class Script(NamedTuple):
    """A `#!` line: the interpreter's path and, where given, its one argument."""

    interpreter: bytes
    argument: bytes | None


class Loader(NamedTuple):
    """An ELF program's PT_INTERP: the path, and where in the file its program header is."""

    path: bytes
    header_offset: int


class NotExecutable(Exception):
    """The kernel would answer ENOEXEC. Internal to the supervisor: the caller sees that errno."""


def parse_script(head: bytes) -> Script | None:
    """The `#!` line in a file's first 256 bytes; None where the file is no script.

    Raises:
        NotExecutable: no interpreter, or a path that is cut off by the kernel's buffer.
    """
    if not head.startswith(SCRIPT_MAGIC):
        return None
    buffer = head[:HEAD_BYTES].ljust(HEAD_BYTES, b"\0")
    newline = buffer.find(b"\n")
    if newline >= 0:
        line = buffer[2:newline]
    else:
        rest = buffer[2 : HEAD_BYTES - 1].lstrip(_SPACE)
        if not rest or not any(byte in b" \t\0" for byte in rest):
            raise NotExecutable  # the path may go on beyond what was read
        line = buffer[2 : HEAD_BYTES - 1]
    line = line.rstrip(_SPACE).lstrip(_SPACE)
    end = next((i for i, byte in enumerate(line) if byte in b" \t\0"), len(line))
    interpreter = line[:end]
    if not interpreter:
        raise NotExecutable
    argument = b""
    if end < len(line) and line[end] != 0:
        argument = line[end:].lstrip(_SPACE).split(b"\0", 1)[0]
    return Script(interpreter, argument or None)


def is_elf(head: bytes) -> bool:
    """Whether the file is an ELF object of any kind."""
    return head.startswith(ELF_MAGIC)


def is_program(head: bytes, machine: str) -> bool:
    """Whether the file is a 64-bit ELF program or shared object for `machine` (of `uname -m`)."""
    if not header_bytes(head):
        return False
    fields = _HEADER.unpack_from(head)
    return fields[1] in (_ET_EXEC, _ET_DYN) and fields[2] == _MACHINES.get(machine)


def header_bytes(head: bytes) -> int:
    """How many bytes of a 64-bit ELF file `find_loader` needs, bounded; 0 for any other file."""
    if len(head) < _HEADER.size or not is_elf(head) or head[4] != 2 or head[5] != 1:
        return 0
    fields = _HEADER.unpack_from(head)
    offset, size, count = fields[5], fields[9], fields[10]
    if size != _PROGRAM_HEADER.size or offset > 1 << 40 or count * size > _MAX_HEADERS_BYTES:
        return 0
    return int(offset + count * size)


def loader_range(headers: bytes) -> tuple[int, int, int] | None:
    """Where the file names its loader: (offset, size, the program header's offset), or None.

    `headers` are the file's first `header_bytes`. A file the kernel would not run is answered with
    None: the kernel says so itself.
    """
    end = header_bytes(headers)
    if not end or len(headers) < end:
        return None
    fields = _HEADER.unpack_from(headers)
    for index in range(fields[10]):
        at = fields[5] + index * _PROGRAM_HEADER.size
        kind, _flags, offset, _v, _p, size, _m, _a = _PROGRAM_HEADER.unpack_from(headers, at)
        if kind == _PT_INTERP:
            if not 2 <= size <= PATH_MAX or offset > 1 << 40:
                return None
            return offset, size, at
    return None


def parse_loader(raw: bytes, header_offset: int) -> Loader | None:
    """The loader from the bytes that `loader_range` pointed at; None where the kernel refuses."""
    if not raw or raw[-1] != 0:
        return None
    path = raw.split(b"\0", 1)[0]
    return Loader(path, header_offset) if path else None


def loader_patch(headers: bytes, loader: Loader, end: int, path: bytes) -> list[tuple[int, bytes]]:
    """What to write where, so that the kernel takes `path` as the program's loader.

    The new path goes after the file's end; only the header's file offset and size change, so the
    loader itself still finds its own name where it was mapped.
    """
    fields = list(_PROGRAM_HEADER.unpack_from(headers, loader.header_offset))
    fields[2] = end
    fields[5] = len(path) + 1
    return [(end, path + b"\0"), (loader.header_offset, _PROGRAM_HEADER.pack(*fields))]


def starter(path: bytes, words: tuple[bytes, ...], machine: str) -> bytes:
    """A program that executes `path` with `words` in the place of its own first argument.

    Its further arguments and its environment are handed on. Where the execution fails it exits
    with 126, as a shell does. `words` must be at least two: that is what it has room for.

    Raises:
        Unsupported: neither x86-64 nor arm64.
    """
    if len(words) < 2:
        raise ValueError("a starter needs at least two words")
    code_at = _HEADER.size + 2 * _PROGRAM_HEADER.size
    if machine == "x86_64":
        assemble, elf_machine = _x86_64, _EM_X86_64
    elif machine == "aarch64":
        assemble, elf_machine = _aarch64, _EM_AARCH64
    else:
        raise Unsupported(f"starting scripts on {machine}, expected x86_64 or aarch64")
    strings = (path, *words)
    at = code_at + len(assemble(0, (0,) * len(words)))
    addresses = []
    for string in strings:
        addresses.append(_BASE + at)
        at += len(string) + 1
    code = assemble(addresses[0], tuple(addresses[1:]))
    body = code + b"".join(string + b"\0" for string in strings)
    size = code_at + len(body)
    ident = ELF_MAGIC + bytes((2, 1, 1)) + bytes(9)
    header = _HEADER.pack(
        ident, 2, elf_machine, 1, _BASE + code_at, _HEADER.size, 0, 0, 64, 56, 2, 64, 0, 0
    )
    load = _PROGRAM_HEADER.pack(_PT_LOAD, 5, 0, _BASE, _BASE, size, size, _ALIGN)
    stack = _PROGRAM_HEADER.pack(_PT_GNU_STACK, 6, 0, 0, 0, 0, 0, 16)
    return header + load + stack + body


def _x86_64(path: int, words: tuple[int, ...]) -> bytes:
    """On entry [rsp] is argc and argv follows; argc is at least 1 (Linux 5.18)."""
    code = bytearray.fromhex("488b0c24")  # mov rcx, [rsp]
    code += bytes.fromhex("488d54cc10")  # lea rdx, [rsp + rcx*8 + 16]: the environment
    code += bytes.fromhex("4883c410")  # add rsp, 16: over argc and argv[0]
    for address in reversed(words):
        code += b"\x68" + address.to_bytes(4, "little")  # push address
    code += bytes.fromhex("4889e6")  # mov rsi, rsp
    code += b"\xbf" + path.to_bytes(4, "little")  # mov edi, path
    code += bytes.fromhex("b83b0000000f05")  # mov eax, 59 (execve); syscall
    code += bytes.fromhex("bf7e000000b8e70000000f05")  # exit_group(126)
    return bytes(code)


def _aarch64(path: int, words: tuple[int, ...]) -> bytes:
    """The same for arm64; encodings from the Arm Architecture Reference Manual, run in Unicorn."""

    def address(register: int, value: int) -> list[int]:
        low, high = value & 0xFFFF, value >> 16
        return [0xD2800000 | low << 5 | register, 0xF2A00000 | high << 5 | register]

    code = [
        0xF94003E1,  # ldr x1, [sp]
        0x8B216FE2,  # add x2, sp, x1, uxtx #3
        0x91004042,  # add x2, x2, #16: the environment
        0x910043E3,  # add x3, sp, #16: over argc and argv[0]
    ]
    for word in reversed(words):
        code += [*address(4, word), 0xF81F8C64]  # str x4, [x3, #-8]!
    code += [0xAA0303E1, *address(0, path)]  # mov x1, x3
    code += [0xD2801BA8, 0xD4000001]  # mov x8, #221 (execve); svc #0
    code += [0xD2800FC0, 0xD2800BC8, 0xD4000001]  # exit_group(126)
    return struct.pack(f"<{len(code)}I", *code)
