"""The session's hash, and the text in which it is read back.

`session_hash` is SHA-256 over the canonical form (docs/formats/session-hash.md, pinned by
vectors/session). It depends on what a session means, not on how its YAML is laid out; it includes
explicit secret values, the predecessor, and the creator where an access list refers to it. It must
never change between releases: a field that is added to the language later enters the form only
where a session sets it.

`render` writes the session with its defaults filled in, in the reference's order.
`load_session(render(s))` has the hash of `s`. The text may be longer than a document may be that is
posted; `load.load_stored` takes it.
"""

from __future__ import annotations

import hashlib
from typing import Final

import yaml

from crannog.session.document import (
    AccessPolicy,
    Certificate,
    Image,
    InjectionFile,
    KeyHash,
    Keyword,
    Language,
    Migrate,
    PemHash,
    Principal,
    Secret,
    Security,
    Service,
    Session,
)
from crannog.wire import Json, encode_json

FORMAT: Final = "crannog session 1"

_MAX_BLOCK = 16 * 1024
_SECONDS = (("years", 365 * 86400), ("days", 86400), ("hours", 3600), ("minutes", 60))


def session_hash(session: Session) -> str:
    """The hash of `session`: 64 lower-case hex digits."""
    return hashlib.sha256(canonical(session)).hexdigest()


def canonical(session: Session) -> bytes:
    """The bytes that are hashed: canonical JSON. They hold secrets."""
    form: dict[str, Json] = {
        "format": FORMAT,
        "name": session.name,
        "version": session.version,
        "predecessor": session.predecessor,
        "creator": session.creator.pem if session.creator else None,
        "services": [_service(service) for service in session.services],
        "images": [_image(image) for image in session.images],
        "secrets": [_secret(secret) for secret in session.secrets],
        "access_policy": _policy(session.access_policy),
        "security": _security(session.security),
    }
    return encode_json(form)


def render(session: Session) -> str:
    """`session` as YAML text, defaults filled in."""
    modern = session.language is Language.V0_3
    document: dict[str, Json] = {"version": session.version, "name": session.name}
    document["predecessor"] = session.predecessor
    if session.services:
        document["services"] = [_service_text(service, modern) for service in session.services]
    if session.images:
        document["images"] = [_image_text(image, modern) for image in session.images]
    if session.secrets:
        document["secrets"] = [_secret_text(secret) for secret in session.secrets]
    policy: dict[str, Json] = {
        "read": _entries(session.access_policy.read),
        "update": _entries(session.access_policy.update),
    }
    if modern:
        policy["create_sessions"] = _entries(session.access_policy.create_sessions)
    document["access_policy"] = policy
    security = _security_text(session.security)
    if security:
        document["security"] = security
    if session.creator is not None:
        document["creator"] = session.creator.pem
    return yaml.dump(
        document,
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=False,
        width=2**30,
    )


# --- the canonical form ---------------------------------------------------------------------------


def _service(service: Service) -> Json:
    form: dict[str, Json] = {
        "name": service.name,
        "command": list(service.command),
        # An object: the order of variables is not part of what a session means.
        "environment": dict(service.environment),
        "pwd": service.pwd,
        "attestation": [{"mrenclave": list(v.mrenclaves)} for v in service.attestation],
    }
    if service.image_name is not None:
        form["image_name"] = service.image_name
    if service.fspf is not None:
        form["fspf"] = {
            "path": service.fspf.path,
            "key": service.fspf.key,
            "tag": service.fspf.tag,
        }
    if service.minimum_level is not None:
        form["minimum_level"] = service.minimum_level.value
    if service.claims:
        form["claims"] = [dict(one.pairs) for one in service.claims]
    if service.one_time_password_shared_secret is not None:
        form["one_time_password_shared_secret"] = service.one_time_password_shared_secret
    return form


def _image(image: Image) -> Json:
    return {"name": image.name, "injection_files": [_file(f) for f in image.injection_files]}


def _file(file: InjectionFile) -> Json:
    return {"path": file.path, "content": file.content, "mode": file.mode}


def _secret(secret: Secret) -> Json:
    form: dict[str, Json] = {"name": secret.name, "kind": secret.kind.value}
    if secret.value is not None:
        form["value"] = secret.value
    if secret.size is not None:
        form["size"] = secret.size
    if secret.key_type is not None:
        form["key_type"] = secret.key_type.value
    if secret.private_key is not None:
        form["private_key"] = secret.private_key
    if secret.common_name is not None:
        form["common_name"] = secret.common_name
    if secret.endpoint is not None:
        form["endpoint"] = secret.endpoint.value
    if secret.dns:
        form["dns"] = list(secret.dns)
    if secret.valid_for is not None:
        form["valid_for"] = secret.valid_for
    if secret.export_public:
        form["export_public"] = True
    if secret.migrate is not Migrate.DEFAULT:
        form["migrate"] = secret.migrate.value
    return form


def _policy(policy: AccessPolicy) -> Json:
    return {
        "read": [_principal(entry) for entry in policy.read],
        "update": [_principal(entry) for entry in policy.update],
        "create_sessions": [_principal(entry) for entry in policy.create_sessions],
    }


def _principal(entry: Principal) -> Json:
    match entry:
        case Keyword():
            return {"keyword": entry.value}
        case Certificate():
            return {"certificate": entry.pem}
        case PemHash():
            return {"pem_sha256": entry.digest}
        case KeyHash():
            return {"key_hash": entry.text}


def _security(security: Security) -> Json:
    form: dict[str, Json] = {}
    if security.mode is not None:
        form["mode"] = security.mode.value
    if security.minimum_level is not None:
        form["minimum_level"] = security.minimum_level.value
    if security.service_access_token is not None:
        form["service_access_token"] = security.service_access_token
    if security.one_time_password_shared_secret is not None:
        form["one_time_password_shared_secret"] = security.one_time_password_shared_secret
    return form


# --- the text -------------------------------------------------------------------------------------


def _service_text(service: Service, modern: bool) -> Json:
    text: dict[str, Json] = {
        "name": service.name,
        "environment": dict(service.environment),
        "command": list(service.command),
        "pwd": service.pwd,
    }
    if service.image_name is not None:
        text["image_name"] = service.image_name
    if modern:
        text["attestation"] = [{"mrenclave": list(v.mrenclaves)} for v in service.attestation]
    else:
        text["mrenclaves"] = list(service.mrenclaves)
    if service.fspf is not None:
        text["fspf_path"] = service.fspf.path
        text["fspf_key"] = service.fspf.key
        text["fspf_tag"] = service.fspf.tag
    if service.minimum_level is not None:
        text["minimum_level"] = service.minimum_level.value
    if service.claims:
        text["claims"] = [dict(one.pairs) for one in service.claims]
    if service.one_time_password_shared_secret is not None:
        text["one_time_password_shared_secret"] = service.one_time_password_shared_secret
    return text


def _image_text(image: Image, modern: bool) -> Json:
    files: list[Json] = []
    for file in image.injection_files:
        text: dict[str, Json] = {"path": file.path}
        if file.content is not None:
            text["content"] = file.content
        if modern:
            text["permission"] = f"0o{file.mode:03o}"
        files.append(text)
    return {"name": image.name, "injection_files": files} if files else {"name": image.name}


def _secret_text(secret: Secret) -> Json:
    text = _secret(secret)
    assert isinstance(text, dict)
    if secret.valid_for is not None:
        text["valid_for"] = _duration(secret.valid_for)
    return text


def _duration(seconds: int) -> str:
    for unit, length in _SECONDS:
        if seconds % length == 0:
            return f"{seconds // length} {unit}"
    return f"{seconds} seconds"


def _entries(entries: tuple[Principal, ...]) -> Json:
    texts: list[Json] = []
    for entry in entries:
        match entry:
            case Keyword():
                texts.append(entry.value)
            case Certificate():
                texts.append(entry.pem)
            case PemHash():
                texts.append(entry.digest)
            case KeyHash():
                texts.append(entry.text)
    return texts


def _security_text(security: Security) -> dict[str, Json]:
    text: dict[str, Json] = {}
    attestation: dict[str, Json] = {}
    if security.mode is not None:
        attestation["mode"] = security.mode.value
    if security.one_time_password_shared_secret is not None:
        attestation["one_time_password_shared_secret"] = security.one_time_password_shared_secret
    if attestation:
        text["attestation"] = attestation
    if security.minimum_level is not None:
        text["minimum_level"] = security.minimum_level.value
    if security.service_access_token is not None:
        text["service_access_token"] = security.service_access_token
    return text


# libyaml's emitter: a megabyte takes 10 ms, the pure one half a second and more. Without libyaml no
# session is loaded (tree.py), so that none is written.
_BaseDumper: type[yaml.SafeDumper] = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


class _Dumper(_BaseDumper):  # type: ignore[misc, valid-type] # one of two classes of one interface
    """Writes no aliases, and texts of several lines as blocks, so that people can read PEM."""

    def ignore_aliases(self, data: object) -> bool:
        """Always: the language has no aliases."""
        return True


def _write_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # Not for long texts: indenting short lines would multiply their size.
    style = "|" if "\n" in text and len(text) <= _MAX_BLOCK else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


def _write_bool(dumper: yaml.SafeDumper, flag: bool) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:bool", "true" if flag else "false")


_Dumper.add_representer(str, _write_text)
_Dumper.add_representer(bool, _write_bool)
