"""Whatever the layers are: no plain byte of a protected path is shipped, and nothing else changes.

Files have contents that are found again, the same one in several places now and then, also under
hard links, whiteouts and opaque directories. A refusal is an answer too.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from hypothesis import event, given, settings
from hypothesis import strategies as st

from crannog.errors import Error
from crannog.oci.blobs import Directory as Blobs
from crannog.oci.scan import Scan, scan_image
from crannog.oci.source import open_image
from crannog.oci.union import Directory, File
from tests.unit.image.support import Case, Result, everything
from tests.unit.oci.images import entry, hard_link, layer, link

NAMES = st.sampled_from(["a", "b", "c"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
NUMBERS = st.integers(0, 9)
ENTRIES = st.one_of(
    st.tuples(st.just("file"), PATHS, NUMBERS),
    st.tuples(st.just("file"), PATHS, NUMBERS),
    st.tuples(st.just("directory"), PATHS, NUMBERS),
    st.tuples(st.just("hard link"), PATHS, PATHS),
    st.tuples(st.just("link"), PATHS, PATHS),
    st.tuples(st.just("whiteout"), PATHS, NUMBERS),
    st.tuples(st.just("opaque"), PATHS, NUMBERS),
)
LAYERS = st.lists(st.lists(ENTRIES, max_size=5), min_size=1, max_size=4)


def content(number: int) -> bytes:
    return b"<content number %d, long enough to be looked for>" % number


def archive(steps: Sequence[tuple[str, str, object]]) -> bytes:
    found = []
    files: set[str] = set()
    for kind, path, more in steps:
        directory, _, name = path.rpartition("/")
        if kind == "file":
            assert isinstance(more, int)
            found.append(entry(path, content(more)))
        elif kind == "directory":
            found.append(entry(path, None))
            files.add(path)
        elif kind == "hard link":
            if more in files and path != more:  # else there is nothing to link to
                found.append(hard_link(path, str(more)))
        elif kind == "link":
            found.append(link(path, str(more)))
        elif kind == "whiteout":
            found.append(entry(f"{directory}/.wh.{name}".lstrip("/")))
        else:
            found.append(entry(path + "/.wh..wh..opq"))
    return layer(*found)


def outside(scan: Scan) -> dict[bytes, bytes | None]:
    """What programs see outside the encrypted path."""
    digests = {id(found.file): found.digest for found in scan.shipped}
    return {
        path: node.member.header[:512] if node.member is not None else None
        for path, node in scan.union.walk()
        if not (path == b"a" or path.startswith(b"a/"))
        and path != b"fspf.pb"
        # Directories that only their contents made have no header, and may have gone with them.
        and (isinstance(node, File) or node.member is not None)
    } | {
        path + b" content": digests.get(id(node))
        for path, node in scan.union.walk()
        if not (path == b"a" or path.startswith(b"a/")) and path != b"fspf.pb"
        if isinstance(node, File)
    }


@given(LAYERS)
@settings(max_examples=400, deadline=None)
def test_no_plain_content_is_shipped_and_the_rest_stays(
    layers: list[list[tuple[str, str, object]]],
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        layers = [[("file", "a/b", 9), ("file", "b/c", 8)], *layers]
        case = Case(Path(directory))
        case.source.add([archive(steps) for steps in layers], zipped=False)
        blobs = Blobs(case.source.path)
        try:
            before = scan_image(blobs, open_image(blobs))
            done = case.encrypt("/a")
        except Error as error:
            event(f"refused: {type(error).__name__}")
            return
        finally:
            blobs.close()
        event("encrypted")
        result = Result(case.output, done.values)
        shipped = everything(case.output)
        protected = {
            content(more)
            for steps in layers
            for kind, path, more in steps
            if kind == "file" and path.startswith("a/") and isinstance(more, int)
        }
        assert not [found for found in protected if found in shipped]
        assert outside(result.scan) == outside(before)
        fspf = result.fspf
        for path, node in before.union.walk(b"a"):
            assert fspf.lookup(b"/" + path) is not None
            if isinstance(node, Directory) or node.member.target:
                continue
            digest = next(found.digest for found in before.shipped if found.file is node)
            number = next(n for n in range(10) if sha256(content(n)).digest() == digest)
            assert result.opened("/" + path.decode()) == content(number)
        result.blobs.close()
