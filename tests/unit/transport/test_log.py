from __future__ import annotations

import io
from datetime import UTC, datetime

from crannog.transport.log import Sparse, server_log

NOW = datetime(2026, 11, 23, 17, 0, tzinfo=UTC)


def _line(event: str, **values: object) -> str:
    file = io.StringIO()
    server_log(file, now=lambda: NOW).info(event, **values)
    return file.getvalue()


def test_level_first_and_time_last() -> None:
    assert _line("something", peer="1.2.3.4:5") == (
        "INFO something peer=1.2.3.4:5 time=2026-11-23T17:00:00Z\n"
    )


def test_what_peers_chose_cannot_forge_a_line_or_a_field() -> None:
    line = _line("request for a\nINFO forged", reason='x" level=hardware\r\n\x1b[2J')
    assert line.count("\n") == 1
    assert "\x1b" not in line
    assert 'reason="x\\" level=hardware???[2J"' in line


def test_a_broken_pipe_does_not_stop_the_server() -> None:
    file = io.StringIO()
    log = server_log(file)
    file.close()
    log.info("nobody reads this")


def test_strangers_cause_only_so_many_lines() -> None:
    sparse = Sparse(per_second=3)
    taken = [sparse.take() for _ in range(100)]
    assert 3 <= sum(one is not None for one in taken) <= 6
