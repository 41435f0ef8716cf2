"""Sessions posted again and again, and whether each that was acknowledged is there afterwards.

Run as a program where the user sits, with the CAS's HOST:PORT: it prints `promised NAME HASH` for
each session that the CAS has acknowledged. A CAS that is away is tried again, with another name. At
SIGTERM it stops, reads every session back, and prints `lost NAME` for each that is not as it was,
and at last `kept COUNT`.
"""

from __future__ import annotations

import json
import secrets
import signal
import sys
import threading
import time

from crannog.errors import Error
from crannog.transport.address import parse_address
from crannog.transport.http_client import HttpClient
from crannog.transport.tls import fresh_identity

THREADS = 2
PAUSE = 0.05  # seconds between a thread's sessions; a load, and not a flood
SECONDS = 10.0
AWAY = 60.0  # seconds that the CAS may be away when everything is read back
SERVICES = f"services: [{{name: a, command: /bin/x, mrenclaves: [{'0' * 64}]}}]\n"


class Storm:
    """The threads that post, and what they were promised."""

    def __init__(self, address: str) -> None:
        self._address = parse_address(address, 8081, "CAS")
        self._owner = fresh_identity()
        self._over = threading.Event()
        self._promised: dict[str, str] = {}
        self._saying = threading.Lock()

    def _client(self) -> HttpClient:
        return HttpClient(self._address, identity=self._owner, seconds=SECONDS)

    def run(self) -> None:
        """Post until SIGTERM, then check."""
        signal.signal(signal.SIGTERM, lambda *_: self._over.set())
        threads = [threading.Thread(target=self._post, args=(number,)) for number in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self._check()

    def _post(self, number: int) -> None:
        client, count, run = self._client(), 0, secrets.token_hex(4)
        while not self._over.wait(PAUSE):
            name, count = f"storm-{run}-{number}-{count}", count + 1
            document = f"name: {name}\nversion: '0.2'\n{SERVICES}"
            try:
                answer = client.request("POST", "/v1/sessions", document.encode())
            except Error:
                client = self._client()
                continue
            if answer.status != 201:
                self._say(f"refused {name} {answer.status} {answer.body!r}")
                continue
            self._promised[name] = str(json.loads(answer.body)["hash"])
            self._say(f"promised {name} {self._promised[name]}")

    def _say(self, line: str) -> None:
        with self._saying:  # a line is whole, whoever else says one
            print(line, flush=True)

    def _check(self) -> None:
        client, lost = self._client(), 0
        deadline = time.monotonic() + AWAY
        left = list(self._promised.items())
        while left:
            name, promised = left[-1]
            try:
                answer = client.request("GET", f"/v1/sessions/{name}?hash={promised}")
            except Error:
                if time.monotonic() > deadline:
                    raise
                client = self._client()
                time.sleep(PAUSE)  # between two questions
                continue
            left.pop()
            if answer.status != 200 or json.loads(answer.body)["hash"] != promised:
                self._say(f"lost {name} {answer.status}")
                lost += 1
        self._say(f"kept {len(self._promised) - lost}")


if __name__ == "__main__":
    Storm(sys.argv[1]).run()
