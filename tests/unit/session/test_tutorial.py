"""The tutorial's own four documents, as its shell would write them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from crannog.session.canonical import render, session_hash
from crannog.session.document import Session
from crannog.session.load import load_session
from crannog.session.template import references

SEED = Path(__file__).parents[4] / "shared" / "seed" / "000_6bd035c960a1b5fc.txt"
VARIABLES = {
    "NS": "HelloWorld-17-4711",
    "MRENCLAVE": "9f" * 32,
    "SCONE_FSPF": "/fspf.pb",
    "SCONE_FSPF_KEY": "5e" * 32,
    "SCONE_FSPF_TAG": "7a" * 16,
}


def document(name: str) -> Session:
    """What `cat > NAME <<EOF` writes: variables replaced, `\\$` and `` \\` `` taken literally."""
    if not SEED.exists():
        pytest.skip("the tutorial's text is not beside the repository (../shared/seed)")
    here = re.search(
        rf"^cat > {re.escape(name)} << ?EOF\n(.*?)^EOF$", SEED.read_text(), re.M | re.S
    )
    assert here is not None
    text = re.sub(
        r"\\([$`\\])|\$([A-Za-z_]\w*)",
        lambda match: match[1] or VARIABLES[match[2]],
        here[1],
    )
    loaded = load_session(text.encode())
    assert session_hash(load_session(render(loaded.session).encode()).session) == session_hash(
        loaded.session
    )
    return loaded.session


def test_namespace() -> None:
    session = document("namespace.yaml")
    assert (session.name, session.version) == ("HelloWorld-17-4711", "0.1")


def test_hello_world() -> None:
    (app,) = document("session.yaml").services
    assert app.command == ("python3", "/app/server.py")
    assert app.environment == (("GREETING", "hello from SCONE!!!"),)
    assert app.mrenclaves == ("9f" * 32,)


def test_tls() -> None:
    session = document("session-tls-certs.yaml")
    assert session.name == "HelloWorld-17-4711~hello-k8s-scone-tls-certs"
    image = session.image_of(session.services[0])
    assert image is not None
    assert [file.path for file in image.injection_files] == ["/app/cert.pem", "/app/key.pem"]
    suffixes = [references(file.content or "")[0].suffix for file in image.injection_files]
    assert suffixes == [".crt", ".key"]


def test_encrypted_source() -> None:
    fspf = document("session-tls.yaml").services[0].fspf
    assert fspf is not None
    assert (fspf.path, fspf.key, fspf.tag) == ("/fspf.pb", "5e" * 32, "7a" * 16)
