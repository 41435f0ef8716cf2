"""What the `fspf` commands do: create, add a region, add files, encrypt, look.

Each reads the fspf under its lock, makes the new one in memory, and replaces the file as its last
step: a command that fails leaves the old one. Nothing here prints.
"""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import threading
from collections.abc import Callable, Iterator
from typing import NamedTuple

from crannog.errors import Misconfigured, StorageFailed, Unsupported
from crannog.protect.contents import Progress, Settings, protect_contents
from crannog.protect.files import (
    MODE_SEALED,
    MODE_WITH_KEYS,
    disk_error,
    locked,
    read_fspf,
    replace,
)
from crannog.protect.staging import check_output, staging
from crannog.protect.walk import Source, walk
from crannog.shield.fspf import (
    KEY_LENGTH,
    MAGIC,
    is_sealed,
    open_index,
    open_plain_index,
    plain_tag,
    seal,
    sealed_tag,
    write_plain,
)
from crannog.shield.index import Index, build_index, check_chunk_length
from crannog.shield.model import (
    CHUNK_LENGTH,
    DirectoryEntry,
    Entry,
    Kind,
    LinkEntry,
    Protection,
    Region,
)
from crannog.shield.paths import canonical, is_below, join, parent, printable
from crannog.shield.regions import RegionMap

_ROOT_MODE = 0o755
_DISTURBING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Added(NamedTuple):
    """What `add_files` did.

    Attributes:
        tag: the plain fspf's new tag.
        files: how many files were added.
        directories: how many directories, the region's own included.
        links: how many symbolic links.
        size: bytes of plaintext.
        kept: entries below the embed point that SOURCE_DIR does not have, from earlier runs.
        keytags: paths, as programs see them, whose content looks like printed keys.
        strangers: files in OUTPUT_DIR, relative to it, that the fspf does not know.
    """

    tag: bytes
    files: int
    directories: int
    links: int
    size: int
    kept: int
    keytags: tuple[bytes, ...]
    strangers: tuple[bytes, ...]


class Sealed(NamedTuple):
    """What `encrypt` prints."""

    key: bytes
    tag: bytes

    def __repr__(self) -> str:
        """The tag; the key must not get into logs by way of a repr."""
        return f"Sealed(tag={self.tag.hex()})"


def create(path: bytes) -> tuple[bytes, bool]:
    """Write an empty fspf to `path`; its tag, and whether there was one already.

    Raises:
        Misconfigured: something else is there, which is not overwritten.
        StorageFailed, NotFound, Unavailable: as `protect.files`.
    """
    data = write_plain(build_index(RegionMap(()), {}))
    if not os.path.lexists(path):
        replace(path, data, mode=MODE_WITH_KEYS)
        return plain_tag(data), False
    with locked(path) as old:
        if old and not old.startswith(MAGIC):
            raise Misconfigured(
                f"{printable(path)} is there and is not an fspf", hint="choose another name"
            )
        replace(path, data, mode=MODE_WITH_KEYS)
    return plain_tag(data), True


def add_region(
    path: bytes,
    region_path: bytes,
    protection: Protection,
    kernel_path: bytes,
    chunk_length: int = CHUNK_LENGTH,
) -> tuple[Region, bytes]:
    """Add a region to the fspf; the region as it was understood, and the new tag.

    Raises:
        Unsupported: volumes (`.`), and unprotected regions that another directory backs.
        FormatError: not an fspf, encrypted already, a bad path, an overlap.
    """
    if region_path == b".":
        raise Unsupported(
            "region . belongs to a volume, and volumes are not supported yet",
            hint="give an absolute path, as /app",
        )
    check_chunk_length(chunk_length)
    region = Region(
        canonical(region_path, "EMBEDPOINT"),
        protection,
        canonical(kernel_path, "--kernel"),
        chunk_length if protection is not Protection.NOT_PROTECTED else 0,
    )
    if not region.protected and region.path != region.kernel_path:
        raise Unsupported(
            f"region {printable(region.path)} is not protected and has another kernel path"
            f" ({printable(region.kernel_path)}): that is not supported yet",
            hint="give the same path twice, or mount the directory there",
        )
    with locked(path) as data:
        index = open_plain_index(data)
        entries = dict(index.items())
        regions = RegionMap([*index.regions, region])
        _refuse_taken(region, entries)
        if region.protected:
            entries[region.path[1:]] = DirectoryEntry(_ROOT_MODE, 0, 0, 0)
        data = write_plain(build_index(regions, entries))
        replace(path, data, mode=MODE_WITH_KEYS)
    return region, plain_tag(data)


def add_files(
    path: bytes,
    embed_point: bytes,
    source: bytes,
    output: bytes | None,
    *,
    owner: tuple[int, int] | None = None,
    workers: int = 2,
    random: Callable[[int], bytes] = os.urandom,
    begin: Callable[[int, int], None] = lambda size, files: None,
    progress: Progress = lambda size, files: None,
) -> Added:
    """Protect everything in `source` as the content of `embed_point`.

    What the fspf had there of earlier runs and `source` does not have stays. Files go to `output`
    under their own names and are moved into place when all of them are complete.

    Args:
        path: the fspf.
        embed_point: the region, or a directory below it.
        source: the directory with the plain files.
        output: where the files go; required where encrypted, None to leave authenticated files
            where they are.
        owner: uid and gid to record instead of the source's.
        workers: threads.
        random: where keys come from.
        begin: told the number of bytes and of files before the first is read.
        progress: told the bytes and files done since it was called last.

    Raises:
        Misconfigured: no such region, not a protected one, directories that overlap, sockets, ….
        Conflict: a file changed or vanished while it was read.
        FormatError, NotFound, StorageFailed, Unavailable: as the parts.
    """
    with locked(path) as data:
        index = open_plain_index(data)
        point, region = _region_of(index, embed_point)
        if output is None and region.protection is Protection.ENCRYPTED:
            raise Misconfigured(
                f"region {printable(region.path)} is encrypted and there is no OUTPUT_DIR",
                hint="say where the encrypted files go: addf FILE EMBEDPOINT SOURCE_DIR OUTPUT_DIR",
            )
        sources = walk(source)
        _refuse_directories(path, source, output, sources)
        sources = _without_mount_points(sources, point, region, index.regions)
        if output is not None:
            output = os.path.abspath(output)
            check_output(output, sources)
        files = [pair for pair in enumerate(sources) if pair[1].kind is Kind.FILE]
        begin(sum(file.stat.st_size for _, file in files), len(files))
        settings = Settings(
            source, region.protection, region.chunk_length, owner, None, random, workers
        )
        if output is None:
            return _add(path, index, point, sources, settings, progress)
        with staging(output) as stage:
            return _add(path, index, point, sources, settings._replace(staging=stage), progress)


def encrypt(
    path: bytes,
    *,
    random: Callable[[int], bytes] = os.urandom,
    announce: Callable[[Sealed], None],
) -> Sealed:
    """Seal the fspf in place under a fresh key.

    `announce` gets key and tag before the plain file is replaced: if it raises, for example since
    stdout's disk is full, the plain file with the files' keys is still there.

    Raises:
        FormatError: encrypted already, or several regions without `/`.
        StorageFailed, NotFound, Unavailable: as `protect.files`.
    """
    with locked(path) as data:
        index = open_plain_index(data)
        key = random(KEY_LENGTH)
        sealed = seal(index, key=key, random=random)
        result = Sealed(key, sealed_tag(sealed, key=key))
        replace(path, sealed, mode=MODE_SEALED, before=lambda: announce(result))
    return result


def show(path: bytes, key: bytes | None) -> tuple[Index, bytes, bool]:
    """The contents of an fspf, its tag, and whether it is sealed.

    Raises:
        Misconfigured: it is sealed and there is no key.
        IntegrityError: the key is another's, or the file was changed.
    """
    data = read_fspf(path)
    if not is_sealed(data):
        return open_plain_index(data), plain_tag(data), False
    if key is None:
        raise Misconfigured(
            f"{printable(path)} is encrypted, and there is no key",
            hint="set SCONE_FSPF_KEY, or give --key-file FILE ('-' for stdin)",
        )
    # What it is, and not whether it is the one that a session means: the seal alone decides.
    tag = sealed_tag(data, key=key)
    return open_index(data, key=key, tag=tag), tag, True


def _add(
    path: bytes,
    index: Index,
    point: bytes,
    sources: list[Source],
    settings: Settings,
    progress: Progress,
) -> Added:
    entries = dict(index.items())
    files = [pair for pair in enumerate(sources) if pair[1].kind is Kind.FILE]
    keytags: list[bytes] = []
    fresh: dict[bytes, Entry] = {}
    for done in protect_contents(files, settings, progress):
        place = join(point, sources[done.number].relative)
        fresh[place[1:]] = done.entry
        if done.keytag:
            keytags.append(place)
    for source in sources:
        if source.kind is not Kind.FILE:
            fresh[join(point, source.relative)[1:]] = _entry(source, settings.owner)
    kept = _merge(entries, fresh, point, index.regions)
    data = write_plain(build_index(index.regions, entries))
    strangers: list[bytes] = []
    if settings.staging is not None:
        settings.staging.sync()
        known = {b"/" + found for found in entries if is_below(b"/" + found, point)}
        strangers = settings.staging.strangers(lambda name: join(point, name) in known)
    # The new fspf is on the disk under a temporary name before the first file is moved.
    with _undisturbed():
        replace(path, data, mode=MODE_WITH_KEYS, before=lambda: _move(settings, sources))
    return Added(
        plain_tag(data),
        len(files),
        sum(source.kind is Kind.DIRECTORY for source in sources),
        sum(source.kind is Kind.LINK for source in sources),
        sum(source.stat.st_size for _, source in files),
        kept,
        tuple(sorted(keytags)),
        tuple(sorted(strangers)),
    )


def _move(settings: Settings, sources: list[Source]) -> None:
    stage = settings.staging
    if stage is None:
        return
    plain = settings.protection is Protection.AUTHENTICATED
    try:
        stage.move(enumerate(sources), directory_mode=plain)
    except OSError as error:
        raise StorageFailed(
            f"cannot move the files into {printable(stage.output)}: {error.strerror}",
            hint="some are in place: run the command again",
        ) from error


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """No Ctrl-C between the first file that is moved into place and the fspf."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    old = {number: signal.signal(number, signal.SIG_IGN) for number in _DISTURBING}
    try:
        yield
    finally:
        for number, handler in old.items():
            if handler is not None:  # None: set by foreign code, and lost with or without us
                signal.signal(number, handler)


def _entry(source: Source, owner: tuple[int, int] | None) -> Entry:
    status = source.stat
    uid, gid = owner or (status.st_uid, status.st_gid)
    if source.kind is Kind.LINK:
        return LinkEntry(source.target, uid, gid, status.st_mtime_ns)
    return DirectoryEntry(stat.S_IMODE(status.st_mode), uid, gid, status.st_mtime_ns)


def _merge(
    entries: dict[bytes, Entry], fresh: dict[bytes, Entry], point: bytes, regions: RegionMap
) -> int:
    """Put `fresh` over `entries`; how many entries of earlier runs are left below `point`."""
    # Whatever was below a name that is no directory any more goes with it.
    gone = {
        path
        for path, entry in fresh.items()
        if entry.kind is not Kind.DIRECTORY and isinstance(entries.get(path), DirectoryEntry)
    }
    for path in [path for path in entries if gone and _has_parent_in(path, gone)]:
        del entries[path]
    entries.update(fresh)
    above = parent(point)
    while above != b"/" or regions.at(b"/"):
        region = regions.find(above)
        if region is None or not region.protected:
            break
        found = entries.setdefault(above[1:], DirectoryEntry(_ROOT_MODE, 0, 0, 0))
        if found.kind is not Kind.DIRECTORY:
            raise Misconfigured(
                f"{printable(above)} is not a directory in the fspf, and {printable(point)}"
                " would be below it"
            )
        if above in (region.path, b"/"):
            break
        above = parent(above)
    return sum(is_below(b"/" + path, point) and path not in fresh for path in entries)


def _has_parent_in(path: bytes, gone: set[bytes]) -> bool:
    while path:
        path = path.rpartition(b"/")[0]
        if path in gone:
            return True
    return False


def _region_of(index: Index, embed_point: bytes) -> tuple[bytes, Region]:
    point = canonical(embed_point, "EMBEDPOINT")
    region = index.regions.find(point)
    if region is None:
        known = ", ".join(printable(region.path) for region in index.regions) or "none"
        raise Misconfigured(
            f"{printable(point)} is in no region, expected one of: {known}",
            hint=f"add it: crannog fspf addr FILE {printable(point)} --encrypted"
            f" --kernel {printable(point)}",
        )
    if not region.protected:
        raise Misconfigured(
            f"{printable(point)} is in region {printable(region.path)}, which is not protected",
            hint="files are added to encrypted and authenticated regions; others need nothing",
        )
    return point, region


def _refuse_taken(region: Region, entries: dict[bytes, Entry]) -> None:
    taken = [b"/" + path for path in entries if is_below(b"/" + path, region.path)]
    if taken and region.path != b"/":
        raise Misconfigured(
            f"{printable(taken[0])} was added to region / already, and would be in region"
            f" {printable(region.path)}",
            hint="start again with 'fspf create', and add all regions before the files",
        )


def _refuse_directories(
    path: bytes, source: bytes, output: bytes | None, sources: list[Source]
) -> None:
    """Refuse directories that lie in one another, and an fspf that would encrypt itself."""
    inside = os.path.realpath(source)
    try:
        fspf = os.stat(path)
    except OSError as error:
        raise disk_error(error, "read", path) from error
    for entry in sources:
        if (entry.stat.st_dev, entry.stat.st_ino) == (fspf.st_dev, fspf.st_ino):
            raise Misconfigured(
                f"the fspf lies in SOURCE_DIR ({printable(entry.relative)})",
                hint="keep it outside: it would be encrypted with the key that it holds",
            )
    if output is None:
        return
    outside = os.path.realpath(output)
    if is_below(outside, inside) or is_below(inside, outside) or _same(inside, outside):
        raise Misconfigured(
            f"OUTPUT_DIR {printable(outside)} and SOURCE_DIR {printable(inside)} overlap",
            hint="write to a directory beside SOURCE_DIR: plain and encrypted files must not mix",
        )


def _same(first: bytes, second: bytes) -> bool:
    try:
        return os.path.samefile(first, second)
    except FileNotFoundError:
        return False


def _without_mount_points(
    sources: list[Source], point: bytes, region: Region, regions: RegionMap
) -> list[Source]:
    """Leave out empty directories where other regions begin; refuse what lies in those."""
    others = [
        other.path for other in regions if other.path != region.path and is_below(other.path, point)
    ]
    if not others:
        return sources
    kept: list[Source] = []
    for source in sources:
        place = join(point, source.relative)
        other = next((path for path in others if is_below(place, path)), None)
        if other is None:
            kept.append(source)
        elif place != other or source.kind is not Kind.DIRECTORY:
            raise Misconfigured(
                f"{printable(source.relative)} would be in region {printable(other)}, not in"
                f" {printable(region.path)}",
                hint=f"move it out of SOURCE_DIR, and add it to {printable(other)}",
            )
    return kept
