"""Attest and configure: how many a second, at 1, 8, 32 and 64 clients, CAS in one process.

Clients and CAS share the machine's cores.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.report import Row
from crannog.testing.platform import DevelopmentPlatform

SECONDS = 5.0
MRENCLAVE = "5a" * 32
SESSION = f"""\
name: bench-attest
version: "0.2"
services:
  - name: application
    image_name: image
    mrenclaves: [{MRENCLAVE}]
    command: python3 /app/server.py
    environment: {{GREETING: hello, PASSWORD: $$SCONE::PASSWORD$$}}
images:
  - name: image
    injection_files:
      - {{path: /app/cert.pem, content: $$SCONE::SERVER_CERT.crt$$}}
      - {{path: /app/key.pem, content: $$SCONE::SERVER_CERT.key$$}}
secrets:
  - {{name: PASSWORD, kind: ascii}}
  - {{name: SERVER_CERT, kind: x509}}
"""


def attesting() -> list[Row]:
    """Rates and latencies; a failure is a row of its own."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name, DevelopmentPlatform(Path(name)) as platform:
        platform.attest()
        platform.create_session(SESSION)
        _load(platform, 8, 1.0)  # warm up
        for clients in (1, 8, 32, 64):
            latencies, failures = _load(platform, clients, SECONDS)
            rows += _rows(clients, latencies, failures)
    return rows


def _rows(clients: int, latencies: list[float], failures: list[str]) -> list[Row]:
    title = f"attest + configure, {clients} client{'s' if clients > 1 else ''}"
    rate = len(latencies) / SECONDS
    reach, reached = ("≥ 350 (aim 550)", rate >= 350) if clients == 8 else ("", None)
    rows = [
        Row(title, rate, "/s", "", 0.0, reach, reached),
        Row(f"{title}, p50", statistics.median(latencies), "ms"),
        Row(f"{title}, p95", statistics.quantiles(latencies, n=20)[18], "ms"),
    ]
    if failures or clients == 64:
        rows.append(Row(f"{title}, failures", len(failures), "", "", 0.0, "0", not failures))
    return rows


def _load(
    platform: DevelopmentPlatform, clients: int, seconds: float
) -> tuple[list[float], list[str]]:
    """Two client processes, so that the client's interpreter lock is not what is measured."""
    shares = [clients] if clients == 1 else [clients - clients // 2, clients // 2]
    processes = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "bench.attest_client", platform.cas_enclave),
                *("bench-attest/application", MRENCLAVE, str(share), str(seconds)),
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        for share in shares
    ]
    latencies: list[float] = []
    failures: list[str] = []
    for process in processes:
        output, _ = process.communicate()
        found = json.loads(output)
        latencies += found["latencies"]
        failures += found["failures"]
    return latencies, failures
