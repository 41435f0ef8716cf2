"""Opening a TLS 1.3 connection to a server that may have to be a pinned one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crannog.errors import Unavailable
from crannog.transport.address import Address, is_numeric
from crannog.transport.connect import connect
from crannog.transport.names import Resolve
from crannog.transport.stream import Deadline, TlsStream
from crannog.transport.tls import Pin, check_server, client_stream, now_utc

if TYPE_CHECKING:
    from OpenSSL import SSL


def open_tls(
    address: Address,
    context: SSL.Context,
    pin: Pin | None,
    deadline: Deadline,
    *,
    what: str,
    hint: str,
    resolve: Resolve,
) -> TlsStream:
    """A connection after its handshake, to the pinned server where there is a pin.

    Nothing but the handshake was sent.

    Args:
        address: where.
        context: the client's, with its certificate or without.
        pin: what is known of the server; None accepts any key.
        deadline: for all of it.
        what: names the server in errors.
        hint: for who meets something that does not speak TLS.
        resolve: from the address's name to numbers.

    Raises:
        Unavailable: not reached, or no TLS was spoken.
        Denied: not the pinned server.
    """
    sock = connect(address, deadline, what, resolve)
    name = None if is_numeric(address.host) else address.host
    try:
        stream = client_stream(context, sock, name)
    except BaseException:
        sock.close()
        raise
    try:
        try:
            stream.handshake(deadline)
        except Unavailable as error:
            raise Unavailable(
                f"failed to establish an encrypted channel to {what} at {address}", hint=hint
            ) from error
        if pin is not None:
            check_server(stream, pin, what=f"{what} at {address}", now=now_utc())
    except BaseException:
        stream.close()
        raise
    return stream
