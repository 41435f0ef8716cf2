"""Which container does a process belong to, and what is recorded about it?

Bounded: the ids in the process's control group paths, innermost first, are asked for by name. No
directory is searched. Whether the process is the container's init is the witness's question.
"""

from __future__ import annotations

import re
from typing import Protocol

from crannog.errors import Denied, Error
from crannog.las.record import Record
from crannog.las.records import containerd, docker, podman
from crannog.las.records.places import Places
from crannog.las.tree import Tree


class Engine(Protocol):
    """One of the modules beside this one."""

    ENGINE: str

    def directories(self, places: Places) -> tuple[str, ...]:
        """Where its records lie."""

    def read(self, tree: Tree, places: Places, container: str) -> Record | None:
        """The record of a container, or None where the engine has none of that id."""


_ID = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
_MOST_IDS = 4
_ENGINES: tuple[Engine, ...] = (docker, containerd, podman)


def container_ids(groups: tuple[str, ...]) -> tuple[str, ...]:
    """The ids in control group paths, the innermost first, at most four."""
    found: dict[str, None] = {}
    for group in groups:
        for text in reversed(_ID.findall(group)):
            found.setdefault(text)
    return tuple(found)[:_MOST_IDS]


def find(tree: Tree, places: Places, groups: tuple[str, ...]) -> Record:
    """The record of the container that a process with these control groups is in.

    Raises:
        Denied: there is none, or one that cannot be relied on; says which and why.
    """
    ids = container_ids(groups)
    if not ids:
        raise Denied("the process is in no container: its control group names none")
    for container in ids:
        for engine in _ENGINES:
            try:
                record = engine.read(tree, places, container)
            except Error as error:
                raise Denied(
                    f"the record of {engine.ENGINE} cannot be relied on: {error.message}",
                    hint=error.hint,
                ) from error
            if record is not None:
                return record
    raise Denied(
        f"no engine has a record of container {ids[0][:12]} that the LAS can read",
        hint="mount the engine's record directories into the LAS: crannog las serve --help",
    )


def readable(tree: Tree, places: Places) -> tuple[str, ...]:
    """The record directories that are there and can be relied on, for the log."""
    found: list[str] = []
    for engine in _ENGINES:
        for directory in engine.directories(places):
            try:
                if tree.names(directory, limit=1) is not None:
                    found.append(directory)
            except Error:
                continue
    return tuple(found)
