"""Writes an fspf's path, key and tag into a session file, and changes nothing else in it.

The file is a template for people: comments, order, quotes and `$VARIABLES` stay. So values are put
into the text at the places where the parser found them, and the result is parsed again and compared
with what was there. The new file is on the disk, with mode 0600, before the image is stored, and
takes the old one's place by a rename afterwards.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from crannog.errors import AlreadyExists, Conflict, Misconfigured, NotFound, Unsupported
from crannog.oci.streams import storage_failed
from crannog.protect.files import locked, write_all
from crannog.session.tree import Mapping, Node, Scalar, Sequence, parse
from crannog.shield.paths import printable

MARK = "# by crannog image encrypt"
FIELDS = ("fspf_path", "fspf_key", "fspf_tag")
_PATH = re.compile(r"/[A-Za-z0-9._/-]*\Z")
_USED = re.compile(rb"(?<![\\$])\$([A-Za-z_][A-Za-z0-9_]*)")
_VARIABLE = re.compile(r"\$[A-Za-z_][A-Za-z0-9_]*\Z")


class Values(NamedTuple):
    """What is written; `key` is a secret."""

    path: str
    key: str
    tag: str

    def __repr__(self) -> str:
        """Without the key."""
        return f"Values(path={self.path!r}, tag={self.tag!r})"


class Target(NamedTuple):
    """The service that is written to.

    Attributes:
        session: the session's name as it stands there, with variables.
        service: its name.
        command: its command as it stands there.
        variables: what the file, as a template, needs values for; without those that are replaced.
    """

    session: str
    service: str
    command: str
    variables: tuple[str, ...] = ()


def find_target(data: bytes, service: str | None) -> Target:
    """The service `service` of a session file, or its only one.

    Raises:
        NotFound: there is no such service.
        Misconfigured: there are several, or it says nothing about services.
        SessionInvalid, TooLarge: it is no YAML that a session may be.
    """
    root = parse(data)
    entry = _service(root, service)
    replaced = {_text(entry, name).removeprefix("$") for name in FIELDS}
    names = {name.decode() for name in _USED.findall(data)} - replaced
    return Target(
        _text(root, "name"), _text(entry, "name"), _text(entry, "command"), tuple(sorted(names))
    )


def fill(data: bytes, service: str | None, values: Values, *, replace: bool) -> bytes:
    """The session file `data` with `values` for its service.

    Args:
        data: UTF-8, one YAML document, which may be a template.
        service: which; None for the only one.
        values: of the fspf.
        replace: whether values that this command did not write may be replaced.

    Raises:
        AlreadyExists: the service names an fspf, and `replace` is false.
        Unsupported: it is written in a way that this cannot edit.
        NotFound, Misconfigured, SessionInvalid, TooLarge: as `find_target`.
    """
    if not _PATH.match(values.path):
        raise Misconfigured(
            f"the fspf's path {values.path!r} cannot stand in a session file without quotes",
            hint="use letters, digits and . _ - / in --fspf",
        )
    root = parse(data)
    text = data.decode("utf-8-sig")
    bom = data[: len(data) - len(text.encode())]
    entry = _service(root, service)
    lines = {
        "fspf_path": values.path,
        "fspf_key": f'"{values.key}"',  # quoted: other tools would take 12e34… for a number
        "fspf_tag": f'"{values.tag}"',
    }
    old = {key.text: node for key, node in entry.entries if key.text in FIELDS}
    if not replace:
        _refuse_others(old, text, _text(entry, "name"))
    edits: list[tuple[int, int, str]] = []
    for name, node in old.items():
        edits.append(_replaced(name, node, entry, text, lines.pop(name)))
    if lines:
        edits.append(_inserted(entry, text, lines))
    for start, end, new in sorted(edits, reverse=True):
        text = text[:start] + new + text[end:]
    result = bom + text.encode()
    _verify(root, result, service, values)
    return result


@contextlib.contextmanager
def edit_session(path: Path) -> Iterator[SessionFile]:
    """A session file that nobody else edits by this command meanwhile.

    Raises:
        NotFound, StorageFailed: there is none.
        Unavailable: another command is at work on it.
    """
    name = os.path.realpath(os.fsencode(path))
    with locked(name) as data:
        session = SessionFile(name, data)
        try:
            yield session
        finally:
            session.abandon()


class SessionFile:
    """A session file under edit: `prepare` the new content, later `commit` it."""

    def __init__(self, path: bytes, data: bytes) -> None:
        self.data = data
        self._path = path
        self._temporary: bytes | None = None
        directory, name = os.path.split(path)
        self._prefix = b"." + name + b".crannog-"
        self._directory = directory

    def prepare(self, data: bytes) -> None:
        """Put the new content on the disk beside the old one.

        Raises:
            StorageFailed: no space, no permission.
        """
        self._remove_stale()
        temporary = os.path.join(self._directory, self._prefix + secrets.token_hex(6).encode())
        try:
            descriptor = os.open(
                temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600
            )
            self._temporary = temporary
            try:
                write_all(descriptor, data)
                os.fchmod(descriptor, 0o600)  # it holds the key from here on
                status = os.stat(self._path)
                if os.geteuid() == 0:
                    os.fchown(descriptor, status.st_uid, status.st_gid)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            self.abandon()
            raise storage_failed(error, "write", os.fsdecode(self._path)) from error

    def commit(self) -> None:
        """Let the new content take the place of the old one.

        Raises:
            Conflict: somebody has changed the file meanwhile.
            StorageFailed: the rename failed.
        """
        assert self._temporary is not None
        try:
            with open(self._path, "rb") as file:
                if file.read(len(self.data) + 1) != self.data:
                    raise Conflict(
                        f"{printable(self._path)} was changed meanwhile, and is left as it is",
                        hint="the image is stored, and its key is not: run the command again with"
                        " --force when nobody edits the file",
                    )
            os.rename(self._temporary, self._path)
            self._temporary = None
            descriptor = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise storage_failed(error, "write", os.fsdecode(self._path)) from error

    def abandon(self) -> None:
        """Leave the old content; nothing after `commit`."""
        if self._temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(self._temporary)
            self._temporary = None

    def _remove_stale(self) -> None:
        """What a killed command left: this one has the lock, so nobody uses it."""
        with contextlib.suppress(OSError):
            for name in os.listdir(self._directory):
                if name.startswith(self._prefix):
                    os.unlink(os.path.join(self._directory, name))


def _service(root: Mapping, name: str | None) -> Mapping:
    services = _get(root, "services")
    if not isinstance(services, Sequence) or not services.items:
        raise Misconfigured(
            "the session has no services",
            hint="add the service that runs the image, with its name and command",
        )
    entries = [entry for entry in services.items if isinstance(entry, Mapping)]
    names = [_text(entry, "name") for entry in entries]
    if name is None:
        if len(entries) == 1:
            return entries[0]
        raise Misconfigured(
            f"the session has {len(entries)} services", hint=f"say which: --service {names[0]}"
        )
    for entry, found in zip(entries, names, strict=True):
        if found == name:
            return entry
    raise NotFound(
        f"the session has no service {name[:200]!r}", hint=f"it has: {', '.join(names[:10])}"
    )


def _refuse_others(old: dict[str, Node], text: str, service: str) -> None:
    key = old.get("fspf_key")
    if key is not None and MARK in text[key.mark.index :].partition("\n")[0]:
        return
    for name, node in old.items():
        empty = isinstance(node, Scalar) and (node.is_null or not node.text)
        if not empty and not (isinstance(node, Scalar) and _VARIABLE.match(node.text)):
            raise AlreadyExists(
                f"service {service} has {name} already, and this command did not write it",
                hint="is it of an older image, replace it: --replace",
            )


def _replaced(name: str, node: Node, entry: Mapping, text: str, value: str) -> tuple[int, int, str]:
    if not isinstance(node, Scalar) or node.block:
        raise Unsupported(
            f"{name} in line {node.mark.line} is no text on one line",
            hint="write it as 'fspf_path: /fspf.pb', or remove it",
        )
    start, end = node.mark.index, node.end.index
    if start == end:
        # Nothing stood there: the place that the parser names may be behind the line.
        key = next(key for key, found in entry.entries if found is node)
        start = end = text.index(":", key.end.index) + 1
        value = " " + value
    rest = text[end:].partition("\n")[0].rstrip("\r")
    if name == "fspf_key" and not rest.strip():
        return start, end + len(rest), f"{value} {MARK}"
    return start, end, value


def _inserted(entry: Mapping, text: str, lines: dict[str, str]) -> tuple[int, int, str]:
    """New lines behind the service's name; in a flow map new pairs at its beginning."""
    if text[entry.mark.index] == "{":
        place = entry.mark.index + 1
        return place, place, "".join(f"{name}: {value}, " for name, value in lines.items())
    key, node = next(
        ((key, node) for key, node in entry.entries if key.text == "name"), entry.entries[0]
    )
    if not isinstance(node, Scalar) or node.block or node.end.line != node.mark.line:
        raise Unsupported(
            f"the service's name in line {key.mark.line} is no text on one line",
            hint="write it as '- name: application'",
        )
    column = key.mark.column - 1
    end = text.find("\n", node.end.index)
    newline = "\r\n" if end > 0 and text[end - 1] == "\r" else "\n"
    block = "".join(
        " " * column + f"{name}: {value}" + (f" {MARK}" if name == "fspf_key" else "") + newline
        for name, value in lines.items()
    )
    if end < 0:
        return len(text), len(text), newline + block
    return end + 1, end + 1, block


def _verify(root: Mapping, result: bytes, service: str | None, values: Values) -> None:
    """Compare what the edited file says with what it should."""
    after = parse(result)
    entry = _service(after, service)
    said = tuple(_text(entry, name) for name in FIELDS)
    if said != tuple(values) or _plain(after) != _plain(root):
        raise Unsupported(
            "the session file is written in a way that cannot be edited in place",
            hint="write the service as a block, one 'key: value' a line",
        )


def _plain(node: Node) -> object:
    """What a document says, without places and without the fspf."""
    if isinstance(node, Scalar):
        return (node.text, node.plain)
    if isinstance(node, Sequence):
        return [_plain(item) for item in node.items]
    return [(key.text, _plain(item)) for key, item in node.entries if key.text not in FIELDS]


def _get(mapping: Mapping, name: str) -> Node | None:
    return next((node for key, node in mapping.entries if key.text == name), None)


def _text(mapping: Mapping, name: str) -> str:
    node = _get(mapping, name)
    return node.text if isinstance(node, Scalar) else ""
