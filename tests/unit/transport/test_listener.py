from __future__ import annotations

import pytest

from crannog.errors import Misconfigured
from crannog.transport.listener import tcp_socket


@pytest.mark.parametrize("host", ["\udcff", "a\0b", "999.1.1.1", "a b\n", "x" * 300])
def test_what_is_no_address_is_refused_as_one(host: str) -> None:
    with pytest.raises(Misconfigured, match="cannot listen on"):
        tcp_socket(host, 0, "CAS")
