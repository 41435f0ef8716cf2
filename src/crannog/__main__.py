"""Where `crannog`, `scone` and `python -m crannog` begin.

`crannog run` is decided here, before anything of the command line is imported: the launcher's
start-up time is part of the product, and so is what it has to trust.
"""

from __future__ import annotations

import gc
import os
import sys


def main() -> int:
    """Run the command line; returns the exit status."""
    return _dispatch(sys.argv, program="crannog")


def main_as_scone() -> int:
    """As `main`, named `scone` in help and messages."""
    return _dispatch(sys.argv, program="scone")


def _dispatch(argv: list[str], *, program: str) -> int:
    if len(argv) > 1 and argv[1] == "run":
        gc.disable()  # until the program runs: nothing that a start makes is garbage
        from crannog.runtime.command import leave, run_command

        leave(run_command(argv[2:], program=program))
    if os.getpid() == 1:
        _end_when_told()
    from crannog.cli.main import run_cli

    return run_cli(argv[1:], program=program)


def _end_when_told() -> None:
    """Let SIGTERM end a container's first process, which the kernel spares without a handler.

    `docker stop` would otherwise wait ten seconds for whatever has not taken the signal over yet.
    """
    import signal

    signal.signal(signal.SIGTERM, lambda number, _frame: os._exit(128 + number))


if __name__ == "__main__":
    sys.exit(main())
