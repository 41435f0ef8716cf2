"""When a LAS enrols, how long it waits, and what it says; with a given clock and a given CAS."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from crannog.errors import (
    Denied,
    Error,
    FormatError,
    IntegrityError,
    Misconfigured,
    Refused,
    Unavailable,
)
from crannog.exchange.enrolment import Enrolled
from crannog.exchange.refusal import Refusal, refusal_error
from crannog.las.enrolling import (
    AGAIN_SECONDS,
    LONGEST_SECONDS,
    LOOK_SECONDS,
    REFUSED_SECONDS,
    SAY_SECONDS,
    SHORTEST_SECONDS,
    Enroller,
    EnrolmentSettings,
    pause_after,
    pause_until,
    read_token,
)
from crannog.transport.address import Address
from crannog.transport.log import server_log
from crannog.transport.tls import Pin

START = 1_800_000_000.0
CAS = Address("cas.example", 18765)
DOWN = Unavailable("cannot connect to CAS at cas.example:18765: connection refused")


class Node:
    """A LAS's enroller, the token that a kubelet keeps for it, and the CAS as it is seen."""

    def __init__(self, directory: Path) -> None:
        self.token = directory / "token"
        self.token.write_text("a.b.c")
        self.passed = 0.0
        self.clock_error = 0.0
        self.life = 3600.0
        self.answer: Callable[[str], Enrolled] = self.enrolled
        self.shown: list[tuple[float, str]] = []
        self.text = io.StringIO()
        self.enroller = Enroller(
            EnrolmentSettings(CAS, self.token, Pin(key_sha256=bytes(32))),
            Ed25519PrivateKey.generate(),
            log=server_log(self.text),
            show=self.show,
            now=lambda: START + self.passed + self.clock_error,
            clock=lambda: self.passed,
            chance=lambda: 0.0,
        )
        self.until = START + self.life

    def enrolled(self, _token: str) -> Enrolled:
        """A CAS that takes it."""
        return Enrolled(int(self.until), "node1")

    def show(self, token: str) -> Enrolled:
        self.shown.append((self.passed, token))
        return self.answer(token)

    def refusing(self, error: Error) -> None:
        """A CAS that does not."""

        def refuse(_token: str) -> Enrolled:
            raise error

        self.answer = refuse

    def replace(self, token: str) -> None:
        """As the kubelet does, after four fifths of the token's life."""
        self.token.write_text(token)
        self.until = START + self.passed + self.life

    def run(self, seconds: float) -> list[float]:
        """When tokens were shown in that time."""
        before, end = len(self.shown), self.passed + seconds
        while True:
            pause = self.enroller.step()
            assert pause >= 0
            if self.passed + max(pause, 0.001) > end:
                self.passed = end
                return [moment for moment, _ in self.shown[before:]]
            self.passed += max(pause, 0.001)

    def lines(self) -> list[str]:
        return [line.rpartition(" time=")[0] for line in self.text.getvalue().splitlines()]


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


# --- when -----------------------------------------------------------------------------------------


def test_it_enrols_at_its_start_and_says_so(node: Node) -> None:
    assert node.run(1) == [0.0]
    assert node.lines() == [
        "INFO LAS is enrolled at CAS cas.example:18765 as node node1 until 2027-01-15T09:00:00Z"
    ]


def test_it_enrols_again_within_ten_minutes(node: Node) -> None:
    assert node.run(2000) == [0.0, 600.0, 1200.0, 1800.0]
    assert len(node.lines()) == 1


def test_it_enrols_after_half_of_the_time_that_is_left(node: Node) -> None:
    node.life = 600
    node.until = START + 600
    assert node.run(599) == [0.0, 300.0, 450.0, 525.0, 585.0]


def test_a_token_that_the_kubelet_replaced_is_shown_soon(node: Node) -> None:
    node.run(100)
    node.replace("d.e.f")
    node.run(LOOK_SECONDS)
    assert node.shown[-1][1] == "d.e.f"
    # The expiry has moved.
    assert len(node.lines()) == 2


def test_a_token_is_not_shown_again_when_the_file_is_written_with_the_same(node: Node) -> None:
    node.run(10)
    node.token.write_text("a.b.c\n")
    assert node.run(200) == []


def test_a_las_that_is_enrolled_by_hand_asks_every_ten_minutes_and_says_it_once(
    node: Node,
) -> None:
    node.answer = lambda _token: Enrolled(None, "node1")
    assert node.run(2000) == [0.0, 600.0, 1200.0, 1800.0]
    assert node.lines() == [
        "INFO LAS is enrolled at CAS cas.example:18765 as node node1 until it is removed"
    ]


@pytest.mark.parametrize("error", [3600.0, 86400.0 * 365, 1e9])
def test_a_fast_clock_does_not_make_it_enrol_without_end(node: Node, error: float) -> None:
    node.clock_error = error
    moments = node.run(3600)
    assert len(moments) <= 3600 / SHORTEST_SECONDS + 1


@pytest.mark.parametrize("error", [-3600.0, -86400.0 * 365, -1e9])
def test_a_slow_clock_does_not_keep_it_from_renewing(node: Node, error: float) -> None:
    node.clock_error = error
    assert node.run(1300) == [0.0, 600.0, 1200.0]


def test_a_clock_that_jumps_changes_nothing_of_what_is_due(node: Node) -> None:
    node.run(10)
    for jump in (1e6, -1e6):
        node.clock_error = jump
        assert node.run(100) == []


@pytest.mark.parametrize("expires", [0, int(START) - 1, int(START) + 1, 253402300799])
def test_whatever_a_cas_says_of_the_expiry_the_pause_is_bounded(expires: int) -> None:
    pause = pause_until(Enrolled(expires, "n"), START)
    assert SHORTEST_SECONDS <= pause <= LONGEST_SECONDS


def test_the_latest_moment_that_a_cas_can_name_is_said(node: Node) -> None:
    node.until = 253402300799
    node.run(1)
    assert "until 9999-12-31T23:59:59Z" in node.lines()[0]


# --- failures -------------------------------------------------------------------------------------


def test_a_cas_that_is_down_at_the_start_is_tried_again_less_and_less_often(node: Node) -> None:
    node.refusing(DOWN)
    assert node.run(200) == [0, 1, 3, 7, 15, 31, 63, 123, 183]
    node.answer = node.enrolled
    node.run(AGAIN_SECONDS)
    assert node.lines()[-1].startswith("INFO LAS is enrolled")


def test_a_refusal_is_tried_again_but_seldom(node: Node) -> None:
    node.refusing(Refused("the CAS does not enrol this LAS: no"))
    assert node.run(1200) == [0, 1, 3, 7, 15, 31, 63, 127, 255, 511, 811, 1111]


def test_after_success_it_starts_anew(node: Node) -> None:
    node.refusing(DOWN)
    node.run(100)
    node.answer = node.enrolled
    node.run(100)
    node.refusing(DOWN)
    first, second, third, *_ = node.run(700)
    assert (second - first, third - second) == (1, 2)


def test_a_token_that_replaces_a_refused_one_is_shown_soon(node: Node) -> None:
    node.refusing(Refused("the CAS does not enrol this LAS: token expired 5 s ago"))
    node.run(1000)
    node.replace("d.e.f")
    node.answer = node.enrolled
    (moment,) = node.run(LOOK_SECONDS)
    assert moment <= 1000 + LOOK_SECONDS
    assert node.shown[-1][1] == "d.e.f"


@pytest.mark.parametrize("failures", [1, 5, 20, 1000, 10**9])
@pytest.mark.parametrize(
    ("error", "longest"),
    [
        (DOWN, AGAIN_SECONDS),
        (Refused("no"), REFUSED_SECONDS),
        (Denied("not the pinned one"), REFUSED_SECONDS),
        (FormatError("nonsense"), REFUSED_SECONDS),
        (IntegrityError("false"), REFUSED_SECONDS),
    ],
)
def test_the_pause_is_bounded(error: Error, longest: float, failures: int) -> None:
    assert 1 <= pause_after(error, failures) <= longest


def test_nodes_do_not_all_try_again_at_once(node: Node) -> None:
    node.enroller._chance = lambda: 1.0
    node.refusing(DOWN)
    assert node.run(3) == [0, 0.75, 2.25]


def test_a_defect_of_ours_does_not_end_the_renewals(tmp_path: Path) -> None:
    node = Node(tmp_path)

    def broken(_token: str) -> Enrolled:
        if len(node.shown) < 2:
            raise AssertionError("a.b.c")
        node.enroller._stop.set()
        return Enrolled(int(node.until), "node1")

    node.answer = broken
    node.enroller._stop.wait = lambda timeout=None: False  # type: ignore[method-assign]
    node.passed = 0.0
    node.enroller._clock = lambda: float(len(node.shown)) * 1e6
    node.enroller._run()
    first, last = node.lines()
    assert "internal error: AssertionError" in first
    assert "a.b.c" not in first
    assert last.startswith("INFO LAS is enrolled")


# --- what it says ---------------------------------------------------------------------------------


def refusal(text: str, request_id: str) -> Error:
    """As a CAS says it, with a request id that is another one each time."""
    code = Refusal("denied", (text,), "a hint", request_id, retry=False)
    return refusal_error(code, "the CAS does not enrol this LAS")


def test_a_reason_is_said_once_though_its_numbers_change(node: Node) -> None:
    node.refusing(refusal("token expired 5 s ago, request id 00112233445566aa", "00112233445566aa"))
    node.run(3)
    node.refusing(refusal("token expired 9 s ago, request id ffeeddccbbaa9988", "ffeeddccbbaa9988"))
    node.run(100)
    (line,) = node.lines()
    assert line == (
        "WARNING LAS is not enrolled at CAS cas.example:18765: the CAS does not enrol this LAS: "
        "token expired 5 s ago, request id 00112233445566aa; a hint; the request id is "
        "00112233445566aa"
    )


def test_a_new_reason_is_said_at_once(node: Node) -> None:
    node.refusing(refusal("token's audience is 'a'", "00112233445566aa"))
    node.run(3)
    node.refusing(refusal("token's subject is 'a'", "00112233445566aa"))
    node.run(30)
    first, second = node.lines()
    assert "audience" in first
    assert "subject" in second


def test_a_reason_is_said_again_after_a_while(node: Node) -> None:
    node.refusing(DOWN)
    node.run(SAY_SECONDS * 3)
    assert 3 <= len(node.lines()) <= 4


def test_it_says_how_long_it_is_still_enrolled(node: Node) -> None:
    node.run(10)
    node.refusing(DOWN)
    node.run(700)
    line = node.lines()[1]
    assert line.endswith("connection refused; still enrolled until 2027-01-15T09:00:00Z")
    node.run(3600)
    assert "still enrolled" not in node.lines()[-1]


def test_it_says_when_it_is_enrolled_again(node: Node) -> None:
    node.run(10)
    node.refusing(DOWN)
    node.run(700)
    node.answer = node.enrolled
    node.run(100)
    kinds = [line.split()[0] for line in node.lines()]
    assert kinds == ["INFO", "WARNING", "INFO"]


def test_no_line_holds_a_token(node: Node) -> None:
    node.run(10)
    node.refusing(DOWN)
    node.run(1000)
    node.token.write_bytes(b"a.b.c\n\xff")
    node.run(100)
    assert "a.b.c" not in node.text.getvalue()


@pytest.mark.parametrize("pin", [None, Pin(key_sha256=bytes(32))])
def test_without_a_pin_it_warns_of_false_cases(tmp_path: Path, pin: Pin | None) -> None:
    text = io.StringIO()
    settings = EnrolmentSettings(CAS, tmp_path / "nothing", pin)
    enroller = Enroller(settings, Ed25519PrivateKey.generate(), log=server_log(text))
    enroller.start()
    enroller.stop()
    assert ("WARNING LAS enrols at whatever CAS answers" in text.getvalue()) is (pin is None)


# --- the token file -------------------------------------------------------------------------------


def test_a_token_file_that_is_not_there_yet_is_waited_for(node: Node) -> None:
    node.token.unlink()
    assert node.run(100) == []
    (line,) = node.lines()
    assert "token cannot be read: no such file or directory" in line
    assert "project a serviceAccountToken" in line
    node.replace("a.b.c")
    assert len(node.run(LOOK_SECONDS)) == 1


def test_a_token_file_that_goes_and_comes_back_is_said(node: Node) -> None:
    node.run(10)
    node.token.unlink()
    node.run(100)
    assert "still enrolled until" in node.lines()[1]
    node.token.write_text("a.b.c")
    node.run(LOOK_SECONDS)
    assert node.lines()[-1].startswith("INFO LAS is enrolled")


def test_the_kubelet_s_links_are_followed_and_its_change_is_seen(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "token").write_text(f"{name}.b.c")
    (tmp_path / "..data").symlink_to("one")
    token = tmp_path / "token"
    token.symlink_to("..data/token")
    assert read_token(token) == "one.b.c"
    (tmp_path / "new").symlink_to("two")
    (tmp_path / "new").rename(tmp_path / "..data")
    assert read_token(token) == "two.b.c"


def test_a_line_end_is_no_part_of_the_token(node: Node) -> None:
    node.token.write_text(" a.b.c\r\n")
    assert read_token(node.token) == "a.b.c"


@pytest.mark.parametrize(
    "data",
    [b"", b"\n\n", b"a" * 16_385, b"a" * 10_000_000, b"a\nb", b"a\0b", b"\xff\xfe", "ä".encode()],
    ids=range(8),
)
def test_a_file_that_holds_no_token_is_named(node: Node, data: bytes) -> None:
    node.token.write_bytes(data)
    with pytest.raises(Misconfigured, match="does not hold a service account token"):
        read_token(node.token)


def test_the_longest_token_is_read(node: Node) -> None:
    node.token.write_text("a" * 16_384 + "\n")
    assert len(read_token(node.token)) == 16_384


def test_what_is_no_regular_file_is_named_and_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (pipe, Path("/dev/null")):
        with pytest.raises(Misconfigured, match="not a regular file"):
            read_token(path)
    with pytest.raises(Misconfigured):
        read_token(tmp_path)


def test_a_link_that_leads_round_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("a")
    with pytest.raises(Misconfigured, match="cannot be read"):
        read_token(tmp_path / "a")
