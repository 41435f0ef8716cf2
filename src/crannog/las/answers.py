"""The LAS's answers to one peer: who asks, whether it still may, and at which level.

Sockets and listeners are the server's (`crannog.las.server`); rules are the witness's.
"""

from __future__ import annotations

import time
from collections.abc import Hashable
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from crannog.errors import Denied
from crannog.evidence.envelope import Envelope
from crannog.evidence.statement import METHOD_LAS_TCP, METHOD_LAS_UNIX
from crannog.exchange.las import QuoteRequest, Status
from crannog.las.peer import Acknowledged, Connected
from crannog.las.quoting import OVER_TCP, UNSEEN, lower, status, vouch
from crannog.las.vouching import Run, Verdict, Witness, run_of
from crannog.transport.log import Log, Sparse

NODE = "STARTER: LAS vouches at trust level node on its socket"
SIMULATION = "STARTER: LAS vouches at trust level simulation only"
CHANGED = "the process changed while it was looked at"
EARLY = (
    "this kernel (before Linux 6.5) gives the asking process's id only, and the question came "
    "before the LAS had looked at that process: a launcher probes first"
)


class Vouching(NamedTuple):
    """What this LAS can do.

    Attributes:
        witness: looks at processes; None where it cannot, and `missing` says why.
        missing: why nothing will be of level node while this LAS runs; "" where it may be.
    """

    witness: Witness | None
    missing: str

    def unready(self) -> str:
        """Why nothing is of level node now; "" where it may be."""
        if self.missing or self.witness is None:
            return self.missing or "the LAS looks at no process"
        return self.witness.unready()


class Answers:
    """Answers the questions of all peers.

    Args:
        key: signs.
        vouching: what this LAS can do.
        log: for what is refused or of a lower level than could be.
    """

    def __init__(self, key: Ed25519PrivateKey, vouching: Vouching, log: Log) -> None:
        self._key = key
        self._vouching = vouching
        self._log = log
        self._sparse = Sparse()
        # Apart, so that processes without number do not push out a container's.
        self._peers = Acknowledged()
        self._runs = Acknowledged()
        self._was_unready = "not looked yet"

    def start(self) -> None:
        """Say in the log what this LAS vouches for."""
        unready = self._unready()
        if unready:
            self._log.warning(f"{SIMULATION}: {unready}")

    def status(self, method: str) -> Status:
        """What this LAS is, for somebody connected by `method`."""
        return status(method=method, unready=self._unready(), key=self._key)

    def quote(self, request: QuoteRequest, asker: Asker) -> Envelope:
        """The statement about the peer.

        Raises:
            Denied: it has, or its container has, got a configuration already.
        """
        self._refuse_peer(asker)
        if asker.method == METHOD_LAS_TCP:
            return self._lower(request, METHOD_LAS_TCP, OVER_TCP)
        connected = asker.connected
        witness, unready = self._vouching.witness, self._unready()
        if witness is None or unready:
            self._refuse_run(self._run(asker))
            return self._lower(request, METHOD_LAS_UNIX, unready)
        if connected is None or connected.process is None:
            return self._lower(request, METHOD_LAS_UNIX, UNSEEN)
        if connected.by_number and not asker.settled:
            self._refuse_run(self._run(asker))
            return self._lower(request, METHOD_LAS_UNIX, EARLY)
        verdict = witness.judge(connected.process, request)
        run = None if verdict.record is None else run_of(verdict.record)
        self._refuse_run(run)
        if not _clean(verdict):
            return self._lower(request, METHOD_LAS_UNIX, "; ".join(verdict.reasons), verdict)
        assert verdict.told is not None
        assert verdict.record is not None
        assert verdict.release is not None
        envelope = vouch(
            request,
            told=verdict.told,
            container=verdict.record.container,
            launcher=verdict.release.digest,
            key=self._key,
            now=int(time.time()),
        )
        # (A) Between check and use: nothing has changed by the time it has been signed.
        if not witness.unchanged(connected.process, verdict):
            return self._lower(request, METHOD_LAS_UNIX, CHANGED, verdict)
        self._refuse_peer(asker)
        self._refuse_run(run)
        self._say("statement of level node", verdict)
        return envelope

    def configured(self, asker: Asker) -> None:
        """The peer has its configuration: no more evidence for it.

        (A) Nor for any other process of its container, where it is the container's init.
        """
        asker.configured = True
        connected = asker.connected
        if connected is None or connected.process is None or connected.peer is None:
            return
        self._peers.add(connected.peer)
        run = self._run(asker)
        if run is not None and run.pid == connected.peer.pid:
            self._runs.add(run)

    def _unready(self) -> str:
        unready = self._vouching.unready()
        if unready != self._was_unready and not unready and self._vouching.witness is not None:
            self._log.info(NODE, **about(self._vouching.witness))
        self._was_unready = unready
        return unready

    def _refuse_peer(self, asker: Asker) -> None:
        peer = asker.connected.peer if asker.connected is not None else None
        if asker.configured or (peer is not None and self._peers.holds(peer)):
            raise Denied("this process was configured already and gets no further evidence")

    def _refuse_run(self, run: Run | None) -> None:
        if run is not None and self._runs.holds(run):
            raise Denied("this container was configured already and gets no further evidence")

    def _run(self, asker: Asker) -> Run | None:
        witness, connected = self._vouching.witness, asker.connected
        if witness is None or connected is None or connected.process is None:
            return None
        return witness.container(connected.process)

    def _lower(
        self, request: QuoteRequest, method: str, reason: str, verdict: Verdict | None = None
    ) -> Envelope:
        if method != METHOD_LAS_TCP:
            self._say("statement of level simulation", verdict, reason=reason)
        return lower(request, method=method, reason=reason, key=self._key, now=int(time.time()))

    def _say(self, event: str, verdict: Verdict | None, **values: object) -> None:
        dropped = self._sparse.take()
        if dropped is None:
            return
        record = verdict.record if verdict is not None else None
        if record is not None:
            values["container"] = record.container.name or record.container.id[:12]
        if dropped:
            values["dropped"] = dropped
        self._log.info(event, **values)


class Asker:
    """Who asks on one connection, and whether it has acknowledged its configuration there.

    Attributes:
        container: whose connection it is, for bounds; None outside of containers.
        settled: whether all that is received from now on was sent after the process was looked at.
    """

    def __init__(self, method: str, connected: Connected | None) -> None:
        self.method = method
        self.connected = connected
        self.container: Hashable = None
        self.configured = False
        self.settled = False


def _clean(verdict: Verdict) -> bool:
    """Whether everything was looked at and nothing was found."""
    return (
        not verdict.reasons
        and verdict.told is not None
        and verdict.record is not None
        and verdict.facts is not None
        and verdict.release is not None
    )


def about(witness: Witness) -> dict[str, object]:
    """What a log line says of a witness that can vouch."""
    launchers = ",".join(digest.hex() for digest in witness.launchers.digests())
    return {"launcher": launchers, "records": ",".join(witness.records())}
