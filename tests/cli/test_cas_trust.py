"""`crannog cas las` and `crannog cas launcher`, beside a running CAS and beside a stopped one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from crannog.testing.platform import DevelopmentPlatform
from tests.cli.conftest import Commands

DIGEST = "ab" * 32


class Trust(Commands):
    """The commands, with the state directory of the platform."""

    def __init__(self, platform: DevelopmentPlatform) -> None:
        super().__init__(platform, platform.directory)
        self.state = str(platform.directory / "state" / "cas")

    def order(self, *arguments: str) -> str:
        """The head that a command prints which has to succeed."""
        return self.ok("cas", *arguments, "--state-directory", self.state).strip()

    def refused(self, *arguments: str) -> str:
        """What a command says that has to fail."""
        result = self("cas", *arguments, "--state-directory", self.state)
        assert result.status != 0
        assert result.stdout == ""
        return result.stderr

    @property
    def key(self) -> str:
        """The public key of the platform's LAS."""
        found = re.search(r"has public key ([0-9a-f]{64})", self.platform.log())
        assert found is not None
        return found[1]


@pytest.fixture
def trust(tmp_path: Path) -> Iterator[Trust]:
    with DevelopmentPlatform(tmp_path) as platform:
        yield Trust(platform)


def test_a_las_is_enrolled_listed_and_removed_beside_a_running_cas(trust: Trust) -> None:
    head = trust.order("las", "add", trust.key, "--note", "node 1")
    assert re.fullmatch(r"[0-9]+:[0-9a-f]{64}", head)
    listed = trust.order("las", "list")
    assert re.fullmatch(rf"{trust.key} [0-9-]+T[0-9:.]+Z node 1", listed)
    (entry,) = json.loads(trust.order("las", "list", "--json"))
    assert (entry["key"], entry["note"]) == (trust.key, "node 1")
    assert f"CAS operator: las-add {trust.key}" in trust.platform.log()
    assert "is accepted since" in trust.refused("las", "add", trust.key)
    trust.order("las", "remove", trust.key)
    assert trust.order("las", "list", "--json") == "[]"
    error = trust.refused("las", "remove", trust.key)
    assert "is not accepted by this CAS" in error
    assert "Hint: crannog cas las list" in error
    trust.order("verify-audit-log", "--expect-head", head)


def test_a_stopped_cas_is_told_in_the_same_words(trust: Trust) -> None:
    key = trust.key
    trust.platform.stop()
    trust.order("las", "add", key)
    trust.order("launcher", "add", DIGEST, "--note", "release 1")
    assert trust.order("las", "list").startswith(key)
    assert trust.order("launcher", "list").endswith("Z release 1")


def test_launchers(trust: Trust) -> None:
    result = trust("cas", "launcher", "list", "--state-directory", trust.state)
    assert result.stdout == ""
    assert "no launcher is listed: every one" in result.stderr
    trust.order("launcher", "add", DIGEST.upper())
    (entry,) = json.loads(trust.order("launcher", "list", "--json"))
    assert entry["digest"] == DIGEST
    error = trust.refused("launcher", "remove", DIGEST)
    assert "is the last of the list" in error
    assert "crannog cas launcher clear" in error
    cleared = trust("cas", "launcher", "clear", "--state-directory", trust.state)
    assert cleared.status == 0
    assert "Warning: every launcher" in cleared.stderr
    assert "no launcher digest is listed" in trust.refused("launcher", "clear")


@pytest.mark.parametrize(
    ("arguments", "said", "hint"),
    [
        (("las", "add", "abc"), "has 3 characters, expected 64 hex digits", "/public/"),
        (("las", "add", "00" * 32), "small order", "/public/"),
        (("las", "add", "zz" * 32), "is not lower-case hex", "/public/"),
        (("launcher", "add", "abc"), "expected 64 hex digits", "crannog self show"),
    ],
)
def test_what_is_no_key_or_digest_is_refused(
    platform: DevelopmentPlatform, arguments: tuple[str, ...], said: str, hint: str
) -> None:
    error = Trust(platform).refused(*arguments)
    assert said in error
    assert hint in error
    assert error.count(said) == 1


def test_without_the_master_key_nothing_is_ordered(trust: Trust) -> None:
    Path(trust.state, "master.key").rename(Path(trust.state, "elsewhere.key"))
    assert "holds no master key" in trust.refused("las", "add", trust.key)
    assert "holds no master key" in trust.refused("las", "list")
    keys = f"file:{trust.state}/elsewhere.key"
    trust.order("las", "add", trust.key, "--key-provider", keys)


def test_a_directory_without_a_database_is_named(
    platform: DevelopmentPlatform, tmp_path: Path
) -> None:
    directory = ("--state-directory", str(tmp_path / "none"))
    result = Trust(platform)("cas", "las", "add", "ab" * 32, *directory)
    assert result.status != 0
    assert "there is no database" in result.stderr
    assert not (tmp_path / "none").exists()


def test_an_enrolled_las_of_the_platform(tmp_path: Path) -> None:
    with DevelopmentPlatform(tmp_path) as platform:
        platform.enrol(platform.las_key, note="ours")
        platform.accept_launcher(DIGEST)
        trust = Trust(platform)
        assert trust.order("las", "list").endswith(" ours")
        platform.remove_las(platform.las_key)
        assert trust.order("las", "list") == ""
