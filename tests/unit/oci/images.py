"""Small images for tests: layers out of a few words, in a layout or an archive of `docker save`."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from crannog.oci.model import CONFIG, INDEX, LAYER, LAYER_GZIP, MANIFEST


def entry(name: str, content: bytes | None = b"", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    """A file; with `content` None a directory; fields are those of `TarInfo`."""
    info = tarfile.TarInfo(name)
    info.mode = 0o644
    if content is None:
        info.type, info.mode = tarfile.DIRTYPE, 0o755
    info.mtime = 1_600_000_000
    info.size = len(content or b"")
    for key, value in fields.items():
        setattr(info, key, value)
    return info, content or b""


def link(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    """A symbolic link."""
    return entry(name, type=tarfile.SYMTYPE, linkname=target, mode=0o777)


def hard_link(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    """A hard link."""
    return entry(name, type=tarfile.LNKTYPE, linkname=target)


def layer(*entries: tuple[tarfile.TarInfo, bytes]) -> bytes:
    """The archive of a layer."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as writer:
        for info, content in entries:
            writer.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def config(layers: Sequence[bytes], settings: Mapping[str, Any] | None = None) -> dict[str, Any]:
    return {
        "architecture": "amd64",
        "os": "linux",
        "created": "2020-01-01T00:00:00Z",
        "config": {"Cmd": ["python3", "/app/server.py"], **(settings or {})},
        "rootfs": {"type": "layers", "diff_ids": [digest(data) for data in layers]},
        "history": [{"created_by": f"step {number}"} for number in range(len(layers))],
    }


def compressed(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


class Layout:
    """A layout that is put together by hand, so that it can be wrong."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "blobs" / "sha256").mkdir(parents=True)
        (path / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
        self.entries: list[dict[str, Any]] = []

    def blob(self, data: bytes) -> tuple[str, int]:
        (self.path / "blobs" / digest(data).replace(":", "/")).write_bytes(data)
        return digest(data), len(data)

    def descriptor(self, media_type: str, data: bytes, **more: Any) -> dict[str, Any]:
        name, size = self.blob(data)
        return {"mediaType": media_type, "digest": name, "size": size, **more}

    def add(
        self,
        layers: Sequence[bytes],
        *,
        zipped: bool = True,
        settings: Mapping[str, Any] | None = None,
        whole_config: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> dict[str, Any]:
        """Add an image; `more` is for its entry in the index."""
        document = whole_config or config(layers, settings)
        described = []
        for data in layers:
            blob = compressed(data) if zipped else data
            described.append(self.descriptor(LAYER_GZIP if zipped else LAYER, blob))
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self.descriptor(CONFIG, json.dumps(document).encode()),
            "layers": described,
        }
        found = self.descriptor(MANIFEST, json.dumps(manifest).encode(), **more)
        self.entries.append(found)
        self.finish()
        return found

    def finish(self) -> None:
        index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": self.entries}
        (self.path / "index.json").write_text(json.dumps(index))


def docker_archive(
    path: Path, layers: Sequence[bytes], *, names: Iterable[str] = ("app:1",)
) -> Path:
    """What `docker save` of Docker 20.10 writes."""
    document = json.dumps(config(layers)).encode()
    name = hashlib.sha256(document).hexdigest() + ".json"
    members = [entry(name, document)]
    paths = []
    for number, data in enumerate(layers):
        members += [entry(f"id{number}/", None), entry(f"id{number}/layer.tar", data)]
        paths.append(f"id{number}/layer.tar")
    listed = [{"Config": name, "RepoTags": list(names), "Layers": paths}]
    members.append(entry("manifest.json", json.dumps(listed).encode()))
    path.write_bytes(layer(*members))
    return path
