"""Looks for keys among the files of an image; says where they are, and never what they are.

Every byte that is shipped is looked at, in pieces, so memory stays bounded. What is found: the
output line of `fspf encrypt` (a file `keytag`, in the tutorial), sessions with an fspf key in them,
fspfs that are not sealed and hold files' keys, and private keys in PEM. Keys in other forms,
compressed or in pieces are not found. Private keys are not looked for in ELF files: libraries bring
test vectors along.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from crannog.errors import Error
from crannog.oci.tar import Member
from crannog.shield.fspf import MAGIC, is_sealed, open_plain_index
from crannog.shield.index import Index
from crannog.shield.model import FileEntry, Protection

_ELF = b"\x7fELF"
_OVERLAP = 1024
_MAX_FSPF = 64 << 20
_LINE = "the output line of 'fspf encrypt', with the key"
_SESSION = "an fspf key, as sessions have it"
_PEM = "a private key"
_PLAIN = "an fspf that is not sealed, with the files' keys"
# Each pattern with a text that it cannot do without: looking for that is many times faster.
_PATTERNS = (
    (
        b"AES-GCM tag: ",
        re.compile(rb"AES-GCM tag: [0-9a-f]{32} key: [0-9a-f]{64}(?![0-9a-f])"),
        _LINE,
    ),
    (b'"key":', re.compile(rb'"key":\s{0,4}"[0-9a-f]{64}"[^\n]{0,400}"tag":'), _LINE),
    (
        b"spf_key",
        re.compile(rb"(?<![a-z])fspf_key[\"']?\s{0,4}[:=]\s{0,4}[\"']?[0-9a-f]{64}(?![0-9a-f])"),
        _SESSION,
    ),
    (b"SPF_KEY", re.compile(rb"FSPF_KEY[\"']?\s{0,4}[:=]\s{0,4}[\"']?[0-9a-f]{64}"), _SESSION),
    (
        b"PRIVATE KEY-----",
        re.compile(
            rb"-----BEGIN (?:[A-Z0-9]{1,20} ){0,3}PRIVATE KEY-----(?:\\n|\s){1,4}"
            rb"(?:[A-Za-z-]{1,40}: [^\n]{0,100}\s{1,4}){0,4}[A-Za-z0-9+/]{40}"
        ),
        _PEM,
    ),
)


class Key(NamedTuple):
    """A key that lies in a file: which layer's, where, and what it looks like."""

    layer: int
    path: bytes
    what: str


class KeySearch:
    """Gathers what `visit` finds in all files of an image.

    Attributes:
        keys: in the order of the layers.
        sealed: paths of sealed fspfs.
        plain: paths and contents of fspfs that are not sealed and hold no keys.
    """

    def __init__(self) -> None:
        self.keys: list[Key] = []
        self.sealed: set[bytes] = set()
        self.plain: list[tuple[bytes, Index]] = []

    def visit(self, layer: int, member: Member) -> _File:
        """A visitor for one regular file."""
        return _File(self, layer, member)


class _File:
    __slots__ = ("_elf", "_found", "_fspf", "_layer", "_name", "_search", "_size", "_tail")

    def __init__(self, search: KeySearch, layer: int, member: Member) -> None:
        self._search = search
        self._layer = layer
        self._name = member.name
        self._size = member.size
        self._tail: bytes | None = None
        self._fspf: bytearray | None = None
        self._elf = False
        self._found: set[str] = set()

    def piece(self, data: bytes) -> None:
        """Look at the next bytes."""
        if self._tail is None:
            if data.startswith(MAGIC) and self._size <= _MAX_FSPF:
                self._fspf = bytearray()
        else:
            data = self._tail + data
        if self._fspf is not None:
            self._fspf += data[len(self._tail or b"") :]
        found = found_in(data)
        if self._tail is None and data.startswith(_ELF):
            self._elf = True
        self._found |= found - {_PEM} if self._elf else found
        self._tail = data[-_OVERLAP:]

    def end(self) -> None:
        """Note what was found."""
        if self._fspf is not None:
            self._look_at_fspf(bytes(self._fspf))
        self._search.keys += [Key(self._layer, self._name, what) for what in sorted(self._found)]

    def _look_at_fspf(self, data: bytes) -> None:
        try:
            if is_sealed(data):
                self._search.sealed.add(self._name)
                return
            index = open_plain_index(data)
        except Error:
            return  # begins like one, and is none that anybody could open
        if any(
            isinstance(entry, FileEntry) and entry.protection is Protection.ENCRYPTED
            for _, entry in index.items()
        ):
            self._found.add(_PLAIN)
        else:
            self._search.plain.append((self._name, index))


def found_in(data: bytes) -> set[str]:
    """What keys `data` holds, by what they look like."""
    return {
        what for literal, pattern, what in _PATTERNS if literal in data and pattern.search(data)
    }
