"""From the operator's options to whose tokens are taken: what does not fit together is said."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from crannog.cas.enrolment.issuer_keys import FetchedKeys, KeysInFile
from crannog.cas.enrolment.settings import IssuerSettings, issuer_settings
from crannog.errors import Misconfigured, chain
from crannog.testing.issuer import ISSUER, Issuer, Pod
from crannog.testing.issuer_server import ServerAuthority

SUBJECT = Pod().subject
URL = "https://kubernetes.default.svc/openid/v1/jwks"


def options(**changes: Any) -> IssuerSettings | None:
    given: dict[str, Any] = {
        "issuer": ISSUER,
        "keys": "jwks",
        "authorities": None,
        "bearer": None,
        "audience": "crannog-cas",
        "subjects": (SUBJECT,),
    }
    return issuer_settings(**(given | changes))


@contextmanager
def misconfigured(match: str) -> Iterator[None]:
    with pytest.raises(Misconfigured) as caught:
        yield
    lines = chain(caught.value)
    assert match in "; ".join(lines)
    assert len(set(lines)) == len(lines)


def made(**changes: Any) -> IssuerSettings:
    found = options(**changes)
    assert found is not None
    return found


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    path = tmp_path / "jwks"
    path.write_bytes(Issuer().key_set())
    return path


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    path.write_bytes(ServerAuthority().pem)
    return path


def test_without_options_no_token_is_taken() -> None:
    assert options(issuer=None, keys=None, subjects=()) is None


def test_an_issuer_with_keys_and_subjects_is_taken(keys: Path) -> None:
    found = made(keys=str(keys))
    assert found.expected() == (ISSUER, "crannog-cas", frozenset({SUBJECT}))
    assert isinstance(found.issuer_keys(), KeysInFile)


def test_a_url_is_not_asked_at_the_start(ca: Path) -> None:
    assert isinstance(made(keys=URL, authorities=ca).issuer_keys(), FetchedKeys)


@pytest.mark.parametrize(
    "given",
    [
        {"keys": "jwks"},
        {"authorities": Path("ca")},
        {"bearer": Path("token")},
        {"subjects": (SUBJECT,)},
    ],
)
def test_options_without_an_issuer_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(Misconfigured, match="without --las-issuer") as caught:
        options(**({"issuer": None, "keys": None, "subjects": ()} | given))
    assert "openid-configuration" in caught.value.hint


def test_an_issuer_without_keys_is_refused() -> None:
    with pytest.raises(Misconfigured, match="without --las-issuer-keys"):
        options(keys=None)


def test_an_issuer_without_a_subject_is_refused() -> None:
    with pytest.raises(Misconfigured, match="without --las-subject"):
        made(subjects=()).expected()


@pytest.mark.parametrize("subject", ["", "las", "system:serviceaccount:*:las", "system:node:a"])
def test_a_subject_that_is_none_is_refused(subject: str) -> None:
    with misconfigured("--las-subject names no service account; subject is"):
        made(subjects=(SUBJECT, subject)).expected()


@pytest.mark.parametrize("text", ["", "a\nb", "a" * 1025, "a\u202eb"])
@pytest.mark.parametrize("name", ["issuer", "audience"])
def test_an_issuer_or_audience_that_is_none_is_refused(name: str, text: str) -> None:
    with pytest.raises(Misconfigured, match=f"--las-{name} is"):
        made(**{name: text}).expected()


@pytest.mark.parametrize("data", [b"", b"{}", b'{"keys":[]}'])
def test_a_key_file_that_cannot_be_used_is_refused_at_the_start(
    tmp_path: Path, data: bytes
) -> None:
    path = tmp_path / "jwks"
    path.write_bytes(data)
    with misconfigured("--las-issuer-keys names no keys that can be used; key"):
        made(keys=str(path)).issuer_keys()


def test_a_key_file_that_is_not_there_is_refused_at_the_start(tmp_path: Path) -> None:
    with misconfigured("nothing cannot be read: no such file"):
        made(keys=str(tmp_path / "nothing")).issuer_keys()


def test_a_key_file_over_its_limit_is_refused_at_the_start(tmp_path: Path) -> None:
    path = tmp_path / "jwks"
    path.write_bytes(b" " * 300_000)
    with misconfigured("more than 262144 bytes"):
        made(keys=str(path)).issuer_keys()


@pytest.mark.parametrize("name", ["authorities", "bearer"])
def test_options_for_a_url_with_a_file_are_refused(keys: Path, name: str) -> None:
    with pytest.raises(Misconfigured, match="are for keys at a URL"):
        made(keys=str(keys), **{name: keys}).issuer_keys()


def test_a_url_without_authorities_is_refused() -> None:
    with pytest.raises(Misconfigured, match="no --las-issuer-ca is given") as caught:
        made(keys=URL).issuer_keys()
    assert "ca.crt" in caught.value.hint


def test_a_url_whose_authorities_are_not_there_is_refused(tmp_path: Path) -> None:
    with misconfigured("nothing cannot be read"):
        made(keys=URL, authorities=tmp_path / "nothing").issuer_keys()


def test_a_url_whose_authorities_are_none_is_refused_at_the_start(tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    path.write_text("nonsense")
    with misconfigured("--las-issuer-ca names no authorities; there is no certificate in PEM"):
        made(keys=URL, authorities=path).issuer_keys()


@pytest.mark.parametrize("url", ["http://a/jwks", "https://user:secret@a/jwks", "https:", "http:"])
def test_keys_that_do_not_come_by_https_are_refused(ca: Path, url: str) -> None:
    with pytest.raises(Misconfigured, match="--las-issuer-keys") as caught:
        made(keys=url, authorities=ca).issuer_keys()
    if "@" in url:
        assert "secret" not in caught.value.message
