"""What a statement is about besides the measurement: pins, and the container a process is.

Decides nothing; names and bounds only. Kept apart from `statement.py` so that the launcher's
request for a statement loads no signature code. Format: docs/formats/evidence.md, "statement".
"""

from __future__ import annotations

from typing import NamedTuple

from crannog.errors import FormatError
from crannog.wire import Fields, Json

MAX_TEXT = 1024
"""Characters of one text of a container."""

MAX_PIN = 4096
"""Characters of CRANNOG_CAS_KEY: a certificate in PEM has about 1,100."""

MAX_HASH = 128
"""Characters of CRANNOG_SESSION_HASH."""

MAX_HOOKS = 16
MAX_HOOK = 200


class Pins(NamedTuple):
    """Which CAS and which session the process was told to insist on; "" where it was told none.

    Attributes:
        cas_key: the text of CRANNOG_CAS_KEY.
        session_hash: the text of CRANNOG_SESSION_HASH.
    """

    cas_key: str = ""
    session_hash: str = ""


class Container(NamedTuple):
    """The container whose init the process is, by the runtime's own records; "" for unknown.

    Attributes:
        engine: `docker`, `podman` or `containerd`.
        id: the container's id, 64 hex with these engines.
        name: the name an operator gave it; on Kubernetes the container's name in its pod.
        image: the image as it was named when the container was made. A name, not a content.
        image_id: the image's digest where the record has one, `sha256:…`.
        namespace: the pod's namespace, only from records in the kubelet's runtime namespace.
        pod: the pod's name, likewise.
        hooks: the node's programs that the runtime ran for this container, kind and path.
    """

    engine: str
    id: str
    name: str = ""
    image: str = ""
    image_id: str = ""
    namespace: str = ""
    pod: str = ""
    hooks: tuple[str, ...] = ()


def pins_message(pins: Pins) -> dict[str, Json]:
    """The JSON object of `pins`."""
    return {"cas_key": pins.cas_key, "session_hash": pins.session_hash}


def parse_pins(value: dict[str, Json]) -> Pins:
    """The pins of that object; raises `FormatError` or `TooLarge`."""
    fields = Fields(value, "pins")
    pins = Pins(
        cas_key=fields.text("cas_key", limit=MAX_PIN),
        session_hash=fields.text("session_hash", limit=MAX_HASH),
    )
    fields.end()
    for name, text in zip(pins._fields, pins, strict=True):
        # PEM at most; and so a statement's size is bounded by the number of characters.
        if not text.isascii() or not all(one.isprintable() or one in "\n\r" for one in text):
            raise FormatError(f"pins: {name} has other characters than printable ASCII and lines")
    return pins


def container_message(container: Container) -> dict[str, Json]:
    """The JSON object of `container`."""
    return {
        "engine": container.engine,
        "id": container.id,
        "name": container.name,
        "image": container.image,
        "image_id": container.image_id,
        "namespace": container.namespace,
        "pod": container.pod,
        "hooks": list(container.hooks),
    }


def parse_container(value: dict[str, Json]) -> Container:
    """The container of that object; raises `FormatError` or `TooLarge`."""
    fields = Fields(value, "container")
    container = Container(
        engine=fields.text("engine", limit=40),
        id=fields.text("id", limit=200),
        name=fields.text("name", limit=MAX_TEXT),
        image=fields.text("image", limit=MAX_TEXT),
        image_id=fields.text("image_id", limit=MAX_TEXT),
        namespace=fields.text("namespace", limit=MAX_TEXT),
        pod=fields.text("pod", limit=MAX_TEXT),
        hooks=fields.texts("hooks", limit=MAX_HOOKS, characters=MAX_HOOK),
    )
    fields.end()
    return container
