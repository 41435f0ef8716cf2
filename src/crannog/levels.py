"""The levels of trust, and what each does not protect against. See LIMITATIONS.md."""

from __future__ import annotations

from enum import Enum

from crannog.errors import FormatError


class Level(Enum):
    """Who vouches for a program's measurement. The order is the order of strength.

    The level follows from the key that signed the evidence, and is itself inside what is signed.
    """

    SIMULATION = "simulation"
    NODE = "node"
    HARDWARE = "hardware"

    @property
    def rank(self) -> int:
        """0 for simulation, which proves nothing, up to 2 for hardware."""
        return _RANKS[self]

    def satisfies(self, minimum: Level) -> bool:
        """Whether evidence of this level is enough where `minimum` is asked for."""
        return self.rank >= minimum.rank


_RANKS = {Level.SIMULATION: 0, Level.NODE: 1, Level.HARDWARE: 2}


def parse_level(text: str) -> Level:
    """The level of that name; `FormatError` for any other text, in the exact spelling."""
    for level in Level:
        if text == level.value:
            return level
    raise FormatError(f"trust level is {text[:40]!r}, expected one of simulation, node, hardware")


def stricter(one: Level, other: Level) -> Level:
    """The stronger of the two, which is the one that holds where both are asked for."""
    return one if one.rank >= other.rank else other
