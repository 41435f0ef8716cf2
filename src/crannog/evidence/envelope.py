"""The typed envelope that evidence travels in: a media type and bytes nobody has looked at yet.

Decides size and spelling only. What the bytes mean is the verifier's question
(`crannog.evidence.verify`), found by media type. Format: docs/formats/evidence.md.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from crannog.errors import FormatError
from crannog.wire import Fields, Json, encode_base64

MAX_DATA = 32 * 1024
"""Bytes of one envelope. A TDX quote with its certificates has about 8 KiB."""

MAX_ENVELOPES = 4
"""Envelopes in one message: a TEE's own, and a LAS's beside it."""

_MEDIA_TYPE = re.compile(r"[a-z]+/[a-z0-9][a-z0-9.+_-]{0,99}\Z")


class Envelope(NamedTuple):
    """Evidence as it came: `media_type` says which verifier may look at `data`."""

    media_type: str
    data: bytes


def envelope_message(envelope: Envelope) -> dict[str, Json]:
    """The JSON object of `envelope`; our own oversized one is our bug, hence `ValueError`."""
    if len(envelope.data) > MAX_DATA or not _MEDIA_TYPE.match(envelope.media_type):
        raise ValueError(f"not an envelope: {envelope.media_type!r}, {len(envelope.data)} bytes")
    return {"media_type": envelope.media_type, "data": encode_base64(envelope.data)}


def parse_envelope(value: Json) -> Envelope:
    """The envelope of that JSON value; raises `FormatError` or `TooLarge`."""
    if not isinstance(value, dict):
        raise FormatError("envelope is not an object")
    fields = Fields(value, "envelope")
    media_type = fields.text("media_type", limit=120)
    if not _MEDIA_TYPE.match(media_type):
        raise FormatError(
            f"envelope: media_type is {media_type[:40]!r}, expected a lower-case media type"
        )
    data = fields.data("data", limit=MAX_DATA)
    fields.end()
    return Envelope(media_type, data)
