"""From the operator's options to whose tokens a CAS takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from crannog.cas.enrolment.issuer_keys import (
    FetchedKeys,
    IssuerKeys,
    KeysInFile,
    Source,
    read_file,
)
from crannog.cas.enrolment.key_set import MAX_BYTES, parse_key_set
from crannog.cas.enrolment.token import Expected, check_subject
from crannog.errors import Error, FormatError, Misconfigured
from crannog.transport.https_document import parse_authorities, parse_location

DEFAULT_AUDIENCE = "crannog-cas"
_MAX_TEXT = 1024
_MAX_FILE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class IssuerSettings:
    """Whose tokens a CAS takes for the enrolment of LASes.

    Attributes:
        issuer: the cluster's exact `iss`.
        keys: its published keys: a file, or an https URL.
        authorities: for a URL, a file with the certificates its server's has to chain to.
        bearer: for a URL, a file with a token to show, or None.
        audience: what the tokens have to be for.
        subjects: the service accounts that may enrol, `system:serviceaccount:NAMESPACE:NAME`.
    """

    issuer: str
    keys: str
    authorities: Path | None = None
    bearer: Path | None = None
    audience: str = DEFAULT_AUDIENCE
    subjects: tuple[str, ...] = ()

    def expected(self) -> Expected:
        """What a token has to say.

        Raises:
            Misconfigured: a part is empty, or a subject is none.
        """
        for name, text in (("--las-issuer", self.issuer), ("--las-audience", self.audience)):
            if not text or len(text) > _MAX_TEXT or not text.isprintable():
                raise Misconfigured(f"{name} is {text[:80]!r}, expected the text in the token")
        if not self.subjects:
            raise Misconfigured(
                "--las-issuer is given without --las-subject: no service account could enrol",
                hint="--las-subject system:serviceaccount:NAMESPACE:NAME of the LASes",
            )
        try:
            subjects = frozenset(check_subject(one) for one in self.subjects)
        except FormatError as error:
            raise Misconfigured("--las-subject names no service account") from error
        return Expected(self.issuer, self.audience, subjects)

    def issuer_keys(self) -> IssuerKeys:
        """Where the issuer's keys are found.

        A file has to be usable now. A URL is asked when the first token comes: the CAS starts
        before its cluster's API server answers.

        Raises:
            Misconfigured: no keys, or options that do not fit together.
        """
        if not self.keys.startswith(("https:", "http:")):
            if self.authorities is not None or self.bearer is not None:
                raise Misconfigured(
                    "--las-issuer-ca and --las-issuer-token are for keys at a URL, "
                    f"and --las-issuer-keys is {self.keys[:200]!r}"
                )
            path = Path(self.keys)
            try:
                parse_key_set(read_file(path, MAX_BYTES), f"key file {path}")
            except Error as error:
                raise Misconfigured(
                    "--las-issuer-keys names no keys that can be used",
                    hint="" if error.hint else "kubectl get --raw /openid/v1/jwks",
                ) from error
            return KeysInFile(path)
        where = parse_location(self.keys, "--las-issuer-keys")
        if self.authorities is None:
            raise Misconfigured(
                "--las-issuer-keys is a URL, and no --las-issuer-ca is given to know its server by",
                hint="in a cluster it is /var/run/secrets/kubernetes.io/serviceaccount/ca.crt",
            )
        try:
            data = read_file(self.authorities, _MAX_FILE)
            parse_authorities(data, str(self.authorities))
        except Error as error:
            raise Misconfigured("--las-issuer-ca names no authorities") from error
        return FetchedKeys(Source(where, self.authorities, self.bearer).load)


def issuer_settings(
    issuer: str | None,
    keys: str | None,
    *,
    authorities: Path | None,
    bearer: Path | None,
    audience: str,
    subjects: tuple[str, ...],
) -> IssuerSettings | None:
    """The settings that the command line's options make; None where no issuer is named.

    Raises:
        Misconfigured: some of them without the others.
    """
    if issuer is None:
        given = [keys, authorities, bearer, *subjects]
        if any(one is not None for one in given):
            raise Misconfigured(
                "options for the enrolment of LASes by token are given without --las-issuer",
                hint="kubectl get --raw /.well-known/openid-configuration tells the issuer",
            )
        return None
    if keys is None:
        raise Misconfigured(
            "--las-issuer is given without --las-issuer-keys: no token could be verified",
            hint="a file of `kubectl get --raw /openid/v1/jwks`, or the URL of that document",
        )
    return IssuerSettings(issuer, keys, authorities, bearer, audience, subjects)
