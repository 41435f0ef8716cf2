"""`python -m images.build`: the five images, from a base image and the files of this checkout.

    crannog/launcher   /crannog alone, for `COPY --from` and for images without anything else
    crannog/python     the base image with a `python3` that is the launcher, and with the CLI
    crannog/cas        the CAS: launcher directory and services directory, nothing else
    crannog/las        the LAS, likewise
    crannog/sgx-plugin the Kubernetes device plugin, likewise, with gRPC

The launcher's Python and libraries are those of the base image: it is exported, extracted, and
`images.artifacts` makes its trees from it. ADR 0961 says what is bit-identical when built twice.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from crannog import __version__
from crannog.cli.ui import ui
from crannog.errors import Error, Misconfigured, NotFound
from crannog.wire import Json, parse_hex
from images.build_context import write_context
from images.build_engine import Engine, Image, find_engine
from images.build_export import extract

PROJECT = Path(__file__).parent.parent
DEFAULT_BASE = "docker.io/library/python:3.11-slim-bookworm"
_EPOCH = 946_684_800  # 2000-01-01; layers are to depend on content, not on the commit


@dataclass(frozen=True, slots=True)
class Recipe:
    """One image: its directory under images/, where the artifacts lie in its context."""

    name: str
    title: str
    trees: tuple[tuple[str, str | None], ...]  # name in the context, artifact (None: empty)


RECIPES = (
    Recipe("launcher", "Crannog's launcher, /crannog", (("rootfs/crannog", "launcher"),)),
    Recipe(
        "python",
        "Python whose python3 is Crannog's launcher",
        (
            ("launcher/crannog", "launcher"),
            ("services/opt/crannog", "services"),
            ("front", "front"),
        ),
    ),
    Recipe(
        "cas",
        "Crannog's configuration and attestation service",
        (("rootfs/opt/crannog", "services"), ("state/var/lib/crannog", None)),
    ),
    Recipe(
        "las",
        "Crannog's local attestation service",
        (("rootfs/opt/crannog", "services"), ("state/var/lib/crannog", None)),
    ),
    Recipe(
        "sgx-plugin",
        "Crannog's device plugin for Kubernetes",
        (("rootfs/opt/crannog", "services"), ("grpc/opt/crannog", "kubernetes")),
    ),
)
NAMES = tuple(recipe.name for recipe in RECIPES)
_ON_LAUNCHER = frozenset({"cas", "las", "sgx-plugin"})


def build_images(
    engine_name: str,
    *,
    base: str,
    artifacts: Path,
    prefix: str = "crannog/",
    only: Sequence[str] = NAMES,
    fresh: bool = False,
) -> list[Image]:
    """Build the images named in `only` from artifacts that are there; says so on stderr.

    Args:
        engine_name: `docker` or `podman`.
        base: the image that `python` is built on.
        artifacts: what `images.artifacts` made: `launcher`, `services`, `kubernetes`, `front`.
        prefix: what stands before each image's name; `cas`, `las` and `sgx-plugin` are built on
            PREFIXlauncher.
        only: some of `NAMES`.
        fresh: take no layer of an earlier build.

    Raises:
        Unavailable: no engine of that name answers.
        NotFound: the artifacts are not complete, or there is no launcher's image to build on.
        Misconfigured: that image is of another launcher.
        BuildFailed: the engine refused one.
    """
    engine = find_engine(engine_name)
    digest = launcher_digest(artifacts)
    if "launcher" not in only and not _ON_LAUNCHER.isdisjoint(only):
        _check_launcher(engine, f"{prefix}launcher", digest)
    epoch = source_date_epoch()
    labels = _labels(digest, epoch)
    built = []
    for recipe in RECIPES:
        if recipe.name not in only:
            continue
        name = prefix + recipe.name
        ui.note(f"building {name}")
        trees = {place: artifacts / tree if tree else None for place, tree in recipe.trees}
        sources = PROJECT / "images" / recipe.name
        built.append(
            engine.build(
                name,
                lambda stream, sources=sources, trees=trees: write_context(  # type: ignore[misc]
                    stream, sources, trees, epoch=epoch
                ),
                arguments=_arguments(recipe, base, prefix),
                labels=labels | _own_labels(recipe, base),
                epoch=epoch,
                fresh=fresh,
            )
        )
    return built


def _check_launcher(engine: Engine, name: str, digest: str) -> None:
    """What is built on the launcher's image: it has to be of these artifacts."""
    found = engine.image(name).labels.get("crannog.launcher-digest", "")
    if found != digest:
        raise Misconfigured(
            f"{name} is of launcher {found or 'unknown'}, expected {digest}",
            hint="build it as well: --only launcher,cas,las,sgx-plugin",
        )


def make_from_base(engine: Engine, base: str, out: Path) -> None:
    """Export `base` and have the artifacts made from its Python and libraries, in `out`."""
    # It needs a compiler and the locked wheels, and is of no use where artifacts are given.
    from images.artifacts import make_artifacts

    engine.base(base, ui.note)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".root-") as name:
        root = Path(name)
        ui.note(f"exporting {base}")
        with engine.exported(base) as stream:
            extract(stream, root)
        ui.note("making the launcher, services and front")
        make_artifacts(root, out)


def launcher_digest(artifacts: Path) -> str:
    """The digest that the launcher's directory holds: 64 hex digits.

    Raises:
        NotFound: the artifacts are not complete.
        FormatError: the file holds something else.
    """
    for tree in ("launcher", "services", "kubernetes", "front"):
        if not (artifacts / tree).exists():
            raise NotFound(
                f"artifacts {artifacts}: there is no {tree}",
                hint=f"python -m images.artifacts --out {artifacts}, or leave --artifacts out",
            )
    try:
        text = (artifacts / "launcher" / "digest").read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise NotFound(f"artifacts {artifacts}: launcher/digest cannot be read") from error
    return parse_hex(text, 32, "launcher/digest").hex()


def source_date_epoch() -> int:
    """The time of every file, and of Podman's images: $SOURCE_DATE_EPOCH, else 2000-01-01.

    Raises:
        Misconfigured: the variable is not a number of seconds.
    """
    given = os.environ.get("SOURCE_DATE_EPOCH", "")
    if not given:
        return _EPOCH
    if not given.isascii() or not given.isdecimal() or len(given) > 10:
        raise Misconfigured(
            f"SOURCE_DATE_EPOCH is {given!r}, expected a number of seconds since 1970"
        )
    return int(given)


def main(arguments: Sequence[str]) -> int:
    """The command; its exit status."""
    options = _parser().parse_args(arguments)
    ui.program = "python -m images.build"
    try:
        return _run(options)
    except Error as error:
        return ui.error(error, doing="the images cannot be built")
    except KeyboardInterrupt:
        ui.note("interrupted")
        return 130


def _run(options: argparse.Namespace) -> int:
    unknown = [name for name in options.only if name not in NAMES]
    if unknown:
        raise Misconfigured(
            f"--only names {unknown[0]!r}, expected some of {', '.join(NAMES)}, comma separated"
        )
    engine = find_engine(options.engine)
    artifacts = options.artifacts
    if artifacts is None:
        artifacts = PROJECT / "build" / "images"
        make_from_base(engine, options.base, artifacts)
    elif not (artifacts / "launcher" / "digest").exists():
        make_from_base(engine, options.base, artifacts)
    elif "python" in options.only:
        engine.base(options.base, ui.note)
    built = build_images(
        options.engine,
        base=options.base,
        artifacts=artifacts,
        prefix=options.prefix,
        only=options.only,
        fresh=options.no_cache,
    )
    _print(options, engine, artifacts, built)
    return 0


def _print(
    options: argparse.Namespace, engine: Engine, artifacts: Path, built: list[Image]
) -> None:
    digest = launcher_digest(artifacts)
    if options.json:
        images: list[Json] = [
            {
                "name": image.name,
                "id": image.image_id,
                "size": image.size,
                "layers": list(image.layers),
            }
            for image in built
        ]
        ui.json(
            {
                "engine": engine.program,
                "base": options.base,
                "launcher_digest": digest,
                "source_date_epoch": source_date_epoch(),
                "images": images,
            }
        )
        return
    width = max((len(image.name) for image in built), default=0)
    for image in built:
        ui.result(f"{image.name:{width}}  {image.size / 1e6:7.1f} MB  {image.image_id}")
    ui.result(f"launcher digest: {digest}")


def _arguments(recipe: Recipe, base: str, prefix: str) -> dict[str, str]:
    if recipe.name == "python":
        return {"BASE": base}
    return {"LAUNCHER": f"{prefix}launcher"} if recipe.name in _ON_LAUNCHER else {}


def _labels(digest: str, epoch: int) -> dict[str, str]:
    """What all images are labelled with: of the checkout, and the launcher's digest."""
    committed = _git("log", "-1", "--format=%ct")
    created = epoch if epoch != _EPOCH or not committed.isdecimal() else int(committed)
    labels = {
        "org.opencontainers.image.version": __version__,
        "org.opencontainers.image.created": time.strftime(
            "%Y-%m-%dT%H:%M:%SZ", time.gmtime(created)
        ),
        "org.opencontainers.image.licenses": "Apache-2.0",
        "crannog.launcher-digest": digest,
    }
    if revision := _revision():
        labels["org.opencontainers.image.revision"] = revision
    return labels


def _own_labels(recipe: Recipe, base: str) -> dict[str, str]:
    title = {"org.opencontainers.image.title": recipe.title}
    if recipe.name == "python":
        return title | {"org.opencontainers.image.base.name": base}
    return title


def _revision() -> str:
    """The commit that this is built from, with `-modified` where files differ; "" without git."""
    commit = _git("rev-parse", "HEAD")
    return f"{commit}-modified" if commit and _git("status", "--porcelain") else commit


def _git(*arguments: str) -> str:
    with contextlib.suppress(OSError):
        done = subprocess.run(
            ["git", "-C", str(PROJECT), *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode == 0:
            return done.stdout.strip()
    return ""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m images.build", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--engine", default="docker", help="docker or podman (default: docker)")
    parser.add_argument(
        "--base",
        default=DEFAULT_BASE,
        help=f"a Debian image with python3 (default: {DEFAULT_BASE})",
    )
    parser.add_argument(
        "--prefix", default="crannog/", help="before each image's name (default: crannog/)"
    )
    parser.add_argument(
        "--artifacts",
        type=Path,
        help="use what `python -m images.artifacts` made there; made there if it is not",
    )
    parser.add_argument(
        "--only",
        type=lambda text: text.split(","),
        default=list(NAMES),
        help=f"some of {','.join(NAMES)}",
    )
    parser.add_argument("--no-cache", action="store_true", help="take no layer of an earlier build")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
