"""Which request is which operation, and who may ask for it at all.

The table of `ACCESS` is the whole of the authorisation that does not depend on a session; the
session's own access policy is the service's question.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote_to_bytes

from werkzeug.exceptions import MethodNotAllowed as WrongMethod
from werkzeug.exceptions import NotFound as NoSuchPath
from werkzeug.routing import Map, Rule

from crannog.cas.api.problems import MethodNotAllowed
from crannog.errors import FormatError, NotFound

MAX_TARGET = 4096


class Operation(Enum):
    """What a client can ask for."""

    SUBMIT = "submit a session"
    READ = "read a session as JSON"
    READ_TEXT = "read a session's text"
    VALUES = "read public values"
    VERSION = "version"
    LIVE = "is the process alive"
    READY = "does it answer requests"
    METRICS = "counters"


class Access(Enum):
    """Who may ask."""

    PUBLIC = "anybody, without a client certificate too"
    CERTIFIED = "the holder of any client certificate"
    POLICY = "whom the session's access policy names"


ACCESS: dict[Operation, Access] = {
    Operation.SUBMIT: Access.CERTIFIED,
    Operation.READ: Access.POLICY,
    Operation.READ_TEXT: Access.POLICY,
    Operation.VALUES: Access.PUBLIC,
    Operation.VERSION: Access.PUBLIC,
    Operation.LIVE: Access.PUBLIC,
    Operation.READY: Access.PUBLIC,
    Operation.METRICS: Access.PUBLIC,
}

_NAME = "<path:name>"
_RULES = Map(
    [
        Rule("/session", methods=["POST"], endpoint=Operation.SUBMIT),
        Rule("/v1/sessions", methods=["POST"], endpoint=Operation.SUBMIT),
        Rule(f"/session/{_NAME}", methods=["GET"], endpoint=Operation.READ_TEXT),
        Rule(f"/v1/sessions/{_NAME}", methods=["GET"], endpoint=Operation.READ),
        Rule(f"/v1/values/{_NAME}", methods=["GET"], endpoint=Operation.VALUES),
        Rule("/v1/version", methods=["GET"], endpoint=Operation.VERSION),
        Rule("/v1/health", methods=["GET"], endpoint=Operation.READY),
        Rule("/v1/health/live", methods=["GET"], endpoint=Operation.LIVE),
        Rule("/v1/health/ready", methods=["GET"], endpoint=Operation.READY),
        Rule("/v1/metrics", methods=["GET"], endpoint=Operation.METRICS),
    ],
    merge_slashes=False,
    redirect_defaults=False,
    strict_slashes=True,
)
_ADAPTER = _RULES.bind("cas")
_VALUES = re.compile(r"session=(?P<session>[^,]+)(?:,secret=(?P<secret>[^,]+))?\Z")
_HASH = re.compile(r"[0-9a-f]{64}\Z")


class Call(NamedTuple):
    """A request that was understood.

    Attributes:
        operation: what for.
        name: the session's name, or empty.
        secret: the one secret that is asked for, or None.
        session_hash: the version that is asked for, or None for the latest.
    """

    operation: Operation
    name: str = ""
    secret: str | None = None
    session_hash: str | None = None


def route(method: str, target: str) -> Call:
    """What `method` on `target` (path and query as sent) asks for.

    Raises:
        FormatError: not UTF-8, a bad query, a bad selector of values.
        MethodNotAllowed: the path is there for other methods.
        NotFound: no such path.
    """
    if len(target) > MAX_TARGET:
        raise FormatError(f"request target has more than {MAX_TARGET} characters")
    raw_path, _, raw_query = target.partition("?")
    path = _decode(raw_path)
    try:
        operation, values = _ADAPTER.match(path, method=method)
    except WrongMethod as error:
        raise MethodNotAllowed(method, _allowed(error.valid_methods or ())) from error
    except NoSuchPath as error:
        raise NotFound(
            f"no such path: {path[:200]}", hint="paths are listed in docs/formats/rest-api.md"
        ) from error
    except Exception as error:  # a redirect, of which none is configured
        raise NotFound(f"no such path: {path[:200]}") from error
    assert isinstance(operation, Operation)
    if operation is Operation.VALUES and method != "GET":
        # The reference's clients probe with HEAD and expect this.
        raise MethodNotAllowed(method, ("GET",))
    session_hash = _query(raw_query, operation)
    name = str(values.get("name", ""))
    if operation is not Operation.VALUES:
        return Call(operation, name, None, session_hash)
    match = _VALUES.match(name)
    if match is None:
        raise FormatError(
            f"selector of values is {name[:80]!r}, expected session=NAME or session=NAME,secret=S"
        )
    return Call(operation, match["session"], match["secret"], None)


def _query(raw: str, operation: Operation) -> str | None:
    try:
        pairs = parse_qsl(
            raw, keep_blank_values=True, strict_parsing=bool(raw), errors="strict", max_num_fields=8
        )
    except ValueError as error:
        raise FormatError("query cannot be read, expected hash=64HEX or nothing") from error
    known = operation in (Operation.READ, Operation.READ_TEXT)
    found: str | None = None
    for key, value in pairs:
        # A mistyped parameter must not read the latest version instead of the one meant.
        if key != "hash" or not known or found is not None:
            raise FormatError(f"query parameter {key[:40]!r} is not known here or there twice")
        if not _HASH.match(value):
            raise FormatError(f"hash is {value[:80]!r}, expected 64 hex digits")
        found = value
    return found


def _allowed(methods: object) -> tuple[str, ...]:
    if isinstance(methods, list | tuple | set):
        return tuple(sorted(str(one) for one in methods))
    return ()


def _decode(path: str) -> str:
    try:
        text = unquote_to_bytes(path.encode("ascii")).decode("utf-8")
    except ValueError as error:
        raise FormatError("request path is not percent-encoded UTF-8") from error
    if any(not character.isprintable() for character in text):
        raise FormatError("request path holds control characters")
    return text
