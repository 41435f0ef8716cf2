"""`make cluster`: bring a cluster up, take it down, run a command where its user sits."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence

from crannog.cli.ui import ui
from crannog.errors import Error, Unavailable
from tests.cluster.local import programs
from tests.cluster.local.cluster import attach, clusters, down, up


def main(arguments: Sequence[str]) -> int:
    """The command; its exit status."""
    options = _parser().parse_args(arguments)
    ui.program = "cluster"
    try:
        return _run(options)
    except Error as error:
        return ui.error(error, doing=f"cluster {options.name}")
    except KeyboardInterrupt:
        ui.note("interrupted")
        return 130


def _run(options: argparse.Namespace) -> int:
    if options.verb == "build":
        _build()
    elif options.verb == "down":
        down(options.name)
        ui.note(f"nothing is left of cluster {options.name}")
    elif options.verb == "list":
        print("\n".join(sorted(clusters())))
    elif options.verb == "sh":
        cluster = attach(options.name)
        command = [*cluster.within, *(options.command or [os.environ.get("SHELL", "sh")])]
        os.execvpe(command[0], command, {**os.environ, **cluster.environment})
    else:
        started = time.monotonic()
        cluster = up(options.name, count=options.nodes, registry_port=options.registry_port)
        ui.note(
            f"cluster {options.name}: {', '.join(cluster.nodes)} ready after"
            f" {time.monotonic() - started:.0f} s, registry {cluster.shape.registry}"
        )
        ui.note(f"a shell at it: python -m tests.cluster.local --name {options.name} sh")
    return 0


def _build() -> None:
    """Build the programs, for the tests that come later; said, where no cluster can be here."""
    reason = programs.why_not()
    if reason:
        raise Unavailable(reason)
    ui.note(f"the programs are in {programs.build()}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.local", description=__doc__)
    parser.add_argument("--name", default="crannog", help="which cluster (crannog)")
    verbs = parser.add_subparsers(dest="verb", required=True)
    bring = verbs.add_parser("up", help="bring it up")
    bring.add_argument("--nodes", type=int, default=2, help="how many nodes (2)")
    bring.add_argument("--registry-port", type=int, default=0, help="port of localhost (5000)")
    verbs.add_parser("build", help="build its programs alone, minutes the first time")
    verbs.add_parser("down", help="remove every trace of it")
    verbs.add_parser("list", help="every cluster of which there is something here")
    shell = verbs.add_parser("sh", help="run a command where its user sits, or a shell")
    shell.add_argument("command", nargs=argparse.REMAINDER)
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
