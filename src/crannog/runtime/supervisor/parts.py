"""Joins the parts that serve execution, directory listings and loading to the supervisor."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crannog.runtime.supervisor.dlopen import Loading
from crannog.runtime.supervisor.execute import Executables
from crannog.runtime.supervisor.listing import Listing
from crannog.runtime.supervisor.looking import status_of

if TYPE_CHECKING:
    from crannog.runtime.supervisor.loop import Supervisor


def register(supervisor: Supervisor) -> None:
    """Register the handlers of execve, execveat, getdents, getdents64 and mmap.

    The filter has to notify the first four always, and mmap of files that is executable or private
    where `World.allow_dlopen` is below 2.
    """
    world = supervisor.world
    executables = Executables(supervisor.contents, supervisor.say)
    loading = Loading(world.allow_dlopen, world.measured, executables.name_of, supervisor.say)
    executables.rule = loading
    listing = Listing(supervisor, status_of)
    supervisor.executables = executables
    supervisor.register("execve", executables.handle)
    supervisor.register("execveat", executables.handle)
    supervisor.register("getdents", listing.handle)
    supervisor.register("getdents64", listing.handle)
    if loading.enforced:
        supervisor.register("mmap", loading.handle)
