"""The search for libraries, in trees made for it, and against `ldd` on the system's programs."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.segments import InterpSegment

from crannog.errors import Misconfigured, Unsupported
from crannog.measure.elf import read_elf
from crannog.measure.ldcache import parse_cache
from crannog.measure.loader import Loader
from crannog.measure.root import Root
from tests.unit.measure.elves import AARCH64, Tree, cache, elf


def libraries(root: Root, path: str = "/app/prog") -> list[str]:
    return [mapped.path for mapped in Loader(root).closure(path).libraries]


def test_order_is_breadth_first_and_each_once(tree: Tree, root: Root) -> None:
    tree.put("/app/prog", elf(needed=["liba.so", "libb.so"]))
    tree.put("/lib/liba.so", elf(interpreter=None, needed=["libc.so"]))
    tree.put("/lib/libb.so", elf(interpreter=None, needed=["libc.so", "liba.so"]))
    tree.put("/usr/lib/libc.so", elf(interpreter=None))
    assert libraries(root) == ["/lib/liba.so", "/lib/libb.so", "/usr/lib/libc.so"]


def test_runpath_is_the_objects_own_and_rpath_is_inherited(tree: Tree, root: Root) -> None:
    for place in ("/opt/x", "/lib"):
        tree.put(f"{place}/libb.so", elf(interpreter=None, content=place.encode()))
    tree.put("/opt/x/liba.so", elf(interpreter=None, needed=["libb.so"]))
    tree.put("/app/prog", elf(needed=["liba.so"], runpath="/opt/x"))
    assert libraries(root) == ["/opt/x/liba.so", "/lib/libb.so"]
    tree.put("/app/prog", elf(needed=["liba.so"], rpath="/opt/x"))
    assert libraries(root) == ["/opt/x/liba.so", "/opt/x/libb.so"]


def test_runpath_of_an_object_hides_rpath_of_those_before(tree: Tree, root: Root) -> None:
    tree.put("/opt/x/libb.so", elf(interpreter=None))
    tree.put("/lib/libb.so", elf(interpreter=None))
    tree.put("/opt/x/liba.so", elf(interpreter=None, needed=["libb.so"], runpath="/none"))
    tree.put("/app/prog", elf(needed=["liba.so"], rpath="/opt/x"))
    assert libraries(root) == ["/opt/x/liba.so", "/lib/libb.so"]


def test_cache_comes_before_the_default_directories(tree: Tree, root: Root) -> None:
    tree.put("/etc/ld.so.cache", cache(("liba.so", "/cached/liba.so", 0)))
    tree.put("/cached/liba.so", elf(interpreter=None))
    tree.put("/lib/liba.so", elf(interpreter=None))
    tree.put("/app/prog", elf(needed=["liba.so"]))
    assert libraries(root) == ["/cached/liba.so"]


def test_cache_entry_that_is_gone_is_passed_over(tree: Tree, root: Root) -> None:
    tree.put("/etc/ld.so.cache", cache(("liba.so", "/cached/liba.so", 0)))
    tree.put("/lib/liba.so", elf(interpreter=None))
    tree.put("/app/prog", elf(needed=["liba.so"]))
    assert libraries(root) == ["/lib/liba.so"]


def test_nodeflib_uses_neither_cache_nor_defaults(tree: Tree, root: Root) -> None:
    tree.put("/lib/liba.so", elf(interpreter=None))
    tree.put("/app/prog", elf(needed=["liba.so"], flags_1=0x800))
    found = Loader(root).closure("/app/prog")
    assert found.libraries == ()
    assert [missing.name for missing in found.missing] == ["liba.so"]


def test_every_variant_for_some_processor_belongs_to_it(tree: Tree, root: Root) -> None:
    for place in ("/lib/glibc-hwcaps/x86-64-v3", "/lib/glibc-hwcaps/x86-64-v2", "/lib"):
        tree.put(f"{place}/liba.so", elf(interpreter=None, content=place.encode()))
    tree.put("/app/prog", elf(needed=["liba.so"]))
    assert libraries(root) == [
        "/lib/glibc-hwcaps/x86-64-v3/liba.so",
        "/lib/glibc-hwcaps/x86-64-v2/liba.so",
        "/lib/liba.so",
    ]


def test_variant_that_needs_more_brings_it(tree: Tree, root: Root) -> None:
    tree.put("/lib/haswell/liba.so", elf(interpreter=None, needed=["libz.so"]))
    tree.put("/lib/liba.so", elf(interpreter=None))
    tree.put("/lib/libz.so", elf(interpreter=None))
    tree.put("/app/prog", elf(needed=["liba.so"]))
    assert set(libraries(root)) == {"/lib/haswell/liba.so", "/lib/liba.so", "/lib/libz.so"}


def test_variants_in_the_cache_are_all_taken(tree: Tree, root: Root) -> None:
    tree.put(
        "/etc/ld.so.cache",
        cache(("liba.so", "/v3/liba.so", 1 << 62), ("liba.so", "/plain/liba.so", 0)),
    )
    tree.put("/v3/liba.so", elf(interpreter=None))
    tree.put("/plain/liba.so", elf(interpreter=None))
    tree.put("/app/prog", elf(needed=["liba.so"]))
    assert libraries(root) == ["/v3/liba.so", "/plain/liba.so"]


def test_origin_is_the_canonical_directory_of_the_program(tree: Tree, root: Root) -> None:
    tree.put("/opt/tool/bin/prog", elf(needed=["liba.so"], runpath="$ORIGIN/../lib"))
    tree.put("/opt/tool/lib/liba.so", elf(interpreter=None))
    tree.link("/app/prog", "/opt/tool/bin/prog")
    assert libraries(root) == ["/opt/tool/bin/../lib/liba.so"]


def test_braces_and_lib_are_expanded(tree: Tree, root: Root) -> None:
    tree.put("/app/prog", elf(needed=["liba.so"], runpath="${ORIGIN}/$LIB:$ORIGINAL"))
    tree.put("/app/lib/liba.so", elf(interpreter=None))
    with pytest.raises(Unsupported, match="working directory"):
        libraries(root)  # $ORIGINAL is no token, and so a relative name
    tree.put("/app/prog", elf(needed=["liba.so"], runpath="${ORIGIN}/$LIB"))
    assert libraries(root) == ["/app/lib/liba.so"]


def test_library_of_another_machine_is_passed_over(tree: Tree, root: Root) -> None:
    tree.put("/lib/liba.so", elf(interpreter=None, machine=AARCH64))
    tree.put("/usr/lib/liba.so", elf(interpreter=None))
    tree.put("/app/prog", elf(needed=["liba.so"]))
    assert libraries(root) == ["/usr/lib/liba.so"]


def test_soname_of_a_loaded_library_is_not_searched_again(tree: Tree, root: Root) -> None:
    tree.put("/app/prog", elf(needed=["/opt/liba-1.2.so", "libb.so"]))
    tree.put("/opt/liba-1.2.so", elf(interpreter=None, soname="liba.so"))
    tree.put("/lib/liba.so", elf(interpreter=None))
    tree.put("/lib/libb.so", elf(interpreter=None, needed=["liba.so"]))
    assert libraries(root) == ["/opt/liba-1.2.so", "/lib/libb.so"]


def test_planted_library_in_an_earlier_directory_is_found(tree: Tree, root: Root) -> None:
    tree.put("/app/prog", elf(needed=["liba.so"], runpath="/app/lib"))
    tree.put("/lib/liba.so", elf(interpreter=None))
    before = libraries(root)
    tree.put("/app/lib/liba.so", elf(interpreter=None))
    assert libraries(root) == ["/app/lib/liba.so"] != before


@pytest.mark.parametrize("path", ["lib", "", "/opt/x:", "$ORIGINAL/x"])
def test_search_path_in_the_working_directory_is_refused(tree: Tree, root: Root, path: str) -> None:
    tree.put("/app/prog", elf(needed=["liba.so"], runpath=path))
    with pytest.raises(Unsupported, match="working directory"):
        libraries(root)


def test_missing_interpreter_is_named(tree: Tree, root: Root) -> None:
    tree.put("/app/prog", elf(interpreter="/lib/ld-none.so"))
    with pytest.raises(Misconfigured, match=r"ld-none\.so"):
        libraries(root)


def test_musl_uses_its_own_file_and_is_its_own_libc(tree: Tree, root: Root) -> None:
    tree.put("/lib/ld-musl-x86_64.so.1", elf(interpreter=None))
    tree.put("/etc/ld-musl-x86_64.path", "/opt/musl:/usr/lib\n")
    tree.put("/opt/musl/liba.so", elf(interpreter=None))
    tree.put("/lib/liba.so", elf(interpreter=None))
    tree.put("/etc/ld.so.cache", cache(("liba.so", "/lib/liba.so", 0)))
    tree.put(
        "/app/prog",
        elf(interpreter="/lib/ld-musl-x86_64.so.1", needed=["liba.so", "libc.musl-x86_64.so.1"]),
    )
    found = Loader(root).closure("/app/prog")
    assert [mapped.path for mapped in found.libraries] == ["/opt/musl/liba.so"]
    assert found.musl
    assert found.missing == ()


def test_static_program_has_no_libraries(tree: Tree, root: Root) -> None:
    tree.put("/app/prog", elf(interpreter=None))
    found = Loader(root).closure("/app/prog")
    assert (found.interpreter, found.libraries) == (None, ())


# --- the real thing


def programs() -> list[str]:
    found = []
    for directory in ("/usr/bin", "/usr/sbin"):
        for name in sorted(os.listdir(directory)):
            path = os.path.join(directory, name)
            try:
                with open(path, "rb") as file:
                    if file.read(5) == b"\x7fELF\x02":
                        found.append(os.path.realpath(path))
            except OSError:
                continue
    return sorted(set(found))[::9]


def test_closure_is_what_ldd_says() -> None:
    checked = 0
    with Root("/") as root:
        for path in programs():
            printed = subprocess.run(
                ["ldd", path], capture_output=True, text=True, check=False
            ).stdout
            expected = set(re.findall(r"(?:=> )?(/\S+) \(0x", printed))
            closure = Loader(root).closure(path)
            found = {mapped.path for mapped in closure.libraries} | {closure.interpreter}
            if "not found" in printed or closure.interpreter is None:
                continue
            assert found == expected, path
            checked += 1
    if checked < 5:
        pytest.skip("fewer than five dynamic programs and ldd to compare with")


def test_elf_reader_agrees_with_pyelftools() -> None:
    for path in programs()[:40]:
        descriptor = os.open(path, os.O_RDONLY)
        ours = read_elf(descriptor, path)
        os.close(descriptor)
        with open(path, "rb") as file:
            theirs = ELFFile(file)
            interpreter = [s for s in theirs.iter_segments() if isinstance(s, InterpSegment)]
            needed: list[str] = []
            runpath: list[str] = []
            for section in theirs.iter_sections():
                if isinstance(section, DynamicSection):
                    for tag in section.iter_tags():
                        if tag.entry.d_tag == "DT_NEEDED":
                            needed.append(getattr(tag, "needed"))  # noqa: B009
                        elif tag.entry.d_tag == "DT_RUNPATH":
                            runpath = str(getattr(tag, "runpath")).split(":")  # noqa: B009
            assert list(ours.needed) == needed, path
            assert list(ours.runpath) == runpath, path
            assert ours.interpreter == (interpreter[0].get_interp_name() if interpreter else None)


def test_cache_is_what_ldconfig_says() -> None:
    ldconfig = next((p for p in ("/sbin/ldconfig", "/usr/sbin/ldconfig") if os.path.exists(p)), "")
    if not ldconfig or not os.path.exists("/etc/ld.so.cache"):
        pytest.skip("no ldconfig or no cache here")
    printed = subprocess.run([ldconfig, "-p"], capture_output=True, text=True, check=True).stdout
    data = Path("/etc/ld.so.cache").read_bytes()
    cached = parse_cache(data, 62)
    for name, path in re.findall(r"^\s(\S+) \(libc6,x86-64\) => (\S+)$", printed, re.MULTILINE):
        assert path in [entry.path for entry in cached.lookup(name)]
