from __future__ import annotations

import json
from pathlib import Path

import pytest

from crannog.cas.audit import Severity, export_audit_log, verify_audit_log
from crannog.cas.keys import EnvironmentKey, FileKey
from crannog.cas.store.records import AuditHead, Event, Record, parse_head
from crannog.errors import FormatError, IntegrityError, Misconfigured, StorageFailed
from tests.unit.cas.support import NOW, add, opened
from tests.unit.cas.test_tamper import tamper


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    store = opened(tmp_path)
    add(store, "a")
    store.append(Record(NOW, Event.SESSION_READ, session="a", actor="me", notes=(("k", "v"),)))
    store.close()
    return tmp_path


def keys(directory: Path) -> FileKey:
    return FileKey(directory / "master.key")


def test_a_running_cas_is_verified_too(tmp_path: Path) -> None:
    store = opened(tmp_path)
    add(store, "a")
    found = verify_audit_log(tmp_path / "cas.db", keys=keys(tmp_path), expect_head=store.head)
    store.close()
    assert found.severity == 0
    assert (found.records, found.versions, found.head) == (2, 1, store.head)


def test_each_head_that_was_kept_is_found_later(tmp_path: Path) -> None:
    store = opened(tmp_path)
    heads = [AuditHead(0, bytes(32)), store.head]
    for _ in range(3):
        store.append(Record(NOW, Event.SESSION_READ))
        heads.append(store.head)
    store.close()
    for head in heads:
        found = verify_audit_log(tmp_path / "cas.db", keys=keys(tmp_path), expect_head=head)
        assert found.severity is Severity.VERIFIED


def test_the_export_is_json_lines_with_number_and_mac(directory: Path) -> None:
    lines = [
        json.loads(line) for line in export_audit_log(directory / "cas.db", keys=keys(directory))
    ]
    assert [line["seq"] for line in lines] == [1, 2, 3]
    assert [line["event"] for line in lines] == [
        "database created",
        "session created",
        "session read",
    ]
    assert lines[2] == {
        "seq": 3,
        "at": "2026-05-17T12:00:00.000000Z",
        "event": "session read",
        "session": "a",
        "actor": "me",
        "notes": {"k": "v"},
        "mac": lines[2]["mac"],
    }
    rest = list(export_audit_log(directory / "cas.db", keys=keys(directory), after=2))
    assert [json.loads(line)["seq"] for line in rest] == [3]


def test_the_export_stops_at_a_changed_record(directory: Path) -> None:
    tamper(directory, "UPDATE audit SET record = CAST('{}' AS BLOB) WHERE sequence = 2")
    export = export_audit_log(directory / "cas.db", keys=keys(directory))
    assert json.loads(next(export))["seq"] == 1
    with pytest.raises(IntegrityError, match="audit record 2"):
        next(export)


@pytest.mark.parametrize(
    ("statement", "severity"),
    [
        (
            "UPDATE audit SET record = CAST('{}' AS BLOB) WHERE sequence = 2",
            Severity.RECORDS_CHANGED,
        ),
        ("DELETE FROM audit WHERE sequence = 2", Severity.RECORDS_CHANGED),
        ("DELETE FROM audit WHERE sequence = 3", Severity.RECORDS_CHANGED),
        ("UPDATE state SET minimum_level = 'hardware'", Severity.STATE_CHANGED),
        ("UPDATE authority SET certificate = key", Severity.STATE_CHANGED),
        ("UPDATE versions SET name = 'b'", Severity.SESSIONS_CHANGED),
        ("UPDATE sealed SET document = secrets", Severity.SESSIONS_CHANGED),
        ("DELETE FROM sealed", Severity.SESSIONS_CHANGED),
    ],
)
def test_the_exit_code_says_how_bad_it_is(
    directory: Path, statement: str, severity: Severity
) -> None:
    tamper(directory, statement)
    found = verify_audit_log(directory / "cas.db", keys=keys(directory))
    assert found.severity is severity
    assert all(one.message for one in found.findings)


def test_another_key_is_its_own_finding(directory: Path) -> None:
    other = EnvironmentKey("K", {"K": "00" * 32})
    assert verify_audit_log(directory / "cas.db", keys=other).severity is Severity.WRONG_KEY


def test_no_key_at_all_is_the_callers_mistake(directory: Path) -> None:
    with pytest.raises(Misconfigured, match="variable K holds no master key"):
        verify_audit_log(directory / "cas.db", keys=EnvironmentKey("K", {}))


@pytest.mark.parametrize("data", [None, b"", b"no database" * 1000])
def test_an_unreadable_database_is_its_own_finding(directory: Path, data: bytes | None) -> None:
    path = directory / "other.db"
    if data is not None:
        path.write_bytes(data)
    found = verify_audit_log(path, keys=keys(directory))
    expected = Severity.STATE_CHANGED if data == b"" else Severity.UNREADABLE
    assert found.severity in (expected, Severity.UNREADABLE)
    assert not found.head
    with pytest.raises((StorageFailed, IntegrityError)):
        list(export_audit_log(path, keys=keys(directory)))


def test_verifying_changes_nothing(directory: Path) -> None:
    before = (directory / "cas.db").read_bytes()
    verify_audit_log(directory / "cas.db", keys=keys(directory))
    assert (directory / "cas.db").read_bytes() == before


def test_a_head_reads_back() -> None:
    head = AuditHead(17, bytes(range(32)))
    assert parse_head(str(head)) == head


@pytest.mark.parametrize("text", ["", "1", "1:", ":00", "x:" + "0" * 64, "1:" + "0" * 63, "-1:00"])
def test_what_is_no_head_is_refused(text: str) -> None:
    with pytest.raises(FormatError, match="audit head"):
        parse_head(text)
