"""Who the user is to a CAS: a P-256 key and a self-signed certificate, kept in the configuration.

A CAS knows a person by this key alone, so that it is made once and kept; another one can be given
with `--identity FILE` (PEM: a PKCS#8 private key and a certificate, in any order).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from crannog.cli.config import CliConfig, save_config
from crannog.errors import Error, Misconfigured, StorageFailed
from crannog.keyhash import key_hash
from crannog.pki import profiles
from crannog.pki.identity import certificate_pem, parse_certificate, pem_sha256, spki_der
from crannog.pki.issue import issue
from crannog.pki.keys import generate_p256, key_pem

COMMON_NAME = "crannog cli"
MAX_IDENTITY_BYTES = 64 << 10

_PEM = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----\n.+?\n-----END \1-----\n", re.DOTALL)


@dataclass(frozen=True, slots=True, repr=False)
class Identity:
    """A certificate and its private key, PEM. Its `repr` holds neither."""

    certificate: str
    private_key: str

    @property
    def parsed(self) -> x509.Certificate:
        """The certificate."""
        return parse_certificate(self.certificate.encode())

    @property
    def key_hash(self) -> str:
        """What 0.3 access policies list."""
        return key_hash(spki_der(self.parsed.public_key()))

    @property
    def certificate_hash(self) -> str:
        """What 0.2 access policies list."""
        return pem_sha256(self.certificate)

    @property
    def der(self) -> bytes:
        """The certificate's DER."""
        return self.parsed.public_bytes(Encoding.DER)


def parse_identity(text: str, *, what: str) -> Identity:
    """The identity in PEM text; `Misconfigured` where one of its two parts is missing."""
    parts = {match[1]: match[0] for match in _PEM.finditer(text.replace("\r\n", "\n"))}
    keys = [pem for kind, pem in parts.items() if kind.endswith("PRIVATE KEY")]
    if "CERTIFICATE" not in parts or len(keys) != 1:
        raise Misconfigured(
            f"{what} holds no certificate with its private key",
            hint="it has to hold one PEM certificate and one PEM private key",
        )
    return Identity(parts["CERTIFICATE"], keys[0])


def load_identity(path: Path) -> Identity:
    """The identity in a file; refused where others may read it."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(MAX_IDENTITY_BYTES)
    except OSError as error:
        raise StorageFailed(f"cannot read the identity {path}: {error.strerror}") from error
    if mode & 0o077:
        raise Misconfigured(
            f"the identity {path} has mode {mode & 0o777:04o}, expected 0600",
            hint=f"chmod 600 {path}",
        )
    return parse_identity(data.decode("utf-8", "replace"), what=f"the identity {path}")


def own_identity(config: CliConfig) -> tuple[CliConfig, Identity]:
    """The configuration's identity, made and saved now where there is none yet."""
    if config.identity:
        try:
            return config, parse_identity(config.identity, what=f"identity in {config.path}")
        except Error as error:
            raise Misconfigured(
                f"{config.path} holds an identity that cannot be used",
                hint="restore the file: a new identity would lose access to your sessions",
            ) from error
    key = generate_p256()
    certificate = certificate_pem(
        issue(
            None,
            profiles.CLIENT_LEAF,
            COMMON_NAME,
            key,
            now=datetime.now(UTC),
            random=os.urandom,
        )
    )
    identity = Identity(certificate, key_pem(key).decode("ascii"))
    config = replace(config, identity=identity.private_key + identity.certificate)
    save_config(config)
    return config, identity
