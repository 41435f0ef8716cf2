"""Evidence from a real LAS: Unix socket before TCP, and told when the configuration has come."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from crannog.evidence.subject import Pins
from crannog.las.server import LasServer
from crannog.las.settings import LasSettings
from crannog.runtime.log import Log
from crannog.runtime.settings import Settings
from crannog.runtime.witness import Las, Proof, Witness, stated
from tests.launcher.conftest import Run, Start
from tests.launcher.fake_cas import FakeCas, configure, refuse


@pytest.fixture
def las(tmp_path: Path) -> Iterator[LasServer]:
    tmp_path.chmod(0o755)
    place = tmp_path / "las"
    place.mkdir(mode=0o755)
    server = LasServer(
        LasSettings(
            state_directory=tmp_path / "state", listen=("127.0.0.1", 0), socket=place / "socket"
        )
    )
    server.start()
    yield server
    server.stop()


def attested(cas: FakeCas, **more: str) -> dict[str, str]:
    return {
        "SCONE_ALLOW_DLOPEN": "2",
        "SCONE_CONFIG_ID": "s/s",
        "SCONE_CAS_ADDR": cas.address,
        **more,
    }


def test_evidence_over_tcp_is_signed_by_the_las(crannog_run: Run, las: LasServer) -> None:
    host, port = las.address
    with FakeCas(configure("echo", "ran")) as cas:
        found = crannog_run(["echo"], **attested(cas, SCONE_LAS_ADDR=f"{host}:{port}"))
        assert cas.seen[0][1].method == "las/tcp"
    assert found.stdout == "ran\n", found.stderr
    assert "Unable to connect to LAS" not in found.stderr


def test_socket_is_preferred(crannog_run: Run, las: LasServer) -> None:
    with FakeCas(configure("echo", "ran")) as cas:
        found = crannog_run(
            ["echo"],
            **attested(cas, CRANNOG_LAS_SOCKET=str(las.socket_path), SCONE_LAS_ADDR="127.0.0.1:1"),
        )
        assert cas.seen[0][1].method == "las/unix"
        assert cas.seen[0][1].cas == cas.address
    assert found.stdout == "ran\n", found.stderr


def test_las_is_told_and_a_refused_start_is_not(
    crannog_run: Run, las: LasServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from crannog.exchange.las import LasServer as End

    told: list[str] = []
    noted = End.noted

    def note(self: End) -> bytes:
        told.append("configured")
        return noted(self)

    monkeypatch.setattr(End, "noted", note)
    for answer, expected in ((refuse("no"), 0), (configure("true"), 1)):
        with FakeCas(answer) as cas:
            crannog_run(["true"], **attested(cas, CRANNOG_LAS_SOCKET=str(las.socket_path)))
        assert len(told) == expected


def test_without_a_socket_the_address_is_asked_and_the_lower_level_said(
    crannog_run: Run, las: LasServer, tmp_path: Path
) -> None:
    host, port = las.address
    missing = str(tmp_path / "missing")
    with FakeCas(configure("echo", "ran")) as cas:
        found = crannog_run(
            ["echo"],
            **attested(cas, CRANNOG_LAS_SOCKET=missing, SCONE_LAS_ADDR=f"{host}:{port}"),
        )
        assert cas.seen[0][1].method == "las/tcp"
    assert found.stdout == "ran\n", found.stderr
    assert f"there is no LAS socket at {missing}: asking LAS at {host}:{port}" in found.stderr


def test_a_named_socket_that_is_missing_is_not_replaced_by_the_launchers_own_word(
    crannog_run: Run, tmp_path: Path
) -> None:
    missing = str(tmp_path / "missing")
    with FakeCas(configure("echo", "ran")) as cas:
        found = crannog_run(["echo"], **attested(cas, CRANNOG_LAS_SOCKET=missing))
        assert cas.seen == []
    assert (found.returncode, found.stdout) == (75, "")
    assert f"Caused by: there is no LAS socket at {missing}\n" in found.stderr


def test_a_socket_that_comes_late_is_asked(
    las: LasServer, tmp_path: Path, crannog_start: Start
) -> None:
    late = tmp_path / "late"
    with FakeCas(configure("echo", "ran")) as cas:
        variables = attested(cas, CRANNOG_LAS_SOCKET=str(late), CRANNOG_RETRY_SECONDS="30")
        with crannog_start(["echo"], **variables) as process:
            assert process.stderr is not None
            for line in process.stderr:
                if "trying again" in line:
                    break
            late.symlink_to(str(las.socket_path))
            output, _ = process.communicate(timeout=60)
        assert cas.seen[0][1].method == "las/unix"
    assert output == "ran\n"


def test_a_file_in_the_place_of_the_sockets_directory_is_named(
    crannog_run: Run, tmp_path: Path
) -> None:
    (tmp_path / "las").write_text("")
    path = str(tmp_path / "las" / "socket")
    with FakeCas(configure("echo", "ran")) as cas:
        found = crannog_run(["echo"], **attested(cas, CRANNOG_LAS_SOCKET=path))
        assert cas.seen == []
    assert (found.returncode, found.stdout) == (78, "")
    assert f"Caused by: LAS socket {path}: {tmp_path}/las is a file, expected" in found.stderr


def test_an_address_of_the_las_that_is_none_is_refused_where_the_socket_is_there_too(
    crannog_run: Run, las: LasServer
) -> None:
    with FakeCas(configure("echo", "ran")) as cas:
        variables = {"CRANNOG_LAS_SOCKET": str(las.socket_path), "SCONE_LAS_ADDR": "a b"}
        found = crannog_run(["echo"], **attested(cas, **variables))
        assert cas.seen == []
    assert (found.returncode, found.stdout) == (78, "")
    assert "Caused by: SCONE_LAS_ADDR is 'a b', expected HOST or HOST:PORT" in found.stderr


def test_las_that_went_away_is_not_replaced(crannog_run: Run, las: LasServer) -> None:
    host, port = las.address
    las.stop()
    with FakeCas(configure("echo", "ran")) as cas:
        found = crannog_run(["echo"], **attested(cas, SCONE_LAS_ADDR=f"{host}:{port}"))
        assert cas.seen == []
    assert (found.returncode, found.stdout) == (75, "")


def test_a_las_path_that_is_no_utf8_is_looked_for_all_the_same(crannog_run: Run) -> None:
    with FakeCas(configure("echo", "ran")) as cas:
        found = crannog_run(["echo"], **attested(cas, SCONE_LAS_ADDR="/\udcff"))
        assert cas.seen == []
    assert (found.returncode, found.stdout) == (75, "")
    assert "Caused by: cannot connect to LAS at /" in found.stderr


def test_a_program_on_a_volume_whose_path_is_no_utf8_is_of_level_simulation(
    las: LasServer,
) -> None:
    proof = Proof(b"m" * 32, b"l" * 32, "/volume/\udcff")
    search = Las(Settings(las_socket=str(las.socket_path)), Log())
    witness = Witness(search, proof, "s/s", "cas:18765", Pins(), Log())
    try:
        witness.find()
        (envelope,) = witness.evidence(b"r" * 64)
    finally:
        witness.close()
    assert stated(envelope)[0] == "simulation"


def test_the_las_s_reason_and_the_level_are_printed(crannog_run: Run, las: LasServer) -> None:
    host, port = las.address
    with FakeCas(configure("echo", "ran")) as cas:
        address = cas.address
        found = crannog_run(["echo"], **attested(cas, SCONE_LAS_ADDR=f"{host}:{port}"))
    assert f"LAS at {host}:{port} vouches at level simulation only: over TCP" in found.stderr
    assert f"configured by CAS at {address} at level simulation (over TCP" in found.stderr
    assert "session version" in found.stderr


def test_the_reason_is_printed_where_the_cas_tells_a_stranger_nothing(
    crannog_run: Run, las: LasServer
) -> None:
    host, port = las.address
    with FakeCas(refuse("refused by check evidence-rejected, request id 1")) as cas:
        found = crannog_run(["echo"], **attested(cas, SCONE_LAS_ADDR=f"{host}:{port}"))
    assert found.returncode == 78
    assert "vouches at level simulation only: over TCP" in found.stderr


def test_no_level_is_said_before_it_is_known(crannog_run: Run) -> None:
    with FakeCas(refuse("no")) as cas:
        found = crannog_run(["echo"], **attested(cas))
    assert "SCONE_MODE is auto" not in found.stderr
