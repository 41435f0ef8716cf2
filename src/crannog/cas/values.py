"""The secrets of a session version in the forms that `$$SCONE::…$$` asks for."""

from __future__ import annotations

from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from crannog.cas.secrets import Bundle, certify, parse_issuer, stored_value
from crannog.errors import FormatError
from crannog.pki import profiles
from crannog.pki.authority import Authority
from crannog.pki.identity import certificate_pem, parse_certificate
from crannog.pki.issue import Randomness
from crannog.pki.keys import PrivateKey, key_der, key_pem, parse_key
from crannog.session.document import Secret, SecretKind, Session
from crannog.session.forms import Form, encode_binary, form_of


class Values:
    """The secrets of one version, in the forms that references ask for.

    Args:
        session: the version.
        bundle: what was generated for it.
        authority: the upper part of the chain of its certificates.
        now: the present; certificates of limited validity are made anew, for the same key, when
            two thirds of it are over.
        random: randomness for serial numbers.
    """

    def __init__(
        self,
        session: Session,
        bundle: Bundle,
        authority: Authority,
        *,
        now: datetime,
        random: Randomness,
    ) -> None:
        self._session = session
        self._bundle = bundle
        self._authority = authority
        self._now = now
        self._random = random
        self._renewals: dict[str, x509.Certificate] = {}
        self.fresh_until: datetime | None = None
        """When `lookup` may answer differently; None for never. Grows earlier with each lookup."""

    def lookup(self, name: str, suffix: str) -> bytes:
        """The bytes that `$$SCONE::NAME` with that suffix stands for.

        Raises:
            FormatError: there is no such secret, or its kind does not offer the suffix.
        """
        secret = self._session.secret(name)
        if secret is None:
            raise FormatError(f"secret {name!r} is not one of session {self._session.name!r}")
        form = form_of(secret, suffix, self._session.language)
        match secret.kind:
            case SecretKind.ASCII:
                return self._value(secret)
            case SecretKind.BINARY:
                return encode_binary(self._value(secret), form)
            case SecretKind.PRIVATE_KEY:
                return self._private(secret, form)
            case SecretKind.X509:
                return self._certified(secret, form)

    def public(self, secret: Secret) -> tuple[str, str]:
        """Kind and value of a secret that the session makes public, as the REST API shows them."""
        if not secret.export_public or secret.kind is SecretKind.PRIVATE_KEY:
            raise ValueError(f"secret {secret.name!r} is not public")
        if secret.kind is SecretKind.BINARY:
            return "binary", self._value(secret).hex()
        if secret.kind is SecretKind.X509:
            return "x509", self._certified(secret, Form.CERTIFICATE_PEM).decode()
        return "string", self._value(secret).decode()

    def _value(self, secret: Secret) -> bytes:
        if secret.value is None:
            return stored_value(self._bundle.values, secret.name)
        if secret.kind is SecretKind.BINARY:
            return bytes.fromhex(secret.value)
        return secret.value.encode()

    def _key(self, secret: Secret) -> PrivateKey:
        if secret.value is not None and secret.kind is SecretKind.PRIVATE_KEY:
            return parse_key(secret.value.encode(), what=f"secret {secret.name!r}")
        return parse_key(
            stored_value(self._bundle.keys, secret.name), what=f"secret {secret.name!r}"
        )

    def _private(self, secret: Secret, form: Form) -> bytes:
        key = self._key(secret)
        return key_der(key) if form is Form.PRIVATE_KEY_DER else key_pem(key)

    def _certified(self, secret: Secret, form: Form) -> bytes:
        if form in (Form.PRIVATE_KEY_PEM, Form.PRIVATE_KEY_DER):
            named = self._session.secret(secret.private_key) if secret.private_key else None
            return self._private(named or secret, form)
        certificate = self._certificate(secret)
        if form is Form.CERTIFICATE_DER:
            return certificate.public_bytes(Encoding.DER)
        if form is Form.CERTIFICATE_PEM:
            return certificate_pem(certificate).encode()
        # The dotted one runs from the root down and ends with the certificate itself; the other
        # from its issuer up to the root (reference, section 2.8).
        upward = self._issuers(secret)
        chain = [*reversed(upward), certificate] if form is Form.CHAIN_DOWNWARD else upward
        return "".join(certificate_pem(one) for one in chain).encode()

    def _issuers(self, secret: Secret) -> list[x509.Certificate]:
        if secret.private_key is not None or self._bundle.authority is None:
            return []  # self-signed
        issuer = parse_certificate(self._bundle.authority[0], what="the session's authority")
        return [issuer, *self._authority.chain]

    def _certificate(self, secret: Secret) -> x509.Certificate:
        if secret.value is not None:
            return parse_certificate(secret.value.encode(), what=f"secret {secret.name!r}")
        found = parse_certificate(
            stored_value(self._bundle.certificates, secret.name), what=f"secret {secret.name!r}"
        )
        if secret.valid_for is None:
            return found
        renew = timedelta(seconds=secret.valid_for * 2 / 3)
        started = found.not_valid_before_utc + profiles.SKEW
        if self._now >= started + renew:
            # One for all references: a chain has to end in the certificate beside it.
            renewed = self._renewals.get(secret.name) or self._renewed(secret)
            found = self._renewals[secret.name] = renewed
            started = self._now
        until = started + renew
        self.fresh_until = min(self.fresh_until or until, until)
        return found

    def _renewed(self, secret: Secret) -> x509.Certificate:
        named = self._session.secret(secret.private_key) if secret.private_key else secret
        stored = {} if named is None else {named.name: key_der(self._key(named))}
        issuer = parse_issuer(self._bundle.authority)
        return certify(self._session, secret, stored, issuer, now=self._now, random=self._random)
