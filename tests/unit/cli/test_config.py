"""The command line's own state."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from crannog.cli.config import CliConfig, KnownCas, load_config, save_config
from crannog.cli.identity import load_identity, own_identity, parse_identity
from crannog.errors import Misconfigured, StorageFailed

CAS = KnownCas("localhost:8081", "3s1pm8", "simulation")


def test_a_missing_file_is_an_empty_configuration(tmp_path: Path) -> None:
    assert load_config(tmp_path / "config.json") == CliConfig(tmp_path / "config.json")


def test_what_is_saved_is_loaded_again(tmp_path: Path) -> None:
    config = CliConfig(tmp_path / "a" / "config.json").with_cas(CAS)
    save_config(config)
    assert load_config(config.path) == config


def test_the_file_and_its_directory_are_for_the_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "a" / "config.json"
    save_config(CliConfig(path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_the_first_attested_cas_is_the_default_and_stays_it(tmp_path: Path) -> None:
    config = CliConfig(tmp_path / "c").with_cas(CAS).with_cas(KnownCas("other", "k", "simulation"))
    assert config.default_cas == CAS.name


def test_a_cas_attested_again_is_replaced(tmp_path: Path) -> None:
    again = KnownCas(CAS.name, "another", "simulation")
    assert CliConfig(tmp_path / "c").with_cas(CAS).with_cas(again).known == (again,)


def test_unknown_keys_survive(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"session_signing_keypair_ed25519_seed": "x", "cas_db": {}}))
    save_config(load_config(path).with_cas(CAS))
    assert json.loads(path.read_text())["session_signing_keypair_ed25519_seed"] == "x"


@pytest.mark.parametrize("text", ["", "[]", "{", '{"cas_db": []}', '{"cas_db": {"a": {"x": 1}}}'])
def test_a_file_of_another_kind_is_refused_and_kept(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(Misconfigured, match="not a configuration"):
        load_config(path)
    assert path.read_text() == text


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "config.json"
    save_config(CliConfig(path).with_cas(CAS))
    before = path.read_bytes()

    def fail(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(StorageFailed, match="No space left"):
        save_config(CliConfig(path))
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["config.json"]


def test_an_identity_is_made_once(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    config, first = own_identity(load_config(path))
    _, second = own_identity(load_config(path))
    assert first.certificate == second.certificate
    assert config.identity
    assert "PRIVATE" not in repr(first)


def test_an_identity_that_others_may_read_is_refused(tmp_path: Path) -> None:
    config, identity = own_identity(load_config(tmp_path / "config.json"))
    path = tmp_path / "identity.pem"
    path.write_text(config.identity)
    path.chmod(0o644)
    with pytest.raises(Misconfigured, match="mode 0644"):
        load_identity(path)
    path.chmod(0o600)
    assert load_identity(path).key_hash == identity.key_hash


def test_a_certificate_without_its_key_is_no_identity(tmp_path: Path) -> None:
    _, identity = own_identity(load_config(tmp_path / "config.json"))
    with pytest.raises(Misconfigured, match="no certificate with its private key"):
        parse_identity(identity.certificate, what="it")


def test_a_broken_identity_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"identity": "garbage"}))
    path.chmod(0o600)
    with pytest.raises(Misconfigured, match="cannot be used"):
        own_identity(load_config(path))
    assert json.loads(path.read_text())["identity"] == "garbage"


def test_a_file_that_never_ends_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.symlink_to("/dev/zero")
    with pytest.raises(Misconfigured, match="not a configuration"):
        load_config(path)


def test_a_configuration_whose_key_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    own_identity(load_config(path))
    path.chmod(0o644)
    with pytest.raises(Misconfigured, match="mode 0644, expected 0600"):
        load_config(path)
