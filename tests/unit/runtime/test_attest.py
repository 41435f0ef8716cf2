from __future__ import annotations

import os

import pytest

from crannog.errors import Misconfigured, Refused, Unavailable
from crannog.exchange.configuration import Configuration
from crannog.levels import Level
from crannog.runtime.attest import (
    _again,
    cas_address,
    check_configuration,
    note_service,
)
from crannog.runtime.log import Log, LogLevel
from crannog.runtime.settings import Settings, parse_config_id
from crannog.runtime.witness import Proof
from crannog.transport.address import Address

PROOF = Proof(b"m" * 32, b"l" * 32)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        (None, Address("cas", 18765)),
        ("scone-cas.cf", Address("scone-cas.cf", 18765)),
        ("h:8765", Address("h", 8765)),
        ("[::1]:77", Address("::1", 77)),
        ("::1", Address("::1", 18765)),
    ],
)
def test_cas_address(text: str | None, address: Address) -> None:
    assert cas_address(Settings(cas=text)) == address


@pytest.mark.parametrize("text", [":1", "h:x", "h:70000", "h h", "[::1"])
def test_cas_address_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(Misconfigured, match="SCONE_CAS_ADDR"):
        cas_address(Settings(cas=text))


def test_note_has_no_password() -> None:
    settings = Settings(cas="h", config_id=parse_config_id("s/a@123456"))
    assert (
        note_service(settings) == "Note: Connecting to CAS at h (port 18765) using service ID s/a"
    )


def configuration(mrenclave: bytes = b"m" * 32) -> Configuration:
    return Configuration(("x",), (), "/", (), None, "ab" * 32, Level.SIMULATION, mrenclave)


def test_configuration_for_this_program_and_session() -> None:
    check_configuration(configuration(), Settings(session_hash="ab" * 32), PROOF)
    check_configuration(configuration(), Settings(), PROOF)


def test_configuration_for_another_program_is_refused() -> None:
    with pytest.raises(Refused, match="MRENCLAVE"):
        check_configuration(configuration(b"x" * 32), Settings(), PROOF)


def test_configuration_of_another_session_version_is_refused() -> None:
    with pytest.raises(Refused, match="pins"):
        check_configuration(configuration(), Settings(session_hash="cd" * 32), PROOF)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def quiet() -> Log:
    return Log(LogLevel.FATAL)


def test_unavailable_is_tried_again_within_the_time_and_no_longer() -> None:
    clock, tries = Clock(), []

    def attempt() -> str:
        tries.append(clock.now)
        raise Unavailable("not there")

    with pytest.raises(Unavailable, match="not there"):
        _again(attempt, 10, quiet(), clock=clock, sleep=clock.sleep)
    assert clock.now == pytest.approx(10)
    assert len(tries) < 15
    assert max(clock.slept) <= 2


def test_success_ends_it() -> None:
    clock, left = Clock(), [Unavailable("x"), Unavailable("x")]

    def attempt() -> str:
        if left:
            raise left.pop()
        return "done"

    assert _again(attempt, 10, quiet(), clock=clock, sleep=clock.sleep) == "done"
    assert len(clock.slept) == 2


def test_refusal_is_not_tried_again() -> None:
    clock, tries = Clock(), []

    def attempt() -> str:
        tries.append(1)
        raise Refused("no")

    with pytest.raises(Refused):
        _again(attempt, 10, quiet(), clock=clock, sleep=clock.sleep)
    assert len(tries) == 1


def test_reason_is_logged_once_for_each() -> None:
    clock = Clock()
    reading, writing = os.pipe()
    reasons = ["one", "one", "two", "two"]

    def attempt() -> str:
        if reasons:
            raise Unavailable(reasons.pop(0))
        return "done"

    _again(attempt, 10, Log(LogLevel.WARN, writing), clock=clock, sleep=clock.sleep)
    os.close(writing)
    with os.fdopen(reading) as file:
        lines = file.read().splitlines()
    assert [line.rpartition("(): ")[2].partition(";")[0] for line in lines] == ["one", "two"]
