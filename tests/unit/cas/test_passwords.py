"""One-time passwords at the CAS: each once, within its time, and not by guessing."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from crannog.cas.audit import export_audit_log
from crannog.cas.keys import FileKey
from crannog.cas.passwords import INVALID, TRIES, USED, OneTimePasswords, Scope, Spent
from crannog.cas.service import CasService
from crannog.errors import Denied, Error, EvidenceRejected, chain, hints
from crannog.session.otp import STEP_SECONDS, one_time_password, time_step
from tests.unit.cas.support import ALICE, NOW, OTHER, claims, service, session

SECRET = base64.b32encode(b"12345678901234567890").decode()
ELSE = base64.b32encode(b"another secret of 20").decode()
SCOPE = Scope("hello", "security")
MORE = f"security: {{attestation: {{one_time_password_shared_secret: {SECRET}}}}}"


def code(moment: datetime, secret: str = SECRET) -> str:
    return one_time_password(secret, time_step(moment.timestamp()))


def later(steps: float, moment: datetime = NOW) -> datetime:
    return moment + timedelta(seconds=steps * STEP_SECONDS)


def spend(passwords: OneTimePasswords, given: str | None, now: datetime = NOW) -> int:
    return passwords.spend(SCOPE, SECRET, given, now)


def denied(passwords: OneTimePasswords, given: str | None, now: datetime = NOW) -> Denied:
    with pytest.raises(Denied) as caught:
        spend(passwords, given, now)
    if given:
        assert given not in " ".join((*chain(caught.value), *hints(caught.value)))
    return caught.value


@pytest.mark.parametrize("steps", [-1, 0, 1])
def test_the_codes_of_the_present_and_beside_it_are_good(steps: int) -> None:
    assert spend(OneTimePasswords(), code(later(steps))) == time_step(later(steps).timestamp())


@pytest.mark.parametrize("steps", [-3, -2, 2, 3])
def test_codes_beyond_are_not(steps: int) -> None:
    assert denied(OneTimePasswords(), code(later(steps))).message == INVALID


def test_an_expired_code_is_called_so() -> None:
    error = denied(OneTimePasswords(), code(later(-10)))
    assert chain(error)[1] == "it has expired: its time-step began about 300 seconds ago"


def test_a_code_is_good_once() -> None:
    passwords = OneTimePasswords()
    spend(passwords, code(NOW))
    error = denied(passwords, code(NOW))
    assert error.message == USED
    assert denied(passwords, code(NOW), later(1)).message == USED
    spend(passwords, code(later(1)), later(1))


def test_one_code_before_and_one_after_are_two_codes() -> None:
    passwords = OneTimePasswords()
    spend(passwords, code(later(1)))
    spend(passwords, code(NOW))
    spend(passwords, code(later(-1)))
    assert denied(passwords, code(NOW)).message == USED


@pytest.mark.parametrize("steps", [5, 100, 100_000])
def test_a_used_code_is_not_good_again_when_the_clock_is_set_back(steps: int) -> None:
    passwords, other = OneTimePasswords(), Scope("other", "security")
    spend(passwords, code(NOW))
    # Another session's, and later this one's.
    passwords.spend(other, SECRET, code(later(steps)), later(steps))
    assert denied(passwords, code(NOW)).message == USED
    spend(passwords, code(later(steps)), later(steps))
    assert denied(passwords, code(NOW)).message == USED
    assert "clock" in denied(passwords, code(NOW)).hint
    spend(passwords, code(later(steps + 1)), later(steps + 1))


def test_what_was_spent_before_is_spent() -> None:
    step = time_step(NOW.timestamp())
    assert denied(OneTimePasswords([Spent(SCOPE, step)]), code(NOW)).message == USED


def test_another_service_s_code_is_another() -> None:
    passwords = OneTimePasswords()
    spend(passwords, code(NOW))
    passwords.spend(Scope("hello", "services/b"), ELSE, code(NOW, ELSE), NOW)


@pytest.mark.parametrize(
    "given", ["", "12345", "1234567", "abcdef", "１２３４５６", "000000 ", "-00001"]
)
def test_what_is_no_code_is_refused(given: str) -> None:
    assert denied(OneTimePasswords(), given).message == INVALID


def test_none_at_all_is_refused_with_how_to_make_one() -> None:
    error = denied(OneTimePasswords(), None)
    assert "oathtool --totp -b" in error.hint
    assert SECRET not in error.hint


def wrong_code() -> str:
    near = {code(later(steps)) for steps in range(-200, 10)}
    return next(f"{number:06d}" for number in range(1000) if f"{number:06d}" not in near)


def test_guessing_is_slowed_down_more_and_more() -> None:
    passwords = OneTimePasswords()
    wrong = wrong_code()
    now = NOW
    for wait in (30, 60, 120, 240):
        for _ in range(TRIES):
            assert denied(passwords, wrong, now).message == INVALID
        error = denied(passwords, code(now), now)
        assert "too many" in error.message
        assert error.hint == f"wait {wait + 1} seconds"
        now += timedelta(seconds=wait)
    spend(passwords, code(now), now)
    assert denied(passwords, wrong, now).message == INVALID
    spend(passwords, code(later(1, now)), now)


def test_guessing_at_one_session_does_not_lock_another() -> None:
    passwords = OneTimePasswords()
    for _ in range(TRIES):
        denied(passwords, wrong_code())
    passwords.spend(Scope("other", "security"), SECRET, code(NOW), NOW)


# --- in a CAS -------------------------------------------------------------------------------------


@pytest.fixture
def clock() -> list[datetime]:
    return [NOW]


@pytest.fixture
def cas(tmp_path: Path, clock: list[datetime]) -> Iterator[CasService]:
    found = service(tmp_path, now=lambda: clock[0])
    found.create_session(session(more=MORE), ALICE)
    yield found
    found.close()


def start(cas: CasService, otp: str | None, **changes: str) -> None:
    cas.configure(
        "hello/application",
        claims(mrenclave=changes.get("mrenclave", claims().mrenclave.hex())),
        otp=otp,
        service_access_token=changes.get("token"),
        peer="peer",
        request_id="r",
    )


def test_a_program_with_the_present_code_is_configured(cas: CasService) -> None:
    start(cas, code(NOW))
    with pytest.raises(Denied, match="already used"):
        start(cas, code(NOW))


def test_a_program_without_one_is_refused(cas: CasService) -> None:
    with pytest.raises(Denied, match="asks for a one-time password"):
        start(cas, None)


def test_who_is_refused_for_something_else_has_spent_none(cas: CasService) -> None:
    with pytest.raises(EvidenceRejected):
        start(cas, code(NOW), mrenclave=OTHER)
    start(cas, code(NOW))


def test_a_wrong_token_spends_no_code(tmp_path: Path) -> None:
    cas = service(tmp_path)
    more = MORE[:-1] + ", service_access_token: sesame}"
    cas.create_session(session(more=more), ALICE)
    with pytest.raises(Denied, match="token"):
        start(cas, code(NOW), token="wrong")
    start(cas, code(NOW), token="sesame")
    cas.close()


def test_a_spent_code_stays_spent_after_a_restart(
    cas: CasService, tmp_path: Path, clock: list[datetime]
) -> None:
    start(cas, code(NOW))
    cas.close()
    clock[0] = later(1)
    again = service(tmp_path, now=lambda: clock[0])
    with pytest.raises(Denied, match="already used"):
        start(again, code(NOW))
    start(again, code(later(1)))
    again.close()


def test_the_audit_log_has_the_step_and_never_the_code(cas: CasService, tmp_path: Path) -> None:
    for given in (code(NOW), code(later(-10)), wrong_code(), code(NOW)):
        try:
            start(cas, given)
        except Error:
            continue
    keys = FileKey(tmp_path / "master.key")
    log = b"".join(export_audit_log(tmp_path / "cas.db", keys=keys)).decode()
    assert f'"otp_step":"{time_step(NOW.timestamp())}"' in log
    assert log.count("attestation refused") == 3
    for given in (code(NOW), code(later(-10)), wrong_code(), SECRET):
        assert f'"{given}' not in log
        assert f" {given}" not in log


def test_a_code_is_good_once_for_two_services_that_share_its_secret(tmp_path: Path) -> None:
    cas = service(tmp_path)
    text = session(more=MORE).decode()
    first = text.index("  - name: application")
    end = text.index("security:")
    second = text[first:end].replace("application", "second").rstrip() + "\n"
    cas.create_session((text[:first] + second + text[first:]).encode(), ALICE)
    start(cas, code(NOW))
    with pytest.raises(Denied, match="already used"):
        cas.configure(
            "hello/second",
            claims("hello/second"),
            otp=code(NOW),
            service_access_token=None,
            peer="peer",
            request_id="r",
        )
    cas.close()


def test_of_many_at_once_with_one_code_exactly_one_is_configured(cas: CasService) -> None:
    import threading

    results: list[str] = []

    def run() -> None:
        try:
            start(cas, code(NOW))
            results.append("configured")
        except Denied as error:
            results.append(error.message)

    threads = [threading.Thread(target=run) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [USED] * 15 + ["configured"]


@pytest.mark.parametrize(
    ("before", "after", "wider"),
    [(MORE, "", True), ("", MORE, False), (MORE, MORE.replace(SECRET, ELSE), True)],
)
def test_an_update_that_changes_or_drops_the_secret_is_called_wider(
    before: str, after: str, wider: bool
) -> None:
    from crannog.cas.changes import widened
    from crannog.session.load import load_session

    old, new = (load_session(session(more=more)).session for more in (before, after))
    assert bool(widened(old, new)) == wider
