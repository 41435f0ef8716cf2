"""Which image is meant, where a layout or archive holds several."""

from __future__ import annotations

from pathlib import Path

import pytest

from crannog.errors import Misconfigured, NotFound
from crannog.oci.blobs import Archive, Directory
from crannog.oci.documents import parse_platform
from crannog.oci.model import INDEX, REFERENCE
from crannog.oci.scan import scan_image
from crannog.oci.source import open_image
from tests.unit.oci.images import Layout, config, docker_archive, entry, layer

PLAIN = layer(entry("app/server.py", b"print()\n"))
OTHER = layer(entry("app/server.py", b"print(2)\n"))
ARM = {**config([OTHER]), "architecture": "arm64", "variant": "v8"}


def several(path: Path) -> Layout:
    layout = Layout(path)
    layout.add([PLAIN], platform={"os": "linux", "architecture": "amd64"})
    layout.add(
        [OTHER],
        whole_config=ARM,
        platform={"os": "linux", "architecture": "arm64", "variant": "v8"},
    )
    layout.add([PLAIN], platform={"os": "unknown", "architecture": "unknown"})
    return layout


def test_one_image_needs_no_choice(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "image")
    layout.add([PLAIN], annotations={REFERENCE: "app:1"})
    image = open_image(Directory(layout.path))
    assert image.names == ("app:1",)
    assert str(image.platform) == "linux/amd64"


def test_an_index_for_several_platforms_needs_one(tmp_path: Path) -> None:
    layout = several(tmp_path / "image")
    with pytest.raises(Misconfigured, match="2 images for different platforms") as caught:
        open_image(Directory(layout.path))
    assert "linux/amd64, linux/arm64/v8" in caught.value.hint
    image = open_image(Directory(layout.path), platform=parse_platform("linux/arm64"))
    assert str(image.platform) == "linux/arm64/v8"


def test_a_nested_index_is_followed(tmp_path: Path) -> None:
    layout = several(tmp_path / "image")
    data = (layout.path / "index.json").read_bytes()
    layout.entries = [layout.descriptor(INDEX, data, annotations={REFERENCE: "app:1"})]
    layout.finish()
    image = open_image(
        Directory(layout.path), reference="app:1", platform=parse_platform("linux/amd64")
    )
    assert str(image.platform) == "linux/amd64"


def test_a_platform_that_is_not_there_is_refused(tmp_path: Path) -> None:
    layout = several(tmp_path / "image")
    with pytest.raises(Misconfigured, match="no image for linux/s390x"):
        open_image(Directory(layout.path), platform=parse_platform("linux/s390x"))


def test_a_single_image_for_another_platform_is_refused(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "image")
    layout.add([PLAIN])
    with pytest.raises(Misconfigured, match="is for linux/amd64, expected linux/arm64"):
        open_image(Directory(layout.path), platform=parse_platform("linux/arm64"))


def test_several_names_need_one(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "image")
    layout.add([PLAIN], annotations={REFERENCE: "app:1"})
    layout.add([OTHER], annotations={REFERENCE: "app:2"})
    with pytest.raises(Misconfigured, match="holds 2 images") as caught:
        open_image(Directory(layout.path))
    assert "app:1, app:2" in caught.value.hint
    assert open_image(Directory(layout.path), reference="app:2").names == ("app:2",)
    with pytest.raises(NotFound, match="no image app:3"):
        open_image(Directory(layout.path), reference="app:3")


def test_an_image_for_windows_is_refused(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "image")
    layout.add([PLAIN], whole_config={**config([PLAIN]), "os": "windows"})
    with pytest.raises(Misconfigured, match="expected one for linux"):
        open_image(Directory(layout.path))


def test_what_docker_save_wrote_is_read(tmp_path: Path) -> None:
    path = docker_archive(tmp_path / "image.tar", [PLAIN, OTHER])
    blobs = Archive(path)
    image = open_image(blobs, reference="app:1")
    scan = scan_image(blobs, image)
    assert [name for name, _ in scan.union.walk()] == [b"", b"app", b"app/server.py"]
    node = scan.union.lookup(b"app/server.py")
    assert node is not None
    assert node.place.layer == 1
    blobs.close()
