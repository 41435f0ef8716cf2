"""Where state lies when nobody says: in `$XDG_STATE_HOME`, else in `~/.local/state`."""

from __future__ import annotations

import os
from pathlib import Path


def state_directory(name: str) -> Path:
    """The default state directory of `name` (`cas`, `las`, `up`); made by who uses it."""
    base = os.environ.get("XDG_STATE_HOME")
    # The specification: a relative path is to be ignored.
    root = Path(base) if base and os.path.isabs(base) else Path.home() / ".local" / "state"
    return root / "crannog" / name
