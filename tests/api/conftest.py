from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.api.helpers import SESSION, Cas, running


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cas]:
    """One CAS per module, with the tutorial's session of `owner` in it."""
    with running(tmp_path_factory.mktemp("cas") / "state") as cas:
        cas.post(SESSION)
        yield cas
