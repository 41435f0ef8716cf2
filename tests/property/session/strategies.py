"""Sessions as the language allows them, nasty texts included."""

from __future__ import annotations

import base64
import datetime
import functools

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import strategies as st

from crannog.keyhash import key_hash
from crannog.levels import Level
from crannog.session import access
from crannog.session.document import (
    CLAIM_NAMES,
    AccessPolicy,
    Certificate,
    ContainerClaims,
    Endpoint,
    FspfReference,
    Image,
    InjectionFile,
    KeyHash,
    KeyType,
    Keyword,
    Language,
    Migrate,
    Mode,
    PemHash,
    Principal,
    Secret,
    SecretKind,
    Security,
    Service,
    Session,
    Variant,
)

VERSIONS = ("0.2", "0.3", "0.3.0", "0.3.12")
# What YAML reads as something else, and what emitters have got wrong before.
POOL = (
    "", "~", "null", "yes", "no", "3.10", "12:30:00", "0o400", "1e3", "-", "- a", "a: b", "a #b",
    "#", "%YAML", "---", "...", "\n", "\n\n", " a", "a ", "a\n b\n", " \n a", "\ta", "a\r\nb", "'",
    '"', "\\", "|", ">", "&a", "*a", "!t", "\ufeff", "\u2028x", "\x85", "\x01", "\U0001f600", "<<",
    "a\n\n\n", "\n a", "{", "[", "@", "`", "a,b", "2001-01-01", "0x10", "=", "$$", "$$SCONE::$$",
    "\ue000", "\ufffd", "trailing \n", "  two\n one\n", "x\ty\n",
)  # fmt: skip


@functools.cache
def certificate(index: int, key_index: int) -> Certificate:
    """Certificate `index`, with key `key_index`; the same each time within a run."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"client {index}")])
    start = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    key = _key(key_index)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(index + 1)
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    return access.parse_certificate(built.public_bytes(Encoding.PEM).decode())


@functools.cache
def _key(index: int) -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(index + 12345, ec.SECP256R1())


def names() -> st.SearchStrategy[str]:
    """Names of sessions, services and secrets."""
    alphabet = "abcXYZ019_-.~"
    odd = st.sampled_from(("0.1", "no", "~", "-", "12345", "1e5", "null", "true", "..."))
    suffixes = (".crt", ".key", ".chain", ".hex")
    return st.one_of(odd, st.text(alphabet, min_size=1, max_size=12)).filter(
        lambda name: not name.endswith(suffixes) and name not in (".", "..")
    )


def texts(min_size: int = 0) -> st.SearchStrategy[str]:
    """Texts without NUL, lone surrogates and references."""
    free = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30)
    pooled = st.lists(st.sampled_from(POOL), max_size=4).map("".join)
    return st.one_of(free, pooled).filter(
        lambda text: len(text) >= min_size and "$$SCONE:" not in text and "@@" not in text
    )


def digests(size: int) -> st.SearchStrategy[str]:
    """`size` bytes in hex; sometimes digits only, which YAML takes for numbers."""
    digits = st.text("0123456789", min_size=2 * size, max_size=2 * size)
    return st.one_of(digits, st.binary(min_size=size, max_size=size).map(bytes.hex))


@st.composite
def secrets(draw: st.DrawFn, name: str, keys: tuple[str, ...], language: Language) -> Secret:
    """One secret; an x509 of 0.3 takes one of `keys`."""
    modern = language is Language.V0_3
    kinds = [SecretKind.ASCII, SecretKind.BINARY]
    if keys or not modern:
        kinds.append(SecretKind.X509)
    kind = draw(st.sampled_from(kinds))
    public = draw(st.booleans())
    if kind is SecretKind.X509:
        if not modern:
            return Secret(name, kind, export_public=public)
        endpoint = draw(st.sampled_from((None, *Endpoint)))
        dns = st.sampled_from((("a.example",), ("*.b.example", "c"), ()))
        return Secret(
            name,
            kind,
            private_key=draw(st.sampled_from(keys)),
            common_name=draw(st.sampled_from((None, "no", "a b", "é: #"))),
            endpoint=endpoint,
            dns=() if endpoint is Endpoint.CLIENT else draw(dns),
            valid_for=draw(st.sampled_from((None, 1, 61, 3600, 86400 * 90, 86400 * 365))),
            export_public=public,
        )
    value = draw(st.one_of(st.none(), texts(1) if kind is SecretKind.ASCII else digests(3)))
    size = draw(st.integers(1, 65536)) if value is None else None
    migrate = draw(st.sampled_from((Migrate.DEFAULT, Migrate.NEVER)))
    return Secret(name, kind, value=value, size=size, export_public=public, migrate=migrate)


def principals(language: Language) -> st.SearchStrategy[Principal]:
    """Entries that may stand beside others."""
    pem = st.builds(certificate, st.integers(0, 3), st.integers(0, 1))
    if language is Language.V0_3:
        hashed: st.SearchStrategy[Principal] = st.binary(min_size=1, max_size=4).map(
            lambda spki: KeyHash(key_hash(spki))
        )
    else:
        hashed = digests(32).map(PemHash)
    return st.one_of(st.just(Keyword.CREATOR), pem, hashed)


@st.composite
def policies(draw: st.DrawFn, language: Language) -> AccessPolicy:
    """Access lists that fit together."""
    alone: st.SearchStrategy[tuple[Principal, ...]] = st.sampled_from(
        ((Keyword.ANY,), (Keyword.NONE,))
    )
    some = st.lists(principals(language), min_size=1, max_size=3).map(tuple)
    rows: st.SearchStrategy[tuple[Principal, ...]] = st.one_of(alone, some)
    if language is Language.V0_3:
        return AccessPolicy(draw(rows), draw(rows), draw(rows))
    both = draw(rows)
    return AccessPolicy(both, both, both)


def shared_secrets() -> st.SearchStrategy[str | None]:
    """Shared secrets of one-time passwords, in the form that is kept."""
    given = st.binary(min_size=16, max_size=40).map(base64.b32encode)
    return st.one_of(st.none(), given.map(lambda text: text.decode().rstrip("=")))


@st.composite
def containers(draw: st.DrawFn) -> ContainerClaims:
    """Some keys of one container."""
    plain = st.sampled_from(
        ("a", "~", "no", "null", "1.20", "r.example:5000/i@sha256:0", "é#'", "-")
    )
    digest = digests(32).map(lambda text: f"sha256:{text}")
    special = {"image_id": digest, "engine": st.sampled_from(("docker", "podman", "containerd"))}
    names = draw(st.sets(st.sampled_from(CLAIM_NAMES), min_size=1))
    return ContainerClaims(
        tuple(
            (name, draw(special.get(name, plain.filter(lambda text: text not in ("~", "null")))))
            for name in CLAIM_NAMES
            if name in names
        )
    )


@st.composite
def services(draw: st.DrawFn, name: str, images: tuple[str, ...], language: Language) -> Service:
    """One service without references to secrets."""
    variant = st.lists(digests(32), min_size=1, max_size=3, unique=True).map(
        lambda m: Variant(tuple(m))
    )
    count = 3 if language is Language.V0_3 else 1
    environment = draw(
        st.dictionaries(
            texts(1).filter(lambda n: "=" not in n and not n.startswith("\\@")),
            texts(),
            max_size=4,
        )
    )
    fspf = st.builds(FspfReference, st.just("/fspf.pb"), digests(32), digests(16))
    return Service(
        name=name,
        command=(draw(texts(1)), *draw(st.lists(texts(), max_size=3))),
        environment=tuple(environment.items()),
        pwd="/" + draw(texts()),
        image_name=draw(st.sampled_from((None, *images))),
        attestation=tuple(draw(st.lists(variant, min_size=1, max_size=count))),
        fspf=draw(st.one_of(st.none(), fspf)),
        minimum_level=(level := draw(st.sampled_from((None, *Level)))),
        claims=tuple(draw(st.lists(containers(), max_size=3, unique=True)))
        if level in (Level.NODE, Level.HARDWARE)
        else (),
        one_time_password_shared_secret=draw(shared_secrets()),
    )


@st.composite
def sessions(draw: st.DrawFn) -> Session:
    """A whole session, as `load_session` could have made it."""
    version = draw(st.sampled_from(VERSIONS))
    language = Language(version[:3])
    modern = language is Language.V0_3
    unique = st.lists(names(), unique=True, max_size=3)
    image_names = tuple(draw(unique))
    image_list = tuple(
        Image(
            name,
            tuple(
                InjectionFile(
                    f"/f{index}{draw(st.sampled_from(('', ' a', 'é', ': #', '/d')))}",
                    draw(texts()),
                    draw(st.integers(0, 0o777)) if modern else 0o700,
                )
                for index in range(draw(st.integers(0, 2)))
            ),
        )
        for name in image_names
    )
    key_names = tuple(f"k-{name}" for name in draw(unique)) if modern else ()
    keys = tuple(
        Secret(
            name,
            SecretKind.PRIVATE_KEY,
            key_type=draw(st.sampled_from(KeyType)),
            migrate=draw(st.sampled_from(Migrate)),
        )
        for name in key_names
    )
    others = tuple(draw(secrets(f"s-{name}", key_names, language)) for name in draw(unique))
    policy = draw(policies(language))
    security = Security()
    if modern:
        security = Security(
            draw(st.sampled_from((None, Mode.HARDWARE))),
            draw(st.sampled_from((None, *Level))),
            draw(st.one_of(st.none(), texts(1))),
            draw(shared_secrets()),
        )
    creator = st.one_of(st.none(), st.builds(certificate, st.integers(0, 3), st.just(0)))
    return Session(
        name=draw(names()),
        version=version,
        predecessor=draw(st.one_of(st.none(), digests(32))),
        services=tuple(draw(services(name, image_names, language)) for name in draw(unique)),
        images=image_list,
        secrets=keys + others,
        access_policy=policy,
        security=security,
        creator=draw(creator) if policy.needs_creator else None,
    )
