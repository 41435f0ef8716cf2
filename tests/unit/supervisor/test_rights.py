from __future__ import annotations

import pytest

from crannog.linux.procfs import CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER, Credentials
from crannog.runtime.supervisor.rights import EXECUTE, READ, WRITE, granted, owns

OWNER = Credentials(1, 10, (), 0)
GROUP = Credentials(2, 20, (), 0)
MEMBER = Credentials(3, 30, (5, 20), 0)
OTHER = Credentials(4, 40, (41,), 0)


@pytest.mark.parametrize(
    ("who", "expected"), [(OWNER, 0o4), (GROUP, 0o2), (MEMBER, 0o2), (OTHER, 0o1)]
)
def test_one_class_of_bits_counts(who: Credentials, expected: int) -> None:
    assert granted(who, mode=0o421, uid=1, gid=20) == expected


def test_the_owner_has_no_more_than_the_owners_bits() -> None:
    assert granted(OWNER, mode=0o077, uid=1, gid=10) == 0


def test_the_override_reads_and_writes_everything() -> None:
    root = Credentials(0, 0, (), CAP_DAC_OVERRIDE)
    assert granted(root, mode=0, uid=1, gid=1) == READ | WRITE
    assert granted(root, mode=0, uid=1, gid=1, directory=True) == READ | WRITE | EXECUTE


def test_the_override_executes_what_somebody_may_execute() -> None:
    root = Credentials(0, 0, (), CAP_DAC_OVERRIDE)
    assert granted(root, mode=0o010, uid=1, gid=1) == READ | WRITE | EXECUTE


def test_root_without_capabilities_is_nobody_special() -> None:
    assert granted(Credentials(0, 0, (), 0), mode=0o600, uid=1, gid=1) == 0


def test_read_search_reads_files_and_searches_directories() -> None:
    who = Credentials(9, 9, (), CAP_DAC_READ_SEARCH)
    assert granted(who, mode=0o111, uid=1, gid=1) == READ | EXECUTE
    assert granted(who, mode=0, uid=1, gid=1) == READ
    assert granted(who, mode=0, uid=1, gid=1, directory=True) == READ | EXECUTE


def test_who_owns() -> None:
    assert owns(OWNER, 1)
    assert not owns(OTHER, 1)
    assert owns(Credentials(4, 4, (), CAP_FOWNER), 1)
