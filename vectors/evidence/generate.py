"""Writes the vectors of this directory; the same every time.

Run: python -m vectors.evidence.generate. Nothing of `crannog` is used, so that the vectors check
the code and not itself: the format is encoded here a second time, from docs/formats/evidence.md.
"""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

MEDIA_TYPE = "application/vnd.crannog.las-statement+json"
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
PUBLIC = KEY.public_key().public_bytes_raw().hex()
BASE: dict[str, Any] = {
    "type": "statement/2",
    "level": "simulation",
    "method": "launcher",
    "mrenclave": "03" * 32,
    "report_data": "04" * 64,
    "launcher": "05" * 32,
    "config_id": "ns~session/service",
    "cas": "cas:18765",
    "issued_at": 1_800_000_000,
    "reason": "",
    "pins": {"cas_key": "", "session_hash": ""},
    "container": None,
}
CONTAINER: dict[str, Any] = {
    "engine": "docker",
    "id": "0a" * 32,
    "name": "hello",
    "image": "localhost:5000/hello:0.1",
    "image_id": "sha256:" + "0b" * 32,
    "namespace": "",
    "pod": "",
    "hooks": ["prestart /usr/bin/dockerd"],
}


def canonical(value: Any) -> bytes:
    """Canonical JSON: sorted keys, no spaces, UTF-8."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def lengths(*parts: bytes) -> bytes:
    """Each part with its length as a 32-bit big-endian number before it."""
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def b64(data: bytes) -> str:
    """Padded base64."""
    return base64.b64encode(data).decode()


def signed(payload: bytes, key: Ed25519PrivateKey = KEY) -> dict[str, Any]:
    """`payload`, whatever it is, with a signature that fits."""
    made = lengths(b"crannog statement v1", MEDIA_TYPE.encode(), payload)
    return {
        "payload": b64(payload),
        "public_key": key.public_key().public_bytes_raw().hex(),
        "signature": key.sign(made).hex(),
    }


def _report(
    role: str = "service",
    config_id: str = "s/a",
    client_key: bytes = b"client spki",
    server_key: bytes = b"server spki",
) -> dict[str, Any]:
    nonce, exporter = bytes([2]) * 32, bytes([1]) * 32
    parts = (b"crannog report v1", role.encode(), nonce, exporter)
    data = lengths(*parts, client_key, server_key, config_id.encode())
    return {
        "kind": "report-data",
        "role": role,
        "config_id": config_id,
        "nonce": nonce.hex(),
        "exporter": exporter.hex(),
        "client_key": client_key.hex(),
        "server_key": server_key.hex(),
        "report_data": hashlib.sha512(data).hexdigest(),
    }


def _good(
    claimed: str, expected: str, *, enrolled: bool, method: str = "las/witness", **changes: Any
) -> dict[str, Any]:
    return {
        "kind": "statement",
        "envelope": _envelope(
            canonical(signed(canonical({**BASE, "level": claimed, "method": method, **changes})))
        ),
        "enrolled": [PUBLIC] if enrolled else [],
        "level": expected,
        "signer": PUBLIC,
        "mrenclave": BASE["mrenclave"],
    }


def _bad(error: str, data: bytes, media_type: str = MEDIA_TYPE) -> dict[str, Any]:
    return {
        "kind": "refused",
        "envelope": _envelope(data, media_type),
        "enrolled": [PUBLIC],
        "error": error,
    }


def _envelope(data: bytes, media_type: str = MEDIA_TYPE) -> dict[str, str]:
    return {"media_type": media_type, "data": b64(data)}


def _changed(**changes: Any) -> bytes:
    return canonical({**signed(canonical(BASE)), **changes})


def _signed(payload: bytes) -> bytes:
    return canonical(signed(payload))


def vectors() -> dict[str, dict[str, Any]]:
    """Every vector by its file's name."""
    payload = canonical(BASE)
    return {
        "report-data": _report(),
        "report-data-shifted": _report(client_key=b"client spk", server_key=b"iserver spki"),
        "report-data-role": _report(role="las"),
        "report-data-utf-8": _report(config_id="näme/ü"),
        "level-unknown-key": _good("node", "simulation", enrolled=False),
        "level-enrolled-simulation": _good("simulation", "simulation", enrolled=True),
        "level-enrolled-node": _good("node", "node", enrolled=True),
        "level-enrolled-hardware": _good("hardware", "node", enrolled=True),
        "level-enrolled-tcp": _good("node", "simulation", enrolled=True, method="las/tcp"),
        "level-enrolled-unix": _good("node", "simulation", enrolled=True, method="las/unix"),
        "level-enrolled-container": _good(
            "node",
            "node",
            enrolled=True,
            container=CONTAINER,
            pins={"cas_key": "0c" * 32, "session_hash": "0d" * 32},
        ),
        "container-unknown-field": _bad(
            "malformed", _signed(canonical({**BASE, "container": {**CONTAINER, "zz": ""}}))
        ),
        "container-without-id": _bad(
            "malformed", _signed(canonical({**BASE, "container": {"engine": "docker"}}))
        ),
        "pins-missing": _bad(
            "malformed",
            _signed(canonical({name: BASE[name] for name in BASE if name != "pins"})),
        ),
        "pins-not-printable": _bad(
            "malformed", _signed(canonical({**BASE, "pins": {**BASE["pins"], "cas_key": "a\tb"}}))
        ),
        "pins-certificate": _good(
            "node",
            "node",
            enrolled=True,
            pins={"cas_key": "-----BEGIN CERTIFICATE-----\nAAAA\n", "session_hash": ""},
        ),
        "reason-long": _bad("too-large", _signed(canonical({**BASE, "reason": "r" * 1001}))),
        "wrong-key": _bad(
            "not-authentic", _changed(public_key=OTHER.public_key().public_bytes_raw().hex())
        ),
        "wrong-signature": _bad("not-authentic", _changed(signature="00" * 64)),
        "wrong-payload": _bad(
            "not-authentic",
            _changed(payload=b64(payload.replace(b"simulation", b"node"))),
        ),
        "no-label": _bad("not-authentic", _changed(signature=KEY.sign(payload).hex())),
        "not-canonical": _bad("malformed", _signed(payload.replace(b",", b", "))),
        "unknown-field": _bad("malformed", _signed(payload[:-1] + b',"zz":1}')),
        "key-twice": _bad("malformed", _signed(payload[:-1] + b',"type":"statement/2"}')),
        "another-type": _bad("malformed", _signed(payload.replace(b"statement/2", b"statement/1"))),
        "unknown-level": _bad("malformed", _signed(payload.replace(b"simulation", b"production"))),
        "short-measurement": _bad("malformed", _signed(payload.replace(b"03" * 32, b"03" * 31))),
        "upper-case-hex": _bad("malformed", _changed(public_key=PUBLIC.upper())),
        "unknown-media-type": _bad("malformed", b"{}", "application/x-unknown"),
        "empty": _bad("malformed", b""),
    }


def text(vector: dict[str, Any]) -> str:
    """The file's text."""
    return json.dumps(vector, indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    for name, vector in vectors().items():
        (Path(__file__).parent / f"{name}.json").write_text(text(vector))
