"""Reading `services`: what each program is, and what it is given."""

from __future__ import annotations

import re

from crannog.session.command import CommandMalformed, split_command
from crannog.session.document import DEFAULT_PWD, FspfReference, Language, Service, Variant
from crannog.session.fields import (
    ALWAYS,
    LATER,
    MAX_STRING,
    NULLABLE,
    SINCE_0_3,
    Context,
    Fields,
    KeyTable,
    Template,
    kind_of,
    unique,
)
from crannog.session.problems import quoted
from crannog.session.read_claims import read_claims
from crannog.session.read_security import read_minimum_level, read_shared_secret
from crannog.session.tree import MAX_NODES, Mapping, Node, Scalar

_SERVICE = KeyTable(
    name=ALWAYS,
    command=ALWAYS,
    environment=NULLABLE,
    pwd=ALWAYS,
    image_name=ALWAYS,
    mrenclaves=ALWAYS,
    attestation=SINCE_0_3,
    fspf_path=ALWAYS,
    fspf_key=ALWAYS,
    fspf_tag=ALWAYS,
    minimum_level=ALWAYS,
    claims=ALWAYS,
    persistency=ALWAYS,
    platforms=LATER,
    fspf_update_policy=LATER,
    one_time_password_shared_secret=ALWAYS,
)
_VARIANT = KeyTable(mrenclave=ALWAYS, signer=LATER)
_FSPF = ("fspf_path", "fspf_key", "fspf_tag")
_HOST_ARGUMENT = re.compile(r"@@[0-9]")
_COMMAND = "a command: a text, or a list of arguments"


def read_services(context: Context, root: Fields) -> tuple[Service, ...]:
    """The services of the document, in its order."""
    node = root.get("services")
    if node is None:
        return ()
    services: list[Service] = []
    names: list[tuple[str, Node, str]] = []
    for item, path in context.items(node, "services"):
        fields = context.fields(item, path, _SERVICE, what="a service")
        name_node = fields.need("name", expected="the service's name")
        name = context.name(name_node, fields.path_of("name")) if name_node else ""
        names.append((name, name_node or item, fields.path_of("name")))
        services.append(_service(context, fields, name))
    unique(context, names, "service")
    return tuple(services)


def _service(context: Context, fields: Fields, name: str) -> Service:
    pwd = fields.get("pwd")
    image = fields.get("image_name")
    persistency = fields.get("persistency")
    if persistency is not None:
        # The reference's read-back text says `persistency: None`, and nothing else ever.
        context.choice(persistency, fields.path_of("persistency"), ("None",))
    return Service(
        name=name,
        command=_command(context, fields, name),
        environment=_environment(context, fields, name),
        pwd=context.absolute_path(pwd, fields.path_of("pwd")) if pwd else DEFAULT_PWD,
        image_name=context.text(image, fields.path_of("image_name")) if image else None,
        attestation=_attestation(context, fields),
        fspf=_fspf(context, fields),
        minimum_level=read_minimum_level(context, fields),
        claims=read_claims(context, fields),
        one_time_password_shared_secret=read_shared_secret(context, fields),
    )


# --- command and environment ----------------------------------------------------------------------


def _command(context: Context, fields: Fields, service: str) -> tuple[str, ...]:
    node = fields.need("command", expected=_COMMAND)
    path = fields.path_of("command")
    if node is None:
        return ()
    if isinstance(node, Mapping):
        context.problem(node, path, found=kind_of(node), expected=_COMMAND)
        return ()
    if isinstance(node, Scalar):
        arguments = _split(context, node, path)
        places: list[tuple[str, Scalar, str]] = [(argument, node, path) for argument in arguments]
    else:
        places = []
        for item, item_path in context.items(node, path):
            text = context.text(
                item, item_path, expected="an argument", substituted=True, fits=lambda _: True
            )
            if isinstance(item, Scalar):
                places.append((text, item, item_path))
    for argument, at, at_path in places:
        _argument(context, argument, at, at_path)
        template = Template(at_path, at, argument, in_command=True, service=service)
        context.templates.append(template)
    if places and not places[0][0]:
        context.problem(node, path, "begins with an empty argument", expected="a program's name")
    return tuple(argument for argument, _, _ in places)


def _split(context: Context, node: Scalar, path: str) -> tuple[str, ...]:
    text = context.text(node, path, expected=_COMMAND, substituted=True)
    if not text:
        return ()
    quotes = context.language is Language.V0_3
    if not quotes and ("'" in text or '"' in text):
        context.warn(
            node,
            path,
            "quotes are ordinary characters in version 0.2",
            suggestion="give the command as a list of arguments",
        )
    try:
        arguments = split_command(text, quotes=quotes)
    except CommandMalformed as error:
        context.problem(node, path, error.message, expected=_COMMAND)
        return ()
    context.arguments += len(arguments)
    if not arguments:
        context.problem(node, path, "is empty", expected=_COMMAND)
    elif context.arguments > MAX_NODES:
        # As many as a document could list: one text could otherwise hold half a million.
        expected = f"at most {MAX_NODES} in all services"
        context.problem(node, path, "brings too many arguments", expected=expected)
        return ()
    return arguments


def _argument(context: Context, argument: str, node: Scalar, path: str) -> None:
    if context.language is Language.V0_3 and _HOST_ARGUMENT.search(argument):
        context.problem(node, path, "arguments from the host (@@N) are not supported yet")
    if len(argument.encode()) > MAX_STRING:
        context.problem(
            node, path, "an argument is too long for Linux", expected=f"at most {MAX_STRING} bytes"
        )


def _environment(context: Context, fields: Fields, service: str) -> tuple[tuple[str, str], ...]:
    node = fields.get("environment")
    path = fields.path_of("environment")
    if node is None:
        return ()
    if not isinstance(node, Mapping):
        context.problem(node, path, found=kind_of(node), expected="a map of names to values")
        return ()
    variables: list[tuple[str, str]] = []
    for key, value in node.entries:
        value_path = (
            f"{path}.{key.text}" if len(key.text) <= 80 and key.text.isprintable() else path
        )
        if not _variable_name(context, key, value_path):
            continue
        text = context.text(
            value, value_path, expected="a text", substituted=True, fits=lambda _: True
        )
        if isinstance(value, Scalar):
            if value.is_null and value.text:
                context.warn(
                    value,
                    value_path,
                    f"the value is the text {value.text}",
                    suggestion='write "" for an empty value',
                )
            context.templates.append(Template(value_path, value, text, service=service))
        if len(key.text.encode()) + 1 + len(text.encode()) > MAX_STRING:
            expected = f"at most {MAX_STRING} bytes with its name"
            context.problem(value, value_path, "is too long for Linux", expected=expected)
        variables.append((key.text, text))
    return tuple(variables)


def _variable_name(context: Context, key: Scalar, path: str) -> bool:
    name = key.text
    if name.startswith((r"\@\@", "@@")):
        context.problem(key, path, r"variables from the host (\@\@NAME) are not supported yet")
    elif not name or "=" in name or "\0" in name:
        context.problem(
            key, path, f"the name {quoted(name)} cannot be a variable", expected="a name without ="
        )
    elif "$$SCONE:" in name:
        context.problem(key, path, "references to secrets are not supported yet in names")
    elif name == "SCONE_CONFIG_ID":
        # Every child interpreter would attest itself again (design, section 2).
        context.problem(
            key,
            path,
            "SCONE_CONFIG_ID cannot be set by a session",
            suggestion="leave it out: it belongs to the launcher's environment",
        )
    else:
        if name.startswith("SCONE_"):
            context.warn(
                key,
                path,
                "the program sees this variable, the launcher does not act on it",
                suggestion="set it where the launcher is started",
            )
        return True
    return False


# --- attestation and fspf -------------------------------------------------------------------------


def _attestation(context: Context, fields: Fields) -> tuple[Variant, ...]:
    old, new = fields.get("mrenclaves"), fields.get("attestation")
    if old is not None and new is not None:
        context.problem(
            fields.key("mrenclaves"),
            fields.path_of("mrenclaves"),
            "stands beside attestation",
            suggestion="move the measurements to attestation.mrenclave",
        )
    if new is not None:
        path = fields.path_of("attestation")
        if isinstance(new, Mapping):
            return (_variant(context, new, path),)
        return tuple(_variant(context, item, at) for item, at in context.items(new, path))
    if old is not None:
        return (Variant(_measurements(context, old, fields.path_of("mrenclaves"))),)
    # A missing reference value refuses: a service that accepts any program keeps no secret.
    modern = context.language is Language.V0_3
    fields.need(
        "attestation" if modern else "mrenclaves",
        expected="attestation: {mrenclave: …}" if modern else "a list of measurements",
    )
    return ()


def _variant(context: Context, node: Node, path: str) -> Variant:
    variant = context.fields(node, path, _VARIANT, what="an attestation variant")
    measurement = variant.need("mrenclave", expected="one measurement or a list of them")
    path = variant.path_of("mrenclave")
    if measurement is None:
        return Variant(())
    if isinstance(measurement, Scalar):
        return Variant((context.hex(measurement, path, 32),))
    return Variant(_measurements(context, measurement, path))


def _measurements(context: Context, node: Node, path: str) -> tuple[str, ...]:
    found: list[str] = []
    seen: set[str] = set()
    for item, item_path in context.items(node, path):
        measurement = context.hex(item, item_path, 32)
        if measurement and measurement in seen:
            # Dropped, so that there is one form of one set for the hash and for reading back.
            context.warn(item, item_path, "the same measurement stands twice")
            continue
        seen.add(measurement)
        found.append(measurement)
    return tuple(found)


def _fspf(context: Context, fields: Fields) -> FspfReference | None:
    nodes = {name: fields.get(name) for name in _FSPF}
    given = [name for name in _FSPF if nodes[name] is not None]
    if not given:
        return None
    path, key, tag = (nodes[name] for name in _FSPF)
    missing = [name for name in _FSPF if nodes[name] is None]
    if path is None or key is None or tag is None:
        context.problem(
            fields.key(given[0]),
            fields.path_of(given[0]),
            f"stands without {' and '.join(missing)}",
            suggestion="fspf_path, fspf_key and fspf_tag come together",
        )
    return FspfReference(
        path=context.absolute_path(path, fields.path_of("fspf_path")) if path else "",
        key=_fspf_key(context, key, fields.path_of("fspf_key")) if key else "",
        tag=context.hex(tag, fields.path_of("fspf_tag"), 16) if tag else "",
    )


def _fspf_key(context: Context, node: Node, path: str) -> str:
    return context.hex(node, path, 32, secret=True)
