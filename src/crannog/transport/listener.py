"""A bounded listener: a thread per connection, a ceiling on them, and a stop that drains.

Decides who gets a thread and for how long at most; what is said on a connection is the handler's.
Everything a peer can do wrong ends in an `Error`, is counted, and closes its connection. When the
ceiling is reached, the connection that has kept us waiting longest makes room, so that idle or
slow peers cannot keep others out; where none has for long, the next one waits to be accepted.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import stat
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

from crannog.errors import Error, Misconfigured
from crannog.transport.stream import Deadline

BACKLOG = 512
PATIENCE_SECONDS = 1.0
"""How long a peer may keep us waiting before it makes room for another, when there is none."""

DELIVERY_SECONDS = 4.0
"""How much longer it may take to read what we send."""

_CUT_SECONDS = 2.0


class Slot:
    """One accepted connection, as the listener sees it."""

    def __init__(self, sock: socket.socket, peer: str, stopping: threading.Event) -> None:
        self.socket = sock
        self.peer = peer
        self.is_cut = False
        self._stopping = stopping
        self._waiting_since: float | None = time.monotonic()
        self._delivering = False

    @property
    def delivering(self) -> bool:
        """Whether an answer is on its way: a stop lets it arrive."""
        return self._delivering

    @property
    def waiting_since(self) -> float | None:
        """Since when we wait for the peer (monotonic seconds), or None while we work for it."""
        return self._waiting_since

    @property
    def draining(self) -> bool:
        """Whether the listener stops: finish what is begun, take nothing new."""
        return self._stopping.is_set()

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        """While this lasts the connection is not taken for an idle one."""
        self._waiting_since = None
        try:
            yield
        finally:
            self._waiting_since = time.monotonic()

    @contextlib.contextmanager
    def delivery(self) -> Iterator[None]:
        """Within `busy`, while an answer is sent: who does not read it makes room in the end."""
        before = self._waiting_since
        self._delivering, self._waiting_since = True, time.monotonic() + DELIVERY_SECONDS
        try:
            yield
        finally:
            self._delivering, self._waiting_since = False, before

    def cut(self) -> None:
        """End every wait on this connection, from any thread."""
        self.is_cut = True
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)


Handler: TypeAlias = Callable[[Slot], None]
FailureHook: TypeAlias = Callable[[str, BaseException], None]


class Listener:
    """Accepts on one socket until `stop`.

    Args:
        name: names its threads.
        sock: a bound socket; `tcp_socket` or `unix_socket` makes one.
        handler: called in the connection's own thread; closes nothing, raises `Error` at will.
        connections: the ceiling.
        failed: told the peer and what went wrong; foreign exceptions are our bugs.
    """

    def __init__(
        self,
        name: str,
        sock: socket.socket,
        handler: Handler,
        *,
        connections: int,
        failed: FailureHook,
    ) -> None:
        self._name = name
        self._socket = sock
        self._handler = handler
        self._limit = connections
        self._failed = failed
        self._stopping = threading.Event()
        self._change = threading.Condition()
        self._slots: set[Slot] = set()
        self._counts: Counter[str] = Counter()
        self._bound = _bound_address(sock)
        self._wake_read, self._wake_write = os.pipe()
        self._thread: threading.Thread | None = None

    @property
    def address(self) -> tuple[str, int]:
        """The host and port that it is bound to; for TCP only."""
        return self._bound

    def counts(self) -> dict[str, int]:
        """How often: `accepted`, `failed`, `evicted`; and `open` now."""
        with self._change:
            return {**self._counts, "open": len(self._slots)}

    def start(self) -> None:
        """Begin to accept."""
        self._socket.listen(BACKLOG)
        self._socket.setblocking(False)
        self._thread = threading.Thread(
            target=self._accept, name=f"{self._name}-accept", daemon=True
        )
        self._thread.start()

    def refuse_new(self) -> None:
        """Accept no more; what is open goes on. The first half of `stop`."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        os.write(self._wake_write, b"x")
        if self._thread is not None:
            self._thread.join()
        self._socket.close()

    def stop(self, drain_seconds: float) -> None:
        """Accept no more, end idle connections, wait for busy ones that long, then cut them."""
        self.refuse_new()
        os.close(self._wake_read)
        os.close(self._wake_write)
        drained = Deadline.after(drain_seconds)
        # A thread that is in a long call ends with the process; nobody waits for it for ever.
        given_up = Deadline.after(drain_seconds + _CUT_SECONDS)
        with self._change:
            while self._slots and given_up.left():
                for slot in self._slots:
                    idle = slot.waiting_since is not None and not slot.delivering
                    if idle or not drained.left():
                        slot.cut()
                # Woken by each connection that ends; the bound finds those that went idle since.
                self._change.wait(0.05)

    def _accept(self) -> None:
        poller = select.poll()
        poller.register(self._socket, select.POLLIN)
        poller.register(self._wake_read, select.POLLIN)
        while not self._stopping.is_set():
            poller.poll()
            while not self._stopping.is_set():
                try:
                    sock, peer = self._socket.accept()
                except (BlockingIOError, ConnectionAbortedError, InterruptedError):
                    break
                except OSError:
                    # Out of descriptors or memory: what is open has deadlines and will make room.
                    self._count("exhausted")
                    self._stopping.wait(0.1)
                    break
                self._admit(sock, _peer_name(peer))

    def _admit(self, sock: socket.socket, peer: str) -> None:
        if sock.family != socket.AF_UNIX:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        slot = Slot(sock, peer, self._stopping)
        with self._change:
            while len(self._slots) >= self._limit and not self._stopping.is_set():
                self._evict()
                self._change.wait(0.1)
            self._slots.add(slot)
            self._counts["accepted"] += 1
        try:
            threading.Thread(
                target=self._run, args=(slot,), name=f"{self._name}-{peer}", daemon=True
            ).start()
        except RuntimeError:  # no thread to be had
            self._count("exhausted")
            self._release(slot)

    def _evict(self) -> None:
        # Honest peers answer within this; under load they must not push one another out.
        latest = time.monotonic() - PATIENCE_SECONDS
        victim: Slot | None = None
        for slot in self._slots:
            since = slot.waiting_since
            if since is not None and since <= latest and not slot.is_cut:
                victim, latest = slot, since
        if victim is not None:
            self._counts["evicted"] += 1
            victim.cut()

    def _run(self, slot: Slot) -> None:
        try:
            self._handler(slot)
        except Error as error:
            self._count("failed")
            self._failed(slot.peer, error)
        except Exception as error:  # noqa: BLE001  # the last line: one connection, not the server
            self._count("crashed")
            self._failed(slot.peer, error)
        finally:
            self._release(slot)

    def _release(self, slot: Slot) -> None:
        with contextlib.suppress(OSError):
            slot.socket.close()
        with self._change:
            self._slots.discard(slot)
            self._change.notify_all()

    def _count(self, what: str) -> None:
        with self._change:
            self._counts[what] += 1


def tcp_socket(host: str, port: int, what: str) -> socket.socket:
    """A TCP socket bound to `host` and `port`; `what` names the service in errors.

    Raises:
        Misconfigured: the address is taken, foreign or not allowed.
    """
    if not host.isprintable():
        raise Misconfigured(f"{what} cannot listen on {host!r}: not an address")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
        # A second listener on the port is refused here, not later: a REUSEADDR bind may pass.
        sock.listen(BACKLOG)
    except (OSError, UnicodeError) as error:
        sock.close()
        reason = getattr(error, "strerror", None) or "not an address"
        raise Misconfigured(
            f"{what} cannot listen on {host}:{port}: {reason.lower()}",
            hint=f"see who listens there: ss -ltnp 'sport = :{port}'",
        ) from error
    return sock


def unix_socket(path: Path, what: str) -> socket.socket:
    """A Unix stream socket at `path`, mode 0666; a dead one left there is replaced.

    Raises:
        Misconfigured: somebody listens there, something else is there, or the directory is wrong.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISSOCK(path.lstat().st_mode):
                raise Misconfigured(f"{what} cannot listen on {path}: it is not a socket")
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                try:
                    probe.connect(str(path))
                except ConnectionRefusedError:
                    path.unlink()
                else:
                    raise Misconfigured(f"{what} cannot listen on {path}: somebody listens there")
        sock.bind(str(path))
        path.chmod(0o666)
        sock.listen(BACKLOG)
    except Error:
        sock.close()
        raise
    except OSError as error:
        sock.close()
        reason = (error.strerror or str(error)).lower()
        raise Misconfigured(
            f"{what} cannot listen on {path}: {reason}",
            hint="the directory has to exist and be writable, the path at most 107 bytes long",
        ) from error
    return sock


def _bound_address(sock: socket.socket) -> tuple[str, int]:
    match sock.getsockname():
        case (str(host), int(port), *_):
            return host, port
    return "", 0


def _peer_name(peer: object) -> str:
    match peer:
        case (str(host), int(port), *_):
            return f"{host}:{port}"
    return "local"
