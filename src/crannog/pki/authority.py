"""The CAS's own part of the chain: three keys that live sealed in its store.

`cas` is what users pin; `cas-instance` signs for sessions; `server` is the key that the CAS shows
on its ports, persistent so that a pin of it outlives a restart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from crannog.errors import IntegrityError
from crannog.keyhash import key_hash
from crannog.pki import issue, profiles
from crannog.pki.identity import certificate_pem, parse_certificate
from crannog.pki.issue import Issuer, Randomness
from crannog.pki.keys import PrivateKey, generate_p256, key_der, key_pem, parse_key, public_der
from crannog.pki.verify import verify_chain

ROOT = "cas"
INSTANCE = "cas-instance"
SERVER = "server"
NAMES = (ROOT, INSTANCE, SERVER)


@dataclass(frozen=True, slots=True)
class StoredKey:
    """One key of the CAS as it is stored: `certificate` DER (public), `key` PKCS#8 DER (sealed)."""

    name: str
    certificate: bytes
    key: bytes


@dataclass(frozen=True, slots=True)
class ServerIdentity:
    """What a listener needs: PEM of the chain, leaf first and root last, and of the leaf's key."""

    chain_pem: bytes
    key_pem: bytes


@dataclass(frozen=True, slots=True)
class Authority:
    """The CAS as an issuer. Made by `create_authority` or `load_authority`."""

    root: Issuer
    instance: Issuer
    server: Issuer

    @property
    def chain(self) -> tuple[x509.Certificate, ...]:
        """`cas-instance`, then `cas`: what `show-certificate` prints."""
        return (self.instance.certificate, self.root.certificate)

    @property
    def chain_pem(self) -> str:
        """The chain in PEM, `cas-instance` first."""
        return "".join(certificate_pem(certificate) for certificate in self.chain)

    @property
    def key_hash(self) -> str:
        """The CAS key hash: of the key of `cas`."""
        return key_hash(public_der(self.root.key))

    def stored(self) -> tuple[StoredKey, ...]:
        """The three keys for the store, which seals them."""
        pairs = zip(NAMES, (self.root, self.instance, self.server), strict=True)
        return tuple(
            StoredKey(name, one.certificate.public_bytes(Encoding.DER), key_der(one.key))
            for name, one in pairs
        )

    def server_identity(
        self,
        *,
        names: Iterable[str] = (),
        addresses: Iterable[str] = (),
        now: datetime,
        random: Randomness,
    ) -> ServerIdentity:
        """A certificate for the listeners, over the persistent server key.

        Args:
            names: further host names beside `cas` and `localhost`.
            addresses: further IP addresses beside 127.0.0.1 and ::1.
            now: the present.
            random: randomness for the serial number.
        """
        hosts = dict.fromkeys((*profiles.SERVER_NAMES, *names))
        ips = dict.fromkeys(("127.0.0.1", "::1", *addresses))
        leaf = issue.issue_server(
            self.instance, self.server.key, names=hosts, addresses=ips, now=now, random=random
        )
        pem = certificate_pem(leaf) + self.chain_pem
        return ServerIdentity(pem.encode(), key_pem(self.server.key))

    def issue_session(
        self, session: str, key: ec.EllipticCurvePrivateKey, *, now: datetime, random: Randomness
    ) -> Issuer:
        """The authority of a session, which signs its 0.2 certificates."""
        certificate = issue.issue_session(self.instance, session, key, now=now, random=random)
        return Issuer(certificate, key)


def create_authority(
    *,
    now: datetime,
    random: Randomness,
    generate: Callable[[], ec.EllipticCurvePrivateKey] = generate_p256,
) -> Authority:
    """A new CAS: three fresh keys and their certificates."""
    root_key, instance_key, server_key = generate(), generate(), generate()
    root = Issuer(issue.issue_root(root_key, now=now, random=random), root_key)
    instance = Issuer(
        issue.issue_instance(root, instance_key, now=now, random=random), instance_key
    )
    server = Issuer(issue.issue_server(instance, server_key, now=now, random=random), server_key)
    return Authority(root, instance, server)


def load_authority(stored: Iterable[StoredKey], *, now: datetime) -> Authority:
    """The CAS's keys as they come out of the store, checked to belong together at `now`.

    Raises:
        IntegrityError: one is missing, a key is not its certificate's, or the chain does not hold.
    """
    found = {one.name: _issuer(one) for one in stored}
    if set(found) != set(NAMES):
        raise IntegrityError(f"the CAS's keys are {sorted(found)}, expected {sorted(NAMES)}")
    authority = Authority(found[ROOT], found[INSTANCE], found[SERVER])
    root = authority.root.certificate
    verify_chain([authority.server.certificate, authority.instance.certificate], root=root, now=now)
    return authority


def _issuer(stored: StoredKey) -> Issuer:
    certificate = parse_certificate(stored.certificate, what=f"certificate of {stored.name}")
    key: PrivateKey = parse_key(stored.key, what=f"key of {stored.name}")
    if certificate.public_key() != key.public_key():
        raise IntegrityError(f"key of {stored.name} is not its certificate's")
    return Issuer(certificate, key)
