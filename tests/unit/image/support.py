"""Encrypting a small image from layout to layout, and looking at the result as others would."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from crannog.image.destination import Destination
from crannog.image.encrypt import Encrypted, SessionChoice, encrypt_image
from crannog.image.request import make_request
from crannog.image.session_file import Values
from crannog.image.source import parse_source
from crannog.oci.blobs import Directory
from crannog.oci.limits import DEFAULT, Limits
from crannog.oci.model import Image, Platform
from crannog.oci.rewrite import pass_layer
from crannog.oci.scan import Scan, scan_image
from crannog.oci.source import open_image
from crannog.oci.tar import Member
from crannog.oci.union import File
from crannog.shield.chunks import read_file
from crannog.shield.fspf import Fspf, open_fspf
from crannog.shield.model import FileEntry
from tests.unit.oci.images import Layout

NOW = datetime(2026, 11, 23, 20, 0, tzinfo=UTC)
MARKER = b"PLAIN-CONTENT-THAT-NOBODY-MAY-SEE"
SESSION = """\
name: $NS~hello   # the namespace's
version: "0.2"

services:
   - name: application   # the only one
     image_name: application_image
     mrenclaves: [$MRENCLAVE]
     command: python3 /app/server.py
     environment:
        GREETING: 'hello'
"""


class Told:
    """Hears how far it is, and keeps the steps."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.size = 0

    def step(self, what: str, size: int) -> None:
        self.steps.append(what)

    def progress(self, size: int) -> None:
        self.size += size


class Case:
    """An image in a directory of its own, and what becomes of it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.source = Layout(path / "source")
        self.session = path / "session.yaml"
        self.session.write_text(SESSION)
        self.output = path / "output"
        self.told = Told()
        self.announce: Callable[[Values], None] = lambda values: None

    def encrypt(self, *encrypt: str, **more: Any) -> Encrypted:
        """`image encrypt` with these paths, `/app` where there are none."""
        return self.encrypt_only(*(encrypt or ("/app",)), **more)

    def encrypt_only(
        self,
        *encrypt: str,
        source: str | None = None,
        authenticate: Sequence[str] = (),
        not_protected: Sequence[str] = (),
        allow: Sequence[str] = (),
        fspf: str = "/fspf.pb",
        output: Path | None = None,
        session: bool = True,
        service: str | None = None,
        replace: bool = False,
        force: bool = False,
        platform: Platform | None = None,
        limits: Limits = DEFAULT,
    ) -> Encrypted:
        request = make_request(
            encrypt=[path.encode() for path in encrypt],
            authenticate=[path.encode() for path in authenticate],
            not_protected=[path.encode() for path in not_protected],
            allowed_keys=[path.encode() for path in allow],
            fspf=fspf.encode(),
        )
        return encrypt_image(
            parse_source(source or f"oci:{self.source.path}"),
            request,
            Destination("app:2", None, output or self.output, force),
            engine=None,
            session=SessionChoice(self.session, service, replace) if session else None,
            platform=platform,
            now=NOW,
            version="0.1.0",
            told=self.told,
            announce=self.announce,
            limits=limits,
        )

    def untouched(self) -> None:
        """Nothing was made and nothing changed."""
        assert not self.output.exists()
        assert self.session.read_text() == SESSION
        assert sorted(os.listdir(self.path)) == ["session.yaml", "source"]


class Result:
    """The new image, read back."""

    def __init__(self, path: Path, values: Values) -> None:
        self.path = path
        self.values = values
        self.blobs = Directory(path)
        self.image: Image = open_image(self.blobs)
        self.scan: Scan = scan_image(self.blobs, self.image)

    def content(self, path: str) -> bytes:
        """What lies on the disk of a container at `path`."""
        node = self.scan.union.lookup(path.encode().lstrip(b"/"))
        assert isinstance(node, File), path
        kept = _Kept()
        pass_layer(
            self.blobs,
            self.image.layers[node.place.layer],
            visit=lambda number, member: kept if number == node.place.number else None,
        )
        return bytes(kept.data)

    def member(self, path: str) -> Member:
        node = self.scan.union.lookup(path.encode().lstrip(b"/"))
        assert node is not None
        assert node.member is not None
        return node.member

    @property
    def fspf(self) -> Fspf:
        return open_fspf(
            self.content(self.values.path),
            key=bytes.fromhex(self.values.key),
            tag=bytes.fromhex(self.values.tag),
        )

    def opened(self, path: str) -> bytes:
        """What a program sees at `path`."""
        entry = self.fspf.lookup(path.encode())
        assert isinstance(entry, FileEntry)
        return read_file(entry, self.content(path))

    def labels(self) -> dict[str, Any]:
        settings = self.image.config["config"]
        assert isinstance(settings, dict)
        labels = settings["Labels"]
        assert isinstance(labels, dict)
        return labels


class _Kept:
    def __init__(self) -> None:
        self.data = bytearray()

    def piece(self, data: bytes) -> None:
        self.data += data

    def end(self) -> None:
        pass


def everything(path: Path) -> bytes:
    """All bytes below `path`, and those of what is compressed there."""
    found = b""
    for file in sorted(path.rglob("*")):
        if file.is_file():
            data = file.read_bytes()
            found += data
            if data.startswith(b"\x1f\x8b"):
                found += gzip.decompress(data)
    return found


def blob_names(path: Path) -> set[str]:
    return {file.name for file in (path / "blobs" / "sha256").iterdir()}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def index_of(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((path / "index.json").read_text())
    return found
