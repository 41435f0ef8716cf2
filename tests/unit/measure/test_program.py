"""Each thing that changes what a program loads changes its measurement; nothing else does."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from crannog.errors import Error, FormatError, Misconfigured, Unsupported
from crannog.measure.mrenclave import ProgramSettings, Role
from crannog.measure.program import Measurement, measure_program, native_files
from crannog.measure.root import Root
from tests.unit.measure.elves import Tree, cache, elf

GCONV = b"\0/usr/lib/gconv\0/usr/lib/locale/locale-archive\0"
SSL = b'\0OPENSSLDIR: "/usr/lib/ssl"\0'


def measure(tree: Tree, path: str = "/usr/bin/prog") -> Measurement:
    with Root(str(tree.path)) as root:
        return measure_program(root, path, ProgramSettings())


@pytest.fixture
def system(tree: Tree) -> Tree:
    """A small glibc system with a program, a Python and what both load."""
    tree.put("/lib/libc.so.6", elf(interpreter=None, soname="libc.so.6", content=GCONV))
    tree.put("/lib/libcrypto.so.3", elf(interpreter=None, needed=["libc.so.6"], content=SSL))
    tree.put("/lib/libnss_myhost.so.2", elf(interpreter=None, needed=["libc.so.6"]))
    tree.put("/lib/libssl.so.3", elf(interpreter=None, needed=["libcrypto.so.3"]))
    tree.put("/etc/ld.so.cache", cache())
    tree.put("/etc/nsswitch.conf", "# x\nhosts: files [NOTFOUND=return] myhost dns\n")
    tree.put("/usr/lib/gconv/gconv-modules", "x")
    tree.put("/usr/lib/gconv/gconv-modules.d/extra.conf", "x")
    tree.put("/usr/lib/ssl/openssl.cnf", ".include /etc/ssl/more.cnf\n")
    tree.put("/etc/ssl/more.cnf", "x")
    tree.put("/usr/bin/prog", elf(needed=["libc.so.6", "libcrypto.so.3"]))
    tree.put("/usr/bin/python3.11", elf(needed=["libc.so.6"]))
    tree.link("/usr/bin/python3", "python3.11")
    tree.put("/usr/lib/python3.11/os.py", "")
    tree.put(
        "/usr/lib/python3.11/lib-dynload/_ssl.cpython-311-x86_64-linux-gnu.so",
        elf(interpreter=None, needed=["libssl.so.3", "libc.so.6"]),
    )
    tree.put(
        "/usr/lib/python3/dist-packages/a.pth",
        "/opt/added\nimport os, apport_hook as hook\nimport os; __import__('_shim.x').y()\n",
    )
    return tree


def test_program_and_its_libraries_are_entries(system: Tree) -> None:
    found = measure(system)
    roles = {(entry.role, entry.path) for entry in found.entries if entry.digest}
    assert (Role.EXECUTABLE, "/usr/bin/prog") in roles
    assert (Role.INTERPRETER, "/lib64/ld-test.so") in roles
    assert (Role.LIBRARY, "/lib/libcrypto.so.3") in roles
    assert (Role.MODULE, "/lib/libnss_myhost.so.2") in roles
    assert (Role.CONFIGURATION, "/etc/ssl/more.cnf") in roles
    assert {native.path for native in found.native} == {
        "/usr/bin/prog",
        "/lib64/ld-test.so",
        "/lib/libc.so.6",
        "/lib/libcrypto.so.3",
        "/lib/libnss_myhost.so.2",
    }


def test_measuring_again_gives_the_same(system: Tree) -> None:
    assert measure(system).mrenclave == measure(system).mrenclave


@pytest.mark.parametrize(
    "path",
    [
        "/usr/bin/prog",
        "/lib64/ld-test.so",
        "/lib/libc.so.6",
        "/lib/libcrypto.so.3",
        "/lib/libnss_myhost.so.2",
        "/etc/nsswitch.conf",
        "/usr/lib/gconv/gconv-modules",
        "/usr/lib/gconv/gconv-modules.d/extra.conf",
        "/usr/lib/ssl/openssl.cnf",
        "/etc/ssl/more.cnf",
    ],
)
def test_a_changed_byte_changes_it(system: Tree, path: str) -> None:
    before = measure(system).mrenclave
    file = system.path / path[1:]
    file.write_bytes(file.read_bytes() + b"\n")
    assert measure(system).mrenclave != before


@pytest.mark.parametrize(
    "path",
    [
        "/etc/ld.so.preload",
        "/usr/lib/gconv/gconv-modules.cache",
        "/usr/lib/gconv/gconv-modules.d/more.conf",
        "/usr/lib/locale/locale-archive",
        "/lib/libnss_dns.so.2",
        "/lib/libnss_files.so.2",
    ],
)
def test_a_planted_file_changes_it(system: Tree, path: str) -> None:
    before = measure(system).mrenclave
    content = elf(interpreter=None) if ".so." in path and "libnss" in path else b"planted"
    system.put(path, content)
    assert measure(system).mrenclave != before


def test_a_changed_cache_changes_it(system: Tree) -> None:
    before = measure(system).mrenclave
    system.put("/etc/ld.so.cache", cache(("libother.so", "/x", 0)))
    assert measure(system).mrenclave != before


@pytest.mark.parametrize(
    "path", ["/etc/hostname", "/usr/bin/other", "/usr/bin/pyvenv.cfg", "/lib/libother.so"]
)
def test_what_does_not_matter_does_not_change_it(system: Tree, path: str) -> None:
    before = measure(system).mrenclave
    system.put(path, "x")
    assert measure(system).mrenclave == before


def test_modes_and_times_do_not_matter(system: Tree) -> None:
    before = measure(system).mrenclave
    os.utime(system.path / "lib/libc.so.6", (1, 1))
    (system.path / "etc/nsswitch.conf").chmod(0o600)
    assert measure(system).mrenclave == before


# --- a Python

PYTHON_PLANTS = [
    "/usr/bin/pyvenv.cfg",
    "/usr/pyvenv.cfg",
    "/usr/bin/python3._pth",
    "/usr/lib/python311.zip",
    "/usr/lib/python3.11/sitecustomize.py",
    "/usr/lib/python3.11/usercustomize.py",
    "/usr/lib/python3.11/lib-dynload/sitecustomize.abi3.so",
    "/usr/lib/python3.11/__pycache__/sitecustomize.cpython-311.pyc",
    "/usr/lib/python3/dist-packages/sitecustomize.py",
    "/usr/lib/python3/dist-packages/usercustomize/__init__.py",
    "/usr/lib/python3/dist-packages/zzz.pth",
    "/usr/local/lib/python3.11/dist-packages/zzz.pth",
    "/.local/lib/python3.11/site-packages/zzz.pth",
    "/.local/lib/python3.11/site-packages/usercustomize.py",
    "/usr/lib/python3.11/lib-dynload/_evil.cpython-311-x86_64-linux-gnu.so",
    # Another library would be taken.
    "/usr/bin/lib/python311.zip",
    "/lib64/python311.zip",
    "/usr/bin/lib/python3.11/os.py",
    "/usr/bin/lib/python3.11/os.pyc",
    "/usr/bin/pybuilddir.txt",
    "/usr/bin/Modules/Setup.local",
    # What a.pth imports, or puts on the path.
    "/usr/lib/python3/dist-packages/apport_hook.py",
    "/usr/lib/python3/dist-packages/apport_hook.abi3.so",
    "/usr/lib/python3/dist-packages/__pycache__/apport_hook.cpython-311.pyc",
    "/usr/lib/python3/dist-packages/_shim/override.py",
    "/opt/added/apport_hook/__init__.py",
    "/opt/added/sitecustomize.py",
    # What the library asks for and does not have.
    "/usr/lib/python3/dist-packages/org/python/core.py",
    "/usr/local/lib/python3.11/dist-packages/_winapi.cpython-311-x86_64-linux-gnu.so",
    "/opt/added/winreg.pyc",
]


@pytest.mark.parametrize("path", PYTHON_PLANTS)
def test_python_start_file_changes_it(system: Tree, path: str) -> None:
    before = measure(system, "/usr/bin/python3")
    assert before.python
    system.put(path, elf(interpreter=None) if path.endswith(".so") else "planted")
    assert measure(system, "/usr/bin/python3").mrenclave != before.mrenclave


@pytest.mark.parametrize(
    "text",
    [
        "import hook",
        "import os, hook as h\n",
        "try:\n    import hook\nexcept ImportError: pass",
        "from hook.sub import x",
        "try: from hook import (x)\nexcept: pass",
    ],
)
def test_what_the_librarys_sitecustomize_imports_is_measured(system: Tree, text: str) -> None:
    system.put("/usr/lib/python3.11/sitecustomize.py", text)
    before = measure(system, "/usr/bin/python3").mrenclave
    system.put("/usr/lib/python3/dist-packages/hook.py", "planted")
    assert measure(system, "/usr/bin/python3").mrenclave != before


def test_a_library_of_bytecode_alone_is_taken_for_one(system: Tree) -> None:
    (system.path / "usr/lib/python3.11/os.py").unlink()
    system.put("/usr/lib/python3.11/os.pyc", "")
    before = measure(system, "/usr/bin/python3").mrenclave
    system.put("/usr/lib/python3.11/sitecustomize.py", "planted")
    assert measure(system, "/usr/bin/python3").mrenclave != before


@pytest.mark.parametrize("path", [path for path in PYTHON_PLANTS if "pyvenv" not in path])
def test_python_start_file_is_nothing_to_other_programs(system: Tree, path: str) -> None:
    before = measure(system).mrenclave
    system.put(path, "planted")
    assert measure(system).mrenclave == before


def test_extension_modules_and_what_they_need_may_be_loaded(system: Tree) -> None:
    native = {each.path for each in measure(system, "/usr/bin/python3").native}
    assert "/usr/lib/python3.11/lib-dynload/_ssl.cpython-311-x86_64-linux-gnu.so" in native
    assert {"/lib/libssl.so.3", "/lib/libcrypto.so.3"} <= native


def test_libcrypto_of_an_extension_module_brings_its_configuration(system: Tree) -> None:
    before = measure(system, "/usr/bin/python3").mrenclave
    system.put("/etc/ssl/more.cnf", "changed")
    assert measure(system, "/usr/bin/python3").mrenclave != before


def test_virtual_environment_is_measured_with_its_base(system: Tree) -> None:
    system.link("/app/venv/bin/python3", "/usr/bin/python3")
    system.put("/app/venv/pyvenv.cfg", "home = /usr/bin\n")
    system.put("/app/venv/lib/python3.11/site-packages/x.pth", "x")
    found = measure(system, "/app/venv/bin/python3")
    paths = {entry.path for entry in found.entries if entry.digest}
    assert "/app/venv/pyvenv.cfg" in paths
    assert "/app/venv/lib/python3.11/site-packages/x.pth" in paths
    assert "/usr/lib/python3.11/lib-dynload/_ssl.cpython-311-x86_64-linux-gnu.so" in paths
    assert found.executable == "/app/venv/bin/python3"


def test_python_by_another_name_is_known_by_its_library(system: Tree) -> None:
    system.put("/lib/libpython3.11.so.1.0", elf(interpreter=None))
    system.put("/usr/bin/renamed", elf(needed=["libpython3.11.so.1.0"]))
    assert measure(system, "/usr/bin/renamed").python


# --- scripts


def test_script_is_measured_with_its_interpreter(system: Tree) -> None:
    system.put("/app/run", "#!/usr/bin/prog -x y\n")
    found = measure(system, "/app/run")
    assert found.executable == "/usr/bin/prog"
    assert found.prefix == ("/usr/bin/prog", "-x y", "/app/run")
    before = found.mrenclave
    system.put("/app/run", "#!/usr/bin/prog -x y\n# changed")
    assert measure(system, "/app/run").mrenclave != before


def test_env_is_resolved_when_measured(system: Tree) -> None:
    system.put("/app/run", "#!/usr/bin/env -S python3 -I\n")
    found = measure(system, "/app/run")
    assert found.executable == "/usr/bin/python3"
    assert found.prefix == ("/usr/bin/python3", "-I", "/app/run")
    assert found.python


def test_script_of_a_script(system: Tree) -> None:
    system.put("/app/inner", "#!/usr/bin/prog\n")
    system.put("/app/run", "#!/app/inner arg\n")
    found = measure(system, "/app/run")
    assert found.prefix == ("/usr/bin/prog", "/app/inner", "arg", "/app/run")
    assert {"/app/run", "/app/inner"} <= {
        entry.path for entry in found.entries if entry.role is Role.SCRIPT
    }


def test_script_loop_ends(system: Tree) -> None:
    system.put("/app/run", "#!/app/run\n")
    with pytest.raises(Unsupported, match="in a row"):
        measure(system, "/app/run")


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"echo hello\n", FormatError),
        (b"", FormatError),
        (b"#!\n", FormatError),
        (b"#! /usr/bin/none\n", Misconfigured),
        (b"#!bin/sh\n", Unsupported),
        (b"#!/usr/bin/env -i python3\n", Unsupported),
        (b"#!/usr/bin/env A=b\n", Error),
        (b"#!/usr/bin/env nosuch\n", Misconfigured),
        (b"#!" + b"/x" * 200 + b"\n", FormatError),
        (b"\x7fELF garbage", FormatError),
    ],
)
def test_what_cannot_be_executed_is_refused(
    system: Tree, content: bytes, error: type[Error]
) -> None:
    system.put("/app/run", content)
    with pytest.raises(error, match=r"/app/run|/usr/bin/none"):
        measure(system, "/app/run")


def test_missing_library_is_refused_by_name(system: Tree) -> None:
    system.put("/usr/bin/prog", elf(needed=["libgone.so"]))
    with pytest.raises(Misconfigured, match=r"libgone\.so"):
        measure(system)


def test_static_program_counts_for_itself(system: Tree) -> None:
    system.put("/usr/bin/static", elf(interpreter=None))
    found = measure(system, "/usr/bin/static")
    assert [entry.path for entry in found.entries] == ["/usr/bin/static"]


def test_static_glibc_program_brings_its_configuration(system: Tree) -> None:
    system.put("/usr/bin/static", elf(interpreter=None, content=GCONV + SSL))
    paths = {entry.path for entry in measure(system, "/usr/bin/static").entries}
    assert {"/etc/nsswitch.conf", "/usr/lib/gconv/gconv-modules"} <= paths
    assert "/usr/lib/ssl/openssl.cnf" in paths


def test_the_systems_own_programs_are_measured(tmp_path: Path) -> None:
    with Root("/") as kernel, Root("/", resolve_here=True) as here:
        for path in ("/bin/sh", "/usr/bin/env", "/usr/bin/python3"):
            if not os.path.exists(path):
                continue
            one = measure_program(kernel, path, ProgramSettings())
            other = measure_program(here, path, ProgramSettings())
            assert one == other
            status = os.stat(path)
            assert (one.identity.device, one.identity.inode) == (status.st_dev, status.st_ino)


def test_openssl_that_includes_itself_ends(system: Tree) -> None:
    system.put("/usr/lib/ssl/openssl.cnf", ".include /usr/lib/ssl/openssl.cnf\n")
    assert measure(system).mrenclave


@pytest.mark.parametrize("path", ["/usr/bin/prog", "/usr/bin/python3"])
def test_native_files_are_those_of_the_measurement(system: Tree, path: str) -> None:
    measured = measure(system, path)
    with Root(str(system.path)) as root:
        found = native_files(root, path)
    assert found.native == measured.native
    assert (found.program, found.executable) == (measured.program, measured.executable)
    assert found.prefix == measured.prefix


def test_native_files_read_nothing_whole(system: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Root, "digest_open", None)
    monkeypatch.setattr(Root, "read_digested", None)
    with Root(str(system.path)) as root:
        assert native_files(root, "/usr/bin/python3").native
