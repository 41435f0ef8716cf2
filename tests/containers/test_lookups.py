"""Before its evidence a launcher directory's launcher looks at nothing that the image could change.

The real `DIR/run` is traced in a root made hostile for it, up to its end after a CAS has had its
evidence and refused. Every path of every system call is in the allow-list (`traces`), or named.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from crannog.testing.dns import FakeDns
from tests.containers import base
from tests.containers.node import Node
from tests.containers.traces import TRACED, Allowed, Lookup, lookups, read_traces
from tests.launcher.fake_cas import FakeCas, refuse

PLACES = ("/crannog", "/run/crannog/launcher")
DNS = "127.83.0.1"
PATH = "/nowhere:/bin:/usr/bin"
COMMAND = "python3"

# Whatever C library, OpenSSL, Python and Rust would heed.
HOSTILE = {
    "LD_PRELOAD": "/hostile/preload.so",
    "LD_LIBRARY_PATH": "/hostile",
    "LD_AUDIT": "/hostile/audit.so",
    "PYTHONPATH": "/hostile",
    "PYTHONHOME": "/hostile",
    "PYTHONSTARTUP": "/hostile/start.py",
    "PYTHONPYCACHEPREFIX": "/hostile",
    "PYTHONPLATLIBDIR": "hostile",
    "PYTHONINSPECT": "1",
    "OPENSSL_CONF": "/hostile/openssl.cnf",
    "OPENSSL_CONF_INCLUDE": "/hostile",
    "OPENSSL_MODULES": "/hostile",
    "OPENSSL_ENGINES": "/hostile",
    "SSL_CERT_FILE": "/hostile/cert.pem",
    "SSL_CERT_DIR": "/hostile",
    "SSLKEYLOGFILE": "/hostile/keys",
    "TZ": ":/hostile/tz",
    "TZDIR": "/hostile",
    "LANG": "de_DE.UTF-8",
    "LC_ALL": "de_DE.UTF-8",
    "LANGUAGE": "de",
    "LOCPATH": "/hostile",
    "NLSPATH": "/hostile/%N",
    "GCONV_PATH": "/hostile",
    "GETCONF_DIR": "/hostile",
    "MALLOC_TRACE": "/hostile/trace",
    "MALLOC_CHECK_": "3",
    "MALLOC_PERTURB_": "165",
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=2:glibc.malloc.tcache_count=0:glibc.rtld.nns=9",
    "RES_OPTIONS": "ndots:15",
    "HOSTALIASES": "/hostile/aliases",
    "LOCALDOMAIN": "hostile",
    "RESOLV_HOST_CONF": "/hostile/host.conf",
    "RUST_BACKTRACE": "full",
    "CRYPTOGRAPHY_OPENSSL_NO_LEGACY": "",
    "TMPDIR": "/hostile",
    "HOME": "/hostile",
}
_RAN = "import os; os.close(os.open('/hostile-ran', os.O_CREAT | os.O_WRONLY))\n"


@dataclass(frozen=True, slots=True)
class Hostile:
    """A root directory whose every file that somebody might load is an attacker's."""

    root: Path

    def write(self, path: str, content: bytes | str = b"\xff hostile\n") -> None:
        """Put a file there in place of what is there."""
        place = self.root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.unlink(missing_ok=True)
        place.write_bytes(content.encode() if isinstance(content, str) else content)

    def install(self, launcher: Path, place: str) -> Path:
        """A copy of the launcher directory at `place`."""
        directory = self.root / place.lstrip("/")
        shutil.rmtree(directory, ignore_errors=True)
        directory.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "-a", launcher, directory], check=True)
        return directory

    @property
    def ran(self) -> bool:
        """Whether anything of the attacker's was executed as Python."""
        return (self.root / "hostile-ran").exists()


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory, artifacts: Path) -> Iterator[Hostile]:
    if os.geteuid() != 0:
        pytest.skip("chroot and strace of a program that is not dumpable need root")
    if shutil.which("strace") is None:
        pytest.skip("no strace")
    if base.is_image():
        pytest.skip("CRANNOG_TEST_BASE is an image, and this needs a directory")
    root = tmp_path_factory.mktemp("hostile") / "root"
    subprocess.run(["cp", "-a", base.root_file_system(), root], check=True)
    hostile = Hostile(root)
    for directory in openssl_directories(artifacts / "launcher"):
        hostile.write(f"{directory}/openssl.cnf", ".include = /hostile/include.cnf\n")
    for path in (
        *("/usr/lib/locale/locale-archive", "/usr/lib/locale/C.utf8/LC_CTYPE"),
        *("/usr/share/locale/locale.alias", "/usr/share/zoneinfo/UTC", "/etc/localtime"),
        *("/hostile/preload.so", "/hostile/audit.so", "/hostile/openssl.cnf", "/hostile/tz"),
        *("/hostile/include.cnf", "/etc/host.conf", "/etc/gai.conf", "/etc/services"),
        *("/etc/ld.so.conf", "/usr/share/zoneinfo/UTC0", "/etc/passwd", "/dev/null"),
        *("/sys/fs/cgroup/cgroup.controllers", "/sys/devices/system/cpu/online"),
    ):
        hostile.write(path)
    for found in root.glob("usr/lib/*/gconv"):
        inside = f"/{found.relative_to(root)}"
        hostile.write(f"{inside}/gconv-modules", "module UTF-8// INTERNAL /hostile/gconv 1\n")
        hostile.write(f"{inside}/gconv-modules.cache")
        hostile.write(f"{inside}/gconv-modules.d/hostile.conf")
    for found in root.glob("usr/lib/*/libnss_compat.so.2"):
        shutil.copy(found, found.with_name("libnss_hostile.so.2"))
    hostile.write("/etc/nsswitch.conf", "hosts: hostile files\npasswd: hostile\n")
    hostile.write("/etc/ld.so.preload", "/hostile/preload.so\n")
    version = next(root.glob("usr/lib/python3.[0-9]*")).name.removeprefix("python")
    for place in ("", "/run", "/run/crannog", "/lib", "/bin", f"/lib/python{version}", "/hostile"):
        for name in ("sitecustomize.py", "usercustomize.py", "encodings.py", "site.py", "os.py"):
            if place.count("/") < 2:  # the measured Python's own library stays one
                hostile.write(f"{place}/{name}", _RAN)
        hostile.write(f"{place}/pyvenv.cfg", "home = /hostile\n")
        hostile.write(f"{place}/python{version.replace('.', '')}.zip")
        hostile.write(f"{place}/pybuilddir.txt", "/hostile")
    hostile.write("/etc/hosts", "127.0.0.1 localhost cas-in-hosts\n")
    hostile.write("/etc/resolv.conf", f"nameserver {DNS}\nsearch test\n")
    for name in ("proc", "run/crannog/las"):
        (root / name).mkdir(parents=True, exist_ok=True)
    yield hostile
    shutil.rmtree(root)


def openssl_directories(launcher: Path) -> set[str]:
    """Every OPENSSLDIR compiled into a library of the launcher's, and the usual ones."""
    found = {"/usr/lib/ssl", "/etc/ssl", "/usr/local/ssl"}
    for library in launcher.rglob("*.so*"):
        if library.is_file():
            for match in re.findall(rb'OPENSSLDIR: "(/[^"]+)"', library.read_bytes()):
                found.add(match.decode())
    return found


def trace(
    hostile: Hostile,
    out: Path,
    cas: str,
    *command: str,
    sockets: Path | None = None,
) -> list[Lookup]:
    """Run a command in the root under strace, to its end; what it looked up."""
    variables = {
        **HOSTILE,
        "PATH": PATH,
        "SCONE_CAS_ADDR": cas,
        "SCONE_CONFIG_ID": "session/service",
        "CRANNOG_RETRY_SECONDS": "0",
    }
    mounts = 'mount -t proc proc "$0/proc" && '
    if sockets is not None:
        mounts += f'mount --bind {sockets} "$0/run/crannog/las" && '
    done = subprocess.run(
        [
            *("unshare", "--mount", "--propagation", "private"),
            *("sh", "-c", mounts + 'exec "$@"', str(hostile.root)),
            *("strace", "-ff", "-y", "-s", "8192", "-o", str(out / "trace")),
            *("-e", f"trace={TRACED}"),
            *(f"-E{name}={value}" for name, value in variables.items()),
            *("/usr/sbin/chroot", str(hostile.root), *command),
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=120,
        check=False,
    )
    if "mount:" in done.stderr or "unshare:" in done.stderr:
        pytest.skip(f"this machine lets root not mount: {done.stderr.strip()[:200]}")
    assert done.returncode == 78, done.stderr
    return until_it_failed(read_traces(out / "trace", hostile.root, command[0]))


def until_it_failed(found: list[Lookup]) -> list[Lookup]:
    """Without the one lookup that follows a failure: of the file for its reason.

    It is known by the module that is loaded just before it, and that nothing else loads.
    """
    for position, each in enumerate(found):
        looks = each.full == "/dev/termination-log" and each.call == "newfstatat"
        # Loading ends with looks at the file's own descriptor, which have no path.
        loaded = [before.path for before in found[:position] if before.path][-1:]
        if looks and loaded and loaded[0].endswith("/site/crannog/runtime/termination.pyc"):
            return found[:position] + found[position + 1 :]
    return found


def refused(directory: str, found: list[Lookup]) -> list[str]:
    """The lines of what is not allowed."""
    allowed = Allowed(directory, tuple(f"{each}/{COMMAND}" for each in PATH.split(":")))
    return [f"{why}: {each.line}" for each in found if (why := allowed.refuse(each))]


def run(place: str) -> tuple[str, ...]:
    return (f"{place}/run", "--", COMMAND)


def port(cas: FakeCas) -> str:
    return cas.address.rpartition(":")[2]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("host", ["127.0.0.1", "cas-in-hosts", "cas-in-dns"])
def test_nothing_outside_its_directory_is_looked_up_before_the_evidence(
    hostile: Hostile, artifacts: Path, tmp_path: Path, place: str, host: str
) -> None:
    hostile.install(artifacts / "launcher", place)
    with (
        FakeDns({"cas-in-dns.test": ("127.0.0.1",)}, address=DNS, port=53),
        FakeCas(refuse("no")) as cas,
    ):
        found = trace(hostile, tmp_path, f"{host}:{port(cas)}", *run(place))
        assert len(cas.seen) == 1  # it did give evidence
    assert refused(place, found) == []
    assert not hostile.ran
    # The trace saw what there was to see.
    assert any(each.call == "openat2" and each.path.endswith("/libc.so.6") for each in found)
    assert any(each.full == "/etc/hosts" for each in found)
    assert any(each.full == "/etc/resolv.conf" for each in found)  # who is `las`?


def test_nothing_else_is_looked_up_where_the_witness_is_the_nodes_socket(
    hostile: Hostile, artifacts: Path, tmp_path: Path, node: Node
) -> None:
    place = PLACES[1]
    hostile.install(artifacts / "launcher", place)
    with FakeCas(refuse("no")) as cas:
        found = trace(hostile, tmp_path, f"127.0.0.1:{port(cas)}", *run(place), sockets=node.socket)
        assert len(cas.seen) == 1
    assert refused(place, found) == []
    assert any("sun_path=" in each.line for each in found)
    assert not any(each.full in ("/etc/hosts", "/etc/resolv.conf") for each in found)


def test_a_curated_images_python_looks_up_no_more(
    hostile: Hostile, artifacts: Path, tmp_path: Path
) -> None:
    place = PLACES[0]
    hostile.install(artifacts / "launcher", place)
    python = (hostile.root / "usr/bin/python3").resolve()
    real = hostile.root / "usr/libexec/crannog" / python.name
    real.parent.mkdir(parents=True)
    python.rename(real)
    shutil.copy(artifacts / "front", python)
    name = f"/usr/bin/{python.name}"
    try:
        with FakeCas(refuse("no")) as cas:
            found = trace(hostile, tmp_path, f"127.0.0.1:{port(cas)}", name, "/app/server.py")
            assert len(cas.seen) == 1
    finally:
        real.rename(python)
    allowed = Allowed(place, (name,), front=name)
    assert [f"{why}: {each.line}" for each in found if (why := allowed.refuse(each))] == []
    assert any(each.path == f"/usr/libexec/crannog/{python.name}" for each in found)


@pytest.mark.parametrize(
    ("planted", "why"),
    [
        ("os.stat('/etc/localtime')", '"/etc/localtime"'),
        ("os.path.exists('/dev/null')", '"/dev/null"'),
        ("os.lstat('/dev/termination-log')", '"/dev/termination-log"'),
        ("os.open('passwd', os.O_RDONLY, dir_fd=os.open('/etc', os.O_PATH))", '"passwd"'),
        ("__import__('socket').getaddrinfo('cas', 1)", "/etc/nsswitch.conf"),
        ("os.listdir('/')", '"/", O_RDONLY|O_NONBLOCK'),
    ],
)
def test_one_planted_lookup_is_found_and_named(
    hostile: Hostile, artifacts: Path, tmp_path: Path, planted: str, why: str
) -> None:
    place = PLACES[0]
    start = hostile.install(artifacts / "launcher", place) / "start.py"
    text = start.read_text()
    start.chmod(0o644)
    start.write_text(
        text.replace(
            "\nmain()",
            f"\nimport os, contextlib\nwith contextlib.suppress(OSError): {planted}\nmain()",
        )
    )
    with FakeCas(refuse("no")) as cas:
        found = trace(hostile, tmp_path, f"127.0.0.1:{port(cas)}", *run(place))
    assert any(why in line for line in refused(place, found))


_ALLOWED = Allowed("/crannog", ("/bin/python3", "/usr/bin/python3"))


@pytest.mark.parametrize(
    "line",
    [
        'openat(AT_FDCWD</r>, "/etc/hosts", O_RDONLY|O_CLOEXEC) = 3</r/etc/hosts>',
        'openat(4</r/etc>, "hosts", O_RDONLY|O_CLOEXEC) = 3</r/etc/hosts>',
        'openat(4</r/etc>, "ssl/openssl.cnf", O_RDONLY|O_NOFOLLOW|O_PATH) = 3</r/x>',
        'openat(4</r/etc>, "..", O_RDONLY|O_NOFOLLOW|O_PATH) = 3</r>',
        'openat(AT_FDCWD</r>, "passwd", O_RDONLY|O_NOFOLLOW|O_PATH) = 3</r/passwd>',
        'openat(AT_FDCWD</r>, "/crannog/../etc/passwd", O_RDONLY) = 3</r/etc/passwd>',
        'openat(AT_FDCWD</r>, "/crannog2/x", O_RDONLY) = 3</r/crannog2/x>',
        'openat2(4</r/etc>, "/x", {flags=O_PATH, resolve=RESOLVE_IN_ROOT}, 24) = 3</r/x>',
        'openat2(4</r>, "/x", {flags=O_PATH, resolve=RESOLVE_NO_MAGICLINKS}, 24) = 3</r/x>',
        'openat2(AT_FDCWD</r/x>, "/x", {flags=O_PATH, resolve=0}, 24) = 3</r/x>',
        'access("/etc/ld.so.preload", R_OK) = -1 ENOENT (No such file or directory)',
        'readlink("/proc/self/root/etc", "x", 4096) = 1',
        'openat(AT_FDCWD</r>, "/proc/self/cgroup", O_RDONLY|O_CLOEXEC) = 3</proc/1/cgroup>',
        'openat(AT_FDCWD</r>, "/usr/bin/python3", O_RDONLY) = 3</r/usr/bin/python3>',
        'newfstatat(AT_FDCWD</r>, "/usr/lib", {st_mode=S_IFDIR}, 0) = 0',
        'openat(AT_FDCWD</r>, "/usr/bin", O_RDONLY|O_CLOEXEC|O_DIRECTORY) = 3</r/usr/bin>',
        'openat(AT_FDCWD</r>, "/usr", O_RDONLY|O_CLOEXEC|O_PATH|O_DIRECTORY) = 3</r/usr>',
        'chdir("/crannog") = 0',
        'connect(3<socket:[1]>, {sa_family=AF_UNIX, sun_path="/run/nscd/socket"}, 110) = -1 X',
        'bind(3<socket:[1]>, {sa_family=AF_UNIX, sun_path="/crannog/socket"}, 110) = 0',
        'mount("a", "b", "c", 0, NULL) = -1 EPERM (Operation not permitted)',
        'openat(AT_FDCWD</r>, "/crannog/aaaa"..., O_RDONLY) = 3</r/x>',
        'rename("/crannog/a", "/crannog/b") = 0',
        'execve("/bin/python3", ["x"], 0x7ff /* 1 var */) = 0',
        "fchdir(3</r/etc>) = 0",
    ],
)
def test_the_allow_list_refuses(line: str) -> None:
    assert [_ALLOWED.refuse(each) for each in lookups([line], "/r")] not in ([], [""])


@pytest.mark.parametrize(
    "line",
    [
        'openat(AT_FDCWD</r>, "/crannog/lib/libc.so.6", O_RDONLY|O_CLOEXEC) = 3</r/x>',
        'openat2(4</r>, "/x", {flags=O_PATH, resolve=RESOLVE_NO_XDEV|RESOLVE_IN_ROOT}, 24) = 3</r>',
        'openat(4</r/etc>, "hosts", O_RDONLY|O_NOFOLLOW|O_CLOEXEC|O_PATH) = 5</r/etc/hosts>',
        'newfstatat(3</r/usr>, "", {st_mode=S_IFDIR|0755, st_size=0, ...}, AT_EMPTY_PATH) = 0',
        'newfstatat(AT_FDCWD</r>, "/usr/bin/python3", {st_mode=S_IFREG|0755, ...}, 0) = 0',
        'openat(AT_FDCWD</r>, "/usr/bin", O_RDONLY|O_CLOEXEC|O_PATH|O_DIRECTORY) = 3</r/usr/bin>',
        "connect(3<socket:[1]>, {sa_family=AF_INET, sin_port=htons(53)}, 16) = 0",
        'connect(3<socket:[1]>, {sa_family=AF_UNIX, sun_path="/run/crannog/las/socket"}, 110) = 0',
        'access("", R_OK) = -1 ENOENT (No such file or directory)',
        'getcwd("/", 4096) = 2',
        "+++ exited with 78 +++",
    ],
)
def test_the_allow_list_allows(line: str) -> None:
    assert [why for each in lookups([line], "/r") if (why := _ALLOWED.refuse(each))] == []


def test_a_line_that_is_not_understood_is_not_passed_over() -> None:
    with pytest.raises(AssertionError, match="not understood"):
        list(lookups(['openat(AT_FDCWD</r>, "/etc/x", O_RDONLY <unfinished ...>'], "/r"))


def test_this_pythons_own_start_would_be_refused(tmp_path: Path) -> None:
    """A Python that is not in a launcher directory looks at a good deal of its system."""
    if shutil.which("strace") is None:
        pytest.skip("no strace")
    done = subprocess.run(
        [
            *("strace", "-ff", "-y", "-s", "8192", "-o", str(tmp_path / "trace")),
            *("-e", f"trace={TRACED}", sys.executable, "-I", "-S", "-c", "import ssl"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        pytest.skip(f"no strace here: {done.stderr.strip()[:200]}")
    found = read_traces(tmp_path / "trace", Path("/nowhere"), sys.executable)
    lines = "\n".join(_ALLOWED.refuse(each) + each.line for each in found)
    assert "openssl.cnf" in lines
    assert "ld.so.cache" in lines
