"""What a start imports is a contract: each module costs every start, and has to be trusted."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from crannog.shield.fspf import KEY_LENGTH, seal, sealed_tag
from crannog.shield.index import build_index
from crannog.shield.model import DirectoryEntry, Protection, Region
from crannog.shield.regions import RegionMap
from tests.launcher.conftest import host_environment

_PLAIN = {
    "crannog",
    "crannog.errors",
    "crannog.measure",
    "crannog.measure.defaults",
    "crannog.measure.front",
    "crannog.runtime",
    "crannog.runtime.command",
    "crannog.runtime.find",
    "crannog.runtime.init",
    "crannog.runtime.launch",
    "crannog.runtime.log",
    "crannog.runtime.plan",
    "crannog.runtime.settings",
    "crannog.runtime.spawn",
}
_HASH = (_PLAIN - {"crannog.runtime.init", "crannog.runtime.spawn"}) | {
    "crannog.measure.elf",
    "crannog.measure.ldcache",
    "crannog.measure.loader",
    "crannog.measure.mrenclave",
    "crannog.measure.program",
    "crannog.measure.python",
    "crannog.measure.python_start",
    "crannog.measure.root",
    "crannog.measure.script",
    "crannog.measure.system",
}
# Of the library and of others: what some way to start needs and these do not.
_NEVER = {
    "asyncio",
    "email",
    "http",
    "importlib.metadata",
    "inspect",
    "json",
    "logging",
    "OpenSSL",
    "pathlib",
    "pickle",
    "platform",
    "random",
    "socket",
    "ssl",
    "subprocess",
    "tempfile",
    "urllib",
    "dataclasses",
}


def imported(*command: str, **environment: str) -> set[str]:
    """The modules that the launcher imports, not those that the interpreter starts with."""
    # -S: nothing of the site's, so that the same is imported on every machine.
    found = _imports([sys.executable, "-S", "-m", "crannog", "run", "--", *command], environment)
    return found - _imports([sys.executable, "-S", "-c", ""], {})


def _imports(command: list[str], environment: dict[str, str]) -> set[str]:
    places = [path for path in sys.path if path.endswith(("/src", "/site-packages"))]
    done = subprocess.run(
        [command[0], "-X", "importtime", *command[1:]],
        env=host_environment(SCONE_LOG="FATAL", **environment) | {"PYTHONPATH": ":".join(places)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip() for line in lines}


def of(package: str, modules: Iterable[str]) -> set[str]:
    return {name for name in modules if name == package or name.startswith(f"{package}.")}


def assert_none(names: Iterable[str], modules: set[str]) -> None:
    assert not {found for name in names for found in of(name, modules)}


@pytest.fixture
def protected(tmp_path: Path) -> dict[str, str]:
    """The variables for an fspf with one region, which is empty."""
    regions = RegionMap((Region(b"/app", Protection.ENCRYPTED, bytes(tmp_path)),))
    index = build_index(regions, {b"app": DirectoryEntry(0o755, 0, 0, 0)})
    key = os.urandom(KEY_LENGTH)
    sealed = seal(index, key=key, random=os.urandom)
    path = tmp_path / "fspf.pb"
    path.write_bytes(sealed)
    tag = sealed_tag(sealed, key=key)
    return {"SCONE_FSPF": str(path), "SCONE_FSPF_KEY": key.hex(), "SCONE_FSPF_TAG": tag.hex()}


def test_plain_start_imports_no_more_than_it_needs() -> None:
    modules = imported("/bin/true")
    assert of("crannog", modules) == _PLAIN
    assert_none({*_NEVER, "cryptography", "hashlib", "ctypes", "threading", "struct"}, modules)


def test_hash_imports_what_measures_and_no_more() -> None:
    modules = imported("/bin/true", SCONE_HASH="1")
    assert of("crannog", modules) == _HASH
    assert_none({*_NEVER, "cryptography"}, modules)


def test_shielded_start_imports_no_tls_and_no_json(protected: dict[str, str]) -> None:
    modules = imported("/bin/true", **protected)
    assert "crannog.runtime.supervisor.run" in modules
    assert_none(_NEVER, modules)
    assert_none({"cryptography.x509", "cryptography.hazmat.primitives.ciphers"}, modules)
    assert_none({"hashlib", "hmac", "_hashlib"}, modules)
    assert_none({"crannog.transport", "crannog.exchange", "crannog.evidence"}, modules)
