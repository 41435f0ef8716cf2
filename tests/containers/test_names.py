"""The launcher's own resolver against the name servers that engines give to containers."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.containers.rig import LABEL, RUN, Engine
from tests.containers.test_foreign import ENTRY

_AARDVARK = ("/usr/lib/podman/aardvark-dns", "/usr/libexec/podman/aardvark-dns")


@pytest.fixture(scope="module")
def network(engine: Engine) -> Iterator[str]:
    """A network on which containers know one another by name."""
    if engine.name == "podman" and not any(Path(path).exists() for path in _AARDVARK):
        pytest.skip("no aardvark-dns: Podman's networks have no name server here")
    name = f"{RUN}-{uuid.uuid4().hex[:8]}"
    engine.call("network", "create", f"--label={LABEL}={RUN}", name)
    yield name
    engine.call("network", "rm", name, check=False)


def launcher(artifacts: Path, network: str, *more: str) -> tuple[str, ...]:
    """The options of a start with the default names of CAS and LAS, tried once."""
    return (
        f"--network={network}",
        f"--volume={artifacts / 'launcher'}:/run/crannog/launcher:ro",
        f"--entrypoint={ENTRY}",
        "--env=SCONE_CONFIG_ID=a/b",
        "--env=CRANNOG_RETRY_SECONDS=0",
        *more,
    )


def test_cas_and_las_are_found_by_the_names_of_their_containers(
    engine: Engine, base_image: str, artifacts: Path, network: str
) -> None:
    options = (f"--network={network}", "--network-alias=cas", "--network-alias=las")
    with engine.container(base_image, "sleep", "600", options=options):
        done = engine.run(
            base_image,
            *("--", "/bin/true"),
            options=launcher(artifacts, network),
            check=False,
        )
        assert done.returncode == 75
        # Nobody listens there: it was found, and it was reached.
        assert "cannot connect to CAS at cas:18765: connection refused" in done.stderr
        assert "Resolution of LAS" not in done.stderr
        done = engine.run(
            base_image,
            *("--", "/bin/true"),
            options=launcher(artifacts, network, "--env=SCONE_CAS_ADDR=CAS:1"),
            check=False,
        )
        assert "cannot connect to CAS at CAS:1: connection refused" in done.stderr


def test_a_name_that_the_engine_does_not_know_is_named(
    engine: Engine, base_image: str, artifacts: Path, network: str
) -> None:
    done = engine.run(
        base_image,
        *("--", "/bin/true"),
        options=launcher(
            artifacts,
            network,
            *("--dns=127.0.0.1", "--dns-option=timeout:1", "--dns-option=attempts:1"),
            "--env=SCONE_LAS_ADDR=127.0.0.1:1",
        ),
        check=False,
    )
    assert done.returncode == 75
    assert "resolution of CAS address cas:18765 failed" in done.stderr


def test_an_entry_of_hosts_is_heeded(engine: Engine, base_image: str, artifacts: Path) -> None:
    done = engine.run(
        base_image,
        *("--", "/bin/true"),
        options=launcher(
            artifacts, "none", "--add-host=cas:127.0.0.1", "--env=SCONE_LAS_ADDR=127.0.0.1:1"
        ),
        check=False,
    )
    assert "cannot connect to CAS at cas:18765: connection refused" in done.stderr


@pytest.mark.parametrize("mounted", ["/etc", "/usr/lib/locale"])
def test_a_mount_over_what_is_measured_is_seen(
    engine: Engine, base_image: str, artifacts: Path, mounted: str
) -> None:
    told = "is not on the mount of the root directory"
    start = launcher(artifacts, "none", "--env=SCONE_LOG=INFO")
    done = engine.run(base_image, "--", "/bin/true", options=start, check=False)
    assert "measured /bin/true" in done.stderr or "measured /usr/bin/true" in done.stderr
    assert told not in done.stderr
    # Over /etc the engine puts its own files; what is left there is enough for a start.
    done = engine.run(
        base_image, "--", "/bin/true", options=(*start, f"--tmpfs={mounted}"), check=False
    )
    assert f"measured {mounted}/" in done.stderr, done.stderr
    assert told in done.stderr
