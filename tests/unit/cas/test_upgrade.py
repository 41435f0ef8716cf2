"""A database that an earlier release wrote: opened, read, verified, and written on.

`schema_0001.sql` is the dump of one of the first release: a session with a generated secret, an
update, an attestation. `schema_0002.sql` is of the one that enrolled LASes by hand only: a session,
a LAS, a launcher.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from crannog.cas.audit import read_accepted, verify_audit_log
from crannog.cas.keys import FileKey
from crannog.cas.store.accepted import Enrolment, Kind
from crannog.cas.store.records import parse_head
from crannog.errors import IntegrityError
from crannog.levels import Level
from tests.unit.cas.support import ALICE, claims, service, session

DUMP = Path(__file__).with_name("schema_0001.sql")
MASTER = "83107c013acd52854ac3f3c7bffbd38fdf66d82f19410e18d3710670701cf6c9"
HEAD = parse_head("5:1b1450f481a37ca79af1bee709f40756b38310ec04ef920d90f8502d23c3fd84")
GENERATED = "YDWx#ST$Uxw&"
LAS = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")


@pytest.fixture
def old(tmp_path: Path) -> Path:
    (tmp_path / "master.key").write_text(MASTER + "\n")
    (tmp_path / "master.key").chmod(0o600)
    connection = sqlite3.connect(tmp_path / "cas.db")
    connection.executescript(DUMP.read_text())
    connection.close()
    return tmp_path


def tables(directory: Path) -> set[str]:
    connection = sqlite3.connect(directory / "cas.db")
    rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    connection.close()
    return {row[0] for row in rows}


def test_the_dump_is_of_the_first_schema(old: Path) -> None:
    assert "accepted" not in tables(old)


def test_everything_is_kept(old: Path) -> None:
    cas = service(old, level=None)
    assert cas.minimum_level is Level.SIMULATION
    found = cas.configure(
        "hello/application",
        claims(),
        otp=None,
        service_access_token=None,
        peer="peer",
        request_id="r",
    )
    assert ("A", f"b {GENERATED}") in found.environment
    cas.close()
    keys = FileKey(old / "master.key")
    assert verify_audit_log(old / "cas.db", keys=keys, expect_head=HEAD).findings == ()


def test_a_lasting_list_can_be_written(old: Path) -> None:
    cas = service(old, level=None)
    assert cas.trust().node_keys == frozenset()
    cas.trusted.enrol_las(LAS, "", actor="operator")
    cas.create_session(session("new"), ALICE)
    cas.close()
    again = service(old, level=None)
    assert again.trust().node_keys == {LAS}
    again.close()


def test_it_is_verified_and_listed_without_being_changed(old: Path) -> None:
    keys = FileKey(old / "master.key")
    before = (old / "cas.db").read_bytes()
    assert verify_audit_log(old / "cas.db", keys=keys, expect_head=HEAD).findings == ()
    assert read_accepted(old / "cas.db", keys=keys).entries == ()
    assert (old / "cas.db").read_bytes() == before


def test_an_upgrade_does_not_hide_what_was_changed_before_it(old: Path) -> None:
    connection = sqlite3.connect(old / "cas.db")
    connection.execute("UPDATE state SET minimum_level = 'hardware'")
    connection.commit()
    connection.close()
    with pytest.raises(IntegrityError, match="not authentic"):
        service(old, level=None)
    assert "accepted" not in tables(old)


# --- the second schema ----------------------------------------------------------------------------

SECOND_MASTER = "6290293ddc76ffe1b69e38c24088ce33f36aa2fea797a26faa3ff011b1490256"
SECOND_HEAD = parse_head("6:a03f261d113621b31ee67d4c3b2f44ad1c0eef4a7086d2439cb549b690b2bee2")


@pytest.fixture
def second(tmp_path: Path) -> Path:
    (tmp_path / "master.key").write_text(SECOND_MASTER + "\n")
    (tmp_path / "master.key").chmod(0o600)
    connection = sqlite3.connect(tmp_path / "cas.db")
    connection.executescript(DUMP.with_name("schema_0002.sql").read_text())
    connection.close()
    return tmp_path


def columns(directory: Path) -> set[str]:
    connection = sqlite3.connect(directory / "cas.db")
    rows = connection.execute("PRAGMA table_info(accepted)").fetchall()
    connection.close()
    return {row[1] for row in rows}


def test_what_was_enrolled_by_hand_stays_enrolled_without_expiry(second: Path) -> None:
    assert "enrolment" not in columns(second)
    cas = service(second, level=None)
    assert cas.trust().node_keys == {LAS}
    assert cas.launchers() == frozenset({b"l" * 32})
    cas.close()
    assert "enrolment" in columns(second)
    keys = FileKey(second / "master.key")
    assert verify_audit_log(second / "cas.db", keys=keys, expect_head=SECOND_HEAD).findings == ()


def test_a_las_can_be_enrolled_by_token_after_the_upgrade(second: Path) -> None:
    cas = service(second, level=None)
    other = bytes.fromhex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c")
    expires = 4_000_000_000
    token = Enrolment("issuer", "subject", "node1", "las", "uid", issued=1, expires=expires)
    cas.trusted.admit_las(other, token, ())
    cas.close()
    again = service(second, level=None)
    assert again.trust().node_keys == {LAS, other}
    again.close()


def test_the_second_schema_is_verified_and_listed_without_being_changed(second: Path) -> None:
    keys = FileKey(second / "master.key")
    before = (second / "cas.db").read_bytes()
    assert verify_audit_log(second / "cas.db", keys=keys, expect_head=SECOND_HEAD).findings == ()
    found = read_accepted(second / "cas.db", keys=keys)
    assert [(one.value, one.note) for one in found.of(Kind.LAS_KEY)] == [(LAS.hex(), "node 1")]
    assert (second / "cas.db").read_bytes() == before


def test_an_upgrade_does_not_hide_a_key_that_was_added_before_it(second: Path) -> None:
    connection = sqlite3.connect(second / "cas.db")
    connection.execute(f"INSERT INTO accepted VALUES ('las-key', '{'cd' * 32}', '', 'then')")
    connection.commit()
    connection.close()
    with pytest.raises(IntegrityError, match="not authentic"):
        service(second, level=None)
