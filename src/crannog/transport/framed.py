"""From a stream into one end of an exchange, for servers."""

from __future__ import annotations

from typing import Protocol

from crannog.errors import Unavailable
from crannog.transport.stream import Deadline, Stream


class End(Protocol):
    """One end of an exchange, as in `crannog.exchange`."""

    def receive(self, data: bytes) -> None:
        """Bytes as they came."""

    @property
    def pending(self) -> int:
        """How many bytes wait for the rest of their message."""


def feed(stream: Stream, end: End, deadline: Deadline) -> bool:
    """Give `end` some more bytes; False where the peer ended properly between messages.

    Raises:
        Unavailable: too slow, or cut off in the middle of a message.
    """
    data = stream.receive(deadline)
    if data:
        end.receive(data)
        return True
    if end.pending:
        raise Unavailable("connection was cut off in the middle of a message")
    return False
