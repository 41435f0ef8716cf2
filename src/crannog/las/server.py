"""The LAS: TCP 18766, where all is of level simulation, and a Unix socket.

The shell around `crannog.exchange.las`: sockets, deadlines, log lines, the key file.
"""

from __future__ import annotations

import contextlib
import stat
import threading
import time
from collections.abc import Hashable, Iterator
from pathlib import Path
from types import TracebackType

from crannog.errors import Denied, Error, FormatError, Misconfigured, TooLarge, Unavailable, chain
from crannog.evidence.statement import METHOD_LAS_TCP, METHOD_LAS_UNIX
from crannog.exchange.las import Configured, LasServerEvent, Probe
from crannog.exchange.las import LasServer as LasEnd
from crannog.exchange.refusal import Refusal
from crannog.las.answers import SIMULATION, Answers, Asker, Vouching
from crannog.las.enrolling import Enroller
from crannog.las.key import KEY_FILE, load_key
from crannog.las.peer import Connected, CredentialStream, ask_for_senders
from crannog.las.quoting import OVER_TCP
from crannog.las.release import Launchers, OneLauncher, Releases, place
from crannog.las.settings import LasSettings
from crannog.las.tree import Tree
from crannog.las.vouching import Witness
from crannog.las.vouching import asker as whose_connection
from crannog.linux.process import forbid_core_dumps
from crannog.transport.framed import feed
from crannog.transport.listener import Listener, Slot, tcp_socket, unix_socket
from crannog.transport.log import Log, Sparse, server_log
from crannog.transport.pace import Pace
from crannog.transport.stream import Deadline, SocketStream

MESSAGES_PER_CONNECTION = 16
_DRAIN = 5.0


class LasServer:
    """A LAS that can be started and stopped; also a context manager.

    Args:
        settings: where it listens and keeps its key.
        log: where its lines go; standard error by default.
    """

    def __init__(self, settings: LasSettings, *, log: Log | None = None) -> None:
        if settings.listen is None and settings.socket is None:
            raise Misconfigured("LAS has neither a TCP address nor a socket to listen on")
        if settings.launcher is not None and settings.launchers is not None:
            raise Misconfigured("LAS is given one launcher and a directory of launchers as well")
        self._settings = settings
        self._log = log or server_log()
        self._sparse = Sparse()
        self._key_is_new = not (settings.state_directory / KEY_FILE).exists()
        self._key = load_key(settings.state_directory)
        self._answers: Answers
        self._lock = threading.Lock()
        self._held: dict[Hashable, Slot] = {}
        self._outside: dict[Slot, None] = {}  # in the order in which they came
        self._pace = Pace()
        self._enroller: Enroller | None = None
        self._tcp: Listener | None = None
        self._unix: Listener | None = None

    @property
    def public_key(self) -> str:
        """The 64 hex digits that name this platform."""
        return self._key.public_key().public_bytes_raw().hex()

    @property
    def address(self) -> tuple[str, int]:
        """The TCP address it listens on, once started."""
        if self._tcp is None:
            raise RuntimeError("LAS does not listen on TCP")
        return self._tcp.address

    @property
    def socket_path(self) -> Path | None:
        """The Unix socket's path, or None."""
        return self._settings.socket

    def start(self) -> None:
        """Bind, say so in the log, and serve in threads of its own.

        Raises:
            Misconfigured: an address is taken, or the socket's directory is open to others.
        """
        settings = self._settings
        forbid_core_dumps()
        if settings.listen is not None:
            self._tcp = self._listener("las-tcp", METHOD_LAS_TCP)
        if settings.socket is not None:
            try:
                self._unix = self._listener("las-unix", METHOD_LAS_UNIX)
            except Error:
                self.stop()
                raise
        self._answers = Answers(self._key, _vouching(settings, self._log), self._log)
        # Scripts take the key as field 8 of the line that holds "public".
        self._log.info(f"STARTER: Crannog LAS has public key {self.public_key}")
        if self._tcp is not None:
            self._tcp.start()
            host, port = self._tcp.address
            self._log.info(f"STARTER: LAS is listening on {host}:{port}")
        if self._unix is not None:
            self._unix.start()
            self._log.info(f"STARTER: LAS is listening on unix:{settings.socket}")
        self._say_level()
        if settings.enrolment is not None:
            self._enroller = Enroller(settings.enrolment, self._key, log=self._log)
            self._enroller.start()

    def _say_level(self) -> None:
        if self._key_is_new:
            self._log.warning(
                f"STARTER: new key {self.public_key}: each CAS that is to trust this node has to "
                f"enrol it; keep {self._settings.state_directory}, in a container as a volume"
            )
        if self._unix is None:
            self._log.warning(f"{SIMULATION}: {OVER_TCP}")
        else:
            self._answers.start()

    def stop(self) -> None:
        """Remove the socket, stop listening, let open requests end."""
        if self._enroller is not None:
            self._enroller.stop()
            self._enroller = None
        if self._unix is not None and self._settings.socket is not None:
            # First: while this one listens, no other takes the name. Afterwards it may be that of
            # the LAS that comes next, which is not ours to remove.
            with contextlib.suppress(OSError):
                self._settings.socket.unlink()
        for listener in (self._tcp, self._unix):
            if listener is not None:
                listener.stop(_DRAIN)
        self._tcp = self._unix = None

    def __enter__(self) -> LasServer:
        self.start()
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _value: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _listener(self, name: str, method: str) -> Listener:
        if method == METHOD_LAS_TCP:
            assert self._settings.listen is not None
            sock = tcp_socket(*self._settings.listen, "LAS")
        else:
            assert self._settings.socket is not None
            _check_directory(self._settings.socket.parent)
            sock = unix_socket(self._settings.socket, "LAS")
            ask_for_senders(sock)
        return Listener(
            name,
            sock,
            lambda slot: self._serve(slot, method),
            connections=self._settings.connections,
            failed=self._failed,
        )

    def _serve(self, slot: Slot, method: str) -> None:
        if method == METHOD_LAS_TCP:
            self._converse(slot, SocketStream(slot.socket), Asker(method, None))
            return
        connected = Connected(slot.socket)
        try:
            asker = Asker(method, connected)
            if connected.process is not None:
                asker.container = whose_connection(connected.process)
            stream = CredentialStream(slot.socket, connected.peer and connected.peer.pid)
            with self._alone(slot, asker.container):
                self._converse(slot, stream, asker)
        finally:
            connected.close()

    def _converse(self, slot: Slot, stream: SocketStream, asker: Asker) -> None:
        end = LasEnd()
        for _ in range(MESSAGES_PER_CONNECTION):
            if slot.draining:
                return
            deadline = Deadline.after(self._settings.request_seconds)
            try:
                while (event := end.next_event()) is None:
                    if not feed(stream, end, deadline):
                        return
            except (FormatError, TooLarge, Denied) as error:
                stream.send(end.refusal(_refusal(error)), deadline)
                raise
            with slot.busy():
                answer = self._answer(end, event, asker)
                if isinstance(stream, CredentialStream) and not end.pending and stream.quiet():
                    asker.settled = True
                stream.send(answer, deadline)

    def _answer(self, end: LasEnd, event: LasServerEvent, asker: Asker) -> bytes:
        if isinstance(event, Probe):
            return end.status(self._answers.status(asker.method))
        # Both cost a look at the container's record, which its own manifest can make a long one.
        # A bucket for each kind: who was given a statement is not kept from acknowledging.
        bucket = (asker.container, type(event))
        if asker.container is not None and not self._pace.take(bucket, time.monotonic()):
            error = Unavailable("this container asks too often")
            return end.refusal(_refusal(error, retry=True))
        if isinstance(event, Configured):
            self._answers.configured(asker)
            return end.noted()
        try:
            return end.quoted(self._answers.quote(event, asker))
        except Denied as error:
            # (A) After its configuration a process runs what it was given, not our launcher alone.
            return end.refusal(_refusal(error))

    @contextlib.contextmanager
    def _alone(self, slot: Slot, whose: Hashable) -> Iterator[None]:
        """One connection for each container: a new one of its init ends the one before it.

        Processes outside of containers have a quarter of all connections together.
        """
        with self._lock:
            if whose is None:
                self._outside[slot] = None
                full = len(self._outside) > max(1, self._settings.connections // 4)
                before = next(iter(self._outside)) if full else None
                if before is not None:
                    del self._outside[before]
            else:
                before = self._held.get(whose)
                self._held[whose] = slot
        if before is not None:
            before.cut()
        try:
            yield
        finally:
            with self._lock:
                self._outside.pop(slot, None)
                if self._held.get(whose) is slot:
                    del self._held[whose]

    def _failed(self, peer: str, error: BaseException) -> None:
        dropped = self._sparse.take()
        if dropped is None:
            return
        if isinstance(error, Unavailable | FormatError | TooLarge | Denied):
            self._log.info("connection failed", peer=peer, reason=error.message, dropped=dropped)
        else:
            kind = type(error).__name__
            self._log.error("connection crashed", peer=peer, reason=kind, dropped=dropped)


def _vouching(settings: LasSettings, log: Log) -> Vouching:
    """What this LAS can do; why not more is a reason, never an error."""
    socket_directory = None if settings.socket is None else settings.socket.parent
    try:
        launchers: Launchers
        if settings.launchers is not None:
            launchers = Releases(
                settings.launchers, socket_directory, owner=settings.owner, tell=log.info
            )
        elif settings.launcher is not None:
            launchers = OneLauncher(settings.launcher, socket_directory, owner=settings.owner)
        else:
            return Vouching(None, "no launcher directory of the node is known (--launcher)")
        socket = None if socket_directory is None else place(socket_directory)
        tree = Tree(str(settings.host_root), owner=settings.owner)
        return Vouching(Witness(launchers, socket, tree, settings.places), "")
    except Error as error:
        return Vouching(None, error.message)


def _refusal(error: Error, *, retry: bool = False) -> Refusal:
    return Refusal(error.code, chain(error), error.hint, "", retry=retry)


def _check_directory(directory: Path) -> None:
    """Refuse a directory in which others could put their own socket in place of ours."""
    try:
        directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        mode = directory.stat().st_mode
    except OSError as error:
        raise Misconfigured(
            f"LAS socket's directory {directory}: {(error.strerror or 'failed').lower()}"
        ) from error
    if mode & 0o022 and not mode & stat.S_ISVTX:
        raise Misconfigured(
            f"LAS socket's directory {directory} has mode {stat.S_IMODE(mode):04o}, "
            "expected one that only its owner can write",
            hint=f"chmod 0755 {directory}",
        )
