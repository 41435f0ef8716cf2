"""What `bench.cluster` starts: one server in several images, and the sessions that let it run."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from pathlib import Path

from images.build_engine import find_engine
from tests.cluster.charts import run_to_its_end
from tests.cluster.rig import Cluster
from tests.cluster.vouched import Cas
from tests.containers.protected import create_session, image_of, measured, protect
from tests.containers.rig import RUN

PLAIN, TLS = 8080, 4443
BASE = "org.opencontainers.image.base.name"
ENTRY = ("/run/crannog/launcher/run", "--", "python3")
SERVER = """\
import os
from http.server import BaseHTTPRequestHandler, HTTPServer


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(os.environ["GREETING"].encode())


"""
SERVE = 'HTTPServer(("0.0.0.0", 8080), Handler).serve_forever()\n'
SERVE_TLS = """\
import ssl
server = HTTPServer(("0.0.0.0", 4443), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certfile="/app/cert.pem", keyfile="/app/key.pem")
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
"""
CERTIFICATE = {
    "images": [
        {
            "name": "image",
            "injection_files": [
                {"path": "/app/cert.pem", "content": "$$SCONE::SERVER_CERT.crt$$"},
                {"path": "/app/key.pem", "content": "$$SCONE::SERVER_CERT.key$$"},
            ],
        }
    ],
    "secrets": [{"name": "SERVER_CERT", "kind": "x509"}],
}


@dataclass(frozen=True, slots=True)
class Kind:
    """One way to start the server.

    Attributes:
        image: the full name.
        greeting: what it has to answer.
        environment: of the container.
        command: the container's; the image's own without one.
        port: of the container and of its node.
        device: whether it asks the device plugin for SGX.
    """

    image: str
    greeting: str
    environment: dict[str, str] = field(default_factory=dict)
    command: tuple[str, ...] = ()
    port: int = PLAIN
    device: bool = True


@dataclass(frozen=True, slots=True)
class Pushed:
    """Images that are made for the measurement, and forgotten by the engine afterwards."""

    cluster: Cluster
    directory: Path
    names: list[str] = field(default_factory=list)

    def push(self, image: str, name: str) -> str:
        """An image that there is; its full name."""
        self.names.append(self.cluster.push(image, f"{RUN}/{name}:1"))
        return self.names[-1]

    def make(self, name: str, base: str, root: Path) -> str:
        """An image with `root` over `base`; its full name."""
        full = f"{self.cluster.registry}/{RUN}/{name}:1"
        self.names.append(image_of(self.cluster.engine, base, root, full))
        self.cluster.push_tagged(full)
        return full

    def root(self, name: str, server: str) -> Path:
        """A directory with the server in it, as it is."""
        root = self.directory / name
        (root / "app").mkdir(parents=True)
        (root / "app" / "server.py").write_text(server)
        return root

    def forget(self) -> None:
        """Remove them from the engine; the registry keeps them."""
        self.cluster.engine.call("image", "rm", "--force", *self.names, check=False)


def all_kinds(
    cluster: Cluster, namespace: str, cas: Cas, pushed: Pushed, python: str
) -> dict[str, Kind]:
    """Every kind by its title, the baseline first.

    Args:
        cluster: where.
        namespace: in which the node's launcher measures.
        cas: gets the sessions.
        pushed: gets the images.
        python: the curated image.

    Raises:
        CannotMeasure: the curated image does not say what it is built on.
    """
    base = (
        find_engine(cluster.engine.name).image(python).labels["org.opencontainers.image.base.name"]
    )
    server, tls = pushed.root("server", SERVER + SERVE), pushed.root("tls", SERVER + SERVE_TLS)
    encrypted = protect(cas, {"server.py": SERVER + SERVE_TLS}, pushed.directory / "encrypted")
    plain = pushed.make("plain", base, server)
    curated = pushed.make("curated", python, server)
    certified = pushed.make("certified", python, tls)
    protected = pushed.make("protected", python, encrypted.root)
    by_node = run_to_its_end(
        cluster, namespace, plain, list(ENTRY), {"SCONE_HASH": "1"}, node_launcher=True
    ).strip()

    def attested(image: str, mrenclave: str = "", port: int = PLAIN, **service: object) -> Kind:
        document = {}
        if port == TLS:
            service["image_name"] = "image"
            document = CERTIFICATE
        greeting = f"only from the CAS {secrets.token_hex(8)}"
        config_id = create_session(
            cas,
            {
                "mrenclaves": [mrenclave or measured(cluster.engine, image)],
                "command": "python3 /app/server.py",
                "environment": {"GREETING": greeting},
                **service,
            },
            **document,
        )
        environment = {"SCONE_CAS_ADDR": cas.cas_enclave, "SCONE_CONFIG_ID": config_id}
        return Kind(image, greeting, environment, ENTRY if mrenclave else (), port)

    unattested = ("python3", "/app/server.py")
    howdy = {"GREETING": "howdy!"}
    return {
        "plain image": Kind(plain, "howdy!", howdy, unattested, device=False),
        "curated image": Kind(curated, "howdy!", howdy, unattested, device=False),
        "attested": attested(curated),
        "attested, TLS": attested(certified, port=TLS),
        "attested, TLS, encrypted": attested(protected, port=TLS, **encrypted.service),
        "plain image, node's launcher, attested at level node": attested(
            plain, by_node, minimum_level="node"
        ),
    }
