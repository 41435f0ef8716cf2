from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.api.helpers import SESSION, Cas, running
from tests.api.token_enrolment import Cluster, cluster_at


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cas]:
    """One CAS per module, with the tutorial's session of `owner` in it."""
    with running(tmp_path_factory.mktemp("cas") / "state") as cas:
        cas.post(SESSION)
        yield cas


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with cluster_at(tmp_path) as found:
        yield found


@pytest.fixture
def key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


@pytest.fixture
def other() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()
