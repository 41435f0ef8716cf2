"""Joins the parts that serve execution, directory listings and loading to the supervisor."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from crannog.errors import Misconfigured
from crannog.runtime.supervisor import rights
from crannog.runtime.supervisor.dlopen import Loading
from crannog.runtime.supervisor.execute import Asker, Executables
from crannog.runtime.supervisor.listing import Listing
from crannog.runtime.supervisor.looking import status_of
from crannog.runtime.supervisor.resolve import Caller
from crannog.shield.paths import printable

if TYPE_CHECKING:
    from crannog.runtime.supervisor.loop import Supervisor


def register(supervisor: Supervisor) -> Executables:
    """Register the handlers of execve, execveat, getdents, getdents64 and mmap.

    The filter has to notify the first four always, and mmap of files that is executable or private
    where `World.allow_dlopen` is below 2.

    Returns:
        What serves execution, for tests.
    """
    world = supervisor.world
    executables = Executables(supervisor.contents, supervisor.say)
    loading = Loading(
        world.allow_dlopen,
        world.measured,
        supervisor.contents,
        executables.name_of,
        supervisor.say,
    )
    executables.rule = loading
    listing = Listing(supervisor, status_of)
    supervisor.executables = executables
    supervisor.prepare_execution = lambda served, path, argv: _prepare(
        served, executables, path, argv
    )
    supervisor.register("execve", executables.handle)
    supervisor.register("execveat", executables.handle)
    supervisor.register("getdents", listing.handle)
    supervisor.register("getdents64", listing.handle)
    if loading.enforced:
        supervisor.register("mmap", loading.handle)
    return executables


def _prepare(
    supervisor: Supervisor, executables: Executables, path: bytes, argv: Sequence[bytes]
) -> tuple[int | bytes, list[bytes]]:
    """What the launcher's child executes first; see `Executables.prepare`.

    Raises:
        Misconfigured: it would not be executed.
    """
    own = Caller(os.getpid(), os.getpid())
    asker = Asker(
        lambda name: supervisor.resolver.resolve(b"/", name, own),
        lambda found: rights.of(supervisor, found, supervisor.own_credentials),
    )
    try:
        return executables.prepare(path, argv, asker)
    except OSError as error:
        reason = os.strerror(error.errno or 0).lower()
        raise Misconfigured(
            f"cannot execute {printable(path)}: {reason}",
            hint="the executable has to be there, executable, and for this machine",
        ) from error
