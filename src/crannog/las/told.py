"""What the container's record tells the launcher, read as the launcher reads it.

The launcher's own reading is `crannog.runtime.settings` and `runtime.attest.cas_address`; a record
that this module reads differently is not vouched for, since the two are compared.
"""

from __future__ import annotations

from crannog.errors import Denied, Misconfigured
from crannog.evidence.subject import Pins
from crannog.las.witness import Told
from crannog.transport.address import ENCLAVE_API_PORT, parse_address

_DEFAULT_CAS = "cas"
_JUDGED = ("SCONE_CONFIG_ID", "SCONE_CAS_ADDR", "CRANNOG_CAS_KEY", "CRANNOG_SESSION_HASH")


def told(environment: tuple[str, ...]) -> Told:
    """The values in a record's NAME=VALUE strings.

    Raises:
        Denied: a variable is there twice, or the CAS's address is none.
    """
    found: dict[str, str] = {}
    for text in environment:
        name, _, value = text.partition("=")
        if name not in _JUDGED:
            continue
        if name in found:
            raise Denied(f"the container's record has {name} twice")
        found[name] = value
    try:
        address = parse_address(
            found.get("SCONE_CAS_ADDR") or _DEFAULT_CAS, ENCLAVE_API_PORT, "SCONE_CAS_ADDR"
        )
    except Misconfigured as error:
        raise Denied(f"the container's record: {error.message}") from error
    session, slash, rest = found.get("SCONE_CONFIG_ID", "").rpartition("/")
    # (A) The one-time password is not repeated in a statement.
    service = rest.partition("@")[0]
    return Told(
        config_id=f"{session}{slash}{service}",
        cas=str(address),
        pins=Pins(found.get("CRANNOG_CAS_KEY", ""), found.get("CRANNOG_SESSION_HASH", "").lower()),
    )
