"""`make charts`: packages that helm takes, the same bytes each time."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

import pytest
import yaml
from tools.charts import IMAGES, main, pack, with_default, write_repository

from crannog.errors import FormatError, Misconfigured, StorageFailed
from tests.unit.charts.helm import helm

VALUES = """\
# which
image: ""
level: ""
ports: {client: 1}
test:
  # of the test
  image: ""
  level: node
after: 1
"""


def test_a_default_at_the_top_is_another() -> None:
    assert with_default(VALUES, "image", '"x/y"').startswith('# which\nimage: "x/y"\nlevel: ""\n')


def test_a_default_in_a_mapping_is_another_and_no_other_of_that_name() -> None:
    found = with_default(VALUES, "image", "z", within="test")
    assert found == VALUES.replace('  image: ""', "  image: z")


@pytest.mark.parametrize(
    ("key", "within"),
    [("images", ""), ("test", ""), ("after", "test"), ("level", "tests")],
)
def test_a_default_without_a_place_is_refused(key: str, within: str) -> None:
    with pytest.raises(Misconfigured):
        with_default(VALUES, key, "1", within=within)


def test_the_same_files_make_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_repository(tmp_path / name, registry="r", epoch=1_000_000_000)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_the_index_names_each_package_by_its_digest(tmp_path: Path) -> None:
    packages = write_repository(tmp_path, registry="r", epoch=0)
    entries = yaml.safe_load((tmp_path / "index.yaml").read_text())["entries"]
    assert set(entries) == set(IMAGES)
    for package in packages:
        (entry,) = entries[package.name]
        assert entry["urls"] == [package.file_name]
        data = (tmp_path / package.file_name).read_bytes()
        assert entry["digest"] == hashlib.sha256(data).hexdigest()


def test_a_package_holds_the_chart_and_the_registry(tmp_path: Path) -> None:
    (package,) = [
        each
        for each in write_repository(tmp_path, registry="r:5000/x", tag="1.2", epoch=7)
        if each.name == "sgxdevplugin"
    ]
    with tarfile.open(fileobj=io.BytesIO(package.data)) as archive:
        names = archive.getnames()
        values = archive.extractfile("sgxdevplugin/values.yaml")
        assert values is not None
        found = yaml.safe_load(values.read())
        assert {member.mtime for member in archive} == {7}
    assert names[0] == "sgxdevplugin/Chart.yaml"
    assert "sgxdevplugin/values.schema.json" in names
    assert found["image"] == "r:5000/x/sgx-plugin:1.2"
    assert found["test"]["image"] == "r:5000/x/python:1.2"


def test_helm_takes_the_packages(tmp_path: Path) -> None:
    defaults = {"sgxdevplugin": {"simulation": "true"}, "cas": {"minimumLevel": "simulation"}}
    for package in write_repository(tmp_path, registry="r", defaults=defaults, epoch=0):
        path = str(tmp_path / package.file_name)
        assert helm("lint", "--strict", path).returncode == 0
        done = helm("template", package.name, path, "--kube-version", "1.34.0")
        assert done.returncode == 0, done.stderr
        assert ("--simulation" in done.stdout) == (package.name == "sgxdevplugin")


@pytest.mark.parametrize("given", ["cas", "cas.x", "cas=1", "=1", "cas.image=a\nb: c"])
def test_an_ill_formed_default_is_refused(
    given: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--out", str(tmp_path), "--set", given]) != 0
    assert "expected CHART.KEY=VALUE" in capsys.readouterr().err


def test_an_unknown_chart_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--out", str(tmp_path), "--set", "web.image=x"]) != 0
    assert "there is no chart web" in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageFailed, match="repository"):
        write_repository(tmp_path / "file" / "below", epoch=0)


@pytest.mark.parametrize("text", ["name: [", "[]", "name: cas\n", "name: web\nversion: 1.0.0\n"])
def test_an_ill_formed_chart_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "Chart.yaml").write_text(text)
    (tmp_path / "values.yaml").write_text("")
    with pytest.raises(FormatError):
        pack(tmp_path, registry="", tag="", defaults={}, epoch=0)
