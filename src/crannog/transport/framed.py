"""Frames on a stream, for servers: the next event of a sans-IO end, however the bytes come."""

from __future__ import annotations

from typing import Protocol, TypeVar

from crannog.errors import Unavailable
from crannog.transport.stream import Deadline, Stream

Event = TypeVar("Event", covariant=True)


class End(Protocol[Event]):
    """One end of an exchange, as in `crannog.exchange`."""

    def receive(self, data: bytes) -> None:
        """Bytes as they came."""

    def next_event(self) -> Event | None:
        """What they mean, or None."""


def next_event(stream: Stream, end: End[Event], deadline: Deadline) -> Event | None:
    """The peer's next message, or None where it ended the connection between messages.

    Raises:
        FormatError: hostile bytes.
        TooLarge: over a bound.
        Unavailable: too slow, or the connection was cut in the middle of a message.
    """
    received = 0
    while True:
        event = end.next_event()
        if event is not None:
            return event
        data = stream.receive(deadline)
        if not data:
            if received:
                raise Unavailable("connection was cut off in the middle of a message")
            return None
        received += len(data)
        end.receive(data)
