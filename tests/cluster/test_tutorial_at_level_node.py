"""The tutorial's four programs at level `node`, on each node, by the charts' LAS and plugin.

Its text is run as it is written up to its manifests, which then get what
`examples/hello-world/example-level-node.yaml` shows: the node's launcher as command, and here a
pod on each node. The sessions ask for level node and for where the program is to run. The first
program is not attested in the tutorial: it gets a session, which says what its manifest said.
"""

from __future__ import annotations

import json
import re
import secrets
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from tests.cluster.charts import Release, las_keys
from tests.cluster.outside import OutsideCas
from tests.cluster.rig import Cluster
from tests.cluster.tutorial import terminal, text_for
from tests.tutorial.seed import PROJECT, Reply, bash_blocks, block_with, replies, seed_text

EXAMPLE = PROJECT / "examples" / "hello-world" / "example-level-node.yaml"
COMMAND = ["/run/crannog/launcher/run", "--", "python3"]
# Each program's manifest, its session, and the port that it listens on.
PROGRAMS = {
    "hello-world": ("app.yaml", "hello-k8s-scone-plain", 8080),
    "attested-hello-world": ("attested-app.yaml", "hello-k8s-scone", 8080),
    "attested-hello-world-tls-certs": (
        *("attested-app-tls-certs.yaml", "hello-k8s-scone-tls-certs"),
        4443,
    ),
    "attested-hello-world-tls": ("attested-app-tls.yaml", "hello-k8s-scone-tls", 4443),
}
LEFT_OUT = ("git clone", "./run_hello_world.sh", "helm install", "kubectl ", "$ curl", "$ cat")
SECONDS = 300


class Pod(NamedTuple):
    """A pod of one of the programs: its name and its node's."""

    name: str
    node: str


class Done(NamedTuple):
    """The four programs, running on every node.

    Attributes:
        cluster: where.
        namespace: theirs.
        session: what the sessions' names begin with.
        pods: each program's.
        expected: the tutorial's reply of each.
        las: the node of each LAS, by its public key.
        records: of the CAS's audit log, of the time since they were created.
    """

    cluster: Cluster
    namespace: str
    session: str
    pods: dict[str, list[Pod]]
    expected: dict[str, Reply]
    las: dict[str, str]
    records: list[dict[str, Any]]


@pytest.fixture(scope="module")
def done(
    cluster: Cluster,
    cluster_images: Mapping[str, str],
    outside_cas: OutsideCas,
    las: Release,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Done]:
    namespace = f"hello-node-{secrets.token_hex(4)}"
    keys = las_keys(las)
    blocks = bash_blocks(text_for(cluster, cluster_images, outside_cas.address))
    work = _typed(cluster, namespace, blocks, tmp_path_factory.mktemp("tutorial"))
    documents = [one for name in PROGRAMS for one in _manifests(cluster, work, name)]
    cluster.kubectl("create", "namespace", namespace)
    for key, node in keys.items():
        outside_cas.enrol(key, note=node)
    try:
        cluster.apply(
            json.dumps({"apiVersion": "v1", "kind": "List", "items": documents}), namespace
        )
        pods = {name: _ready(cluster, namespace, name) for name in PROGRAMS}
        yield Done(
            cluster,
            namespace,
            _session(work),
            pods,
            dict(zip(PROGRAMS, (r for block in blocks for r in replies(block)), strict=True)),
            keys,
            _audited(outside_cas, namespace),
        )
    finally:
        for key in keys:
            outside_cas.remove_las(key)
        cluster.kubectl("delete", "deployments", "--all", "-n", namespace, "--wait=false")
        cluster.kubectl("delete", "namespace", namespace, "--wait=false")


def _typed(cluster: Cluster, namespace: str, blocks: list[str], directory: Path) -> Path:
    """Run the blocks that make images, sessions and manifests; the directory that they work in."""
    protecting = block_with(blocks, "scone fspf create")
    lines = ["set -euo pipefail"]
    for block in blocks:
        if block == protecting or any(mark in block for mark in LEFT_OUT):
            continue
        if block.startswith("docker run -it "):
            block = f"{block.strip().replace(' -it ', ' -i ')} <<'END'\n{protecting}END\n"
        if "cat > session" in block:
            block = _asking(block, namespace)
        lines.append(block)
        if "@session.yaml" in block:
            lines += [_of_the_first(block_with(blocks, "cat > session.yaml"), namespace)]
            lines += [block.replace("@session.yaml", "@session-plain.yaml")]
    script = directory / "tutorial.sh"
    script.write_text("\n".join(lines))
    with (directory / "terminal.log").open("w") as log:
        process = subprocess.run(
            [*cluster.within, "bash", str(script)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=directory,
            env=terminal(cluster, directory),
            timeout=SECONDS,
            check=False,
        )
    assert process.returncode == 0, (directory / "terminal.log").read_text()[-6000:]
    (work,) = directory.glob("tmp.*")
    return work


def _asking(block: str, namespace: str) -> str:
    """A block that writes a session, with what it takes for level node and for one place."""
    name = re.search(r"^name: \$NS~(\S+)$", block, re.MULTILINE)
    assert name is not None
    (container,) = (program for program, (_, session, _) in PROGRAMS.items() if session == name[1])
    wanted = json.dumps({"namespace": namespace, "container": container, "image": "$IMAGE"})
    block, changed = re.subn(
        r"^     mrenclaves: .*\n",
        rf"\g<0>     minimum_level: node\n     claims: [{wanted}]\n",
        block,
        flags=re.MULTILINE,
    )
    assert changed == 1
    return block


def _of_the_first(block: str, namespace: str) -> str:
    """The attested program's session as one for the program that has its words in its manifest."""
    for old, new in (
        ("session.yaml", "session-plain.yaml"),
        ("~hello-k8s-scone\n", "~hello-k8s-scone-plain\n"),
        ("GREETING: hello from SCONE!!!", "GREETING: howdy!"),
    ):
        assert old in block
        block = block.replace(old, new)
    return _asking(block, namespace)


def _manifests(cluster: Cluster, work: Path, program: str) -> list[dict[str, Any]]:
    """The Deployment and the Service of a program, at level node, a pod on each node."""
    path, session, _ = PROGRAMS[program]
    deployment, service = yaml.safe_load_all((work / path).read_text())
    at_level_node(deployment)
    template = deployment["spec"]["template"]
    if program == "hello-world":
        (container,) = template["spec"]["containers"]
        (attested, _) = yaml.safe_load_all((work / "attested-app.yaml").read_text())
        (like,) = attested["spec"]["template"]["spec"]["containers"]
        text = json.dumps(like["env"]).replace("hello-k8s-scone/", f"{session}/")
        container["env"] = json.loads(text)
    deployment["spec"]["replicas"] = len(cluster.nodes)
    others = {
        "labelSelector": {"matchLabels": template["metadata"]["labels"]},
        "topologyKey": "kubernetes.io/hostname",
    }
    template["spec"]["affinity"] = {
        "podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [others]}
    }
    return [deployment, service]


def at_level_node(deployment: dict[str, Any]) -> None:
    """All that a user has to add to a Deployment of the tutorial."""
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["resources"] == {"limits": {"sgx.k8s.io/sgx": 1}}
    container["command"] = COMMAND


def _session(work: Path) -> str:
    found = re.search(r"^name: (\S+)$", (work / "namespace.yaml").read_text(), re.MULTILINE)
    assert found is not None
    return found[1]


def _ready(cluster: Cluster, namespace: str, program: str) -> list[Pod]:
    cluster.wait_ready(namespace, f"deployment/{program}")
    found = cluster.pods(namespace, f"run={program}")
    return [Pod(pod["metadata"]["name"], pod["spec"]["nodeName"]) for pod in found]


def _audited(cas: OutsideCas, namespace: str) -> list[dict[str, Any]]:
    state = str(cas.directory / "state" / "cas")
    lines = cas.run("cas", "verify-audit-log", "--export", "--state-directory", state).splitlines()
    records = [json.loads(line) for line in lines if line.startswith("{")]
    return [one for one in records if one.get("notes", {}).get("namespace") == namespace]


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_reply_is_the_tutorial_s_on_each_node(done: Done, program: str) -> None:
    port = PROGRAMS[program][2]
    assert sorted(pod.node for pod in done.pods[program]) == sorted(done.cluster.nodes)
    for pod in done.pods[program]:
        scheme = "https:" if port == 4443 else ""
        place = f"/api/v1/namespaces/{done.namespace}/pods/{scheme}{pod.name}:{port}/proxy/"

        def reply(place: str = place) -> str:
            return done.cluster.kubectl("get", "--raw", place, check=False).stdout

        # A container of the tutorial's has no probe: it is ready before it listens.
        said = done.cluster.wait(
            reply, f"{pod.name} answers", seen=lambda: done.cluster.describe(done.namespace)
        )
        assert said == done.expected[program].output


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_log_says_level_node(done: Done, program: str) -> None:
    for pod in done.pods[program]:
        log = done.cluster.kubectl("logs", pod.name, "-n", done.namespace).stdout
        assert re.search(r"configured by CAS at \S+ at level node", log), log
        assert "simulation" not in log


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_audit_log_says_that_its_own_node_s_las_vouched(done: Done, program: str) -> None:
    for pod in done.pods[program]:
        (record,) = (one for one in done.records if one["notes"]["pod"] == pod.name)
        assert record["event"] == "service attested"
        assert record["session"] == f"{done.session}~{PROGRAMS[program][1]}"
        assert done.las[record["actor"]] == pod.node
        notes = record["notes"]
        assert (notes["level"], notes["method"]) == ("node", "las/witness")
        assert (notes["container"], notes["engine"]) == (program, "containerd")


def test_the_example_is_the_tutorial_s_manifest_and_the_node_s_launcher() -> None:
    deployment, service = yaml.safe_load_all(EXAMPLE.read_text())
    text = block_with(bash_blocks(seed_text()), "cat > attested-app-tls.yaml")
    text = text.partition("<< EOF\n")[2].partition("EOF\n")[0]
    named = {
        "$IMAGE": "registry.example/hello-k8s-scone:0.3",
        "$SCONE_CAS_ADDR": "cas.cas.svc",
        "$NS~": "my-namespace~",
    }
    for old, new in named.items():
        assert old in text
        text = text.replace(old, new)
    theirs, their_service = yaml.safe_load_all(text)
    at_level_node(theirs)
    (container,) = theirs["spec"]["template"]["spec"]["containers"]
    container["env"] = [one for one in container["env"] if one["name"] != "SCONE_LAS_ADDR"]
    assert deployment == theirs
    assert service == their_service
