"""Which cluster is used: the one that is given, one that is up here, or one made for it.

The one that KUBECONFIG names, with the registry that CRANNOG_TEST_REGISTRY names; else the local
one that CRANNOG_TEST_CLUSTER names (`make cluster`); else one made here, where that can be had.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from tests.cluster.local import programs
from tests.cluster.local.cluster import attach, down, remove_dead, up
from tests.cluster.rig import Cluster, given_cluster, local_cluster
from tests.containers.rig import RUN, Engine, is_dead


class NoCluster(Exception):
    """None is named, and none can be made here; the text says why. One that breaks is no such."""


@contextmanager
def chosen_cluster(engine: Engine) -> Iterator[Cluster]:
    """A cluster that answers; one that is made here is removed at the end.

    Raises:
        NoCluster: there is none, and none can be made here.
    """
    if is_given():
        registry = os.environ.get("CRANNOG_TEST_REGISTRY", "")
        if not registry:
            raise NoCluster("KUBECONFIG names a cluster, but CRANNOG_TEST_REGISTRY no registry")
        yield given_cluster(registry, engine)
        return
    named = os.environ.get("CRANNOG_TEST_CLUSTER")
    if named:
        yield local_cluster(attach(named), engine)
        return
    with made_cluster(engine, RUN) as made:
        yield made


@contextmanager
def made_cluster(engine: Engine, name: str) -> Iterator[Cluster]:
    """A cluster of two nodes on this machine, which is nobody else's.

    Args:
        engine: builds and pushes its images.
        name: begins with the run's, so that it is found should this process be killed.

    Raises:
        NoCluster: none can be made here.
    """
    reason = programs.why_not()
    if reason:
        raise NoCluster(reason)
    remove_dead(lambda each: is_dead("-".join(each.split("-")[:4])))
    local = up(name)
    try:
        yield local_cluster(local, engine)
    finally:
        down(name)


def is_given() -> bool:
    """Whether somebody's cluster is named, beside which none is made here."""
    return bool(os.environ.get("KUBECONFIG"))
