"""What strace(1) saw a launcher look up, and which of it is not allowed before the evidence.

The allow-list is docs/formats/launcher.md's section on lookups: the directory itself, some files of
/proc/self, the LAS's socket, two files of /etc opened without following a link, where the command
is looked for, and the program that is measured. The last is told from everything else by how it is
reached: through a descriptor of the root directory with openat2 and RESOLVE_IN_ROOT, or one name at
a time without following links.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

# Everything that takes a path, and what changes where relative paths begin.
TRACED = "%file,openat2,connect,bind,sendto,sendmsg,fchdir"

_CALL = re.compile(r"(?P<name>\w+)\((?P<arguments>.*)\) += (?P<result>.+)$")
_PATH = re.compile(
    r"(?:(?P<base>AT_FDCWD|\d+)(?:<(?P<at>(?:[^>\\]|\\.)*)>(?:\(deleted\))?)?, )?"
    r'"(?P<path>(?:[^"\\]|\\.)*)"(?P<cut>\.\.\.)?(?P<rest>.*)$'
)
_UNIX = re.compile(r'sa_family=AF_UNIX, sun_path=(?P<path>@?"(?:[^"\\]|\\.)*")')
_OWN = re.compile(r"/proc/self/(exe|exe/up|fd|fd/\d+)")
_SEEN = frozenset({"access", "faccessat", "faccessat2", "lstat", "newfstatat", "stat", "statx"})
_LOOKS = _SEEN | {"execve", "open", "openat", "openat2", "readlink", "readlinkat"}
_QUIET = frozenset({"getcwd"})
_WALK = ("O_PATH", "O_NOFOLLOW")


class Lookup(NamedTuple):
    """One system call that takes a path.

    Attributes:
        call: its name.
        base: the descriptor that a relative path begins at, "" or "AT_FDCWD" for none.
        at: where that descriptor is, as seen from inside the root.
        path: as it was given.
        rest: the arguments after it.
        line: what strace printed.
    """

    call: str
    base: str
    at: str
    path: str
    rest: str
    line: str

    @property
    def full(self) -> str:
        """The path from the root directory, not resolved."""
        if self.path.startswith("/"):
            return posixpath.normpath(self.path)
        return posixpath.normpath(f"{self.at}/{self.path}")


@dataclass(frozen=True, slots=True)
class Allowed:
    """What this launcher may look up.

    Attributes:
        directory: the launcher's own.
        candidates: where the command is looked for, in order: PATH's directories with its name.
        front: the program of a curated image that executes the launcher, "" for none.
        socket: the LAS's.
    """

    directory: str
    candidates: tuple[str, ...]
    front: str = ""
    socket: str = "/run/crannog/las/socket"

    def refuse(self, lookup: Lookup) -> str:
        """Why a lookup is not allowed; "" where it is."""
        if lookup.call not in _LOOKS:
            return "no such call"
        if lookup.path == "" and not lookup.path.startswith("/"):
            return ""  # the descriptor itself, or nothing at all
        if not lookup.path.startswith("/"):
            return self._relative(lookup)
        path = lookup.full
        if ".." in lookup.path.split("/"):
            return "a path that goes up"
        if lookup.call == "openat2":
            return "" if _in_root(lookup) else "openat2 without a root"
        if path == self.directory or path.startswith(f"{self.directory}/"):
            return ""
        if _OWN.fullmatch(path) or path == self.socket:
            return ""
        if lookup.call == "execve" and path == self.front:
            return ""  # by who starts the container
        if path == "/":
            return "" if {"O_PATH", "O_DIRECTORY"} <= _flags(lookup) else "the root directory"
        if path == "/etc":
            wanted = {"O_PATH", "O_DIRECTORY", "O_NOFOLLOW"}
            return "" if wanted <= _flags(lookup) else "a directory"
        return self._command(lookup, path)

    def _relative(self, lookup: Lookup) -> str:
        if lookup.base in ("", "AT_FDCWD"):
            return "relative to the working directory"
        if lookup.call == "openat2":
            return "" if _in_root(lookup) else "openat2 without a root"
        if lookup.call == "openat" and "/" not in lookup.path and lookup.path != "..":
            if _flags(lookup).issuperset(_WALK):
                return ""
            return "followed, or opened to be read, from a directory"
        return "relative to a directory"

    def _command(self, lookup: Lookup, path: str) -> str:
        """The search for the command: what a shell's would be."""
        if lookup.call in _SEEN and path in self.candidates:
            return ""
        # A directory's name without links is part of the program's path, and asked for.
        directories = {posixpath.dirname(each) for each in self.candidates}
        if lookup.call == "openat" and {"O_PATH", "O_DIRECTORY"} <= _flags(lookup):
            return "" if path in directories else "a directory"
        return "outside"


def _flags(lookup: Lookup) -> set[str]:
    found = re.match(r", ([A-Z_|]+)", lookup.rest)
    return set(found[1].split("|")) if found else set()


def _in_root(lookup: Lookup) -> bool:
    found = re.search(r"resolve=([A-Z_|]+)", lookup.rest)
    return lookup.at == "/" and found is not None and "RESOLVE_IN_ROOT" in found[1].split("|")


def read_traces(prefix: Path, root: Path, first: str) -> list[Lookup]:
    """The lookups that `strace -ff -o prefix -y` wrote, from the execve of `first` on.

    Args:
        prefix: of the files, one for each thread.
        root: the directory that the traced program took for its root, as strace saw it.
        first: the path whose execution begins what counts.
    """
    files = sorted(prefix.parent.glob(f"{prefix.name}.*"), key=lambda path: int(path.suffix[1:]))
    lines = [line for path in files for line in path.read_text().splitlines()]
    for position, line in enumerate(lines):
        if line.startswith(f'execve("{first}", '):
            return list(lookups(lines[position:], str(root)))
    raise AssertionError(f"{first} was never executed: {lines[-5:]}")


def lookups(lines: Iterable[str], root: str) -> Iterator[Lookup]:
    """The lookups of these lines; a line that is not understood is an `AssertionError`."""
    for line in lines:
        if line.startswith(("+++", "---")):
            continue
        call = _CALL.match(line)
        if call is None or "<unfinished" in line:
            raise AssertionError(f"not understood: {line}")
        name, arguments = call["name"], call["arguments"]
        if name in _QUIET:
            continue
        if name in ("connect", "bind", "sendto", "sendmsg"):
            found = _UNIX.search(arguments)
            if found:
                path = found["path"].strip('"')
                yield Lookup("lstat" if name != "bind" else name, "", "", path, "", line)
            continue
        path_found = _PATH.match(arguments)
        if path_found is None or path_found["cut"]:
            yield Lookup(f"{name} (not understood)", "", "", "?", "", line)
            continue
        at = (path_found["at"] or "").removeprefix(root) or "/"
        yield Lookup(
            name, path_found["base"] or "", at, path_found["path"], path_found["rest"], line
        )
