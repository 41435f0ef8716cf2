"""The report data: what evidence has to contain so that it is about *this* connection.

Both TLS keys, the nonce, the exporter, the role and the configuration id go in. The TLS 1.3
exporter does not cover the client's certificate, hence the keys; it is the belt. Every part has its
length before it, so that no two different lists of parts give the same bytes.
Format: docs/formats/evidence.md, "report data".
"""

from __future__ import annotations

import hashlib
import struct
from typing import NamedTuple

REPORT_LABEL = b"crannog report v1"
ROLE_SERVICE = b"service"
EXPORTER_LABEL = b"EXPORTER-crannog-attestation"
NONCE_SIZE = 32
EXPORTER_SIZE = 32


class Channel(NamedTuple):
    """One TLS 1.3 connection as both of its ends see it.

    Attributes:
        exporter: 32 bytes of RFC 8446 7.5 keying material, label `EXPORTER-crannog-attestation`,
            no context.
        client_key: the client's SubjectPublicKeyInfo, DER.
        server_key: the server's SubjectPublicKeyInfo, DER.
    """

    exporter: bytes
    client_key: bytes
    server_key: bytes


def report_data(*, role: bytes, nonce: bytes, channel: Channel, config_id: str) -> bytes:
    """The 64 bytes that evidence for this connection, nonce and configuration id has to contain."""
    if len(nonce) != NONCE_SIZE or len(channel.exporter) != EXPORTER_SIZE:
        raise ValueError("nonce and exporter have 32 bytes each")
    parts = (
        REPORT_LABEL,
        role,
        nonce,
        channel.exporter,
        channel.client_key,
        channel.server_key,
        config_id.encode("utf-8"),
    )
    digest = hashlib.sha512()
    for part in parts:
        digest.update(struct.pack(">I", len(part)) + part)
    return digest.digest()
