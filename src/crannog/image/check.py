"""What stands against a request, given what the image holds; each refusal says what would help.

In an order that a user can follow: paths first, then what lies there, then what would make the
result useless (nothing left to measure), then what would give the plain files or a key away.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping

from crannog.errors import AlreadyExists, Misconfigured, NotFound
from crannog.image.plan import Plan
from crannog.image.request import Request
from crannog.image.search import KeySearch
from crannog.oci.names import absolute, parent
from crannog.oci.scan import Scan
from crannog.oci.tar import Type
from crannog.oci.union import Directory, File, Union
from crannog.shield.paths import is_below, printable
from crannog.wire import Json

LABEL = "org.crannog.image."
LABEL_ENCRYPTED = LABEL + "encrypted"
LABEL_AUTHENTICATED = LABEL + "authenticated"
LABEL_FSPF = LABEL + "fspf"
LABEL_TAG = LABEL + "fspf-tag"
LABEL_VERSION = LABEL + "version"

_SHOWN = 5
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_BASE_FSPF = b"libexec/crannog/base.fspf"
_OPEN_TREES = (b"site-packages", b"dist-packages")


def check_request(
    request: Request,
    scan: Scan,
    search: KeySearch,
    config: Mapping[str, Json],
    *,
    command: Iterable[str] = (),
) -> None:
    """Refuse what the image's tree and config stand against.

    Args:
        request: what is asked.
        scan: what the image holds.
        search: which keys were found.
        config: the image's config.
        command: the service's command, where a session says one.

    Raises:
        NotFound: a path that is not in the image.
        AlreadyExists: it is protected already.
        Misconfigured: everything else.
    """
    _refuse_protected(request, search, config)
    for path in request.encrypt + request.authenticate:
        _check_root(path, scan.union)
    _check_fspf(request, scan.union)
    for path in request.encrypt + request.authenticate:
        _check_contents(path, scan.union)
    _check_detours(request, scan.union)
    _check_aliases(request, scan)
    _check_base(request, search)
    settings = config.get("config")
    settings = settings if isinstance(settings, dict) else {}
    _check_program(request, scan.union, settings, tuple(command))
    _check_keys(request, search)
    _check_environment(settings)


def check_plan(request: Request, plan: Plan) -> None:
    """Refuse what would leave the plain files in the image.

    Raises:
        Misconfigured: their content lies elsewhere as well.
    """
    if plan.shared:
        raise Misconfigured(
            f"{_names(plan.shared)}: hard links to files that are to be encrypted; programs would"
            " still see the plain content there",
            hint="copy instead of linking, or encrypt both paths",
        )
    copies = [
        path
        for path in plan.copies
        if not any(is_below(b"/" + path, place) for place in request.not_protected)
    ]
    if copies:
        place = printable(b"/" + parent(copies[0]))
        raise Misconfigured(
            f"{_names(copies)}: the plain content of files that are to be encrypted, in no"
            " encrypted path",
            hint=f"encrypt it too (--encrypt {place}), remove it from the image,"
            f" or say that it may be seen (--not-protected {place})",
        )


def warnings(request: Request, scan: Scan, search: KeySearch) -> tuple[str, ...]:
    """What the user should know of a request that passed; one line each."""
    found: list[str] = []
    lost = [
        path
        for root in request.encrypt + request.authenticate
        for path, node in scan.union.walk(root[1:])
        if (node.member is not None and node.member.xattrs)
    ]
    if lost:
        found.append(
            f"{_names(lost)}: extended attributes (capabilities, labels, ACLs) are not kept in"
            " protected paths"
        )
    others = sorted(path for path in search.sealed if b"/" + path != request.fspf)
    if others:
        found.append(
            f"{_names(others)}: another fspf; a service uses one, and this session will name"
            f" {printable(request.fspf)}"
        )
    return tuple(found)


def _refuse_protected(request: Request, search: KeySearch, config: Mapping[str, Json]) -> None:
    settings = config.get("config")
    labels = settings.get("Labels") if isinstance(settings, dict) else None
    hint = "encrypt the image that it was made from: a service has one fspf with one key"
    if isinstance(labels, dict) and LABEL_FSPF in labels:
        raise AlreadyExists("the image was encrypted by this command already", hint=hint)
    if request.fspf[1:] in search.sealed:
        raise AlreadyExists(
            f"{printable(request.fspf)} is a sealed fspf: the image is protected already",
            hint=hint,
        )


def _check_root(path: bytes, union: Union) -> None:
    place = path[1:]
    node = union.lookup(place)
    if isinstance(node, Directory):
        return
    found = union.resolve(place)
    shown = printable(path)
    if found is None:
        raise NotFound(f"{shown} is not in the image", hint=_neighbours(place, union))
    real, links = found
    if links:
        raise Misconfigured(
            f"{shown} leads through the symbolic link {absolute(links[0])}",
            hint=f"name what it leads to: {absolute(real)}",
        )
    raise Misconfigured(
        f"{shown} is {node.member.type.value if isinstance(node, File) else 'nothing'}, expected a"
        " directory",
        hint=f"protect its directory: {absolute(parent(place))}",
    )


def _neighbours(place: bytes, union: Union) -> str:
    """What there is instead, at the deepest directory that is there."""
    at = parent(place)
    while (node := union.lookup(at)) is None:
        at = parent(at)
    if not isinstance(node, Directory):
        return f"{absolute(at)} is {node.member.type.value}"
    names = sorted(name for name, child in node.children.items() if isinstance(child, Directory))
    shown = ", ".join(printable(name) for name in names[:20])
    return f"{absolute(at)} has the directories {shown}" if names else ""


def _check_fspf(request: Request, union: Union) -> None:
    place = request.fspf[1:]
    if union.lookup(place) is not None:
        raise Misconfigured(
            f"{printable(request.fspf)} is in the image already, and is no sealed fspf",
            hint="choose another place: --fspf PATH",
        )
    if not isinstance(union.lookup(parent(place)), Directory):
        raise Misconfigured(
            f"{absolute(parent(place))}, where the fspf is to lie, is no directory of the image",
            hint="choose another place: --fspf /fspf.pb",
        )


def _check_contents(path: bytes, union: Union) -> None:
    bad: list[str] = []
    for name, node in union.walk(path[1:]):
        if isinstance(node, Directory):
            continue
        if node.member.type not in (Type.FILE, Type.LINK):
            bad.append(f"{absolute(name)} ({node.member.type.value})")
        elif node.member.sparse:
            bad.append(f"{absolute(name)} (a sparse file)")
    if bad:
        raise Misconfigured(
            f"cannot protect {_some(bad)}",
            hint="remove it from the image: only files are protected, and sparse ones are to be"
            " written in full (cp --sparse=never)",
        )


def _check_detours(request: Request, union: Union) -> None:
    for detour in union.detours:
        for path in filter(None, (detour.path, detour.link, detour.target)):
            for root in request.encrypt + request.authenticate:
                if is_below(b"/" + path, root) or is_below(root, b"/" + path):
                    raise Misconfigured(
                        f"layer {detour.layer} writes to {absolute(detour.path)} through the link"
                        f" {absolute(detour.link)}: engines differ in what that means for"
                        f" {printable(root)}",
                        hint="make the image anew so that it names real directories",
                    )


def _check_aliases(request: Request, scan: Scan) -> None:
    """A sparse file has two names in its header, and not every reader takes the same one."""
    for found in scan.shipped:
        member = found.file.member
        for alias in member.aliases:
            for root in request.encrypt + request.authenticate:
                if is_below(b"/" + alias, root):
                    raise Misconfigured(
                        f"{absolute(member.name)} (a sparse file) has a second name in"
                        f" {printable(root)}",
                        hint="write it in full: cp --sparse=never",
                    )


def _check_base(request: Request, search: KeySearch) -> None:
    """What the image's own fspf protects is measured with the program."""
    for name, index in search.plain:
        if not name.endswith(_BASE_FSPF):
            continue
        for region in index.regions:
            if not region.protected:
                continue
            for path in request.encrypt:
                inside = path[len(region.path) :].split(b"/")
                if is_below(region.path, path) or (
                    is_below(path, region.path) and not any(tree in inside for tree in _OPEN_TREES)
                ):
                    raise Misconfigured(
                        f"{printable(path)} is of the interpreter's library tree"
                        f" {printable(region.path)}, which is measured: encrypted, the program"
                        " would not start",
                        hint="encrypt the program's own files, for example --encrypt /app",
                    )


def _check_program(
    request: Request, union: Union, settings: Mapping[str, Json], command: tuple[str, ...]
) -> None:
    """The executable is measured before there is a key, and so are the links to it."""
    programs = [command] if command else []
    entrypoint, arguments = _strings(settings.get("Entrypoint")), _strings(settings.get("Cmd"))
    programs.append(entrypoint or arguments)
    for program in programs:
        if not program:
            continue
        name = program[0].encode("utf-8", "surrogateescape")
        for place in _candidates(name, settings):
            for root in request.encrypt:
                found = union.resolve(place)
                if found is None:
                    continue
                touched = (place, *found[1], found[0])
                if any(is_below(b"/" + path, root) for path in touched):
                    raise Misconfigured(
                        f"{printable(root)} holds the program itself, {printable(name)}:"
                        " encrypted, it could not be measured",
                        hint="keep executables out of the encrypted path, or let it be readable:"
                        f" --authenticate {printable(root)}",
                    )


def _candidates(name: bytes, settings: Mapping[str, Json]) -> list[bytes]:
    """Where the image's PATH would find a program."""
    if b"/" in name:
        if name.startswith(b"/"):
            return [name.lstrip(b"/")]
        directory = settings.get("WorkingDir")
        base = directory.encode() if isinstance(directory, str) else b""
        return [(base + b"/" + name).lstrip(b"/")]
    search = _PATH
    for variable in _strings(settings.get("Env")):
        if variable.startswith("PATH="):
            search = variable.removeprefix("PATH=")
    return [
        (directory.encode("utf-8", "surrogateescape") + b"/" + name).lstrip(b"/")
        for directory in search.split(":")
        if directory.startswith("/")
    ]


def _check_keys(request: Request, search: KeySearch) -> None:
    bad = {
        key.path: f"{absolute(key.path)} ({key.what})"
        for key in search.keys
        if b"/" + key.path not in request.allowed_keys
    }
    if not bad:
        return
    first = next(iter(bad))
    raise Misconfigured(
        f"keys would be shipped in the image: {_some(list(bad.values()))}",
        hint="remove them from where the image is built and build it again, since also a file that"
        " a later layer deletes is shipped ('keytag' is what section 5 of the tutorial leaves in"
        " app/); keys belong into the session, which injects them. Is it none, or one for tests?"
        f" Then say so: --allow-key {shlex.quote(absolute(first))}",
    )


def _check_environment(settings: Mapping[str, Json]) -> None:
    for variable in _strings(settings.get("Env")):
        name, _, value = variable.partition("=")
        if "FSPF_KEY" in name.upper() and value:
            raise Misconfigured(
                f"the image sets {printable(name.encode('utf-8', 'surrogateescape'))}: whoever has"
                " the image has that key",
                hint="remove it from the Dockerfile: the key comes from the session",
            )


def _strings(value: Json) -> tuple[str, ...]:
    if not isinstance(value, list):
        return ()
    return tuple(item for item in value if isinstance(item, str))


def _names(paths: Iterable[bytes]) -> str:
    return _some([absolute(path) for path in paths])


def _some(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
