"""Makes the layers of the protected image: old ones without plain files, and a new last one.

One pass over each layer that matters: members that stay are copied, contents of protected files go
through AES-GCM or SHA-256 straight from the old layer into the new one. No plain file is written
anywhere, and no more than a piece of one is in memory. The fspf is sealed at once: a plain one,
with the files' keys, never exists outside this process.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from crannog.image.plan import Plan
from crannog.image.request import Request
from crannog.image.traces import MAX_CONTENT, Contents
from crannog.oci.assemble import Blob
from crannog.oci.blobs import Blobs
from crannog.oci.limits import DEFAULT, Limits
from crannog.oci.model import Image
from crannog.oci.rewrite import LayerWriter, Written, pass_layer
from crannog.oci.scan import Scan
from crannog.oci.streams import PIECE, storage_failed
from crannog.oci.tar import Member, Type
from crannog.oci.tar_writer import TarWriter
from crannog.oci.union import Place
from crannog.shield.chunks import ChunkWriter
from crannog.shield.fspf import KEY_LENGTH, seal, sealed_tag
from crannog.shield.index import build_index
from crannog.shield.model import CHUNK_LENGTH, CHUNK_TAG, FILE_KEY, Entry, FileEntry, Protection

_FILE_MODE = 0o644  # ciphertext is for whoever runs the image; real modes are in the fspf
_DIRECTORY_MODE = 0o755
_NO_KEY = bytes(FILE_KEY)


class Sealed(NamedTuple):
    """What was made.

    Attributes:
        layers: of the new image.
        staged: files with the blobs that are new, by digest.
        key: of the fspf. A secret.
        tag: of the fspf.
        contents: of small encrypted files, to be looked for elsewhere.
        files: how many files were protected.
        size: bytes of them.
    """

    layers: tuple[Blob, ...]
    staged: dict[str, Path]
    key: bytes
    tag: bytes
    contents: Contents
    files: int
    size: int

    def __repr__(self) -> str:
        """Without the key: reprs end up in logs."""
        return f"Sealed(layers={len(self.layers)}, tag={self.tag.hex()})"


def make_layers(
    blobs: Blobs,
    image: Image,
    scan: Scan,
    plan: Plan,
    request: Request,
    work: Path,
    *,
    random: Callable[[int], bytes],
    progress: Callable[[int], None] = lambda size: None,
    limits: Limits = DEFAULT,
) -> Sealed:
    """Write the changed layers and the new one into the directory `work`.

    Args:
        blobs: where the old layers lie.
        image: the old image.
        scan: what it holds.
        plan: what becomes of it.
        request: what was asked.
        work: a directory of this process alone; holds ciphertext and old layers' other files.
        random: where the keys come from.
        progress: told the bytes of old blobs as they are read.
        limits: bounds.

    Raises:
        IntegrityError: the image changed meanwhile.
        FormatError, StorageFailed, TooLarge: it cannot be read, or `work` is full.
    """
    layers: list[Blob] = []
    staged: dict[str, Path] = {}
    place = work / "new"
    with _created(place) as sink:
        writer = LayerWriter(sink, str(place), gzip=False)
        protector = _Protector(writer.archive, plan, work, random)
        for number, layer in enumerate(image.layers):
            visitors = _Visitors(protector, number)
            dropped = plan.drop[number]
            if dropped:
                old = work / f"layer-{number}"
                with _created(old) as rest:
                    kept = LayerWriter(rest, str(old), gzip=scan.gzip[number])
                    pass_layer(
                        blobs,
                        layer,
                        archive=kept.archive,
                        keep=lambda n, member, gone=dropped: n not in gone,  # type: ignore[misc]
                        hide=plan.hide[number],
                        visit=visitors.visit,
                        progress=progress,
                        limits=limits,
                    )
                    written = kept.finish()
                staged[written.digest] = old
                layers.append(_blob(written))
                continue
            if any(wanted.layer == number for wanted in plan.wanted):
                pass_layer(blobs, layer, visit=visitors.visit, progress=progress, limits=limits)
            digest, size = scan.blobs[number]
            layers.append(Blob(digest, size, layer.diff_id, scan.gzip[number]))
        entries = protector.finish()
        key = random(KEY_LENGTH)
        sealed = seal(build_index(request.regions, entries), key=key, random=random)
        writer.archive.add(request.fspf[1:], Type.FILE, mode=_FILE_MODE, size=len(sealed))
        writer.archive.write(sealed)
        written = writer.finish()
    staged[written.digest] = place
    layers.append(_blob(written))
    return Sealed(
        tuple(layers),
        staged,
        key,
        sealed_tag(sealed, key=key),
        protector.contents,
        protector.files,
        protector.size,
    )


class _Protector:
    """Encrypts or authenticates contents as they come by, and gathers the fspf's entries."""

    def __init__(
        self, archive: TarWriter, plan: Plan, work: Path, random: Callable[[int], bytes]
    ) -> None:
        self.contents = Contents()
        self.files = 0
        self.size = 0
        self._archive = archive
        self._plan = plan
        self._work = work
        self._random = random
        self._entries: dict[bytes, Entry] = dict(plan.entries)
        self._later: list[tuple[bytes, int, BinaryIO]] = []
        for path in plan.directories:
            archive.add(path, Type.DIRECTORY, mode=_DIRECTORY_MODE)
        for path, target in plan.links:
            archive.add(path, Type.LINK, mode=0o777, target=target)

    def begin(self, place: Place, member: Member) -> _File | None:
        """A visitor for a member's content, where a protected file has it."""
        names = self._plan.wanted.get(place)
        return None if names is None else _File(self, names, member)

    def encrypted_to(
        self, path: bytes, size: int, *, first: bool
    ) -> Callable[[memoryview], object]:
        """Where a file's ciphertext goes: the new layer, where only one can be under way."""
        self.files += 1
        self.size += size
        if first:
            self._archive.add(path, Type.FILE, mode=_FILE_MODE, size=size)
            return self._archive.write
        file = tempfile.TemporaryFile(dir=self._work)  # noqa: SIM115  # closed by `finish`
        self._later.append((path, size, file))
        return file.write

    def fresh_key(self) -> bytes:
        """A file's key."""
        return self._random(FILE_KEY)

    def authenticated(self, size: int) -> None:
        """Count a file that stays where it is."""
        self.files += 1
        self.size += size

    def entry(self, path: bytes, entry: FileEntry) -> None:
        """Note a finished file."""
        self._entries[path] = entry

    def finish(self) -> dict[bytes, Entry]:
        """Add what had to wait; every entry by relative path."""
        for path, size, file in self._later:
            with file:
                file.seek(0)
                self._archive.add(path, Type.FILE, mode=_FILE_MODE, size=size)
                while piece := file.read(PIECE):
                    self._archive.write(piece)
        missing = [path for names in self._plan.wanted.values() for path, _ in names]
        assert all(path in self._entries for path in missing)
        return self._entries


class _Visitors:
    """Gives `pass_layer` the visitors of one layer."""

    def __init__(self, protector: _Protector, layer: int) -> None:
        self._protector = protector
        self._layer = layer

    def visit(self, number: int, member: Member) -> _File | None:
        """As `pass_layer` asks."""
        return self._protector.begin(Place(self._layer, number), member)


class _File:
    """One content; each of its names gets a key, and thereby a ciphertext, of its own."""

    def __init__(
        self, protector: _Protector, names: list[tuple[bytes, Protection]], member: Member
    ) -> None:
        self._protector = protector
        self._member = member
        self._done = 0
        self._out = bytearray(min(PIECE, member.size) + CHUNK_TAG)
        self._text: bytearray | None = None
        self._names: list[_Name] = []
        first = True
        for path, protection in names:
            key, write = _NO_KEY, None
            if protection is Protection.ENCRYPTED:
                key = protector.fresh_key()
                write = protector.encrypted_to(path, member.size, first=first)
                first = False
                if member.size <= MAX_CONTENT:
                    self._text = bytearray()
            else:
                protector.authenticated(member.size)
            writer = ChunkWriter(
                protection,
                key,
                chunks=-(-member.size // CHUNK_LENGTH),
                chunk_length=CHUNK_LENGTH,
            )
            self._names.append(_Name(path, protection, key, writer, bytearray(), write))

    def piece(self, data: bytes) -> None:
        """The next bytes; all pieces but the last are whole chunks."""
        out = memoryview(self._out)
        for name in self._names:
            number = self._done // CHUNK_LENGTH
            room = out[: len(data) + CHUNK_TAG]
            name.tags.extend(name.writer.write(number, memoryview(data), room))
            if name.write is not None:
                name.write(out[: len(data)])
        self._done += len(data)
        if self._text is not None:
            self._text += data

    def end(self) -> None:
        """Make the entries."""
        member = self._member
        for name in self._names:
            self._protector.entry(
                name.path,
                FileEntry(
                    name.protection,
                    member.mode,
                    member.uid,
                    member.gid,
                    member.size,
                    member.mtime_ns,
                    CHUNK_LENGTH,
                    name.key,
                    bytes(name.tags),
                ),
            )
        if self._text is not None:
            self._protector.contents.add(bytes(self._text))


class _Name(NamedTuple):
    path: bytes
    protection: Protection
    key: bytes
    writer: ChunkWriter
    tags: bytearray
    write: Callable[[memoryview], object] | None

    def __repr__(self) -> str:
        return f"_Name({self.path!r})"


def _blob(written: Written) -> Blob:
    return Blob(written.digest, written.size, written.diff_id, written.gzip)


@contextlib.contextmanager
def _created(path: Path) -> Iterator[BinaryIO]:
    try:
        with path.open("xb", buffering=PIECE) as file:
            yield file
    except OSError as error:
        raise storage_failed(error, "write", str(path)) from error
