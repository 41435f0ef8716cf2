"""From a layout to a protected one: what programs see, what lies in the layers, what stays."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from crannog.errors import AlreadyExists, Conflict, Unavailable
from crannog.image.session_file import Values, edit_session
from crannog.oci.blobs import Archive
from crannog.oci.documents import parse_platform
from crannog.oci.model import REFERENCE
from crannog.oci.source import open_image
from crannog.shield.model import DirectoryEntry, FileEntry, LinkEntry, Protection
from tests.unit.image.support import (
    MARKER,
    SESSION,
    Case,
    Result,
    blob_names,
    everything,
    index_of,
)
from tests.unit.oci.images import (
    compressed,
    config,
    digest,
    docker_archive,
    entry,
    hard_link,
    layer,
    link,
)

BASE = layer(
    entry("usr/", None),
    entry("usr/bin/", None),
    entry("usr/bin/python3", b"an interpreter", mode=0o755),
    entry("etc/passwd", b"root:x:0:0\n"),
)
LARGE = bytes(range(256)) * 1024 + b"end"  # more than four chunks
APP = layer(
    entry("app/", None, mode=0o750, uid=7, gid=8),
    entry("app/server.py", b"# " + MARKER + b"\nprint()\n", mode=0o640, uid=7, gid=8),
    entry("app/empty", b""),
    entry("app/sub/", None),
    entry("app/sub/large", LARGE),
    hard_link("app/sub/same", "app/server.py"),
    link("app/current", "sub/large"),
    entry("opt/config", b"kept as it is", pax_headers={"SCHILY.xattr.user.x": "1"}),
)


@pytest.fixture
def case(tmp_path: Path) -> Case:
    found = Case(tmp_path)
    found.source.add([BASE, APP])
    return found


def test_a_program_sees_the_plain_files_and_their_owners(case: Case) -> None:
    result = Result(case.output, case.encrypt().values)
    assert result.opened("/app/server.py") == b"# " + MARKER + b"\nprint()\n"
    assert result.opened("/app/sub/large") == LARGE
    assert result.opened("/app/sub/same") == result.opened("/app/server.py")
    assert result.opened("/app/empty") == b""
    fspf = result.fspf
    server = fspf.lookup(b"/app/server.py")
    assert isinstance(server, FileEntry)
    assert (server.mode, server.uid, server.gid) == (0o640, 7, 8)
    assert server.mtime_ns == 1_600_000_000 * 10**9
    top = fspf.lookup(b"/app")
    assert isinstance(top, DirectoryEntry)
    assert (top.mode, top.uid, top.gid) == (0o750, 7, 8)
    assert isinstance(fspf.lookup(b"/app/current"), LinkEntry)
    assert [(region.path, region.protection, region.kernel_path) for region in fspf.regions] == [
        (b"/", Protection.NOT_PROTECTED, b"/"),
        (b"/app", Protection.ENCRYPTED, b"/app"),
    ]


def test_no_layer_holds_a_plain_file_or_the_key(case: Case) -> None:
    values = case.encrypt().values
    found = everything(case.output)
    assert MARKER not in found
    assert LARGE[:32] not in found
    assert values.key.encode() not in found
    assert bytes.fromhex(values.key) not in found
    # The search finds what is there: the same bytes in the old image.
    assert MARKER in everything(case.source.path)


def test_two_names_of_one_file_have_different_ciphertexts(case: Case) -> None:
    result = Result(case.output, case.encrypt().values)
    assert result.content("/app/server.py") != result.content("/app/sub/same")


def test_layers_without_protected_files_stay_the_same_blobs(case: Case) -> None:
    old = index_of(case.source.path)
    case.encrypt()
    assert digest(compressed(BASE)).partition(":")[2] in blob_names(case.output)
    assert index_of(case.output)["manifests"][0]["digest"] != old["manifests"][0]["digest"]


def test_other_members_of_a_changed_layer_are_kept_as_they_were(case: Case) -> None:
    result = Result(case.output, case.encrypt().values)
    member = result.member("/opt/config")
    assert member.xattrs == (b"user.x",)
    assert result.content("/opt/config") == b"kept as it is"
    assert len(result.image.layers) == 3
    assert [name for name, _ in result.scan.touched[1]] == [b"opt/config"]


def test_ciphertext_and_its_directories_can_be_read_by_whoever_runs_the_image(case: Case) -> None:
    result = Result(case.output, case.encrypt().values)
    for path, mode in (("/app", 0o755), ("/app/server.py", 0o644), ("/fspf.pb", 0o644)):
        member = result.member(path)
        assert (member.mode, member.uid, member.gid, member.mtime_ns) == (mode, 0, 0, 0)


def test_the_config_says_what_was_done_and_keeps_what_was_there(case: Case) -> None:
    values = case.encrypt(authenticate=["/opt"]).values
    result = Result(case.output, values)
    assert result.labels() == {
        "org.crannog.image.version": "0.1.0",
        "org.crannog.image.fspf": "/fspf.pb",
        "org.crannog.image.fspf-tag": values.tag,
        "org.crannog.image.encrypted": '["/app"]',
        "org.crannog.image.authenticated": '["/opt"]',
    }
    settings = result.image.config["config"]
    assert isinstance(settings, dict)
    assert settings["Cmd"] == ["python3", "/app/server.py"]
    assert result.image.config["created"] == "2026-11-23T20:00:00Z"
    history = result.image.config["history"]
    assert isinstance(history, list)
    assert [entry["created_by"] for entry in history if isinstance(entry, dict)] == [
        "step 0",
        "step 1",
        "crannog image encrypt (0.1.0)",
    ]


def test_authenticated_files_stay_where_they_are_and_are_verified(case: Case) -> None:
    result = Result(case.output, case.encrypt(authenticate=["/opt"]).values)
    assert result.content("/opt/config") == b"kept as it is"
    assert result.opened("/opt/config") == b"kept as it is"
    entry_ = result.fspf.lookup(b"/opt/config")
    assert isinstance(entry_, FileEntry)
    assert entry_.protection is Protection.AUTHENTICATED


def test_authenticated_files_alone_change_no_layer(case: Case) -> None:
    result = Result(case.output, case.encrypt_only(authenticate=["/opt"]).values)
    assert [found.diff_id for found in result.image.layers[:2]] == [digest(BASE), digest(APP)]
    assert result.opened("/opt/config") == b"kept as it is"


def test_all_versions_of_a_file_go_from_all_layers(tmp_path: Path) -> None:
    case = Case(tmp_path)
    older = b"an older " + MARKER
    case.source.add(
        [
            BASE,
            layer(entry("app/server.py", older), entry("app/old.py", older + b"2")),
            layer(entry("app/.wh.old.py"), entry("app/server.py", b"new " + MARKER)),
        ]
    )
    result = Result(case.output, case.encrypt().values)
    assert MARKER not in everything(case.output)
    assert result.opened("/app/server.py") == b"new " + MARKER
    assert result.fspf.lookup(b"/app/old.py") is None


def test_a_copy_that_a_later_layer_deleted_goes_too(tmp_path: Path) -> None:
    case = Case(tmp_path)
    content = b"print() # " + MARKER
    case.source.add(
        [
            BASE,
            layer(entry("src/", None), entry("src/server.py", content), entry("src/x", b"other")),
            layer(entry("app/server.py", content), entry(".wh.src")),
        ]
    )
    result = Result(case.output, case.encrypt().values)
    assert MARKER not in everything(case.output)
    assert [name for name, _ in result.scan.touched[1]] == [b"src", b"src/x"]


def test_a_copy_that_goes_still_hides_what_lies_below_it(tmp_path: Path) -> None:
    case = Case(tmp_path)
    content = b"print() # " + MARKER
    case.source.add(
        [
            layer(entry("usr/bin/python3", b"python"), entry("x/old", b"hidden by the next")),
            layer(entry("x", content)),  # a file where there was a directory
            layer(entry("app/server.py", content), entry("x/", None), entry("x/new", b"1")),
        ]
    )
    result = Result(case.output, case.encrypt().values)
    assert MARKER not in everything(case.output)
    assert [path for path, _ in result.scan.union.walk(b"x")] == [b"x", b"x/new"]


def test_the_history_does_not_repeat_a_file(tmp_path: Path) -> None:
    case = Case(tmp_path)
    content = MARKER + b"\nsecond line\n"
    document = config([BASE, layer(entry("app/f", content))])
    document["history"][1]["created_by"] = f"RUN echo '{content.decode().strip()}' > /app/f"
    case.source.add([BASE, layer(entry("app/f", content))], whole_config=document)
    case.encrypt()
    assert MARKER not in everything(case.output)


def test_the_same_input_gives_the_same_old_layers(tmp_path: Path) -> None:
    names = []
    for number in range(2):
        (tmp_path / str(number)).mkdir()
        case = Case(tmp_path / str(number))
        case.source.add([BASE, APP])
        result = Result(case.output, case.encrypt().values)
        names.append([found.digest for found in result.image.layers[:2]])
    assert names[0] == names[1]


def test_each_run_has_a_key_of_its_own(tmp_path: Path) -> None:
    keys = set()
    for number in range(3):
        (tmp_path / str(number)).mkdir()
        case = Case(tmp_path / str(number))
        case.source.add([BASE, APP])
        keys.add(case.encrypt().values.key)
    assert len(keys) == 3


def test_the_session_gets_path_key_and_tag_and_nothing_else_changes(case: Case) -> None:
    values = case.encrypt().values
    text = case.session.read_text()
    inserted = (
        f"     fspf_path: /fspf.pb\n"
        f'     fspf_key: "{values.key}" # by crannog image encrypt\n'
        f'     fspf_tag: "{values.tag}"\n'
    )
    assert text == SESSION.replace("# the only one\n", "# the only one\n" + inserted)
    assert case.session.stat().st_mode & 0o777 == 0o600


def test_a_second_run_replaces_what_the_first_wrote(case: Case) -> None:
    first = case.encrypt().values
    second = case.encrypt(output=case.path / "again").values
    text = case.session.read_text()
    assert first.key not in text
    assert text.count(second.key) == 1
    assert text.count("# by crannog image encrypt") == 1


def test_an_archive_is_read_by_the_tools_that_read_layouts_and_by_docker(case: Case) -> None:
    values = case.encrypt(output=case.path / "new.tar").values
    blobs = Archive(case.path / "new.tar")
    image = open_image(blobs)
    assert image.names == ("app:2",)
    source, size = blobs.open("manifest.json")
    (listed,) = json.loads(source.read(size))
    assert listed["RepoTags"] == ["app:2"]
    assert len(listed["Layers"]) == 3
    assert all(blobs.has(name) for name in [*listed["Layers"], listed["Config"]])
    blobs.close()
    assert values.tag


def test_a_layout_names_the_image(case: Case) -> None:
    case.encrypt()
    (found,) = index_of(case.output)["manifests"]
    assert found["annotations"][REFERENCE] == "app:2"


def test_an_archive_of_docker_save_is_a_source(tmp_path: Path) -> None:
    case = Case(tmp_path)
    path = docker_archive(tmp_path / "saved.tar", [BASE, APP])
    result = Result(case.output, case.encrypt(source=f"docker-archive:{path}").values)
    assert result.opened("/app/sub/large") == LARGE
    assert MARKER not in everything(case.output)


def test_one_of_several_platforms_is_protected(case: Case) -> None:
    case.source.entries[0]["platform"] = {"os": "linux", "architecture": "amd64"}
    case.source.add(
        [BASE, APP],
        whole_config={**config([BASE, APP]), "architecture": "arm64"},
        platform={"os": "linux", "architecture": "arm64"},
    )
    values = case.encrypt(platform=parse_platform("linux/arm64")).values
    assert str(Result(case.output, values).image.platform) == "linux/arm64"


def test_long_work_says_how_far_it_is(case: Case) -> None:
    case.encrypt()
    assert case.told.steps == [
        "reading the image",
        "looking through the layers",
        "protecting the files",
        "storing the image",
    ]
    assert case.told.size > len(compressed(APP)) * 3


def test_an_output_that_is_there_is_left_alone(case: Case) -> None:
    case.output.mkdir()
    (case.output / "mine").write_text("x")
    with pytest.raises(AlreadyExists, match="is there already"):
        case.encrypt()
    assert os.listdir(case.output) == ["mine"]
    assert case.session.read_text() == SESSION


def test_a_session_that_another_command_edits_is_left_alone(case: Case) -> None:
    with edit_session(case.session), pytest.raises(Unavailable, match="another command"):
        case.encrypt()
    case.untouched()


def test_a_session_that_was_changed_meanwhile_is_left_as_it_is(case: Case) -> None:
    def save_in_an_editor(values: Values) -> None:
        del values
        case.session.write_text(SESSION + "# edited\n")

    case.announce = save_in_an_editor
    with pytest.raises(Conflict, match="was changed meanwhile"):
        case.encrypt()
    assert case.session.read_text() == SESSION + "# edited\n"
    assert sorted(os.listdir(case.path)) == ["output", "session.yaml", "source"]


def test_when_the_key_cannot_be_kept_no_image_is_made(case: Case) -> None:
    def refuse(values: Values) -> None:
        del values
        raise AlreadyExists("the key's file is there")

    case.announce = refuse
    with pytest.raises(AlreadyExists):
        case.encrypt()
    case.untouched()
