"""A development platform that containers of every engine can reach."""

from __future__ import annotations

from pathlib import Path

from crannog.cli.cas_client import CasApi
from crannog.cli.config import load_config
from crannog.cli.identity import own_identity
from crannog.keyhash import parse_key_hash
from crannog.session.variables import expand
from crannog.testing.platform import DevelopmentPlatform
from crannog.transport.tls import Pin
from tests.containers.rig import Engine


class ReachablePlatform(DevelopmentPlatform):
    """CAS and LAS on all of the host's addresses; `options` are for containers."""

    def __init__(self, directory: Path, *, ports: tuple[int, int, int] = (0, 0, 0)) -> None:
        super().__init__(directory, listen="0.0.0.0", free_ports=False)
        self._api: CasApi | None = None
        for name, port in zip(("client", "enclave", "las"), ports, strict=True):
            self._arguments += [f"--{name}-port", str(port)]

    def create_session(self, text: str) -> str:
        """As the command line creates a session, without a process for each; its hash."""
        if self._api is None:
            config, identity = own_identity(load_config(self.directory / ".cas" / "config.json"))
            known = config.cas(config.default_cas)
            assert known is not None
            pin = Pin(key_sha256=parse_key_hash(known.key_hash))
            self._api = CasApi(known.name, identity, pin)
        return self._api.create(expand(text.encode(), {}).decode()).hash

    def cas_address(self, engine: Engine) -> str:
        """HOST:PORT of the CAS for programs, from a container."""
        return _from_container(self.cas_enclave, engine)

    def las_address(self, engine: Engine) -> str:
        """HOST:PORT of the LAS from a container."""
        return _from_container(self.las, engine)

    def options(self, engine: Engine, config_id: str, **more: str) -> tuple[str, ...]:
        """The options of `run` that make a container's program attest here; `more` variables."""
        variables = {
            "SCONE_CAS_ADDR": self.cas_address(engine),
            "SCONE_LAS_ADDR": self.las_address(engine),
            "SCONE_CONFIG_ID": config_id,
            **more,
        }
        return tuple(f"--env={name}={value}" for name, value in variables.items())


def _from_container(address: str, engine: Engine) -> str:
    return f"{engine.gateway}:{address.rpartition(':')[2]}"
