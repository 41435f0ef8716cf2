"""What the cluster's parts are configured with: addresses, files, command lines. Pure text.

Every cluster has the same addresses, since each has a network of its own that nothing leaves.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

OUTSIDE = "10.89.0.254"  # where the user sits, the nodes' way out
CONTROL = "10.89.0.1"  # the first node: API server and DNS
ITSELF = "172.17.0.1"  # each node's own, as with Docker's bridge: the tutorial's LAS
SERVICES = "10.96.0.0/16"
PODS = "10.244.0.0/16"
SHARED = Path("/run/cluster")  # the cluster's directory inside a node
PROGRAMS = Path("/run/programs")  # what was built, inside a node
CONTAINERD = "/run/containerd/containerd.sock"
PAUSE = "crannog.test/pause:1"
MOST_NODES = 50
WHOSE = "X-Cluster"  # the header by which a registry says that

# A runtime that no LAS knows by its name: for tests of what it may not vouch for.
OTHER_RUNTIME = '#!/bin/sh\nexec runc "$@"\n'

# Only the first node has these; every node has the rest.
CONTROL_PLANE = ("etcd", "kube-apiserver", "dns", "kube-controller-manager", "kube-scheduler")
EVERY_NODE = ("containerd", "kubelet", "kube-proxy")


@dataclass(frozen=True, slots=True)
class Shape:
    """What a cluster was asked to be.

    Attributes:
        name: a word that tells it from others on this machine.
        nodes: how many.
        registry_port: the port of `localhost` in the names of its images.
    """

    name: str
    nodes: int
    registry_port: int

    @property
    def node_names(self) -> tuple[str, ...]:
        """`node1`, `node2`, …"""
        return tuple(f"node{number}" for number in range(1, self.nodes + 1))

    @property
    def registry(self) -> str:
        """What its images' names begin with."""
        return f"localhost:{self.registry_port}"

    def to_json(self) -> str:
        """For the file that says what is up."""
        return json.dumps(
            {"name": self.name, "nodes": self.nodes, "registry_port": self.registry_port}
        )

    @classmethod
    def from_json(cls, text: str) -> Shape:
        """What `to_json` wrote.

        Raises:
            ValueError: it did not write that.
        """
        raw = json.loads(text)
        try:
            return cls(str(raw["name"]), int(raw["nodes"]), int(raw["registry_port"]))
        except (KeyError, TypeError) as error:
            raise ValueError("not a cluster's description") from error


def number_of(node: str) -> int:
    """1 for `node1`."""
    return int(node.removeprefix("node"))


def address_of(node: str) -> str:
    """The node's address in the cluster's network."""
    return f"10.89.0.{number_of(node)}"


def pods_of(node: str) -> str:
    """The addresses of the node's pods."""
    return f"10.244.{number_of(node)}.0/24"


def components(node: str) -> Mapping[str, tuple[str, ...]]:
    """The command line of each component of a node, in the order in which they are started."""
    every = {
        "containerd": ("containerd", f"--config={SHARED}/{node}/etc/containerd.toml"),
        "kubelet": (
            f"{PROGRAMS}/kubelet",
            f"--kubeconfig={SHARED}/pki/{node}.conf",
            f"--config={SHARED}/{node}/etc/kubelet.json",
            f"--hostname-override={node}",
            f"--node-ip={address_of(node)}",
        ),
        # A network namespace may not change nf_conntrack_max: 0 leaves it alone.
        "kube-proxy": (
            f"{PROGRAMS}/kube-proxy",
            f"--kubeconfig={SHARED}/pki/kube-proxy.conf",
            f"--hostname-override={node}",
            f"--cluster-cidr={PODS}",
            "--proxy-mode=nftables",
            "--conntrack-max-per-core=0",
            "--conntrack-min=0",
        ),
    }
    return {**_control_plane(), **every} if number_of(node) == 1 else every


def _control_plane() -> Mapping[str, tuple[str, ...]]:
    pki = SHARED / "pki"
    etcd = "http://127.0.0.1:2379"
    return {
        "etcd": (
            "etcd",
            "--data-dir=/var/lib/etcd",
            f"--listen-client-urls={etcd}",
            f"--advertise-client-urls={etcd}",
            "--listen-peer-urls=http://127.0.0.1:2380",
            "--unsafe-no-fsync",  # the machine that could lose it is ours
        ),
        "kube-apiserver": (
            f"{PROGRAMS}/kube-apiserver",
            f"--etcd-servers={etcd}",
            "--bind-address=0.0.0.0",
            f"--advertise-address={CONTROL}",
            "--allow-privileged=true",
            "--profiling=false",
            f"--tls-cert-file={pki}/apiserver.crt",
            f"--tls-private-key-file={pki}/apiserver.key",
            f"--client-ca-file={pki}/ca.crt",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={pki}/service-accounts.pub",
            f"--service-account-signing-key-file={pki}/service-accounts.key",
            f"--service-cluster-ip-range={SERVICES}",
            f"--kubelet-client-certificate={pki}/admin.crt",
            f"--kubelet-client-key={pki}/admin.key",
            f"--kubelet-certificate-authority={pki}/ca.crt",
            "--kubelet-preferred-address-types=InternalIP",
            "--default-not-ready-toleration-seconds=10",
            "--default-unreachable-toleration-seconds=10",
        ),
        "dns": (f"{PROGRAMS}/dns", f"-conf={SHARED}/node1/etc/Corefile"),
        "kube-controller-manager": (
            f"{PROGRAMS}/kube-controller-manager",
            f"--kubeconfig={pki}/kube-controller-manager.conf",
            f"--service-account-private-key-file={pki}/service-accounts.key",
            f"--root-ca-file={pki}/ca.crt",
            "--use-service-account-credentials=true",
            "--leader-elect=false",
            "--node-monitor-period=2s",
            "--node-monitor-grace-period=16s",
        ),
        "kube-scheduler": (
            f"{PROGRAMS}/kube-scheduler",
            f"--kubeconfig={pki}/kube-scheduler.conf",
            "--leader-elect=false",
        ),
    }


def node_files(node: str, shape: Shape, *, plugins: Path) -> Mapping[str, str]:
    """The files of a node's `etc`; `plugins` is the directory of the CNI plugins."""
    files = {
        "containerd.toml": _containerd(node, plugins),
        "kubelet.json": json.dumps(_kubelet(node), indent=1),
        "other-runtime": OTHER_RUNTIME,
        "net.d/10-pods.conflist": json.dumps(_pod_network(node), indent=1),
        f"registries/{shape.registry}/hosts.toml": (
            f'[host."http://{OUTSIDE}:{shape.registry_port}"]\n'
            '  capabilities = ["pull", "resolve"]\n'
        ),
    }
    if number_of(node) == 1:
        files["Corefile"] = (
            f".:53 {{\n  bind {CONTROL}\n  errors\n"
            f"  kubernetes cluster.local {{\n    kubeconfig {SHARED}/pki/admin.conf\n  }}\n}}\n"
        )
    return files


def _containerd(node: str, plugins: Path) -> str:
    etc = SHARED / node / "etc"
    return f"""\
version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
[grpc]
  address = "{CONTAINERD}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  restrict_oom_score_adj = true # lowering it may need a right that this machine does not give
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "{etc}/registries"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.other]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.other.options]
      BinaryName = "{etc}/other-runtime"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{plugins}"
    conf_dir = "{etc}/net.d"
"""


def _pod_network(node: str) -> object:
    return {
        "cniVersion": "0.4.0",
        "name": "pods",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "cni0",
                "isGateway": True,
                "hairpinMode": True,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": pods_of(node)}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ],
    }


def _kubelet(node: str) -> object:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": f"{SHARED}/pki/ca.crt"},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": f"{SHARED}/pki/{node}.crt",
        "tlsPrivateKeyFile": f"{SHARED}/pki/{node}.key",
        "containerRuntimeEndpoint": f"unix://{CONTAINERD}",
        "volumePluginDir": "/var/lib/kubelet/volume-plugins",
        "clusterDNS": [CONTROL],
        "clusterDomain": "cluster.local",
        # Tolerates what a machine refuses that is itself a container or a small virtual machine.
        "featureGates": {"KubeletInUserNamespace": True},
        "cgroupDriver": "cgroupfs",
        "failCgroupV1": False,
        "cgroupsPerQOS": False,
        "enforceNodeAllocatable": [],
        "localStorageCapacityIsolation": False,
        "failSwapOn": False,
        "oomScoreAdj": 0,
        "evictionHard": {},
        "imageGCHighThresholdPercent": 100,  # the disk is the machine's, not the node's
        "makeIPTablesUtilChains": False,
        "nodeStatusUpdateFrequency": "4s",
        "serializeImagePulls": False,
        "registryPullQPS": 0,
    }


def registry_file(storage: Path, address: str, shape: Shape) -> str:
    """The settings of a registry over `storage`, which two may share; it says whose it is."""
    return (
        "version: 0.1\nlog: {level: warn}\n"
        f"storage: {{filesystem: {{rootdirectory: {storage}}}, delete: {{enabled: true}}}}\n"
        f'http: {{addr: "{address}:{shape.registry_port}", headers: {{{WHOSE}: [{shape.name}]}}}}\n'
    )
