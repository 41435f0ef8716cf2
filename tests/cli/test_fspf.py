"""`crannog fspf` as a script sees it: lines, fields, exit statuses, what is left on the disk."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from crannog.cli.main import run_cli
from crannog.shield.chunks import read_file
from crannog.shield.fspf import open_fspf
from crannog.shield.model import FileEntry

PROGRAM = str(Path(sys.executable).parent / "crannog")
TAG, KEY = "[0-9a-f]{32}", "[0-9a-f]{64}"


class Fspf:
    """Runs `crannog fspf ...` in this process, in a directory of its own."""

    def __init__(self, path: Path, capture: pytest.CaptureFixture[str]) -> None:
        self.path = path
        self.stderr = ""
        self._capture = capture

    def run(self, *arguments: str) -> tuple[int, str]:
        status = run_cli(["fspf", *arguments], program="crannog")
        out, self.stderr = self._capture.readouterr()
        assert "Traceback" not in self.stderr
        return status, out

    def ok(self, *arguments: str) -> str:
        status, out = self.run(*arguments)
        assert status == 0, self.stderr
        return out

    def fails(self, status: int, match: str, *arguments: str) -> None:
        found, out = self.run(*arguments)
        assert found == status
        assert out == ""
        assert re.search(match, self.stderr), self.stderr

    def regions(self) -> None:
        self.ok("create", "fspf.pb")
        self.ok("addr", "fspf.pb", "/", "--not-protected", "--kernel", "/")
        self.ok("addr", "fspf.pb", "/app", "--encrypted", "--kernel", "/app")


@pytest.fixture
def fspf(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Fspf:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SCONE_FSPF_KEY", raising=False)
    (tmp_path / "app").mkdir()
    (tmp_path / "app/server.py").write_bytes(b"print('hello')\n")
    return Fspf(tmp_path, capfd)


def test_the_lines_of_the_reference(fspf: Fspf) -> None:
    lines = [
        fspf.ok("create", "fspf.pb"),
        fspf.ok("addr", "fspf.pb", "/", "--not-protected", "--kernel", "/"),
        fspf.ok("addr", "fspf.pb", "/app", "--encrypted", "--kernel", "/app"),
        fspf.ok("addf", "fspf.pb", "/app", "app", "image/app"),
        fspf.ok("encrypt", "fspf.pb"),
    ]
    expected = [
        rf"Created empty file system protection file in fspf\.pb\. AES-GCM tag: {TAG}\n",
        rf"Added region / to file system protection file fspf\.pb new AES-GCM tag: {TAG}\n",
        rf"Added region /app to file system protection file fspf\.pb new AES-GCM tag: {TAG}\n",
        rf"Added files to file system protection file fspf\.pb new AES-GCM tag: {TAG}\n",
        rf"Encrypted file system protection file fspf\.pb AES-GCM tag: {TAG} key: {KEY}\n",
    ]
    for line, pattern in zip(lines, expected, strict=True):
        assert re.fullmatch(pattern, line), line
    assert len({re.findall(f"tag: ({TAG})", line)[0] for line in lines}) == 5


def test_fields_9_and_11_open_the_fspf_and_the_files(fspf: Fspf) -> None:
    fspf.regions()
    fspf.ok("addf", "fspf.pb", "/app", "app", "image/app")
    fields = fspf.ok("encrypt", "fspf.pb").split()
    opened = open_fspf(
        Path("fspf.pb").read_bytes(),
        key=bytes.fromhex(fields[10]),
        tag=bytes.fromhex(fields[8]),
    )
    entry = opened.lookup(b"/app/server.py")
    assert isinstance(entry, FileEntry)
    assert read_file(entry, Path("image/app/server.py").read_bytes()) == b"print('hello')\n"


def test_the_tutorials_own_commands(tmp_path: Path) -> None:
    """Its lines as they are, with `scone`; twice, with the key file of the first run in the way."""
    script = r"""
set -e
for run in 1 2; do
cd "$TUTORIAL"
rm -rf app_image && mkdir -p app_image/app
cd app_image
scone fspf create fspf.pb
scone fspf addr fspf.pb / --not-protected --kernel /
scone fspf addr fspf.pb /app --encrypted --kernel /app
scone fspf addf fspf.pb /app $TUTORIAL/app $TUTORIAL/app_image/app
scone fspf encrypt fspf.pb > $TUTORIAL/app/keytag
cd "$TUTORIAL"
echo SCONE_FSPF_KEY=$(cat app/keytag | awk '{print $11}')
echo SCONE_FSPF_TAG=$(cat app/keytag | awk '{print $9}')
done
"""
    (tmp_path / "app").mkdir()
    (tmp_path / "app/server-tls.py").write_text("print('tls')\n")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", "-c", script],
        env={**os.environ, "PATH": path, "TUTORIAL": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(re.findall(rf"SCONE_FSPF_KEY={KEY}\n", done.stdout)) == 2
    assert len(re.findall(rf"SCONE_FSPF_TAG={TAG}\n", done.stdout)) == 2
    assert b"print" not in (tmp_path / "app_image/app/server-tls.py").read_bytes()
    warnings = [line for line in done.stderr.splitlines() if line.startswith("Warning")]
    assert len(warnings) == 1
    assert "/app/keytag looks like the output" in warnings[0]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--encrypted", "--kernel", "/d", "f", "/app"],
        ["f", "-e", "/app", "--kernel", "/d"],
        ["f", "/app", "--kernel=/d", "-e", "-c", "4096"],
        ["-k", "32", "f", "-a", "/app", "--chunk-length", "8192", "--kernel", "/d"],
    ],
)
def test_options_in_any_position(fspf: Fspf, arguments: list[str]) -> None:
    fspf.ok("create", "f")
    fspf.ok("addr", *arguments)


def test_region_is_written_in_its_canonical_form(fspf: Fspf) -> None:
    fspf.ok("create", "f")
    assert "region /app to" in fspf.ok("addr", "f", "//app/", "-e", "--kernel", "/x/")


@pytest.mark.parametrize("given", [[], ["-e", "-a"], ["-n", "-e", "-a"]])
def test_exactly_one_protection(fspf: Fspf, given: list[str]) -> None:
    fspf.ok("create", "f")
    fspf.fails(2, "expected one", "addr", "f", "/app", "--kernel", "/app", *given)


@pytest.mark.parametrize("given", [[], ["--kernel", "/app", "--ephemeral"]])
def test_exactly_one_of_kernel_and_ephemeral(fspf: Fspf, given: list[str]) -> None:
    fspf.ok("create", "f")
    fspf.fails(2, "--kernel, --ephemeral given, expected one", "addr", "f", "/app", "-e", *given)


def test_ephemeral_is_not_supported_yet(fspf: Fspf) -> None:
    fspf.ok("create", "f")
    fspf.fails(78, "not supported yet", "addr", "f", "/tmp", "-e", "--ephemeral")


def test_volumes_are_not_supported_yet(fspf: Fspf) -> None:
    fspf.fails(78, "not supported yet", "create-volume", "-e", "--envar-output", "v")
    fspf.ok("create", "f")
    fspf.fails(78, "not supported yet", "addr", "f", ".", "-e", "--kernel", ".")


@pytest.mark.parametrize("length", ["16", "24", "128", "192"])
def test_shorter_keys_are_accepted_and_not_used(fspf: Fspf, length: str) -> None:
    fspf.ok("create", "f")
    fspf.ok("addr", "f", "/app", "-e", "--kernel", "/app", "-k", length)
    assert "keys of 32 bytes" in fspf.stderr


def test_other_key_lengths_are_refused(fspf: Fspf) -> None:
    fspf.ok("create", "f")
    fspf.fails(2, "--key-length is 20", "addr", "f", "/a", "-e", "--kernel", "/a", "-k", "20")


def test_overlapping_regions_are_refused(fspf: Fspf) -> None:
    fspf.regions()
    fspf.fails(1, "lies inside region /app", "addr", "fspf.pb", "/app/x", "-e", "--kernel", "/x")


def test_same_region_twice_is_refused(fspf: Fspf) -> None:
    fspf.regions()
    fspf.fails(1, "twice", "addr", "fspf.pb", "/app", "-a", "--kernel", "/app")


def test_two_regions_without_root_are_refused_when_encrypted(fspf: Fspf) -> None:
    fspf.ok("create", "f")
    fspf.ok("addr", "f", "/a", "-e", "--kernel", "/a")
    fspf.ok("addr", "f", "/b", "-e", "--kernel", "/b")
    fspf.fails(1, "none is '/'(.|\n)*addr FILE /", "encrypt", "f")
    fspf.ok("addr", "f", "/", "-n", "--kernel", "/")
    fspf.ok("encrypt", "f")


def test_encrypting_twice_is_an_error(fspf: Fspf) -> None:
    fspf.regions()
    fspf.ok("encrypt", "fspf.pb")
    before = Path("fspf.pb").read_bytes()
    fspf.fails(1, "encrypted already", "encrypt", "fspf.pb")
    assert Path("fspf.pb").read_bytes() == before


def test_missing_fspf_is_an_error(fspf: Fspf) -> None:
    fspf.fails(1, "cannot read none.pb: No such file", "encrypt", "none.pb")


def test_file_of_another_tool_is_an_error(fspf: Fspf) -> None:
    Path("other.pb").write_bytes(b"\x08\x01\x12\x04/app")
    fspf.fails(1, "not an fspf of crannog", "show", "other.pb")


def test_directory_as_fspf_is_an_error(fspf: Fspf) -> None:
    fspf.fails(1, "cannot read app: Is a directory", "show", "app")


def test_blanks_in_the_name_keep_the_fields(fspf: Fspf) -> None:
    fspf.ok("create", "my file.pb")
    assert r"written as \x20" in fspf.stderr
    fields = fspf.ok("encrypt", "my file.pb").split()
    assert fields[5] == r"my\x20file.pb"
    assert re.fullmatch(TAG, fields[8])
    assert re.fullmatch(KEY, fields[10])


def test_control_characters_in_names_cannot_forge_lines(fspf: Fspf) -> None:
    (fspf.path / "app/a\nfile 0644 0:0 1 x\x1b[2J").write_bytes(b"1")
    fspf.regions()
    fspf.ok("addf", "fspf.pb", "/app", "app", "out")
    shown = fspf.ok("show", "fspf.pb")
    assert r" /app/a\x0afile 0644 0:0 1 x\x1b[2J" in shown
    assert "\x1b" not in shown


def test_name_that_is_not_text(fspf: Fspf) -> None:
    with open(b"app/\xff", "wb") as file:
        file.write(b"1")
    fspf.regions()
    fspf.ok("addf", "fspf.pb", "/app", "app", "out")
    assert r"/app/\xff" in fspf.ok("show", "fspf.pb")
    assert {"/app/\\xff"} <= {
        entry["path"] for entry in json.loads(fspf.ok("show", "fspf.pb", "--json"))["entries"]
    }


def test_show_says_everything_but_keys(fspf: Fspf) -> None:
    (fspf.path / "app/link").symlink_to("server.py")
    fspf.regions()
    fspf.ok("addf", "fspf.pb", "/app", "app", "out")
    out = fspf.ok("show", "fspf.pb")
    assert "region /app encrypted kernel /app chunk-length 65536\n" in out
    assert re.search(r"^file 0644 \d+:\d+ 15 /app/server\.py$", out, re.MULTILINE)
    assert re.search(r"^link 0777 .* /app/link -> server\.py$", out, re.MULTILINE)
    assert not re.search(KEY, out)


def test_show_tag_with_the_key_from_each_place(
    fspf: Fspf, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fspf.regions()
    fields = fspf.ok("encrypt", "fspf.pb").split()
    tag, key = fields[8], fields[10]
    assert fspf.ok("show", "-t", "fspf.pb", key) == f"{tag}\n"
    assert "seen by every user" in fspf.stderr
    (tmp_path / "key").write_text(key + "\n")
    assert fspf.ok("show", "--tag", "--key-file", "key", "fspf.pb") == f"{tag}\n"
    assert fspf.stderr == ""
    monkeypatch.setenv("SCONE_FSPF_KEY", key)
    assert fspf.ok("show", "fspf.pb", "--tag") == f"{tag}\n"
    assert fspf.stderr == ""
    done = subprocess.run(
        [PROGRAM, "fspf", "show", "-t", "--key-file", "-", "fspf.pb"],
        input=key + "\n",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == f"{tag}\n"


def test_show_without_or_with_a_wrong_key(fspf: Fspf) -> None:
    fspf.regions()
    fspf.ok("encrypt", "fspf.pb")
    fspf.fails(78, "there is no key(.|\n)*--key-file", "show", "fspf.pb")
    fspf.fails(78, "does not open with this key", "show", "fspf.pb", "0" * 64)
    fspf.fails(1, "expected 64 hex digits", "show", "fspf.pb", "0" * 63)


def test_json_of_every_command(fspf: Fspf) -> None:
    created = json.loads(fspf.ok("create", "f", "--json"))
    assert created.keys() == {"file", "tag"}
    region = json.loads(fspf.ok("addr", "f", "/app", "-e", "--kernel", "/app", "--json"))
    assert region["region"] == "/app"
    added = json.loads(fspf.ok("addf", "f", "/app", "app", "out", "--json"))
    assert (added["files"], added["directories"], added["bytes"]) == (1, 1, 15)
    sealed = json.loads(fspf.ok("encrypt", "f", "--json"))
    assert re.fullmatch(KEY, sealed["key"])


def test_create_takes_a_version_and_says_what_it_means(fspf: Fspf) -> None:
    fspf.ok("create", "f", "3")
    assert "format of its own" in fspf.stderr
    fspf.fails(2, "VERSION", "create", "f", "7")


def test_encrypt_into_a_full_disk_leaves_the_plain_fspf(fspf: Fspf) -> None:
    fspf.regions()
    before = Path("fspf.pb").read_bytes()
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [PROGRAM, "fspf", "encrypt", "fspf.pb"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode != 0
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    assert Path("fspf.pb").read_bytes() == before


def test_file_larger_than_the_disk_has_room_for(fspf: Fspf) -> None:
    """A limit on file sizes stands in for the full disk: the same failed write."""
    fspf.regions()
    (fspf.path / "app/big").write_bytes(bytes(8 << 20))
    before = Path("fspf.pb").read_bytes()
    done = subprocess.run(
        ["sh", "-c", 'ulimit -f 2048; exec "$0" fspf addf fspf.pb /app app out', PROGRAM],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "cannot write" in done.stderr
    assert "File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert Path("fspf.pb").read_bytes() == before
    assert not Path("out").exists()


def test_interrupted_addf_leaves_the_old_state(fspf: Fspf) -> None:
    fspf.regions()
    before = Path("fspf.pb").read_bytes()
    with (fspf.path / "app/big").open("wb") as file:
        file.truncate(20 << 30)  # sparse: more than can be done before the signal
    with subprocess.Popen(
        [PROGRAM, "fspf", "addf", "fspf.pb", "/app", "app", "out"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        while not list(fspf.path.glob("out/.crannog-addf-*/*")):
            assert running.poll() is None
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=60)
    assert running.returncode == 130
    assert out == ""
    assert "Traceback" not in err
    assert Path("fspf.pb").read_bytes() == before
    assert not Path("out").exists()


def test_two_at_once_on_one_fspf(fspf: Fspf) -> None:
    fspf.regions()
    with (fspf.path / "app/big").open("wb") as file:
        file.truncate(20 << 30)
    with subprocess.Popen(
        [PROGRAM, "fspf", "addf", "fspf.pb", "/app", "app", "out"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as running:
        while not list(fspf.path.glob("out/.crannog-addf-*/*")):
            assert running.poll() is None
        fspf.fails(75, "another command is at work on fspf.pb", "encrypt", "fspf.pb")
        running.send_signal(signal.SIGINT)


def test_encrypt_into_a_closed_pipe_leaves_the_plain_fspf(fspf: Fspf) -> None:
    fspf.regions()
    before = Path("fspf.pb").read_bytes()
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [PROGRAM, "fspf", "encrypt", "fspf.pb"],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    os.close(writer)
    assert done.returncode == 1
    assert "its reader has gone" in done.stderr
    assert "Traceback" not in done.stderr
    assert Path("fspf.pb").read_bytes() == before


def test_no_bar_where_stderr_is_no_terminal(fspf: Fspf) -> None:
    fspf.regions()
    fspf.ok("addf", "fspf.pb", "/app", "app", "out")
    assert fspf.stderr == ""


def test_bar_on_a_terminal(fspf: Fspf) -> None:
    pexpect = pytest.importorskip("pexpect")
    fspf.regions()
    (fspf.path / "app/big").write_bytes(bytes(80 << 20))
    child = pexpect.spawn(
        PROGRAM,
        ["fspf", "addf", "fspf.pb", "/app", "app", "out"],
        env={**os.environ, "TERM": "xterm-256color"},
        timeout=60,
    )
    child.expect("files")
    child.expect("Added files to")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
