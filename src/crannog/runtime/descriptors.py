"""What the launcher keeps of the descriptors that it was started with: 0, 1 and 2, nothing else.

Decides without looking anything up: `/dev` is the image's, and `/proc` need not be there.
"""

from __future__ import annotations

import contextlib
import os

from crannog.errors import Unsupported

_STANDARD = 3


def close_inherited() -> None:
    """Close every descriptor above 2: files that the host opened are not the session's.

    Where 0, 1 or 2 are closed they become the reading end of a pipe that nobody writes to, or the
    next file opened would be one of them. Reading there ends at once, writing fails as on a closed
    one.
    """
    from crannog.linux.process import close_from

    try:
        close_from(_STANDARD)
    except Unsupported:  # a seccomp profile from before the call
        _close_each()
    while True:
        reading, writing = os.pipe()
        os.close(writing)
        if reading >= _STANDARD:
            os.close(reading)
            return
        os.set_inheritable(reading, True)


def _close_each() -> None:
    try:
        # Not up to the limit: it may have been lowered after higher ones were opened.
        descriptors = [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:
        os.closerange(_STANDARD, os.sysconf("SC_OPEN_MAX"))
        return
    for descriptor in descriptors:
        if descriptor >= _STANDARD:
            with contextlib.suppress(OSError):  # the listing's own is closed already
                os.close(descriptor)
