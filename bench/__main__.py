"""`make bench`: take every measure this machine can, print the table, write bench/out/bench.json.

`python -m bench NAME…` takes only those; the names are in `GROUPS` and `ASKED_FOR`. Run it on a
quiet machine: the ratios are against baselines of the same run, the absolute figures are this
machine's.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

from bench import attesting, cluster, containers, protecting, shield_files, starting
from bench.report import Row, Skipped, print_table, write_json
from bench.tools import CannotMeasure

GROUPS: dict[str, Callable[[], list[Row]]] = {
    "small-files": shield_files.small_files,
    "large-file": shield_files.large_file,
    "start": starting.starting,
    "attest": attesting.attesting,
    "addf-large": protecting.large,
    "addf-small": protecting.small,
    "containers": containers.containers,
}
ASKED_FOR: dict[str, Callable[[], list[Row]]] = {"cluster": cluster.clustered}
"""Taken only when named: it makes a cluster on this machine."""


def main(names: list[str]) -> int:
    """Measure the groups named, or all."""
    known = GROUPS | ASKED_FOR
    unknown = [name for name in names if name not in known]
    if unknown:
        print(f"bench: no group {unknown[0]!r}, expected some of {', '.join(known)}")
        return 2
    rows: list[Row | Skipped] = []
    load = os.getloadavg()[0]
    for name in names or list(GROUPS):
        print(f"measuring {name} …", file=sys.stderr, flush=True)
        try:
            rows += known[name]()
        except CannotMeasure as reason:
            rows.append(Skipped(name, str(reason)))
    print_table(rows)
    print(f"load average before: {load:.1f}, on {os.cpu_count()} processors")
    write_json(rows, Path(__file__).parent / "out" / "bench.json", load=load)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
