"""The `SCONE_*` and `CRANNOG_*` variables: strict text to values. docs/environment.md lists them.

Decides what each variable means and refuses what it does not understand. Leaves to `plan` what
follows from them together. Pure; the environment is an argument.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import NamedTuple

from crannog.errors import Misconfigured
from crannog.runtime.log import LogLevel

DEFAULT_HEAP = 64 << 20
DEFAULT_STACK = 81920  # what the reference's own output shows
DEFAULT_CAS = "cas"
DEFAULT_LAS = "las"
DEFAULT_LAS_SOCKET = "/run/crannog/las/socket"
DEFAULT_RETRY_SECONDS = 30.0
DEFAULT_TERMINATION_LOG = "/dev/termination-log"
TERMINATION_LOG = "CRANNOG_TERMINATION_LOG"

_UNITS = {"": 0, "k": 10, "K": 10, "m": 20, "M": 20, "g": 30, "G": 30}
_LARGEST = 1 << 47  # user space of x86-64
_HEX = "0123456789abcdefABCDEF"
_CONFIG_ID_LIMIT = 1024
_TOKEN_LIMIT = 1024


class Mode(Enum):
    """SCONE_MODE."""

    HW = "hw"
    SIM = "sim"
    AUTO = "auto"


class ConfigId(NamedTuple):
    """SCONE_CONFIG_ID: which service of which session; the password is a secret."""

    session: str
    service: str
    otp: str | None

    @property
    def public(self) -> str:
        """SESSION/SERVICE, which may be shown."""
        return f"{self.session}/{self.service}"

    def __repr__(self) -> str:
        return f"ConfigId({self.public!r})"


class DirectFspf(NamedTuple):
    """SCONE_FSPF and its companions, for debugging without a CAS."""

    path: str
    key: bytes
    tag: bytes

    def __repr__(self) -> str:
        return f"DirectFspf(path={self.path!r})"


class Settings(NamedTuple):
    """Everything the launcher takes from its environment.

    Attributes:
        mode: SCONE_MODE; not measured.
        hash_only: SCONE_HASH=1.
        version: SCONE_VERSION=1.
        log: SCONE_LOG.
        heap: bytes; measured, not enforced. Likewise `stack`, `fork`, `mprotect`.
        stack: bytes.
        allow_dlopen: 0, 1 or 2; measured, and enforced below 2 once attested or shielded.
        fork: SCONE_FORK=1.
        mprotect: SCONE_MPROTECT=1.
        config_id: what is asked of the CAS; None for a plain start.
        cas: SCONE_CAS_ADDR as given, or None.
        las: SCONE_LAS_ADDR as given, or None.
        las_socket: path of the LAS's Unix socket, preferred; None looks at the usual place.
        service_access_token: a secret, or None.
        fspf: direct use of the file shield, or None.
        cas_key: CRANNOG_CAS_KEY as given: the pin of the CAS's key.
        session_hash: CRANNOG_SESSION_HASH, 64 hex: the pin of the session's version.
        retry_seconds: how long an unreachable CAS or LAS is tried again.
        termination_log: the file that gets the reason of a failure.
    """

    mode: Mode = Mode.AUTO
    hash_only: bool = False
    version: bool = False
    log: LogLevel = LogLevel.WARN
    heap: int = DEFAULT_HEAP
    stack: int = DEFAULT_STACK
    allow_dlopen: int = 0
    fork: bool = False
    mprotect: bool = False
    config_id: ConfigId | None = None
    cas: str | None = None
    las: str | None = None
    las_socket: str | None = None
    service_access_token: str | None = None
    fspf: DirectFspf | None = None
    cas_key: str | None = None
    session_hash: str | None = None
    retry_seconds: float = DEFAULT_RETRY_SECONDS
    termination_log: str = DEFAULT_TERMINATION_LOG

    def __repr__(self) -> str:
        return f"Settings(mode={self.mode.value}, config_id={self.config_id!r})"


def read_settings(environment: Mapping[str, str]) -> Settings:
    """The settings in `environment`; variables of other names are not looked at.

    An empty value counts as not set, except that it may not stand for half of a pair.

    Raises:
        Misconfigured: a value that is not understood. Values of secrets are not repeated.
    """
    get = environment.get
    return Settings(
        mode=_mode(get("SCONE_MODE", "")),
        hash_only=_flag("SCONE_HASH", get("SCONE_HASH", "")),
        version=_flag("SCONE_VERSION", get("SCONE_VERSION", "")),
        log=_log(get("SCONE_LOG", "")),
        heap=_size("SCONE_HEAP", get("SCONE_HEAP", ""), DEFAULT_HEAP),
        stack=_size("SCONE_STACK", get("SCONE_STACK", ""), DEFAULT_STACK),
        allow_dlopen=_dlopen(get("SCONE_ALLOW_DLOPEN", "")),
        fork=_flag("SCONE_FORK", get("SCONE_FORK", "")),
        mprotect=_flag("SCONE_MPROTECT", get("SCONE_MPROTECT", "")),
        config_id=_config_id(get("SCONE_CONFIG_ID", "")),
        cas=get("SCONE_CAS_ADDR") or None,
        las=get("SCONE_LAS_ADDR") or None,
        las_socket=_socket(get("CRANNOG_LAS_SOCKET", "")),
        service_access_token=_token(get("SCONE_SERVICE_ACCESS_TOKEN", "")),
        fspf=_fspf(get("SCONE_FSPF", ""), get("SCONE_FSPF_KEY", ""), get("SCONE_FSPF_TAG", "")),
        cas_key=get("CRANNOG_CAS_KEY") or None,
        session_hash=_session_hash(get("CRANNOG_SESSION_HASH", "")),
        retry_seconds=_seconds("CRANNOG_RETRY_SECONDS", get("CRANNOG_RETRY_SECONDS", "")),
        termination_log=_termination_log(get(TERMINATION_LOG, "")),
    )


def parse_config_id(text: str) -> ConfigId:
    """SESSION/SERVICE or SESSION/SERVICE@OTP: split at the last `/`, then at `@`.

    Raises:
        Misconfigured: a part is missing, or it is too long or holds control characters. The
            one-time password is not repeated.
    """
    if len(text) > _CONFIG_ID_LIMIT:
        raise Misconfigured(
            f"SCONE_CONFIG_ID has {len(text)} characters, expected at most {_CONFIG_ID_LIMIT}"
        )
    session, slash, rest = text.rpartition("/")
    service, at, otp = rest.partition("@")
    shown = f"{session}{slash}{service}{'@…' if at else ''}"
    if not session or not service:
        raise Misconfigured(
            f"SCONE_CONFIG_ID is {shown[:100]!r}, expected SESSION/SERVICE",
            hint="the session's name, a slash, and the name of one of its services",
        )
    if at and not otp:
        raise Misconfigured(f"SCONE_CONFIG_ID is {shown[:100]!r}: nothing comes after the @")
    if not text.isprintable() or any(character.isspace() for character in text):
        raise Misconfigured("SCONE_CONFIG_ID holds spaces or control characters")
    return ConfigId(session, service, otp or None)


def parse_size(text: str, what: str) -> int:
    """Bytes: a decimal number with at most one of K, M, G (1024 each) after it."""
    digits, unit = (text[:-1], text[-1:]) if text[-1:] in _UNITS else (text, "")
    counted = digits.isascii() and digits.isdigit() and len(digits) <= 15
    size = int(digits) << _UNITS[unit] if counted else 0
    if not 0 < size <= _LARGEST:
        raise Misconfigured(
            f"{what} is {text[:40]!r}, expected bytes, or a number with K, M or G",
            hint=f"for example {what}=64M",
        )
    return size


def _size(name: str, text: str, default: int) -> int:
    return parse_size(text, name) if text else default


def _flag(name: str, text: str) -> bool:
    if text in ("", "0"):
        return False
    if text == "1":
        return True
    raise Misconfigured(f"{name} is {text[:40]!r}, expected 0 or 1")


def _mode(text: str) -> Mode:
    if not text:
        return Mode.AUTO
    try:
        return Mode(text.lower())
    except ValueError as error:
        raise Misconfigured(f"SCONE_MODE is {text[:40]!r}, expected hw, sim or auto") from error


def _log(text: str) -> LogLevel:
    if not text:
        return LogLevel.WARN
    if text in "01234567" and len(text) == 1:
        return LogLevel(min(int(text), LogLevel.TRACE))
    name = "WARN" if text.upper() == "WARNING" else text.upper()
    if name in LogLevel.__members__:
        return LogLevel[name]
    raise Misconfigured(
        f"SCONE_LOG is {text[:40]!r}, expected FATAL, ERROR, WARN, INFO, DEBUG, TRACE or 0 to 7"
    )


def _dlopen(text: str) -> int:
    if text not in ("", "0", "1", "2"):
        raise Misconfigured(f"SCONE_ALLOW_DLOPEN is {text[:40]!r}, expected 0, 1 or 2")
    return int(text or "0")


def _config_id(text: str) -> ConfigId | None:
    return parse_config_id(text) if text else None


def _socket(text: str) -> str | None:
    if not text:
        return None
    if not text.startswith("/") or len(text.encode("utf-8", "surrogateescape")) > 107:
        raise Misconfigured(
            f"CRANNOG_LAS_SOCKET is {text[:120]!r}, expected an absolute path of at most 107 bytes"
        )
    return text


def _termination_log(text: str) -> str:
    if text and not text.startswith("/"):
        raise Misconfigured(f"{TERMINATION_LOG} is {text[:120]!r}, expected an absolute path")
    return text or DEFAULT_TERMINATION_LOG


def _token(text: str) -> str | None:
    if len(text) > _TOKEN_LIMIT or not text.isascii() or not text.isprintable():
        raise Misconfigured(
            f"SCONE_SERVICE_ACCESS_TOKEN has {len(text)} characters, expected at most "
            f"{_TOKEN_LIMIT}, all of them printable ASCII"
        )
    return text or None


def _fspf(path: str, key: str, tag: str) -> DirectFspf | None:
    if not path and not key and not tag:
        return None
    given = (("SCONE_FSPF", path), ("SCONE_FSPF_KEY", key), ("SCONE_FSPF_TAG", tag))
    missing = [name for name, value in given if not value]
    if missing:
        raise Misconfigured(
            f"{' and '.join(missing)} not set, expected SCONE_FSPF, _KEY and _TAG together",
            hint="`fspf encrypt` prints the key and the tag",
        )
    if not path.startswith("/"):
        raise Misconfigured(f"SCONE_FSPF is {path[:120]!r}, expected an absolute path")
    return DirectFspf(path, _hex("SCONE_FSPF_KEY", key, 32), _hex("SCONE_FSPF_TAG", tag, 16))


def _hex(name: str, text: str, length: int) -> bytes:
    # Not by `wire`, whose JSON an unattested start does not need. The value is not repeated.
    if len(text) != 2 * length:
        raise Misconfigured(f"{name} has {len(text)} characters, expected {2 * length} hex digits")
    if text.strip(_HEX):
        raise Misconfigured(f"{name} is not hex, expected {2 * length} hex digits")
    return bytes.fromhex(text)


def _session_hash(text: str) -> str | None:
    return _hex("CRANNOG_SESSION_HASH", text, 32).hex() if text else None


def _seconds(name: str, text: str) -> float:
    if not text:
        return DEFAULT_RETRY_SECONDS
    if not (text.isascii() and text.isdigit() and len(text) < 6 and int(text) <= 3600):
        raise Misconfigured(f"{name} is {text[:40]!r}, expected seconds, 0 to 3600")
    return float(int(text))
