"""What a service gets once it has proved what it is: the last message of the attestation exchange.

Everything in it may be secret. Neither `repr` nor an error shows any of it.
Format: docs/formats/attestation.md, "configuration".
"""

from __future__ import annotations

from typing import NamedTuple

from crannog.errors import FormatError, TooLarge
from crannog.levels import Level, parse_level
from crannog.wire import Fields, Json, encode_base64

MAX_STRINGS = 4096
MAX_STRING = 128 * 1024 - 1
"""Linux's MAX_ARG_STRLEN less the final NUL: what execve takes in one string."""

MAX_FILES = 1024
MAX_FILE = 8 * 1024 * 1024
MAX_FILES_TOTAL = 10 * 1024 * 1024


class File(NamedTuple):
    """A file injected into the program's world.

    Attributes:
        path: absolute, normal (no `.`, `..`, `//`), UTF-8.
        content: its bytes.
        mode: permission bits, 0 to 0o777.
    """

    path: str
    content: bytes
    mode: int

    def __repr__(self) -> str:
        return f"File(path={self.path!r}, {len(self.content)} bytes, mode={self.mode:#o})"


class FspfReference(NamedTuple):
    """Where the file system protection file is and what opens it.

    Attributes:
        path: absolute path in the program's world.
        key: 32 bytes.
        tag: 16 bytes, the commitment over the sealed file.
    """

    path: str
    key: bytes
    tag: bytes

    def __repr__(self) -> str:
        return f"FspfReference(path={self.path!r}, tag={self.tag.hex()})"


class Configuration(NamedTuple):
    """A service's world.

    Attributes:
        argv: arguments, the program's name first; at least one.
        environment: (name, value) pairs, in the session's order, each name once.
        pwd: absolute working directory.
        files: injected files, each path once.
        fspf: the file system protection file, or None.
        session_hash: 64 hex of the session version that was applied.
        level: the level at which the evidence was accepted.
        mrenclave: the measurement that was accepted, 32 bytes.
    """

    argv: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    pwd: str
    files: tuple[File, ...]
    fspf: FspfReference | None
    session_hash: str
    level: Level
    mrenclave: bytes

    def __repr__(self) -> str:
        return (
            f"Configuration({len(self.argv)} arguments, {len(self.environment)} variables, "
            f"{len(self.files)} files, session {self.session_hash}, level {self.level.value})"
        )


def configuration_message(configuration: Configuration) -> dict[str, Json]:
    """The JSON object, its `type` included."""
    fspf: Json = None
    if configuration.fspf is not None:
        fspf = {
            "path": configuration.fspf.path,
            "key": configuration.fspf.key.hex(),
            "tag": configuration.fspf.tag.hex(),
        }
    return {
        "type": "configuration",
        "argv": list(configuration.argv),
        "environment": [[name, value] for name, value in configuration.environment],
        "pwd": configuration.pwd,
        "files": [
            {"path": file.path, "content": encode_base64(file.content), "mode": file.mode}
            for file in configuration.files
        ],
        "fspf": fspf,
        "session_hash": configuration.session_hash,
        "level": configuration.level.value,
        "mrenclave": configuration.mrenclave.hex(),
    }


def parse_configuration(value: dict[str, Json]) -> Configuration:
    """The configuration of that object.

    Checks everything that execve and the supervisor rely on: a false CAS may send anything.

    Raises:
        FormatError: a field is missing, unknown or malformed.
        TooLarge: over a bound of this module.
    """
    fields = Fields(value, "configuration")
    fields.constant("type", "configuration")
    argv = fields.texts("argv", limit=MAX_STRINGS, characters=MAX_STRING)
    if not argv:
        raise FormatError("configuration: argv is empty, expected the program's name at least")
    for number, argument in enumerate(argv):
        _string(argument, f"argv[{number}]")
    configuration = Configuration(
        argv=argv,
        environment=_environment(fields.items("environment", limit=MAX_STRINGS)),
        pwd=_pwd(fields.text("pwd")),
        files=_files(fields.items("files", limit=MAX_FILES)),
        fspf=_fspf(fields),
        session_hash=fields.hex("session_hash", 32).hex(),
        level=parse_level(fields.text("level", limit=40)),
        mrenclave=fields.hex("mrenclave", 32),
    )
    fields.end()
    return configuration


def _environment(items: list[Json]) -> tuple[tuple[str, str], ...]:
    found: dict[str, str] = {}
    for number, item in enumerate(items):
        what = f"environment[{number}]"
        match item:
            case [str(name), str(value)]:
                pass
            case _:
                raise FormatError(f"configuration: {what} is not a pair of strings")
        if not name or "=" in name:
            raise FormatError(f"configuration: {what} has an empty name or one with '='")
        if name in found:
            raise FormatError(f"configuration: {what} repeats a name")
        _string(name, what)
        _string(value, what)
        found[name] = value
    return tuple(found.items())


def _files(items: list[Json]) -> tuple[File, ...]:
    found: dict[str, File] = {}
    total = 0
    for number, item in enumerate(items):
        what = f"files[{number}]"
        if not isinstance(item, dict):
            raise FormatError(f"configuration: {what} is not an object")
        fields = Fields(item, f"configuration: {what}")
        path = _path(fields.text("path"), f"{what}.path")
        content = fields.data("content", limit=MAX_FILE)
        mode = fields.number("mode", high=0o777)
        fields.end()
        total += len(content)
        if total > MAX_FILES_TOTAL:
            raise TooLarge(f"configuration: files hold more than {MAX_FILES_TOTAL} bytes together")
        if path in found:
            raise FormatError(f"configuration: {what}.path is there twice")
        found[path] = File(path, content, mode)
    return tuple(found.values())


def _fspf(fields: Fields) -> FspfReference | None:
    if fields.null("fspf"):
        return None
    inner = Fields(fields.object("fspf"), "configuration: fspf")
    fspf = FspfReference(
        path=_path(inner.text("path"), "fspf.path"),
        key=inner.hex("key", 32),
        tag=inner.hex("tag", 16),
    )
    inner.end()
    return fspf


def _string(text: str, what: str) -> None:
    if "\0" in text:
        raise FormatError(f"configuration: {what} holds a NUL")
    if len(text.encode("utf-8")) > MAX_STRING:
        raise TooLarge(f"configuration: {what} is longer than {MAX_STRING} bytes")


def _pwd(text: str) -> str:
    # As the session wrote it, `/app/` included: the kernel or the supervisor walks it.
    _string(text, "pwd")
    if not text.startswith("/"):
        raise FormatError("configuration: pwd is not an absolute path")
    return text


def _path(text: str, what: str) -> str:
    # Not normalised here but refused: two spellings of one path would be two rules for one file.
    _string(text, what)
    if text == "/":
        return text
    if not text.startswith("/") or any(part in ("", ".", "..") for part in text[1:].split("/")):
        raise FormatError(f"configuration: {what} is not an absolute, normal path")
    return text
