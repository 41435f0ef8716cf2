"""Who may do what: denied by default, whole certificates in 0.2, keys in 0.3."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest

from crannog.errors import AlreadyExists, Conflict, Denied, FormatError, NotFound
from crannog.session import access
from crannog.session.canonical import render, session_hash
from crannog.session.document import Certificate, Session
from crannog.session.load import load_session
from tests.unit.session.certificates import client
from tests.unit.session.documents import M, load

ALICE, BOB = client(1), client(2)
ALICE_RENEWED = client(1, serial=2)


def session(version: str, policy: str, *, creator: access.Requester | None = ALICE) -> Session:
    """A session with the access policy `policy`, uploaded by `creator`."""
    loaded = load(f'name: s\nversion: "{version}"\naccess_policy: {{{policy}}}\n')
    return access.with_creator(loaded, creator, None) if creator else loaded


def entry(who: access.Requester) -> str:
    return '"' + who.pem.replace("\n", "\\n") + '"'


@pytest.mark.parametrize("version", ["0.1", "0.2", "0.3"])
def test_only_the_creator_by_default(version: str) -> None:
    stored = access.with_creator(load(f'name: s\nversion: "{version}"\n'), ALICE, None)
    assert access.may_read(stored, ALICE)
    assert access.may_update(stored, ALICE)
    assert access.may_create_sessions(stored, ALICE)
    for stranger in (BOB, None):
        assert not access.may_read(stored, stranger)
        assert not access.may_update(stored, stranger)
        assert not access.may_create_sessions(stored, stranger)


def test_without_a_recorded_creator_nobody_is_it() -> None:
    assert not access.may_read(session("0.2", "read: CREATOR", creator=None), ALICE)


def test_0_2_wants_the_same_certificate() -> None:
    stored = session("0.2", "read: CREATOR")
    assert not access.may_read(stored, ALICE_RENEWED)


def test_0_3_wants_the_same_key() -> None:
    stored = session("0.3", "read: CREATOR")
    assert access.may_read(stored, ALICE_RENEWED)
    assert not access.may_read(stored, BOB)


def test_any_lets_a_client_without_certificate_in() -> None:
    stored = session("0.3", "read: ANY")
    assert access.may_read(stored, None)
    assert not access.may_update(stored, None)


def test_none_keeps_the_creator_out() -> None:
    stored = session("0.3", "update: NONE")
    assert not access.may_update(stored, ALICE)
    assert access.may_read(stored, ALICE)


def test_a_certificate_as_an_entry() -> None:
    old = session("0.2", f"read: [CREATOR, {entry(BOB)}]")
    assert access.may_read(old, BOB)
    assert not access.may_update(old, BOB)
    assert not access.may_read(old, client(2, serial=2))
    new = session("0.3", f"read: [{entry(BOB)}]")
    assert access.may_read(new, client(2, serial=2))
    assert not access.may_read(new, ALICE)


def test_a_hash_of_a_pem_file_as_an_entry_of_0_2() -> None:
    stored = session("0.2", f"read: [{BOB.pem_sha256.upper()}], update: NONE")
    assert access.may_read(stored, BOB)
    assert not access.may_read(stored, ALICE)


def test_a_key_hash_as_an_entry_of_0_3() -> None:
    stored = session("0.3", f"read: [{BOB.key_hash}]")
    assert access.may_read(stored, BOB)
    assert access.may_read(stored, client(2, serial=7))
    assert not access.may_read(stored, ALICE)


def test_the_hash_of_a_pem_file_is_what_sha256sum_prints(tmp_path: Path) -> None:
    file = tmp_path / "client.crt"
    file.write_text(BOB.pem)
    printed = subprocess.run(
        ["sha256sum", str(file)], check=True, capture_output=True, text=True
    ).stdout
    assert printed.split()[0] == BOB.pem_sha256


def test_a_certificate_of_openssl_is_in_the_same_form(tmp_path: Path) -> None:
    """The tutorial's own command; RSA-4096 takes seconds, so 2048 here."""
    file = tmp_path / "client.crt"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-sha256"]
    command += ["-out", str(file), "-keyout", str(tmp_path / "key"), "-subj", "/CN=a"]
    subprocess.run(command, check=True, capture_output=True)
    parsed = access.parse_certificate(file.read_text())
    assert parsed.pem == file.read_text()
    who = access.requester(access.certificate_der(parsed))
    assert who.pem_sha256 == hashlib.sha256(file.read_bytes()).hexdigest()


def test_key_hashes_have_the_published_form() -> None:
    """50 characters of Base58 that begin with 2 or 3, as the samples of the reference do."""
    found = BOB.key_hash
    assert len(found) == 50
    assert found[0] in "23"
    assert access.parse_key_hash(found).text == found


def test_a_published_key_hash_decodes() -> None:
    with pytest.raises(FormatError, match="checksum"):
        access.parse_key_hash("3s1pm8W6Be6c" + "1" * 38)


@pytest.mark.parametrize("text", ["", "0" * 50, "l" * 50, "1" * 50, "z" * 60])
def test_texts_that_are_no_key_hash(text: str) -> None:
    with pytest.raises(FormatError):
        access.parse_key_hash(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        "-----BEGIN CERTIFICATE-----\nA\n-----END CERTIFICATE-----\n",
        "text\n" + ALICE.pem,
        ALICE.pem + BOB.pem,
        ALICE.pem.replace("CERTIFICATE", "PUBLIC KEY"),
    ],
)
def test_texts_that_are_not_one_certificate(text: str) -> None:
    with pytest.raises(FormatError):
        access.parse_certificate(text)


def test_pem_is_brought_into_one_form() -> None:
    ugly = "\r\n" + ALICE.pem.replace("\n", "\r\n  ")
    assert access.parse_certificate(ugly) == Certificate(ALICE.pem)


def test_data_after_a_certificate_is_refused() -> None:
    with pytest.raises(FormatError):
        access.requester(ALICE.certificate + b"\0")


def test_a_token_is_wanted_only_where_the_session_has_one() -> None:
    free = load('name: s\nversion: "0.3"\n')
    guarded = load('name: s\nversion: "0.3"\nsecurity: {service_access_token: tökén}\n')
    assert access.token_matches(free, None)
    assert access.token_matches(guarded, "tökén")
    for wrong in (None, "", "token", "tökén "):
        assert not access.token_matches(guarded, wrong)


def test_a_token_with_a_lone_surrogate_is_only_wrong() -> None:
    guarded = load('name: s\nversion: "0.3"\nsecurity: {service_access_token: t}\n')
    assert not access.token_matches(guarded, "\udc80")


# --- creator --------------------------------------------------------------------------------------


def test_the_uploader_becomes_the_creator() -> None:
    assert session("0.2", "read: CREATOR").creator == Certificate(ALICE.pem)


def test_no_creator_is_kept_where_no_list_needs_it() -> None:
    assert session("0.3", "read: ANY, update: NONE").creator is None


def test_the_creator_is_part_of_the_hash() -> None:
    loaded = load('name: s\nversion: "0.2"\n')
    one = access.with_creator(loaded, ALICE, None)
    other = access.with_creator(loaded, BOB, None)
    assert session_hash(one) != session_hash(other)


def test_a_document_cannot_name_somebody_else_as_its_creator() -> None:
    loaded = load(f'name: s\nversion: "0.3"\ncreator: {entry(ALICE)}\n')
    with pytest.raises(Denied, match="creator is neither"):
        access.with_creator(loaded, BOB, None)


def test_what_was_read_back_can_be_posted_again_by_its_creator() -> None:
    stored = session("0.2", "read: CREATOR")
    text = render(stored).replace("predecessor: null", f"predecessor: {session_hash(stored)}")
    update = access.with_creator(load_session(text.encode()).session, ALICE, stored)
    assert update.creator == stored.creator


def test_what_was_read_back_can_be_posted_again_by_another_who_may_update() -> None:
    stored = session("0.3", f"update: [CREATOR, {entry(BOB)}]")
    text = render(stored)
    update = access.with_creator(load_session(text.encode()).session, BOB, stored)
    assert update.creator == Certificate(ALICE.pem)


def test_an_update_by_another_does_not_lock_the_creator_out() -> None:
    stored = session("0.3", f"update: [CREATOR, {entry(BOB)}]")
    update = access.with_creator(load('name: s\nversion: "0.3"\n'), BOB, stored)
    assert access.may_update(update, ALICE)
    assert not access.may_update(update, BOB)


def test_a_renewed_certificate_of_the_same_key_may_post_what_it_read_in_0_3() -> None:
    stored = session("0.3", "")
    update = access.with_creator(
        load_session(render(stored).encode()).session, ALICE_RENEWED, stored
    )
    assert update.creator == stored.creator


def test_an_update_may_hand_the_session_over_to_its_uploader() -> None:
    stored = session("0.3", f"update: [CREATOR, {entry(BOB)}]")
    update = access.with_creator(
        load(f'name: s\nversion: "0.3"\ncreator: {entry(BOB)}\n'), BOB, stored
    )
    assert access.may_update(update, BOB)
    assert not access.may_update(update, ALICE)


# --- predecessor ----------------------------------------------------------------------------------


def test_a_first_version_needs_no_predecessor() -> None:
    access.check_predecessor(load("name: s\npredecessor: ~\n"), None)


def test_a_name_that_is_taken_needs_a_predecessor() -> None:
    with pytest.raises(AlreadyExists) as caught:
        access.check_predecessor(load("name: s\n"), M)
    assert caught.value.message == "Session already exists, please specify predecessor hash"


def test_a_predecessor_of_nothing_is_not_found() -> None:
    with pytest.raises(NotFound, match="Session not found"):
        access.check_predecessor(load(f"name: s\npredecessor: {M}\n"), None)


def test_a_stale_predecessor_is_a_conflict() -> None:
    with pytest.raises(Conflict):
        access.check_predecessor(load(f"name: s\npredecessor: {M}\n"), "cd" * 32)


def test_the_newest_hash_is_accepted() -> None:
    access.check_predecessor(load(f"name: s\npredecessor: {M}\n"), M)
