"""Options of the commands that open a CAS's state."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

StateOption = Annotated[
    Path | None,
    typer.Option(
        "--state-directory",
        help="Holds the database and, unless you bring it, its key.",
        show_default="~/.local/state/crannog/cas",
    ),
]
KeyOption = Annotated[
    str,
    typer.Option(
        "--key-provider",
        help="Where the key comes from that seals the database: `file`, `file:PATH`, `env:NAME`.",
    ),
]
