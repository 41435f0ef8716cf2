"""Writes the vectors of this directory; the same every time. Run: python -m vectors.las.generate.

Nothing of `crannog` is used, so that the vectors check the code and not itself.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

QUOTE: dict[str, Any] = {
    "type": "quote",
    "protocol": "crannog-las/2",
    "report_data": "04" * 64,
    "mrenclave": "03" * 32,
    "launcher": "05" * 32,
    "config_id": "s/a",
    "cas": "cas:18765",
    "foreign": "",
    "pins": {"cas_key": "", "session_hash": ""},
}
ENVELOPE = {"media_type": "application/vnd.crannog.las-statement+json", "data": "e30="}
STATUS: dict[str, Any] = {
    "type": "status",
    "public_key": "06" * 32,
    "level": "simulation",
    "method": "las/tcp",
    "reason": "",
    "version": "0.1.0",
}


def _frame(message: dict[str, Any]) -> str:
    data = json.dumps(message, sort_keys=True, separators=(",", ":")).encode()
    return (len(data).to_bytes(4, "big") + data).hex()


def _server(message: dict[str, Any], **expected: str) -> dict[str, Any]:
    return {"end": "server", "bytes": _frame(message), **expected}


def _client(asked: str, message: dict[str, Any], **expected: str) -> dict[str, Any]:
    return {"end": "client", "asked": asked, "bytes": _frame(message), **expected}


def vectors() -> dict[str, dict[str, Any]]:
    """Every vector by its file's name."""
    protocol = {"protocol": "crannog-las/2"}
    quoted = {"type": "quoted", "envelope": ENVELOPE}
    return {
        "quote": _server(QUOTE, event="QuoteRequest"),
        "configured": _server({"type": "configured", **protocol}, event="Configured"),
        "probe": _server({"type": "probe", **protocol}, event="Probe"),
        "quoted": _client("quote", quoted, event="Quoted"),
        "noted": _client("configured", {"type": "noted"}, event="Noted"),
        "status": _client("probe", STATUS, event="Status"),
        "unknown-type": _server({"type": "exec", **protocol}, error="malformed"),
        "no-type": _server(protocol, error="malformed"),
        "other-protocol": _server(
            {"type": "probe", "protocol": "crannog-las/3"}, error="malformed"
        ),
        "quote-short-report-data": _server({**QUOTE, "report_data": "00"}, error="malformed"),
        "quote-upper-case": _server({**QUOTE, "mrenclave": "AA" * 32}, error="malformed"),
        "quote-unknown-field": _server({**QUOTE, "level": "hardware"}, error="malformed"),
        "quote-pins-missing": _server(
            {name: value for name, value in QUOTE.items() if name != "pins"}, error="malformed"
        ),
        "quote-pins-unknown": _server(
            {**QUOTE, "pins": {**QUOTE["pins"], "creator": ""}}, error="malformed"
        ),
        "quote-long-pin": _server(
            {**QUOTE, "pins": {**QUOTE["pins"], "cas_key": "a" * 4097}}, error="too-large"
        ),
        "quote-pin-not-printable": _server(
            {**QUOTE, "pins": {**QUOTE["pins"], "cas_key": "\u0000"}}, error="malformed"
        ),
        "quote-long-foreign": _server({**QUOTE, "foreign": "/" * 4097}, error="too-large"),
        "quote-long-cas": _server({**QUOTE, "cas": "a" * 301}, error="too-large"),
        "answer-to-another-question": _client("probe", quoted, error="malformed"),
        "status-unknown-level": _client(
            "probe", {**STATUS, "level": "production"}, error="malformed"
        ),
        "quoted-loose-base64": _client(
            "quote", {"type": "quoted", "envelope": {**ENVELOPE, "data": "e31="}}, error="malformed"
        ),
        "frame-too-large": {"end": "server", "bytes": "00010001", "error": "too-large"},
    }


def text(vector: dict[str, Any]) -> str:
    """The file's text."""
    return json.dumps(vector, indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    for name, vector in vectors().items():
        (Path(__file__).parent / f"{name}.json").write_text(text(vector))
