"""What the options before the command leave for it."""

from __future__ import annotations

from pathlib import Path

from crannog.cli.config import CliConfig, default_path, load_config


class State:
    """One per process. `doing` is what an error of the current command is an error of."""

    def __init__(self) -> None:
        self.config_path: Path | None = None
        self.doing = ""

    def load(self) -> CliConfig:
        """The user's configuration."""
        return load_config(self.config_path or default_path())


state = State()
