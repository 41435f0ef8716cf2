"""The launcher directory in a root with nothing else in it, and in one made hostile for it."""

from __future__ import annotations

import os
import re
import shutil
import socket
import stat
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from images.artifacts import make_artifacts
from images.artifacts_entries import compiler
from images.artifacts_wheels import PROJECT

from crannog.measure.launcher_directory import directory_digest
from tests.containers import base

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for chroot")

QUIET = {"SCONE_LOG": "ERROR"}

# Prints arguments and environment, each with its final NUL, an empty one between the two.
SHOW = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
int main(int argc, char **argv, char **environment)
{
    for (; *argv; argv++) fwrite(*argv, 1, strlen(*argv) + 1, stdout);
    putchar(0);
    for (; *environment; environment++) fwrite(*environment, 1, strlen(*environment) + 1, stdout);
    return 0;
}
"""
# Ends with its first argument as status; with `signal`, by SIGTERM; `fds`: which of 0-2 are what.
END = r"""
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
int main(int argc, char **argv)
{
    char byte;
    if (!strcmp(argv[1], "signal")) raise(SIGTERM);
    if (!strcmp(argv[1], "fds")) {
        FILE *out = fopen("/fds", "w");
        for (int each = 0; each < 6; each++) {
            char name[64], link[128] = {0};
            snprintf(name, sizeof name, "/proc/self/fd/%d", each);
            if (each == fileno(out) || readlink(name, link, sizeof link - 1) < 0) continue;
            fprintf(out, "%d %s %zd %zd\n", each, link, read(each, &byte, 1), write(each, "x", 1));
        }
        return 0;
    }
    return atoi(argv[1]);
}
"""
# Starts its first argument with an environment that no shell would make.
STRANGE = r"""
#include <unistd.h>
int main(int argc, char **argv)
{
    char *environment[] = {"SCONE_LOG=ERROR", "A=1", "A=2", "=C:=x", "noname", "=", "B=",
                           "a b\n=\xff", 0};
    return execve(argv[1], argv + 1, environment);
}
"""
# Loaded by anybody, it leaves a mark.
EVIL = r"""
#include "system-x86_64.h"
__attribute__((constructor)) static void mark(void)
{
    system_call(2, (long)"/loaded", 0101, 0600, 0, 0, 0);
}
"""


class Inside:
    """A root directory with the launcher directory, some static programs, and `/proc` when run."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def run(
        self,
        *command: str,
        environment: Mapping[str, str] | None = None,
        redirect: str = "",
        before: Sequence[str] = (),
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a command in it; `before` stands before chroot, `redirect` is the shell's."""
        script = f'mount -t proc proc "$1/proc" && cd / && shift && exec "$@" {redirect}'
        given = {} if environment is None else dict(environment)
        return subprocess.run(
            [
                *("/usr/bin/env", "-i", "/usr/bin/unshare", "--mount", *before),
                *("/bin/sh", "-c", script, "sh", str(self.root)),
                *("/usr/sbin/chroot", str(self.root), "/env", *map("=".join, given.items())),
                *("", *command),
            ],
            capture_output=True,
            check=False,
            timeout=120,
        )


# env(1), static: chroot's own environment is the shell's.
ENV = r"""
#include <unistd.h>
int main(int argc, char **argv)
{
    char **end = argv + 1;
    while (**end) end++;
    *end = 0;
    return execve(end[1], end + 1, argv + 1);
}
"""


def compile_program(text: str, target: Path, *options: str) -> None:
    """A C program, static unless the options say otherwise."""
    found = compiler()
    assert found is not None
    launcher = PROJECT / "images" / "launcher"
    subprocess.run(
        [
            *(found, "-O1", "-w", "-I", str(launcher), *(options or ("-static",))),
            *("-o", str(target), "-xc", "-"),
        ],
        input=text,
        text=True,
        check=True,
    )


@pytest.fixture(scope="module")
def made(request: pytest.FixtureRequest) -> Path:
    """The session's artifacts."""
    if compiler() is None:
        pytest.skip("no C compiler to make the launcher directory with")
    artifacts: Path = request.getfixturevalue("artifacts")
    return artifacts


@pytest.fixture(scope="module")
def inside(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Inside:
    """Nothing but the launcher directory at /crannog and the programs above."""
    root = tmp_path_factory.mktemp("root")
    shutil.copytree(made / "launcher", root / "crannog", symlinks=True)
    for name, text in (("show", SHOW), ("end", END), ("strange", STRANGE), ("env", ENV)):
        compile_program(text, root / name)
    (root / "proc").mkdir()
    return Inside(root)


def shown(output: bytes) -> tuple[list[bytes], list[bytes]]:
    """Arguments and environment as the program got them."""
    arguments, _, environment = output.partition(b"\0\0")
    return arguments.split(b"\0"), environment.split(b"\0")[:-1]


def test_it_starts_in_an_empty_root(inside: Inside) -> None:
    done = inside.run("/crannog/run", "--", "/show", "a b", "", environment=QUIET)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"/show\0a b\0\0")


def test_it_measures_in_an_empty_root(inside: Inside) -> None:
    done = inside.run("/crannog/run", "/show", environment={"SCONE_HASH": "1"})
    assert (done.returncode, done.stderr) == (0, b"")
    assert re.fullmatch(rb"[0-9a-f]{64}\n", done.stdout)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"": "no name"},
        {"A": "", "a b": "c\nd", "é": "\udcff\udcfe", "x=y": "z"},
        {f"N{number}": "v" * 50 for number in range(10_000)},
        {"BIG": "b" * 130_000},
    ],
    ids=["none", "no-name", "strange", "ten-thousand", "big"],
)
def test_environment_arrives_as_it_was(inside: Inside, given: dict[str, str]) -> None:
    done = inside.run("/crannog/run", "--", "/show", environment=QUIET | given)
    assert done.returncode == 0, done.stderr
    expected = [os.fsencode(f"{name}={value}") for name, value in (QUIET | given).items() if name]
    assert shown(done.stdout)[1] == expected


def test_a_name_that_is_there_twice_stays_twice(inside: Inside) -> None:
    done = inside.run("/strange", "/crannog/run", "--", "/show")
    assert done.returncode == 0, done.stderr
    assert shown(done.stdout)[1] == [
        *(b"SCONE_LOG=ERROR", b"A=1", b"A=2", b"=C:=x", b"B=", b"a b\n=\xff"),
    ]


HOSTILE = {
    **{"LD_PRELOAD": "/evil/evil.so", "LD_LIBRARY_PATH": "/evil", "LD_AUDIT": "/evil/evil.so"},
    **{"GLIBC_TUNABLES": "glibc.malloc.check=3", "PYTHONPATH": "/evil", "PYTHONHOME": "/evil"},
    **{"PYTHONSTARTUP": "/evil/os.py", "PYTHONWARNINGS": "error", "PYTHONVERBOSE": "1"},
    **{"OPENSSL_CONF": "/evil/openssl.cnf", "OPENSSL_MODULES": "/evil", "LC_ALL": "evil"},
    **{"LOCPATH": "/evil", "GCONV_PATH": "/evil", "LANG": "de_DE.UTF-8", "TZ": ":/evil/zone"},
    **{"CRANNOG_ENVIRONMENT_FD": "0", "MALLOC_TRACE": "/loaded"},
}


@pytest.fixture
def hostile(inside: Inside) -> Inside:
    """With a library and modules that leave a mark when they are loaded."""
    evil = inside.root / "evil"
    shutil.rmtree(evil, ignore_errors=True)
    (evil / "encodings").mkdir(parents=True)
    (inside.root / "loaded").unlink(missing_ok=True)
    compile_program(EVIL, evil / "evil.so", "-shared", "-fPIC", "-nostdlib")
    for name in ("libc.so.6", "libm.so.6", "first.so", "libcrypto.so.3"):
        shutil.copy(evil / "evil.so", evil / name)
    mark = "open('/loaded', 'w')\n"
    for name in ("os", "sitecustomize", "crannog", "encodings/__init__", "codecs"):
        (evil / f"{name}.py").write_text(mark)
    (evil / "openssl.cnf").write_text(
        "openssl_conf = a\n[a]\nengines = b\n[b]\nc = d\n[d]\n"
        "engine_id = e\ndynamic_path = /evil/evil.so\ninit = 1\n"
    )
    return inside


@pytest.mark.parametrize("more", [{}, {"SCONE_HASH": "1"}], ids=["plain", "hash"])
def test_nothing_in_the_environment_has_an_effect(hostile: Inside, more: dict[str, str]) -> None:
    given = HOSTILE | QUIET | more
    done = hostile.run("/crannog/run", "--", "/show", environment=given)
    assert (done.returncode, done.stderr) == (0, b"")
    assert not (hostile.root / "loaded").exists()
    if not more:
        expected = [f"{name}={value}".encode() for name, value in given.items()]
        assert shown(done.stdout)[1] == expected


def test_the_loaders_preload_is_dead(hostile: Inside) -> None:
    etc = hostile.root / "etc"
    etc.mkdir(exist_ok=True)
    (etc / "ld.so.preload").write_text("/evil/evil.so\n")
    loader = hostile.root / "crannog" / "lib" / "ld.so"
    patched = loader.read_bytes()
    try:
        assert hostile.run("/crannog/run", "/show", environment=QUIET).returncode == 0
        assert not (hostile.root / "loaded").exists()
        if base.is_image():
            return
        # The same with the loader as it was: this test would have seen it.
        root = base.root_file_system()
        loader.write_bytes((root / "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2").read_bytes())
        assert hostile.run("/crannog/run", "/show", environment=QUIET).returncode == 0
        assert (hostile.root / "loaded").exists()
    finally:
        loader.write_bytes(patched)
        (etc / "ld.so.preload").unlink()


def test_a_zip_above_the_directory_is_not_taken(hostile: Inside) -> None:
    library = next((hostile.root / "crannog" / "lib").glob("python3*.zip"))
    above = hostile.root / "lib"
    above.mkdir()
    try:
        shutil.copytree(hostile.root / "evil", above / library.stem.replace("python3", "python3."))
        shutil.make_archive(str(above / library.stem), "zip", hostile.root / "evil")
        assert hostile.run("/crannog/run", "/show", environment=QUIET).returncode == 0
        assert not (hostile.root / "loaded").exists()
    finally:
        shutil.rmtree(above)


@pytest.mark.parametrize("place", ["opt/a b/é", "x"])
def test_it_may_lie_anywhere(inside: Inside, place: str) -> None:
    moved = inside.root / place
    moved.parent.mkdir(parents=True, exist_ok=True)
    os.rename(inside.root / "crannog", moved)
    try:
        done = inside.run(f"/{place}/run", "/end", "3", environment=QUIET)
        assert (done.returncode, done.stderr) == (3, b"")
    finally:
        os.rename(moved, inside.root / "crannog")


@pytest.mark.parametrize("character", [":", ";", "$"])
def test_a_path_that_the_loader_would_interpret_is_refused(inside: Inside, character: str) -> None:
    moved = inside.root / f"a{character}b"
    os.rename(inside.root / "crannog", moved)
    try:
        done = inside.run(f"/{moved.name}/run", "/end", "3", environment=QUIET)
    finally:
        os.rename(moved, inside.root / "crannog")
    assert done.returncode == 78
    assert done.stderr.startswith(b"crannog: error: the directory's path holds a c")
    assert done.stderr.count(b"\n") == 1


def test_a_directory_without_its_loader_is_refused(inside: Inside) -> None:
    loader = inside.root / "crannog" / "lib" / "ld.so"
    loader.rename(loader.with_suffix(".away"))
    try:
        done = inside.run("/crannog/run", "/end", "3", environment=QUIET)
    finally:
        loader.with_suffix(".away").rename(loader)
    expected = b"crannog: error: cannot be executed: /crannog/lib/ld.so: error 2\n"
    assert (done.returncode, done.stderr) == (127, expected)


AS_FIRST_PROCESS = ("--pid", "--fork")
NO_LOADER = b"crannog: error: cannot be executed: /crannog/lib/ld.so: error 2\n"


@pytest.fixture
def without_loader(inside: Inside) -> Iterator[Inside]:
    """The root, its launcher unable to start Python."""
    loader = inside.root / "crannog" / "lib" / "ld.so"
    loader.rename(loader.with_suffix(".away"))
    (inside.root / "dev").mkdir()
    yield inside
    shutil.rmtree(inside.root / "dev")
    loader.with_suffix(".away").rename(loader)


def _fails(inside: Inside, *, before: Sequence[str], **environment: str) -> None:
    done = inside.run("/crannog/run", "/end", "3", environment=environment, before=before)
    assert (done.returncode, done.stderr) == (127, NO_LOADER)


def test_the_entry_s_failure_is_appended_to_the_termination_message(without_loader: Inside) -> None:
    message = without_loader.root / "dev" / "termination-log"
    message.write_bytes(b"before\n")
    _fails(without_loader, before=AS_FIRST_PROCESS)
    assert message.read_bytes() == b"before\n" + NO_LOADER


def test_the_entry_s_failure_is_in_the_file_that_is_named(without_loader: Inside) -> None:
    message, named = (without_loader.root / "dev" / name for name in ("termination-log", "named"))
    message.touch()
    named.touch()
    _fails(without_loader, before=AS_FIRST_PROCESS, CRANNOG_TERMINATION_LOG="/dev/named")
    assert (message.read_bytes(), named.read_bytes()) == (b"", NO_LOADER)


def test_no_termination_message_is_made_for_the_entry(without_loader: Inside) -> None:
    _fails(without_loader, before=AS_FIRST_PROCESS)
    assert list((without_loader.root / "dev").iterdir()) == []


def test_of_another_process_than_the_first_it_is_no_termination_message(
    without_loader: Inside,
) -> None:
    message = without_loader.root / "dev" / "termination-log"
    message.touch()
    _fails(without_loader, before=())
    assert message.read_bytes() == b""


@pytest.mark.parametrize("kind", ["link", "pipe", "directory"])
def test_the_entry_writes_its_failure_to_a_regular_file_only(
    without_loader: Inside, kind: str
) -> None:
    message = without_loader.root / "dev" / "termination-log"
    other = message.with_name("other")
    other.touch()
    if kind == "link":
        message.symlink_to("/dev/other")
    elif kind == "pipe":
        os.mkfifo(message)
    else:
        message.mkdir()
    _fails(without_loader, before=AS_FIRST_PROCESS)
    assert other.read_bytes() == b""


def test_without_proc_it_is_refused(inside: Inside) -> None:
    done = subprocess.run(
        ["/usr/sbin/chroot", str(inside.root), "/crannog/run", "/end", "3"],
        capture_output=True,
        check=False,
    )
    assert done.returncode == 78
    assert b"is /proc mounted?" in done.stderr


@pytest.mark.parametrize("closed", ["<&-", "<&- 2>&-", "<&- >&- 2>&-"])
def test_closed_descriptors_are_no_other_file(inside: Inside, closed: str) -> None:
    done = inside.run("/crannog/run", "--", "/end", "fds", environment=QUIET, redirect=closed)
    assert done.returncode == 0
    lines = (inside.root / "fds").read_text().splitlines()
    # Nothing to read, nothing can be written, and none of them is a file of the launcher's.
    count = closed.count("&-")
    assert [line for line in lines if "closed" in line] == [
        f"{number} /memfd:closed (deleted) 0 -1"
        for number in ([0, 2] if count == 2 else range(count))
    ]
    assert not [line for line in lines if int(line[0]) > 2]


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (("--", "/end", "7"), 7),
        (("--", "/end", "signal"), 143),
        (("--", "/nothing"), 127),
        (("--", "/crannog/start.py"), 126),
        ((), 2),
        (("--nonsense",), 2),
        (("--help",), 0),
    ],
    ids=lambda each: "-".join(each).strip("-/") if isinstance(each, tuple) else "",
)
def test_exit_status(inside: Inside, command: tuple[str, ...], status: int) -> None:
    done = inside.run("/crannog/run", *command, environment=QUIET)
    # Not process 1 and not attested: the program takes the launcher's place, and its signal shows.
    assert done.returncode in {status, -15 if status == 143 else status}


def test_no_arguments_at_all(inside: Inside) -> None:
    assert inside.run("/crannog/run", environment=QUIET).returncode == 2


def test_another_user_cannot_look_into_it(inside: Inside) -> None:
    """While it waits for the CAS: not even a process of the same user, nor by a core file."""
    inside.root.chmod(0o755)
    with socket.create_server(("127.0.0.1", 0)) as cas:
        process = subprocess.Popen(
            [
                *("/usr/bin/unshare", "--mount", "/bin/sh", "-c"),
                'mount -t proc proc "$1/proc" && shift && exec "$@"',
                *("sh", str(inside.root), "/usr/sbin/chroot", "--userspec=65534:65534"),
                *(str(inside.root), "/crannog/run", "--", "/show"),
            ],
            env={
                **{"SCONE_CONFIG_ID": "s/a", "SCONE_LAS_ADDR": "127.0.0.1:1"},
                **{"SCONE_CAS_ADDR": f"127.0.0.1:{cas.getsockname()[1]}", **QUIET},
            },
            stderr=subprocess.DEVNULL,
        )
        try:
            connection, _ = cas.accept()
            with connection:
                place = f"/proc/{process.pid}"
                assert os.readlink(f"{place}/exe").endswith("/crannog/lib/ld.so")
                # Root's, although the process is not: the kernel's sign of a non-dumpable one.
                for name in ("mem", "environ", "fd"):
                    assert os.stat(f"{place}/{name}").st_uid == 0
        finally:
            process.kill()
            process.wait()


def test_descriptor_of_the_environment_is_closed(inside: Inside) -> None:
    assert inside.run("/crannog/run", "/end", "fds", environment=QUIET).returncode == 0
    lines = (inside.root / "fds").read_text().splitlines()
    assert [int(line[0]) for line in lines] == [0, 1, 2]


def test_no_path_of_this_machine_is_in_it(made: Path) -> None:
    places = [bytes(PROJECT), bytes(made), b"/tmp/", os.fsencode(Path.home()) + b"/"]
    # Where a path begins: `/proc/self/root/` in a docstring is not the home of root.
    begun = [(place, re.compile(rb"(?<!\w)" + re.escape(place))) for place in places]
    for directory, _, files in os.walk(made / "launcher"):
        for name in files:
            path = Path(directory, name)
            if path.suffix not in {".pyc", ".py"} and name not in {"run", "first.so"}:
                continue
            content = path.read_bytes()
            found = [place for place, pattern in begun if pattern.search(content)]
            # The standard library names /tmp itself.
            assert [each for each in found if each != b"/tmp/"] == [], path


def test_digest_is_that_of_the_directory(made: Path) -> None:
    text = (made / "launcher" / "digest").read_text()
    assert text == directory_digest(str(made / "launcher")).hex() + "\n"


CLAIM = "import sys; sys.path += sys.argv[1:]; from crannog.measure import launcher as l"


def claimed(inside: Inside, place: str, *options: str) -> subprocess.CompletedProcess[bytes]:
    """What the launcher's code at `place` claims on the directory's Python."""
    library = ("--inhibit-cache", "--library-path", "/crannog/lib")
    python = ("--argv0", "/crannog/bin/python3", "/crannog/bin/python3", *options)
    code = f"{CLAIM}; print(l.own_digest().hex())"
    return inside.run("/crannog/lib/ld.so", *library, *python, "-S", "-c", code, place)


def test_the_launcher_claims_its_directorys_digest(inside: Inside) -> None:
    done = claimed(inside, "/crannog/site", "-I")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == (inside.root / "crannog" / "digest").read_bytes()


def test_code_that_lies_elsewhere_does_not_claim_it(inside: Inside) -> None:
    copy = inside.root / "copy"
    shutil.copytree(PROJECT / "src" / "crannog", copy / "crannog", dirs_exist_ok=True)
    done = claimed(inside, "/copy", "-I")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout != (inside.root / "crannog" / "digest").read_bytes()


def test_a_python_that_heeds_variables_does_not_claim_it(inside: Inside) -> None:
    done = claimed(inside, "/crannog/site")
    assert done.returncode == 1
    assert b"Misconfigured" in done.stderr


def test_modes(made: Path) -> None:
    launcher = made / "launcher"
    modes = {
        path.relative_to(launcher).as_posix(): stat.S_IMODE(path.lstat().st_mode)
        for path in launcher.rglob("*")
        if path.is_file() and not path.is_symlink()
    }
    unusual = {path: mode for path, mode in modes.items() if mode != 0o644}
    assert unusual == {"run": 0o755, "bin/python3": 0o755, "lib/ld.so": 0o711}
    assert {stat.S_IMODE(path.stat().st_mode) for path in launcher.rglob("*") if path.is_dir()} == {
        0o755
    }


def test_it_is_small(made: Path) -> None:
    size = sum(path.lstat().st_size for path in (made / "launcher").rglob("*"))
    assert size < 50e6


@pytest.mark.slow
def test_making_it_again_elsewhere_gives_the_same_bytes(made: Path, tmp_path: Path) -> None:
    if base.is_image():
        pytest.skip("the base is an image, and not a directory")
    other = tmp_path / "other place"
    before = os.umask(0o077)
    try:
        again = make_artifacts(base.root_file_system(), other)
    finally:
        os.umask(before)
    assert again.digest == (made / "launcher" / "digest").read_text().strip()
    assert listing(other) == listing(made)


def listing(tree: Path) -> dict[str, tuple[int, float, bytes]]:
    """Everything below: mode, time, content or target."""
    return {
        path.relative_to(tree).as_posix(): (
            path.lstat().st_mode,
            path.lstat().st_mtime if path.is_file() and path.parent != tree else 0,
            os.readlink(path).encode()
            if path.is_symlink()
            else path.read_bytes()
            if path.is_file()
            else b"",
        )
        for path in tree.rglob("*")
    }
