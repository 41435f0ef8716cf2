"""A load of attestations from one process.

`python -m bench.attest_client HOST:PORT CONFIG_ID MRENCLAVE THREADS SECONDS` prints latencies in
milliseconds and the failures, as JSON.

Each attestation is a connection of its own with a full TLS 1.3 handshake, certificates on both
ends, the exporter, evidence signed for it, and the configuration parsed. A thread's TLS key is made
once: making keys is the client's work, not the CAS's.
"""

from __future__ import annotations

import json
import sys
import threading
import time

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from crannog.errors import Error
from crannog.evidence.report import ROLE_SERVICE, Channel, report_data
from crannog.evidence.statement import METHOD_LAUNCHER, Statement, sign_statement
from crannog.exchange.attestation import AttestationClient, Challenge, Evidence
from crannog.exchange.configuration import Configuration
from crannog.levels import Level
from crannog.transport.address import Address, parse_address
from crannog.transport.connect import connect
from crannog.transport.names import resolve
from crannog.transport.stream import Deadline
from crannog.transport.tls import client_context, client_stream, fresh_identity

LAUNCHER = bytes(32)


class Client:
    """One client that attests again and again."""

    def __init__(self, cas: Address, config_id: str, mrenclave: bytes) -> None:
        self._cas = cas
        self._config_id = config_id
        self._mrenclave = mrenclave
        self._key = Ed25519PrivateKey.generate()
        identity = fresh_identity()
        self._public_key = identity.public_key()
        self._context = client_context(identity)

    def attest(self) -> None:
        """One whole attestation; raises our errors."""
        deadline = Deadline.after(60)
        stream = client_stream(self._context, connect(self._cas, deadline, "CAS", resolve), None)
        try:
            stream.handshake(deadline)
            server_key = stream.peer_key() or b""
            channel = Channel(stream.exporter(), self._public_key, server_key)
            client = AttestationClient()
            stream.send(client.hello(self._config_id), deadline)
            done = False
            while not done:
                event = client.next_event()
                if event is None:
                    data = stream.receive(deadline)
                    if not data:
                        raise Error("the CAS ended the connection")
                    client.receive(data)
                elif isinstance(event, Challenge):
                    stream.send(client.evidence(self._evidence(event.nonce, channel)), deadline)
                elif isinstance(event, Configuration):
                    done = True
                else:
                    raise Error(f"refused: {event}")
        finally:
            stream.close()

    def _evidence(self, nonce: bytes, channel: Channel) -> Evidence:
        bound = report_data(
            role=ROLE_SERVICE, nonce=nonce, channel=channel, config_id=self._config_id
        )
        statement = Statement(
            level=Level.SIMULATION,
            method=METHOD_LAUNCHER,
            mrenclave=self._mrenclave,
            report_data=bound,
            launcher=LAUNCHER,
            config_id=self._config_id,
            cas=str(self._cas),
            issued_at=int(time.time()),
        )
        return Evidence((sign_statement(statement, self._key),), LAUNCHER, None, None)


def main(arguments: list[str]) -> int:
    """Run the load and print what was seen."""
    cas = parse_address(arguments[0], 18765, "CAS")
    config_id, mrenclave = arguments[1], bytes.fromhex(arguments[2])
    threads, seconds = int(arguments[3]), float(arguments[4])
    latencies: list[float] = []
    failures: list[str] = []
    start = threading.Barrier(threads)

    def work() -> None:
        client = Client(cas, config_id, mrenclave)
        start.wait()
        end = time.monotonic() + seconds
        while (begin := time.monotonic()) < end:
            try:
                client.attest()
            except Error as error:
                failures.append(str(error))
            else:
                latencies.append((time.monotonic() - begin) * 1000)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    print(json.dumps({"latencies": latencies, "failures": failures}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
