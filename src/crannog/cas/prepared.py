"""Session versions that are loaded, unsealed and ready: what makes an attestation cheap.

A version never changes, so neither does what is prepared of it, but for certificates of limited
validity. Bounded in number and size, since anybody may post sessions: the least recently used
version is dropped, and read again when it is wanted; a large configuration is made each time.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from datetime import datetime

from crannog.cas.configure import configure
from crannog.cas.judging import no_configuration
from crannog.cas.own_key import own_key
from crannog.cas.requirements import requirements
from crannog.cas.secrets import Bundle, parse_bundle
from crannog.cas.store.records import Version
from crannog.cas.store.sealing import Randomness
from crannog.cas.store.store import Store
from crannog.cas.values import Values
from crannog.errors import IntegrityError, NotFound
from crannog.evidence.appraise import Requirements
from crannog.exchange.configuration import Configuration
from crannog.levels import Level
from crannog.pki.authority import Authority
from crannog.session.canonical import session_hash
from crannog.session.document import Service, Session
from crannog.session.load import load_stored

MAX_PREPARED = 1024
MAX_COST = 256 * 1024 * 1024
MAX_KEPT = 256 * 1024
_NOTHING = bytes(32)


class Prepared:
    """One version of a session with its secrets, and the configurations made of it so far."""

    def __init__(
        self,
        version: Version,
        text: str,
        session: Session,
        bundle: Bundle,
        *,
        authority: Authority,
        random: Randomness,
    ) -> None:
        self.version = version
        self.text = text
        self.session = session
        self.bundle = bundle
        self._authority = authority
        self._random = random
        self._services: dict[str, tuple[Configuration, datetime | None]] = {}
        # What of it lies in memory, roughly: a loaded document is some times as long as its text.
        self.cost = 4 * len(text) + sum(
            len(value)
            for group in (bundle.values, bundle.keys, bundle.certificates)
            for value in group.values()
        )
        self._required: dict[tuple[str, Level], Requirements] = {}

    def values(self, now: datetime) -> Values:
        """The version's secrets at `now`."""
        return Values(self.session, self.bundle, self._authority, now=now, random=self._random)

    def requirements(
        self, name: str, minimum: Level, launchers: frozenset[bytes] | None
    ) -> Requirements:
        """What a service's evidence has to say.

        Args:
            name: the service's.
            minimum: the CAS's minimum level.
            launchers: the launcher releases that the CAS accepts now.

        Raises:
            NotFound: the session has no such service.
        """
        required = self._required.get((name, minimum))
        if required is None:
            required = requirements(
                self.session,
                self.service(name),
                minimum=minimum,
                launchers=None,
                own_key=own_key(self._authority),
                session_hash=self.version.hash,
            )
            self._required[name, minimum] = required
        # A version never changes; whom the CAS accepts does, and at once.
        return required if launchers is None else required._replace(launchers=launchers)

    def configuration(self, name: str, now: datetime) -> Configuration:
        """What a service gets, with level and measurement still to be filled in.

        Costs up to megabytes of work: not before it is decided who gets it.

        Args:
            name: the service's.
            now: the present.

        Raises:
            NotFound: the session has no such service.
        """
        found = self._services.get(name)
        if found is not None and (found[1] is None or now < found[1]):
            return found[0]
        values = self.values(now)
        configuration = configure(
            self.session,
            self.service(name),
            values,
            session_hash=self.version.hash,
            level=Level.SIMULATION,
            mrenclave=_NOTHING,
        )
        size = _size(configuration)
        if size <= MAX_KEPT:
            # Two threads may both get here; either result is right.
            self._services[name] = (configuration, values.fresh_until)
            self.cost += size
        return configuration

    def service(self, name: str) -> Service:
        """One of the session's services; `NotFound` where there is none of that name."""
        service = self.session.service(name)
        if service is None:
            missing = NotFound(f"Service not found: {name[:128]!r} in {self.session.name!r}")
            raise no_configuration(missing)
        return service


class PreparedSessions:
    """Finds prepared versions, reading them from the store where they are not at hand."""

    def __init__(
        self,
        store: Store,
        authority: Authority,
        *,
        random: Randomness,
    ) -> None:
        self._store = store
        self._authority = authority
        self._random = random
        self._lock = threading.Lock()
        self._found: OrderedDict[str, Prepared] = OrderedDict()

    def get(self, version: Version) -> Prepared:
        """That version, prepared.

        Raises:
            IntegrityError: what is stored is not what was stored.
            StorageFailed: it cannot be read.
        """
        with self._lock:
            found = self._found.get(version.hash)
            if found is not None:
                self._found.move_to_end(version.hash)
                return found
        document, secrets = self._store.read(version)
        session = load_stored(document).session
        if session.name != version.name or session_hash(session) != version.hash:
            raise IntegrityError(
                f"session {version.name!r}: the stored document does not have its hash",
                hint="a newer release may have written it; use that one",
            )
        prepared = Prepared(
            version,
            document.decode(),
            session,
            parse_bundle(secrets),
            authority=self._authority,
            random=self._random,
        )
        with self._lock:
            self._found[version.hash] = prepared
            cost = sum(one.cost for one in self._found.values())
            while len(self._found) > 1 and (len(self._found) > MAX_PREPARED or cost > MAX_COST):
                cost -= self._found.popitem(last=False)[1].cost
        return prepared


def _size(configuration: Configuration) -> int:
    strings = sum(len(text) for text in configuration.argv) + sum(
        len(name) + len(value) for name, value in configuration.environment
    )
    return strings + sum(len(file.content) for file in configuration.files)
