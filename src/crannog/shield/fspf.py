"""Opening and sealing an fspf: who may read it, and which one it is.

A sealed fspf is one AES-256-GCM ciphertext under a key derived from the key that `encrypt` prints.
The printed tag is a commitment: 16 bytes of HMAC-SHA-256 over the whole sealed file, under another
derived key. GCM's own tag would not do: who knows the key can make a second file with the same one.
Decides authenticity; what the contents mean is `index`, what is done with them is the
supervisor's. Format: docs/formats/fspf.md.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from crannog.errors import FormatError, IntegrityError, TooLarge
from crannog.shield.cipher import AESGCM, InvalidTag, compare_digest, hmac_sha256
from crannog.shield.index import Index, decode_body, encode_body
from crannog.shield.model import DirectoryEntry, Entry, Kind
from crannog.shield.paths import parent
from crannog.shield.regions import RegionMap, check_complete

MAGIC = b"CRANFSPF"
VERSION = 1
FORM_PLAIN = 0
FORM_SEALED = 1
KEY_LENGTH = 32
TAG_LENGTH = 16
MAX_SIZE = 1 << 30  # bytes of an fspf; about 60 million chunks

_HEADER = struct.Struct(">8sBBH")
_NONCE = 12
_GCM_TAG = 16
_PLAIN_KEY = bytes(KEY_LENGTH)  # public: the tag of a plain fspf names it and protects nothing


class Fspf:
    """An opened fspf: regions, and what lies in the protected ones.

    Entries are decoded when they are asked for. Safe to use from several threads: what is cached is
    computed from what never changes.
    """

    __slots__ = ("_children", "_index", "_names", "_virtual", "regions")

    def __init__(self, index: Index) -> None:
        self._index = index
        self.regions: RegionMap = index.regions
        self._children: dict[bytes, list[bytes]] | None = None
        self._names: dict[bytes, tuple[tuple[bytes, Kind], ...]] = {}
        self._virtual = _mount_points(index)

    def __len__(self) -> int:
        return len(self._index.paths)

    def lookup(self, path: bytes) -> Entry | None:
        """What absolute canonical `path` is, or None where the fspf does not know it.

        None in a protected region means that it does not exist. Links are not followed. Directories
        that lead to a region below a protected `/` are there with mode 0755, owned by root.
        """
        found = self._index.lookup(path[1:])
        if found is None and path in self._virtual:
            return DirectoryEntry(0o755, 0, 0, 0)
        return found

    def names(self, directory: bytes) -> tuple[tuple[bytes, Kind], ...]:
        """The names in a directory with their kinds, sorted by bytes; empty for anything else."""
        found = self._names.get(directory)
        if found is None:
            # Only what is there is kept: a program could ask for names without end.
            if not isinstance(self.lookup(directory), DirectoryEntry):
                return ()
            found = self._names[directory] = self._list(directory)
        return found

    def paths(self) -> tuple[bytes, ...]:
        """Every path that the fspf knows, absolute, sorted by bytes."""
        return tuple([b"/" + path for path in self._index.paths])

    def _list(self, directory: bytes) -> tuple[tuple[bytes, Kind], ...]:
        if self._children is None:
            self._children = _children(self._index.paths)
        index = self._index
        prefix = directory[1:] + b"/" if directory != b"/" else b""
        found = {
            path[len(prefix) :]: index.kind(path) for path in self._children.get(directory[1:], ())
        }
        for path in self._virtual:
            if path != b"/" and parent(path) == directory:
                found.setdefault(path.rpartition(b"/")[2], Kind.DIRECTORY)
        return tuple(sorted(found.items()))


def open_fspf(data: bytes, *, key: bytes, tag: bytes) -> Fspf:
    """The sealed fspf of exactly this key and this tag.

    Args:
        data: the file, whole.
        key: the 32 bytes that `fspf encrypt` printed.
        tag: the 16 bytes that it printed.

    Raises:
        FormatError: not an fspf, of another version, not sealed; or malformed inside, which only
            somebody with the key can have made.
        IntegrityError: another key, another tag, a changed byte, an older or newer version.
        TooLarge: over `MAX_SIZE`.
    """
    return Fspf(open_index(data, key=key, tag=tag))


def open_index(data: bytes, *, key: bytes, tag: bytes) -> Index:
    """As `open_fspf`, for those who list everything."""
    if len(key) != KEY_LENGTH:
        raise FormatError(f"fspf key has {len(key)} bytes, expected {KEY_LENGTH}")
    if len(tag) != TAG_LENGTH:
        raise FormatError(f"fspf tag has {len(tag)} bytes, expected {TAG_LENGTH}")
    if _form(data) != FORM_SEALED:
        raise FormatError("the fspf is not sealed", hint="seal it: crannog fspf encrypt FILE")
    # (1) the commitment, over every byte and before any of them is used
    found = sealed_tag(data, key=key)
    if not compare_digest(found, tag):
        # Tags are public, and neither helps to make a file of the other.
        raise IntegrityError(
            f"the fspf has tag {found.hex()} under this key, expected {tag.hex()}",
            hint="it was changed, is another version, or the key is another's:"
            " give the session the key and tag of the last 'fspf encrypt'",
        )
    # (2) the seal
    start = _HEADER.size + _NONCE
    if len(data) < start + _GCM_TAG:
        raise FormatError(f"sealed fspf has {len(data)} bytes", offset=len(data))
    try:
        body = AESGCM(_derive(key, b"seal")).decrypt(
            data[_HEADER.size : start], memoryview(data)[start:], data[: _HEADER.size]
        )
    except InvalidTag as error:
        raise IntegrityError(
            "the fspf does not open with this key", hint="give the key that 'fspf encrypt' printed"
        ) from error
    # (3) the contents
    index = decode_body(body)
    check_complete(index.regions)
    return index


def open_plain(data: bytes) -> Fspf:
    """A plain fspf: as authentic as the way it came. Its regions have to be complete.

    For an fspf whose digest is measured, and nothing else: anybody can write another.
    """
    index = open_plain_index(data)
    check_complete(index.regions)
    return Fspf(index)


def open_plain_index(data: bytes) -> Index:
    """The contents of a plain fspf, which the `fspf` commands go on editing.

    Raises:
        FormatError: sealed already, not an fspf, malformed.
    """
    if _form(data) != FORM_PLAIN:
        raise FormatError(
            "the fspf is encrypted already",
            hint="an encrypted fspf is not changed any more: start again with 'fspf create'",
        )
    return decode_body(data[_HEADER.size :], offset=_HEADER.size)


def is_sealed(data: bytes) -> bool:
    """Whether it is sealed; FormatError where it is no fspf at all."""
    return _form(data) == FORM_SEALED


def write_plain(index: Index) -> bytes:
    """The plain form; the same index gives the same bytes."""
    return _bounded(_HEADER.pack(MAGIC, VERSION, FORM_PLAIN, 0) + encode_body(index))


def plain_tag(data: bytes) -> bytes:
    """What `create`, `addr` and `addf` print: it tells versions apart and authenticates nothing."""
    return sealed_tag(data, key=_PLAIN_KEY)


def seal(index: Index, *, key: bytes, random: Callable[[int], bytes]) -> bytes:
    """The sealed form under `key`, with a nonce of its own.

    Raises:
        FormatError: several regions without `/`.
    """
    if len(key) != KEY_LENGTH:
        raise ValueError(f"key of {len(key)} bytes")
    check_complete(index.regions)
    header = _HEADER.pack(MAGIC, VERSION, FORM_SEALED, 0)
    nonce = random(_NONCE)
    sealed = AESGCM(_derive(key, b"seal")).encrypt(nonce, encode_body(index), header)
    return _bounded(header + nonce + sealed)


def sealed_tag(data: bytes, *, key: bytes) -> bytes:
    """The commitment to the file `data` under `key`, 16 bytes."""
    return hmac_sha256(_derive(key, b"commitment"), data)[:TAG_LENGTH]


def _derive(key: bytes, purpose: bytes) -> bytes:
    # HKDF-Expand (RFC 5869 section 2.3) for one block; the key is uniformly random (section 3.3).
    return hmac_sha256(key, b"crannog fspf v1 " + purpose + b"\x01")


def _form(data: bytes) -> int:
    if len(data) > MAX_SIZE:
        raise TooLarge(f"fspf has {len(data)} bytes, expected at most {MAX_SIZE}")
    if data[: len(MAGIC)] != MAGIC:
        raise FormatError(
            "the file is not an fspf of crannog",
            offset=0,
            hint="make one with 'crannog fspf create'; files of other tools cannot be read",
        )
    if len(data) < _HEADER.size:
        raise FormatError(f"fspf has {len(data)} bytes, expected a header", offset=len(data))
    _, version, form, zero = _HEADER.unpack_from(data)
    if version != VERSION:
        raise FormatError(f"fspf is of version {version}, expected {VERSION}", offset=8)
    if form not in (FORM_PLAIN, FORM_SEALED):
        raise FormatError(f"fspf has form {form}, expected 0 or 1", offset=9)
    if zero:
        raise FormatError("fspf header: reserved bytes are not zero", offset=10)
    return int(form)


def _bounded(data: bytes) -> bytes:
    if len(data) > MAX_SIZE:
        raise TooLarge(
            f"the fspf would have {len(data)} bytes, expected at most {MAX_SIZE}",
            hint="use a longer --chunk-length",
        )
    return data


def _children(paths: list[bytes]) -> dict[bytes, list[bytes]]:
    children: dict[bytes, list[bytes]] = {}
    for path in paths:
        if path:
            children.setdefault(path.rpartition(b"/")[0], []).append(path)
    return children


def _mount_points(index: Index) -> frozenset[bytes]:
    """Directories of a protected `/` that only exist because a region lies at or below them."""
    root = index.regions.at(b"/")
    if root is None or not root.protected:
        return frozenset()
    found: set[bytes] = set()
    for region in index.regions:
        path = region.path
        while path != b"/":
            found.add(path)
            path = parent(path)
    return frozenset(found)
