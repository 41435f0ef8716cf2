"""Errors to HTTP: one table of statuses, one shape of body. docs/api.md lists the codes.

The body has what the reference has (`msg`, the cause chain, outermost first) and more beside it.
What only the operator may know stays in the log under the request id.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import ClassVar

from crannog import __version__
from crannog.errors import (
    AlreadyExists,
    Conflict,
    Denied,
    Error,
    EvidenceRejected,
    EvidenceUnverifiable,
    FormatError,
    IntegrityError,
    Misconfigured,
    NotFound,
    Refused,
    StorageFailed,
    TooLarge,
    Unauthenticated,
    Unavailable,
    Unsupported,
    chain,
    hints,
)
from crannog.session.problems import SessionInvalid
from crannog.session.template import SubstitutionFailed
from crannog.transport.http import Response
from crannog.transport.stream import TimedOut
from crannog.wire import Json, encode_json

JSON = ("Content-Type", "application/json")
# Sessions are not for caches on the way.
NO_STORE = ("Cache-Control", "no-store")


class MethodNotAllowed(Error):
    """The path is there, and not for this method."""

    code: ClassVar[str] = "method-not-allowed"

    def __init__(self, method: str, allowed: tuple[str, ...]) -> None:
        super().__init__(
            f"method {method[:20]} is not allowed here, expected {' or '.join(allowed)}"
        )
        self.allowed = allowed


STATUSES: dict[type[Error], HTTPStatus] = {
    Error: HTTPStatus.INTERNAL_SERVER_ERROR,
    AlreadyExists: HTTPStatus.BAD_REQUEST,  # the reference's
    FormatError: HTTPStatus.BAD_REQUEST,
    Unauthenticated: HTTPStatus.UNAUTHORIZED,
    Denied: HTTPStatus.FORBIDDEN,
    EvidenceRejected: HTTPStatus.FORBIDDEN,
    Refused: HTTPStatus.FORBIDDEN,
    NotFound: HTTPStatus.NOT_FOUND,
    MethodNotAllowed: HTTPStatus.METHOD_NOT_ALLOWED,
    TimedOut: HTTPStatus.REQUEST_TIMEOUT,
    Conflict: HTTPStatus.CONFLICT,
    TooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    SessionInvalid: HTTPStatus.UNPROCESSABLE_ENTITY,
    SubstitutionFailed: HTTPStatus.UNPROCESSABLE_ENTITY,
    Unsupported: HTTPStatus.UNPROCESSABLE_ENTITY,
    Misconfigured: HTTPStatus.INTERNAL_SERVER_ERROR,
    # Here it can only be the store's: somebody has changed the database.
    IntegrityError: HTTPStatus.INTERNAL_SERVER_ERROR,
    EvidenceUnverifiable: HTTPStatus.SERVICE_UNAVAILABLE,
    StorageFailed: HTTPStatus.SERVICE_UNAVAILABLE,
    Unavailable: HTTPStatus.SERVICE_UNAVAILABLE,
}


def status_of(error: Error) -> HTTPStatus:
    """The status of the most specific class in the table."""
    for kind in type(error).__mro__:
        if kind in STATUSES:
            return STATUSES[kind]
    return HTTPStatus.INTERNAL_SERVER_ERROR


def is_internal(error: Error) -> bool:
    """Whether its text is the operator's only: paths, the disk's state, our own faults."""
    return isinstance(error, StorageFailed) or status_of(error) is HTTPStatus.INTERNAL_SERVER_ERROR


def problem(error: Error, request_id: str) -> Response:
    """The response that says what is wrong."""
    status = status_of(error)
    messages: tuple[str, ...]
    if isinstance(error, StorageFailed):
        messages, hint = ("the CAS cannot store anything now",), "try again later"
    elif is_internal(error):
        messages, hint = ("the CAS failed; its operator finds the request id in the log",), ""
    else:
        messages, hint = chain(error), "; ".join(hints(error))
    headers: tuple[tuple[str, str], ...] = ()
    if isinstance(error, MethodNotAllowed):
        headers = (("Allow", ", ".join(error.allowed)),)
    if status is HTTPStatus.SERVICE_UNAVAILABLE:
        headers = (("Retry-After", "1"),)
    body: dict[str, Json] = {
        "msg": list(messages),
        "code": error.code,
        "hint": hint,
        "request_id": request_id,
        "version": __version__,
    }
    if isinstance(error, SessionInvalid):
        body["problems"] = [
            {
                "path": one.path,
                "line": one.line,
                "column": one.column,
                "message": one.message,
                "found": one.found,
                "expected": one.expected,
                "suggestion": one.suggestion,
            }
            for one in error.problems
        ]
    return answer(status, body, *headers)


def answer(status: HTTPStatus, body: dict[str, Json], *headers: tuple[str, str]) -> Response:
    """A JSON response; a newline at its end, for terminals."""
    return Response(status.value, (JSON, NO_STORE, *headers), encode_json(body) + b"\n")
