"""What only shows once the whole document is read: names that lead nowhere, references, warnings.

The check of references is the dry run of the substitution: each reference has to name a secret of
the session, in a form that its kind offers. So a session that is accepted does not fail at a
program's start for a mistyped name.
"""

from __future__ import annotations

import re

from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)

from crannog.errors import FormatError
from crannog.levels import Level
from crannog.session.document import Secret, SecretKind, Service, Session
from crannog.session.fields import Context, Fields, Template
from crannog.session.forms import form_of
from crannog.session.problems import did_you_mean, quoted
from crannog.session.template import Reference, references
from crannog.session.tree import Mapping, Mark, Node, Scalar, Sequence

# What a shell without quotes around its here-document makes of $$, and what is left when one
# escapes it for such a shell and then quotes it.
_EXPANDED = re.compile(r"(?<![$\w])[0-9]+SCONE::")
_ESCAPED = re.compile(r"\\\$\\?\$SCONE::")
_INTERPRETER = re.compile(
    r"(?:python|pypy|node|nodejs|ruby|perl|php|lua|java|deno|bun|Rscript|guile|tclsh|"
    r"sh|bash|dash|ash|zsh|ksh|busybox)[0-9.]*\Z"
)


def cross_check(context: Context, root: Fields, session: Session) -> None:
    """Note what does not fit together in `session`, and what its author should know."""
    _images(context, root, session)
    _private_keys(context, root, session)
    _claims(context, root, session)
    used = _references(context, root, session)
    _interpreters(context, root, session, used)


# --- names ----------------------------------------------------------------------------------------


def _images(context: Context, root: Fields, session: Session) -> None:
    names = [name for name, _, _ in _named(root, "images")]
    wanted: set[str] = set()
    for index, item in enumerate(_items(root, "services")):
        node = _field(item, "image_name")
        if not isinstance(node, Scalar) or node.is_null:
            continue
        wanted.add(node.text)
        if node.text not in names:
            context.problem(
                node,
                f"services[{index}].image_name",
                f"there is no image {quoted(node.text)} under images",
                suggestion=did_you_mean(node.text, names),
            )
    for name, node, path in _named(root, "images"):
        if name not in wanted and session.services:
            context.warn(node, path, f"no service names image {quoted(name)}")


def _claims(context: Context, root: Fields, session: Session) -> None:
    services = {service.name: service for service in session.services if service.claims}
    for index, item in enumerate(_items(root, "services")):
        node, name_node = _field(item, "claims"), _field(item, "name")
        service = services.get(name_node.text) if isinstance(name_node, Scalar) else None
        if node is None or service is None:
            continue
        if session.required_level(service, Level.SIMULATION) is Level.SIMULATION:
            # (A) At level simulation anybody may claim to be any container: a claim that somebody
            # believes in and that keeps nobody out is worse than none.
            context.problem(
                node,
                f"services[{index}].claims",
                "nobody vouches for a container at level simulation, which this session allows",
                suggestion="write minimum_level: node beside claims",
            )


def _private_keys(context: Context, root: Fields, session: Session) -> None:
    keys = {s.name: s for s in session.secrets if s.kind is SecretKind.PRIVATE_KEY}
    known = {name for name, _, _ in _named(root, "secrets")}
    by_name = {secret.name: secret for secret in session.secrets}
    for index, item in enumerate(_items(root, "secrets")):
        node = _field(item, "private_key")
        name_node = _field(item, "name")
        if not isinstance(node, Scalar) or not isinstance(name_node, Scalar):
            continue
        secret = by_name.get(name_node.text)
        if secret is None or secret.private_key is None or not secret.private_key:
            continue
        path = f"secrets[{index}].private_key"
        key = keys.get(secret.private_key)
        if key is None and secret.private_key in by_name:
            kind = by_name[secret.private_key].kind.value
            context.problem(
                node, path, f"secret {quoted(secret.private_key)} is of kind {kind}",
                expected="a secret of kind private-key",
            )  # fmt: skip
        elif key is None and secret.private_key not in known:
            context.problem(
                node,
                path,
                f"there is no secret {quoted(secret.private_key)}",
                suggestion=did_you_mean(secret.private_key, keys),
            )
        elif key is not None and secret.value and key.value and not _belong(secret, key):
            context.problem(
                node, path, f"secret {quoted(key.name)} is not the key of this certificate"
            )


def _belong(certificate: Secret, key: Secret) -> bool:
    spki = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    public = load_pem_private_key((key.value or "").encode(), password=None).public_key()
    parsed = x509.load_pem_x509_certificate((certificate.value or "").encode())
    return parsed.public_key().public_bytes(*spki) == public.public_bytes(*spki)


# --- references -----------------------------------------------------------------------------------


def _references(
    context: Context, root: Fields, session: Session
) -> set[tuple[str | None, str | None]]:
    """Check every template; the result names the services and images that refer to secrets."""
    used: set[tuple[str | None, str | None]] = set()
    known = {secret.name: secret for secret in session.secrets}
    # Secrets that were refused for something else are not reported as missing too.
    named = {name for name, _, _ in _named(root, "secrets")}
    warned: set[tuple[int, int]] = set()
    for template in context.templates:
        _look_for_shells(context, template)
        try:
            found = references(template.text)
        except FormatError as error:
            mark = _place(template, error.offset)
            context.problem(mark, template.path, error.message, suggestion=error.hint)
            continue
        for reference in found:
            used.add((template.service, template.image))
            if reference.name in known or reference.name not in named:
                _reference(context, template, reference, session, known)
        place = (template.scalar.mark.line, template.scalar.mark.column)
        if found and template.in_command and place not in warned:
            warned.add(place)
            context.warn(
                template.scalar,
                template.path,
                "a secret in the command is visible to every process (/proc/PID/cmdline)",
                suggestion="put it into the environment or an injected file",
            )
    return used


def _reference(
    context: Context,
    template: Template,
    reference: Reference,
    session: Session,
    known: dict[str, Secret],
) -> None:
    secret = known.get(reference.name)
    if secret is None:
        context.problem(
            _place(template, reference.offset),
            template.path,
            f"{reference} names no secret of this session",
            suggestion=did_you_mean(reference.name, known),
        )
        return
    try:
        form_of(secret, reference.suffix, session.language)
    except FormatError as error:
        mark = _place(template, reference.offset)
        context.problem(mark, template.path, f"{reference}: {error.message}", suggestion=error.hint)


def _look_for_shells(context: Context, template: Template) -> None:
    if _EXPANDED.search(template.text):
        context.warn(
            template.scalar,
            template.path,
            "holds digits where $$SCONE:: has its dollars: a shell has put its process id there",
            suggestion=r"write \$\$SCONE::…\$\$ in an unquoted here-document",
        )
    elif _ESCAPED.search(template.text):
        context.warn(
            template.scalar,
            template.path,
            r"holds \$\$SCONE:: with its backslashes, which is no reference",
            suggestion="write $$SCONE::…$$ without backslashes",
        )


def _place(template: Template, offset: int) -> Mark:
    """Where `offset` of a template's text is in the document, to the line."""
    scalar = template.scalar
    lines = template.text.count("\n", 0, max(offset, 0))
    if not lines and not scalar.block:
        return scalar.mark
    return Mark(scalar.mark.line + lines + (1 if scalar.block else 0), 1, scalar.mark.index)


# --- warnings -------------------------------------------------------------------------------------


def _interpreters(
    context: Context,
    root: Fields,
    session: Session,
    used: set[tuple[str | None, str | None]],
) -> None:
    """Warn where an unprotected script gets secrets: the MRENCLAVE is its interpreter's."""
    nodes = _items(root, "services")
    for index, (service, node) in enumerate(zip(session.services, nodes, strict=False)):
        gets = (service.name, None) in used or (
            service.image_name is not None and (None, service.image_name) in used
        )
        if gets and service.fspf is None and _is_interpreter(service):
            context.warn(
                node,
                f"services[{index}]",
                f"{quoted(service.command[0])} is an interpreter, and its script gets secrets "
                "though no fspf protects it: any script of that name would",
                suggestion="protect the script with crannog fspf, and set fspf_path, _key and _tag",
            )


def _is_interpreter(service: Service) -> bool:
    if not service.command:
        return False
    return _INTERPRETER.match(service.command[0].rsplit("/", 1)[-1]) is not None


# --- the tree once more ---------------------------------------------------------------------------


def _items(root: Fields, name: str) -> tuple[Node, ...]:
    node = root.get(name)
    return node.items if isinstance(node, Sequence) else ()


def _named(root: Fields, name: str) -> list[tuple[str, Node, str]]:
    found: list[tuple[str, Node, str]] = []
    for index, item in enumerate(_items(root, name)):
        node = _field(item, "name")
        if isinstance(node, Scalar):
            found.append((node.text, node, f"{name}[{index}].name"))
    return found


def _field(node: Node, name: str) -> Node | None:
    if not isinstance(node, Mapping):
        return None
    return next((value for key, value in node.entries if key.text == name), None)
