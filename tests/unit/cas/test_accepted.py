"""The list of enrolled LASes and accepted launchers: what it holds, keeps and refuses."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from crannog.cas.audit import read_accepted, verify_audit_log
from crannog.cas.keys import FileKey
from crannog.cas.las_keys import parse_las_key
from crannog.cas.store import accepted as lists
from crannog.cas.store.accepted import Accepted, Entry, Kind
from crannog.errors import AlreadyExists, Denied, FormatError, NotFound, TooLarge
from crannog.levels import Level
from tests.unit.cas.support import ALICE, NOW, claims, service, session

KEY = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
OLD, NEW = b"o" * 32, b"n" * 32


def test_what_is_enrolled_counts_at_once_and_after_a_restart(tmp_path: Path) -> None:
    cas = service(tmp_path)
    assert cas.trust().node_keys == frozenset()
    cas.trusted.enrol_las(KEY, "node 1", actor="operator")
    assert cas.trust().node_keys == {KEY}
    cas.close()
    again = service(tmp_path)
    assert again.trust().node_keys == {KEY}
    again.trusted.remove_las(KEY, actor="operator")
    assert again.trust().node_keys == frozenset()
    again.close()


def test_settings_add_to_what_is_enrolled(tmp_path: Path) -> None:
    cas = service(tmp_path, las_keys=(NEW,), launchers=(NEW,))
    cas.trusted.enrol_las(KEY, "", actor="operator")
    cas.trusted.accept_launcher(OLD, "", actor="operator")
    assert cas.trust().node_keys == {KEY, NEW}
    assert cas.launchers() == frozenset({OLD, NEW})
    cas.close()


def test_without_a_list_every_launcher_is_accepted(tmp_path: Path) -> None:
    cas = service(tmp_path)
    assert cas.launchers() is None
    cas.trusted.accept_launcher(OLD, "", actor="operator")
    assert cas.launchers() == frozenset({OLD})
    cas.trusted.clear_launchers(actor="operator")
    assert cas.launchers() is None
    cas.close()


def test_the_last_launcher_is_not_removed_by_the_way(tmp_path: Path) -> None:
    cas = service(tmp_path)
    cas.trusted.accept_launcher(OLD, "", actor="operator")
    with pytest.raises(Denied, match="is the last of the list") as caught:
        cas.trusted.withdraw_launcher(OLD, actor="operator")
    assert "crannog cas launcher clear" in caught.value.hint
    assert cas.launchers() == frozenset({OLD})
    cas.trusted.accept_launcher(NEW, "", actor="operator")
    cas.trusted.withdraw_launcher(OLD, actor="operator")
    assert cas.launchers() == frozenset({NEW})
    cas.close()


def test_an_accepted_launcher_is_heeded_by_sessions_that_are_prepared(tmp_path: Path) -> None:
    cas = service(tmp_path)
    cas.create_session(session(), ALICE)

    def level() -> Level:
        return cas.configure(
            "hello/application",
            claims(level=Level.NODE),
            otp=None,
            service_access_token=None,
            peer="peer",
            request_id="r",
        ).level

    assert level() is Level.NODE
    cas.trusted.accept_launcher(NEW, "", actor="operator")
    with pytest.raises(Exception, match="not trustworthy"):
        level()
    cas.trusted.accept_launcher(b"l" * 32, "", actor="operator")
    assert level() is Level.NODE
    cas.close()


def test_what_is_there_already_is_refused_and_says_since_when(tmp_path: Path) -> None:
    cas = service(tmp_path)
    cas.trusted.enrol_las(KEY, "node 1", actor="operator")
    head = cas.head
    with pytest.raises(AlreadyExists, match=r"accepted since 2026-05-17T.* \(node 1\)"):
        cas.trusted.enrol_las(KEY, "node 2", actor="operator")
    assert cas.head == head
    cas.close()


def test_what_is_not_there_is_not_removed(tmp_path: Path) -> None:
    cas = service(tmp_path, las_keys=(KEY,))
    with pytest.raises(NotFound, match="is not accepted by this CAS"):
        cas.trusted.remove_las(KEY, actor="operator")
    with pytest.raises(NotFound):
        cas.trusted.clear_launchers(actor="operator")
    assert cas.trust().node_keys == {KEY}
    cas.close()


@pytest.mark.parametrize("note", ["x" * 201, "two\nlines", "\x1b[2J"])
def test_a_note_is_one_printable_line(tmp_path: Path, note: str) -> None:
    cas = service(tmp_path)
    with pytest.raises(FormatError, match="note"):
        cas.trusted.enrol_las(KEY, note, actor="operator")
    cas.close()


def test_the_list_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lists, "MAX_ENTRIES", 2)
    full = Accepted(tuple(Entry(Kind.LAUNCHER, one * 64, "", "") for one in "ab"))
    with pytest.raises(TooLarge):
        full.with_entry(Entry(Kind.LAUNCHER, "c" * 64, "", ""))
    assert len(full.with_entry(Entry(Kind.LAS_KEY, "c" * 64, "", "")).entries) == 3


def test_every_change_is_in_the_audit_log(tmp_path: Path) -> None:
    cas = service(tmp_path)
    cas.trusted.enrol_las(KEY, "node 1", actor="operator")
    cas.trusted.remove_las(KEY, actor="operator")
    cas.trusted.accept_launcher(OLD, "", actor="operator")
    cas.trusted.accept_launcher(NEW, "", actor="operator")
    cas.trusted.withdraw_launcher(OLD, actor="operator")
    cas.trusted.clear_launchers(actor="operator")
    cas.close()
    from crannog.cas.audit import export_audit_log

    keys = FileKey(tmp_path / "master.key")
    lines = [line.decode() for line in export_audit_log(tmp_path / "cas.db", keys=keys)]
    for event, what in (
        ("LAS enrolled", f'{{"las-key":"{KEY.hex()}","note":"node 1"}}'),
        ("LAS removed", f'{{"las-key":"{KEY.hex()}"}}'),
        ("launcher accepted", f'{{"launcher":"{OLD.hex()}"}}'),
        ("launcher removed", f'{{"launcher":"{OLD.hex()}"}}'),
        ("launcher list cleared", '{"entries":"1"}'),
    ):
        (line, *_) = [one for one in lines if f'"event":"{event}"' in one]
        assert what in line
        assert '"actor":"operator"' in line
    assert verify_audit_log(tmp_path / "cas.db", keys=keys).findings == ()


def test_the_list_is_read_beside_a_running_cas(tmp_path: Path) -> None:
    cas = service(tmp_path)
    cas.trusted.enrol_las(KEY, "node 1", actor="operator")
    found = read_accepted(tmp_path / "cas.db", keys=FileKey(tmp_path / "master.key"))
    assert [(one.value, one.note) for one in found.of(Kind.LAS_KEY)] == [(KEY.hex(), "node 1")]
    assert found.of(Kind.LAUNCHER) == ()
    cas.close()


def test_the_order_of_entries_does_not_change_their_digest() -> None:
    entries = tuple(Entry(Kind.LAS_KEY, os.urandom(32).hex(), "", str(NOW)) for _ in range(5))
    assert Accepted(entries).digest == Accepted(entries[::-1]).digest
    assert Accepted(entries).digest != Accepted(entries[1:]).digest


# --- keys -----------------------------------------------------------------------------------------


def test_a_key_of_rfc_8032_is_taken_in_either_case() -> None:
    assert parse_las_key(KEY.hex().upper() + "\n") == KEY


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ab",
        "zz" * 32,
        KEY.hex() + "00",
        "02" + "00" * 31,  # y = 2 is no point's
        "ff" * 32,
        "ed" + "ff" * 30 + "7f",  # y = p
    ],
)
def test_what_is_no_key_is_refused_with_where_it_is_printed(text: str) -> None:
    with pytest.raises(FormatError) as caught:
        parse_las_key(text)
    assert "/public/" in caught.value.hint


@pytest.mark.parametrize(
    "text",
    [
        "01" + "00" * 31,
        "00" * 32,
        "00" * 31 + "80",
        "ec" + "ff" * 30 + "7f",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
    ],
)
def test_a_key_whose_signatures_fit_any_message_is_refused(text: str) -> None:
    with pytest.raises(FormatError, match="small order"):
        parse_las_key(text)
