"""The union of layers against a model: a dictionary that each layer is written over."""

from __future__ import annotations

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crannog.errors import FormatError
from crannog.oci.tar import Member, TarReader, Type
from crannog.oci.union import Directory, File, Place, Union
from tests.unit.oci.images import entry, hard_link, layer, link

NAMES = st.sampled_from(["a", "b", "c"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
ENTRIES = st.one_of(
    st.tuples(st.just("file"), PATHS, st.sampled_from(["1", "2", "3"])),
    st.tuples(st.just("directory"), PATHS, st.just("")),
    st.tuples(st.just("link"), PATHS, PATHS),
    st.tuples(st.just("whiteout"), PATHS, st.just("")),
    st.tuples(st.just("opaque"), PATHS, st.just("")),
)
LAYERS = st.lists(st.lists(ENTRIES, max_size=5), min_size=1, max_size=4)
Step = tuple[str, str, str]


def whiteout(path: str) -> str:
    directory, _, name = path.rpartition("/")
    return f"{directory}/.wh.{name}" if directory else f".wh.{name}"


def archive(steps: list[Step]) -> bytes:
    found = []
    for kind, path, more in steps:
        if kind == "file":
            found.append(entry(path, more.encode()))
        elif kind == "directory":
            found.append(entry(path, None))
        elif kind == "link":
            found.append(link(path, more))
        elif kind == "whiteout":
            found.append(entry(whiteout(path)))
        else:
            found.append(entry(path + "/.wh..wh..opq"))
    return layer(*found)


def apply(layers: list[list[Step]]) -> Union:
    union = Union()
    for number, steps in enumerate(layers):
        reader = TarReader(io.BytesIO(archive(steps)), "a test")
        for count, member in enumerate(reader):
            union.apply(Place(number, count), member)
    return union


def model(layers: list[list[Step]]) -> dict[str, str]:
    """Path to what lies there. A layer hides first, and then adds (`layer.md`, "Whiteouts")."""
    tree: dict[str, str] = {}
    for steps in layers:
        for kind, path, _ in steps:
            if kind == "whiteout" and reachable(tree, path):
                remove(tree, path)
            elif kind == "opaque" and tree.get(path) == "directory":
                for other in list(tree):
                    if other.startswith(path + "/"):
                        del tree[other]
        for kind, path, more in steps:
            if kind in ("whiteout", "opaque"):
                continue
            parts = path.split("/")
            for length in range(1, len(parts)):
                above = "/".join(parts[:length])
                if tree.get(above) != "directory":
                    remove(tree, above)
                    tree[above] = "directory"
            if kind == "directory" and tree.get(path) == "directory":
                continue
            remove(tree, path)
            tree[path] = kind + more if kind != "directory" else kind
    return tree


def reachable(tree: dict[str, str], path: str) -> bool:
    return path in tree


def remove(tree: dict[str, str], path: str) -> None:
    for other in list(tree):
        if other == path or other.startswith(path + "/"):
            del tree[other]


@given(LAYERS)
@settings(max_examples=400)
def test_the_union_is_what_the_model_says(layers: list[list[Step]]) -> None:
    # A member under a file of its own layer replaces it: unordered there, so not in this test.
    for steps in layers:
        taken = {path for kind, path, _ in steps if kind in ("file", "link")}
        dirs = {path for kind, path, _ in steps if kind == "directory"}
        everything = [path for kind, path, _ in steps if kind in ("file", "link", "directory")]
        inner = {path for path in everything for other in taken if path.startswith(other + "/")}
        if inner or dirs & taken or len(everything) != len(set(everything)):
            return
    union = apply(layers)
    found: dict[str, str] = {}
    for path, node in union.walk():
        if not path:
            continue
        if isinstance(node, Directory):
            found[path.decode()] = "directory"
        elif node.member.type is Type.LINK:
            found[path.decode()] = "link" + node.member.target.decode()
        else:
            content = [
                more
                for number, steps in enumerate(layers)
                if number == node.place.layer
                for count, (_, _, more) in enumerate(steps)
                if count == node.place.number
            ]
            found[path.decode()] = "file" + content[0]
    expected = model(layers)
    # Directories that only their contents made vanish with them; engines differ there.
    for name in set(expected) ^ set(found):
        assert (expected.get(name) or found.get(name)) == "directory"
        assert not any(other.startswith(name + "/") for other in {*expected, *found})
    assert {p: w for p, w in found.items() if p in expected} == {
        p: w for p, w in expected.items() if p in found
    }


def member(data: bytes) -> list[Member]:
    return list(TarReader(io.BytesIO(data), "a test"))


def test_a_whiteout_leaves_what_its_own_layer_has_wherever_it_stands() -> None:
    for steps in (
        [("file", "a/b", "2"), ("whiteout", "a/b", "")],
        [("whiteout", "a/b", ""), ("file", "a/b", "2")],
    ):
        union = apply([[("file", "a/b", "1"), ("file", "a/c", "1")], list(steps)])
        node = union.lookup(b"a/b")
        assert isinstance(node, File)
        assert node.place.layer == 1
        assert union.lookup(b"a/c") is not None


def test_an_opaque_directory_hides_what_lower_layers_have_and_nothing_else() -> None:
    union = apply(
        [
            [("file", "a/b/c", "1"), ("file", "b", "1")],
            [("file", "a/b/a", "2"), ("opaque", "a", "")],
        ]
    )
    assert union.lookup(b"a/b/c") is None
    assert union.lookup(b"a/b/a") is not None
    assert union.lookup(b"b") is not None


def test_a_hard_link_is_another_name_also_across_layers() -> None:
    union = Union()
    for number, data in enumerate(
        [layer(entry("a", b"x")), layer(hard_link("b", "a")), layer(entry(".wh.a"))]
    ):
        for count, found in enumerate(member(data)):
            union.apply(Place(number, count), found)
    node = union.lookup(b"b")
    assert isinstance(node, File)
    assert node.place == Place(0, 0)
    assert union.lookup(b"a") is None


def test_a_hard_link_to_nothing_is_refused() -> None:
    union = Union()
    (found,) = member(layer(hard_link("b", "a")))
    with pytest.raises(FormatError, match="which is not there"):
        union.apply(Place(0, 0), found)


def test_links_are_resolved_within_the_image_and_never_for_ever() -> None:
    union = apply([[("link", "a", "b"), ("file", "c/a", "1")]])
    assert union.resolve(b"a") is None
    loop = Union()
    for count, found in enumerate(
        member(layer(link("x", "y"), link("y", "x"), link("up", "../../c"), entry("c/f", b"1")))
    ):
        loop.apply(Place(0, count), found)
    assert loop.resolve(b"x/f") is None
    assert loop.resolve(b"up/f") == (b"c/f", (b"up",))
