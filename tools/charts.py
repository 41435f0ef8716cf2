"""`python -m tools.charts`: the charts as a Helm repository that any web server can serve.

What helm itself would write, but the same bytes whenever the same files are packed: fixed order,
owner, mode and time. The registry of the images is written into the packages' values, so that the
charts install without a value where their images were pushed.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import re
import sys
import tarfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from images.build import source_date_epoch

from crannog.cli.ui import ui
from crannog.errors import Error, FormatError, Misconfigured, StorageFailed

CHARTS = Path(__file__).parent.parent / "charts"
IMAGES = {"cas": "cas", "las": "las", "sgxdevplugin": "sgx-plugin"}
TEST_IMAGE = "python"


@dataclass(frozen=True, slots=True)
class Package:
    """One chart, packed.

    Attributes:
        name: the chart's.
        version: the chart's.
        metadata: what its Chart.yaml says.
        data: the `.tgz`.
    """

    name: str
    version: str
    metadata: Mapping[str, object]
    data: bytes

    @property
    def file_name(self) -> str:
        """What helm calls it."""
        return f"{self.name}-{self.version}.tgz"


def with_default(text: str, key: str, value: str, *, within: str = "") -> str:
    """The text of a values.yaml with another default for one key; comments stay.

    Args:
        text: of the file.
        key: a key at the top, or one of the mapping `within`.
        value: as YAML.
        within: a key at the top that holds a mapping, or "".

    Raises:
        Misconfigured: there is no such key with its value on the same line.
    """
    place = f"{within}.{key}" if within else key
    start, end = 0, len(text)
    if within:
        found = re.search(rf"^{re.escape(within)}:\n((?:[ #].*\n|\n)*)", text, re.MULTILINE)
        if found is None:
            raise Misconfigured(f"values.yaml has no mapping {within}, expected one for {place}")
        start, end = found.span(1)
    indent = "  " if within else ""
    line = re.compile(rf"^{indent}{re.escape(key)}: *(\S.*)$", re.MULTILINE)
    lines = list(line.finditer(text, start, end))
    if len(lines) != 1:
        raise Misconfigured(
            f"values.yaml has no {place} with its value on the same line",
            hint="name a value of the chart: helm show values charts/NAME",
        )
    return f"{text[: lines[0].start()]}{indent}{key}: {value}{text[lines[0].end() :]}"


def pack(
    directory: Path, *, registry: str, tag: str, defaults: Mapping[str, str], epoch: int
) -> Package:
    """The chart of a directory.

    Args:
        directory: with Chart.yaml and values.yaml.
        registry: what stands before the images' names, without a slash at the end; "" leaves the
            values as they are.
        tag: of the images.
        defaults: further defaults, by `KEY` or `KEY.KEY`; as YAML.
        epoch: the time of every file, seconds since 1970.

    Raises:
        StorageFailed: a file cannot be read.
        FormatError: Chart.yaml is not one.
        Misconfigured: a default has no place in values.yaml.
    """
    try:
        files = {
            path.relative_to(directory).as_posix(): path.read_bytes()
            for path in directory.rglob("*")
            if path.is_file() and not path.name.startswith(".")
        }
    except OSError as error:
        raise StorageFailed(f"chart {directory}: {error.strerror}") from error
    metadata = _metadata(files, directory)
    name, version = str(metadata["name"]), str(metadata["version"])
    values = files["values.yaml"].decode("utf-8")
    if registry:
        values = with_default(values, "image", f'"{registry}/{IMAGES[name]}:{tag}"')
        test = f'"{registry}/{TEST_IMAGE}:{tag}"'
        values = with_default(values, "image", test, within="test")
    for place, value in defaults.items():
        within, _, key = place.rpartition(".")
        values = with_default(values, key, value, within=within)
    files["values.yaml"] = values.encode("utf-8")
    order = sorted(files, key=lambda path: (path != "Chart.yaml", path))
    stream = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=stream, mode="wb", mtime=epoch, filename="") as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for path in order:
            entry = tarfile.TarInfo(f"{name}/{path}")
            entry.size, entry.mtime, entry.mode = len(files[path]), epoch, 0o644
            archive.addfile(entry, io.BytesIO(files[path]))
    return Package(name, version, metadata, stream.getvalue())


def _metadata(files: Mapping[str, bytes], directory: Path) -> Mapping[str, object]:
    try:
        found = yaml.safe_load(files["Chart.yaml"])
    except (KeyError, yaml.YAMLError) as error:
        raise FormatError(f"chart {directory}: Chart.yaml is not there, or no YAML") from error
    if (
        not isinstance(found, dict)
        or found.get("name") not in IMAGES
        or not isinstance(found.get("version"), str)
        or "values.yaml" not in files
    ):
        raise FormatError(f"chart {directory}: expected a name of {sorted(IMAGES)} and a version")
    return found


def index(packages: Sequence[Package], *, url: str, epoch: int) -> str:
    """The text of index.yaml.

    Args:
        packages: what lies beside it.
        url: where they lie, if not beside it; "" for that.
        epoch: when they were made, seconds since 1970.
    """
    made = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(epoch))
    entries = {
        package.name: [
            {
                **package.metadata,
                "created": made,
                "digest": hashlib.sha256(package.data).hexdigest(),
                "urls": [f"{url.rstrip('/')}/{package.file_name}" if url else package.file_name],
            }
        ]
        for package in packages
    }
    return yaml.safe_dump(
        {"apiVersion": "v1", "entries": entries, "generated": made}, sort_keys=True
    )


def write_repository(
    out: Path,
    *,
    registry: str = "",
    tag: str = "latest",
    defaults: Mapping[str, Mapping[str, str]] | None = None,
    url: str = "",
    epoch: int,
) -> list[Package]:
    """Pack every chart into `out` and write the index beside; what was packed.

    Args:
        out: made where it is not there; what else lies in it stays.
        registry: see `pack`.
        tag: see `pack`.
        defaults: by the chart's name; see `pack`.
        url: see `index`.
        epoch: see `pack`.

    Raises:
        Misconfigured: `defaults` name a chart that is not there.
        StorageFailed: `out` cannot be written.
    """
    chosen = defaults or {}
    unknown = sorted(set(chosen) - set(IMAGES))
    if unknown:
        raise Misconfigured(f"there is no chart {unknown[0]}, expected one of {sorted(IMAGES)}")
    packages = [
        pack(CHARTS / name, registry=registry, tag=tag, defaults=chosen.get(name, {}), epoch=epoch)
        for name in sorted(IMAGES)
    ]
    try:
        out.mkdir(parents=True, exist_ok=True)
        for package in packages:
            (out / package.file_name).write_bytes(package.data)
        (out / "index.yaml").write_text(index(packages, url=url, epoch=epoch), encoding="utf-8")
    except OSError as error:
        raise StorageFailed(f"repository {out}: {error.strerror}") from error
    return packages


def main(arguments: Sequence[str]) -> int:
    """The command; its exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.charts", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--out", type=Path, default=CHARTS.parent / "build" / "charts")
    parser.add_argument(
        "--registry",
        default="",
        help="what stands before the images' names, such as registry.example/crannog; without it"
        " every installation has to name its image",
    )
    parser.add_argument("--tag", default="latest", help="of the images (default: latest)")
    parser.add_argument("--url", default="", help="where the packages will be, if not beside it")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="CHART.KEY=VALUE",
        help="another default for a value: sgxdevplugin.simulation=true; repeatable",
    )
    options = parser.parse_args(arguments)
    ui.program = "python -m tools.charts"
    try:
        packages = write_repository(
            options.out,
            registry=options.registry.rstrip("/"),
            tag=options.tag,
            defaults=_defaults(options.set),
            url=options.url,
            epoch=source_date_epoch(),
        )
    except Error as error:
        return ui.error(error, doing="the charts cannot be packed")
    for package in packages:
        ui.result(str(options.out / package.file_name))
    if not options.registry:
        ui.note("no --registry: every installation has to name its image (--set image=…)")
    return 0


def _defaults(given: Sequence[str]) -> dict[str, dict[str, str]]:
    chosen: dict[str, dict[str, str]] = {}
    for text in given:
        place, equals, value = text.partition("=")
        chart, dot, key = place.partition(".")
        if not equals or not dot or not key or "\n" in value:
            raise Misconfigured(f"--set {text!r}, expected CHART.KEY=VALUE")
        chosen.setdefault(chart, {})[key] = value
    return chosen


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
