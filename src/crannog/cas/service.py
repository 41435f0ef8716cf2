"""The use cases of the CAS: create, update and read sessions, and configure services.

Everything that a peer asks for passes here, whichever port it came in by. Each use case decides who
may, does it, and has it in the audit log on disk before it returns. What an error tells whom is
decided in `refusals.py`, by the ports.

Unauthenticated garbage is counted, not chained: else anybody could fill the disk, and the log.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from crannog.cas.changes import widened
from crannog.cas.judging import evidence_notes, judge, no_configuration, spend_password
from crannog.cas.keys import KeyProvider
from crannog.cas.passwords import KEEP_SECONDS, OneTimePasswords, spent_codes
from crannog.cas.prepared import Prepared, PreparedSessions
from crannog.cas.refusals import may_know
from crannog.cas.rehearsal import rehearse
from crannog.cas.secrets import generate
from crannog.cas.store.opening import open_store
from crannog.cas.store.records import AuditHead, Event, Record, Version
from crannog.cas.store.sealing import Randomness
from crannog.cas.store.store import Store, require_version
from crannog.cas.trusted import Trusted
from crannog.errors import (
    Denied,
    Error,
    NotFound,
    Unauthenticated,
    chain,
)
from crannog.evidence.claims import Claims, Trust
from crannog.exchange.configuration import Configuration
from crannog.levels import Level
from crannog.pki.authority import Authority, ServerIdentity, load_authority
from crannog.session.access import (
    Requester,
    check_predecessor,
    may_read,
    may_update,
    requester,
    with_creator,
)
from crannog.session.canonical import render, session_hash
from crannog.session.document import SecretKind, Session
from crannog.session.load import load_session

Clock = Callable[[], datetime]


class Created(NamedTuple):
    """A session version that is on disk: its hash, and what its author should know."""

    hash: str
    warnings: tuple[str, ...]


class PublicValue(NamedTuple):
    """A secret that its session makes public, as the REST API shows it."""

    kind: str
    value: str


class CasService:
    """One open CAS. Every method may be called from any thread.

    Args:
        store: open; closed by `close`.
        trust: whose signatures are worth more than simulation, beside those that are enrolled.
        launchers: launcher releases that are accepted beside those in the store, 32 bytes each;
            None adds none.
        now: the clock.
        random: randomness.

    Attributes:
        trusted: whom it takes at their word above simulation; changed at once, by its operator.
    """

    def __init__(
        self,
        store: Store,
        *,
        trust: Trust,
        launchers: frozenset[bytes] | None,
        now: Clock,
        random: Randomness,
    ) -> None:
        self._store = store
        self._now = now
        self._random = random
        self._authority = load_authority(store.authority(), now=now())
        self._sessions = PreparedSessions(store, self._authority, random=random)
        self.trusted = Trusted(store, trust=trust, launchers=launchers, now=now)
        self._passwords = OneTimePasswords(
            spent_codes(store.recent_records(now() - timedelta(seconds=KEEP_SECONDS)))
        )
        self._counts: Counter[str] = Counter()
        self._counting = threading.Lock()
        store.append(
            Record(now(), Event.CAS_STARTED, notes=(("level", store.minimum_level.value),))
        )

    @classmethod
    def open(
        cls,
        database: Path,
        *,
        keys: KeyProvider,
        minimum_level: Level | None = None,
        las_keys: Iterable[bytes] = (),
        launchers: Iterable[bytes] | None = None,
        now: Clock = lambda: datetime.now(UTC),
        random: Randomness = os.urandom,
    ) -> CasService:
        """Open the database, or create it, and start.

        Args:
            database: the SQLite file.
            keys: where the master key is.
            minimum_level: needed for a new database; refused where an existing one has another.
            las_keys: Ed25519 keys (32 bytes) of LASes that may vouch for level node, beside those
                that are enrolled in the database; for embedding and tests.
            launchers: digests (32 bytes) of launcher releases, beside those in the database.
            now: the clock.
            random: randomness.

        Raises:
            Conflict, Misconfigured, IntegrityError, StorageFailed: as `open_store`.
        """
        store = open_store(
            database, keys=keys, now=now(), minimum_level=minimum_level, random=random
        )
        with contextlib.ExitStack() as undo:
            undo.callback(store.close)
            service = cls(
                store,
                trust=Trust(frozenset(las_keys)),
                launchers=None if launchers is None else frozenset(launchers),
                now=now,
                random=random,
            )
            undo.pop_all()
        return service

    def close(self, reason: str = "asked to") -> None:
        """Say so in the audit log and close the store."""
        # A full disk must not keep a CAS from stopping.
        with contextlib.suppress(Error):
            self._store.append(Record(self._now(), Event.CAS_STOPPED, notes=(("reason", reason),)))
        self._store.close()

    @property
    def minimum_level(self) -> Level:
        """Below which no evidence is accepted."""
        return self._store.minimum_level

    @property
    def authority(self) -> Authority:
        """The CAS's keys and certificates."""
        return self._authority

    @property
    def head(self) -> AuditHead:
        """The end of the audit log, for users to keep."""
        return self._store.head

    def trust(self) -> Trust:
        """Whose signatures are worth more than simulation, now."""
        return self.trusted.present().trust

    def launchers(self) -> frozenset[bytes] | None:
        """The launcher releases that are accepted now; None where none is listed."""
        return self.trusted.present().launchers

    @property
    def database_identity(self) -> bytes:
        """The database's own, 16 bytes, public."""
        return self._store.identity

    @property
    def operator_key(self) -> bytes:
        """What the operator's orders are authenticated with."""
        return self._store.operator_key

    def server_identity(
        self, names: Iterable[str] = (), addresses: Iterable[str] = ()
    ) -> ServerIdentity:
        """Certificate chain and key for the listeners; see `Authority.server_identity`."""
        return self._authority.server_identity(
            names=names, addresses=addresses, now=self._now(), random=self._random
        )

    def counts(self) -> Mapping[str, int]:
        """What was counted and not chained, by the code of the error."""
        with self._counting:
            return dict(self._counts)

    def check_store(self) -> None:
        """Return when the store answers: `IntegrityError` or `StorageFailed` where it does not."""
        self._store.authority()

    # --- sessions -------------------------------------------------------------------------------

    def create_session(self, document: bytes, certificate: bytes | None) -> Created:
        """Store a session, or a new version of one; returns when it is on disk.

        Args:
            document: the YAML text.
            certificate: the client's, DER, whose key the TLS handshake has proved; None for none.

        Raises:
            Unauthenticated: no client certificate.
            SessionInvalid, TooLarge, FormatError: the document.
            AlreadyExists: the name is taken and the document has no predecessor.
            Denied: the requester may not update the session.
            NotFound: a predecessor of a session that is not there.
            Conflict: a stale predecessor; of two updates at once exactly one gets it.
            StorageFailed: nothing is stored.
        """
        who = self._requester(certificate, "posting a session")
        loaded = load_session(document)
        current = self._store.latest(loaded.session.name)
        previous = None if current is None else self._sessions.get(current)
        if previous is not None and loaded.session.predecessor is not None:
            # Before the predecessor is looked at: a stranger learns nothing by guessing hashes.
            self._check_update(previous, who)
        check_predecessor(loaded.session, None if current is None else current.hash)
        session = with_creator(loaded.session, who, previous.session if previous else None)
        created = self._now()
        bundle = generate(
            session,
            (previous.session, previous.bundle) if previous else None,
            self._authority,
            now=created,
            random=self._random,
        )
        new_hash = session_hash(session)
        # What cannot be given to a program is refused now and not when the program starts.
        rehearse(
            session, bundle, self._authority, new_hash=new_hash, now=created, random=self._random
        )
        version = self._store.add_version(
            name=session.name,
            session_hash=new_hash,
            predecessor=current,
            document=render(session).encode(),
            secrets=bundle.encode(),
            record=_stored_record(session, previous, new_hash, who, created),
        )
        return Created(version.hash, tuple(str(warning) for warning in loaded.warnings))

    def read_session(
        self, name: str, wanted: str | None, certificate: bytes | None
    ) -> tuple[str, str]:
        """The text and the hash of a session; explicit secret values are in it, generated not.

        Args:
            name: the session's name.
            wanted: the hash of a version; None for the newest.
            certificate: as for `create_session`.

        Raises:
            Unauthenticated: no certificate, and the session does not let anyone read.
            NotFound: there is none of that name and hash.
            Denied: the requester may not read it. Both the newest version and the one that is asked
                for have to allow it: an update neither hands out the past nor fails to end access.
        """
        version = require_version(self._store, name, wanted)
        newest = self._sessions.get(require_version(self._store, name, None))
        who = None if certificate is None else requester(certificate)
        asked = self._sessions.get(version)
        if not (may_read(newest.session, who) and may_read(asked.session, who)):
            if who is None:
                raise Unauthenticated(
                    "reading a session needs a client certificate", hint="curl --cert … --key …"
                )
            self._refuse_request("read", newest, who)
            raise Denied(
                f"session {name!r} may not be read with this certificate",
                hint="use the identity that created it, or have it added to access_policy.read",
            )
        self._store.append(
            Record(
                self._now(),
                Event.SESSION_READ,
                session=name,
                session_hash=version.hash,
                actor="" if who is None else who.key_hash,
            )
        )
        return asked.text, version.hash

    def public_values(self, name: str, secret: str | None = None) -> dict[str, PublicValue]:
        """The secrets that a session makes public; no certificate is needed.

        Args:
            name: the session's name.
            secret: one of them; None for all.

        Raises:
            NotFound: there is no such session, or no such secret, or it is not public.
        """
        what = f"{secret or '*'}"
        refusal = f"Failed to read value {what!r} of '/session={name}' requested by a public client"
        try:
            prepared = self._sessions.get(require_version(self._store, name, None))
        except NotFound as error:
            self.count(error)
            raise NotFound(refusal) from error
        found = {
            one.name: PublicValue(*prepared.values(self._now()).public(one))
            for one in prepared.session.secrets
            if one.export_public
            and one.kind is not SecretKind.PRIVATE_KEY
            and secret in (None, one.name)
        }
        if secret is not None and not found:
            hidden = NotFound("Secret does not exist or is not visible for a public client")
            self.count(hidden)
            raise NotFound(refusal) from hidden
        return found

    # --- services -------------------------------------------------------------------------------

    def configure(
        self,
        config_id: str,
        claims: Claims,
        *,
        otp: str | None,
        service_access_token: str | None,
        peer: str,
        request_id: str,
    ) -> Configuration:
        """What a service gets whose evidence was authentic; returns when it is in the log on disk.

        Args:
            config_id: SESSION/SERVICE, as the evidence has it.
            claims: of the evidence, bound to the peer's connection.
            otp: the one-time password the peer showed.
            service_access_token: the token the peer showed.
            peer: the peer's address, for the log.
            request_id: under which peer and operator speak of it.

        Raises:
            NotFound: there is no such session or service.
            EvidenceRejected: the claims do not suit the session.
            Denied: the service access token or the one-time password is missing or wrong.
            StorageFailed: it could not be logged, so nothing is given.
        """
        name, _, service = config_id.rpartition("/")
        version = self._store.latest(name)
        now = self._now()
        try:
            if version is None:
                raise no_configuration(NotFound(f"Session not found: {name[:128]!r}"))
            prepared = self._sessions.get(version)
            required = prepared.requirements(
                service, self._store.minimum_level, self.trusted.present().launchers
            )
            judge(prepared.session, claims, required, token=service_access_token)
            spent = spend_password(
                prepared.session, prepared.service(service), self._passwords, otp=otp, now=now
            )
            # Only now: whoever is refused costs no substitution, and learns nothing of its errors.
            base = prepared.configuration(service, now)
        except NotFound as error:
            self.count(error)
            raise
        except Error as error:
            self._refuse_service(version, service, claims, error, peer, request_id)
            raise
        self._store.append(
            Record(
                now,
                Event.SERVICE_ATTESTED,
                session=name,
                session_hash=base.session_hash,
                service=service,
                actor=claims.signer.hex(),
                notes=(*evidence_notes(claims, peer, request_id), *spent),
            )
        )
        return base._replace(level=claims.level, mrenclave=claims.mrenclave)

    def refused(self, config_id: str, error: Error, *, peer: str, request_id: str) -> None:
        """Note evidence that was not authentic: counted, since anybody can send any number."""
        del config_id, peer, request_id
        self.count(error)

    def count(self, error: Error) -> None:
        """Count an error that is not worth a line in the audit log."""
        with self._counting:
            self._counts[error.code] += 1

    def set_minimum_level(self, level: Level, *, actor: str) -> None:
        """Change the minimum level, with a line in the audit log."""
        self._store.set_minimum_level(
            level, Record(self._now(), Event.MINIMUM_LEVEL_CHANGED, actor=actor)
        )

    # --- parts ----------------------------------------------------------------------------------

    def _requester(self, certificate: bytes | None, doing: str) -> Requester:
        if certificate is None:
            error = Unauthenticated(
                f"{doing} needs a client certificate",
                hint="any self-signed one will do: curl --cert client.crt --key client.key",
            )
            self.count(error)
            raise error
        return requester(certificate)

    def _check_update(self, previous: Prepared, who: Requester) -> None:
        if may_update(previous.session, who):
            return
        self._refuse_request("update", previous, who)
        raise Denied(
            f"session {previous.session.name!r} may not be updated with this certificate",
            hint="use the identity that created it, or have it added to access_policy.update",
        )

    def _refuse_request(self, what: str, prepared: Prepared, who: Requester) -> None:
        self._store.append(
            Record(
                self._now(),
                Event.REQUEST_REFUSED,
                session=prepared.session.name,
                session_hash=prepared.version.hash,
                actor=who.key_hash,
                notes=(("request", what),),
            )
        )

    def _refuse_service(
        self,
        version: Version | None,
        service: str,
        claims: Claims,
        error: Error,
        peer: str,
        request_id: str,
    ) -> None:
        self.count(error)
        # Anybody can sign for simulation: at a CAS that asks for more it is garbage.
        if version is None or not may_know(self._store.minimum_level, claims):
            return
        self._store.append(
            Record(
                self._now(),
                Event.ATTESTATION_REFUSED,
                session=version.name,
                session_hash=version.hash,
                service=service,
                actor=claims.signer.hex(),
                notes=(
                    *evidence_notes(claims, peer, request_id),
                    ("reason", "; ".join(chain(error))),
                ),
            )
        )


def _stored_record(
    session: Session, previous: Prepared | None, new_hash: str, who: Requester, now: datetime
) -> Record:
    notes: list[tuple[str, str]] = []
    if previous is not None:
        notes.append(("predecessor", previous.version.hash))
        wider = widened(previous.session, session)
        if wider:
            notes.append(("widens", ", ".join(wider)))
    return Record(
        now,
        Event.SESSION_CREATED if previous is None else Event.SESSION_UPDATED,
        session=session.name,
        session_hash=new_hash,
        actor=who.key_hash,
        notes=tuple(notes),
    )
