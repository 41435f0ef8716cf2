"""A cluster: from `kubectl create` to the first reply, as the tutorial's four programs and others.

With the charts' device plugin in simulation and LAS, and a CAS where the user sits. Each start is
of a Deployment of one pod with a port of its node; the kinds are interleaved, and take turns on
the nodes. The baseline is the same server in the plain base image of the same run.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from images.build_engine import find_engine
from tests.cluster.charts import SGX, chart_installed, las_keys, namespace_of_its_own, offered
from tests.cluster.chosen import NoCluster, chosen_cluster
from tests.cluster.rig import Cluster
from tests.cluster.vouched import Cas
from tests.containers.rig import Engine

from bench import first_reply
from bench.cluster_kinds import TLS, Kind, Pushed, all_kinds
from bench.report import Row
from bench.tools import CannotMeasure
from crannog.errors import Error

ROUNDS = 20
IMAGES = ("python", "cas", "las", "sgx-plugin")
_PATIENCE = 120.0


def clustered() -> list[Row]:
    """Median and 95th percentile of each kind in milliseconds, against the plain image."""
    engine = _engine()
    with contextlib.ExitStack() as undo:
        try:
            cluster = undo.enter_context(chosen_cluster(engine))
        except NoCluster as reason:
            raise CannotMeasure(str(reason)) from reason
        if not cluster.address:
            raise CannotMeasure("CRANNOG_TEST_HOST does not say at which address pods reach this")
        if any(offered(cluster).values()):
            raise CannotMeasure("a device plugin runs on this cluster already")
        bench = _prepared(cluster, undo)
        taken: dict[str, list[float]] = {title: [] for title in bench.kinds}
        warm = len(cluster.nodes)  # rounds in which each node pulls what it will start
        for turn in range(warm + ROUNDS):
            print(f"round {turn - warm + 1} of {ROUNDS} …", file=sys.stderr, flush=True)
            node = cluster.nodes[turn % warm]
            titles = list(bench.kinds)
            first = turn % len(titles)  # so that none always comes after the same other one
            for title in titles[first:] + titles[:first]:
                milliseconds = bench.first_reply(bench.kinds[title], node)
                if turn >= warm:
                    taken[title].append(milliseconds)
    return _rows(taken)


def _rows(taken: dict[str, list[float]]) -> list[Row]:
    rows = []
    plain, *_ = taken.values()
    for which, value in (("median", statistics.median), ("p95", _p95)):
        for title, times in taken.items():
            against, ratio = ("", 0.0) if times is plain else ("plain", value(times) / value(plain))
            name = f"cluster, {title}: {which} of {ROUNDS}"
            rows.append(Row(name, value(times), "ms", against, ratio))
    return rows


def _p95(times: list[float]) -> float:
    return statistics.quantiles(times, n=20, method="inclusive")[18]


def _engine() -> Engine:
    """An engine that has the images of `make images`."""
    reasons = []
    for name in ("docker", "podman"):
        try:
            found = find_engine(name)
            for image in IMAGES:
                found.image(f"crannog/{image}")
            return Engine(name)
        except Error as error:
            reasons.append(error.message)
    raise CannotMeasure("; ".join(reasons) + " (make images)")


@dataclass(frozen=True, slots=True)
class _Bench:
    """What is measured, and where."""

    cluster: Cluster
    namespace: str
    addresses: dict[str, str]
    kinds: dict[str, Kind]

    def first_reply(self, kind: Kind, node: str) -> float:
        """Milliseconds from `kubectl create` to the first reply; all is gone afterwards."""
        scheme = "https" if kind.port == TLS else "http"
        url = f"{scheme}://{self.addresses[node]}:{kind.port}/"
        asking = self.cluster.start_user([sys.executable, first_reply.__file__, url])
        try:
            assert asking.stdout is not None
            if asking.stdout.readline() != "asking\n":
                raise CannotMeasure(f"nobody asks: {asking.stdout.read()}")
            manifest = json.dumps(_deployment(kind, node))
            start = time.monotonic()
            self.cluster.kubectl("create", "-n", self.namespace, "-f", "-", input=manifest)
            said, _ = asking.communicate(timeout=_PATIENCE)
        except subprocess.TimeoutExpired:
            seen = self.cluster.describe(self.namespace)
            raise CannotMeasure(f"{kind.image} does not reply at {url}:\n{seen}") from None
        finally:
            asking.kill()
            asking.wait()
            self.cluster.kubectl(
                *("delete", "deployment", "bench", "-n", self.namespace),
                *("--cascade=foreground", "--wait", "--ignore-not-found"),
            )
        when, _, reply = said.strip().partition(" ")
        if reply != kind.greeting:
            raise CannotMeasure(f"{kind.image} replies {reply!r}, expected {kind.greeting!r}")
        return (float(when) - start) * 1000


def _deployment(kind: Kind, node: str) -> dict[str, Any]:
    container: dict[str, Any] = {
        "name": "bench",
        "image": kind.image,
        "imagePullPolicy": "Always",
        "ports": [{"containerPort": kind.port, "hostPort": kind.port}],
        "env": [{"name": name, "value": value} for name, value in kind.environment.items()],
    }
    if kind.command:
        container["command"] = list(kind.command)
    if kind.device:
        container["resources"] = {"limits": {SGX: 1}}
    spec = {
        "nodeSelector": {"kubernetes.io/hostname": node},
        # The plain server, as the first process of its container, does not end at SIGTERM.
        "terminationGracePeriodSeconds": 1,
        "containers": [container],
    }
    labels = {"run": "bench"}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "bench"},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": spec},
        },
    }


def _prepared(cluster: Cluster, undo: contextlib.ExitStack) -> _Bench:
    """Plugin, LAS and CAS, the images and their sessions; all of it ends with `undo`."""
    directory = Path(undo.enter_context(tempfile.TemporaryDirectory()))
    pushed = Pushed(cluster, directory)
    undo.callback(pushed.forget)
    images = {name: pushed.push(f"crannog/{name}", name) for name in IMAGES}
    las = None
    for chart, values in (("sgxdevplugin", {"simulation": True}), ("las", {})):
        namespace = undo.enter_context(namespace_of_its_own(cluster, chart))
        las = undo.enter_context(
            chart_installed(cluster, images, chart, values, namespace=namespace)
        )
    cluster.wait(lambda: all(offered(cluster).values()), "every node to offer SGX")
    (directory / "cas").mkdir()
    cas = undo.enter_context(Cas(cluster, directory / "cas"))
    cas.attest()
    assert las is not None
    for key, node in las_keys(las).items():
        cas.enrol(key, note=node)
    namespace = undo.enter_context(namespace_of_its_own(cluster, "bench"))
    addresses = {
        node["metadata"]["name"]: next(
            each["address"] for each in node["status"]["addresses"] if each["type"] == "InternalIP"
        )
        for node in cluster.get("nodes")["items"]
    }
    kinds = all_kinds(cluster, namespace, cas, pushed, images["python"])
    return _Bench(cluster, namespace, addresses, kinds)
