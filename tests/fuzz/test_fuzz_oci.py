"""Documents of images with anything in them: an image, or one of our errors."""

from __future__ import annotations

import contextlib
import json
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from crannog.errors import Error
from crannog.oci.blobs import Archive, Directory
from crannog.oci.model import CONFIG, MANIFEST
from crannog.oci.scan import scan_image
from crannog.oci.source import open_image
from tests.unit.image.support import Case
from tests.unit.oci.images import Layout, compressed, config, docker_archive, entry, layer

PLAIN = layer(entry("app/server.py", b"print()\n"))
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.just("linux"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)


def changed(document: Any, data: st.DataObject) -> Any:
    """The document with one value, somewhere in it, replaced or taken away."""
    at = document
    while True:
        keys = sorted(at) if isinstance(at, dict) else list(range(len(at)))
        if not keys:
            return document
        key = data.draw(st.sampled_from(keys))
        if isinstance(at[key], dict | list) and data.draw(st.booleans()):
            at = at[key]
            continue
        if data.draw(st.booleans()):
            at[key] = data.draw(VALUES)
        else:
            del at[key]
        return document


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_a_layout_with_a_changed_document(data: st.DataObject) -> None:
    which = data.draw(st.sampled_from(["index", "manifest", "config"]))
    with tempfile.TemporaryDirectory() as directory:
        layout = Layout(Path(directory) / "image")
        document = config([PLAIN])
        if which == "config":
            document = changed(document, data)
        manifest = {
            "schemaVersion": 2,
            "config": layout.descriptor(CONFIG, json.dumps(document).encode()),
            "layers": [
                layout.descriptor("application/vnd.oci.image.layer.v1.tar+gzip", compressed(PLAIN))
            ],
        }
        if which == "manifest":
            manifest = changed(manifest, data)
        layout.entries.append(layout.descriptor(MANIFEST, json.dumps(manifest).encode()))
        layout.finish()
        if which == "index":
            index = layout.path / "index.json"
            index.write_text(json.dumps(changed(json.loads(index.read_text()), data)))
        blobs = Directory(layout.path)
        try:
            scan_image(blobs, open_image(blobs))
        except Error:
            pass
        finally:
            blobs.close()


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_an_image_with_a_changed_config_is_encrypted_or_refused(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as directory:
        case = Case(Path(directory))
        settings_ = {"Env": ["PATH=/bin", "A=b"], "Labels": {"a": "b"}, "WorkingDir": "/app"}
        document = changed(config([PLAIN], settings_), data)
        case.source.add([PLAIN], whole_config=document or {"os": 1})
        with contextlib.suppress(Error):
            case.encrypt()


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_an_archive_with_changed_bytes(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = docker_archive(Path(directory) / "image.tar", [PLAIN])
        found = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 3))):
            found[data.draw(st.integers(0, len(found) - 1))] = data.draw(st.integers(0, 255))
        path.write_bytes(found)
        try:
            blobs = Archive(path)
            try:
                scan_image(blobs, open_image(blobs))
            finally:
                blobs.close()
        except Error:
            pass
