"""The contents of files: chunks that are encrypted or authenticated one by one.

Encrypted: AES-256-GCM under the file's own key. The nonce is 11 bytes of the chunk's number, big
endian, and 1 byte that is 1 in the last chunk and 0 before, as in STREAM (Hoang, Reyhanitabar,
Rogaway, Vizar 2015) and age: so a chunk can be neither moved, nor left out, nor be the end where it
was not. The key is fresh for every file and every `addf`, hence no nonce is used twice with a key.
Authenticated: SHA-256 of the chunk. Not keyed, since who reads a plain fspf would know the key.

Ciphertext has the length of the plaintext; the tags are in the fspf. Everything here works on
buffers, so that a file can be filled in by several threads, each with its own range of chunks.
A `ChunkReader` is for one thread at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

from crannog.errors import IntegrityError
from crannog.shield.cipher import AESGCM, InvalidTag, compare_digest
from crannog.shield.model import CHUNK_DIGEST, CHUNK_TAG, FileEntry, Protection

Buffer: TypeAlias = bytes | bytearray | memoryview


def nonce(index: int, *, last: bool) -> bytes:
    """The 12 bytes that chunk `index`, counted from 0, is sealed with."""
    return index.to_bytes(11, "big") + (b"\1" if last else b"\0")


def chunk_span(entry: FileEntry, index: int) -> tuple[int, int]:
    """Offset and length in bytes of chunk `index`, in plaintext and on disk alike."""
    offset = index * entry.chunk_length
    if not 0 <= offset < entry.size:
        raise ValueError(f"chunk {index} of a file of {entry.chunks} chunks")
    return offset, min(entry.chunk_length, entry.size - offset)


class ChunkReader:
    """Verifies, and where encrypted decrypts, the chunks of one file; for one thread at a time."""

    __slots__ = ("_cipher", "_entry", "_last", "_scratch")

    def __init__(self, entry: FileEntry) -> None:
        self._entry = entry
        self._last = entry.chunks - 1
        encrypted = entry.protection is Protection.ENCRYPTED
        self._cipher = AESGCM(entry.key) if encrypted else None
        # cryptography wants ciphertext and tag in one buffer.
        room = min(entry.chunk_length, entry.size) + CHUNK_TAG if encrypted else 0
        self._scratch = bytearray(room)

    def read_into(self, index: int, data: Buffer, out: Buffer) -> None:
        """Put the plaintext of chunk `index` into `out`, or raise and leave `out` to be dropped.

        Args:
            index: the chunk's number.
            data: the chunk as it is on disk, exactly as long as `chunk_span` says.
            out: writable, of the same length; may not overlap `data`.

        Raises:
            IntegrityError: a changed, moved, shortened or foreign chunk.
        """
        entry = self._entry
        _, length = chunk_span(entry, index)
        if len(data) != length:
            raise _refused(entry, index)
        if self._cipher is None:
            # Copied first and checked in the copy: what is on disk may change in between.
            memoryview(out)[:length] = data
            verify_digest(entry, index, memoryview(out)[:length])
            return
        scratch = self._scratch
        scratch[:length] = data
        scratch[length : length + CHUNK_TAG] = entry.tags[
            index * CHUNK_TAG : (index + 1) * CHUNK_TAG
        ]
        try:
            self._cipher.decrypt_into(
                nonce(index, last=index == self._last),
                memoryview(scratch)[: length + CHUNK_TAG],
                None,
                memoryview(out)[:length],
            )
        except InvalidTag as error:
            raise _refused(entry, index) from error

    def read_block_into(self, first: int, block: memoryview, out: memoryview) -> None:
        """As `read_into` for several chunks at once, without copying each one first.

        Args:
            first: number of the first chunk.
            block: whole chunks as they are on disk (the file's last one may be shorter), and
                `CHUNK_TAG` bytes of room after them. Writable, and nobody else's: it is written to.
            out: writable, `CHUNK_TAG` bytes shorter than `block`.

        Raises:
            IntegrityError: as `read_into`; `out` then holds nothing that may be used.
        """
        entry, cipher = self._entry, self._cipher
        for start in range(0, len(out), entry.chunk_length):
            index = first + start // entry.chunk_length
            _, length = chunk_span(entry, index)
            end = start + length
            if end > len(out):
                raise _refused(entry, index)
            if cipher is None:
                out[start:end] = block[start:end]
                verify_digest(entry, index, out[start:end])
                continue
            # The tag stands in for the beginning of the next chunk, and gives it back.
            next_chunk = bytes(block[end : end + CHUNK_TAG])
            block[end : end + CHUNK_TAG] = entry.tags[index * CHUNK_TAG : (index + 1) * CHUNK_TAG]
            try:
                cipher.decrypt_into(
                    nonce(index, last=index == self._last),
                    block[start : end + CHUNK_TAG],
                    None,
                    out[start:end],
                )
            except InvalidTag as error:
                raise _refused(entry, index) from error
            block[end : end + CHUNK_TAG] = next_chunk


def decrypt_chunk_into(entry: FileEntry, index: int, data: Buffer, out: Buffer) -> None:
    """As `ChunkReader.read_into`, for a single chunk."""
    ChunkReader(entry).read_into(index, data, out)


def verify_digest(entry: FileEntry, index: int, data: Buffer) -> None:
    """Refuse a chunk of an authenticated file that is not what was recorded.

    Raises:
        IntegrityError: the chunk's SHA-256 is another.
    """
    from hashlib import sha256  # not at a start: it loads a second OpenSSL

    expected = entry.tags[index * CHUNK_DIGEST : (index + 1) * CHUNK_DIGEST]
    if not compare_digest(sha256(data).digest(), expected):
        raise _refused(entry, index)


def read_file_into(
    entry: FileEntry,
    data: Buffer,
    out: Buffer,
    *,
    first: int = 0,
    end: int | None = None,
) -> None:
    """Fill `out` with the plaintext of the whole file, or of its chunks from `first` to `end`.

    For a large file several threads each take a range: AES-GCM runs without the interpreter's lock.

    Args:
        entry: what the fspf says of the file.
        data: the file as it is on disk, whole (a mapping of it, or its bytes).
        out: writable, `entry.size` bytes (a mapping of a memfd).
        first: the first chunk to do.
        end: one past the last; None for all.

    Raises:
        IntegrityError: `data` has another length, or a chunk is not authentic. `out` then holds
            nothing that may be used.
    """
    if len(data) != entry.size:
        raise IntegrityError(
            f"the file has {len(data)} bytes, expected {entry.size}",
            hint="the file was truncated, extended or replaced after 'fspf addf'",
        )
    if len(out) != entry.size:
        raise ValueError(f"buffer of {len(out)} bytes for a file of {entry.size}")
    reader = ChunkReader(entry)
    with memoryview(data) as source, memoryview(out) as target:
        for index in range(first, entry.chunks if end is None else end):
            offset, length = chunk_span(entry, index)
            with (
                source[offset : offset + length] as chunk,
                target[offset : offset + length] as room,
            ):
                reader.read_into(index, chunk, room)


def read_file(entry: FileEntry, data: Buffer) -> bytes:
    """The plaintext of a whole file from the bytes on disk; see `read_file_into`."""
    out = bytearray(entry.size)
    read_file_into(entry, data, out)
    return bytes(out)


def chunk_ranges(entry: FileEntry, parts: int) -> Iterator[tuple[int, int]]:
    """The file's chunks as at most `parts` ranges (first, end) of about one size."""
    step = max(1, -(-entry.chunks // max(1, parts)))
    for first in range(0, entry.chunks, step):
        yield first, min(entry.chunks, first + step)


class ChunkWriter:
    """Makes the ciphertext and the tags (or the digests) of one file; safe for several threads.

    Args:
        protection: AUTHENTICATED or ENCRYPTED.
        key: the file's fresh key, never used for another content; ignored where authenticated.
        chunks: how many chunks the file has, which decides which is the last.
        chunk_length: bytes of every chunk but the last.
    """

    __slots__ = ("_chunk_length", "_chunks", "_cipher")

    def __init__(
        self, protection: Protection, key: bytes, *, chunks: int, chunk_length: int
    ) -> None:
        self._cipher = AESGCM(key) if protection is Protection.ENCRYPTED else None
        self._chunks = chunks
        self._chunk_length = chunk_length

    def write(self, first: int, plaintext: memoryview, out: memoryview) -> bytes:
        """Put whole chunks from number `first` on into `out` as they go to disk; their tags.

        Args:
            first: number of the first chunk.
            plaintext: whole chunks; only the file's last one may be shorter.
            out: writable, `CHUNK_TAG` bytes longer than `plaintext`, which hold no result.
        """
        from hashlib import sha256

        tags = bytearray()
        step = self._chunk_length
        if self._cipher is None:
            out[: len(plaintext)] = plaintext
            for start in range(0, len(plaintext), step):
                tags += sha256(plaintext[start : start + step]).digest()
            return bytes(tags)
        for start in range(0, len(plaintext), step):
            index = first + start // step
            chunk = plaintext[start : start + step]
            end = start + len(chunk)
            # The tag lands where the next chunk is going to be.
            room = out[start : end + CHUNK_TAG]
            self._cipher.encrypt_into(
                nonce(index, last=index == self._chunks - 1), chunk, None, room
            )
            tags += out[end : end + CHUNK_TAG]
        return bytes(tags)


def protect_file(
    protection: Protection, key: bytes, plaintext: bytes, *, chunk_length: int
) -> tuple[bytes, bytes]:
    """What goes to disk and the tags, for a whole file in memory."""
    chunks = -(-len(plaintext) // chunk_length)
    writer = ChunkWriter(protection, key, chunks=chunks, chunk_length=chunk_length)
    out = bytearray(len(plaintext) + CHUNK_TAG)
    tags = writer.write(0, memoryview(plaintext), memoryview(out))
    return bytes(out[: len(plaintext)]), tags


def _refused(entry: FileEntry, index: int) -> IntegrityError:
    # The reference's words for it: "Verification of file chunk 0 (bytes 0 to 4091) of file …"
    offset, length = chunk_span(entry, index)
    return IntegrityError(
        f"verification of file chunk {index} (bytes {offset} to {offset + length - 1}) failed",
        hint="the file was changed after 'fspf addf', or belongs to another fspf",
    )
