"""The CAS as a process: both ports, TLS, log lines, start and graceful stop. The shell only."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from types import TracebackType

from OpenSSL import SSL

from crannog.cas.api.app import RestApi
from crannog.cas.api.metrics import Metrics
from crannog.cas.attestation import EnclaveApi, EnclaveLimits
from crannog.cas.enrolment.connection import EnrolmentApi
from crannog.cas.enrolment.enroller import Enroller
from crannog.cas.enrolment.issuer_keys import IssuerKeys
from crannog.cas.enrolment.token import Expected
from crannog.cas.keys import key_provider
from crannog.cas.operating import OperatorApi, operator_socket
from crannog.cas.service import CasService, Clock
from crannog.cas.settings import CasSettings
from crannog.errors import Error, Misconfigured, StorageFailed
from crannog.levels import Level
from crannog.linux.process import forbid_core_dumps
from crannog.transport.http import HttpLimits, serve_http
from crannog.transport.listener import Listener, Slot, tcp_socket
from crannog.transport.log import Log, Sparse, server_log
from crannog.transport.stream import Deadline
from crannog.transport.tls import (
    ClientCertificate,
    load_identity,
    server_context,
    server_stream,
)

DATABASE = "cas.db"


class CasServer:
    """A CAS that can be started and stopped once; also a context manager.

    Args:
        settings: where it listens and what it keeps.
        log: where its lines go; standard error by default.
        environment: where a key provider `env:NAME` looks.
        now: the clock.
    """

    def __init__(
        self,
        settings: CasSettings,
        *,
        log: Log | None = None,
        environment: Mapping[str, str] | None = None,
        now: Clock = lambda: datetime.now(UTC),
    ) -> None:
        self._settings = settings
        self._now = now
        self._log = log or server_log()
        self._environment = os.environ if environment is None else environment
        self._sparse = Sparse()
        self._undo = contextlib.ExitStack()
        self._service: CasService | None = None
        self._api: Listener | None = None
        self._enclave: Listener | None = None
        self._operator: Listener | None = None
        self._key = b""

    @property
    def service(self) -> CasService:
        """The use cases behind both ports, once started."""
        if self._service is None:
            raise RuntimeError("CAS is not started")
        return self._service

    @property
    def api_address(self) -> tuple[str, int]:
        """Host and port of the REST API, once started."""
        if self._api is None:
            raise RuntimeError("CAS is not started")
        return self._api.address

    @property
    def enclave_address(self) -> tuple[str, int]:
        """Host and port of the API for programs, once started."""
        if self._enclave is None:
            raise RuntimeError("CAS is not started")
        return self._enclave.address

    @property
    def key_sha256(self) -> str:
        """SHA-256 over the SubjectPublicKeyInfo of the server's key, 64 hex: what clients pin."""
        return hashlib.sha256(self._key).hexdigest()

    def start(self) -> None:
        """Open the store, bind both ports, serve in threads of its own.

        Raises:
            Misconfigured, Conflict, IntegrityError, StorageFailed: the store, the key provider, an
                address that is taken. Nothing is left open.
        """
        with contextlib.ExitStack() as undo:
            self._start(undo)
            self._undo = undo.pop_all()

    def stop(self) -> None:
        """Take nothing new, let open requests end within the settings' time, close the store."""
        self._log.info("CAS is stopping")
        self._undo.close()
        self._log.info("CAS has stopped")

    def __enter__(self) -> CasServer:
        self.start()
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _value: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _close(self, service: CasService) -> None:
        service.close()
        # For who keeps it: `crannog cas verify-audit-log --expect-head`.
        self._log.info(f"CAS audit log ends at {service.head}")

    def _start(self, undo: contextlib.ExitStack) -> None:
        settings = self._settings
        # Before the first secret is in memory.
        forbid_core_dumps()
        # Bound before the store is touched: a second CAS by mistake does not even open it.
        api_socket = undo.enter_context(tcp_socket(*settings.api_listen, "CAS"))
        enclave_socket = undo.enter_context(tcp_socket(*settings.enclave_listen, "CAS"))
        # Nor where the options for tokens do not fit together.
        issuer = settings.issuer
        tokens = None if issuer is None else (issuer.expected(), issuer.issuer_keys())
        service = self._open()
        undo.callback(self._close, service)
        made = service.server_identity(names=settings.names)
        identity = load_identity(made.chain_pem, made.key_pem, "CAS")
        self._key = identity.public_key()

        metrics = Metrics()
        rest = RestApi(service, log=self._log, metrics=metrics)
        enclave = EnclaveApi(
            service,
            server_context(identity, ClientCertificate.REQUIRED),
            self._key,
            enrolments=self._enrolments(service, metrics, tokens),
            limits=EnclaveLimits(settings.handshake_seconds, settings.request_seconds),
            log=self._log,
            metrics=metrics,
            now=self._now,
        )
        rest_context = server_context(identity, ClientCertificate.OPTIONAL)
        self._api = Listener(
            "cas-api",
            api_socket,
            lambda slot: self._serve_rest(slot, rest_context, rest),
            connections=settings.connections,
            failed=lambda peer, error: self._failed("api", peer, error),
        )
        self._enclave = Listener(
            "cas-enclave",
            enclave_socket,
            enclave.serve,
            connections=settings.connections,
            failed=lambda peer, error: self._failed("enclave", peer, error),
        )
        metrics.watch("api", self._api.counts)
        metrics.watch("enclave", self._enclave.counts)
        self._operator = self._operator_listener(undo, service)
        self._service = service
        for listener in (self._api, self._enclave, self._operator):
            if listener is None:
                continue
            undo.callback(listener.stop, settings.drain_seconds)
            # Both stop taking new connections before either waits for its open ones.
            undo.callback(listener.refuse_new)
            listener.start()
        self._announce(service)

    def _open(self) -> CasService:
        settings = self._settings
        directory = settings.state_directory
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StorageFailed(
                f"state directory {directory}: {(error.strerror or 'failed').lower()}",
                hint=f"it has to be a directory that user {os.geteuid()} can read and write",
            ) from error
        return CasService.open(
            directory / DATABASE,
            keys=key_provider(settings.key_provider, directory, self._environment),
            minimum_level=settings.minimum_level,
            las_keys=settings.enrolled_las_keys,
            launchers=settings.accepted_launchers,
            now=self._now,
        )

    def _enrolments(
        self, service: CasService, metrics: Metrics, tokens: tuple[Expected, IssuerKeys] | None
    ) -> EnrolmentApi:
        enroller = None
        if tokens is not None:
            expected, keys = tokens
            enroller = Enroller(service.trusted, keys, expected, log=self._log, now=self._now)
        return EnrolmentApi(
            enroller,
            minimum_level=lambda: service.minimum_level,
            count=service.count,
            log=self._log,
            metrics=metrics,
        )

    def _operator_listener(
        self, undo: contextlib.ExitStack, service: CasService
    ) -> Listener | None:
        try:
            sock = undo.enter_context(operator_socket(self._settings.state_directory))
        except (Misconfigured, OSError) as error:
            # Some volumes have no sockets. Nothing that programs or users need goes through it.
            reason = error.message if isinstance(error, Misconfigured) else str(error.strerror)
            self._log.warning(
                "CAS has no operator's socket: stop it to enrol a LAS or to accept a launcher",
                reason=reason,
            )
            return None
        return Listener(
            "cas-operator",
            sock,
            OperatorApi(service, log=self._log).serve,
            connections=4,
            failed=lambda peer, error: self._failed("operator", peer, error),
        )

    def _serve_rest(self, slot: Slot, context: SSL.Context, application: RestApi) -> None:
        stream = server_stream(context, slot.socket)
        limits = HttpLimits(
            request_seconds=self._settings.request_seconds,
            idle_seconds=self._settings.idle_seconds,
        )
        try:
            stream.handshake(Deadline.after(self._settings.handshake_seconds))
            serve_http(stream, slot, application, limits)
        finally:
            stream.close()

    def _announce(self, service: CasService) -> None:
        for what, (host, port) in (
            ("client API", self.api_address),
            ("enclave API", self.enclave_address),
        ):
            self._log.info(f"CAS {what} is listening on {host}:{port}")
        self._log.info(f"CAS server key has SHA-256 {self.key_sha256}")
        self._log.info(f"CAS key hash is {service.authority.key_hash}")
        level = service.minimum_level
        self._log.info(f"CAS audit log is at {service.head}")
        self._log.info(f"CAS minimum trust level is {level.value}")
        launchers = service.launchers()
        self._log.info(
            f"CAS takes the word of {len(service.trust().node_keys)} enrolled LASes; accepted "
            f"launchers: {'any' if launchers is None else len(launchers)}"
        )
        issuer = self._settings.issuer
        if issuer is not None:
            self._log.info(
                "CAS enrols LASes by tokens",
                issuer=issuer.issuer,
                audience=issuer.audience,
                subjects=",".join(issuer.subjects),
            )
        if level is Level.SIMULATION:
            self._log.warning(
                "CAS accepts simulated evidence: whoever can connect can get the secrets of any "
                "session whose measurement is known; for development only"
            )

    def _failed(self, port: str, peer: str, error: BaseException) -> None:
        dropped = self._sparse.take()
        if dropped is None:
            return
        if isinstance(error, Error):
            self._log.info(
                "connection failed", port=port, peer=peer, reason=error.message, dropped=dropped
            )
        else:
            # The kind only: nobody has read a foreign exception's text for secrets.
            kind = type(error).__name__
            self._log.error("connection crashed", port=port, peer=peer, kind=kind, dropped=dropped)
