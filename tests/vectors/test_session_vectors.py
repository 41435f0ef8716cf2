"""Every file under vectors/session, and that the generator still writes exactly those."""

from __future__ import annotations

import hashlib
import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from crannog.errors import FormatError
from crannog.session import access
from crannog.session.canonical import canonical, render, session_hash
from crannog.session.command import split_command
from crannog.session.load import load_session, load_stored
from crannog.session.problems import SessionInvalid
from crannog.session.template import Reference, tokenize

ROOT = Path(__file__).parents[2] / "vectors" / "session"


def _files(folder: str) -> list[Any]:
    found = sorted((ROOT / folder).glob("*.json"))
    assert found, f"no vectors in {folder}"
    return [pytest.param(json.loads(path.read_text()), id=path.stem) for path in found]


@pytest.mark.parametrize("vector", _files("valid"))
def test_valid(vector: dict[str, Any]) -> None:
    loaded = load_session(vector["document"].encode())
    assert canonical(loaded.session).decode() == vector["canonical"]
    assert session_hash(loaded.session) == vector["hash"]
    assert hashlib.sha256(vector["canonical"].encode()).hexdigest() == vector["hash"]
    assert [warning.path for warning in loaded.warnings] == vector["warnings"]
    again = load_stored(render(loaded.session).encode()).session
    assert session_hash(again) == vector["hash"]


@pytest.mark.parametrize("vector", _files("invalid"))
def test_invalid(vector: dict[str, Any]) -> None:
    with pytest.raises(SessionInvalid) as caught:
        load_session(vector["document"].encode())
    found = [{"path": p.path, "line": p.line} for p in caught.value.problems]
    assert found == vector["problems"]
    yet = any("not supported yet" in problem.message for problem in caught.value.problems)
    assert ("not-supported-yet" if yet else caught.value.code) == vector["outcome"]


@pytest.mark.parametrize("vector", _files("template"))
def test_template(vector: dict[str, Any]) -> None:
    if vector["outcome"] != "valid":
        with pytest.raises(FormatError) as caught:
            list(tokenize(vector["text"]))
        assert caught.value.code == vector["outcome"]
        return
    found = [
        {"name": token.name, "suffix": token.suffix} if isinstance(token, Reference) else token
        for token in tokenize(vector["text"])
    ]
    assert found == vector["tokens"]


@pytest.mark.parametrize("vector", _files("command"))
def test_command(vector: dict[str, Any]) -> None:
    quotes = vector["version"] == "0.3"
    assert list(split_command(vector["text"], quotes=quotes)) == vector["arguments"]


@pytest.mark.parametrize("vector", _files("access"))
def test_identities(vector: dict[str, Any]) -> None:
    who = access.requester(access.certificate_der(access.parse_certificate(vector["certificate"])))
    assert who.pem == vector["certificate"]
    assert who.pem_sha256 == vector["pem_sha256"]
    assert who.pem_sha256 == hashlib.sha256(vector["certificate"].encode()).hexdigest()
    assert who.spki.hex() == vector["spki"]
    assert who.key_hash == vector["key_hash"]


def test_documents_that_mean_the_same_have_one_hash() -> None:
    def of(name: str) -> str:
        return str(json.loads((ROOT / "valid" / f"{name}.json").read_text())["hash"])

    assert of("environment-order") == of("environment-order-2")
    assert of("mrenclaves-0.3") == of("attestation-map") == of("mrenclave-twice")
    assert of("secret-x509-valid-for") == of("secret-x509-valid-for-2")
    assert of("secret-ascii-default") == of("secret-ascii-size")
    assert of("predecessor") == of("predecessor-upper")
    assert of("predecessor") != of("predecessor-null")


def test_the_generator_writes_these_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = runpy.run_path(str(ROOT / "generate.py"))
    monkeypatch.setitem(script["main"].__globals__, "HERE", tmp_path)
    script["main"]()
    written = {p.relative_to(tmp_path): p.read_bytes() for p in tmp_path.rglob("*.json")}
    assert written == {p.relative_to(ROOT): p.read_bytes() for p in ROOT.rglob("*.json")}
