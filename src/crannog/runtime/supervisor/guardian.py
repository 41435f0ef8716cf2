"""A process between the launcher and the program, so that nothing outlives the launcher.

Where the launcher is PID 1 the kernel ends everything with it. Elsewhere a killed launcher would
leave what the program has started: `PR_SET_PDEATHSIG` reaches only a child. So a copy of the
launcher that serves nothing stays in between: it adopts the program's orphans, hands signals down
and the exit status up, and kills everything below it when the launcher is gone.
"""

from __future__ import annotations

import os
import signal
import threading
from typing import NoReturn

from crannog.linux.process import (
    become_subreaper,
    close_from,
    kill_descendants,
    signal_descendants,
)
from crannog.runtime.init import supervise


def watch_over(program: int, launcher_lives: int) -> NoReturn:
    """Be the guardian of `program`, a child of this process; never returns.

    Args:
        program: its process id.
        launcher_lives: the reading end of a pipe whose other end only the launcher has.
    """
    status = 1
    try:
        become_subreaper()
        os.dup2(launcher_lives, 3, inheritable=False)
        close_from(4)
        threading.Thread(target=_until_it_closes, args=(3,), daemon=True).start()
        status = supervise(program)
        kill_descendants()
    finally:
        os._exit(status)


def _until_it_closes(descriptor: int) -> None:
    while os.read(descriptor, 1):
        pass
    # The main thread sees the program end, and kills what was forked meanwhile.
    signal_descendants(signal.SIGKILL)
