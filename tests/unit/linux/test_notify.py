from __future__ import annotations

import pytest

from crannog.errors import Unsupported
from crannog.linux.notify import NOTIFICATION, check_kernel


@pytest.mark.parametrize("release", ["5.19", "5.19.0-generic", "6.1.0-13-amd64", "10.0"])
def test_new_enough_kernels(release: str) -> None:
    check_kernel(release)


@pytest.mark.parametrize("release", ["5.18.19", "4.19.0", "5.4.0-150-generic"])
def test_an_old_kernel_is_refused(release: str) -> None:
    with pytest.raises(Unsupported, match=r"expected Linux 5\.19") as refused:
        check_kernel(release)
    assert refused.value.hint


@pytest.mark.parametrize("release", ["", "six", "6", "x.19"])
def test_an_unreadable_release_is_refused(release: str) -> None:
    with pytest.raises(Unsupported):
        check_kernel(release)


def test_a_notification_has_the_size_that_the_kernel_says() -> None:
    assert NOTIFICATION.size == 80
