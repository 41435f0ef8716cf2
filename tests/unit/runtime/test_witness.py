from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from crannog.errors import Misconfigured, Unavailable
from crannog.evidence.envelope import Envelope
from crannog.evidence.statement import Statement, sign_statement
from crannog.evidence.subject import Pins
from crannog.levels import Level
from crannog.runtime.log import Log, LogLevel
from crannog.runtime.settings import Settings
from crannog.runtime.witness import Las, Proof, Witness, socket_there, stated
from crannog.transport.address import Address
from crannog.transport.las_client import UnixAddress

PROOF = Proof(b"m" * 32, b"l" * 32)


def quiet() -> Log:
    return Log(LogLevel.FATAL)


def las(
    settings: Settings, *, there: bool, resolves: bool = False, log: Log | None = None
) -> object:
    search = Las(settings, log or quiet(), there=lambda _: there, resolves=lambda _: resolves)
    return search.find()


def test_socket_is_preferred_to_the_address() -> None:
    found = las(Settings(las="host"), there=True, resolves=True)
    assert found == UnixAddress("/run/crannog/las/socket")
    assert las(Settings(las="host", las_socket="/s"), there=True) == UnixAddress("/s")


def test_the_address_is_asked_where_a_named_socket_is_missing_and_it_is_said() -> None:
    log = quiet()
    settings = Settings(las="host", las_socket="/s")
    assert las(settings, there=False, log=log) == Address("host", 18766)
    (note,) = log.notes
    assert note.startswith("there is no LAS socket at /s: asking LAS at host:18766")
    assert note.endswith("at level simulation")


@pytest.mark.parametrize("resolves", [True, False])
def test_a_named_socket_that_is_missing_is_waited_for_where_nothing_else_is_named(
    resolves: bool,
) -> None:
    with pytest.raises(Unavailable, match="no LAS socket at /s"):
        las(Settings(las_socket="/s"), there=False, resolves=resolves)


def test_named_las_is_asked_without_looking_whether_it_resolves() -> None:
    assert las(Settings(las="h:1"), there=False) == Address("h", 1)
    assert las(Settings(las="172.17.0.1"), there=False) == Address("172.17.0.1", 18766)


def test_default_name_is_asked_where_it_resolves() -> None:
    assert las(Settings(), there=False, resolves=True) == Address("las", 18766)


def test_own_word_only_where_there_is_no_las_at_all() -> None:
    log = quiet()
    assert las(Settings(), there=False, log=log) is None
    assert "Unable to connect to LAS at default 'las' address" in log.notes[0]


def test_a_socket_that_has_come_is_taken_at_the_next_look() -> None:
    there = [False, True]
    search = Las(Settings(las_socket="/s"), quiet(), there=lambda _: there.pop(0))
    with pytest.raises(Unavailable):
        search.find()
    assert search.find() == UnixAddress("/s")


def test_the_default_name_is_asked_for_once() -> None:
    asked: list[str] = []

    def resolves(name: str) -> bool:
        asked.append(name)
        return False

    search = Las(Settings(), quiet(), there=lambda _: False, resolves=resolves)
    assert (search.find(), search.find()) == (None, None)
    assert asked == ["las"]


def test_an_address_that_is_none_is_refused_though_there_is_a_socket() -> None:
    with pytest.raises(Misconfigured, match="SCONE_LAS_ADDR"):
        las(Settings(las="h h"), there=True)


def test_a_socket_is_there_and_nothing_is_not(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    assert not socket_there(path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        assert socket_there(path)


@pytest.mark.parametrize(
    ("make", "found"), [(Path.mkdir, "it is a directory"), (Path.touch, "it is a file")]
)
def test_what_is_no_socket_is_named(
    tmp_path: Path, make: Callable[[Path], None], found: str
) -> None:
    make(tmp_path / "socket")
    with pytest.raises(Misconfigured, match=f"{found}, expected a socket"):
        socket_there(str(tmp_path / "socket"))


def test_a_directory_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "las").touch()
    with pytest.raises(Misconfigured, match="/las is a file, expected the directory"):
        socket_there(str(tmp_path / "las" / "socket"))


def test_a_link_in_a_circle_is_an_error_of_ours(tmp_path: Path) -> None:
    os.symlink("socket", tmp_path / "socket")
    with pytest.raises(Misconfigured, match="too many levels"):
        socket_there(str(tmp_path / "socket"))


def _statement(level: Level, reason: str) -> Envelope:
    statement = Statement(
        level, "las/witness", b"m" * 32, b"r" * 64, b"l" * 32, "s/s", "cas", 1, reason
    )
    return sign_statement(statement, Ed25519PrivateKey.generate())


def test_what_a_statement_says_of_its_level_is_read_for_the_log() -> None:
    assert stated(_statement(Level.SIMULATION, "no record")) == ("simulation", "no record")
    assert stated(_statement(Level.NODE, "")) == ("node", "")


@pytest.mark.parametrize("data", [b"", b"{}", b'{"payload":"e30="}', b"\xff", b'{"payload":1}'])
def test_what_is_no_statement_says_nothing(data: bytes) -> None:
    assert stated(Envelope("application/x", data)) == ("", "")


@pytest.mark.parametrize(
    ("said", "given", "because"),
    [
        (Level.NODE, Level.NODE, ""),
        (
            Level.NODE,
            Level.SIMULATION,
            " (the LAS vouches for more, and its key is not enrolled at this CAS)",
        ),
        (Level.SIMULATION, Level.SIMULATION, " (no record)"),
    ],
)
def test_the_level_is_said_with_its_reason(said: Level, given: Level, because: str) -> None:
    log = quiet()
    witness = Witness(Las(Settings(), log), PROOF, "s/s", "cas", Pins(), log)
    witness._say(_statement(said, "no record" if said is Level.SIMULATION else ""))
    assert witness.because(given) == because
