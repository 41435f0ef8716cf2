"""The LAS exchange on 18766 and on the LAS socket: messages and both ends, without any I/O.

    launcher                                LAS
      quote(report data, …)   ->
                              <-   quoted(envelope) | refusal
      configured              ->                              then no further evidence for it
                              <-   noted
    anyone
      probe                   ->
                              <-   status

A connection may carry several of these, one after the other. Format: docs/formats/las.md.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from crannog.errors import FormatError
from crannog.evidence.envelope import Envelope, envelope_message, parse_envelope
from crannog.evidence.subject import Pins, parse_pins, pins_message
from crannog.exchange import limits
from crannog.exchange.refusal import Refusal, parse_refusal, refusal_message
from crannog.levels import Level, parse_level
from crannog.wire import Fields, FrameBuffer, Json, encode_json, frame, parse_object

PROTOCOL = "crannog-las/2"

MAX_PATH = 4096
"""Characters of a path in a request."""


class QuoteRequest(NamedTuple):
    """What the launcher wants vouched for; see `crannog.evidence.claims.Claims`.

    Attributes:
        foreign: the first path it measured that is not on the container's root mount, "" for none.
            Such a program is the volume's owner's, not the image's: level simulation.
        pins: as the launcher was told.
    """

    report_data: bytes
    mrenclave: bytes
    launcher: bytes
    config_id: str
    cas: str
    foreign: str = ""
    pins: Pins = Pins()


class Configured(NamedTuple):
    """The launcher got its configuration; the LAS gives that process no further evidence."""


class Probe(NamedTuple):
    """Somebody asks what this LAS is."""


class Quoted(NamedTuple):
    """The LAS's word."""

    envelope: Envelope


class Noted(NamedTuple):
    """The answer to `Configured`: from now on no evidence."""


class Status(NamedTuple):
    """What a LAS is.

    Attributes:
        public_key: Ed25519, 32 bytes; its 64 hex are the platform's name.
        level: the most that its statements claim.
        method: how it knows what it states for this connection.
        reason: why the level is not higher.
        version: the software's.
    """

    public_key: bytes
    level: Level
    method: str
    reason: str
    version: str


LasServerEvent: TypeAlias = QuoteRequest | Configured | Probe
LasClientEvent: TypeAlias = Quoted | Noted | Status | Refusal


class LasClient:
    """The launcher's end, and the probe's. One question is open at a time."""

    def __init__(self) -> None:
        self._buffer = FrameBuffer(limit=limits.LAS_FRAME)
        self._waiting = ""

    def quote(self, request: QuoteRequest) -> bytes:
        """The frame that asks for evidence."""
        return self._ask(
            "quoted",
            {
                "type": "quote",
                "protocol": PROTOCOL,
                "report_data": request.report_data.hex(),
                "mrenclave": request.mrenclave.hex(),
                "launcher": request.launcher.hex(),
                "config_id": request.config_id,
                "cas": request.cas,
                "foreign": request.foreign,
                "pins": pins_message(request.pins),
            },
        )

    def configured(self) -> bytes:
        """The frame that gives up any further evidence."""
        return self._ask("noted", {"type": "configured", "protocol": PROTOCOL})

    def probe(self) -> bytes:
        """The frame that asks what the LAS is."""
        return self._ask("status", {"type": "probe", "protocol": PROTOCOL})

    def receive(self, data: bytes) -> None:
        """Bytes as they came from the LAS."""
        self._buffer.receive(data)

    def next_event(self) -> LasClientEvent | None:
        """The answer, or None until more bytes come; `FormatError`, `TooLarge`."""
        payload = self._buffer.next_frame()
        if payload is None:
            return None
        message = parse_object(payload, limit=limits.LAS_FRAME, what="message")
        kind = message.get("type")
        if not self._waiting or kind not in (self._waiting, "refusal"):
            expected = self._waiting or "nothing"
            raise FormatError(f"LAS sent {str(kind)[:40]!r}, expected {expected}")
        self._waiting = ""
        fields = Fields(message, str(kind))
        event: LasClientEvent
        match kind:
            case "refusal":
                return parse_refusal(message)
            case "quoted":
                event = Quoted(parse_envelope(fields.object("envelope")))
            case "noted":
                event = Noted()
            case _:
                event = Status(
                    public_key=fields.hex("public_key", 32),
                    level=parse_level(fields.text("level", limit=40)),
                    method=_printable(fields.text("method", limit=200)),
                    reason=_printable(fields.text("reason", limit=2000)),
                    version=_printable(fields.text("version", limit=100)),
                )
        fields.constant("type", str(kind))
        fields.end()
        return event

    def _ask(self, answer: str, message: dict[str, Json]) -> bytes:
        if self._waiting:
            raise RuntimeError(f"a question is open: {self._waiting} is expected")
        self._waiting = answer
        return frame(encode_json(message), limit=limits.LAS_FRAME)


class LasServer:
    """The LAS's end; every event is answered before the next is taken."""

    def __init__(self) -> None:
        self._buffer = FrameBuffer(limit=limits.LAS_FRAME)
        self._open = ""

    @property
    def pending(self) -> int:
        """How many bytes wait for the rest of their message."""
        return self._buffer.pending

    def receive(self, data: bytes) -> None:
        """Bytes as they came from the peer."""
        self._buffer.receive(data)

    def next_event(self) -> LasServerEvent | None:
        """What the peer wants, or None until more bytes come; `FormatError`, `TooLarge`."""
        if self._open:
            raise RuntimeError(f"the peer's {self._open} was not answered")
        payload = self._buffer.next_frame()
        if payload is None:
            return None
        message = parse_object(payload, limit=limits.LAS_FRAME, what="message")
        kind = message.get("type")
        if kind not in ("quote", "configured", "probe"):
            raise FormatError(
                f"message of type {str(kind)[:40]!r}, expected quote, configured or probe"
            )
        fields = Fields(message, str(kind))
        fields.constant("type", str(kind))
        fields.constant("protocol", PROTOCOL)
        event: LasServerEvent
        match kind:
            case "quote":
                event = QuoteRequest(
                    report_data=fields.hex("report_data", 64),
                    mrenclave=fields.hex("mrenclave", 32),
                    launcher=fields.hex("launcher", 32),
                    config_id=fields.text("config_id", limit=limits.CONFIG_ID),
                    cas=fields.text("cas", limit=300),
                    foreign=fields.text("foreign", limit=MAX_PATH),
                    pins=parse_pins(fields.object("pins")),
                )
            case "configured":
                event = Configured()
            case _:
                event = Probe()
        fields.end()
        self._open = str(kind)
        return event

    def quoted(self, envelope: Envelope) -> bytes:
        """The answer to `QuoteRequest`."""
        return self._answer("quote", {"type": "quoted", "envelope": envelope_message(envelope)})

    def noted(self) -> bytes:
        """The answer to `Configured`."""
        return self._answer("configured", {"type": "noted"})

    def status(self, status: Status) -> bytes:
        """The answer to `Probe`."""
        return self._answer(
            "probe",
            {
                "type": "status",
                "public_key": status.public_key.hex(),
                "level": status.level.value,
                "method": status.method,
                "reason": status.reason,
                "version": status.version,
            },
        )

    def refusal(self, refusal: Refusal) -> bytes:
        """The answer to anything, hostile bytes included."""
        self._open = ""
        return frame(encode_json(refusal_message(refusal)), limit=limits.LAS_FRAME)

    def _answer(self, question: str, message: dict[str, Json]) -> bytes:
        if self._open != question:
            raise RuntimeError(f"answer to {question}, but {self._open or 'nothing'} is open")
        self._open = ""
        return frame(encode_json(message), limit=limits.LAS_FRAME)


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)
