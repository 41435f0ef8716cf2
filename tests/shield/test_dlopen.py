"""SCONE_ALLOW_DLOPEN below 2: only measured files and files of regions are loaded or executed."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.shield.exec_world import World, compile_program


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def library(world: World) -> Path:
    path = world.base / "libpart.so"
    compile_program("dlopen_part.c", path, "-shared", "-fPIC")
    return path


@pytest.fixture
def loader(world: World) -> Path:
    path = world.base / "load"
    compile_program("dlopen_load.c", path)
    return path


def native(*programs: Path | str) -> list[str]:
    """The programs and what they load, as ldd sees it; links resolved."""
    found = set()
    for program in programs:
        found.add(os.path.realpath(program))
        out = subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout
        for line in out.splitlines():
            for word in line.split():
                if word.startswith("/"):
                    found.add(os.path.realpath(word))
    return sorted(found)


@pytest.mark.parametrize("level", [0, 1])
def test_an_unmeasured_library_is_refused_and_named(
    world: World, library: Path, loader: Path, level: int
) -> None:
    done = world.run(loader, library, allow_dlopen=level, measured=native(loader))
    assert done.out == "refused\n"
    assert str(library) in done.err
    assert f"SCONE_ALLOW_DLOPEN is {level}" in done.err


def test_any_library_is_loaded_at_2(world: World, library: Path, loader: Path) -> None:
    assert world.run(loader, library, allow_dlopen=2).out == "constructor ran\nloaded\n"


def test_a_measured_library_is_loaded(world: World, library: Path, loader: Path) -> None:
    done = world.run(loader, library, allow_dlopen=0, measured=native(loader, library))
    assert done.out == "constructor ran\nloaded\n", done.err


def test_a_library_that_changed_after_it_was_measured_is_refused(
    world: World, library: Path, loader: Path
) -> None:
    """The measured file is written to, in place, with its old times put back."""
    script = (
        "import os, subprocess, sys\n"
        "status = os.stat(sys.argv[2])\n"
        "with open(sys.argv[2], 'r+b') as file:\n"
        "    byte = file.read(1); file.seek(0); file.write(byte)\n"
        "os.utime(sys.argv[2], ns=(status.st_atime_ns, status.st_mtime_ns))\n"
        "print(subprocess.run([sys.argv[1], sys.argv[2]], capture_output=True, text=True).stdout)\n"
    )
    done = world.run(
        "/usr/bin/python3",
        "-c",
        script,
        loader,
        library,
        allow_dlopen=0,
        measured=[*native(loader, library), *_python()],
    )
    assert done.out.strip() == "refused", done.err


@pytest.mark.parametrize(("level", "said"), [(0, "refused\n"), (1, "constructor ran\nloaded\n")])
def test_a_regions_library_is_loaded_from_1_on(
    world: World, loader: Path, level: int, said: str
) -> None:
    world.compile("dlopen_part.c", "libpart.so", "-shared", "-fPIC")
    world.protect()
    done = world.run(loader, world.app / "libpart.so", allow_dlopen=level, measured=native(loader))
    assert done.out == said, done.err


def test_a_program_of_a_region_loads_its_regions_libraries_at_0(world: World) -> None:
    world.compile("dlopen_part.c", "libpart.so", "-shared", "-fPIC")
    world.compile("dlopen_load.c", "load")
    world.protect()
    done = world.run(
        world.app / "load",
        world.app / "libpart.so",
        allow_dlopen=0,
        measured=native(world.plain / "load")[1:],
    )
    assert done.out == "constructor ran\nloaded\n", done.err


def test_an_object_without_code_is_refused_as_well(world: World, loader: Path) -> None:
    """Its relocations and constructors would run code of others: no mapping of it is executable."""
    source = world.base / "data.c"
    source.write_text("extern int puts(const char *);\nint (*keep)(const char *) = puts;\n")
    library = world.base / "libdata.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-nostartfiles", "-o", library, source], check=True)
    done = world.run(loader, library, allow_dlopen=1, measured=native(loader))
    assert done.out == "refused\n"
    assert world.run(loader, library, allow_dlopen=2).out == "loaded\n"


def test_what_may_be_mapped_of_an_unmeasured_file(
    world: World, library: Path, loader: Path
) -> None:
    text = world.base / "text"
    text.write_text("no object\n" * 1000)
    done = world.run(
        loader,
        *(f"{how}:{path}" for path in (library, text) for how in ("exec", "private", "shared")),
        f"memfd:{library}",
        "jit",
        allow_dlopen=1,
        measured=native(loader),
    )
    # Nothing unmeasured becomes code; private mappings are for what is no object.
    assert done.out.split() == [
        "EACCES",
        "EACCES",
        "mapped",
        "EACCES",
        "mapped",
        "mapped",
        "refused",
        "ran",
    ], done.err


def test_an_object_can_be_copied_and_read(world: World, library: Path) -> None:
    tools = ["/bin/sh", "/bin/cp", "/usr/bin/sha256sum", "/bin/cat", "/bin/grep"]
    target = world.base / "copy"
    done = world.run(
        "/bin/sh",
        "-c",
        f"cp {library} {target} && sha256sum <{target} && cat {library} | grep -c constructor",
        allow_dlopen=0,
        measured=native(*tools),
    )
    assert done.status == 0, done.err
    assert target.read_bytes() == library.read_bytes()


@pytest.mark.parametrize("level", [0, 1])
def test_an_unmeasured_program_is_not_executed(world: World, level: int) -> None:
    planted = world.base / "planted"
    shutil.copy("/bin/echo", planted)
    static = world.base / "static"
    compile_program("exec_self.c", static, "-static")
    done = world.run(
        "/bin/sh",
        "-c",
        f"{planted} ran; {static}; echo end",
        allow_dlopen=level,
        measured=native("/bin/sh"),
    )
    assert done.out == "end\n"
    assert str(planted) in done.err
    assert str(static) in done.err


def test_a_program_of_a_region_is_executed_at_0(world: World) -> None:
    world.compile("exec_self.c", "self", "-static")
    world.add("script", "#!/bin/sh\necho script\n", 0o755)
    world.protect()
    done = world.run(
        "/bin/sh",
        "-c",
        f"{world.app}/self; {world.app}/script",
        allow_dlopen=0,
        measured=native("/bin/sh"),
    )
    assert done.out == f"{world.app}/self||{world.app}/self\nscript\n", done.err


def test_an_unmeasured_interpreter_of_a_script_is_not_executed(world: World) -> None:
    planted = world.base / "planted"
    shutil.copy("/bin/cat", planted)
    script = world.base / "script"
    script.write_text(f"#!{planted}\n")
    script.chmod(0o755)
    done = world.run(
        "/bin/sh", "-c", f"{script}; echo end", allow_dlopen=0, measured=native("/bin/sh")
    )
    assert done.out == "end\n"
    assert str(planted) in done.err


def _python() -> list[str]:
    from crannog.measure.mrenclave import ProgramSettings
    from crannog.measure.program import measure_program
    from crannog.measure.root import Root

    with Root("/") as root:
        measured = measure_program(root, "/usr/bin/python3", ProgramSettings())
    return [file.path for file in measured.native]


def test_python_with_its_library_works_with_the_default(world: World) -> None:
    """What the tutorial's programs import, and the rest of the extension modules, at level 0."""
    world.add(
        "main.py",
        "import ssl, http.server, socket, json, ctypes, sqlite3, hashlib, os\n"
        "import asyncio, multiprocessing, decimal, uuid, lzma, bz2, zlib\n"
        "print(ssl.OPENSSL_VERSION[:7], hashlib.sha256(b'').hexdigest()[:8])\n"
        "called = ctypes.CFUNCTYPE(ctypes.c_int)(lambda: 42)()\n"
        "print(called, socket.getaddrinfo('localhost', 80)[0][1] > 0)\n",
    )
    world.protect()
    done = world.run("/usr/bin/python3", world.app / "main.py", allow_dlopen=0, measured=_python())
    assert done.status == 0, done.err
    assert done.out == "OpenSSL e3b0c442\n42 True\n"
    assert done.err == ""


def test_a_region_over_a_measured_library_serves_it_at_0(world: World, loader: Path) -> None:
    """A base image's own libraries may be protected as well; they stay the program's."""
    world.compile("dlopen_part.c", "libpart.so", "-shared", "-fPIC")
    world.protect("AUTHENTICATED")
    library = world.app / "libpart.so"
    done = world.run(loader, library, allow_dlopen=0, measured=[*native(loader), str(library)])
    assert done.out == "constructor ran\nloaded\n", done.err


def test_the_loader_loads_nothing_else_by_preload_or_by_being_called(
    world: World, library: Path, loader: Path
) -> None:
    planted = world.base / "planted"
    shutil.copy("/bin/echo", planted)
    ld = next(path for path in native(loader) if "/ld-" in path or "/ld." in path)
    done = world.run(
        "/bin/sh",
        "-c",
        f"LD_PRELOAD={library} {loader} jit; {ld} {planted} planted ran; echo end",
        allow_dlopen=0,
        measured=native("/bin/sh", loader),
    )
    assert done.out == "ran\nend\n", done.err
    assert str(library) in done.err
    assert str(planted) in done.err
