"""What a session says, as frozen values: the result of loading, the input of everything else.

Decides nothing: `load.py` builds these from text and refuses what does not fit, `access.py` judges
requesters, `canonical.py` hashes and renders. A field holds `None` where the text may leave
something unsaid that has no default of its own (design, section 1: a session that names no level
takes the CAS's minimum).

Fields for what the language has and this version does not build are added beside these; they stay
out of the hash while they are unset, so that adding one changes no hash
(docs/formats/session-hash.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from crannog.levels import Level, stricter

DEFAULT_PWD = "/"
DEFAULT_FILE_MODE = 0o700
DEFAULT_SECRET_SIZE = 20


class Language(Enum):
    """The three forms of the language. A patch part (`0.3.7`) belongs to its form."""

    V0_1 = "0.1"
    V0_2 = "0.2"
    V0_3 = "0.3"


class SecretKind(Enum):
    """The kinds of secrets that are built; the names are the language's."""

    ASCII = "ascii"
    BINARY = "binary"
    PRIVATE_KEY = "private-key"
    X509 = "x509"


class KeyType(Enum):
    """The kinds of key a `private-key` secret may ask for; the names are the language's."""

    P256 = "P-256"
    P384 = "P-384"
    ED25519 = "Ed25519"
    RSA2048 = "RSA-2048"
    RSA3072 = "RSA-3072"


class Endpoint(Enum):
    """What an x509 secret is for: the extended key usage of its certificate."""

    SERVER = "server"
    CLIENT = "client"


class Migrate(Enum):
    """What becomes of a generated value when the session is updated.

    `DEFAULT` is the kind's own rule: ascii and binary keep their value, private keys and
    certificates do not. `NEVER` is Crannog's extension (`migrate: never`).
    """

    DEFAULT = "default"
    ALWAYS = "true"
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class Variant:
    """One acceptable set of measurements: any one of `mrenclaves` (64 lower-case hex, distinct)."""

    mrenclaves: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FspfReference:
    """The main file system protection file: where it is, its key, and its tag.

    Attributes:
        path: absolute path in the program's file system.
        key: 64 lower-case hex digits. A secret: never print it.
        tag: 32 lower-case hex digits.
    """

    path: str
    key: str
    tag: str

    def __repr__(self) -> str:
        """Without the key: reprs end up in logs."""
        return f"FspfReference(path={self.path!r}, key=<secret>, tag={self.tag!r})"


CLAIM_NAMES = ("image", "image_id", "container", "namespace", "pod", "engine")
"""What a service may require of the container that its program is the init of."""


@dataclass(frozen=True, slots=True)
class ContainerClaims:
    """Extension: one container that a service may run in.

    Attributes:
        pairs: name and exact text, in the order of `CLAIM_NAMES`, each name at most once; never
            empty. All of them have to hold.
    """

    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Service:
    """One program of the session, and what it gets once it has proved what it is.

    Attributes:
        name: what follows the last `/` of a configuration id.
        command: argv, split already, before substitution; never empty.
        environment: name and value in the order of the document, before substitution.
        pwd: absolute working directory; `/` where the document sets none.
        image_name: the image whose injected files it sees.
        attestation: variants of which any one suffices; never empty.
        fspf: the file system protection file, where there is one.
        minimum_level: extension; None takes the session's, and then the CAS's.
        claims: extension: containers of which any one suffices; empty asks for none. Where it is
            not, the session itself asks for level node or above.
        one_time_password_shared_secret: base32 as `otp.parse_shared_secret` gives it; None takes
            the session's. A secret.
    """

    name: str
    command: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    pwd: str
    image_name: str | None
    attestation: tuple[Variant, ...]
    fspf: FspfReference | None
    minimum_level: Level | None
    claims: tuple[ContainerClaims, ...] = ()
    one_time_password_shared_secret: str | None = None

    @property
    def mrenclaves(self) -> tuple[str, ...]:
        """Every measurement that some variant accepts, each once, in the document's order."""
        return tuple(dict.fromkeys(m for variant in self.attestation for m in variant.mrenclaves))

    def __repr__(self) -> str:
        """Without values: command and environment may hold secrets."""
        return f"Service(name={self.name!r}, …)"


@dataclass(frozen=True, slots=True)
class InjectionFile:
    """A file that exists in memory only.

    Attributes:
        path: absolute, without `.`, `..`, `//` and a slash at the end.
        content: before substitution; None would be a template on the program's disk, which
            `load_session` refuses as not supported yet.
        mode: permission bits; 0o700 where the document sets none.
    """

    path: str
    content: str | None
    mode: int

    def __repr__(self) -> str:
        """Without the content, which may hold secrets."""
        return f"InjectionFile(path={self.path!r}, mode={self.mode:#o}, …)"


@dataclass(frozen=True, slots=True)
class Image:
    """What a service's file system gets in addition."""

    name: str
    injection_files: tuple[InjectionFile, ...]


@dataclass(frozen=True, slots=True)
class Secret:
    """A secret: given (`value`), or to be generated by the CAS.

    Attributes:
        name: unique in the session.
        kind: which of the fields below mean something.
        value: explicit value as text: ascii as it is, binary in lower-case hex, private-key and
            x509 in PEM. None: the CAS generates it.
        size: ascii in characters, binary in bytes; None for other kinds and for explicit values.
        key_type: private-key that is generated.
        private_key: x509 in 0.3: the name of the private-key secret of this session.
        common_name: x509: subject; None means the first of `dns`, else the secret's name.
        endpoint: x509: extended key usage; None for none.
        dns: x509: subject alternative names.
        valid_for: x509, seconds; None means practically unlimited.
        export_public: readable by anyone, without a client certificate.
        migrate: what an update does to the generated value.
    """

    name: str
    kind: SecretKind
    value: str | None = None
    size: int | None = None
    key_type: KeyType | None = None
    private_key: str | None = None
    common_name: str | None = None
    endpoint: Endpoint | None = None
    dns: tuple[str, ...] = ()
    valid_for: int | None = None
    export_public: bool = False
    migrate: Migrate = Migrate.DEFAULT

    def __repr__(self) -> str:
        """Without the value."""
        return f"Secret(name={self.name!r}, kind={self.kind.value}, …)"


class Keyword(Enum):
    """Entries of an access list that stand for no one certificate."""

    CREATOR = "CREATOR"
    ANY = "ANY"
    NONE = "NONE"


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate in an access list or as the creator.

    `pem` is in one form: one block, LF, 64 characters a line, a newline at the end.
    """

    pem: str


@dataclass(frozen=True, slots=True)
class PemHash:
    """0.2: SHA-256 of a certificate's PEM file (`sha256sum cert.pem`), lower-case hex."""

    digest: str


@dataclass(frozen=True, slots=True)
class KeyHash:
    """0.3: a public key by its hash, in the form `crannog.keyhash.key_hash` gives (Base58Check)."""

    text: str


Principal: TypeAlias = Keyword | Certificate | PemHash | KeyHash


@dataclass(frozen=True, slots=True)
class AccessPolicy:
    """Who may do what. The lists are never empty; `ANY` and `NONE` stand alone."""

    read: tuple[Principal, ...] = (Keyword.CREATOR,)
    update: tuple[Principal, ...] = (Keyword.CREATOR,)
    create_sessions: tuple[Principal, ...] = (Keyword.CREATOR,)

    @property
    def needs_creator(self) -> bool:
        """Whether some list says CREATOR, so that the session has to say who that is."""
        return any(Keyword.CREATOR in row for row in (self.read, self.update, self.create_sessions))


class Mode(Enum):
    """`security.attestation.mode`; `none` and `maa` are not built."""

    HARDWARE = "hardware"


@dataclass(frozen=True, slots=True)
class Security:
    """What the session asks of every service.

    Attributes:
        mode: how services are attested; None where the document says nothing, and then the CAS's
            minimum level holds alone.
        minimum_level: extension, for every service of the session.
        service_access_token: a second factor the program has to show. A secret.
        one_time_password_shared_secret: of codes that a program has to show, each good once; for
            every service that has none of its own. Base32. A secret.
    """

    mode: Mode | None = None
    minimum_level: Level | None = None
    service_access_token: str | None = None
    one_time_password_shared_secret: str | None = None

    def __repr__(self) -> str:
        """Without the token."""
        return f"Security(mode={self.mode}, minimum_level={self.minimum_level}, …)"


@dataclass(frozen=True, slots=True)
class Session:
    """One version of a session.

    Attributes:
        name: flat; `~` is an ordinary character.
        version: the language as written, `0.1` where the document names none.
        predecessor: the hash of the version that this one replaces; None for the first.
        creator: whom CREATOR means; written by the CAS, None where no list needs it.
    """

    name: str
    version: str
    predecessor: str | None
    services: tuple[Service, ...]
    images: tuple[Image, ...]
    secrets: tuple[Secret, ...]
    access_policy: AccessPolicy
    security: Security
    creator: Certificate | None

    @property
    def language(self) -> Language:
        """Which of the three forms `version` belongs to."""
        return Language(".".join(self.version.split(".")[:2]))

    def service(self, name: str) -> Service | None:
        """The service of that name, or None."""
        return next((service for service in self.services if service.name == name), None)

    def image_of(self, service: Service) -> Image | None:
        """The image that `service` names, or None where it names none."""
        return next((image for image in self.images if image.name == service.image_name), None)

    def secret(self, name: str) -> Secret | None:
        """The secret of that name, or None."""
        return next((secret for secret in self.secrets if secret.name == name), None)

    def required_level(self, service: Service, minimum: Level) -> Level:
        """The strictest of what the CAS (`minimum`), the session and the service ask for (A)."""
        level = minimum
        for asked in (
            Level.HARDWARE if self.security.mode is Mode.HARDWARE else None,
            self.security.minimum_level,
            service.minimum_level,
        ):
            if asked is not None:
                level = stricter(level, asked)
        return level
