from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from crannog.cas.audit import export_audit_log, verify_audit_log
from crannog.cas.keys import FileKey
from crannog.cas.service import CasService, PublicValue
from crannog.errors import (
    AlreadyExists,
    Conflict,
    Denied,
    Error,
    EvidenceRejected,
    FormatError,
    IntegrityError,
    Misconfigured,
    NotFound,
    TooLarge,
    Unauthenticated,
    chain,
    hints,
)
from crannog.evidence.claims import Claims
from crannog.exchange.configuration import Configuration
from crannog.levels import Level
from crannog.session.problems import SessionInvalid
from tests.unit.cas.support import ALICE, BOB, MRENCLAVE, NOW, OTHER, claims, service, session

NAMESPACE = (
    b"name: HelloWorld-1-2\n\naccess_policy:\n  read:\n   - CREATOR\n  update:\n   - CREATOR\n"
)
BOTH = "access_policy: {read: [ANY], update: [ANY]}"


@pytest.fixture
def cas(tmp_path: Path) -> Iterator[CasService]:
    opened = service(tmp_path)
    yield opened
    opened.close()


def attest(cas: CasService, evidence: Claims | None = None, **changes: str | None) -> Configuration:
    found = evidence or claims()
    return cas.configure(
        found.config_id,
        found,
        otp=changes.get("otp"),
        service_access_token=changes.get("token"),
        peer="127.0.0.1:1",
        request_id="r1",
    )


def log(directory: Path) -> list[dict[str, object]]:
    keys = FileKey(directory / "master.key")
    return [json.loads(line) for line in export_audit_log(directory / "cas.db", keys=keys)]


# --- creating and updating ------------------------------------------------------------------------


def test_a_session_is_created_and_read_back_with_its_hash(cas: CasService) -> None:
    created = cas.create_session(session(), ALICE)
    assert len(created.hash) == 64
    text, found = cas.read_session("hello", None, ALICE)
    assert found == created.hash
    assert cas.read_session("hello", created.hash, ALICE) == (text, found)
    assert "GREETING: hello" in text


def test_the_tutorials_namespace_document_is_a_session(cas: CasService) -> None:
    cas.create_session(NAMESPACE, ALICE)
    assert cas.read_session("HelloWorld-1-2", None, ALICE)


def test_what_was_read_back_updates_to_itself(cas: CasService) -> None:
    first = cas.create_session(session(), ALICE)
    text, _ = cas.read_session("hello", None, ALICE)
    again = text.replace("predecessor: null", f"predecessor: {first.hash}")
    second = cas.create_session(again.encode(), ALICE)
    assert second.hash != first.hash
    assert cas.read_session("hello", first.hash, ALICE)[1] == first.hash
    assert cas.read_session("hello", None, ALICE)[1] == second.hash


def test_warnings_are_given_back(cas: CasService) -> None:
    document = session(environment="A: $$SCONE::A$$", secrets="  - {name: A, kind: ascii}")
    assert any("interpreter" in warning for warning in cas.create_session(document, ALICE).warnings)


def test_without_a_certificate_nothing_is_created(cas: CasService) -> None:
    with pytest.raises(Unauthenticated, match="client certificate"):
        cas.create_session(session(), None)


def test_garbage_for_a_certificate_is_refused(cas: CasService) -> None:
    with pytest.raises(FormatError, match="certificate"):
        cas.create_session(session(), b"garbage")


def test_an_invalid_session_is_refused_with_all_its_problems(cas: CasService) -> None:
    with pytest.raises(SessionInvalid) as caught:
        cas.create_session(b'name: x y\nversion: "0.2"\nservics: []\n', ALICE)
    assert len(caught.value.problems) == 2


def test_a_name_that_is_taken_is_refused_with_the_references_text(cas: CasService) -> None:
    cas.create_session(session(), ALICE)
    for who in (ALICE, BOB):
        with pytest.raises(AlreadyExists) as caught:
            cas.create_session(session(), who)
        assert caught.value.message == "Session already exists, please specify predecessor hash"
        assert caught.value.hint


def test_a_predecessor_of_nothing_is_not_found(cas: CasService) -> None:
    with pytest.raises(NotFound, match="Session not found"):
        cas.create_session(session(predecessor="0" * 64), ALICE)


def test_a_stale_predecessor_is_a_conflict(cas: CasService) -> None:
    first = cas.create_session(session(), ALICE).hash
    cas.create_session(session(predecessor=first), ALICE)
    with pytest.raises(Conflict):
        cas.create_session(session(predecessor=first, environment="A: b"), ALICE)


def test_a_stranger_may_not_update_and_learns_nothing_by_guessing(cas: CasService) -> None:
    first = cas.create_session(session(), ALICE).hash
    for predecessor in (first, "0" * 64):
        with pytest.raises(Denied, match="may not be updated"):
            cas.create_session(session(predecessor=predecessor), BOB)


def test_two_updates_at_once(cas: CasService) -> None:
    current = cas.create_session(session(), ALICE).hash
    for round_ in range(5):
        start = threading.Barrier(4)
        won: list[str] = []
        lost: list[Error] = []

        def update(
            number: int,
            current: str = current,
            start: threading.Barrier = start,
            won: list[str] = won,
            lost: list[Error] = lost,
            round_: int = round_,
        ) -> None:
            document = session(predecessor=current, environment=f"V: r{round_}n{number}")
            start.wait()
            try:
                won.append(cas.create_session(document, ALICE).hash)
            except Conflict as error:
                lost.append(error)

        threads = [threading.Thread(target=update, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (len(won), len(lost)) == (1, 3)
        current = won[0]


def test_a_session_that_no_program_could_be_given_is_refused_at_once(cas: CasService) -> None:
    document = session(
        environment="V: $$SCONE::B$$", secrets="  - {name: B, kind: binary, value: ff}"
    )
    with pytest.raises(Error, match="malformed UTF-8"):
        cas.create_session(document, ALICE)
    with pytest.raises(NotFound):
        cas.read_session("hello", None, ALICE)


# --- reading --------------------------------------------------------------------------------------


def test_a_stranger_may_not_read(cas: CasService) -> None:
    cas.create_session(session(), ALICE)
    with pytest.raises(Denied, match="may not be read"):
        cas.read_session("hello", None, BOB)


def test_without_a_certificate_only_public_sessions_are_read(cas: CasService) -> None:
    cas.create_session(session(), ALICE)
    with pytest.raises(Unauthenticated):
        cas.read_session("hello", None, None)
    cas.create_session(session("open", more=BOTH), ALICE)
    assert cas.read_session("open", None, None)


def test_an_unknown_session_or_hash_is_not_found(cas: CasService) -> None:
    one = cas.create_session(session(), ALICE).hash
    cas.create_session(session("other"), ALICE)
    for name, wanted in (("none", None), ("hello", "0" * 64), ("other", one)):
        with pytest.raises(NotFound, match=r"^Session not found"):
            cas.read_session(name, wanted, ALICE)


def test_an_update_that_opens_a_session_does_not_hand_out_its_past(cas: CasService) -> None:
    first = cas.create_session(session(environment="V: old"), ALICE).hash
    cas.create_session(session(predecessor=first, more=BOTH), ALICE)
    assert cas.read_session("hello", None, BOB)
    with pytest.raises(Denied):
        cas.read_session("hello", first, BOB)


def test_an_update_that_closes_a_session_closes_its_past(cas: CasService) -> None:
    first = cas.create_session(session(more=BOTH), ALICE).hash
    closed = "access_policy: {read: [NONE], update: [NONE]}"
    cas.create_session(session(predecessor=first, more=closed), BOB)
    with pytest.raises(Denied):
        cas.read_session("hello", first, BOB)


def test_generated_values_are_not_in_what_is_read(cas: CasService) -> None:
    cas.create_session(
        session(environment="V: $$SCONE::A$$", secrets="  - {name: A, kind: ascii}"), ALICE
    )
    value = dict(attest(cas).environment)["V"]
    assert value not in cas.read_session("hello", None, ALICE)[0]


def test_public_values_need_no_certificate(cas: CasService) -> None:
    cas.create_session(
        session(
            secrets='  - {name: A, kind: ascii, value: "42", export_public: true}\n'
            "  - {name: B, kind: binary, value: 00ff, export_public: true}\n"
            "  - {name: K, kind: private-key}\n"
            "  - {name: C, kind: x509, private_key: K, export_public: true}\n"
            "  - {name: H, kind: ascii}"
        ),
        ALICE,
    )
    found = cas.public_values("hello")
    assert set(found) == {"A", "B", "C"}
    assert found["A"] == PublicValue("string", "42")
    assert found["B"] == PublicValue("binary", "00ff")
    assert found["C"].value.startswith("-----BEGIN CERTIFICATE-----")
    assert cas.public_values("hello", "A") == {"A": PublicValue("string", "42")}


@pytest.mark.parametrize(("name", "secret"), [("hello", "H"), ("hello", "none"), ("none", "A")])
def test_a_value_that_is_not_public_does_not_exist(cas: CasService, name: str, secret: str) -> None:
    cas.create_session(session(secrets="  - {name: H, kind: ascii}"), ALICE)
    with pytest.raises(NotFound) as caught:
        cas.public_values(name, secret)
    outer, inner = chain(caught.value)
    assert outer == (
        f"Failed to read value '{secret}' of '/session={name}' requested by a public client"
    )
    assert inner.startswith(("Secret does not exist or is not visible", "Session not found"))


# --- attesting ------------------------------------------------------------------------------------


def test_an_attested_service_gets_its_configuration(cas: CasService) -> None:
    created = cas.create_session(session(environment="GREETING: hello from SCONE!!!"), ALICE)
    found = attest(cas)
    assert found.argv == ("python3", "/app/server.py")
    assert dict(found.environment)["GREETING"] == "hello from SCONE!!!"
    assert found.session_hash == created.hash
    assert found.level is Level.SIMULATION
    assert found.mrenclave.hex() == MRENCLAVE


def test_the_newest_version_is_what_a_service_gets(cas: CasService) -> None:
    first = cas.create_session(session(environment="V: old"), ALICE).hash
    assert dict(attest(cas).environment)["V"] == "old"
    cas.create_session(session(predecessor=first, environment="V: new"), ALICE)
    assert dict(attest(cas).environment)["V"] == "new"


def test_generated_secrets_stay_the_same_from_start_to_start(tmp_path: Path) -> None:
    document = session(environment="V: $$SCONE::A$$", secrets="  - {name: A, kind: ascii}")
    one = service(tmp_path)
    one.create_session(document, ALICE)
    first = attest(one)
    one.close()
    two = service(tmp_path, level=None)
    assert attest(two) == first
    assert two.authority.key_hash == one.authority.key_hash
    two.close()


def test_a_wrong_measurement_is_refused_with_the_references_texts(cas: CasService) -> None:
    cas.create_session(session(), ALICE)
    with pytest.raises(EvidenceRejected) as caught:
        attest(cas, claims(mrenclave=OTHER))
    assert chain(caught.value) == (
        "The program enclave is not trustworthy",
        "None of the required enclave properties are met by the enclave",
        f"Unexpected enclave measurement (MRENCLAVE, {OTHER}) - Expected {MRENCLAVE}",
    )
    assert "SCONE_HASH=1" in hints(caught.value)[0]


def test_nothing_is_made_for_a_program_that_is_refused(
    cas: CasService, monkeypatch: pytest.MonkeyPatch
) -> None:
    cas.create_session(session(), ALICE)

    def made(*_: object, **__: object) -> None:
        raise AssertionError("a configuration was made")

    monkeypatch.setattr("crannog.cas.prepared.configure", made)
    with pytest.raises(EvidenceRejected):
        attest(cas, claims(mrenclave=OTHER))
    with pytest.raises(AssertionError, match="was made"):
        attest(cas)


def test_a_level_below_the_minimum_is_refused(tmp_path: Path) -> None:
    cas = service(tmp_path, level=Level.NODE)
    cas.create_session(session(), ALICE)
    with pytest.raises(EvidenceRejected) as caught:
        attest(cas)
    assert "Trust level is simulation" in chain(caught.value)[-1]
    assert attest(cas, claims(level=Level.NODE)).level is Level.NODE
    cas.close()


def test_an_unknown_launcher_is_refused_where_the_cas_lists_some(tmp_path: Path) -> None:
    cas = service(tmp_path, launchers=(b"x" * 32,))
    cas.create_session(session(), ALICE)
    node = claims(level=Level.NODE)
    with pytest.raises(EvidenceRejected) as caught:
        attest(cas, node)
    assert "Unexpected launcher" in chain(caught.value)[-1]
    assert attest(cas, node._replace(launcher=b"x" * 32))
    cas.close()


def test_at_level_simulation_the_launcher_is_its_own_word_and_not_looked_at(tmp_path: Path) -> None:
    cas = service(tmp_path, launchers=(b"x" * 32,))
    cas.create_session(session(), ALICE)
    assert attest(cas).level is Level.SIMULATION
    cas.close()


@pytest.mark.parametrize(
    "config_id", ["none/application", "hello/none", "hello", "", "/", "hello/"]
)
def test_an_unknown_configuration_is_not_found(cas: CasService, config_id: str) -> None:
    cas.create_session(session(), ALICE)
    with pytest.raises(NotFound) as caught:
        attest(cas, claims(config_id))
    assert chain(caught.value)[0] == "Failed to retrieve service attestation configuration"


TOKEN = "security: {service_access_token: tok-sesame}"


@pytest.mark.parametrize("token", [None, "", "wrong"])
def test_a_missing_or_wrong_token_is_refused_and_not_echoed(
    tmp_path: Path, token: str | None
) -> None:
    cas = service(tmp_path)
    cas.create_session(session(more=TOKEN), ALICE)
    with pytest.raises(Denied, match="token is missing or wrong") as caught:
        attest(cas, token=token)
    assert attest(cas, token="tok-sesame")
    cas.close()
    text = json.dumps(log(tmp_path)) + repr(chain(caught.value))
    assert "sesame" not in text
    assert "wrong" not in text.replace("missing or wrong", "")


def test_a_wrong_measurement_is_told_before_the_token_is_looked_at(cas: CasService) -> None:
    cas.create_session(session(more=TOKEN), ALICE)
    with pytest.raises(EvidenceRejected):
        attest(cas, claims(mrenclave=OTHER), token="tok-sesame")


def test_a_one_time_password_that_nobody_asks_for_is_refused(cas: CasService) -> None:
    cas.create_session(session(), ALICE)
    with pytest.raises(Denied, match="asks for no one-time password") as caught:
        attest(cas, otp="123456")
    assert "123456" not in str(chain(caught.value))


def test_a_certificate_is_renewed_while_the_cas_runs(tmp_path: Path) -> None:
    clock = [NOW]
    cas = service(tmp_path, now=lambda: clock[0])
    cas.create_session(
        session(
            environment="V: $$SCONE::C$$",
            secrets="  - {name: K, kind: private-key}\n"
            "  - {name: C, kind: x509, private_key: K, valid_for: 3 days}",
        ),
        ALICE,
    )
    seen = []
    for day in (0, 1, 2, 3, 4):
        clock[0] = NOW + timedelta(days=day)
        seen.append(attest(cas).environment)
    assert seen[0] == seen[1] != seen[2] == seen[3] != seen[4]
    cas.close()


# --- the audit log --------------------------------------------------------------------------------


def test_everything_is_in_the_log(tmp_path: Path) -> None:
    cas = service(tmp_path)
    first = cas.create_session(session(), ALICE).hash
    cas.create_session(session(predecessor=first, mrenclave=f"{MRENCLAVE}, {OTHER}"), ALICE)
    cas.read_session("hello", None, ALICE)
    for attempt in (
        lambda: cas.read_session("hello", None, BOB),
        lambda: cas.create_session(session(predecessor=first), BOB),
        lambda: attest(cas, claims(mrenclave="ee" * 32)),
    ):
        with pytest.raises(Error):
            attempt()
    attest(cas)
    cas.set_minimum_level(Level.NODE, actor="operator")
    cas.close()
    lines = log(tmp_path)
    assert [line["event"] for line in lines] == [
        "database created",
        "CAS started",
        "session created",
        "session updated",
        "session read",
        "request refused",
        "request refused",
        "attestation refused",
        "service attested",
        "minimum level changed",
        "CAS stopped",
    ]
    assert "service application mrenclaves" in notes(lines[3])["widens"]
    assert notes(lines[6]) == {"request": "update"}
    assert "Unexpected enclave measurement" in notes(lines[7])["reason"]
    assert notes(lines[8])["peer"] == "127.0.0.1:1"
    assert notes(lines[9]) == {"from": "simulation", "to": "node"}
    assert lines[10]["notes"] == {"reason": "asked to"}
    keys = FileKey(tmp_path / "master.key")
    found = verify_audit_log(tmp_path / "cas.db", keys=keys, expect_head=cas.head)
    assert found.findings == ()


def notes(line: dict[str, object]) -> dict[str, str]:
    found = line["notes"]
    assert isinstance(found, dict)
    return found


def test_what_nobody_vouches_for_is_counted_and_not_chained(tmp_path: Path) -> None:
    cas = service(tmp_path, level=Level.NODE)
    cas.create_session(session(), ALICE)
    before = cas.head
    for evidence in (claims("none/x"), claims(mrenclave=OTHER)):
        with pytest.raises(Error):
            attest(cas, evidence)
    with pytest.raises(Unauthenticated):
        cas.create_session(session(), None)
    cas.refused("hello/application", IntegrityError("x"), peer="p", request_id="r")
    assert cas.head == before
    assert cas.counts() == {
        "not-found": 1, "evidence-rejected": 1, "unauthenticated": 1, "not-authentic": 1,
    }  # fmt: skip
    cas.close()


def test_no_secret_is_in_the_log(tmp_path: Path) -> None:
    cas = service(tmp_path)
    document = session(
        environment="V: $$SCONE::A$$", secrets="  - {name: A, kind: ascii, value: in-plain-text}"
    )
    cas.create_session(document, ALICE)
    attest(cas)
    cas.close()
    assert "in-plain-text" not in json.dumps(log(tmp_path))
    data = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"in-plain-text" not in data


def test_a_cas_that_cannot_log_gives_nothing(tmp_path: Path) -> None:
    cas = service(tmp_path)
    cas.create_session(session(), ALICE)
    cas.close()
    with pytest.raises(Error, match="closed"):
        attest(cas)


# --- opening --------------------------------------------------------------------------------------


def test_a_cas_that_cannot_start_lets_go_of_its_database(tmp_path: Path) -> None:
    service(tmp_path).close()
    with pytest.raises(Misconfigured):
        service(tmp_path, level=Level.NODE)

    def past() -> datetime:
        return datetime(1990, 1, 1, tzinfo=NOW.tzinfo)

    with pytest.raises(IntegrityError, match="not valid before"):
        service(tmp_path, level=None, now=past)
    service(tmp_path).close()


def test_the_listeners_certificate_is_of_this_cas(cas: CasService) -> None:
    identity = cas.server_identity(names=["cas.example"])
    assert identity.chain_pem.decode().endswith(cas.authority.chain_pem)


def test_many_sessions_at_once_from_many_threads(cas: CasService) -> None:
    problems: list[Error] = []

    def work(number: int) -> None:
        try:
            for round_ in range(5):
                name = f"s{number}-{round_}"
                cas.create_session(session(name), ALICE)
                attest(cas, claims(f"{name}/application"))
                cas.read_session(name, None, ALICE)
        except Error as error:
            problems.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []


def test_services_that_share_an_image_do_not_multiply_without_bound(cas: CasService) -> None:
    contents = "$$SCONE::A$$" * 100
    services = "\n".join(
        f"  - {{name: s{n}, image_name: i, mrenclaves: [{MRENCLAVE}], command: a}}"
        for n in range(500)
    )
    document = (
        f'name: s\nversion: "0.3"\nservices:\n{services}\n'
        f'images:\n  - name: i\n    injection_files: [{{path: /a, content: "{contents}"}}]\n'
        "secrets: [{name: A, kind: ascii, size: 40000}]\n"
    )
    with pytest.raises(TooLarge, match="more than 67108864 bytes"):
        cas.create_session(document.encode(), ALICE)


def test_a_large_configuration_is_made_each_time_and_right(cas: CasService) -> None:
    variables = "\n      ".join(f"V{n}: $$SCONE::A$$" for n in range(10))
    cas.create_session(
        session(environment=variables, secrets="  - {name: A, kind: ascii, size: 60000}"), ALICE
    )
    first = attest(cas)
    assert len(dict(first.environment)["V9"]) == 60000
    assert attest(cas) == first
