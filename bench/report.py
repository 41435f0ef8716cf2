"""The table that `make bench` prints, and the JSON beside it."""

from __future__ import annotations

import json
import os
import platform
import time
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Row:
    """One measure. `ratio` is against the baseline measured in the same run, 0 where none."""

    measure: str
    value: float
    unit: str
    baseline: str = ""
    ratio: float = 0.0
    reach: str = ""
    reached: bool | None = None


@dataclass(frozen=True, slots=True)
class Skipped:
    """A measure that this machine cannot take, and why."""

    measure: str
    reason: str


def print_table(rows: list[Row | Skipped]) -> None:
    """The rows for people."""
    head = ("measure", "value", "ratio", "against", "reach", "")
    body = [head]
    for row in rows:
        if isinstance(row, Skipped):
            body.append((row.measure, "skipped: " + row.reason, "", "", "", ""))
            continue
        ratio = f"{row.ratio:.2f} ×" if row.ratio else ""
        verdict = {True: "reached", False: "NOT reached", None: ""}[row.reached]
        body.append(
            (
                row.measure,
                f"{_number(row.value)} {row.unit}",
                ratio,
                row.baseline,
                row.reach,
                verdict,
            )
        )
    widths = [max(len(line[i]) for line in body) for i in range(len(head))]
    for line in body:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        )


def write_json(rows: list[Row | Skipped], path: Path, *, load: float) -> None:
    """The rows for programs, with what the machine was, and its load average before them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    value = {
        "taken_at": int(time.time()),
        "machine": {
            "cpus": os.cpu_count(),
            "kernel": platform.release(),
            "python": platform.python_version(),
            "load_before": load,
        },
        "rows": [
            asdict(row) | {"kind": "skipped" if isinstance(row, Skipped) else "row"} for row in rows
        ],
    }
    path.write_text(json.dumps(value, indent=1) + "\n")


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
