"""The commands of docs/kubernetes.md install what they say, in their order, in one shell.

Names are exchanged for the registry, and a CAS without a volume takes the place of one that needs a
storage class. The session's own device plugin and LAS make room meanwhile.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tools.charts import write_repository

from tests.cluster.charts import CRANNOG, Release
from tests.cluster.rig import Cluster
from tests.tutorial.seed import PROJECT

GUIDE = PROJECT / "docs" / "kubernetes.md"
_BLOCK = re.compile(
    r"<!-- executed by tests/cluster/test_kubernetes_guide.py -->\n```bash\n(.*?)```",
    re.DOTALL,
)
# Whatever becomes of it: what it left in the background holds our pipes.
_BEGIN = "trap 'kill $(jobs -p)' EXIT\n"
# Where the user sits another CAS may have 8081.
_PORT = "28081"
_REMOVE = """
helm uninstall las -n kube-system --ignore-not-found --wait
helm uninstall sgxdevplugin -n kube-system --ignore-not-found --wait
helm uninstall cas -n cas --ignore-not-found
kubectl -n kube-system delete pod las-test sgxdevplugin-test sgxdevplugin-test-attested \
    --ignore-not-found
kubectl delete namespace cas --ignore-not-found
"""


@pytest.fixture
def room(plugin: Release, without_las: dict[str, str]) -> Iterator[dict[str, str]]:
    """The session's own plugin removed as well; the keys of its LASes."""
    plugin.cluster.leave_alone(
        ("namespace/cas", ""),
        ("daemonset/las", "kube-system"),
        ("daemonset/sgxdevplugin", "kube-system"),
    )
    values = plugin.given()
    plugin.uninstall()
    try:
        yield without_las
    finally:
        plugin.upgrade(values)


def test_the_guide_installs_what_it_says(
    cluster: Cluster,
    cluster_images: dict[str, str],
    room: dict[str, str],
    tmp_path: Path,
) -> None:
    write_repository(
        tmp_path / "build" / "charts",
        registry=cluster_images["python"].rpartition("/")[0],
        epoch=0,
    )
    blocks = _BLOCK.findall(GUIDE.read_text())
    assert len(blocks) == 5
    script = "".join(blocks).replace(
        "--set minimumLevel=node", "--set minimumLevel=node --set persistence.enabled=false"
    )
    for text in ("8081:8081", "https://localhost:8081", "attest localhost"):
        assert text in script
    script = script.replace("8081:8081", f"{_PORT}:8081")
    script = script.replace("https://localhost:8081", f"https://localhost:{_PORT}")
    script = script.replace("attest localhost", f"attest localhost:{_PORT}")
    path = cluster.user(["sh", "-c", "echo $PATH"]).stdout.strip()
    environment = {"PATH": f"{Path(sys.executable).parent}:{path}", "HOME": str(tmp_path)}
    try:
        done = cluster.user(
            ["bash", "-euxo", "pipefail", "-c", _BEGIN + script],
            environment=environment,
            cwd=tmp_path,
            check=False,
            timeout=400,
        )
        said = done.stdout + done.stderr
        assert done.returncode == 0, (
            said + cluster.describe("cas") + cluster.describe("kube-system")
        )
        assert "attested at level node or above" in done.stdout
        assert "is trustworthy" in done.stdout
        listed = ["exec", "-n", "cas", "cas-0", "--", CRANNOG, "cas", "las", "list"]
        cluster.wait(
            lambda: all(key in cluster.kubectl(*listed).stdout for key in room),
            "every node's LAS in the CAS's list",
        )
    finally:
        cluster.user(["sh", "-c", _REMOVE], environment=environment, timeout=300)
    if cluster.local is not None:
        for node in cluster.nodes:
            _only_what_is_said_is_left(cluster, node)


def _only_what_is_said_is_left(cluster: Cluster, node: str) -> None:
    """The launchers, the LAS's key, an empty directory for its socket; nothing of the plugin's."""

    def seen() -> dict[str, set[str]]:
        return {
            place: set(cluster.on_node(node, "ls", "-A", place).split())
            for place in ("/run/crannog/las", "/var/lib/crannog", "/var/lib/crannog/las")
        }

    left = {
        "/run/crannog/las": set(),
        "/var/lib/crannog": {"las", "launcher"},
        "/var/lib/crannog/las": {"las.key"},
    }
    cluster.wait(lambda: seen() == left, f"only what is said to be left on {node}", seen=seen)
    sockets = cluster.on_node(node, "ls", "/var/lib/kubelet/device-plugins").split()
    assert set(sockets) <= {"kubelet.sock", "kubelet_internal_checkpoint"}
