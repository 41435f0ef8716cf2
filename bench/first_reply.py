"""Ask an address again and again until it answers, from where the user sits; say when that was.

Run as a program of its own, since the user may sit in another network than who measures: with the
URL it prints `asking` once it does, and then the time by the machine's monotonic clock, in seconds,
and the reply's first line.
"""

from __future__ import annotations

import http.client
import ssl
import sys
import time
from urllib.parse import urlsplit

EVERY = 0.005
PATIENCE = 0.25
"""Seconds for one question: a connection that a node swallows is not waited for."""


def main(url: str) -> None:
    """Ask until there is a reply."""
    print("asking", flush=True)
    while True:
        body = _reply(url)
        if body is not None:
            print(time.monotonic(), body.partition("\n")[0], flush=True)
            return
        time.sleep(EVERY)


def _reply(url: str) -> str | None:
    parts = urlsplit(url)
    assert parts.hostname is not None
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        connection = http.client.HTTPSConnection(
            parts.hostname, parts.port, timeout=PATIENCE, context=_any_certificate()
        )
    else:
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=PATIENCE)
    try:
        connection.request("GET", "/")
        return connection.getresponse().read().decode(errors="replace")
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def _any_certificate() -> ssl.SSLContext:
    """As the tutorial's `curl -k`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


if __name__ == "__main__":
    main(sys.argv[1])
