"""A failure's reason where Kubernetes shows it: in the container's termination message.

Decides what is written, how much of it and to which kind of file. Only public lines are ever given
here, those of stderr. Nothing is looked up before a start has failed: `command` imports this module
then, and not earlier.

https://kubernetes.io/docs/tasks/debug/debug-application/determine-reason-pod-failure/
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence

from crannog.runtime.log import Log, printable
from crannog.runtime.settings import DEFAULT_TERMINATION_LOG, TERMINATION_LOG

LIMIT = 4000  # bytes; the kubelet shows the last 4096 of the file
FULL = 64 * 1024  # bytes; a probe that executes a launcher would fill the node's disk otherwise

# Nothing is created or emptied, no link followed, and a pipe without a reader not waited for.
_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def leave_reason(log: Log, environment: Mapping[str, str]) -> None:
    """Write what `log` has kept of a failure to the file that the environment, or custom, names.

    The environment and not `Settings`: these may be what could not be read.
    """
    named = environment.get(TERMINATION_LOG, "")
    path = named if named.startswith("/") else DEFAULT_TERMINATION_LOG
    leave_message(path, termination_message(log.reasons, log.notes))


def termination_message(reasons: Sequence[str], notes: Sequence[str]) -> bytes:
    """The lines as a text of at most `LIMIT` bytes: the reason first, then what else was noted."""
    lines = [*reasons, *(f"Note: {note}" for note in notes)]
    text = "".join(f"{printable(line)}\n" for line in lines)
    data = text.encode("utf-8", "backslashreplace")
    if len(data) <= LIMIT:
        return data
    end = b"\n[cut here]\n"
    # Whole characters: a half one would be shown as a wrong one.
    return data[: LIMIT - len(end)].decode("utf-8", "ignore").encode() + end


def leave_message(path: str, message: bytes) -> bool:
    """Append `message` to the regular file at `path`, where there is one; whether that was done.

    The container runtime puts the file there, empty, for each start. Outside Kubernetes there is
    none, and nothing happens.
    """
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            return False  # not even opened: that alone may do something to a device
        descriptor = os.open(path, _FLAGS)
    except (OSError, ValueError):
        return False
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size >= FULL:
            return False
        return os.write(descriptor, message) == len(message)
    except OSError:
        return False  # full, for one; stderr has it
    finally:
        os.close(descriptor)
