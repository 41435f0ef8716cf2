"""Charts as helm renders them; the tests are skipped where there is no helm."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.local import programs

CHARTS = Path(__file__).parents[3] / "charts"
NAMES = ("cas", "las", "sgxdevplugin")
NEEDED: dict[str, dict[str, Any]] = {
    "cas": {"image": "registry.invalid/cas", "minimumLevel": "node"},
    "las": {"image": "registry.invalid/las"},
    "sgxdevplugin": {"image": "registry.invalid/sgx-plugin"},
}
KUBERNETES = "1.34.0"
Manifest = dict[str, Any]


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    """One command of helm, of the PATH or of the test cluster's programs."""
    program = shutil.which("helm")
    if not program:
        reason = programs.why_not()
        if reason:
            pytest.skip(f"there is no helm in PATH, and no test cluster's: {reason}")
        program = str(programs.build() / "helm")  # or wait until it is
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False)


def try_render(
    chart: str, values: dict[str, Any], *, release: str = "", namespace: str = "here"
) -> subprocess.CompletedProcess[str]:
    """`helm template` with these values and no others."""
    given = [f"--set-json={key}={json.dumps(value)}" for key, value in values.items()]
    return helm(
        *("template", release or chart, str(CHARTS / chart), "--namespace", namespace),
        *("--kube-version", KUBERNETES, *given),
    )


def render(
    chart: str, *, release: str = "", namespace: str = "here", **values: Any
) -> list[Manifest]:
    """What the chart makes with these values beside those that it needs."""
    done = try_render(chart, NEEDED[chart] | values, release=release, namespace=namespace)
    assert done.returncode == 0, done.stderr
    return [found for found in yaml.safe_load_all(done.stdout) if found]


def refusal(chart: str, **values: Any) -> str:
    """Why the chart is refused with these values beside those that it needs."""
    done = try_render(chart, NEEDED[chart] | values)
    assert done.returncode != 0, done.stdout
    return done.stderr


def one(manifests: list[Manifest], kind: str) -> Manifest:
    """The one of that kind."""
    found = of(manifests, kind)
    assert len(found) == 1, [each["kind"] for each in manifests]
    return found[0]


def of(manifests: list[Manifest], kind: str) -> list[Manifest]:
    """All of that kind."""
    return [each for each in manifests if each["kind"] == kind]


def pod(manifests: list[Manifest]) -> dict[str, Any]:
    """The pod's spec of the chart's one workload."""
    found = of(manifests, "StatefulSet") + of(manifests, "DaemonSet")
    assert len(found) == 1
    spec: dict[str, Any] = found[0]["spec"]["template"]["spec"]
    return spec


def arguments(manifests: list[Manifest]) -> list[str]:
    """The arguments of its one container."""
    found: list[str] = pod(manifests)["containers"][0]["args"]
    return found
