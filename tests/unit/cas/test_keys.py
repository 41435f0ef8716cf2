from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from crannog.cas.keys import EnvironmentKey, FileKey, key_provider
from crannog.errors import Misconfigured, StorageFailed


def test_a_missing_file_is_no_key_yet(tmp_path: Path) -> None:
    assert FileKey(tmp_path / "key").load() is None


def test_a_created_key_is_private_and_reads_back(tmp_path: Path) -> None:
    provider = FileKey(tmp_path / "key")
    key = provider.create(os.urandom)
    assert provider.load() == key
    assert len(key) == 32
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


def test_an_existing_key_is_never_overwritten(tmp_path: Path) -> None:
    provider = FileKey(tmp_path / "key")
    first = provider.create(os.urandom)
    assert provider.create(os.urandom) == first
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o601])
def test_a_key_that_others_may_touch_is_refused(tmp_path: Path, mode: int) -> None:
    provider = FileKey(tmp_path / "key")
    provider.create(os.urandom)
    (tmp_path / "key").chmod(mode)
    with pytest.raises(Misconfigured, match=f"mode {mode:04o}, expected 0600") as caught:
        provider.load()
    assert "chmod 600" in caught.value.hint


def test_a_directory_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    with pytest.raises(Misconfigured, match="not a regular file"):
        FileKey(tmp_path).load()


def test_a_fifo_is_refused_and_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "key", 0o600)
    with pytest.raises(Misconfigured, match="not a regular file"):
        FileKey(tmp_path / "key").load()


@pytest.mark.parametrize("text", ["", "ab", "zz" * 32, "AB" * 32, "ab" * 32 + "\n\n", "ab" * 33])
def test_a_file_without_64_hex_digits_is_refused_without_repeating_it(
    tmp_path: Path, text: str
) -> None:
    (tmp_path / "key").write_text(text)
    (tmp_path / "key").chmod(0o600)
    with pytest.raises(Misconfigured, match="64 lower-case hex digits") as caught:
        FileKey(tmp_path / "key").load()
    assert not text or text[:60] not in str(caught.value)


def test_a_key_in_a_directory_that_is_missing_cannot_be_created(tmp_path: Path) -> None:
    with pytest.raises(StorageFailed, match="cannot be written"):
        FileKey(tmp_path / "missing" / "key").create(os.urandom)


def test_the_environments_key_reads() -> None:
    assert EnvironmentKey("K", {"K": "0f" * 32}).load() == b"\x0f" * 32


def test_the_environments_key_is_never_made_up() -> None:
    provider = EnvironmentKey("K", {})
    assert provider.load() is None
    with pytest.raises(Misconfigured, match="variable K is not set"):
        provider.create(os.urandom)


def test_a_malformed_key_in_the_environment_is_refused() -> None:
    with pytest.raises(Misconfigured, match="variable K does not hold"):
        EnvironmentKey("K", {"K": "secret"}).load()


def test_providers_are_named_by_their_setting(tmp_path: Path) -> None:
    assert key_provider("file", tmp_path, {}).describe() == f"key file {tmp_path}/master.key"
    assert key_provider("file:/x/y", tmp_path, {}).describe() == "key file /x/y"
    assert key_provider("env:K", tmp_path, {}).describe() == "variable K"


@pytest.mark.parametrize("text", ["", "file:", "env:", "tpm", "kms:x"])
def test_an_unknown_provider_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(Misconfigured, match="expected file, file:PATH or env:NAME"):
        key_provider(text, tmp_path, {})
