"""Writes the vectors of the session language: `python vectors/session/generate.py`.

Each file states one fact. Files of accepted documents carry the session's hash, which pins the
canonical form: a difference in `git diff` after a run is a break of compatibility, not an update.
Certificates and keys below are fixed texts, so that a run writes the same bytes each time.
"""

# ruff: noqa: E501, ISC004 - the documents are easier to compare when each is one entry

from __future__ import annotations

import json
import shutil
from pathlib import Path

from crannog.errors import Error
from crannog.keyhash import key_hash
from crannog.session import access
from crannog.session.canonical import canonical, session_hash
from crannog.session.command import split_command
from crannog.session.load import load_session
from crannog.session.problems import SessionInvalid
from crannog.session.template import Reference, tokenize

HERE = Path(__file__).parent
M = "ab" * 32
SERVICE = f"services: [{{name: app, command: run, mrenclaves: [{M}]}}]\n"
CERT = """-----BEGIN CERTIFICATE-----
MIIBHzCBx6ADAgECAgEBMAoGCCqGSM49BAMCMBkxFzAVBgNVBAMMDmNyYW5ub2cg
dmVjdG9yMCAXDTI2MDEwMTAwMDAwMFoYDzIxMjUxMjA4MDAwMDAwWjAZMRcwFQYD
VQQDDA5jcmFubm9nIHZlY3RvcjBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABFam
JMA5ZUdul4zND94W/zwiO0gmH+sBf29Qka/6//cBgmASloeihyewQE0wBmgESWGz
ubLOpJfVdgNGZIED7B4wCgYIKoZIzj0EAwIDRwAwRAIgDZmQAtbUKP2Qq48PWAgW
hOIlWh8wZRxTSPKhzLBdsPcCIDIbtoobt4lNeoTLLH5q3i3adTyMK/bTe/mZgT+u
Bdvv
-----END CERTIFICATE-----
"""
KEY = """-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgX2sjhZw5OPYHsAqA
JTHYbASv4YRNJ+lcClyuRbz+WwGhRANCAATq1t6Qugxh138BbSJCFFQ7eMTrAW4A
kpUWQqZcNjDTQH1bV4beA45PusasEq2Hl0RNrOByllUpoKv0MTklayAr
-----END PRIVATE KEY-----
"""


def v2(rest: str = "") -> str:
    """A document of version 0.2."""
    return f'name: s\nversion: "0.2"\n{rest}'


def v3(rest: str = "") -> str:
    """A document of version 0.3."""
    return f'name: s\nversion: "0.3"\n{rest}'


def service(rest: str, *, version: str = "0.3", measured: bool = True, command: bool = True) -> str:
    """A document with one service; `rest` is one key a line."""
    lines = ["name: app"]
    if command:
        lines.append("command: run")
    if measured:
        lines.append(f"mrenclaves: [{M}]")
    lines += rest.rstrip("\n").split("\n")
    body = "\n".join(("  - " if i == 0 else "    ") + line for i, line in enumerate(lines))
    return f'name: s\nversion: "{version}"\nservices:\n{body}\n'


def secret(rest: str, *, version: str = "0.3", more: str = "") -> str:
    """A document with one secret called S; `rest` is one key a line."""
    lines = ["name: S", *rest.rstrip("\n").split("\n")]
    body = "\n".join(("  - " if i == 0 else "    ") + line for i, line in enumerate(lines))
    return f'name: s\nversion: "{version}"\nsecrets:\n{body}\n{more}'


def image(rest: str, *, version: str = "0.3") -> str:
    """A document with one image; `rest` is the list of its injected files."""
    body = "\n".join("      " + line for line in rest.rstrip("\n").split("\n"))
    return (
        f'name: s\nversion: "{version}"\nimages:\n  - name: i\n    injection_files:\n{body}\n'
        "secrets:\n  - name: A\n    kind: ascii\n  - name: B\n    kind: binary\n"
    )


def block(text: str, indent: int) -> str:
    """`text` as the lines of a literal block."""
    return "|\n" + "".join(" " * indent + line + "\n" for line in text.splitlines())


KEYED = "  - name: K\n    kind: private-key\n"

# name: (fact, document)
VALID: dict[str, tuple[str, str]] = {
    "namespace-versionless": (
        "a document without a version is of version 0.1: a name and an access policy",
        "name: HelloWorld-1-2\n\naccess_policy:\n  read:\n   - CREATOR\n  update:\n   - CREATOR\n",
    ),
    "namespace-explicit-0.1": (
        "version 0.1 written out is the same session as no version",
        'name: HelloWorld-1-2\nversion: "0.1"\n',
    ),
    "name-only": ("a session may have only a name and a version", v3()),
    "version-float": ("version may be an unquoted float", "name: s\nversion: 0.3\n"),
    "version-patch": ("0.3.10 is a version, and not 0.3.1", "name: s\nversion: 0.3.10\n"),
    "name-tilde": ("~ is an ordinary character of names", "name: a~b.c_d-e\nversion: 0.2\n"),
    "predecessor-null": ("predecessor may be ~", v2("predecessor: ~\n")),
    "predecessor": ("predecessor is the hash of the version before", v2(f"predecessor: {M}\n")),
    "predecessor-upper": (
        "hex may be upper case; it means the same",
        v2(f"predecessor: {M.upper()}\n"),
    ),
    "tutorial-hello": (
        "the tutorial's first attested session",
        f'name: ns~hello-k8s-scone\nversion: "0.2"\n\nservices:\n   - name: application\n'
        f"     mrenclaves: [{M}]\n     command: python3 /app/server.py\n     pwd: /\n"
        "     environment:\n        GREETING: hello from SCONE!!!\n",
    ),
    "tutorial-fspf": (
        "the tutorial's last session: injected files, x509, fspf",
        f'name: ns~hello-k8s-scone-tls\nversion: "0.2"\n\nservices:\n   - name: application\n'
        f"     image_name: application_image\n     mrenclaves: [{M}]\n"
        "     command: python3 /app/server-tls.py\n     pwd: /\n     environment:\n"
        "        GREETING: hello from SCONE with encrypted source code!!!\n"
        f"     fspf_path: /fspf.pb\n     fspf_key: {'cd' * 32}\n     fspf_tag: {'ef' * 16}\n\n"
        "images:\n   - name: application_image\n     injection_files:\n"
        "       - path:  /app/cert.pem\n         content: $$SCONE::SERVER_CERT.crt$$\n"
        "       - path: /app/key.pem\n         content: $$SCONE::SERVER_CERT.key$$\n\n"
        "secrets:\n   - name: SERVER_CERT\n     kind: x509\n",
    ),
    "scalars-stay-text": (
        "values of every YAML type are the text they were",
        service(
            "environment:\n  A: 3.10\n  B: no\n  C: 12:30:00\n  D: 0o400\n  E: 1_000\n  F: ~\n"
            '  G:\n  H: ""\n  I: 2001-01-01\n  J: 0x1F'
        ),
    ),
    "environment-order": (
        "the order of variables does not change the hash (compare environment-order-2)",
        service("environment:\n  A: x\n  B: y"),
    ),
    "environment-order-2": ("as environment-order", service("environment:\n  B: y\n  A: x")),
    "canonical-characters": (
        "keys are sorted by code point, not by UTF-16 unit; only what JSON requires is escaped",
        service(
            'environment:\n  "\\U0001F600": "\\x01\\x7f\\x85\\u2028\\b\\t\\n\\f\\r\\e"\n'
            "  \ufffd: '\"\\/'\n  é: é\n  a: z"
        ),
    ),
    "command-list": (
        "a command as a list is taken as it is",
        service("command: [python3, -c, 'print(1)  # \"x\"', '']", command=False),
    ),
    "command-quotes": (
        "quotes group words in 0.3",
        service("command: python3 -c 'print(1)' \"a b\"c", command=False),
    ),
    "command-no-quotes-0.2": (
        "quotes are ordinary characters in 0.2",
        service("command: echo 'a b'", command=False, version="0.2"),
    ),
    "attestation-map": (
        "attestation is one map (compare mrenclaves-0.3)",
        service(f"attestation: {{mrenclave: {M}}}", measured=False),
    ),
    "mrenclaves-0.3": ("mrenclaves in 0.3 means attestation.mrenclave", service("pwd: /")),
    "mrenclave-twice": (
        "a measurement that stands twice counts once (compare mrenclaves-0.3)",
        service(f"mrenclaves: [{M}, {M.upper()}]\npwd: /", measured=False),
    ),
    "attestation-list": (
        "attestation is a list of maps, any one of which suffices",
        service(
            f"attestation:\n  - mrenclave: {M}\n  - mrenclave: [{'cd' * 32}, {'ef' * 32}]",
            measured=False,
        ),
    ),
    "minimum-level": ("extension: a service names a level", service("minimum_level: node")),
    "claims": (
        "extension: any one of two containers, all keys of it, in one order",
        service(
            f"minimum_level: node\nclaims:\n  - {{pod: p, image: 'r.example/i:1'}}\n  - {{engine: docker, image_id: 'sha256:{M}', namespace: n, container: c}}"
        ),
    ),
    "claims-twice": (
        "a container that stands twice counts once",
        service("minimum_level: hardware\nclaims: [{pod: p, image: i}, {image: i, pod: p}]"),
    ),
    "one-time-password": (
        "a shared secret of a service, and one of the session, in one form",
        service("one_time_password_shared_secret: gezdgnbvgy3tqojqgezdgnbvgy")
        + "security: {attestation: {one_time_password_shared_secret: GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQGEZDGNBV=}}\n",
    ),
    "one-time-password-0.2": (
        "extension: a service of version 0.2 with a shared secret",
        service("one_time_password_shared_secret: GEZDGNBVGY3TQOJQGEZDGNBVGY======", version="0.2"),
    ),
    "claims-mode-hardware": (
        "the level may be asked for by the session's mode",
        service("claims: [{namespace: n}]") + "security: {attestation: {mode: hardware}}\n",
    ),
    "security": (
        "mode, level and token of the session",
        v3(
            "security:\n  attestation: {mode: hardware}\n  minimum_level: node\n  service_access_token: t\n"
        ),
    ),
    "persistency-none": (
        "what the reference's read-back says is taken",
        service("persistency: None"),
    ),
    "injection-permission": (
        "permission bits, as 0.3.10 has them",
        image("- path: /a\n  content: x\n  permission: 0o440"),
    ),
    "injection-references": (
        "references in contents, in both spellings",
        image("- path: /a\n  content: $$SCONE::A$$ $$SCONE::B.hex$$ $$SCONE::B:base64$$"),
    ),
    "escape": (
        "$$SCONE::$$ stands for $$, so that a literal reference can be written",
        image("- path: /a\n  content: $$SCONE::$$SCONE::NOTHING$$"),
    ),
    "secret-ascii-default": ("an ascii secret has 20 characters", secret("kind: ascii")),
    "secret-ascii-size": (
        "size is the same as the default when it is 20",
        secret("kind: ascii\nsize: 20"),
    ),
    "secret-ascii-value": (
        "an explicit value is part of the hash",
        secret("kind: ascii\nvalue: 'pä ss~'"),
    ),
    "secret-binary-value": (
        "a binary value is hex of either case",
        secret("kind: binary\nvalue: 00FFab"),
    ),
    "secret-migrate-never": (
        "extension: a value that no update keeps",
        secret("kind: ascii\nmigrate: never"),
    ),
    "secret-private-key": (
        "a generated private key",
        secret("kind: private-key\nkey_type: RSA-3072\nmigrate: true"),
    ),
    "secret-private-key-value": (
        "an explicit private key",
        secret(f"kind: private-key\nvalue: {block(KEY, 6)}"),
    ),
    "secret-x509": (
        "a generated certificate of 0.3",
        secret(
            "kind: x509\nprivate_key: K\ncommon_name: c\nendpoint: server\ndns: [a.example, '*.b']\n"
            "valid_for: 90 days\nexport_public: true",
            more=KEYED,
        ),
    ),
    "secret-x509-valid-for": (
        "valid_for is a time, however it is written (compare secret-x509-valid-for-2)",
        secret("kind: x509\nprivate_key: K\nvalid_for: 1 year", more=KEYED),
    ),
    "secret-x509-valid-for-2": (
        "as secret-x509-valid-for",
        secret("kind: x509\nprivate_key: K\nvalid_for: 365d", more=KEYED),
    ),
    "secret-x509-value": (
        "an explicit certificate needs no key",
        secret(f"kind: x509\nvalue: {block(CERT, 6)}"),
    ),
    "policy-default": (
        "access policy: missing lists are [CREATOR]; create_sessions follows update",
        v3("access_policy: {update: [NONE]}\n"),
    ),
    "policy-any": ("ANY alone, as a scalar", v3("access_policy: {read: ANY, update: NONE}\n")),
    "policy-certificate": (
        "an entry may be a certificate",
        v2(f"access_policy:\n  read:\n    - CREATOR\n    - {block(CERT, 6)}  update: [CREATOR]\n"),
    ),
    "policy-pem-hash": (
        "0.2: an entry may be the SHA-256 of a PEM file",
        v2(f"access_policy: {{read: [{M}], update: [{M}]}}\n"),
    ),
    "policy-key-hash": (
        "0.3: an entry may be a key hash",
        v3(f"access_policy: {{read: [{key_hash(b'a key')}]}}\n"),
    ),
    "creator": ("the creator, as read back", v2(f"creator: {block(CERT, 2)}")),
}

# name: (fact, document); every one is refused
INVALID: dict[str, tuple[str, str]] = {
    "yaml-empty": ("an empty document", ""),
    "yaml-list": ("a list", "- name: s\n"),
    "yaml-two-documents": ("a second document", "name: s\n---\nname: t\n"),
    "yaml-alias": ("an alias", "name: s\nversion: *a\n"),
    "yaml-anchor": ("an anchor nobody uses", "name: &a s\n"),
    "yaml-tag": ("a tag", "name: !!str s\n"),
    "yaml-directive": ("a directive", "%YAML 1.2\n---\nname: s\n"),
    "yaml-merge": ("a merge key", "name: s\n<<: {version: 0.3}\n"),
    "yaml-duplicate-key": ("a key twice", "name: s\nname: s\n"),
    "yaml-nested-key": ("a list as a key", "name: s\n? [a]\n: b\n"),
    "yaml-deep": ("too deep", "name: " + "[" * 30 + "]" * 30 + "\n"),
    "yaml-surrogate": ("half of a character", 'name: "\\ud83d"\n'),
    "yaml-tab": ("not YAML", "name: s\n\tversion: 0.2\n"),
    "name-missing": ("no name", 'version: "0.2"\n'),
    "name-null": ("an empty name", 'name: ~\nversion: "0.2"\n'),
    "name-space": ("a space in a name", 'name: a b\nversion: "0.2"\n'),
    "name-slash": ("namespaces are not supported yet", 'name: a/b\nversion: "0.3"\n'),
    "name-dots": ("a name that URLs cannot hold", 'name: ..\nversion: "0.3"\n'),
    "name-long": ("129 characters", f"name: {'a' * 129}\n"),
    "version-unknown": ("a version that does not exist", 'name: s\nversion: "0.4"\n'),
    "version-patch-unknown": ("a patch version that does not exist", "name: s\nversion: 0.3.13\n"),
    "key-unknown": ("an unknown key", v2("acess_policy: {read: [CREATOR]}\n")),
    "key-volumes": ("volumes are not supported yet", v3("volumes: [{name: v}]\n")),
    "key-salt": ("salt is not supported yet", v3(f"salt: {'ab' * 16}\n")),
    "key-namespace-hash": ("namespace_hash is not supported yet", v3(f"namespace_hash: {M}\n")),
    "key-secret-config": (
        "secret_config is not supported yet",
        v3("secret_config: {store_in: x}\n"),
    ),
    "key-security-0.2": ("security exists since 0.3", v2("security: {minimum_level: node}\n")),
    "key-services-0.1": ("services need a version", f"name: s\n{SERVICE}"),
    "key-digest-0.1": ("the keys of 0.1 are not supported yet", "name: s\ndigest: create\n"),
    "predecessor-short": ("63 digits", v2(f"predecessor: {M[1:]}\n")),
    "services-empty": ("an empty list", v2("services: []\n")),
    "services-null": ("nothing", v2("services:\n")),
    "services-map": ("a map where a list belongs", v2("services: {name: app}\n")),
    "service-name-missing": ("no name", v2(f"services: [{{command: a, mrenclaves: [{M}]}}]\n")),
    "service-name-twice": (
        "two of one name",
        v2(SERVICE.replace("]}]", "]}, {name: app, command: run, mrenclaves: [" + M + "]}]")),
    ),
    "service-no-mrenclaves": (
        "a 0.2 service without measurements",
        service("pwd: /", version="0.2", measured=False),
    ),
    "service-no-attestation": (
        "a 0.3 service without measurements",
        service("pwd: /", measured=False),
    ),
    "service-mrenclaves-empty": (
        "an empty list allows nothing",
        service("mrenclaves: []", measured=False),
    ),
    "service-mrenclave-short": (
        "63 digits",
        service(f"mrenclaves: [{M}, {M[1:]}]", measured=False),
    ),
    "service-mrenclave-text": ("no hex", service(f"mrenclaves: [{'xy' * 32}]", measured=False)),
    "service-both-measurements": (
        "mrenclaves beside attestation",
        service(f"attestation: {{mrenclave: {M}}}"),
    ),
    "service-attestation-0.2": (
        "attestation exists since 0.3",
        service(f"attestation: {{mrenclave: {M}}}", version="0.2"),
    ),
    "service-attestation-signer": (
        "signer is not supported yet",
        service("attestation: {signer: {mrsigner: x}}", measured=False),
    ),
    "service-attestation-empty": (
        "an empty list of variants",
        service("attestation: []", measured=False),
    ),
    "service-platforms": ("platforms is not supported yet", service("platforms: [x]")),
    "service-unknown-key": ("an unknown key", service("enviroment: {A: b}")),
    "service-no-command": ("a service without a command", service("pwd: /", command=False)),
    "service-command-map": ("a map as a command", service("command: {a: b}", command=False)),
    "service-command-empty": ("an empty command", service("command: ''", command=False)),
    "service-command-empty-list": ("an empty list", service("command: []", command=False)),
    "service-command-quote": (
        "a quote that is not closed",
        service("command: a 'b", command=False),
    ),
    "service-command-host": (
        "@@N is not supported yet",
        service("command: run @@1", command=False),
    ),
    "service-pwd-relative": ("a relative directory", service("pwd: app")),
    "service-environment-list": ("a list as the environment", service("environment: [A=b]")),
    "service-environment-config-id": (
        "SCONE_CONFIG_ID",
        service("environment: {SCONE_CONFIG_ID: a/b}"),
    ),
    "service-environment-host": (
        "variables from the host are not supported yet",
        service("environment: {'\\@\\@A': b}"),
    ),
    "service-environment-name-reference": (
        "references in names are not supported yet",
        service("environment: {$$SCONE::A$$: b}"),
    ),
    "service-environment-equals": ("= in a name", service("environment: {A=B: c}")),
    "service-environment-nul": ("NUL in a value", service('environment: {A: "a\\0b"}')),
    "service-environment-nested": ("a map as a value", service("environment: {A: {B: c}}")),
    "service-image-unknown": ("an image that is not there", service("image_name: nothing")),
    "service-fspf-partial": ("fspf without key and tag", service("fspf_path: /fspf.pb")),
    "service-fspf-tag-key": (
        "key and tag exchanged",
        service(f"fspf_path: /f\nfspf_key: {'ab' * 16}\nfspf_tag: {M}"),
    ),
    "service-fspf-relative": (
        "a relative path",
        service(f"fspf_path: f\nfspf_key: {M}\nfspf_tag: {'ab' * 16}"),
    ),
    "service-fspf-key-reference": (
        "a key by reference is not supported yet",
        service(f"fspf_path: /f\nfspf_key: $$SCONE::K$$\nfspf_tag: {'ab' * 16}"),
    ),
    "service-one-time-password-short": (
        "a shared secret of 15 bytes",
        service("one_time_password_shared_secret: GEZDGNBVGY3TQOJQGEZDGNBV"),
    ),
    "service-one-time-password-reference": (
        "a shared secret by reference is not supported yet",
        service("one_time_password_shared_secret: $$SCONE::A$$"),
    ),
    "service-claims-simulation": (
        "claims without a level that somebody vouches at",
        service("claims: [{image: i}]"),
    ),
    "service-claims-level-too-low": (
        "claims at level simulation",
        service("minimum_level: simulation\nclaims: [{image: i}]"),
    ),
    "service-claims-empty": ("no container at all", service("minimum_level: node\nclaims: []")),
    "service-claims-empty-map": (
        "a container of which nothing is asked",
        service("minimum_level: node\nclaims: [{}]"),
    ),
    "service-claims-map": (
        "claims are a list",
        service("minimum_level: node\nclaims: {image: i}"),
    ),
    "service-claims-unknown": (
        "an unknown key",
        service("minimum_level: node\nclaims: [{image: i, imageid: 'sha256:0'}]"),
    ),
    "service-claims-image-id": (
        "an image id that is no digest",
        service(f"minimum_level: node\nclaims: [{{image_id: {M}}}]"),
    ),
    "service-claims-engine": (
        "an engine that no LAS knows",
        service("minimum_level: node\nclaims: [{engine: rkt}]"),
    ),
    "service-claims-space": (
        "a text with a space",
        service("minimum_level: node\nclaims: [{image: 'a b'}]"),
    ),
    "service-claims-null": (
        "a key without a value",
        service("minimum_level: node\nclaims: [{image: ~}]"),
    ),
    "service-claims-reference": (
        "a reference to a secret",
        service("minimum_level: node\nclaims: [{image: $$SCONE::A$$}]"),
    ),
    "service-minimum-level": ("a level that does not exist", service("minimum_level: hw")),
    "service-persistency": ("persistency other than None", service("persistency: full")),
    "image-unknown-key": ("an unknown key", v3("images: [{name: i, injection: [/a]}]\n")),
    "image-volumes": (
        "volumes are not supported yet",
        v3("images: [{name: i, volumes: [{name: v}]}]\n"),
    ),
    "image-provide-secrets": (
        "provide_secrets is not supported yet",
        v3("images: [{name: i, provide_secrets: [A]}]\n"),
    ),
    "image-name-twice": ("two of one name", v3("images: [{name: i}, {name: i}]\n")),
    "injection-path-only": (
        "a template on the program's disk is not supported yet",
        image("- /etc/app.conf"),
    ),
    "injection-no-content": (
        "as injection-path-only",
        image("- path: /etc/app.conf"),
    ),
    "injection-relative": ("a relative path", image("- {path: app/cert.pem, content: x}")),
    "injection-dots": (".. in a path", image("- {path: /app/../etc/passwd, content: x}")),
    "injection-slashes": ("// in a path", image("- {path: /app//a, content: x}")),
    "injection-root": ("the root directory", image("- {path: /, content: x}")),
    "injection-twice": (
        "one path twice",
        image("- {path: /a, content: x}\n- {path: /a, content: y}"),
    ),
    "injection-below-a-file": (
        "a file below a file",
        image("- {path: /a/b/c, content: x}\n- {path: /a/b, content: x}"),
    ),
    "injection-no-path": ("content without a path", image("- content: x")),
    "injection-content-null": ("content without a value", image("- path: /a\n  content:")),
    "injection-permission-decimal": (
        "bits without 0o",
        image("- path: /a\n  content: x\n  permission: 0440"),
    ),
    "injection-permission-setuid": (
        "a set-user-id bit",
        image("- path: /a\n  content: x\n  permission: 0o4755"),
    ),
    "injection-permission-0.2": (
        "permission exists since 0.3",
        image("- path: /a\n  content: x\n  permission: 0o400", version="0.2"),
    ),
    "reference-unknown": (
        "a secret that is not there",
        image("- path: /a\n  content: $$SCONE::C$$"),
    ),
    "reference-suffix": (
        "a form that the kind does not offer",
        image("- path: /a\n  content: $$SCONE::A.key$$"),
    ),
    "reference-open": (
        "a reference that is not closed",
        image("- path: /a\n  content: $$SCONE::A"),
    ),
    "reference-malformed": ("a name with a space", image("- path: /a\n  content: $$SCONE::A B$$")),
    "reference-single-colon": ("one colon", image("- path: /a\n  content: $$SCONE:A$$")),
    "reference-filter": (
        "filters are not supported yet",
        image("- path: /a\n  content: $$SCONE::A|escape(json)$$"),
    ),
    "reference-self": (
        "own properties are not supported yet",
        image("- path: /a\n  content: $$SCONE::self::software_identity$$"),
    ),
    "reference-session": (
        "other sessions' secrets are not supported yet",
        image("- path: /a\n  content: $$SCONE::/session=S,secret=A$$"),
    ),
    "reference-pkcs12": (
        "pkcs12 is not supported yet",
        secret(
            "kind: x509\nprivate_key: K",
            more=KEYED
            + f"services: [{{name: a, command: a, mrenclaves: [{M}], environment: {{A: '$$SCONE::S:pkcs12-with-private-key$$'}}}}]\n",
        ),
    ),
    "reference-key-of-given-certificate": (
        ".key of a certificate that was given without its key",
        secret(
            f"kind: x509\nvalue: {block(CERT, 6)}",
            more=f"services: [{{name: a, command: a, mrenclaves: [{M}], environment: {{A: $$SCONE::S.key$$}}}}]\n",
        ),
    ),
    "reference-in-pwd": ("references are not supported here", service("pwd: /$$SCONE::A$$")),
    "secrets-empty": ("an empty list", v3("secrets: []\n")),
    "secret-no-kind": ("a secret without a kind", secret("size: 3")),
    "secret-kind-unknown": ("a kind that does not exist", secret("kind: x.509")),
    "secret-kind-x509-ca": ("x509-ca is not supported yet", secret("kind: x509-ca")),
    "secret-kind-session-ca": (
        "session-ca is not supported yet",
        secret("kind: session-ca", version="0.2"),
    ),
    "secret-kind-pgp": ("pgp-key is not supported yet", secret("kind: pgp-key")),
    "secret-kind-jwt": ("jwt is not supported yet", secret("kind: jwt")),
    "secret-private-key-0.2": (
        "private-key exists since 0.3",
        secret("kind: private-key", version="0.2"),
    ),
    "secret-export": ("export is not supported yet", secret("kind: ascii\nexport: {session: t}")),
    "secret-import": (
        "import is not supported yet",
        secret("kind: ascii\nimport: {session: t, secret: S}"),
    ),
    "secret-issuer": (
        "issuer is not supported yet",
        secret("kind: x509\nprivate_key: K\nissuer: C", more=KEYED),
    ),
    "secret-name-twice": (
        "two of one name",
        secret("kind: ascii", more="  - name: S\n    kind: ascii\n"),
    ),
    "secret-name-suffix": (
        "a name that ends as a form does",
        v3("secrets: [{name: a.crt, kind: ascii}]\n"),
    ),
    "secret-size-zero": ("size 0", secret("kind: binary\nsize: 0")),
    "secret-size-large": ("size 65537", secret("kind: binary\nsize: 65537")),
    "secret-size-text": ("size in words", secret("kind: binary\nsize: twenty")),
    "secret-value-and-size": ("value beside size", secret("kind: ascii\nvalue: x\nsize: 1")),
    "secret-ascii-empty": ("an empty value", secret("kind: ascii\nvalue: ''")),
    "secret-ascii-nul": ("NUL in a value", secret('kind: ascii\nvalue: "a\\0"')),
    "secret-binary-odd": ("an odd number of digits", secret("kind: binary\nvalue: abc")),
    "secret-value-reference": (
        "a reference within a value",
        secret("kind: ascii\nvalue: $$SCONE::T$$"),
    ),
    "secret-foreign-parameter": (
        "a parameter of another kind",
        secret("kind: ascii\nkey_type: P-256"),
    ),
    "secret-key-type": (
        "a type of key that does not exist",
        secret("kind: private-key\nkey_type: P-521"),
    ),
    "secret-key-value": ("a value that is no key", secret("kind: private-key\nvalue: abc")),
    "secret-key-public": (
        "a private key that everybody may read",
        secret("kind: private-key\nexport_public: true"),
    ),
    "secret-flag": ("yes is no flag", secret("kind: ascii\nexport_public: yes")),
    "secret-migrate-ascii": (
        "ascii values are kept unless migrate says never",
        secret("kind: ascii\nmigrate: false"),
    ),
    "secret-migrate-x509": (
        "certificates are always issued anew",
        secret("kind: x509\nprivate_key: K\nmigrate: never", more=KEYED),
    ),
    "secret-x509-no-key": ("a 0.3 certificate without private_key", secret("kind: x509")),
    "secret-x509-key-unknown": (
        "a private key that is not there",
        secret("kind: x509\nprivate_key: L", more=KEYED),
    ),
    "secret-x509-key-kind": (
        "a private key of another kind",
        secret("kind: x509\nprivate_key: K", more="  - name: K\n    kind: ascii\n"),
    ),
    "secret-x509-wrong-key": (
        "a certificate and a key that do not belong together",
        secret(
            f"kind: x509\nprivate_key: K\nvalue: {block(CERT, 6)}",
            more=f"  - name: K\n    kind: private-key\n    value: {block(KEY, 6)}",
        ),
    ),
    "secret-x509-parameters-0.2": (
        "parameters of certificates exist since 0.3",
        secret("kind: x509\ncommon_name: c", version="0.2"),
    ),
    "secret-x509-value-and-dns": (
        "parameters beside a value",
        secret(f"kind: x509\ndns: a\nvalue: {block(CERT, 6)}"),
    ),
    "secret-x509-client-dns": (
        "dns of a client certificate",
        secret("kind: x509\nprivate_key: K\nendpoint: client\ndns: a", more=KEYED),
    ),
    "secret-x509-dns": (
        "a name that is no DNS name",
        secret("kind: x509\nprivate_key: K\ndns: 'a b'", more=KEYED),
    ),
    "secret-x509-valid-for": (
        "a time without a unit",
        secret("kind: x509\nprivate_key: K\nvalid_for: 90", more=KEYED),
    ),
    "policy-empty": ("an empty list", v3("access_policy: {read: []}\n")),
    "policy-any-with-others": ("ANY beside others", v3("access_policy: {read: [ANY, CREATOR]}\n")),
    "policy-none-with-others": (
        "NONE beside others",
        v3("access_policy: {update: [CREATOR, NONE]}\n"),
    ),
    "policy-keyword": ("a keyword in small letters", v3("access_policy: {read: [creator]}\n")),
    "policy-update-not-read": (
        "0.2: who may update has to be able to read",
        v2(f"access_policy: {{update: [{M}]}}\n"),
    ),
    "policy-pem-hash-0.3": (
        "0.3 takes no hashes of certificates",
        v3(f"access_policy: {{read: [{M}]}}\n"),
    ),
    "policy-key-hash-checksum": (
        "a key hash with a wrong checksum",
        v3(f"access_policy: {{read: [{key_hash(b'a key')[:-1]}z]}}\n"),
    ),
    "policy-signer": (
        "signer entries are not supported yet",
        v3("access_policy: {update: [{signer: x}]}\n"),
    ),
    "policy-require-all": (
        "governance is not supported yet",
        v3("access_policy: {update: [{require-all: [CREATOR]}]}\n"),
    ),
    "policy-list-sessions": (
        "list_sessions is not supported yet",
        v3("access_policy: {list_sessions: [ANY]}\n"),
    ),
    "policy-create-sessions-0.2": (
        "create_sessions exists since 0.3",
        v2("access_policy: {create_sessions: [CREATOR]}\n"),
    ),
    "policy-reference": (
        "entries by reference are not supported yet",
        v3("access_policy: {read: [$$SCONE::A$$]}\n"),
    ),
    "policy-certificate-broken": (
        "PEM whose content is no certificate",
        v3(
            f"access_policy:\n  read:\n    - {block('-----BEGIN CERTIFICATE-----' + chr(10) + 'AAAA' + chr(10) + '-----END CERTIFICATE-----', 6)}"
        ),
    ),
    "creator-unneeded": (
        "a creator that no list refers to",
        v2(f"access_policy: {{read: ANY, update: NONE}}\ncreator: {block(CERT, 2)}"),
    ),
    "creator-signer": ("signed sessions are not supported yet", v3("creator: {signer: x}\n")),
    "security-tolerate": (
        "tolerate is not supported yet",
        v3("security: {attestation: {tolerate: [debug-mode]}}\n"),
    ),
    "security-mode-none": (
        "mode none is not supported yet",
        v3("security: {attestation: {mode: none}}\n"),
    ),
    "security-mode-unknown": (
        "a mode that does not exist",
        v3("security: {attestation: {mode: hw}}\n"),
    ),
    "security-singleton": (
        "singleton_enclaves is not supported yet",
        v3("security: {singleton_enclaves: true}\n"),
    ),
    "security-token-empty": ("an empty token", v3("security: {service_access_token: ''}\n")),
}
TEMPLATES: dict[str, tuple[str, str]] = {
    "literal": ("no reference", "a $HOME $$ $$X$$ \\$\\$SCONE::A\\$\\$"),
    "bare": ("a reference alone", "$$SCONE::A$$"),
    "two": ("two, one behind the other", "x$$SCONE::A$$$$SCONE::B$$y"),
    "three-dollars": ("the first dollar is literal", "$$$SCONE::A$$$"),
    "dotted": (
        "suffixes of 0.2",
        "$$SCONE::A.crt$$$$SCONE::A.key$$$$SCONE::A.chain$$$$SCONE::A.hex$$",
    ),
    "colons": ("suffixes of 0.3", "$$SCONE::A:crt:der$$$$SCONE::A:privatekey:pkcs8:pem$$"),
    "dots-in-names": (
        "a dot that begins no suffix belongs to the name",
        "$$SCONE::a.b$$$$SCONE::a.b.crt$$",
    ),
    "escape": ("$$SCONE::$$ is a literal $$", "$$SCONE::$$SCONE::A$$"),
    "open": ("not closed", "a $$SCONE::A"),
    "malformed": ("a character that names do not have", "$$SCONE::A B$$"),
    "single-colon": ("one colon", "$$SCONE:A$$"),
    "four-parts": ("more than three parts", "$$SCONE::A:a:b:c:d$$"),
    "filter": ("a filter", "$$SCONE::A|escape(json)$$"),
    "shorthand": ("another session's secret", "$$SCONE::/session=S,secret=A$$"),
}

COMMANDS: dict[str, tuple[str, str, bool]] = {
    "words": ("whitespace separates", " a  b\tc\nd ", True),
    "single-quotes": ("single quotes group", "a 'b  c' d", True),
    "double-quotes": ("double quotes group", 'a "b  c" d', True),
    "other-quote-inside": ("the other quote is ordinary inside", "\"it's\" '\"'", True),
    "joined": ("quotes join what touches them", "a'b c'd", True),
    "empty-argument": ("empty quotes are an empty argument", "a '' b", True),
    "backslash": ("a backslash is a backslash", "a\\ b", True),
    "quotes-0.2": ("in 0.2 quotes are ordinary", "a 'b c'", False),
    "no-break-space": ("only ASCII whitespace separates", "a\u00a0b", True),
}


def main() -> None:
    """Write every file anew."""
    for folder in ("valid", "invalid", "template", "command", "access"):
        shutil.rmtree(HERE / folder, ignore_errors=True)
        (HERE / folder).mkdir()
    for name, (fact, text) in VALID.items():
        loaded = load_session(text.encode())
        _write(
            f"valid/{name}",
            fact=fact,
            document=text,
            outcome="valid",
            warnings=[w.path for w in loaded.warnings],
            hash=session_hash(loaded.session),
            canonical=canonical(loaded.session).decode(),
        )
    for name, (fact, text) in INVALID.items():
        try:
            load_session(text.encode())
        except SessionInvalid as error:
            problems = [{"path": p.path, "line": p.line} for p in error.problems]
            yet = any("not supported yet" in p.message for p in error.problems)
            outcome = "not-supported-yet" if yet else error.code
        else:
            raise SystemExit(f"{name} was accepted")
        _write(f"invalid/{name}", fact=fact, document=text, outcome=outcome, problems=problems)
    for name, (fact, text) in TEMPLATES.items():
        outcome, tokens = "valid", []
        try:
            for token in tokenize(text):
                tokens.append(
                    {"name": token.name, "suffix": token.suffix}
                    if isinstance(token, Reference)
                    else token
                )
        except Error as error:
            outcome, tokens = error.code, []
        _write(f"template/{name}", fact=fact, text=text, outcome=outcome, tokens=tokens)
    for name, (fact, text, quotes) in COMMANDS.items():
        arguments = list(split_command(text, quotes=quotes))
        version = "0.3" if quotes else "0.2"
        _write(f"command/{name}", fact=fact, version=version, text=text, arguments=arguments)
    who = access.requester(access.certificate_der(access.parse_certificate(CERT)))
    _write(
        "access/identities",
        fact="the names that a certificate has in access lists",
        certificate=CERT,
        pem_sha256=who.pem_sha256,
        spki=who.spki.hex(),
        key_hash=who.key_hash,
    )


def _write(name: str, **content: object) -> None:
    text = json.dumps(content, indent=2, ensure_ascii=True) + "\n"
    (HERE / f"{name}.json").write_text(text, encoding="ascii")


if __name__ == "__main__":
    main()
