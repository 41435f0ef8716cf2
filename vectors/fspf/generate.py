"""Writes the vectors of this directory; the same every time. Run: python -m vectors.fspf.generate.

Nothing of `crannog` is used, so that the vectors check the code and not itself: the format is
encoded here a second time, from docs/formats/fspf.md.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import struct
from collections.abc import Iterator
from pathlib import Path

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

HERE = Path(__file__).parent
CHUNK = 4096
MTIME = 1_600_000_000_000_000_000
ZERO_KEY = bytes(32)

Vector = dict[str, object]


def made(label: str, length: int) -> bytes:
    """`length` bytes that look random and are not: SHA-256 of a label and a counter."""
    blocks = range(-(-length // 32))
    stream = b"".join(hashlib.sha256(f"{label}/{block}".encode()).digest() for block in blocks)
    return stream[:length]


KEY, NONCE = made("key", 32), made("nonce", 12)


def derive(key: bytes, purpose: str) -> bytes:
    info = b"crannog fspf v1 " + purpose.encode()
    return hmac.digest(key, info + b"\x01", "sha256")


def header(form: int, *, magic: bytes = b"CRANFSPF", version: int = 1, zero: int = 0) -> bytes:
    return magic + struct.pack(">BBH", version, form, zero)


def seal(body: bytes, *, head: bytes = b"", key: bytes = KEY) -> bytes:
    head = head or header(1)
    return head + NONCE + AESGCM(derive(key, "seal")).encrypt(NONCE, body, head)


def commit(data: bytes, key: bytes = KEY) -> bytes:
    return hmac.digest(derive(key, "commitment"), data, "sha256")[:16]


def region(
    path: bytes,
    protection: int,
    *,
    chunk: int | None = None,
    kernel: bytes | None = None,
    backing: int = 1,
    zero: int = 0,
) -> bytes:
    kernel = path if kernel is None else kernel
    chunk = (0 if protection == 1 else CHUNK) if chunk is None else chunk
    head = struct.pack(">BBHHHI", protection, backing, zero, len(path), len(kernel), chunk)
    return head + path + kernel


def record(
    kind: int,
    *,
    protection: int = 0,
    mode: int = 0o755,
    chunk: int = 0,
    size: int = 0,
    offset: int = 0,
    key: bytes = ZERO_KEY,
) -> bytes:
    fields = (kind, protection, mode, 1000, 1001, chunk, size, MTIME, offset)
    return struct.pack(">BBHIIIQqQ", *fields) + key


def assemble(
    regions: list[bytes],
    records: list[bytes],
    names: list[bytes],
    data: bytes = b"",
    *,
    count: int | None = None,
    after: bytes = b"",
) -> bytes:
    joined = b"".join(name + b"\0" for name in names)
    number = len(records) if count is None else count
    counts = struct.pack(">IIQQ", len(regions), number, len(joined), len(data))
    return counts + b"".join(regions) + b"".join(records) + joined + data + after


def encrypt(key: bytes, plaintext: bytes) -> tuple[bytes, bytes]:
    disk, tags = b"", b""
    for start in range(0, len(plaintext), CHUNK):
        last = start + CHUNK >= len(plaintext)
        nonce = (start // CHUNK).to_bytes(11, "big") + bytes([last])
        sealed = AESGCM(key).encrypt(nonce, plaintext[start : start + CHUNK], None)
        disk, tags = disk + sealed[:-16], tags + sealed[-16:]
    return disk, tags


def digests(plaintext: bytes) -> bytes:
    chunks = [plaintext[start : start + CHUNK] for start in range(0, len(plaintext), CHUNK)]
    return b"".join(hashlib.sha256(chunk).digest() for chunk in chunks)


ROOT = region(b"/", 1)
APP = region(b"/app", 3)
HELLO_KEY = made("file key", 32)
HELLO = b"print('hello')\n"
HELLO_DISK, HELLO_TAGS = encrypt(HELLO_KEY, HELLO)
FOLDER = record(2)


def file_record(plaintext: bytes, *, key: bytes = HELLO_KEY, offset: int = 0) -> bytes:
    return record(
        1, protection=3, mode=0o644, chunk=CHUNK, size=len(plaintext), offset=offset, key=key
    )


def one_file(path: bytes = b"app/hello.py") -> bytes:
    return assemble([ROOT, APP], [FOLDER, file_record(HELLO)], [b"app", path], HELLO_TAGS)


def vector(fact: str, expect: str, fspf: bytes, *, tag: bytes | None = None) -> Vector:
    return {
        "fact": fact,
        "expect": expect,
        "key": KEY.hex(),
        "tag": (commit(fspf) if tag is None else tag).hex(),
        "fspf": fspf.hex(),
    }


def body_vector(fact: str, body: bytes, *, expect: str = "malformed") -> Vector:
    """A body that was sealed as it should be: what is wrong with it is inside."""
    return vector(fact, expect, seal(body))


def file_vector(
    fact: str, expect: str, plaintext: bytes, disk: bytes | None = None, **more: object
) -> Vector:
    good, tags = encrypt(HELLO_KEY, plaintext)
    body = assemble([ROOT, APP], [FOLDER, file_record(plaintext)], [b"app", b"app/f"], tags)
    return vector(fact, "success", seal(body)) | {
        "path": b"/app/f".hex(),
        "disk": (good if disk is None else disk).hex(),
        "file_expect": expect,
        **({"plaintext": plaintext.hex()} if expect == "success" else {}),
        **more,
    }


def flip(data: bytes, position: int) -> bytes:
    changed = bytearray(data)
    changed[position] ^= 1
    return bytes(changed)


def same_gcm_tag(sealed: bytes, key: bytes = KEY) -> bytes:
    """Another sealed file with the same GCM tag, as who knows the key can make it.

    GHASH is linear: adding D to one block of ciphertext and D·H to the next changes nothing.
    """
    encryptor = Cipher(algorithms.AES256(derive(key, "seal")), modes.ECB()).encryptor()
    hash_key = int.from_bytes(encryptor.update(bytes(16)), "big")
    delta = 1 << 120
    product, value = 0, hash_key
    for bit in range(127, -1, -1):
        if delta >> bit & 1:
            product ^= value
        value = value >> 1 ^ (0xE1 << 120 if value & 1 else 0)
    # Two whole blocks of ciphertext inside the last file's tags, where any byte is well-formed.
    start = 24
    first = (len(sealed) - start - 16) // 16 * 16 - 32 + start
    changed = bytearray(sealed)
    for offset, change in ((first, delta), (first + 16, product)):
        block = int.from_bytes(sealed[offset : offset + 16], "big") ^ change
        changed[offset : offset + 16] = block.to_bytes(16, "big")
    return bytes(changed)


def opening() -> Iterator[tuple[str, Vector]]:
    """Sections 2 and 3: header, key, tag, seal."""
    good = seal(one_file())
    yield "sealed", vector("a sealed file with one entry opens", "success", good)
    yield "no-regions", body_vector("an fspf may be empty", assemble([], [], []), expect="success")
    plain = header(0) + one_file()
    yield (
        "plain",
        vector("a plain file is not opened with a key", "malformed", plain),
    )
    yield (
        "plain-tag",
        {
            "fact": "a plain file's tag is computed with a key of zeros",
            "expect": "plain",
            "tag": commit(plain, ZERO_KEY).hex(),
            "fspf": plain.hex(),
        },
    )
    wrong = vector("another key", "not-authentic", good)
    yield "wrong-key", wrong | {"key": made("another key", 32).hex()}
    yield (
        "wrong-key-right-tag",
        vector("another key, whose tag fits the file: the seal refuses", "not-authentic", good)
        | {
            "key": made("another key", 32).hex(),
            "tag": commit(good, made("another key", 32)).hex(),
        },
    )
    yield (
        "wrong-tag",
        vector("another tag", "not-authentic", good, tag=flip(commit(good), 15)),
    )
    older = seal(assemble([ROOT, APP], [FOLDER], [b"app"]))
    yield (
        "older-version",
        vector("an older file under the same key", "not-authentic", older, tag=commit(good)),
    )
    three = made("three", 3 * CHUNK)
    _, tags = encrypt(HELLO_KEY, three)
    long = seal(assemble([ROOT, APP], [FOLDER, file_record(three)], [b"app", b"app/f"], tags))
    other = same_gcm_tag(long)
    assert other != long
    assert other[-16:] == long[-16:]
    AESGCM(derive(KEY, "seal")).decrypt(NONCE, other[24:], other[:12])
    yield (
        "same-gcm-tag",
        vector("another file with the same GCM tag", "not-authentic", other, tag=commit(long)),
    )
    yield "same-gcm-tag-own", vector("that file opens with its own tag", "success", other)
    for name, position in (("header", 11), ("nonce", 12), ("body", 40), ("seal", len(good) - 1)):
        expect = "malformed" if name == "header" else "not-authentic"
        fact = f"a flipped bit in the {name}"
        yield f"flipped-{name}", vector(fact, expect, flip(good, position), tag=commit(good))
    yield "truncated", vector("a byte less", "not-authentic", good[:-1], tag=commit(good))
    yield "extended", vector("a byte more", "not-authentic", good + b"\0", tag=commit(good))
    yield "empty", vector("no bytes", "malformed", b"")
    yield "header-only", vector("nothing after the header", "malformed", header(1))
    yield "short-seal", vector("no room for nonce and tag", "malformed", header(1) + bytes(27))
    body = one_file()
    for name, head in (
        ("magic", header(1, magic=b"CRANFSPG")),
        ("version", header(1, version=2)),
        ("form", header(2)),
        ("reserved", header(1, zero=1)),
    ):
        yield f"bad-{name}", vector(f"another {name}", "malformed", seal(body, head=head))


def regions() -> Iterator[tuple[str, Vector]]:
    """Section 4: regions."""
    folders = [FOLDER, FOLDER]

    def case(name: str, fact: str, found: list[bytes], entries: list[bytes]) -> tuple[str, Vector]:
        return f"region-{name}", body_vector(
            fact, assemble(found, folders[: len(entries)], entries)
        )

    sub = region(b"/app/sub", 3)
    yield case("overlap", "a region inside another", [ROOT, APP, sub], [b"app", b"app/sub"])
    yield case("twice", "a region twice", [ROOT, APP, APP], [b"app"])
    yield case("unsorted", "regions out of order", [APP, ROOT], [b"app"])
    pair = [region(b"/a", 3), region(b"/b", 3)]
    yield case("no-root", "two regions without /", pair, [b"a", b"b"])
    yield case("no-directory", "a protected region without a directory", [ROOT, APP], [])
    for name, path in (
        ("relative", b"app"),
        ("slash", b"/app/"),
        ("double-slash", b"//app"),
        ("dot", b"/./app"),
        ("dotdot", b"/x/../app"),
        ("nul", b"/app\0"),
    ):
        yield case(name, f"region path: {name}", [ROOT, region(path, 3, kernel=b"/app")], [b"app"])
    yield case("kernel", "kernel path not canonical", [region(b"/app", 3, kernel=b"x")], [b"app"])
    yield case("protection", "protection 4", [region(b"/app", 4)], [b"app"])
    yield case("backing", "ephemeral", [region(b"/app", 3, backing=2)], [b"app"])
    yield case("reserved", "reserved bytes", [region(b"/app", 3, zero=1)], [b"app"])
    for chunk in (0, 4095, 4097, 2**25):
        fact = f"chunk length {chunk}"
        yield case(f"chunk-{chunk}", fact, [region(b"/app", 3, chunk=chunk)], [b"app"])
    yield case("unprotected-chunk", "chunk length", [region(b"/", 1, chunk=CHUNK)], [])
    prefix = body_vector(
        "regions /app and /application do not overlap",
        assemble([ROOT, APP, region(b"/application", 3)], folders, [b"app", b"application"]),
        expect="success",
    )
    yield "region-prefix", prefix


def entries() -> Iterator[tuple[str, Vector]]:
    """Section 4: paths, records, data."""
    hello = file_record(HELLO)

    def case(
        name: str, fact: str, records: list[bytes], names: list[bytes], data: bytes = b""
    ) -> tuple[str, Vector]:
        body = assemble([ROOT, APP], [FOLDER, *records], [b"app", *names], data)
        return f"entry-{name}", body_vector(fact, body)

    for name, path in (
        ("absolute", b"/app/f"),
        ("slash", b"app/f/"),
        ("double-slash", b"app//f"),
        ("dot", b"app/./f"),
        ("dotdot", b"app/../f"),
        ("empty", b""),
        ("long-name", b"app/" + b"n" * 256),
        ("no-parent", b"app/missing/f"),
        ("outside", b"etc"),
    ):
        paths, records = [b"app", path], [FOLDER, hello]
        if path < b"app":
            paths, records = paths[::-1], records[::-1]
        body = assemble([ROOT, APP], records, paths, HELLO_TAGS)
        yield f"path-{name}", body_vector(f"path: {name}", body)
    twice = [hello, file_record(HELLO, offset=16)]
    yield case("twice", "a path twice", twice, [b"app/f", b"app/f"], 2 * HELLO_TAGS)
    yield case("unsorted", "paths out of order", twice, [b"app/g", b"app/f"], 2 * HELLO_TAGS)
    yield case("parent-file", "a file as parent", twice, [b"app/f", b"app/f/g"], 2 * HELLO_TAGS)
    yield case("kind", "kind 4", [record(4)], [b"app/f"])
    yield case("mode", "mode of 17 bits", [record(2, mode=0o10000)], [b"app/f"])
    yield case("directory-key", "a directory with a key", [record(2, key=KEY)], [b"app/f"])
    yield case("directory-size", "a directory with a size", [record(2, size=1)], [b"app/f"])
    yield case("directory-chunk", "a directory with chunks", [record(2, chunk=CHUNK)], [b"app/f"])
    weak = record(1, protection=2, mode=0o644, chunk=CHUNK, size=1)
    yield case("protection", "weaker than its region", [weak], [b"app/f"], bytes(32))
    none = record(1, protection=1, mode=0o644, chunk=CHUNK, size=1)
    yield case("unprotected", "an unprotected file", [none], [b"app/f"])
    chunk = record(1, protection=3, mode=0o644, chunk=0, size=1, key=KEY)
    yield case("chunk", "a file with chunk length 0", [chunk], [b"app/f"], bytes(16))
    yield case("few-tags", "a tag too few", [hello], [b"app/f"])
    yield case("many-tags", "a tag too many", [hello], [b"app/f"], 2 * HELLO_TAGS)
    gap = [file_record(HELLO, offset=16)]
    yield case("gap", "a gap in the data", gap, [b"app/f"], 2 * HELLO_TAGS)
    overlap = [hello, hello]
    yield case("overlap", "two entries share data", overlap, [b"app/f", b"app/g"], HELLO_TAGS)
    huge = record(1, protection=3, mode=0o644, chunk=CHUNK, size=2**63, key=KEY)
    yield case("huge", "a size beyond its tags", [huge], [b"app/f"], HELLO_TAGS)

    def link(size: int) -> list[bytes]:
        return [record(3, size=size, mode=0o777)]

    yield case("link-empty", "an empty target", link(0), [b"app/f"])
    yield case("link-nul", "a target with NUL", link(2), [b"app/f"], b"a\0")
    yield case("link-mode", "a link's mode", [record(3, size=1)], [b"app/f"], b"a")
    yield case("link-long", "4096 bytes", link(4096), [b"app/f"], b"a" * 4096)
    yield (
        "entry-after",
        body_vector("a byte after the data", assemble([ROOT], [], [], after=b"\0")),
    )
    yield (
        "entry-count",
        body_vector("more entries than bytes", assemble([ROOT], [], [], count=2**32 - 1)),
    )
    public = assemble([region(b"/", 2)], [FOLDER], [b""])
    yield "entry-root", body_vector("/ itself may be protected", public, expect="success")
    names = [b"app", b"app/empty", b"app/link", b"app/\xff\n"]
    records = [FOLDER, record(2), *link(1), file_record(HELLO, offset=1)]
    body = assemble([ROOT, APP], records, names, b"f" + HELLO_TAGS)
    fact = "names need not be text; empty directories and links are entries"
    yield "entry-kinds", body_vector(fact, body, expect="success")


def files() -> Iterator[tuple[str, Vector]]:
    """Section 5: contents."""
    one, three = made("one", CHUNK), made("three", 2 * CHUNK + 100)
    disk, _ = encrypt(HELLO_KEY, three)
    refused = "not-authentic"
    yield "file-short", file_vector("less than a chunk", "success", HELLO)
    yield "file-empty", file_vector("an empty file has no chunk", "success", b"")
    yield "file-one-chunk", file_vector("a whole chunk is the last one", "success", one)
    yield "file-three-chunks", file_vector("three chunks", "success", three)
    for name, position in (("first", 0), ("middle", CHUNK + 1), ("last", len(disk) - 1)):
        changed = flip(disk, position)
        yield f"file-flipped-{name}", file_vector("a flipped bit", refused, three, changed)
    moved = disk[CHUNK : 2 * CHUNK] + disk[:CHUNK] + disk[2 * CHUNK :]
    yield "file-reordered", file_vector("two chunks exchanged", refused, three, moved)
    yield "file-truncated", file_vector("a byte less", refused, three, disk[:-1])
    yield "file-cut", file_vector("a chunk less", refused, three, disk[: 2 * CHUNK])
    yield "file-extended", file_vector("a byte more", refused, three, disk + b"\0")
    yield "file-plain", file_vector("the plaintext instead", refused, three, three)
    yield "file-none", file_vector("nothing instead", refused, three, b"")
    again, _ = encrypt(made("earlier", 32), three)
    yield "file-earlier", file_vector("the same, encrypted earlier", refused, three, again)
    public = made("public", CHUNK + 1)
    kept = record(1, protection=2, mode=0o644, chunk=CHUNK, size=len(public))
    body = assemble([region(b"/lib", 2)], [FOLDER, kept], [b"lib", b"lib/f"], digests(public))
    for name, content in (("success", public), ("flipped", flip(public, CHUNK))):
        expect = "success" if name == "success" else refused
        yield (
            f"file-authenticated-{name}",
            vector(f"an authenticated file: {name}", "success", seal(body))
            | {"path": b"/lib/f".hex(), "disk": content.hex(), "file_expect": expect}
            | ({"plaintext": public.hex()} if expect == "success" else {}),
        )


def vectors() -> dict[str, Vector]:
    """All vectors by name."""
    return dict([*opening(), *regions(), *entries(), *files()])


def text(found: Vector) -> str:
    """A vector as its file holds it."""
    return json.dumps(found, indent=1, sort_keys=True) + "\n"


def main() -> None:
    """Write every file, and remove those that are no more."""
    found = vectors()
    for old in HERE.glob("*.json"):
        if old.stem not in found:
            old.unlink()
    for name, value in found.items():
        (HERE / f"{name}.json").write_text(text(value), encoding="utf-8")


if __name__ == "__main__":
    main()
