"""The body of an fspf: a compact index of regions, paths and what each path is.

Canonical: one body for one content. Paths are sorted and unique, the data of the entries lies in
their order without gaps, what has no meaning is zero, nothing follows the end. Everything is
checked when it is decoded, hostile or not, with columns and not object by object, so that 100,000
files load in a fraction of a second; entries become objects when they are looked up.
Format: docs/formats/fspf.md, section 4.
"""

from __future__ import annotations

import itertools
import operator
import re
import struct
from bisect import bisect_left
from collections.abc import Iterator, Mapping

from crannog.errors import FormatError
from crannog.shield.model import (
    CHUNK_DIGEST,
    CHUNK_LENGTH_STEP,
    CHUNK_TAG,
    FILE_KEY,
    MAX_CHUNK_LENGTH,
    MIN_CHUNK_LENGTH,
    DirectoryEntry,
    Entry,
    FileEntry,
    Kind,
    LinkEntry,
    Protection,
    Region,
)
from crannog.shield.paths import NAME_MAX, PATH_MAX, canonical, printable
from crannog.shield.regions import MAX_REGIONS, RegionMap

_COUNTS = struct.Struct(">IIQQ")
_REGION = struct.Struct(">BBHHHI")
_RECORD = struct.Struct(">BBHIIIQqQ32s")
_BACKING_KERNEL = 1
_NO_KEY = bytes(FILE_KEY)
_LINK_MODE = 0o777
_BAD_COMPONENT = re.compile(rb"[/\0]\.{0,2}[/\0]")
_LONG_NAME = re.compile(rb"[^/\0]{%d}" % (NAME_MAX + 1))
_TAG_LENGTHS = {Protection.ENCRYPTED: CHUNK_TAG, Protection.AUTHENTICATED: CHUNK_DIGEST}


class Index:
    """A decoded body. Paths are relative to `/`: `app/server.py`, and empty for `/` itself.

    Attributes:
        regions: the regions.
        paths: sorted by bytes, unique.
        body: the bytes that it was decoded from.
    """

    __slots__ = ("_data", "_positions", "_records", "body", "paths", "regions")

    def __init__(
        self, regions: RegionMap, paths: list[bytes], body: bytes, records: int, data: int
    ) -> None:
        self.regions = regions
        self.paths = paths
        self.body = body
        self._records = records
        self._data = data
        self._positions = dict(zip(paths, itertools.count()))

    def lookup(self, path: bytes) -> Entry | None:
        """The entry of a relative path, or None."""
        position = self._positions.get(path)
        return None if position is None else self._entry(position)

    def kind(self, path: bytes) -> Kind:
        """What a relative path that is known to be there stands for."""
        return Kind(self.body[self._records + self._positions[path] * _RECORD.size])

    def items(self) -> Iterator[tuple[bytes, Entry]]:
        """Every relative path with its entry, in order."""
        for position, path in enumerate(self.paths):
            yield path, self._entry(position)

    def _entry(self, position: int) -> Entry:
        kind, protection, mode, uid, gid, chunk, size, mtime, start, key = _RECORD.unpack_from(
            self.body, self._records + position * _RECORD.size
        )
        if kind == Kind.DIRECTORY:
            return DirectoryEntry(mode, uid, gid, mtime)
        start += self._data
        if kind == Kind.LINK:
            return LinkEntry(self.body[start : start + size], uid, gid, mtime)
        guarded = Protection(protection)
        length = -(-size // chunk) * _TAG_LENGTHS[guarded]
        tags = self.body[start : start + length]
        return FileEntry(guarded, mode, uid, gid, size, mtime, chunk, key, tags)


def encode_body(index: Index) -> bytes:
    """The bytes of an index; decoding them gives an equal one."""
    return index.body


def build_index(regions: RegionMap, entries: Mapping[bytes, Entry]) -> Index:
    """The index of these regions and these entries by relative path.

    Raises:
        FormatError: as `decode_body`, which checks what was built.
    """
    records: list[bytes] = []
    data: list[bytes] = []
    start = 0
    paths = sorted(entries)
    for path in paths:
        entry = entries[path]
        record, extra = _encode_entry(entry, start)
        records.append(record)
        data.append(extra)
        start += len(extra)
    names = b"".join([path + b"\0" for path in paths])
    counts = _COUNTS.pack(len(regions), len(paths), len(names), start)
    encoded_regions = b"".join([_encode_region(region) for region in regions])
    return decode_body(
        b"".join([counts, encoded_regions, *records, names, *data]),
    )


def decode_body(body: bytes, *, offset: int = 0) -> Index:
    """Check every byte of a body; `offset` is where it begins in its file, for errors.

    Raises:
        FormatError: anything that is not exactly as documented.
    """
    try:
        return _decode(body)
    except FormatError as error:
        if error.offset < 0:
            raise
        raise FormatError(error.message, offset=error.offset + offset, hint=error.hint) from error


def check_chunk_length(length: int) -> None:
    """Refuse a chunk length that is out of bounds or not whole pages.

    Raises:
        FormatError: so.
    """
    if not MIN_CHUNK_LENGTH <= length <= MAX_CHUNK_LENGTH or length % CHUNK_LENGTH_STEP:
        raise FormatError(
            f"chunk length is {length}, expected a multiple of {CHUNK_LENGTH_STEP}"
            f" from {MIN_CHUNK_LENGTH} to {MAX_CHUNK_LENGTH} bytes"
        )


def _encode_region(region: Region) -> bytes:
    header = _REGION.pack(
        region.protection,
        _BACKING_KERNEL,
        0,
        len(region.path),
        len(region.kernel_path),
        region.chunk_length if region.protected else 0,
    )
    return header + region.path + region.kernel_path


def _encode_entry(entry: Entry, start: int) -> tuple[bytes, bytes]:
    uid, gid, mtime = entry.uid, entry.gid, entry.mtime_ns
    if isinstance(entry, DirectoryEntry):
        record = _RECORD.pack(Kind.DIRECTORY, 0, entry.mode, uid, gid, 0, 0, mtime, start, _NO_KEY)
        return record, b""
    if isinstance(entry, LinkEntry):
        target = entry.target
        record = _RECORD.pack(
            Kind.LINK, 0, _LINK_MODE, uid, gid, 0, len(target), mtime, start, _NO_KEY
        )
        return record, target
    record = _RECORD.pack(
        Kind.FILE,
        entry.protection,
        entry.mode,
        uid,
        gid,
        entry.chunk_length,
        entry.size,
        mtime,
        start,
        entry.key,
    )
    return record, entry.tags


def _decode(body: bytes) -> Index:
    if len(body) < _COUNTS.size:
        raise FormatError(f"fspf index has {len(body)} bytes", offset=len(body))
    region_count, count, names_length, data_length = _COUNTS.unpack_from(body)
    if region_count > MAX_REGIONS:
        raise FormatError(f"{region_count} regions, expected at most {MAX_REGIONS}", offset=0)
    regions, records = _decode_regions(body, region_count)
    names = records + count * _RECORD.size
    data = names + names_length
    if data + data_length != len(body):
        raise FormatError(
            f"fspf index has {len(body)} bytes, expected {data + data_length}", offset=len(body)
        )
    paths = _decode_paths(body[names:data], count, names)
    index = Index(regions, paths, body, records, data)
    guards = _guards(regions, paths)
    directories = _check_records(body, guards, records, names, data)
    _check_tree(index, guards, directories)
    return index


def _decode_regions(body: bytes, count: int) -> tuple[RegionMap, int]:
    found: list[Region] = []
    at = _COUNTS.size
    for _ in range(count):
        if at + _REGION.size > len(body):
            raise FormatError("fspf index ends inside a region", offset=at)
        protection, backing, zero, path_length, kernel_length, chunk = _REGION.unpack_from(body, at)
        end = at + _REGION.size + path_length + kernel_length
        if end > len(body):
            raise FormatError("fspf index ends inside a region's paths", offset=at)
        if protection not in (1, 2, 3) or backing != _BACKING_KERNEL or zero:
            raise FormatError("fspf region: unknown protection or backing", offset=at)
        path = body[at + _REGION.size : end - kernel_length]
        kernel = body[end - kernel_length : end]
        if path != canonical(path, "region") or kernel != canonical(kernel, "kernel path"):
            raise FormatError("fspf region: a path is not canonical", offset=at)
        region = Region(path, Protection(protection), kernel, chunk)
        if region.protected:
            check_chunk_length(chunk)
        elif chunk:
            raise FormatError("fspf region: not protected and with a chunk length", offset=at)
        found.append(region)
        at = end
    if any(map(operator.ge, found, found[1:])):
        raise FormatError("fspf regions are not sorted", offset=_COUNTS.size)
    return RegionMap(found), at


def _decode_paths(blob: bytes, count: int, offset: int) -> list[bytes]:
    paths = blob.split(b"\0")
    if paths.pop() or len(paths) != count:
        raise FormatError(f"fspf index has {len(paths)} paths, expected {count}", offset=offset)
    if any(map(operator.ge, paths, paths[1:])):
        raise FormatError("fspf paths are not sorted and unique", offset=offset)
    # The empty path is `/` and can only be the first; anywhere else it would be an empty name.
    rest = blob[1:] if paths and not paths[0] else blob
    if rest and _BAD_COMPONENT.search(b"\0" + rest):
        raise FormatError("an fspf path is not canonical", offset=offset)
    if max(map(len, paths), default=0) >= PATH_MAX or _LONG_NAME.search(blob):
        raise FormatError("an fspf path is longer than the kernel allows", offset=offset)
    return paths


def _guards(regions: RegionMap, paths: list[bytes]) -> bytearray:
    """The protection of the region that each path lies in; 0 for none.

    Regions do not overlap, so each one is the path itself and one run of the sorted paths.
    """
    root = regions.at(b"/")
    guards = bytearray([root.protection if root else 0]) * len(paths)
    for region in regions:
        if region.path == b"/":
            continue
        own = region.path[1:]
        first = bisect_left(paths, own)
        if first < len(paths) and paths[first] == own:
            guards[first] = region.protection
        # "0" is the byte after "/".
        first, end = bisect_left(paths, own + b"/"), bisect_left(paths, own + b"0")
        guards[first:end] = bytes([region.protection]) * (end - first)
    return guards


def _check_records(
    body: bytes, guards: bytearray, records: int, names: int, data: int
) -> list[bool]:
    """Check each record by itself and that their data follow one another; which are directories."""
    directories: list[bool] = []
    total = len(body) - data
    expected = 0
    view = memoryview(body)[records:names]
    for guard, record in zip(guards, _RECORD.iter_unpack(view), strict=True):
        kind, protection, mode, _uid, _gid, chunk, size, _mtime, start, key = record
        if start != expected or mode > 0o7777:
            raise _bad(records, len(directories), "offset or mode is wrong")
        if kind == 1:
            if protection != guard or not (protection == 3 or (protection == 2 and key == _NO_KEY)):
                raise _bad(records, len(directories), "protection is not its region's")
            if not MIN_CHUNK_LENGTH <= chunk <= MAX_CHUNK_LENGTH or chunk % CHUNK_LENGTH_STEP:
                raise _bad(records, len(directories), "chunk length is out of bounds")
            expected += -(-size // chunk) * (CHUNK_TAG if protection == 3 else CHUNK_DIGEST)
        else:
            if protection or chunk or key != _NO_KEY or guard < 2:
                raise _bad(
                    records,
                    len(directories),
                    "fields that must be zero are not, or its region is not protected",
                )
            if kind == 3:
                if mode != _LINK_MODE or not 0 < size <= PATH_MAX:
                    raise _bad(records, len(directories), "a link of this mode or length")
                if b"\0" in body[data + start : data + start + size]:
                    raise _bad(records, len(directories), "a link target with a NUL byte")
                expected += size
            elif kind != 2 or size:
                raise _bad(records, len(directories), "unknown kind, or a directory with a size")
        if expected > total:
            raise _bad(records, len(directories), "more data than there are")
        directories.append(kind == 2)
    if expected != total:
        raise FormatError("fspf index: data that belong to no entry", offset=data + expected)
    return directories


def _bad(records: int, position: int, what: str) -> FormatError:
    return FormatError(f"fspf entry {position}: {what}", offset=records + position * _RECORD.size)


def _check_tree(index: Index, guards: bytearray, directories: list[bool]) -> None:
    """Every entry is a region's root or in a directory; every protected region has its root."""
    paths = index.paths
    roots = {region.path[1:] for region in index.regions if region.protected}
    folders = set(itertools.compress(paths, directories))
    if not roots <= folders:
        raise FormatError("an fspf region has no directory of its own")
    parents = {path.rpartition(b"/")[0] for path in paths if path not in roots}
    missing = parents - folders
    if missing:
        raise FormatError(f"fspf: {printable(b'/' + min(missing))} is not a directory")
    for region in index.regions:
        above = region.path[1:].rpartition(b"/")[0]
        while above:
            if index._positions.get(above) is not None and above not in folders:
                raise FormatError(
                    f"fspf: {printable(b'/' + above)} is not a directory and has a region below it"
                )
            above = above.rpartition(b"/")[0]
