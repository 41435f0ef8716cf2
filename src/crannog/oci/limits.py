"""How much of an image is read before it is refused.

Every bound is far above what images have, and stands between a hostile image and this machine's
memory, disk and time. Tests give smaller ones.
"""

from __future__ import annotations

from typing import NamedTuple


class Limits(NamedTuple):
    """Bounds of one image.

    Attributes:
        document: bytes of an index, a manifest or a config (the specification recommends 4 MiB).
        manifests: entries of all indexes together.
        layers: layers of a manifest.
        layer_bytes: bytes of one layer after decompression.
        members: members of all layers together; each costs about a kilobyte of memory.
        extension: bytes of one member's extended header (long names, extended attributes).
        outer_members: members of an archive that holds an image.
    """

    document: int = 4 << 20
    manifests: int = 1000
    layers: int = 512
    layer_bytes: int = 64 << 30
    members: int = 1_000_000
    extension: int = 1 << 20
    outer_members: int = 100_000


DEFAULT = Limits()
