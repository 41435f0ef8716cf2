"""The programs that a cluster is made of: those to build, those that Debian's packages bring.

Built from the Go module in `programs/` alone, whose go.sum fixes every byte of it; kept in
`$XDG_CACHE_HOME/crannog/cluster/KEY` (~/.cache), where KEY is the digest of the module's files, so
that a change builds anew and leaves what another checkout uses.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from crannog.errors import Unavailable
from tests.cluster.local.settings import PAUSE

SOURCES = Path(__file__).parent / "programs"
KUBERNETES = "k8s.io/kubernetes"
HELM = "helm.sh/helm/v3"
COMPONENTS = (
    "kube-apiserver",
    "kube-controller-manager",
    "kube-proxy",
    "kube-scheduler",
    "kubectl",
    "kubelet",
)
OLDEST_GO = (1, 24)
CNI = (Path("/usr/lib/cni"), Path("/opt/cni/bin"))
# Program or file, and the Debian package that brings it.
PACKAGES = {
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "etcd": "etcd-server",
    "docker-registry": "docker-registry",
    "nft": "nftables",
    "iptables": "iptables",
    "conntrack": "conntrack",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "unshare": "util-linux",
    "mount": "mount",
}
SAY_EVERY = 20.0  # seconds


def why_not() -> str:
    """Why there can be no local cluster here, and what would help; "" where there can."""
    if sys.platform != "linux":
        return f"a cluster needs Linux, and this is {sys.platform}"
    if os.geteuid() != 0:
        return "a cluster needs root: it makes namespaces, networks and mounts"
    missing = {program: package for program, package in PACKAGES.items() if not _which(program)}
    if cni_plugins() is None:
        missing["CNI plugins"] = "containernetworking-plugins"
    if missing:
        packages = " ".join(sorted(set(missing.values())))
        return f"a cluster needs {', '.join(sorted(missing))}: apt-get install {packages}"
    return "" if built() else _why_not_go()


def _why_not_go() -> str:
    """Why Kubernetes cannot be built here; "" where it can."""
    wanted = ".".join(map(str, OLDEST_GO))
    if shutil.which("go") is None:
        return f"a cluster's Kubernetes is built with Go {wanted}, and there is no program go"
    told = subprocess.run(
        ["go", "env", "GOVERSION"], cwd="/", capture_output=True, text=True, check=False
    ).stdout.strip()
    found = re.match(r"go(\d+)\.(\d+)", told)
    if found is None or (int(found[1]), int(found[2])) < OLDEST_GO:
        return f"a cluster's Kubernetes is built with Go {wanted} or newer, and this is {told!r}"
    return ""


def _which(program: str) -> str | None:
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def cni_plugins() -> Path | None:
    """The directory of the CNI plugins, None where there is none."""
    return next((each for each in CNI if (each / "bridge").exists()), None)


def directory() -> Path:
    """Where the programs are, or will be."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    digest = hashlib.sha256()
    for path in sorted(SOURCES.rglob("*")):
        if path.suffix in (".go", ".mod", ".sum"):
            digest.update(f"{path.relative_to(SOURCES)}\0{path.stat().st_size}\0".encode())
            digest.update(path.read_bytes())
    return cache / "crannog" / "cluster" / digest.hexdigest()[:16]


def built() -> bool:
    """Whether they have been built."""
    return directory().is_dir()


def build() -> Path:
    """Build what is not there yet, minutes the first time; the directory of the programs.

    Raises:
        Unavailable: they cannot be built here; says why.
    """
    out = directory()
    if out.is_dir():
        return out
    reason = _why_not_go()
    if reason:
        raise Unavailable(reason)
    out.parent.mkdir(parents=True, exist_ok=True)
    with (out.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not out.is_dir():
            making = out.with_suffix(".making")
            shutil.rmtree(making, ignore_errors=True)
            making.mkdir()
            _compile(making)
            for name in COMPONENTS:
                (making / name).symlink_to("kube")
            (making / "pause.tar").write_bytes(pause_image((making / "pause").read_bytes()))
            making.rename(out)
    return out


def _compile(out: Path) -> None:
    kubernetes, helm = _version(KUBERNETES), _version(HELM)
    major, minor = kubernetes.removeprefix("v").split(".")[:2]
    told = {
        "k8s.io/component-base/version.gitVersion": kubernetes,
        "k8s.io/component-base/version.gitMajor": major,
        "k8s.io/component-base/version.gitMinor": minor,
        f"{HELM}/internal/version.version": helm,
    }
    flags = " ".join(["-s", "-w", *(f"-X {name}={value}" for name, value in told.items())])
    command = ["go", "build", "-v", "-trimpath", "-buildvcs=false", "-mod=readonly"]
    command += [f"-ldflags={flags}", f"-o={out}/", "./kube", "./dns", "./pause", f"{HELM}/cmd/helm"]
    _say(f"building Kubernetes {kubernetes} and helm {helm}: minutes the first time")
    started = time.monotonic()
    with subprocess.Popen(
        command,
        cwd=SOURCES,
        env={**os.environ, "CGO_ENABLED": "0"},
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        lines: list[str] = []
        with _progress(lines, started):
            for line in process.stderr:
                lines.append(line)
    if process.returncode != 0:
        raise Unavailable(
            f"the cluster's programs cannot be built: {''.join(lines[-15:]).strip()}",
            hint="the first build fetches Go modules: is their proxy reachable?",
        )
    _say(f"built in {time.monotonic() - started:.0f} s, kept in {out.with_suffix('')}")


@contextmanager
def _progress(lines: list[str], started: float) -> Iterator[None]:
    """Say every now and then how far a build is."""
    done = threading.Event()

    def say() -> None:
        while not done.wait(SAY_EVERY):
            _say(f"{len(lines)} packages, {time.monotonic() - started:.0f} s")

    teller = threading.Thread(target=say, daemon=True)
    teller.start()
    try:
        yield
    finally:
        done.set()
        teller.join()


def _version(module: str) -> str:
    found = re.search(
        rf"^\s*{re.escape(module)} (v\S+)$", (SOURCES / "go.mod").read_text(), re.MULTILINE
    )
    if found is None:
        raise Unavailable(f"{SOURCES}/go.mod names no {module}")
    return found[1]


def pause_image(program: bytes) -> bytes:
    """The image of every pod's first process, as `ctr images import` takes it."""
    layer = _tar({"pause": program})
    config = {
        "architecture": os.uname().machine.replace("x86_64", "amd64").replace("aarch64", "arm64"),
        "os": "linux",
        "config": {"Entrypoint": ["/pause"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [PAUSE], "Layers": ["layer.tar"]}]
    return _tar(
        {
            "manifest.json": json.dumps(manifest).encode(),
            "config.json": json.dumps(config).encode(),
            "layer.tar": layer,
        }
    )


def _tar(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o755
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def _say(text: str) -> None:
    print(f"cluster: {text}", file=sys.stderr, flush=True)
