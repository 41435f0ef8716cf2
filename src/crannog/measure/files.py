"""Files that a program runs, and which they were: what a start needs of a measurement.

Apart from `program`, which finds them: the supervisor compares identities and measures nothing.
"""

from __future__ import annotations

from typing import NamedTuple

from crannog.measure.root import FileIdentity


class MeasuredFile(NamedTuple):
    """A native file of the measurement, as it was when its bytes were read."""

    path: str
    identity: FileIdentity


class NativeFiles(NamedTuple):
    """What a program loads natively, found and not hashed; the fields are `Measurement`'s."""

    program: str
    executable: str
    prefix: tuple[str, ...]
    native: tuple[MeasuredFile, ...]
