"""The first process of a node: it makes the node's file system, starts its components, reaps.

Run by `nodes.py` in namespaces of its own, as `python -I init.py STATE NODE PROGRAMS`, with nothing
but the standard library. It takes orders over a socket, a line each, and answers with a JSON line:
`start NAME`, `kill NAME`, `status`. What it mounts and starts ends with it.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import selectors
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

BIND = 4096
REMOUNT = 32
READ_ONLY = 1
NO_SUID = 2
NO_EXEC = 8
NO_DEVICES = 4
RECURSIVE = 16384
SHARED = 1 << 20
DETACH = 2
DEVICES = {"null": 3, "zero": 5, "full": 7, "random": 8, "urandom": 9, "kmsg": 11}  # of major 1
LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "ptmx": "pts/ptmx",
}
# Where a node has a file system of its own; what lies there of the machine's it does not see.
OWN = ("/dev", "/proc", "/run", "/sys", "/tmp", "/var")
KUBELETS_SETTINGS = (
    "kernel/keys/root_maxbytes",
    "kernel/keys/root_maxkeys",
    "kernel/panic",
    "kernel/panic_on_oops",
    "vm/overcommit_memory",
    "vm/panic_on_oom",
)
PRIVATE = ("log", "lib/kubelet", "lib/containerd", "lib/cni", "lib/etcd", "lib/crannog", "cache")

_libc = ctypes.CDLL(None, use_errno=True)


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    """mount(2); OSError names the target."""
    given = (source.encode(), target.encode(), kind.encode() or None, flags, data.encode() or None)
    if _libc.mount(*given) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), target)


def cgroup_mounts() -> list[tuple[str, str, str]]:
    """Each cgroup file system: where it is, its type, the options that name its hierarchy."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        place = before.split()[4]
        kind, _, options = after.split(" ", 2)
        if kind in ("cgroup", "cgroup2") and place.startswith("/sys/fs/cgroup"):
            names = [one for one in options.split(",") if one not in ("rw", "ro", "xattr")]
            found.append((place, kind, ",".join(names) if kind == "cgroup" else ""))
    return found


def make_file_system(state: Path, node: str, programs: Path) -> None:
    """Give the node files of its own; of the machine's it sees the rest, and changes none."""
    cgroups, machines = cgroup_mounts(), _mounts()
    own = state / node / "var"
    for each in PRIVATE:
        (own / each).mkdir(parents=True, exist_ok=True)
    (own / "tmp").mkdir(exist_ok=True)
    (own / "tmp").chmod(0o1777)
    if not (own / "run").is_symlink():
        (own / "run").symlink_to("/run")

    mount("tmpfs", "/run", "tmpfs", NO_SUID | NO_DEVICES, "mode=755")
    for source, target in ((state, "/run/cluster"), (programs, "/run/programs")):
        os.mkdir(target, 0o700)
        mount(str(source), target, flags=BIND)
    os.mkdir("/run/netns")
    mount(str(own), "/var", flags=BIND)
    mount("tmpfs", "/tmp", "tmpfs", NO_SUID | NO_DEVICES, "mode=1777")
    _make_devices()

    mount("sysfs", "/sys", "sysfs", NO_SUID | NO_DEVICES | NO_EXEC)
    if any(place != "/sys/fs/cgroup" for place, _, _ in cgroups):
        mount("tmpfs", "/sys/fs/cgroup", "tmpfs", NO_SUID | NO_DEVICES | NO_EXEC, "mode=755")
    for place, kind, options in cgroups:
        os.makedirs(place, exist_ok=True)
        mount(kind, place, kind, NO_SUID | NO_DEVICES | NO_EXEC, options)
    if [kind for _, kind, _ in cgroups] == ["cgroup2"]:
        _make_room_for_controllers(Path("/sys/fs/cgroup"))

    _close_kernel_settings()
    for place, kept in machines:
        if not any(place == own or place.startswith(f"{own}/") for own in OWN):
            mount("none", place, flags=BIND | REMOUNT | READ_ONLY | kept)
    mount("none", "/", flags=RECURSIVE | SHARED)


def _mounts() -> list[tuple[str, int]]:
    """Where the machine's file systems are, each with the flags that it keeps."""
    flags = {"nosuid": NO_SUID, "nodev": NO_DEVICES, "noexec": NO_EXEC}
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        place, options = line.split()[4:6]
        place = re.sub(r"\\(\d{3})", lambda blank: chr(int(blank[1], 8)), place)
        found.append((place, sum(flags.get(option, 0) for option in options.split(","))))
    return found


def _close_kernel_settings() -> None:
    """Let the node change settings of its own network alone.

    A kubelet sets some that are the whole machine's, and does not start where it cannot. Of those
    the node has copies.
    """
    for name in KUBELETS_SETTINGS:
        copy, setting = Path("/run/settings", name), Path("/proc/sys", name)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(setting.read_text())
        mount(str(copy), str(setting), flags=BIND)
    mount("/proc/sys/net", "/proc/sys/net", flags=BIND)
    mount("/proc/sys", "/proc/sys", flags=BIND | RECURSIVE)
    mount("none", "/proc/sys", flags=BIND | REMOUNT | READ_ONLY | NO_SUID | NO_DEVICES | NO_EXEC)


def _make_devices() -> None:
    """A /dev of the node's own, so that a device that is made there is no other node's."""
    mount("tmpfs", "/dev", "tmpfs", NO_SUID, "mode=755")
    nodes = {name: os.makedev(1, minor) for name, minor in DEVICES.items()}
    for name, device in {**nodes, "tty": os.makedev(5, 0)}.items():
        os.mknod(f"/dev/{name}", stat.S_IFCHR | 0o666, device)
        os.chmod(f"/dev/{name}", 0o666)
    for name, target in LINKS.items():
        os.symlink(target, f"/dev/{name}")
    for name, kind, options in (
        ("pts", "devpts", "newinstance,ptmxmode=0666,mode=620"),
        ("shm", "tmpfs", "mode=1777"),
        ("mqueue", "mqueue", ""),
    ):
        os.mkdir(f"/dev/{name}")
        mount(kind, f"/dev/{name}", kind, NO_SUID | NO_EXEC, options)


def _make_room_for_controllers(root: Path) -> None:
    """Where all is one hierarchy, processes and controlled children do not go together."""
    (root / "daemons").mkdir(exist_ok=True)
    (root / "daemons" / "cgroup.procs").write_text("0")
    for controller in (root / "cgroup.controllers").read_text().split():
        (root / "cgroup.subtree_control").write_text(f"+{controller}")


class Components:
    """The node's components: their command lines, and those that run."""

    def __init__(self, directory: Path) -> None:
        self._commands: dict[str, list[str]] = json.loads(
            (directory / "components.json").read_text()
        )
        self._log = directory / "log"
        self._running: dict[str, int] = {}
        self._ended: dict[str, int] = {}  # by themselves, and their exit status

    def reap(self) -> None:
        """Bury every process that has ended, the components' and the pods' orphans."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for name in [name for name, running in self._running.items() if running == pid]:
                del self._running[name]
                self._ended[name] = os.waitstatus_to_exitcode(status)
                print(f"{name} ended: {self._ended[name]}", flush=True)

    def order(self, line: str) -> dict[str, object]:
        """Do what a line says; the answer."""
        verb, _, name = line.partition(" ")
        if verb == "status":
            return {"running": self._running, "ended": self._ended}
        if name not in self._commands:
            return {"error": f"no component {name!r}, expected one of {sorted(self._commands)}"}
        if verb == "start":
            return self._start(name)
        if verb == "kill":
            return self._kill(name)
        return {"error": f"unknown order {verb!r}, expected start, kill or status"}

    def _start(self, name: str) -> dict[str, object]:
        if name in self._running:
            return {"error": f"{name} runs already"}
        with (self._log / f"{name}.log").open("ab") as log:
            try:
                started = subprocess.Popen(
                    self._commands[name],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except OSError as error:
                return {"error": f"{name}: {error}"}
        self._ended.pop(name, None)
        started.returncode = 0  # it is waited for in `reap`, with all others
        self._running[name] = started.pid
        return {"pid": started.pid}

    def _kill(self, name: str) -> dict[str, object]:
        pid = self._running.pop(name, 0)
        if not pid:
            return {"error": f"{name} does not run"}
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return {"pid": pid}


def serve(directory: Path) -> None:
    """Take orders for as long as the node is."""
    components = Components(directory)
    wake, woken = socket.socketpair()
    for end in (wake, woken):
        end.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(woken.fileno(), warn_on_full_buffer=False)
    path = directory / "control"
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen()
    chosen = selectors.DefaultSelector()
    chosen.register(wake, selectors.EVENT_READ)
    chosen.register(listener, selectors.EVENT_READ)
    while True:
        for key, _ in chosen.select():
            if key.fileobj is wake:
                wake.recv(4096)
                continue
            asking, _ = listener.accept()
            with asking:
                asking.settimeout(5)
                try:
                    line = asking.recv(4096).decode().strip()
                    asking.sendall(json.dumps(components.order(line)).encode() + b"\n")
                except OSError as error:
                    print(f"order not taken: {error}", flush=True)
        components.reap()


def main() -> None:
    """The node."""
    state, node, programs = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    socket.sethostname(node)
    os.umask(0o022)
    make_file_system(state, node, programs)
    serve(Path("/run/cluster") / node)


if __name__ == "__main__":
    main()
