"""The command line's own state: who this user is to a CAS, and which CASes were attested.

One JSON file of mode 0600 (`~/.cas/config.json`, `SCONE_CLI_CONFIG`, `--config`) with the keys of
the reference: `default_cas`, `identity` (private key and certificate, PEM), `cas_db`. Keys that
this program does not know are kept as they are.
"""

from __future__ import annotations

import os
import stat
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from crannog.errors import FormatError, Misconfigured, StorageFailed, TooLarge
from crannog.wire import Fields, Json, encode_json, parse_object

MAX_CONFIG_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class KnownCas:
    """A CAS that was attested: its address, the hash of its key, and how sure that is."""

    name: str
    key_hash: str
    level: str


@dataclass(frozen=True, slots=True)
class CliConfig:
    """The file's content. `identity` is empty until the first command that needs one."""

    path: Path
    default_cas: str = ""
    identity: str = ""
    known: tuple[KnownCas, ...] = ()
    others: tuple[tuple[str, Json], ...] = ()

    def cas(self, name: str) -> KnownCas | None:
        """The attested CAS of that address."""
        return next((cas for cas in self.known if cas.name == name), None)

    def with_cas(self, cas: KnownCas) -> CliConfig:
        """This configuration, knowing `cas`; the first one becomes the default."""
        known = (*(other for other in self.known if other.name != cas.name), cas)
        return replace(self, known=known, default_cas=self.default_cas or cas.name)

    def with_default(self, name: str) -> CliConfig:
        """This configuration with another default CAS."""
        return replace(self, default_cas=name)


def default_path() -> Path:
    """`SCONE_CLI_CONFIG` or `~/.cas/config.json`."""
    given = os.environ.get("SCONE_CLI_CONFIG")
    return Path(given) if given else Path.home() / ".cas" / "config.json"


def load_config(path: Path) -> CliConfig:
    """The file's configuration, an empty one where it does not exist yet.

    Raises:
        Misconfigured: it is not what this program wrote, or others may read the key in it.
        StorageFailed: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            data = file.read(MAX_CONFIG_BYTES + 1)
    except FileNotFoundError:
        return CliConfig(path)
    except OSError as error:
        raise StorageFailed(f"cannot read {path}: {error.strerror}") from error
    try:
        config = _parse(path, data)
    except (FormatError, TooLarge) as error:
        raise Misconfigured(
            f"{path} is not a configuration of this program",
            hint="move it away; a new one is made by the next command",
        ) from error
    if config.identity and mode & 0o077:
        raise Misconfigured(
            f"{path} holds your private key and has mode {mode:04o}, expected 0600",
            hint=f"chmod 600 {path}, and treat the key as known if others had access",
        )
    return config


def save_config(config: CliConfig) -> None:
    """Replace the file, whole or not at all, with mode 0600 in a directory of mode 0700."""
    known: dict[str, Json] = {
        cas.name: {"key_hash": cas.key_hash, "level": cas.level} for cas in config.known
    }
    value: dict[str, Json] = {
        **dict(config.others),
        "default_cas": config.default_cas,
        "identity": config.identity,
        "cas_db": known,
    }
    try:
        config.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=config.path.parent, prefix=".config-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(encode_json(value) + b"\n")
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, config.path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise StorageFailed(f"cannot write {config.path}: {error.strerror}") from error


def _parse(path: Path, data: bytes) -> CliConfig:
    value = parse_object(data, limit=MAX_CONFIG_BYTES, what="configuration")
    mine: dict[str, Json] = {
        key: value.pop(key) for key in ("default_cas", "identity", "cas_db") if key in value
    }
    fields = Fields(mine, "configuration")
    known = fields.object("cas_db") if fields.has("cas_db") else {}
    found: list[KnownCas] = []
    for name, entry in known.items():
        if not isinstance(entry, dict):
            raise FormatError(f"configuration: cas_db of {name!r} is not an object")
        cas = Fields(entry, f"cas_db of {name!r}")
        found.append(KnownCas(name, cas.text("key_hash"), cas.text("level")))
        cas.end()
    return CliConfig(
        path,
        default_cas=fields.optional_text("default_cas") or "",
        identity=fields.optional_text("identity", limit=65536) or "",
        known=tuple(found),
        others=tuple(value.items()),
    )
