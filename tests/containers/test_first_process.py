"""The launcher as a container's first process: signals, orphans, exit statuses, with both engines.

One static program in an otherwise empty image, in each way of starting it: not attested, attested
as a plain child, attested under the file shield.
"""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from tests.containers.foreign import needed
from tests.containers.platform import ReachablePlatform
from tests.containers.rig import Container, Engine
from tests.containers.test_foreign import ENTRY, USER

WAYS = ("unattested", "attested", "shielded")
STOP_SECONDS = 2.0
_SOURCE = r"""
#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void pause_for(int milliseconds)
{
    struct timespec left = {milliseconds / 1000, milliseconds % 1000 * 1000000L};
    while (nanosleep(&left, &left))
        ;
}

static int zombies(void)
{
    DIR *proc = opendir("/proc");
    struct dirent *entry;
    int count = 0;
    while ((entry = readdir(proc))) {
        char path[300], text[512] = "";
        FILE *file;
        if (entry->d_name[0] < '0' || entry->d_name[0] > '9')
            continue;
        snprintf(path, sizeof path, "/proc/%s/stat", entry->d_name);
        file = fopen(path, "r");
        if (!file)
            continue;
        if (fgets(text, sizeof text, file)) {
            char *state = strrchr(text, ')');
            count += state && state[2] == 'Z';
        }
        fclose(file);
    }
    closedir(proc);
    return count;
}

int main(int argc, char **argv)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc < 2)
        return 9;
    if (!strcmp(argv[1], "exit"))
        return atoi(argv[2]);
    if (!strcmp(argv[1], "signal")) {
        kill(getpid(), atoi(argv[2]));
        pause();
    }
    if (!strcmp(argv[1], "idle")) {
        printf("ready\n");
        for (;;)
            pause();
    }
    if (!strcmp(argv[1], "signals")) {
        sigset_t all;
        int number;
        sigfillset(&all);
        sigprocmask(SIG_BLOCK, &all, NULL);
        printf("ready\n");
        while (!sigwait(&all, &number)) {
            printf("signal %d\n", number);
            if (number == SIGTERM)
                return 42;
        }
    }
    if (!strcmp(argv[1], "orphans")) {
        int left, round;
        for (int i = 0; i < 20; i++) {
            if (!fork()) {
                if (!fork()) {
                    pause_for(50);
                    _exit(0);
                }
                _exit(0);
            }
            wait(NULL);
        }
        for (round = 0; round < 100; round++) {
            pause_for(100);
            left = zombies();
            if (!left)
                break;
        }
        printf("zombies %d\n", left);
    }
    return 0;
}
"""


class First:
    """The program's image, and the options for each way of starting it."""

    def __init__(
        self, launcher: Path, platform: ReachablePlatform, engine: Engine, image: str
    ) -> None:
        self._platform = platform
        self._engine = engine
        self._sessions = 0
        self._hashes: dict[str, str] = {}
        self.image = image
        self.mounted = (
            f"--volume={launcher}:/run/crannog/launcher:ro",
            f"--entrypoint={ENTRY}",
            *engine.hardened,
            USER,
        )

    def options(self, way: str, *arguments: str) -> tuple[str, ...]:
        """The options with which the program runs `way`, with these arguments."""
        if way == "unattested":
            return self.mounted
        dlopen = f"--env=SCONE_ALLOW_DLOPEN={2 if way == 'attested' else 0}"
        if way not in self._hashes:
            options = (*self.mounted, dlopen, "--env=SCONE_HASH=1")
            hashed = self._engine.run(self.image, "--", "/first", options=options)
            self._hashes[way] = hashed.stdout.strip()
        self._sessions += 1
        name = f"first-{self._engine.name}-{self._sessions}"
        self._platform.create_session(
            f'name: {name}\nversion: "0.3"\nservices:\n  - name: app\n'
            f"    mrenclaves: [{self._hashes[way]}]\n"
            f'    command: "/first {" ".join(arguments)}"\n    pwd: /\n'
        )
        return (*self.mounted, dlopen, *self._platform.options(self._engine, f"{name}/app"))

    def status(self, way: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run it to its end."""
        options = self.options(way, *arguments)
        return self._engine.run(
            self.image, "--", "/first", *arguments, options=options, check=False
        )


def wait_for(container: Container, text: str) -> None:
    """Return once the container has written `text`."""
    deadline = time.monotonic() + 30
    while text not in container.logs():
        assert time.monotonic() < deadline, container.logs()
        time.sleep(0.02)  # its output is all that says so


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("first")
    (directory / "first.c").write_text(_SOURCE)
    subprocess.run(
        [needed("gcc"), "-O1", "-static", "-o", directory / "first", directory / "first.c"],
        check=True,
    )
    (directory / "first.c").unlink()
    (directory / "data").write_text("not a program")
    (directory / "Dockerfile").write_text("FROM scratch\nCOPY first data /\n")
    return directory


@pytest.fixture(scope="module")
def first(
    artifacts: Path,
    platform: ReachablePlatform,
    engine: Engine,
    image_prefix: str,
    program: Path,
) -> First:
    image = engine.build(program, f"{image_prefix}first:1")
    return First(artifacts / "launcher", platform, engine, image)


@pytest.mark.parametrize("way", WAYS)
def test_signals_reach_the_program_and_its_status_comes_back(
    first: First, engine: Engine, way: str
) -> None:
    options = first.options(way, "signals")
    with engine.container(first.image, "--", "/first", "signals", options=options) as container:
        wait_for(container, "ready")
        for number in (1, 10, 12, 28):
            engine.call("kill", f"--signal={number}", container.id)
            wait_for(container, f"signal {number}\n")
        assert container.stop() < STOP_SECONDS
        assert "signal 15\n" in container.logs()
        assert container.state()["ExitCode"] == 42


@pytest.mark.parametrize("way", WAYS)
def test_a_program_without_handlers_ends_at_once_when_stopped(
    first: First, engine: Engine, way: str
) -> None:
    # As a container's first process itself it would ignore SIGTERM, and be killed after 10 seconds.
    options = first.options(way, "idle")
    with engine.container(first.image, "--", "/first", "idle", options=options) as container:
        wait_for(container, "ready")
        assert container.stop() < STOP_SECONDS
        assert container.state()["ExitCode"] == 143


@pytest.mark.parametrize("way", WAYS)
def test_below_the_engines_own_init_it_is_the_same(first: First, engine: Engine, way: str) -> None:
    command = ("--", "/first", "exit", "0")
    there = engine.run(first.image, *command, options=("--init", *first.mounted), check=False)
    if "init binary" in there.stderr:
        pytest.skip(f"{engine.name} has no init: {there.stderr.strip()[:200]}")
    options = (*first.options(way, "signals"), "--init")
    with engine.container(first.image, "--", "/first", "signals", options=options) as container:
        wait_for(container, "ready")
        assert container.stop() < STOP_SECONDS
        assert "signal 15\n" in container.logs()
        assert container.state()["ExitCode"] == 42


def test_a_start_that_waits_for_its_cas_ends_at_once_when_stopped(
    first: First, engine: Engine
) -> None:
    variables = {
        "SCONE_CONFIG_ID": "a/b",
        "SCONE_CAS_ADDR": "127.0.0.1:9",
        "CRANNOG_RETRY_SECONDS": "600",
    }
    options = (*first.mounted, *(f"--env={name}={value}" for name, value in variables.items()))
    with engine.container(first.image, "--", "/first", "idle", options=options) as container:
        wait_for(container, "trying again")
        assert container.stop() < STOP_SECONDS
        assert container.state()["ExitCode"] == 143


def test_a_start_that_waits_for_a_name_server_ends_at_once_when_stopped(
    first: First, engine: Engine
) -> None:
    options = (
        *first.mounted,
        "--dns=192.0.2.1",  # nobody's: RFC 5737
        "--env=SCONE_CONFIG_ID=a/b",
        "--env=SCONE_LOG=DEBUG",
    )
    with engine.container(first.image, "--", "/first", "idle", options=options) as container:
        wait_for(container, "measured executable /first")
        assert container.stop() < STOP_SECONDS
        assert container.state()["ExitCode"] == 143


@pytest.mark.parametrize("way", WAYS)
def test_orphans_are_reaped(first: First, way: str) -> None:
    done = first.status(way, "orphans")
    assert done.stdout == "zombies 0\n", done.stderr


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (("exit", "0"), 0),
        (("exit", "255"), 255),
        (("signal", "9"), 137),
        (("signal", "11"), 139),
    ],
)
def test_the_programs_status_is_the_containers(
    first: First, way: str, arguments: tuple[str, ...], status: int
) -> None:
    done = first.status(way, *arguments)
    assert done.returncode == status, done.stderr


@pytest.mark.parametrize(
    ("command", "variables", "status"),
    [
        ("/nothing", {}, 127),
        ("nothing", {}, 127),
        ("/data", {}, 126),
        ("/nothing", {"SCONE_CONFIG_ID": "a/b"}, 127),
        ("/data", {"SCONE_CONFIG_ID": "a/b"}, 126),
        ("/first", {"SCONE_CAS_ADDR": "127.0.0.1:9"}, 78),
        ("/first", {"SCONE_CONFIG_ID": "nonsense"}, 78),
        (
            "/first",
            {
                "SCONE_CONFIG_ID": "a/b",
                "SCONE_CAS_ADDR": "127.0.0.1:9",
                "SCONE_LAS_ADDR": "127.0.0.1:9",
                "CRANNOG_RETRY_SECONDS": "0",
            },
            75,
        ),
    ],
)
def test_a_start_that_fails_says_how(
    first: First, engine: Engine, command: str, variables: dict[str, str], status: int
) -> None:
    options = (*first.mounted, *(f"--env={name}={value}" for name, value in variables.items()))
    done = engine.run(first.image, "--", command, "exit", "0", options=options, check=False)
    assert (done.returncode, done.stdout) == (status, ""), done.stderr
    assert done.stderr
