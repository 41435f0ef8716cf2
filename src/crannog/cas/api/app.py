"""The REST API: a request in, a response out, nothing else. Never raises."""

from __future__ import annotations

import secrets
import traceback
from collections.abc import Callable, Mapping
from http import HTTPStatus

from crannog import __version__
from crannog.cas.api.metrics import Metrics
from crannog.cas.api.problems import NO_STORE, answer, is_internal, problem
from crannog.cas.api.routes import ACCESS, Access, Call, Operation, route
from crannog.cas.service import CasService, PublicValue
from crannog.errors import Error, Unauthenticated, chain
from crannog.transport.http import Request, Response
from crannog.transport.log import Log
from crannog.wire import Json

YAML = ("Content-Type", "text/plain; charset=utf-8")


class RestApi:
    """The application on 8081.

    Args:
        service: the CAS's use cases.
        log: lines for the operator.
        metrics: counts, and the text of `/v1/metrics`.
    """

    def __init__(self, service: CasService, *, log: Log, metrics: Metrics) -> None:
        self._service = service
        self._log = log
        self._metrics = metrics
        self._handlers: Mapping[Operation, Callable[[Call, Request], Response]] = {
            Operation.SUBMIT: self._submit,
            Operation.READ: self._read,
            Operation.READ_TEXT: self._read_text,
            Operation.VALUES: self._values,
            Operation.VERSION: self._version,
            Operation.LIVE: self._live,
            Operation.READY: self._ready,
            Operation.METRICS: self._counters,
        }

    def respond(self, request: Request) -> Response:
        """The answer to a request, whatever happens."""
        response = self._respond(request)
        self._metrics.request(response.status)
        return response

    def _respond(self, request: Request) -> Response:
        try:
            call = route(request.method, request.target)
            if ACCESS[call.operation] is Access.CERTIFIED and request.certificate is None:
                raise Unauthenticated(
                    f"to {call.operation.value} needs a client certificate",
                    hint="any self-signed one will do: curl --cert client.crt --key client.key",
                )
            return self._handlers[call.operation](call, request)
        except Error as error:
            return self.refuse(error, request.peer)
        except Exception as error:  # noqa: BLE001  # our bug must not end the connection unsaid
            return self._crashed(error, request.peer)

    def refuse(self, error: Error, peer: str) -> Response:
        """The answer to something that is refused."""
        request_id = secrets.token_hex(8)
        if is_internal(error):
            reason = ": ".join(chain(error)) + (f" ({error.internal})" if error.internal else "")
            self._log.error(
                "request failed", code=error.code, reason=reason, peer=peer, request_id=request_id
            )
        return problem(error, request_id)

    def _crashed(self, error: Exception, peer: str) -> Response:
        request_id = secrets.token_hex(8)
        # Where, and not what: the text of a foreign exception may hold anything.
        frame = traceback.extract_tb(error.__traceback__)[-1]
        self._log.error(
            "request crashed",
            kind=type(error).__name__,
            at=f"{frame.name}:{frame.lineno}",
            peer=peer,
            request_id=request_id,
        )
        return problem(Error("internal error"), request_id)

    def _submit(self, _call: Call, request: Request) -> Response:
        created = self._service.create_session(request.body, request.certificate)
        self._log.info("session stored", session_hash=created.hash, peer=request.peer)
        body: dict[str, Json] = {"hash": created.hash}
        if created.warnings:
            body["warnings"] = list(created.warnings)
        return answer(HTTPStatus.CREATED, body)

    def _read(self, call: Call, request: Request) -> Response:
        text, session_hash = self._service.read_session(
            call.name, call.session_hash, request.certificate
        )
        return answer(HTTPStatus.OK, {"session": text, "hash": session_hash})

    def _read_text(self, call: Call, request: Request) -> Response:
        text, _ = self._service.read_session(call.name, call.session_hash, request.certificate)
        return Response(HTTPStatus.OK.value, (YAML, NO_STORE), text.encode("utf-8"))

    def _values(self, call: Call, _request: Request) -> Response:
        found = self._service.public_values(call.name, call.secret)
        if call.secret is None:
            values: dict[str, Json] = {name: _value(value) for name, value in found.items()}
            return answer(HTTPStatus.OK, {"values": values})
        return answer(HTTPStatus.OK, _value(found[call.secret]))

    def _version(self, _call: Call, _request: Request) -> Response:
        return answer(
            HTTPStatus.OK,
            {"version": __version__, "minimum_level": self._service.minimum_level.value},
        )

    def _live(self, _call: Call, _request: Request) -> Response:
        return answer(HTTPStatus.OK, {"status": "live"})

    def _ready(self, _call: Call, _request: Request) -> Response:
        self._service.check_store()
        return answer(HTTPStatus.OK, {"status": "ready"})

    def _counters(self, _call: Call, _request: Request) -> Response:
        kind = ("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
        return Response(HTTPStatus.OK.value, (kind, NO_STORE), self._metrics.text())


def _value(value: PublicValue) -> dict[str, Json]:
    return {"kind": value.kind, "value": value.value, "expires": None, "renew": None}
