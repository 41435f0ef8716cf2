"""What verified evidence says, whoever made it. Appraisal (`appraise.py`) sees nothing else."""

from __future__ import annotations

from typing import NamedTuple

from crannog.evidence.subject import Container, Pins
from crannog.levels import Level


class Claims(NamedTuple):
    """The facts that an authentic piece of evidence vouches for, and how strongly.

    Attributes:
        level: how much the signature is worth. Follows from the key that signed, and is never
            more than what the signed text itself claims.
        method: who looked, in words of the signed text: `launcher`, `las/tcp`, `las/unix`,
            `las/witness`.
        mrenclave: the program's measurement, 32 bytes.
        report_data: the 64 bytes it was made for.
        launcher: digest of the launcher that measured, 32 bytes.
        config_id: the configuration id asked for.
        cas: the CAS address the program was told, for the record.
        signer: the Ed25519 public key that signed, 32 bytes: the platform's name in `platforms:`.
        issued_at: seconds since the epoch by the signer's clock; for the record, since the nonce is
            what makes evidence fresh.
        reason: why the level is not higher, in printable characters; empty where there is nothing
            to say.
        pins: which CAS and session version the program insists on, by the container's record; empty
            below level node, where nobody has looked.
        container: the container that the program is the init of; None below level node.
    """

    level: Level
    method: str
    mrenclave: bytes
    report_data: bytes
    launcher: bytes
    config_id: str
    cas: str
    signer: bytes
    issued_at: int
    reason: str
    pins: Pins = Pins()
    container: Container | None = None


class Trust(NamedTuple):
    """Whose signatures are worth more than simulation.

    Attributes:
        node_keys: Ed25519 public keys (32 bytes each) of enrolled LASes.
    """

    node_keys: frozenset[bytes] = frozenset()
