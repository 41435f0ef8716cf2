"""One-time passwords through a real CAS: told to whom, and never repeated."""

from __future__ import annotations

import base64
import time
from pathlib import Path

import pytest

from crannog.errors import Refused
from crannog.levels import Level
from crannog.session.otp import one_time_password, time_step
from crannog.transport.client import Wanted, attest
from tests.api.helpers import LAUNCHER, SESSION, Cas, running, statement

SECRET = base64.b32encode(b"12345678901234567890").decode()
TEXT = SESSION + f"security: {{attestation: {{one_time_password_shared_secret: {SECRET}}}}}\n"


def code(seconds_ago: float = 0) -> str:
    return one_time_password(SECRET, time_step(time.time() - seconds_ago))


def configured(cas: Cas, otp: str | None) -> Level:
    return attest(
        cas.enclave,
        Wanted("tutorial/application", LAUNCHER, otp),
        lambda bound: (statement(bound),),
        seconds=20,
    ).level


def refused(cas: Cas, otp: str | None) -> Refused:
    with pytest.raises(Refused) as caught:
        configured(cas, otp)
    text = " ".join((caught.value.message, *caught.value.messages, caught.value.hint))
    for secret in (otp, SECRET):
        assert not secret or secret not in text.split()
        assert not secret or secret not in cas.logged.text.replace("=", " ").split()
    return caught.value


def test_a_code_is_good_once(tmp_path: Path) -> None:
    with running(tmp_path / "state") as cas:
        cas.post(TEXT)
        present = code()
        assert configured(cas, present) is Level.SIMULATION
        error = refused(cas, present)
        assert "A One-time Password was already used within this time-step." in error.message


def test_an_expired_code_and_none_at_all(tmp_path: Path) -> None:
    with running(tmp_path / "state") as cas:
        cas.post(TEXT)
        error = refused(cas, code(600))
        assert "The given One-time Password is invalid. Please try again." in error.message
        assert error.messages[0].startswith("it has expired: its time-step began about 6")
        assert "SCONE_CONFIG_ID=SESSION/SERVICE@CODE" in refused(cas, None).hint
        configured(cas, code())


def test_a_spent_code_stays_spent_when_the_cas_starts_again(tmp_path: Path) -> None:
    with running(tmp_path / "state") as cas:
        cas.post(TEXT)
        present = code()
        configured(cas, present)
    with running(tmp_path / "state", minimum_level=None) as cas:
        assert "already used" in refused(cas, present).message


def test_a_stranger_of_a_real_cas_learns_nothing_of_codes(tmp_path: Path) -> None:
    with running(tmp_path / "state", minimum_level=Level.NODE) as cas:
        cas.post(TEXT)
        error = refused(cas, code(600))
        assert "refused by check evidence-rejected" in error.message
        assert "expired" not in " ".join((error.message, *error.messages))
