from __future__ import annotations

import os
import re

from hypothesis import given
from hypothesis import strategies as st

from crannog.runtime.log import Log, LogLevel, printable


def written(level: LogLevel) -> list[str]:
    reading, writing = os.pipe()
    log = Log(level, writing)
    for say in (log.fatal, log.error, log.warn, log.info, log.debug):
        say("text")
    os.close(writing)
    with os.fdopen(reading) as file:
        return file.read().splitlines()


def test_form_of_a_line() -> None:
    for line in written(LogLevel.TRACE):
        assert re.fullmatch(r"\[SCONE\|[A-Z]+\] \S+\.py:\d+:written\(\): text", line)


def test_threshold() -> None:
    assert len(written(LogLevel.FATAL)) == 1
    assert len(written(LogLevel.WARN)) == 3
    assert len(written(LogLevel.DEBUG)) == 5


def test_closed_stderr_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    os.close(writing)
    Log(LogLevel.WARN, writing).warn("nobody hears it")


@given(st.text(max_size=5000))
def test_what_is_shown_is_one_bounded_line_without_control_characters(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert len(shown) < 50_000


def test_ordinary_text_is_as_it_was() -> None:
    assert printable("grüße, 100 %") == "grüße, 100 %"
    assert printable("a\x1b[2Jb\n") == "a\\x1b[2Jb\\n"
