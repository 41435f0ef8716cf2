"""A pytest plugin: the last lines list each skipped group and why, so that no skip is silent."""

from __future__ import annotations

from collections import Counter
from pathlib import PurePosixPath

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Group the skipped tests by their directory and reason."""
    groups: Counter[tuple[str, str]] = Counter()
    for report in terminalreporter.stats.get("skipped", []):
        if isinstance(report.longrepr, tuple):
            path, _, reason = report.longrepr
            reason = str(reason).removeprefix("Skipped: ")
        else:
            path, reason = report.nodeid, str(report.longrepr)
        parts = PurePosixPath(report.nodeid or str(path)).parts
        groups["/".join(parts[:2]) if len(parts) > 2 else str(parts[0]), reason] += 1
    if not groups:
        terminalreporter.write_line("skipped groups: none")
        return
    terminalreporter.write_line("skipped groups:")
    for (group, reason), count in sorted(groups.items()):
        terminalreporter.write_line(f"  {group}: {count} skipped: {reason}")
