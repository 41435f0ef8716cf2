"""An enrolment on 18765: the shell around `EnrolmentServer`, which decides nothing.

What an applicant hears of a refusal: all of it once its token is authentic, or where the CAS's
minimum level is simulation; otherwise the check's name and a request id.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable

from crannog.cas.api.metrics import Metrics
from crannog.cas.enrolment.enroller import Applicant, Enroller
from crannog.cas.refusals import public_refusal
from crannog.errors import (
    Denied,
    Error,
    EvidenceUnverifiable,
    FormatError,
    StorageFailed,
    TooLarge,
    Unavailable,
    chain,
    hints,
)
from crannog.evidence.report import NONCE_SIZE, Channel
from crannog.exchange.enrolment import EnrolmentServer
from crannog.exchange.refusal import Refusal
from crannog.levels import Level
from crannog.transport.framed import feed
from crannog.transport.listener import Slot
from crannog.transport.log import Log, Sparse
from crannog.transport.stream import Deadline, TlsStream

_RETRY = (Unavailable, EvidenceUnverifiable, StorageFailed)


class EnrolmentApi:
    """Handles enrolments on 18765.

    Args:
        enroller: decides; None where this CAS takes no tokens.
        minimum_level: the CAS's, now.
        count: counts what is worth no line in the audit log.
        log: lines for the operator.
        metrics: counts.
        random: randomness of the nonces.
    """

    def __init__(
        self,
        enroller: Enroller | None,
        *,
        minimum_level: Callable[[], Level],
        count: Callable[[Error], None],
        log: Log,
        metrics: Metrics,
        random: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._enroller = enroller
        self._minimum_level = minimum_level
        self._count = count
        self._log = log
        self._metrics = metrics
        self._random = random
        self._sparse = Sparse()

    def run(
        self, stream: TlsStream, slot: Slot, channel: Channel, opening: bytes, deadline: Deadline
    ) -> None:
        """One enrolment on a connection after its handshake.

        Args:
            stream: the connection.
            slot: the listener's view of it.
            channel: what the proof has to be bound to.
            opening: what was read already, which `is_enrolment`.
            deadline: for all of it.

        Raises:
            Unavailable: the peer was slow or gone.
            FormatError, TooLarge: hostile bytes; the peer was told.
        """
        end = EnrolmentServer()
        end.receive(opening)
        applicant = Applicant(slot.peer, self._random(8).hex())
        try:
            while not end.opened():
                if not feed(stream, end, deadline):
                    return
            if self._enroller is None:
                stream.send(end.refusal(self._nobody(applicant)), deadline)
                return
            nonce = self._random(NONCE_SIZE)
            with slot.busy():
                stream.send(end.challenge(nonce), deadline)
            while (enrolment := end.next_event()) is None:
                if not feed(stream, end, deadline):
                    return
        except (FormatError, TooLarge) as error:
            stream.send(end.refusal(self._refusal(error, applicant)), deadline)
            raise
        with slot.busy():
            try:
                enrolled = self._enroller.enrol(enrolment, applicant, nonce=nonce, channel=channel)
                answer = end.enrolled(enrolled)
                self._metrics.enrolment("enrolled")
            except Error as error:
                answer = end.refusal(self._refusal(error, applicant))
            with slot.delivery():
                stream.send(answer, deadline)

    def _refusal(self, error: Error, applicant: Applicant) -> Refusal:
        self._count(error)
        self._metrics.enrolment(error.code)
        if (dropped := self._sparse.take()) is not None:
            self._log.warning(
                "CAS refused to enrol a LAS by token",
                reason=": ".join(filter(None, (*chain(error), error.internal))),
                peer=applicant.peer,
                request_id=applicant.request_id,
                dropped=dropped,
            )
        retry = isinstance(error, _RETRY)
        told = applicant.proved and not isinstance(error, StorageFailed)
        if told or isinstance(error, Unavailable | EvidenceUnverifiable):
            return Refusal(
                error.code, chain(error), "; ".join(hints(error)), applicant.request_id, retry
            )
        public = public_refusal(
            error,
            minimum=self._minimum_level(),
            claims=None,
            request_id=applicant.request_id,
        )
        return Refusal(
            public.code, public.messages, public.hint, applicant.request_id, public.retry
        )

    def _nobody(self, applicant: Applicant) -> Refusal:
        error = Denied(
            "this CAS enrols no LAS by token",
            hint="crannog cas serve --las-issuer …, or crannog cas las add KEY",
        )
        self._count(error)
        self._metrics.enrolment(error.code)
        return Refusal(error.code, chain(error), error.hint, applicant.request_id, retry=False)
