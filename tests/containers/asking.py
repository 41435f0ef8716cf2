"""Requests to programs in containers, once they serve."""

from __future__ import annotations

import http.client
import ssl
import time

from tests.containers.rig import Container

SECONDS = 60.0


def ask(container: Container, port: int, *, tls: bool = False) -> str:
    """GET / of a container's program, tried again until it listens; the reply's body."""
    deadline = time.monotonic() + SECONDS
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # as `curl -k`
    while True:
        address = container.address
        connection = (
            http.client.HTTPSConnection(address, port, timeout=30, context=context)
            if tls
            else http.client.HTTPConnection(address, port, timeout=30)
        )
        try:
            connection.request("GET", "/")
            return connection.getresponse().read().decode()
        except OSError:
            if not container.state()["Running"] or time.monotonic() > deadline:
                raise AssertionError(f"the program does not serve: {container.logs()}") from None
            time.sleep(0.05)  # it says nowhere when it is ready
        finally:
            connection.close()
