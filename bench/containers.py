"""Containers: from `run` to the first reply over HTTP, and how large the images are.

Of the images that `make images` made, with each engine that has them. Variants are interleaved; the
baseline is the plain base image of the same run.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from images.build_context import write_context
from images.build_engine import Engine, Image, find_engine

from bench.report import Row
from bench.tools import CannotMeasure, run_fspf
from crannog.errors import Error
from crannog.testing.platform import DevelopmentPlatform

ROUNDS = 11
ENGINES = ("docker", "podman")
IMAGES = ("launcher", "python", "cas", "las")
SERVER = """\
from http.server import BaseHTTPRequestHandler, HTTPServer


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"hello")


HTTPServer(("0.0.0.0", 8080), Handler).serve_forever()
"""
_HARDENED = ("--cap-drop=all", "--security-opt", "no-new-privileges", "--read-only")
_PATIENCE = 60.0


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to start the server: options of `run`, the image, its command."""

    options: tuple[str, ...]
    image: str
    command: tuple[str, ...] = ("python3", "/app/server.py")


def containers() -> list[Row]:
    """Rows of every engine here that has the images."""
    rows: list[Row] = []
    reasons: list[str] = []
    for name in ENGINES:
        try:
            engine = find_engine(name)
            images = {image: engine.image(f"crannog/{image}") for image in IMAGES}
        except Error as error:
            reasons.append(error.message)
            continue
        rows += _sizes(engine, images) + _starts(engine, images)
    if not rows:
        raise CannotMeasure("; ".join(reasons) + " (make images)")
    return rows


def _sizes(engine: Engine, images: dict[str, Image]) -> list[Row]:
    base = engine.image(_base_name(images["python"]))
    rows = [Row(f"{engine.program}: size of the base image", base.size / 1e6, "MB")]
    for name, image in images.items():
        against, ratio = ("base", image.size / base.size) if name == "python" else ("", 0.0)
        rows.append(
            Row(f"{engine.program}: size of crannog/{name}", image.size / 1e6, "MB", against, ratio)
        )
    return rows


def _starts(engine: Engine, images: dict[str, Image]) -> list[Row]:
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as undo:
        directory = Path(name)
        platform = undo.enter_context(DevelopmentPlatform(directory, listen="0.0.0.0"))
        platform.attest()
        variants = _variants(engine, images, directory, platform, undo)
        taken: dict[str, list[float]] = {title: [] for title in variants}
        for turn in range(ROUNDS + 1):
            for title, variant in variants.items():
                milliseconds = _first_reply(engine, variant)
                if turn:  # the first warms the engine's and the page cache
                    taken[title].append(milliseconds)
    median = {title: statistics.median(times) for title, times in taken.items()}
    plain = median["plain image"]
    return [
        Row(
            f"{engine.program}: to the first reply, {title}",
            value,
            "ms",
            "" if title == "plain image" else "plain image",
            0.0 if title == "plain image" else value / plain,
        )
        for title, value in median.items()
    ]


def _variants(
    engine: Engine,
    images: dict[str, Image],
    directory: Path,
    platform: DevelopmentPlatform,
    undo: contextlib.ExitStack,
) -> dict[str, Variant]:
    plain = directory / "plain"
    plain.mkdir()
    (plain / "server.py").write_text(SERVER)
    keytag = _encrypt(plain, directory / "encrypted")
    base = _base_name(images["python"])
    on_base = undo.enter_context(_image(engine, "plain", base, {"rootfs/app": plain}))
    curated = undo.enter_context(_image(engine, "curated", "crannog/python", {"rootfs/app": plain}))
    encrypted = undo.enter_context(
        _image(engine, "encrypted", "crannog/python", {"rootfs": directory / "encrypted"})
    )
    launcher = undo.enter_context(_launcher_directory(engine, directory))
    mounted = ("--volume", f"{launcher}:/run/crannog/launcher:ro")
    entry = ("/run/crannog/launcher/run", "--", "python3", "/app/server.py")
    attested = _attested(engine, platform)
    _create_session(engine, platform, "bench-plain", curated, "")
    _create_session(engine, platform, "bench-encrypted", encrypted, keytag)
    _create_session(engine, platform, "bench-node", on_base, "", (*mounted,), entry)
    return {
        "plain image": Variant((), on_base),
        "curated image": Variant((), curated),
        "curated image, attested": Variant(attested("bench-plain"), curated, ("python3",)),
        "curated image, attested, encrypted": Variant(
            attested("bench-encrypted"), encrypted, ("python3",)
        ),
        "node launcher": Variant(mounted, on_base, entry),
        "node launcher, attested": Variant(
            (*mounted, *attested("bench-node")), on_base, (*entry[:3],)
        ),
    }


class _Attested:
    """The options that make a container attest to the platform."""

    def __init__(self, gateway: str, platform: DevelopmentPlatform) -> None:
        self._values = {
            "SCONE_CAS_ADDR": f"{gateway}:{platform.cas_enclave.rpartition(':')[2]}",
            "SCONE_LAS_ADDR": f"{gateway}:{platform.las.rpartition(':')[2]}",
            "SCONE_MODE": "sim",
        }

    def __call__(self, session: str) -> tuple[str, ...]:
        values = self._values | {"SCONE_CONFIG_ID": f"{session}/application"}
        return tuple(
            part for name, value in values.items() for part in ("--env", f"{name}={value}")
        )


def _attested(engine: Engine, platform: DevelopmentPlatform) -> _Attested:
    template = (
        "{{range .Subnets}}{{.Gateway}}{{end}}"
        if engine.is_podman
        else "{{range .IPAM.Config}}{{.Gateway}}{{end}}"
    )
    network = "podman" if engine.is_podman else "bridge"
    done = engine.call("network", "inspect", "--format", template, network)
    if done.returncode != 0 or not done.stdout.strip():
        raise CannotMeasure(f"{engine.program} has no network {network} with a gateway")
    return _Attested(done.stdout.strip(), platform)


def _create_session(
    engine: Engine,
    platform: DevelopmentPlatform,
    name: str,
    image: str,
    keytag: str,
    options: tuple[str, ...] = (),
    command: tuple[str, ...] = ("python3",),
) -> None:
    done = engine.call(
        *("run", "--rm", *_limits(engine), "--env", "SCONE_HASH=1", *options, image, *command)
    )
    if done.returncode != 0:
        raise CannotMeasure(f"{image} prints no measurement: {done.stderr.strip()}")
    text = f"""\
name: {name}
version: "0.2"
services:
   - name: application
     mrenclaves: [{done.stdout.strip()}]
     command: python3 /app/server.py
     pwd: /
"""
    if keytag:
        fields = keytag.split()
        text += (
            f"     fspf_path: /fspf.pb\n     fspf_key: {fields[10]}\n     fspf_tag: {fields[8]}\n"
        )
    platform.create_session(text)


def _encrypt(plain: Path, image: Path) -> str:
    (image / "app").mkdir(parents=True)
    fspf = str(image / "fspf.pb")
    run_fspf("create", fspf)
    run_fspf("addr", fspf, "/", "--not-protected", "--kernel", "/")
    run_fspf("addr", fspf, "/app", "--encrypted", "--kernel", "/app")
    run_fspf("addf", fspf, "/app", str(plain), str(image / "app"))
    return run_fspf("encrypt", fspf)


@contextlib.contextmanager
def _image(engine: Engine, name: str, base: str, trees: dict[str, Path]) -> Iterator[str]:
    """An image for the time of a `with` block; its name."""
    name = f"crannog-bench-{name}"
    with tempfile.TemporaryDirectory() as sources:
        Path(sources, "Containerfile").write_text(
            f"FROM {base}\nCOPY rootfs/ /\nEXPOSE 8080\nENTRYPOINT []\n"
        )
        engine.build(
            name,
            lambda stream: write_context(stream, Path(sources), dict(trees), epoch=0),
            arguments={},
            labels={},
            epoch=0,
        )
    try:
        yield name
    finally:
        engine.call("image", "rm", "--force", name)


@contextlib.contextmanager
def _launcher_directory(engine: Engine, directory: Path) -> Iterator[Path]:
    """The launcher's directory, copied out of its image as a node's operator does."""
    container = engine.call("create", "crannog/launcher", "x").stdout.strip()
    try:
        target = directory / "launcher"
        done = engine.call("cp", f"{container}:/crannog", str(target))
        if done.returncode != 0:
            raise CannotMeasure(f"crannog/launcher cannot be copied: {done.stderr.strip()}")
        yield target
    finally:
        engine.call("rm", "--force", container)


def _first_reply(engine: Engine, variant: Variant) -> float:
    """Milliseconds from the engine's start to the first reply; the container is removed after."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    start = time.perf_counter()
    done = engine.call(
        *("run", "--detach", *_HARDENED, *_limits(engine)),
        *("--publish", f"127.0.0.1:{port}:8080", *variant.options, variant.image),
        *variant.command,
    )
    container = done.stdout.strip()
    try:
        if done.returncode != 0:
            raise CannotMeasure(f"{variant.image} does not start: {done.stderr.strip()}")
        while not _replies(port):
            if time.perf_counter() - start > _PATIENCE:
                said = engine.call("logs", container).stderr.strip()
                raise CannotMeasure(f"{variant.image} does not reply: {said}")
            time.sleep(0.002)
        return (time.perf_counter() - start) * 1000
    finally:
        if container:
            engine.call("rm", "--force", "--volumes", container)


def _replies(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/")
        return connection.getresponse().read() == b"hello"
    except (OSError, http.client.HTTPException):
        return False  # an engine's proxy takes the connection before the server listens
    finally:
        connection.close()


def _limits(engine: Engine) -> tuple[str, ...]:
    # Podman asks for more than some machines allow, and then starts nothing.
    if not engine.is_podman:
        return ()
    return ("--ulimit", "nofile=1024:4096", "--ulimit", "nproc=1024:2048")


def _base_name(image: Image) -> str:
    name = image.labels.get("org.opencontainers.image.base.name", "")
    if not name:
        raise CannotMeasure(f"{image.name} does not say what it is built on")
    return name
