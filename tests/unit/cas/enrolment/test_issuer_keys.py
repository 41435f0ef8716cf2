"""Where an issuer's keys come from, how old they may be, and what a CAS does without them."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from crannog.cas.enrolment import issuer_keys
from crannog.cas.enrolment.issuer_keys import (
    AGAIN_SECONDS,
    FRESH_SECONDS,
    FetchedKeys,
    KeysInFile,
    Source,
    read_file,
    read_token,
)
from crannog.cas.enrolment.key_set import MAX_BYTES, KeySet, parse_key_set
from crannog.errors import (
    Denied,
    Error,
    EvidenceUnverifiable,
    FormatError,
    Misconfigured,
    TooLarge,
    Unavailable,
    chain,
)
from crannog.testing.issuer import Issuer, ec_key
from crannog.testing.issuer_server import IssuerServer, response
from crannog.transport.https_document import parse_location


class Published:
    """An issuer whose keys are fetched, with a clock of its own."""

    def __init__(self) -> None:
        self.issuer = Issuer()
        self.fetched = 0
        self.now = 1000.0
        self.down: Error | None = None
        self.keys = FetchedKeys(self.load, clock=lambda: self.now)

    def load(self) -> KeySet:
        self.fetched += 1
        if self.down is not None:
            raise self.down
        return parse_key_set(self.issuer.key_set(), "keys")

    def known(self, kid: str | None = None) -> bool:
        try:
            self.keys.find(kid or self.issuer.key.kid)
        except Denied:
            return False
        return True

    def unavailable(self, kid: str | None = None) -> EvidenceUnverifiable:
        with pytest.raises(
            EvidenceUnverifiable, match="cannot be asked for its keys now"
        ) as caught:
            self.keys.find(kid or self.issuer.key.kid)
        return caught.value


@pytest.fixture
def published() -> Published:
    return Published()


# --- how old they may be --------------------------------------------------------------------------


def test_keys_are_fetched_once_and_kept(published: Published) -> None:
    assert published.fetched == 0
    for _ in range(5):
        assert published.known()
        published.now += FRESH_SECONDS / 6
    assert published.fetched == 1


def test_keys_are_fetched_again_when_they_are_old(published: Published) -> None:
    assert published.known()
    published.now += FRESH_SECONDS
    assert published.known()
    assert published.fetched == 2


def test_a_key_that_the_issuer_took_back_counts_no_longer_than_that(published: Published) -> None:
    old = published.issuer.key.kid
    assert published.known(old)
    published.issuer.rotate()
    published.issuer.published.pop(0)
    published.now += FRESH_SECONDS - 1
    assert published.known(old)
    published.now += 1
    assert not published.known(old)


def test_a_new_key_is_found_at_once_when_the_last_fetch_is_a_while_ago(
    published: Published,
) -> None:
    assert published.known()
    published.issuer.rotate()
    published.now += AGAIN_SECONDS
    assert published.known()
    assert published.fetched == 2


def test_a_new_key_is_found_within_half_a_minute_otherwise(published: Published) -> None:
    assert published.known()
    published.issuer.rotate()
    published.now += AGAIN_SECONDS - 1
    assert not published.known()
    published.now += 1
    assert published.known()


def test_the_old_key_still_counts_while_both_are_published(published: Published) -> None:
    old = published.issuer.key.kid
    published.issuer.rotate()
    assert published.known(old)
    assert published.known()


def test_strangers_cannot_make_the_cas_fetch_more_often(published: Published) -> None:
    assert published.known()
    for number in range(600):
        published.now += 0.1
        assert not published.known(f"made up {number}")
    assert published.fetched <= 1 + 60 / AGAIN_SECONDS


def test_who_waits_for_a_fetch_does_not_fetch_again(published: Published) -> None:
    entered, go = threading.Event(), threading.Event()

    def slow() -> KeySet:
        entered.set()
        assert go.wait(20)
        return published.load()

    keys = FetchedKeys(slow, clock=lambda: published.now)
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(keys.find(published.issuer.key.kid).algorithm))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    assert entered.wait(20)
    go.set()
    for thread in threads:
        thread.join(20)
    assert found == ["ES256"] * 4
    assert published.fetched == 1


# --- when the issuer cannot be asked --------------------------------------------------------------


def test_without_keys_nobody_is_verified(published: Published) -> None:
    published.down = Unavailable("https://10.0.0.1/keys answers with status 500", hint="a hint")
    error = published.unavailable()
    # Whoever asks is told that it may help to try again, and nothing of paths and addresses.
    assert chain(error) == ("the token's issuer cannot be asked for its keys now",)
    assert error.hint == ""
    assert error.internal == "https://10.0.0.1/keys answers with status 500; a hint"


def test_a_failed_fetch_is_not_repeated_at_once(published: Published) -> None:
    published.down = Unavailable("down")
    for _ in range(50):
        published.unavailable()
    assert published.fetched == 1
    published.down = None
    published.now += AGAIN_SECONDS - 0.1
    published.unavailable()
    published.now += 0.1
    assert published.known()
    assert published.fetched == 2


def test_known_keys_go_on_while_the_issuer_is_down(published: Published) -> None:
    assert published.known()
    published.down = Unavailable("down")
    published.now += FRESH_SECONDS - 1
    assert published.known()


def test_stale_keys_are_never_used(published: Published) -> None:
    assert published.known()
    published.down = Unavailable("down")
    for _ in range(100):
        published.now += FRESH_SECONDS
        published.unavailable()


def test_an_unknown_key_is_not_refused_for_good_while_the_issuer_is_down(
    published: Published,
) -> None:
    assert published.known()
    published.issuer.rotate()
    published.down = Unavailable("down")
    published.now += AGAIN_SECONDS
    published.unavailable()
    published.now += 1
    published.unavailable()


def test_a_broken_key_set_is_as_one_that_is_not_there(published: Published) -> None:
    published.down = FormatError("key set has no key that this CAS takes")
    assert "no key that this CAS takes" in published.unavailable().internal


def test_a_key_that_signs_no_token_is_named(published: Published) -> None:
    weak = {**ec_key().jwk(), "kid": "weak", "use": "enc"}
    document = json.dumps({"keys": [published.issuer.key.jwk(), weak]}).encode()
    keys = FetchedKeys(lambda: parse_key_set(document, "keys"))
    with pytest.raises(Denied, match="'weak' signs no token that is taken: it is not for"):
        keys.find("weak")


def test_a_key_that_nobody_publishes_is_refused(published: Published) -> None:
    with pytest.raises(Denied, match="publishes no key 'a'") as caught:
        published.keys.find("a")
    assert "another cluster" in caught.value.hint
    with pytest.raises(Denied) as caught:
        published.keys.find("b" * 256)
    assert "b" * 65 not in caught.value.message


# --- a file ---------------------------------------------------------------------------------------


def test_a_file_is_read_for_each_token(tmp_path: Path) -> None:
    path = tmp_path / "jwks"
    issuer = Issuer()
    path.write_bytes(issuer.key_set())
    keys = KeysInFile(path)
    assert keys.find(issuer.key.kid).algorithm == "ES256"
    old = issuer.key.kid
    issuer.rotate()
    issuer.published.pop(0)
    path.write_bytes(issuer.key_set())
    assert keys.find(issuer.key.kid)
    with pytest.raises(Denied):
        keys.find(old)


def _missing(path: Path) -> None:
    path.unlink()


def _emptied(path: Path) -> None:
    path.write_bytes(b"")


def _huge(path: Path) -> None:
    path.write_bytes(b" " * (MAX_BYTES + 1))


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("spoil", [_missing, _emptied, _huge, _pipe, _directory])
def test_a_file_that_cannot_be_used_refuses_everybody_for_now(
    tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    path = tmp_path / "jwks"
    issuer = Issuer()
    path.write_bytes(issuer.key_set())
    keys = KeysInFile(path)
    spoil(path)
    with pytest.raises(EvidenceUnverifiable) as caught:
        keys.find(issuer.key.kid)
    assert str(path) not in " ".join(chain(caught.value))
    assert str(path) in caught.value.internal


def test_a_file_is_read_up_to_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 10)
    assert read_file(path, 10) == b"x" * 10
    with pytest.raises(TooLarge, match="more than 9 bytes"):
        read_file(path, 9)


def test_a_link_is_followed_as_in_projected_volumes(tmp_path: Path) -> None:
    (tmp_path / "..data").mkdir()
    (tmp_path / "..data" / "token").write_text("a.b.c\n")
    (tmp_path / "token").symlink_to("..data/token")
    assert read_token(tmp_path / "token") == "a.b.c"


@pytest.mark.parametrize("data", [b"", b"\n", b"a b", b"a\nb", b"\xff", b"a\0b"])
def test_a_file_without_a_bearer_token_is_named(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "token"
    path.write_bytes(data)
    with pytest.raises(FormatError, match="does not hold a token"):
        read_token(path)


def test_a_bearer_token_that_is_too_large_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_bytes(b"a" * 16385)
    with pytest.raises(TooLarge):
        read_token(path)


# --- by HTTPS -------------------------------------------------------------------------------------


@pytest.fixture
def server() -> Iterator[IssuerServer]:
    with IssuerServer(Issuer(), bearer="one") as running:
        yield running


def source(server: IssuerServer, directory: Path) -> Source:
    (directory / "ca.pem").write_bytes(server.authority.pem)
    (directory / "bearer").write_text("one\n")
    where = parse_location(server.url, "url")
    return Source(where, directory / "ca.pem", directory / "bearer")


def test_keys_come_from_the_issuer_s_server(server: IssuerServer, tmp_path: Path) -> None:
    assert len(source(server, tmp_path).load().keys) == 1


def test_the_bearer_token_is_read_for_each_request(server: IssuerServer, tmp_path: Path) -> None:
    found = source(server, tmp_path)
    found.load()
    (tmp_path / "bearer").write_text("two")
    with pytest.raises(Unavailable, match="status 401"):
        found.load()
    server._bearer = "two"
    found.load()
    assert [one.headers["authorization"] for one in server.requests] == [
        "Bearer one",
        "Bearer two",
        "Bearer two",
    ]


def test_the_authorities_are_read_for_each_request(server: IssuerServer, tmp_path: Path) -> None:
    found = source(server, tmp_path)
    found.load()
    with IssuerServer(Issuer()) as other:
        (tmp_path / "ca.pem").write_bytes(other.authority.pem)
    with pytest.raises(Denied, match="does not chain"):
        found.load()
    (tmp_path / "ca.pem").unlink()
    with pytest.raises(Misconfigured, match=r"ca\.pem cannot be read"):
        found.load()


def test_without_a_bearer_file_none_is_shown(tmp_path: Path) -> None:
    with IssuerServer(Issuer()) as server:
        source(server, tmp_path)._replace(bearer=None).load()
        assert "authorization" not in server.requests[0].headers


@pytest.mark.parametrize("body", [b"<html>", b'{"keys":[]}', b""])
def test_what_is_no_key_set_is_refused(server: IssuerServer, tmp_path: Path, body: bytes) -> None:
    server.answer = lambda stream, deadline: stream.send(response(body), deadline)
    with pytest.raises(FormatError) as caught:
        source(server, tmp_path).load()
    assert server.url in caught.value.message


def test_a_key_set_over_its_limit_is_refused(server: IssuerServer, tmp_path: Path) -> None:
    body = response(b" " * (MAX_BYTES + 1))
    server.answer = lambda stream, deadline: stream.send(body, deadline)
    with pytest.raises(TooLarge):
        source(server, tmp_path).load()


def test_a_server_that_does_not_answer_is_left_in_time(
    server: IssuerServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert issuer_keys.FETCH_SECONDS == 10
    monkeypatch.setattr(issuer_keys, "FETCH_SECONDS", 0.3)

    def silent(*_: object) -> None:
        server.ended.wait()

    server.answer = silent
    with pytest.raises(Unavailable, match="timed out"):
        source(server, tmp_path).load()


def test_a_real_server_s_rotation_is_seen(server: IssuerServer, tmp_path: Path) -> None:
    now = [0.0]
    keys = FetchedKeys(source(server, tmp_path).load, clock=lambda: now[0])
    issuer = server._issuer
    assert keys.find(issuer.key.kid)
    issuer.rotate()
    now[0] += AGAIN_SECONDS
    assert keys.find(issuer.key.kid)
    server.stop()
    now[0] += FRESH_SECONDS
    with pytest.raises(EvidenceUnverifiable) as caught:
        keys.find(issuer.key.kid)
    assert "cannot connect to issuer" in caught.value.internal
