"""Contents: what is on disk is what was added, or refused."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from crannog.errors import IntegrityError
from crannog.shield.chunks import (
    ChunkReader,
    chunk_ranges,
    decrypt_chunk_into,
    read_file,
    read_file_into,
    verify_digest,
)
from crannog.shield.model import FileEntry, Protection, Region
from crannog.testing.protection import protect

CHUNK = 4096
CONTENT = os.urandom(3 * CHUNK + 5)
PUBLIC = (Region(b"/app", Protection.AUTHENTICATED, b"/app"),)
SECRET = (Region(b"/app", Protection.ENCRYPTED, b"/app"),)


def made(content: bytes = CONTENT, regions: tuple[Region, ...] = SECRET) -> tuple[FileEntry, bytes]:
    protected = protect({b"/app/f": content}, regions=regions, chunk_length=CHUNK)
    entry = protected.open().lookup(b"/app/f")
    assert isinstance(entry, FileEntry)
    return entry, protected.disk[b"/app/f"]


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 5 * CHUNK + 7])
@pytest.mark.parametrize("regions", [SECRET, PUBLIC])
def test_read_gives_what_was_added(size: int, regions: tuple[Region, ...]) -> None:
    content = os.urandom(size)
    entry, disk = made(content, regions)
    assert len(disk) == size
    assert read_file(entry, disk) == content


def test_ciphertext_is_not_plaintext_and_new_each_time() -> None:
    _, first = made()
    _, second = made()
    assert CONTENT[:64] not in first
    assert first != second


def test_authenticated_file_is_left_as_it_is() -> None:
    assert made(regions=PUBLIC)[1] == CONTENT


def test_chunk_by_itself() -> None:
    entry, disk = made()
    out = bytearray(CHUNK)
    decrypt_chunk_into(entry, 1, disk[CHUNK : 2 * CHUNK], out)
    assert out == CONTENT[CHUNK : 2 * CHUNK]


def test_ranges_on_several_threads_make_the_whole() -> None:
    content = os.urandom(100 * CHUNK + 9)
    entry, disk = made(content)
    out = bytearray(len(content))
    with ThreadPoolExecutor(3) as pool:
        for first, end in chunk_ranges(entry, 3):
            pool.submit(read_file_into, entry, disk, out, first=first, end=end).result()
    assert out == content


def blocks(entry: FileEntry, disk: bytes, per_block: int) -> bytes:
    reader, out = ChunkReader(entry), bytearray(entry.size)
    for first in range(0, entry.chunks, per_block):
        start = first * CHUNK
        part = disk[start : start + per_block * CHUNK]
        block = bytearray(part + bytes(16))
        reader.read_block_into(first, memoryview(block), memoryview(out)[start : start + len(part)])
        assert block[: len(part)] == part
    return bytes(out)


@pytest.mark.parametrize("regions", [SECRET, PUBLIC])
@pytest.mark.parametrize("per_block", [1, 2, 3, 9])
def test_blocks_of_chunks(per_block: int, regions: tuple[Region, ...]) -> None:
    entry, disk = made(regions=regions)
    assert blocks(entry, disk, per_block) == CONTENT


@pytest.mark.parametrize("regions", [SECRET, PUBLIC])
@pytest.mark.parametrize("position", [0, CHUNK + 20, len(CONTENT) - 1])
def test_flipped_bit_in_a_block_is_refused(position: int, regions: tuple[Region, ...]) -> None:
    entry, disk = made(regions=regions)
    changed = bytearray(disk)
    changed[position] ^= 1
    with pytest.raises(IntegrityError, match=f"chunk {position // CHUNK} "):
        blocks(entry, bytes(changed), 4)


@pytest.mark.parametrize("regions", [SECRET, PUBLIC])
@pytest.mark.parametrize("position", [0, CHUNK - 1, CHUNK, len(CONTENT) - 1])
def test_flipped_bit_is_refused(position: int, regions: tuple[Region, ...]) -> None:
    entry, disk = made(regions=regions)
    changed = bytearray(disk)
    changed[position] ^= 0x80
    with pytest.raises(IntegrityError, match=f"chunk {position // CHUNK} "):
        read_file(entry, bytes(changed))


@pytest.mark.parametrize("regions", [SECRET, PUBLIC])
def test_truncated_file_is_refused(regions: tuple[Region, ...]) -> None:
    entry, disk = made(regions=regions)
    with pytest.raises(IntegrityError, match="bytes, expected"):
        read_file(entry, disk[:-1])


def test_file_cut_at_a_chunk_is_refused() -> None:
    entry, disk = made()
    with pytest.raises(IntegrityError):
        read_file(entry, disk[: 3 * CHUNK])


def test_extended_file_is_refused() -> None:
    entry, disk = made()
    with pytest.raises(IntegrityError):
        read_file(entry, disk + b"\0")


@pytest.mark.parametrize("regions", [SECRET, PUBLIC])
def test_reordered_chunks_are_refused(regions: tuple[Region, ...]) -> None:
    entry, disk = made(regions=regions)
    moved = disk[CHUNK : 2 * CHUNK] + disk[:CHUNK] + disk[2 * CHUNK :]
    with pytest.raises(IntegrityError):
        read_file(entry, moved)


def test_chunk_is_not_accepted_at_another_place() -> None:
    """Tags moved along with their chunks, as a false fspf would have it: the nonce refuses."""
    entry, disk = made()
    tags = entry.tags
    moved = entry._replace(tags=tags[16:32] + tags[:16] + tags[32:])
    with pytest.raises(IntegrityError):
        read_file(moved, disk[CHUNK : 2 * CHUNK] + disk[:CHUNK] + disk[2 * CHUNK :])


def test_last_chunk_left_out_is_refused_even_with_a_matching_size() -> None:
    entry, disk = made()
    shorter = entry._replace(size=3 * CHUNK, tags=entry.tags[:48])
    with pytest.raises(IntegrityError, match="chunk 2"):
        read_file(shorter, disk[: 3 * CHUNK])


def test_swapped_files_of_equal_size_are_refused() -> None:
    protected = protect({b"/app/f": b"a" * 100, b"/app/g": b"b" * 100})
    entry = protected.open().lookup(b"/app/f")
    assert isinstance(entry, FileEntry)
    with pytest.raises(IntegrityError):
        read_file(entry, protected.disk[b"/app/g"])


def test_the_same_file_of_an_earlier_addf_is_refused() -> None:
    entry, _ = made()
    _, earlier = made()
    with pytest.raises(IntegrityError):
        read_file(entry, earlier)


def test_plaintext_instead_of_ciphertext_is_refused() -> None:
    entry, _ = made()
    with pytest.raises(IntegrityError):
        read_file(entry, CONTENT)


def test_digest_of_a_chunk_is_checked_by_itself() -> None:
    entry, disk = made(regions=PUBLIC)
    verify_digest(entry, 0, disk[:CHUNK])
    with pytest.raises(IntegrityError):
        verify_digest(entry, 1, disk[:CHUNK])
