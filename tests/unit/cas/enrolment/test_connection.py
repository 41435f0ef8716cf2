"""What an applicant hears of a refusal, by what happened and by what he has proved."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from crannog.cas.api.metrics import Metrics
from crannog.cas.enrolment.connection import EnrolmentApi
from crannog.cas.enrolment.enroller import Applicant
from crannog.errors import (
    Conflict,
    Denied,
    Error,
    EvidenceUnverifiable,
    StorageFailed,
    TooLarge,
    Unavailable,
)
from crannog.evidence.report import Channel
from crannog.exchange.enrolment import OPENING, Enrolled, Enrolment, prove
from crannog.levels import Level
from crannog.transport.log import server_log
from crannog.transport.stream import Deadline

NONCE = bytes(range(32))
CHANNEL = Channel(b"e" * 32, b"client", b"server")
MADE = prove(Ed25519PrivateKey.generate(), "a.b.c", nonce=NONCE, channel=CHANNEL)


class Connection:
    """A stream and a slot in one, whose peer has said everything beforehand."""

    peer = "10.0.0.1:1000"

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []

    def send(self, data: bytes, _deadline: Deadline) -> None:
        self.sent.append(json.loads(data[4:]))

    def receive(self, _deadline: Deadline) -> bytes:
        message = {
            "type": "enrolment",
            "public_key": MADE.public_key.hex(),
            "token": MADE.token,
            "proof": MADE.proof.hex(),
        }
        data = json.dumps(message).encode()
        return len(data).to_bytes(4, "big") + data

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        yield

    delivery = busy


class Refusing:
    """An enroller that says what it is told to."""

    def __init__(self, error: Error | None, *, proved: bool) -> None:
        self._error = error
        self._proved = proved

    def enrol(
        self, _enrolment: Enrolment, applicant: Applicant, *, nonce: bytes, channel: Channel
    ) -> Enrolled:
        assert (nonce, channel) == (NONCE, CHANNEL)
        applicant.proved = self._proved
        if self._error is not None:
            raise self._error
        return Enrolled(5, "node1")


class Heard:
    """One enrolment at a CAS with that minimum level."""

    def __init__(
        self, error: Error | None, *, proved: bool = False, level: Level = Level.NODE
    ) -> None:
        text = io.StringIO()
        self.counted: list[Error] = []
        self.metrics = Metrics()
        api = EnrolmentApi(
            Refusing(error, proved=proved),  # type: ignore[arg-type]
            minimum_level=lambda: level,
            count=self.counted.append,
            log=server_log(text),
            metrics=self.metrics,
            random=lambda size: NONCE[:size],
        )
        connection: Any = Connection()
        api.run(connection, connection, CHANNEL, OPENING, Deadline.after(10))
        self.answer = connection.sent[-1]
        self.log = text.getvalue()

    @property
    def text(self) -> str:
        return "; ".join((*self.answer["messages"], self.answer["hint"]))


SECRET = "cluster/of/mine"


def test_who_is_enrolled_hears_until_when() -> None:
    heard = Heard(None, proved=True)
    assert heard.answer == {"type": "enrolled", "expires": 5, "node": "node1"}
    assert heard.log == ""
    assert b'outcome="enrolled"} 1.0' in heard.metrics.text()


@pytest.mark.parametrize("kind", [Denied, Conflict, TooLarge])
def test_a_stranger_hears_the_check_s_name(kind: type[Error]) -> None:
    heard = Heard(kind(SECRET, hint=SECRET, internal=SECRET))
    assert SECRET not in str(heard.answer)
    assert heard.text.startswith(f"refused by check {kind.code}, request id 0001020304050607")
    assert heard.answer["request_id"] == "0001020304050607"
    assert heard.log.count(SECRET) == 2
    assert [type(one) for one in heard.counted] == [kind]
    assert f'outcome="{kind.code}"}} 1.0'.encode() in heard.metrics.text()


@pytest.mark.parametrize("kind", [Denied, Conflict, TooLarge])
def test_who_has_an_authentic_token_hears_the_reason_and_not_what_is_internal(
    kind: type[Error],
) -> None:
    heard = Heard(kind("a reason", hint="a hint", internal=SECRET), proved=True)
    assert heard.text == "a reason; a hint"
    assert not heard.answer["retry"]
    assert SECRET not in str(heard.answer)


def test_where_simulation_is_accepted_everybody_hears_the_reason() -> None:
    assert Heard(Denied("a reason"), level=Level.SIMULATION).text == "a reason; "


@pytest.mark.parametrize("kind", [Unavailable, EvidenceUnverifiable])
@pytest.mark.parametrize("proved", [False, True])
def test_what_may_pass_later_is_told_to_everybody(kind: type[Error], proved: bool) -> None:
    heard = Heard(kind("try later", internal=SECRET), proved=proved)
    assert heard.text == "try later; "
    assert heard.answer["retry"]
    assert SECRET not in str(heard.answer)
    assert SECRET in heard.log


@pytest.mark.parametrize("proved", [False, True])
@pytest.mark.parametrize("level", [Level.SIMULATION, Level.NODE])
def test_the_state_of_the_disk_is_the_operator_s(proved: bool, level: Level) -> None:
    heard = Heard(StorageFailed(f"/var/lib/{SECRET}: no space"), proved=proved, level=level)
    assert heard.text == "the CAS cannot store anything now; try again later"
    assert heard.answer["retry"]
    assert SECRET in heard.log
