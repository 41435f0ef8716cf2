"""What `image encrypt` refuses: one reason a test, nothing made, nothing changed."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from crannog.errors import AlreadyExists, Error, FormatError, Misconfigured, NotFound
from crannog.oci.documents import parse_platform
from crannog.shield.fspf import seal, write_plain
from crannog.shield.index import build_index
from crannog.shield.model import CHUNK_LENGTH, DirectoryEntry, FileEntry, Protection, Region
from crannog.shield.regions import RegionMap
from tests.unit.image.support import MARKER, SESSION, Case
from tests.unit.oci.images import entry, hard_link, layer, link

SERVER = entry("app/server.py", b"print() # " + MARKER + b"\n")
TOP = entry("app/", None)
KEYTAG = (
    "Encrypted file system protection file fspf.pb AES-GCM tag: "
    + "0123456789abcdef" * 2
    + " key: "
    + "fedcba9876543210" * 4
    + "\n"
).encode()
PEM = (
    b"-----BEGIN PRIVATE KEY-----\n"
    b"MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg\n"
    b"-----END PRIVATE KEY-----\n"
)


def made(path: Path, *entries: tuple[tarfile.TarInfo, bytes], **more: object) -> Case:
    """A case whose image has `entries` in its second layer."""
    case = Case(path)
    case.source.add(
        [layer(entry("usr/bin/python3", b"python", mode=0o755)), layer(TOP, *entries)],
        settings=more or None,
    )
    return case


def refused(
    case: Case, kind: type[Error], match: str, *paths: str, hint: str = "", **more: object
) -> Error:
    with pytest.raises(kind, match=match) as caught:
        case.encrypt(*paths, **more)
    assert hint in caught.value.hint
    case.untouched()
    return caught.value


def test_a_path_that_is_not_there(tmp_path: Path) -> None:
    refused(made(tmp_path, SERVER), NotFound, "/ap is not in the image", "/ap", hint="app, usr")


def test_a_file_instead_of_a_directory(tmp_path: Path) -> None:
    case = made(tmp_path, SERVER)
    refused(case, Misconfigured, "is a file", "/app/server.py", hint="protect its directory: /app")


def test_a_path_that_is_a_link(tmp_path: Path) -> None:
    case = made(tmp_path, SERVER, link("srv", "app"))
    refused(case, Misconfigured, "symbolic link /srv", "/srv", hint="leads to: /app")


def test_a_path_through_a_link(tmp_path: Path) -> None:
    case = made(tmp_path, entry("app/in/server.py", MARKER), link("srv", "/app"))
    refused(case, Misconfigured, "link /srv", "/srv/in", hint="/app/in")


def test_a_path_without_files(tmp_path: Path) -> None:
    case = made(tmp_path, SERVER, entry("empty/", None))
    refused(case, Misconfigured, "hold no files", "/empty")


@pytest.mark.parametrize("path", ["/usr", "/usr/bin", "/lib", "/etc", "/opt"])
def test_what_is_loaded_before_there_is_a_key(tmp_path: Path, path: str) -> None:
    refused(made(tmp_path, SERVER), Misconfigured, "before there is a key", path)


@pytest.mark.parametrize("path", ["/proc", "/dev/shm", "/run/x", "/crannog", "/opt/crannog/site"])
def test_what_is_not_the_images(tmp_path: Path, path: str) -> None:
    refused(made(tmp_path, SERVER), Misconfigured, "not the image's to protect", path)


def test_everything(tmp_path: Path) -> None:
    refused(made(tmp_path, SERVER), Misconfigured, "as a whole", "/", hint="--encrypt /app")


def test_nothing(tmp_path: Path) -> None:
    case = made(tmp_path, SERVER)
    with pytest.raises(Misconfigured, match="nothing is to be protected"):
        case.encrypt_only()


def test_paths_inside_one_another(tmp_path: Path) -> None:
    refused(made(tmp_path, SERVER), FormatError, "lies inside region", "/app", "/app/sub")


def test_the_program_itself(tmp_path: Path) -> None:
    case = made(tmp_path, SERVER, Entrypoint=["/app/server.py"])
    refused(case, Misconfigured, "holds the program itself", hint="--authenticate /app")


def test_the_program_of_the_session(tmp_path: Path) -> None:
    case = made(tmp_path, SERVER)
    text = SESSION.replace("command: python3", "command: /app/server.py")
    case.session.write_text(text)
    with pytest.raises(Misconfigured, match="holds the program itself"):
        case.encrypt()
    assert case.session.read_text() == text


def test_a_program_behind_a_link_that_lies_there(tmp_path: Path) -> None:
    case = made(
        tmp_path,
        SERVER,
        link("app/venv/bin/python3", "/usr/bin/python3"),
        Cmd=["python3", "x"],
        Env=["PATH=/app/venv/bin:/usr/bin"],
    )
    refused(case, Misconfigured, "holds the program itself, python3")


def test_a_tree_that_the_images_own_fspf_protects(tmp_path: Path) -> None:
    index = build_index(
        RegionMap([Region(b"/srv/python", Protection.AUTHENTICATED, b"/srv/python", CHUNK_LENGTH)]),
        {b"srv/python": DirectoryEntry(0o755, 0, 0, 0)},
    )
    case = made(
        tmp_path,
        SERVER,
        entry("srv/python/os.py", b"x" * 50),
        entry("srv/python/site-packages/mine.py", b"y" * 50),
        entry("usr/libexec/crannog/base.fspf", write_plain(index)),
    )
    refused(case, Misconfigured, "interpreter's library tree /srv/python", "/srv/python")
    refused(case, Misconfigured, "interpreter's library tree /srv/python", "/srv")
    case.encrypt("/srv/python/site-packages")


def test_a_keytag_among_the_files(tmp_path: Path) -> None:
    case = made(tmp_path, SERVER, entry("app/keytag", KEYTAG))
    error = refused(case, Misconfigured, r"/app/keytag \(the output line of 'fspf encrypt'")
    assert "fedcba" not in str(error) + error.hint


def test_a_keytag_that_a_later_layer_deleted(tmp_path: Path) -> None:
    case = Case(tmp_path)
    case.source.add([layer(TOP, SERVER, entry("x/keytag", KEYTAG)), layer(entry(".wh.x"))])
    refused(case, Misconfigured, "/x/keytag", hint="a later layer deletes")


def test_a_keytag_in_json(tmp_path: Path) -> None:
    text = b'{"file":"fspf.pb","key":"' + b"ab" * 32 + b'","tag":"' + b"cd" * 16 + b'"}\n'
    refused(made(tmp_path, SERVER, entry("k", text)), Misconfigured, r"/k \(the output line")


def test_a_session_with_a_key(tmp_path: Path) -> None:
    text = b"services:\n- fspf_key: " + b"0a" * 32 + b"\n"
    case = made(tmp_path, SERVER, entry("app/session.yaml", text))
    refused(case, Misconfigured, r"/app/session.yaml \(an fspf key")


def test_a_private_key_far_inside_a_large_file(tmp_path: Path) -> None:
    case = made(tmp_path, SERVER, entry("app/bundle", bytes((1 << 20) - 50) + PEM + bytes(99)))
    refused(case, Misconfigured, r"/app/bundle \(a private key\)", hint="--allow-key /app/bundle")


def test_a_private_key_may_be_said_to_be_harmless(tmp_path: Path) -> None:
    case = made(tmp_path, SERVER, entry("app/tests/key.pem", PEM))
    refused(case, Misconfigured, "/app/tests/key.pem", allow=["/app/tests"])
    case.encrypt(allow=["/app/tests/key.pem"])


def test_code_that_only_names_private_keys_is_none(tmp_path: Path) -> None:
    text = b'if line == "-----BEGIN PRIVATE KEY-----":\n    raise ValueError(line)\n'
    made(tmp_path, SERVER, entry("app/check.py", text)).encrypt()


def test_an_fspf_with_the_files_keys(tmp_path: Path) -> None:
    file = FileEntry(Protection.ENCRYPTED, 0o644, 0, 0, 0, 0, CHUNK_LENGTH, b"k" * 32, b"")
    regions = RegionMap([Region(b"/d", Protection.ENCRYPTED, b"/d", CHUNK_LENGTH)])
    index = build_index(regions, {b"d": DirectoryEntry(0o755, 0, 0, 0), b"d/f": file})
    case = made(tmp_path, SERVER, entry("old.pb", write_plain(index)))
    refused(case, Misconfigured, r"/old.pb \(an fspf that is not sealed")


def test_a_key_in_the_images_environment(tmp_path: Path) -> None:
    case = made(tmp_path, SERVER, Env=["SCONE_FSPF_KEY=" + "ab" * 32])
    error = refused(case, Misconfigured, "sets SCONE_FSPF_KEY")
    assert "abab" not in str(error)


def test_an_image_with_a_sealed_fspf(tmp_path: Path) -> None:
    sealed = seal(build_index(RegionMap([]), {}), key=b"k" * 32, random=bytes)
    case = made(tmp_path, SERVER, entry("fspf.pb", sealed))
    refused(case, AlreadyExists, "protected already", hint="the image that it was made from")


def test_an_image_that_this_command_made(tmp_path: Path) -> None:
    case = made(tmp_path, SERVER, Labels={"org.crannog.image.fspf": "/other.pb"})
    refused(case, AlreadyExists, "by this command already")


def test_something_else_where_the_fspf_goes(tmp_path: Path) -> None:
    case = made(tmp_path, SERVER, entry("fspf.pb", b"x"))
    refused(case, Misconfigured, "is in the image already", hint="--fspf")


def test_an_fspf_where_there_is_no_directory(tmp_path: Path) -> None:
    refused(made(tmp_path, SERVER), Misconfigured, "no directory", fspf="/no/such/fspf.pb")


def test_an_fspf_in_a_protected_path(tmp_path: Path) -> None:
    refused(made(tmp_path, SERVER), Misconfigured, "in the protected /app", fspf="/app/fspf.pb")


def test_a_device(tmp_path: Path) -> None:
    case = made(tmp_path, SERVER, entry("app/null", type=tarfile.CHRTYPE))
    refused(case, Misconfigured, r"/app/null \(a character device\)")


def test_a_sparse_file(tmp_path: Path) -> None:
    headers = {"GNU.sparse.major": "1", "GNU.sparse.name": "app/s"}
    data = b"1\n0\n1\n".ljust(512, b"\0") + b"x"
    case = made(tmp_path, SERVER, entry("GNUSparseFile.0/s", data, pax_headers=headers))
    refused(case, Misconfigured, r"/app/s \(a sparse file\)", hint="--sparse=never")


def test_a_sparse_file_with_a_second_name_there(tmp_path: Path) -> None:
    headers = {"GNU.sparse.major": "1", "GNU.sparse.name": "opt/s"}
    data = b"1\n0\n1\n".ljust(512, b"\0") + b"x"
    case = made(tmp_path, SERVER, entry("app/s", data, pax_headers=headers))
    refused(case, Misconfigured, r"/opt/s \(a sparse file\) has a second name in /app")


def test_a_plain_copy_elsewhere(tmp_path: Path) -> None:
    case = made(tmp_path, SERVER, entry("src/server.py", SERVER[1]))
    refused(case, Misconfigured, "/src/server.py: the plain content", hint="--encrypt /src")
    case.encrypt(not_protected=["/src"])


def test_a_hard_link_from_elsewhere(tmp_path: Path) -> None:
    case = made(tmp_path, SERVER, hard_link("server.py", "app/server.py"))
    refused(case, Misconfigured, "/server.py: hard links", not_protected=["/server.py"])


def test_a_hard_link_to_elsewhere(tmp_path: Path) -> None:
    case = made(tmp_path, entry("server.py", MARKER), hard_link("app/server.py", "server.py"))
    refused(case, Misconfigured, "/server.py: hard links")


def test_a_content_in_the_environment(tmp_path: Path) -> None:
    case = made(tmp_path, entry("app/token", MARKER), Env=["TOKEN=" + MARKER.decode()])
    error = refused(case, Misconfigured, "command, environment or labels")
    assert MARKER.decode() not in str(error)


def test_a_layer_that_writes_through_a_link(tmp_path: Path) -> None:
    case = Case(tmp_path)
    case.source.add(
        [layer(TOP, SERVER, link("current", "app")), layer(entry("current/new.py", MARKER))]
    )
    refused(case, Misconfigured, "through the link /current")


def test_several_platforms_and_none_named(tmp_path: Path) -> None:
    case = made(tmp_path, SERVER)
    case.source.entries[0]["platform"] = {"os": "linux", "architecture": "amd64"}
    case.source.add([layer(SERVER)], platform={"os": "linux", "architecture": "arm64"})
    refused(case, Misconfigured, "different platforms", hint="--platform: linux/amd64, linux/arm64")


def test_another_platform_than_the_images(tmp_path: Path) -> None:
    platform = parse_platform("linux/riscv64")
    refused(made(tmp_path, SERVER), Misconfigured, "expected linux/riscv64", platform=platform)


def test_a_session_without_the_service(tmp_path: Path) -> None:
    refused(made(tmp_path, SERVER), NotFound, "no service", service="web", hint="application")


def test_a_session_without_services(tmp_path: Path) -> None:
    case = made(tmp_path, SERVER)
    case.session.write_text("name: x\n")
    with pytest.raises(Misconfigured, match="no services"):
        case.encrypt()
    assert not case.output.exists()


def test_a_session_that_has_another_fspf(tmp_path: Path) -> None:
    case = made(tmp_path, SERVER)
    text = SESSION + "     fspf_path: /x\n     fspf_key: " + "ab" * 32 + "\n     fspf_tag: ab\n"
    case.session.write_text(text)
    with pytest.raises(AlreadyExists, match="has fspf_path already") as caught:
        case.encrypt()
    assert "--replace" in caught.value.hint
    assert case.session.read_text() == text
    case.encrypt(replace=True)
    assert "ab" * 32 not in case.session.read_text()


def test_a_session_that_is_not_there(tmp_path: Path) -> None:
    case = made(tmp_path, SERVER)
    case.session.unlink()
    with pytest.raises(NotFound):
        case.encrypt()
    assert not case.output.exists()


def test_an_output_whose_directory_is_not_there(tmp_path: Path) -> None:
    case = made(tmp_path, SERVER)
    with pytest.raises(Error, match="there is no directory"):
        case.encrypt(output=tmp_path / "no" / "such")
    case.untouched()
