"""Taking JSON documents apart that a container runtime wrote: typed, bounded, nothing unseen.

The runtimes are written in Go: a field that is empty may be missing or null, which mean the same. A
field of another type than expected is refused. What nobody has taken is reported, not dropped, so
that the rules can refuse a record that bends them in a way we do not know.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from crannog.errors import FormatError
from crannog.wire import Json

MOST_OBJECTS = 4096
"""Items of one list. Docker's seccomp profile, the longest one, has some fifty rules."""


class Document:
    """An object of a record; take its fields with the methods, then ask for `left`.

    Args:
        value: the object.
        what: names it in errors and in what is left over.
    """

    def __init__(self, value: Json, what: str) -> None:
        if value is None:
            value = {}
        if not isinstance(value, Mapping):
            raise FormatError(f"{what} of the record is not an object")
        self._left: dict[str, Json] = dict(value)
        self._what = what

    def text(self, name: str) -> str:
        """A string, "" where it is missing."""
        value = self._left.pop(name, None)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise self._wrong(name, "a string")
        return value

    def number(self, name: str) -> int | None:
        """An integer, None where it is missing."""
        value = self._left.pop(name, None)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool):
            raise self._wrong(name, "an integer")
        return value

    def flag(self, name: str) -> bool:
        """True or false, False where it is missing."""
        value = self._left.pop(name, None)
        if value is None:
            return False
        if not isinstance(value, bool):
            raise self._wrong(name, "true or false")
        return value

    def items(self, name: str) -> list[Json]:
        """A list, empty where it is missing."""
        value = self._left.pop(name, None)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self._wrong(name, "a list")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of strings."""
        found = self.items(name)
        if not all(isinstance(item, str) for item in found):
            raise self._wrong(name, "a list of strings")
        return tuple(cast("list[str]", found))

    def pairs(self, name: str) -> tuple[tuple[str, str], ...]:
        """An object of strings, as pairs in the order of their names."""
        value = self._left.pop(name, None)
        if value is None:
            return ()
        if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
            raise self._wrong(name, "an object of strings")
        return tuple(sorted((key, str(item)) for key, item in value.items()))

    def object(self, name: str) -> Document:
        """An object; what is left of it has to be asked of it."""
        return Document(self._left.pop(name, None), f"{self._what}.{name}")

    def objects(self, name: str) -> tuple[Document, ...]:
        """A list of at most `MOST_OBJECTS` objects: each costs the LAS some microseconds."""
        found = self.items(name)
        if len(found) > MOST_OBJECTS:
            raise FormatError(
                f"{self._what}.{name} of the record has {len(found)} items, "
                f"expected at most {MOST_OBJECTS}"
            )
        return tuple(
            Document(item, f"{self._what}.{name}[{number}]") for number, item in enumerate(found)
        )

    def has(self, name: str) -> bool:
        """Whether the field is there and not null; it stays to be taken."""
        return self._left.get(name) is not None

    def skip(self, *names: str) -> None:
        """These decide nothing that is judged here, whatever they hold."""
        for name in names:
            self._left.pop(name, None)

    def left(self) -> tuple[str, ...]:
        """The full names of fields that nobody took."""
        return tuple(
            f"{self._what}.{name[:60]}"
            for name, value in sorted(self._left.items())
            if value is not None
        )

    def _wrong(self, name: str, expected: str) -> FormatError:
        return FormatError(f"{self._what}.{name} of the record is not {expected}")
