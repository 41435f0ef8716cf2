"""One connection with an absolute deadline: TLS 1.3 or a plain socket, the same three verbs.

Sockets are non-blocking underneath, so that a deadline holds for a whole operation however many
bytes trickle in, and a shutdown by another thread ends any wait at once. A peer that is slow,
gone or speaks nonsense is `Unavailable` with a line that says which.
"""

from __future__ import annotations

import os
import select
import socket
import time
from typing import NamedTuple, Protocol

from OpenSSL import SSL, crypto

from crannog.errors import Unavailable
from crannog.evidence.report import EXPORTER_LABEL, EXPORTER_SIZE

READ = 64 * 1024


class TimedOut(Unavailable):
    """The peer did not do its part in time."""

    code = "timed-out"


class Deadline(NamedTuple):
    """A moment of the monotonic clock, in seconds."""

    at: float

    @staticmethod
    def after(seconds: float) -> Deadline:
        """The moment that many seconds from now."""
        return Deadline(time.monotonic() + seconds)

    def left(self) -> float:
        """Seconds until then, never below 0."""
        return max(0.0, self.at - time.monotonic())


class Stream(Protocol):
    """What servers and clients need of a connection."""

    def receive(self, deadline: Deadline) -> bytes:
        """Some bytes, or b"" when the peer ended properly."""

    def send(self, data: bytes, deadline: Deadline) -> None:
        """All of `data`."""

    def close(self) -> None:
        """End it, at any time, more than once."""


def _wait(sock: socket.socket, event: int, deadline: Deadline, doing: str) -> None:
    poller = select.poll()
    poller.register(sock, event)
    if not poller.poll(deadline.left() * 1000):
        raise TimedOut(f"timed out while {doing}")


class SocketStream:
    """A connection without TLS: the LAS's."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = sock

    @property
    def socket(self) -> socket.socket:
        """The socket underneath, for peer credentials."""
        return self._socket

    def receive(self, deadline: Deadline) -> bytes:
        """Some bytes, or b"" at the end."""
        while True:
            try:
                return self._socket.recv(READ)
            except (BlockingIOError, InterruptedError):
                _wait(self._socket, select.POLLIN, deadline, "waiting for the peer's message")
            except OSError as error:
                raise Unavailable(f"connection was cut off: {error.strerror}") from error

    def send(self, data: bytes, deadline: Deadline) -> None:
        """All of `data`."""
        view = memoryview(data)
        while view:
            try:
                view = view[self._socket.send(view) :]
            except (BlockingIOError, InterruptedError):
                _wait(self._socket, select.POLLOUT, deadline, "sending")
            except OSError as error:
                raise Unavailable(f"connection was cut off: {error.strerror}") from error

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


class TlsStream:
    """A TLS 1.3 connection of either role."""

    def __init__(self, connection: SSL.Connection, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._connection = connection
        self._socket = sock
        self._established = False

    def handshake(self, deadline: Deadline) -> None:
        """Complete the handshake; refuses a resumed one, which would not bind the evidence."""
        while True:
            try:
                self._connection.do_handshake()
                break
            except SSL.WantReadError:
                _wait(self._socket, select.POLLIN, deadline, "waiting for the TLS handshake")
            except SSL.WantWriteError:
                _wait(self._socket, select.POLLOUT, deadline, "sending the TLS handshake")
            except SSL.Error as error:
                raise _failed("TLS handshake failed", error) from error
            except OSError as error:
                raise Unavailable(f"TLS handshake failed: {error.strerror}") from error
        self._established = True

    def receive(self, deadline: Deadline) -> bytes:
        """Some bytes, or b"" after the peer's close notification; a cut connection is an error."""
        while True:
            try:
                return self._connection.recv(READ)
            except SSL.ZeroReturnError:
                return b""
            except SSL.WantReadError:
                _wait(self._socket, select.POLLIN, deadline, "waiting for the peer's message")
            except SSL.WantWriteError:
                _wait(self._socket, select.POLLOUT, deadline, "sending")
            except SSL.Error as error:
                raise _failed("connection was cut off", error) from error
            except OSError as error:
                raise Unavailable(f"connection was cut off: {error.strerror}") from error

    def send(self, data: bytes, deadline: Deadline) -> None:
        """All of `data`."""
        # A record holds 16 KiB; slices keep a retry from copying megabytes again.
        view = memoryview(data)
        while view:
            try:
                view = view[self._connection.send(view[:READ]) :]
            except SSL.WantWriteError:
                _wait(self._socket, select.POLLOUT, deadline, "sending")
            except SSL.WantReadError:
                _wait(self._socket, select.POLLIN, deadline, "waiting for the peer's message")
            except SSL.Error as error:
                raise _failed("connection was cut off", error) from error
            except OSError as error:
                raise Unavailable(f"connection was cut off: {error.strerror}") from error

    def finish(self) -> None:
        """Tell the peer that nothing follows; what it still sends can be read."""
        if self._established:
            try:
                self._connection.shutdown()
            except (SSL.Error, OSError):
                return  # it is gone already

    def close(self) -> None:
        """End both directions and close the socket."""
        self.finish()
        self._socket.close()

    def exporter(self) -> bytes:
        """RFC 8446 section 7.5 keying material for the report data, 32 bytes."""
        return self._connection.export_keying_material(EXPORTER_LABEL, EXPORTER_SIZE, None)

    def peer_certificate(self) -> bytes | None:
        """The peer's certificate, DER, or None; the handshake proved possession of its key."""
        certificate = self._connection.get_peer_certificate()
        return None if certificate is None else _der(certificate)

    def peer_chain(self) -> tuple[bytes, ...]:
        """The certificates that the peer sent, DER, leaf first."""
        return tuple(_der(one) for one in self._connection.get_peer_cert_chain() or ())

    def peer_key(self) -> bytes | None:
        """The DER of the peer's SubjectPublicKeyInfo, or None where it showed no certificate.

        Raises:
            FormatError: a certificate or a kind of key that OpenSSL takes and we do not know.
        """
        certificate = self.peer_certificate()
        if certificate is None:
            return None
        from crannog.pki.identity import parse_certificate, spki_der

        return spki_der(parse_certificate(certificate, what="the peer's certificate").public_key())


def _der(certificate: crypto.X509) -> bytes:
    # Not through `cryptography`, whose parser refuses some that OpenSSL has taken.
    return crypto.dump_certificate(crypto.FILETYPE_ASN1, certificate)


def _failed(what: str, error: SSL.Error) -> Unavailable:
    reason = "unexpected end"
    if error.args and isinstance(error.args[0], list) and error.args[0]:
        reason = str(error.args[0][0][-1]) or reason
    elif isinstance(error, SSL.SysCallError) and len(error.args) > 1:
        number = error.args[0]
        reason = os.strerror(number).lower() if number > 0 else str(error.args[1]).lower()
    return Unavailable(f"{what}: {reason}")
