"""May this LAS be enrolled by this token? The recipe, and what becomes of it.

Everything that docs/formats/enrolment.md lists under "What is checked", in that order. The list and
the audit log are `Trusted`'s, what is said on the connection is `connection`'s.
"""

from __future__ import annotations

import ipaddress
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from datetime import UTC, datetime

from crannog.cas.enrolment.issuer_keys import IssuerKeys
from crannog.cas.enrolment.token import (
    Claims,
    Expected,
    judge,
    parse_claims,
    read_header,
    verify_token,
)
from crannog.cas.las_keys import check_las_key
from crannog.cas.store.accepted import Enrolment as Kept
from crannog.cas.store.records import timestamp
from crannog.cas.trusted import Trusted
from crannog.errors import (
    Conflict,
    Denied,
    Error,
    EvidenceUnverifiable,
    TooLarge,
    Unavailable,
    chain,
)
from crannog.evidence.report import Channel
from crannog.exchange.enrolment import Enrolled, Enrolment, check_proof
from crannog.transport.log import Log
from crannog.transport.pace import Pace

AT_ONCE = 8
"""Enrolments that are looked at in all: each may wait for the issuer's keys, and for the disk."""

LINES_AT_ONCE = 8
"""Refusals of one pod's tokens that the audit log keeps at once: a thief has keys without end."""

_LINES_PER_SECOND = 1 / 600
_REMEMBERED = 256


class Applicant:
    """Who asks on one connection.

    Attributes:
        peer: its address.
        request_id: under which it and the operator speak of it.
        proved: whether its token is authentic: then it hears why it is refused.
    """

    def __init__(self, peer: str, request_id: str) -> None:
        self.peer = peer
        self.request_id = request_id
        self.proved = False


class Enroller:
    """Enrols LASes of one cluster. May be called from any thread.

    Args:
        trusted: where they are enrolled.
        keys: the cluster's keys.
        expected: what a token has to say.
        log: lines for the operator.
        now: the clock.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        trusted: Trusted,
        keys: IssuerKeys,
        expected: Expected,
        *,
        log: Log,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._trusted = trusted
        self._keys = keys
        self._expected = expected
        self._log = log
        self._now = now
        self._clock = clock
        self._strangers = Pace()
        self._keys_shown = Pace()
        self._lines = Pace(LINES_AT_ONCE, _LINES_PER_SECOND)
        self._places = threading.BoundedSemaphore(AT_ONCE)
        self._lock = threading.Lock()
        self._told: OrderedDict[tuple[bytes, str, str], None] = OrderedDict()

    def enrol(
        self, enrolment: Enrolment, applicant: Applicant, *, nonce: bytes, channel: Channel
    ) -> Enrolled:
        """Enrol the LAS, or renew that; returns when it is on disk.

        Args:
            enrolment: what it sent.
            applicant: learns whether its token is authentic.
            nonce: of this connection.
            channel: likewise.

        Raises:
            Unavailable: too often, too many; try again.
            FormatError, TooLarge, IntegrityError, Denied: what does not pass, and why.
            EvidenceUnverifiable: the issuer's keys are not to be had.
            Conflict: the node or the key is taken.
            StorageFailed: nothing was changed.
        """
        # (1) each may wait for the issuer's keys, or for the disk
        if not self._places.acquire(blocking=False):
            raise Unavailable(f"{AT_ONCE} enrolments are being looked at already")
        try:
            try:
                data = self._authentic(enrolment, nonce, channel)
            except EvidenceUnverifiable:
                raise
            except Error as error:
                # A stranger's address pays, and nobody who has a token: others may have it too.
                self._slow(self._strangers, _network(applicant.peer), "address", error)
                raise
            applicant.proved = True
            self._slow(self._keys_shown, enrolment.public_key, "LAS key", None)
            # (7) it names account, pod and node
            claims = parse_claims(data)
            # (8, 9) for this CAS, from a service account that may, and in time
            judge(claims, self._expected, self._now())
            # (10) nobody's place is taken
            return self._admit(enrolment.public_key, claims, applicant)
        finally:
            self._places.release()

    def _slow(self, pace: Pace, who: Hashable, what: str, error: Error | None) -> None:
        if not pace.take(who, self._clock()):
            raise Unavailable(
                f"this {what} enrols too often", internal=error.message if error else ""
            ) from None

    def _authentic(self, enrolment: Enrolment, nonce: bytes, channel: Channel) -> bytes:
        # (2, 3) who speaks holds the key, on this connection
        check_las_key(enrolment.public_key)
        check_proof(enrolment, nonce=nonce, channel=channel)
        # (4, 5, 6) the issuer has signed the token; before that nothing in it counts
        header = read_header(enrolment.token)
        return verify_token(enrolment.token, header, self._keys.find(header.kid))

    def _admit(self, key: bytes, claims: Claims, applicant: Applicant) -> Enrolled:
        kept = Kept(
            issuer=claims.issuer,
            subject=claims.subject,
            node=claims.node,
            pod=claims.pod,
            pod_uid=claims.pod_uid,
            issued=claims.issued,
            expires=claims.expires,
        )
        notes = (
            ("source", "token"),
            ("issuer", claims.issuer),
            ("node", claims.node),
            ("pod", claims.pod),
            ("pod_uid", claims.pod_uid),
            ("jti", claims.token_id),
            ("expires", timestamp(datetime.fromtimestamp(claims.expires, UTC))),
            ("peer", applicant.peer),
            ("request", applicant.request_id),
        )
        try:
            admitted = self._trusted.admit_las(key, kept, notes)
        except (Denied, Conflict, TooLarge) as error:
            # One line in the audit log for each reason, however often a LAS tries again.
            if self._first((key, claims.pod_uid, error.code)) and self._lines.take(
                claims.pod_uid, self._clock()
            ):
                reason = ("reason", "; ".join(chain(error)))
                self._trusted.refuse_las(key, kept, (*notes, reason))
            raise
        if admitted.began:
            self._log.info(
                f"CAS enrolled LAS {key.hex()} by token",
                node=claims.node,
                subject=claims.subject,
                pod=claims.pod,
                until=_seconds(claims.expires),
                request_id=applicant.request_id,
            )
        return Enrolled(admitted.expires, claims.node)

    def _first(self, what: tuple[bytes, str, str]) -> bool:
        with self._lock:
            known = what in self._told
            self._told[what] = None
            self._told.move_to_end(what)
            while len(self._told) > _REMEMBERED:
                self._told.popitem(last=False)
            return not known


def _network(peer: str) -> str:
    """Whose bucket it is: the host's address, of IPv6 the network that a host can choose from."""
    host = peer.rpartition(":")[0].strip("[]").partition("%")[0]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return peer
    if address.version == 6 and address.ipv4_mapped is None:
        return str(ipaddress.ip_network((address.packed[:8] + bytes(8), 64)))
    return str(address)


def _seconds(moment: int) -> str:
    return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%dT%H:%M:%SZ}"
