"""Our reader sees what Python's `tarfile` wrote; copies are exact; nothing but our errors."""

from __future__ import annotations

import io
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crannog.errors import FormatError, TooLarge
from crannog.oci.limits import DEFAULT
from crannog.oci.tar import TarReader, Type
from crannog.oci.tar_writer import TarWriter

NAMES = st.text(
    st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=60
).filter(lambda name: name not in (".", "..") and len(name.encode()) < 200)
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)
CONTENTS = st.binary(max_size=1500)
FORMATS = st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
MEMBERS = st.lists(
    st.tuples(
        PATHS,
        st.sampled_from([tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE]),
        CONTENTS,
        st.integers(0, 0o7777),
        st.integers(0, 2**31),
        st.integers(0, 2**33),
    ),
    max_size=6,
)


def archive(members: list[tuple[str, bytes, bytes, int, int, int]], form: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as writer:
        for name, kind, content, mode, owner, mtime in members:
            info = tarfile.TarInfo(name)
            info.type, info.mode, info.uid, info.gid = kind, mode, owner, owner
            info.mtime = mtime
            if kind == tarfile.REGTYPE:
                info.size = len(content)
            if kind == tarfile.SYMTYPE:
                info.linkname = "../" + name
            writer.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@given(MEMBERS, FORMATS)
def test_members_are_what_was_written(
    members: list[tuple[str, bytes, bytes, int, int, int]], form: int
) -> None:
    reader = TarReader(io.BytesIO(archive(members, form)), "a test")
    kinds = {
        tarfile.REGTYPE: Type.FILE,
        tarfile.DIRTYPE: Type.DIRECTORY,
        tarfile.SYMTYPE: Type.LINK,
        tarfile.CHRTYPE: Type.CHARACTER,
    }
    found = [(member, b"".join(reader.data())) for member in reader]
    assert len(found) == len(members)
    for (member, data), (name, kind, content, mode, owner, mtime) in zip(
        found, members, strict=True
    ):
        parts = [part for part in name.split("/") if part != "."]
        assert member.name == "/".join(parts).encode()
        assert member.type is kinds[kind]
        assert data == (content if kind == tarfile.REGTYPE else b"")
        assert (member.mode, member.uid, member.gid) == (mode, owner, owner)
        assert member.mtime_ns == mtime * 10**9
        assert member.target == (("../" + name).encode() if kind == tarfile.SYMTYPE else b"")


@given(MEMBERS, FORMATS)
def test_a_copy_of_all_members_has_the_same_members(
    members: list[tuple[str, bytes, bytes, int, int, int]], form: int
) -> None:
    data = archive(members, form)
    out = io.BytesIO()
    reader, writer = TarReader(io.BytesIO(data), "a test"), TarWriter(out)
    for member in reader:
        writer.copy(member, reader.data())
    writer.close()
    copied = out.getvalue()
    assert data.startswith(copied.rstrip(b"\0"))
    assert not data[len(copied) :].strip(b"\0")


@given(MEMBERS, FORMATS, st.data())
@settings(max_examples=300)
def test_a_changed_archive_raises_nothing_but_ours(
    members: list[tuple[str, bytes, bytes, int, int, int]], form: int, data: st.DataObject
) -> None:
    changed = bytearray(archive(members, form))
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(changed) - 1))
        changed[position] = data.draw(st.integers(0, 255))
        if data.draw(st.booleans()):
            # With the right checksum, so that the rest of the header is looked at as well.
            start = position - position % 512
            block = changed[start : start + 512]
            block[148:156] = b" " * 8
            changed[start + 148 : start + 156] = b"%06o\0 " % sum(block)
    cut = data.draw(st.integers(0, len(changed)))
    limits = DEFAULT._replace(layer_bytes=1 << 20)
    reader = TarReader(io.BytesIO(bytes(changed[:cut])), "a test", limits)
    try:
        for member in reader:
            assert b".." not in member.name.split(b"/")
            assert not member.name.startswith(b"/")
            for _ in reader.data():
                pass
    except (FormatError, TooLarge):
        pass


@given(
    PATHS.filter(lambda path: "." not in path.split("/")),
    st.sampled_from([Type.FILE, Type.DIRECTORY, Type.LINK]),
    CONTENTS,
    st.integers(0, 0o7777),
    st.integers(0, 2**32 - 2),
)
def test_what_we_write_is_read_by_others(
    path: str, kind: Type, content: bytes, mode: int, owner: int
) -> None:
    out = io.BytesIO()
    writer = TarWriter(out)
    writer.add(
        path.encode(),
        kind,
        mode=mode,
        size=len(content) if kind is Type.FILE else 0,
        target=path.encode() * 3 if kind is Type.LINK else b"",
        uid=owner,
        gid=owner,
        mtime=7,
    )
    if kind is Type.FILE:
        writer.write(content)
    writer.close()
    out.seek(0)
    with tarfile.open(fileobj=out) as reader:
        (info,) = reader.getmembers()
        assert info.name == path
        assert (info.mode, info.uid, info.gid, info.mtime) == (mode, owner, owner, 7)
        if kind is Type.FILE:
            file = reader.extractfile(info)
            assert file is not None
            assert file.read() == content
        if kind is Type.LINK:
            assert info.linkname == path * 3
    out.seek(0)
    (member,) = list(TarReader(out, "a test"))
    assert (member.name, member.type) == (path.encode(), kind)


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 1024])
def test_a_cut_archive_is_refused(size: int) -> None:
    data = archive([("name", tarfile.REGTYPE, bytes(1000), 0o644, 0, 0)], tarfile.PAX_FORMAT)
    reader = TarReader(io.BytesIO(data[:size]), "a test")
    if size == 0:
        assert list(reader) == []
        return
    with pytest.raises(FormatError, match="cut off"):
        list(reader)
