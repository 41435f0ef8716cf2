"""Images made to do harm, or damaged: refused by name, with our errors only."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest

from crannog.errors import Error, FormatError, IntegrityError, NotFound, TooLarge, Unsupported
from crannog.oci.blobs import Archive, Directory
from crannog.oci.limits import DEFAULT, Limits
from crannog.oci.model import MANIFEST
from crannog.oci.scan import scan_image
from crannog.oci.source import open_image
from crannog.oci.tar import Member, TarReader, Type
from tests.unit.oci.images import (
    Layout,
    compressed,
    config,
    digest,
    docker_archive,
    entry,
    hard_link,
    layer,
    link,
)

PLAIN = layer(entry("app/", None), entry("app/server.py", b"print()\n"))


def scan(path: Path, limits: Limits = DEFAULT) -> None:
    blobs = Archive(path, limits) if path.is_file() else Directory(path)
    try:
        scan_image(blobs, open_image(blobs, limits=limits), limits=limits)
    finally:
        blobs.close()


def members(data: bytes, limits: Limits = DEFAULT) -> list[Member]:
    return list(TarReader(io.BytesIO(data), "a test", limits))


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("/etc/passwd", "absolute"),
        ("../x", "leads out"),
        ("a/../../x", "leads out"),
        ("a/..", "leads out"),
        ("a" * 300, "longer than a kernel"),
        ("/".join("a" * 300), "longer than a kernel"),
        ("x/" * 2500 + "x", "longer than a kernel"),
    ],
)
def test_a_name_that_leads_elsewhere_is_refused(name: str, match: str) -> None:
    with pytest.raises(Error, match=match):
        members(layer(entry(name, b"x")))


def test_a_hard_link_that_leads_out_is_refused() -> None:
    with pytest.raises(FormatError, match="leads out"):
        members(layer(hard_link("a", "../../etc/passwd")))


def test_a_symbolic_link_may_say_anything_and_leads_nowhere_outside() -> None:
    (found,) = members(layer(link("a", "/../../../etc/shadow")))
    assert found.target == b"/../../../etc/shadow"


def test_a_member_larger_than_the_bound_is_refused_before_it_is_read() -> None:
    info, _ = entry("huge", b"")
    info.size = 1 << 50
    with pytest.raises(TooLarge, match="1125899906842624 bytes"):
        members(info.tobuf(tarfile.GNU_FORMAT))


def test_an_extended_header_larger_than_the_bound_is_refused() -> None:
    data = layer(entry("a", b"x", pax_headers={"comment": "x" * 5000}))
    with pytest.raises(TooLarge, match="extended header"):
        members(data, DEFAULT._replace(extension=1000))


def test_two_names_for_one_member_are_refused() -> None:
    long_name = tarfile.TarInfo("././@LongLink")
    long_name.type, long_name.size = tarfile.GNUTYPE_LONGNAME, 4
    other = layer(entry("b" * 120, b""))  # one extended header with `path`, and a member
    data = long_name.tobuf(tarfile.GNU_FORMAT) + b"abc\0".ljust(512, b"\0") + other
    with pytest.raises(FormatError, match="two long names"):
        members(data)


def test_a_global_header_that_renames_is_refused() -> None:
    buffer = io.BytesIO()
    with tarfile.open(
        fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"path": "x"}
    ) as writer:
        writer.addfile(tarfile.TarInfo("a"))
    with pytest.raises(FormatError, match="global header"):
        members(buffer.getvalue())


def test_data_after_the_end_is_refused() -> None:
    with pytest.raises(FormatError, match=r"after the end|follows the end"):
        members(layer(entry("a", b"x")) + b"hidden".ljust(512, b"\0"))


def test_an_unknown_type_is_refused() -> None:
    with pytest.raises(FormatError, match="unknown type"):
        members(layer(entry("a", type=b"Z")))


def test_devices_and_fifos_are_members_like_others() -> None:
    found = members(
        layer(
            entry("dev/null", type=tarfile.CHRTYPE, devmajor=1, devminor=3),
            entry("dev/sda", type=tarfile.BLKTYPE, devmajor=8, devminor=0),
            entry("pipe", type=tarfile.FIFOTYPE),
        )
    )
    assert [member.type for member in found] == [Type.CHARACTER, Type.BLOCK, Type.FIFO]


def test_a_gnu_sparse_file_is_known_as_one_under_both_names() -> None:
    data = layer(
        entry(
            "GNUSparseFile.0/x",
            b"1\n0\n1\n".ljust(512, b"\0") + b"x",
            pax_headers={
                "GNU.sparse.major": "1",
                "GNU.sparse.minor": "0",
                "GNU.sparse.name": "app/x",
                "GNU.sparse.realsize": "1",
            },
        )
    )
    (found,) = members(data)
    assert found.sparse
    assert (found.name, found.aliases) == (b"app/x", (b"GNUSparseFile.0/x",))


def test_extended_attributes_are_seen() -> None:
    (found,) = members(
        layer(entry("a", b"x", pax_headers={"SCHILY.xattr.security.capability": "\x01"}))
    )
    assert found.xattrs == (b"security.capability",)


def test_a_changed_layer_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "image")
    layout.add([PLAIN])
    name = digest(compressed(PLAIN)).replace(":", "/")
    path = layout.path / "blobs" / name
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match="has digest"):
        scan(layout.path)


def test_a_config_that_lies_about_a_layer_is_refused(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "image")
    layout.add([PLAIN], whole_config=config([layer(entry("other", b"x"))]))
    with pytest.raises(IntegrityError, match="the archive in layer"):
        scan(layout.path)


def test_a_changed_manifest_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "image")
    found = layout.add([PLAIN])
    path = layout.path / "blobs" / found["digest"].replace(":", "/")
    path.write_bytes(path.read_bytes().replace(b'"schemaVersion": 2', b'"schemaVersion": 1'))
    with pytest.raises(IntegrityError, match="has digest"):
        scan(layout.path)


def test_a_decompression_bomb_ends_at_the_bound(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "image")
    layout.add([layer(entry("zeros", bytes(4 << 20)))])
    with pytest.raises(TooLarge, match=r"after decompression|has 4194304 bytes"):
        scan(layout.path, DEFAULT._replace(layer_bytes=1 << 20))


def test_too_many_members_are_refused(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "image")
    layout.add([layer(*(entry(f"f{number}") for number in range(20)))])
    with pytest.raises(TooLarge, match="more than 10 members"):
        scan(layout.path, DEFAULT._replace(members=10))


def test_a_deep_tree_is_refused_and_does_not_end_in_a_recursion(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "image")
    deep = "/".join(["d"] * 199)
    layout.add([layer(entry(deep + "/f", b"1")), layer(entry(".wh..wh..opq"))])
    scan(layout.path)  # as deep as it may be, and hidden again
    other = Layout(tmp_path / "deeper")
    other.add([layer(entry("d/" * 300 + "f", b"1"))])
    with pytest.raises(TooLarge, match="longer than a kernel"):
        scan(other.path)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"\x28\xb5\x2f\xfd" + bytes(20), "zstd"),
        (b"\xfd7zXZ\0" + bytes(20), "xz"),
        (b"BZh9" + bytes(20), "bzip2"),
    ],
)
def test_another_compression_is_refused_by_its_name(
    tmp_path: Path, data: bytes, match: str
) -> None:
    layout = Layout(tmp_path / "image")
    layout.add([data], zipped=False)
    with pytest.raises(Unsupported, match=match):
        scan(layout.path)


def test_a_layer_of_type_zstd_is_refused_with_what_to_do(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "image")
    manifest = {
        "schemaVersion": 2,
        "config": layout.descriptor(
            "application/vnd.oci.image.config.v1+json", json.dumps(config([PLAIN])).encode()
        ),
        "layers": [layout.descriptor("application/vnd.oci.image.layer.v1.tar+zstd", b"x")],
    }
    layout.entries.append(layout.descriptor(MANIFEST, json.dumps(manifest).encode()))
    layout.finish()
    with pytest.raises(Unsupported, match="zstd") as caught:
        scan(layout.path)
    assert "skopeo copy" in caught.value.hint


@pytest.mark.parametrize("cut", [1, 100])
def test_a_cut_gzip_stream_is_refused(tmp_path: Path, cut: int) -> None:
    data = gzip.compress(PLAIN)[:-cut]
    layout = Layout(tmp_path / "image")
    layout.add([data], zipped=False)
    with pytest.raises(FormatError, match=r"cut off|damaged"):
        scan(layout.path)


def test_a_layer_that_is_fetched_from_elsewhere_is_refused(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "image")
    found = layout.descriptor(
        "application/vnd.oci.image.layer.v1.tar", PLAIN, urls=["https://example.org/"]
    )
    manifest = {
        "schemaVersion": 2,
        "config": layout.descriptor(
            "application/vnd.oci.image.config.v1+json", json.dumps(config([PLAIN])).encode()
        ),
        "layers": [found],
    }
    layout.entries.append(layout.descriptor(MANIFEST, json.dumps(manifest).encode()))
    layout.finish()
    with pytest.raises(Unsupported, match="fetched from elsewhere"):
        scan(layout.path)


def test_a_blob_that_is_a_link_or_a_fifo_is_refused(tmp_path: Path) -> None:
    for number, kind in enumerate(("link", "fifo")):
        layout = Layout(tmp_path / str(number))
        layout.add([PLAIN])
        blob = layout.path / "blobs" / digest(compressed(PLAIN)).replace(":", "/")
        blob.unlink()
        if kind == "link":
            blob.symlink_to("/etc/passwd")
        else:
            os.mkfifo(blob)
        with pytest.raises(Error, match=r"cannot read|is no file"):
            scan(layout.path)


def test_a_digest_that_is_a_path_is_refused(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "image")
    found = layout.add([PLAIN])
    found["digest"] = "sha256:../../../../etc/passwd"
    layout.finish()
    with pytest.raises(FormatError, match="no digest"):
        scan(layout.path)


def test_an_archive_member_that_leads_out_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "image.tar"
    listed: list[dict[str, Any]] = [{"Config": "../../etc/passwd", "Layers": []}]
    path.write_bytes(layer(entry("manifest.json", json.dumps(listed).encode())))
    with pytest.raises(FormatError, match="leads out"):
        scan(path)


def test_an_archive_whose_links_go_round_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "image.tar"
    listed = [{"Config": "a.json", "Layers": []}]
    path.write_bytes(
        layer(
            entry("manifest.json", json.dumps(listed).encode()),
            link("a.json", "b.json"),
            link("b.json", "a.json"),
        )
    )
    with pytest.raises(NotFound, match="no member"):
        scan(path)


def test_a_config_of_another_name_is_refused(tmp_path: Path) -> None:
    path = docker_archive(tmp_path / "image.tar", [PLAIN])
    data = path.read_bytes()
    with tarfile.open(path) as reader:
        name = next(info.name for info in reader if info.name.endswith(".json"))
    path.write_bytes(data.replace(b'"os": "linux"', b'"os": "lunix"'))
    with pytest.raises(IntegrityError, match=name[:20]):
        scan(path)


def test_layers_that_are_links_to_one_another_are_read(tmp_path: Path) -> None:
    document = json.dumps(config([PLAIN, PLAIN])).encode()
    name = digest(document).partition(":")[2] + ".json"
    listed = [{"Config": name, "RepoTags": None, "Layers": ["a/layer.tar", "b/layer.tar"]}]
    path = tmp_path / "image.tar"
    path.write_bytes(
        layer(
            entry(name, document),
            entry("a/layer.tar", PLAIN),
            link("b/layer.tar", "../a/layer.tar"),
            entry("manifest.json", json.dumps(listed).encode()),
        )
    )
    scan(path)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (entry("a", b"1"), entry("a", b"2")),
        (entry("a", b"1"), entry("a/", None)),
        (entry("a", b"1"), entry("a/b", b"2")),
        (entry("a/b", b"1"), entry("a", b"2")),
        (entry("a/", None), link("a", "b")),
    ],
)
def test_a_name_that_is_there_twice_in_a_layer_is_refused(
    tmp_path: Path, first: tuple[tarfile.TarInfo, bytes], second: tuple[tarfile.TarInfo, bytes]
) -> None:
    layout = Layout(tmp_path / "image")
    layout.add([layer(first, second)])
    with pytest.raises(FormatError, match="/a is there twice"):
        scan(layout.path)


def test_a_directory_may_be_named_again(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "image")
    layout.add([layer(entry("a/b", b"1"), entry("a/", None), entry("a/c/d", b"1"))])
    scan(layout.path)


def test_documents_of_the_wrong_shape_are_refused(tmp_path: Path) -> None:
    for number, text in enumerate(
        ("[]", "{}", '{"manifests": 5}', '{"manifests": [5]}', "{", '{"manifests": []}', "\xff")
    ):
        layout = Layout(tmp_path / str(number))
        layout.add([PLAIN])
        (layout.path / "index.json").write_bytes(text.encode("latin-1"))
        with pytest.raises(Error):
            scan(layout.path)


def test_a_directory_that_is_no_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="is no image"):
        scan(tmp_path)


def test_an_archive_compressed_as_a_whole_is_refused_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "image.tar.gz"
    path.write_bytes(gzip.compress(layer(entry("manifest.json", b"[]"))))
    with pytest.raises(Unsupported, match="compressed as a whole") as caught:
        scan(path)
    assert "gunzip" in caught.value.hint
