"""Writes the vectors of this directory; the same every time.

Run: python -m vectors.attestation.generate. Nothing of `crannog` is used, so that the vectors check
the code and not itself: the messages are encoded here a second time, from
docs/formats/attestation.md.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

NONCE = bytes(range(32))
CONFIG_ID = "ns~session/service"
HELLO: dict[str, Any] = {
    "type": "hello",
    "protocol": "crannog-attestation/1",
    "config_id": CONFIG_ID,
}
CHALLENGE: dict[str, Any] = {"type": "challenge", "nonce": NONCE.hex()}
EVIDENCE: dict[str, Any] = {
    "type": "evidence",
    "envelopes": [{"media_type": "application/vnd.crannog.las-statement+json", "data": "e30="}],
    "launcher": "05" * 32,
    "otp": None,
    "service_access_token": "token",
}
CONFIGURATION: dict[str, Any] = {
    "type": "configuration",
    "argv": ["python3", "/app/server.py"],
    "environment": [["GREETING", "h\u00e4llo"]],
    "pwd": "/",
    "files": [{"path": "/tmp/key.pem", "content": "AP8=", "mode": 0o600}],
    "fspf": {"path": "/fspf.pb", "key": "06" * 32, "tag": "07" * 16},
    "session_hash": "08" * 32,
    "level": "simulation",
    "mrenclave": "03" * 32,
}
REFUSAL: dict[str, Any] = {
    "type": "refusal",
    "code": "not-found",
    "messages": ["outer", "inner"],
    "hint": "a hint",
    "request_id": "0123456789abcdef",
    "retry": False,
}


def _frame(**fields: Any) -> str:
    data = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    return (len(data).to_bytes(4, "big") + data).hex()


def _hello(**changes: Any) -> dict[str, Any]:
    return {**HELLO, **changes}


def vectors() -> dict[str, dict[str, Any]]:
    """Every vector by its file's name."""
    made = {
        str(message["type"]): _frame(**message)
        for message in (HELLO, CHALLENGE, EVIDENCE, CONFIGURATION, REFUSAL)
    }
    hello = {"event": "hello", "fields": {"config_id": CONFIG_ID}}
    challenged: list[dict[str, Any]] = [
        {"receive": made["hello"]},
        hello,
        {"send": "challenge", "nonce": NONCE.hex(), "bytes": made["challenge"]},
    ]
    asked: list[dict[str, Any]] = [
        {"send": "hello", "config_id": CONFIG_ID, "bytes": made["hello"]}
    ]
    answered = [
        *asked,
        {"receive": made["challenge"]},
        {"event": "challenge", "fields": {"nonce": NONCE.hex()}},
        {"send": "evidence", "bytes": made["evidence"]},
    ]

    def server(*steps: dict[str, Any]) -> dict[str, Any]:
        return {"end": "server", "steps": list(steps)}

    def client(*steps: dict[str, Any]) -> dict[str, Any]:
        return {"end": "client", "steps": list(steps)}

    def bad_hello(code: str, data: str) -> dict[str, Any]:
        return server({"receive": data}, {"error": code})

    def bad_configuration(code: str, **changes: Any) -> dict[str, Any]:
        return client(
            *answered, {"receive": _frame(**{**CONFIGURATION, **changes})}, {"error": code}
        )

    malformed = "malformed"
    return {
        "server-whole": server(
            *challenged, {"receive": made["evidence"]}, {"event": "evidence", "fields": {}}
        ),
        "server-in-pieces": server(
            {"receive": made["hello"][:6]},
            {"none": True},
            {"receive": made["hello"][6:40]},
            {"none": True},
            {"receive": made["hello"][40:]},
            hello,
        ),
        "client-whole": client(
            *answered,
            {"receive": made["configuration"]},
            {"event": "configuration", "fields": {}},
        ),
        "client-refused": client(
            *answered,
            {"receive": made["refusal"]},
            {"event": "refusal", "fields": {"code": "not-found"}},
        ),
        "client-refused-at-once": client(
            *asked,
            {"receive": made["refusal"]},
            {"event": "refusal", "fields": {"code": "not-found"}},
        ),
        "hello-other-protocol": bad_hello(
            malformed, _frame(**_hello(protocol="crannog-attestation/2"))
        ),
        "hello-unknown-field": bad_hello(malformed, _frame(**_hello(zz=1))),
        "hello-without-id": bad_hello(
            malformed, _frame(type="hello", protocol="crannog-attestation/1")
        ),
        "hello-long-id": bad_hello("too-large", _frame(**_hello(config_id="a" * 1025))),
        "hello-not-json": bad_hello(malformed, "0000000568656c6c6f"),
        "hello-not-an-object": bad_hello(malformed, "000000025b5d"),
        "hello-empty-frame": bad_hello(malformed, "00000000"),
        "frame-too-large": bad_hello("too-large", "00010001"),
        "evidence-first": bad_hello(malformed, made["evidence"]),
        "evidence-with-hello": bad_hello(malformed, made["hello"] + made["evidence"]),
        "hello-twice": server(*challenged, {"receive": made["hello"]}, {"error": malformed}),
        "evidence-twice": server(
            *challenged, {"receive": made["evidence"] * 2}, {"error": malformed}
        ),
        "evidence-again": server(
            *challenged,
            {"receive": made["evidence"]},
            {"event": "evidence", "fields": {}},
            {"receive": made["evidence"]},
            {"error": malformed},
        ),
        "configuration-first": client(
            *asked, {"receive": made["configuration"]}, {"error": malformed}
        ),
        "challenge-short": client(
            *asked, {"receive": _frame(type="challenge", nonce="00" * 31)}, {"error": malformed}
        ),
        "challenge-again": client(*answered, {"receive": made["challenge"]}, {"error": malformed}),
        "configuration-no-argv": bad_configuration(malformed, argv=[]),
        "configuration-nul": bad_configuration(malformed, argv=["a\0b"]),
        "configuration-variable-twice": bad_configuration(
            malformed, environment=[["A", ""], ["A", ""]]
        ),
        "configuration-relative-file": bad_configuration(
            malformed, files=[{"path": "a", "content": "", "mode": 0}]
        ),
        "configuration-parent-file": bad_configuration(
            malformed, files=[{"path": "/a/../b", "content": "", "mode": 0}]
        ),
        "configuration-set-user-id": bad_configuration(
            malformed, files=[{"path": "/a", "content": "", "mode": 0o4755}]
        ),
        "configuration-long-string": bad_configuration("too-large", argv=["a" * 131072]),
        "configuration-loose-base64": bad_configuration(
            malformed, files=[{"path": "/a", "content": "AB==", "mode": 0}]
        ),
    }


def text(vector: dict[str, Any]) -> str:
    """The file's text."""
    return json.dumps(vector, indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    for name, vector in vectors().items():
        (Path(__file__).parent / f"{name}.json").write_text(text(vector))
