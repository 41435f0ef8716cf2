"""How a CAS starts, or says why it does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from crannog.errors import Error
from tests.api.helpers import running


def test_a_state_directory_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Error, match="state directory"), running(tmp_path / "file" / "state"):
        raise AssertionError("started")


def test_a_second_cas_on_one_database_is_refused(tmp_path: Path) -> None:
    with running(tmp_path / "state") as cas:
        with pytest.raises(Error), running(tmp_path / "state"):
            raise AssertionError("started")
        assert cas.call("GET", "/v1/health")[0] == 200
