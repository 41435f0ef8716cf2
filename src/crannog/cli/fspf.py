"""`crannog fspf`: protect directory trees.

The output lines are the reference's (section 3.3), one on stdout, with the tag as field 9 and the
key as field 11 of `encrypt`'s, which scripts cut out with awk. Blanks in a file's name would shift
the fields, hence they are written in hex. Everything else to know goes to stderr.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from crannog.cli.ui import ui
from crannog.errors import FormatError, StorageFailed, Unsupported
from crannog.protect import edit
from crannog.protect.files import disk_error
from crannog.shield.fspf import KEY_LENGTH
from crannog.shield.model import CHUNK_LENGTH, FileEntry, LinkEntry, Protection, Region
from crannog.shield.paths import printable
from crannog.wire import Json, parse_hex

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Encrypt or authenticate directory trees.",
)

_NAMES = {
    Protection.NOT_PROTECTED: "not-protected",
    Protection.AUTHENTICATED: "authenticated",
    Protection.ENCRYPTED: "encrypted",
}
_KEY_LENGTHS = {16: 16, 24: 24, 32: 32, 128: 16, 192: 24, 256: 32}
_OWNER = re.compile(r"(\d{1,10}):(\d{1,10})\Z")
_KEY_BYTES = 4096
_SHOW_BYTES = 64 << 20
_SHOW_FILES = 2000

_File = Annotated[str, typer.Argument(metavar="FILE", help="The fspf.", show_default=False)]
_Point = Annotated[
    str,
    typer.Argument(metavar="EMBEDPOINT", help="Where programs see it.", show_default=False),
]
_Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")]


@app.command()
def create(
    file: _File,
    version: Annotated[
        int | None,
        typer.Argument(metavar="VERSION", help="Accepted: 1, 2, 3.", min=1, max=3),
    ] = None,
    json: _Json = False,
) -> None:
    """Make an empty fspf, or make one empty again."""
    if version is not None:
        ui.note(
            f"format version {version} is the reference's; this program has one format of its own"
        )
    tag, replaced = edit.create(os.fsencode(file))
    if replaced:
        ui.note(f"replaced the fspf that was in {_shown(file)}")
    _result(
        f"Created empty file system protection file in {_field(file)}. AES-GCM tag: {tag.hex()}",
        {"file": _shown(file), "tag": tag.hex()},
        json,
    )


@app.command()
def addr(
    file: _File,
    embed_point: _Point,
    not_protected: Annotated[
        bool, typer.Option("--not-protected", "-n", help="Files are as on the disk.")
    ] = False,
    encrypted: Annotated[
        bool, typer.Option("--encrypted", "-e", help="Files are encrypted and authenticated.")
    ] = False,
    authenticated: Annotated[
        bool, typer.Option("--authenticated", "-a", help="Files are readable and authenticated.")
    ] = False,
    kernel: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="The directory on disk that holds the files."),
    ] = None,
    ephemeral: Annotated[bool, typer.Option("--ephemeral", help="Not supported yet.")] = False,
    key_length: Annotated[
        int | None,
        typer.Option("--key-length", "-k", help="16, 24 or 32 bytes; 32 is what is used."),
    ] = None,
    chunk_length: Annotated[
        int | None,
        typer.Option("--chunk-length", "-c", help=f"Bytes per chunk, {CHUNK_LENGTH} if not given."),
    ] = None,
    json: _Json = False,
) -> None:
    """Add a region: exactly one of -n, -e, -a, and exactly one of --kernel, --ephemeral."""
    chosen = [
        protection
        for protection, wanted in (
            (Protection.NOT_PROTECTED, not_protected),
            (Protection.ENCRYPTED, encrypted),
            (Protection.AUTHENTICATED, authenticated),
        )
        if wanted
    ]
    if len(chosen) != 1:
        raise typer.BadParameter(
            f"{len(chosen)} of --not-protected, --encrypted, --authenticated given, expected one"
        )
    if (kernel is None) is not ephemeral:
        raise typer.BadParameter(
            f"{'both' if ephemeral else 'none'} of --kernel, --ephemeral given, expected one"
        )
    if kernel is None:
        raise Unsupported(
            "ephemeral regions are not supported yet",
            hint="use a directory in memory that the platform provides, as /dev/shm or a tmpfs",
        )
    _note_key_length(key_length, chosen[0])
    if chunk_length is not None and chosen[0] is Protection.NOT_PROTECTED:
        ui.note("--chunk-length has no meaning for a region that is not protected")
        chunk_length = None
    region, tag = edit.add_region(
        os.fsencode(file),
        os.fsencode(embed_point),
        chosen[0],
        os.fsencode(kernel),
        CHUNK_LENGTH if chunk_length is None else chunk_length,
    )
    _result(
        f"Added region {_field(region.path)} to file system protection file {_field(file)}"
        f" new AES-GCM tag: {tag.hex()}",
        {"file": _shown(file), "region": printable(region.path), "tag": tag.hex()},
        json,
    )


@app.command()
def addf(
    file: _File,
    embed_point: _Point,
    source_dir: Annotated[
        str, typer.Argument(metavar="SOURCE_DIR", help="The plain files.", show_default=False)
    ],
    output_dir: Annotated[
        str | None,
        typer.Argument(metavar="OUTPUT_DIR", help="Where the protected files go."),
    ] = None,
    owner: Annotated[
        str | None,
        typer.Option(metavar="UID:GID", help="Record this owner instead of the files' own."),
    ] = None,
    json: _Json = False,
) -> None:
    """Add the files of a directory to a region; encrypted ones are written to OUTPUT_DIR."""
    with _progress() as (begin, progress):
        added = edit.add_files(
            os.fsencode(file),
            os.fsencode(embed_point),
            os.fsencode(source_dir),
            None if output_dir is None else os.fsencode(output_dir),
            owner=_parse_owner(owner),
            workers=len(os.sched_getaffinity(0)),
            begin=begin,
            progress=progress,
        )
    for path in added.keytags:
        ui.warning(
            f"{printable(path)} looks like the output of an earlier 'fspf encrypt': it holds a key,"
            " and was added with the rest; do not ship the plain file"
        )
    if added.strangers:
        ui.warning(
            f"{len(added.strangers)} files in {_shown(output_dir or '')} are not in the fspf, as"
            f" {printable(added.strangers[0])}: programs do not see them, and they may be plain"
        )
    if added.kept:
        ui.note(f"{added.kept} entries of earlier runs that SOURCE_DIR does not have were kept")
    _result(
        f"Added files to file system protection file {_field(file)}"
        f" new AES-GCM tag: {added.tag.hex()}",
        {
            "file": _shown(file),
            "tag": added.tag.hex(),
            "files": added.files,
            "directories": added.directories,
            "links": added.links,
            "bytes": added.size,
            "kept": added.kept,
            "keytags": [printable(path) for path in added.keytags],
            "strangers": [printable(path) for path in added.strangers],
        },
        json,
    )


@app.command()
def encrypt(file: _File, json: _Json = False) -> None:
    """Seal the fspf under a fresh key, and print key and tag. It cannot be edited afterwards."""

    def announce(sealed: edit.Sealed) -> None:
        tag, key = sealed.tag.hex(), sealed.key.hex()
        try:
            _result(
                f"Encrypted file system protection file {_field(file)}"
                f" AES-GCM tag: {tag} key: {key}",
                {"file": _shown(file), "tag": tag, "key": key},
                json,
            )
        except BrokenPipeError as error:
            ui.abandon_output()
            raise StorageFailed(
                "cannot write the key to stdout: its reader has gone",
                hint="the fspf was left as it was",
            ) from error

    edit.encrypt(os.fsencode(file), announce=announce)


@app.command()
def show(
    file: _File,
    key: Annotated[
        str | None,
        typer.Argument(
            metavar="KEY",
            help="The key of an encrypted fspf; better in SCONE_FSPF_KEY or --key-file.",
        ),
    ] = None,
    tag: Annotated[bool, typer.Option("--tag", "-t", help="Print the tag only.")] = False,
    key_file: Annotated[
        str | None,
        typer.Option("--key-file", metavar="FILE", help="Read the key from a file, '-' is stdin."),
    ] = None,
    json: _Json = False,
) -> None:
    """Print what an fspf says, without its keys."""
    index, found, sealed = edit.show(os.fsencode(file), _key(key, key_file))
    if tag:
        _result(found.hex(), {"tag": found.hex()}, json)
        return
    entries: list[Json] = []
    lines = [f"tag: {found.hex()}", f"encrypted: {'yes' if sealed else 'no'}"]
    lines += [_region_line(region) for region in index.regions]
    for path, entry in index.items():
        text = printable(b"/" + path)
        size, mode, more = 0, 0o777, ""
        if isinstance(entry, LinkEntry):
            more = f" -> {printable(entry.target)}"
        else:
            mode = entry.mode
            size = entry.size if isinstance(entry, FileEntry) else 0
        kind = entry.kind.name.lower()
        lines.append(f"{kind} {mode:04o} {entry.uid}:{entry.gid} {size} {text}{more}")
        item: dict[str, Json] = {"kind": kind, "mode": f"{mode:04o}", "path": text, "size": size}
        item |= {"uid": entry.uid, "gid": entry.gid, "mtime_ns": entry.mtime_ns}
        if isinstance(entry, LinkEntry):
            item["target"] = printable(entry.target)
        entries.append(item)
    regions: list[Json] = [
        {
            "path": printable(region.path),
            "protection": _NAMES[region.protection],
            "kernel": printable(region.kernel_path),
            "chunk_length": region.chunk_length,
        }
        for region in index.regions
    ]
    value: dict[str, Json] = {
        "tag": found.hex(),
        "encrypted": sealed,
        "regions": regions,
        "entries": entries,
    }
    _result("\n".join(lines), value, json)


@app.command(
    "create-volume",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def create_volume(context: typer.Context) -> None:
    """Not supported yet."""
    del context
    raise Unsupported(
        "volumes are not supported yet",
        hint="an fspf protects files that are read; for data that programs write, use another way",
    )


def _result(line: str, value: dict[str, Json], json: bool) -> None:
    if json:
        ui.json(value)
    else:
        ui.result(line)


def _shown(file: str) -> str:
    return printable(os.fsencode(file))


def _field(name: str | bytes) -> str:
    """A name as one field of an output line."""
    text = printable(os.fsencode(name))
    if " " in text:
        ui.note(f"blanks in {text!r} are written as \\x20, so that the line keeps its fields")
    return text.replace(" ", "\\x20")


def _region_line(region: Region) -> str:
    line = f"region {printable(region.path)} {_NAMES[region.protection]}"
    line += f" kernel {printable(region.kernel_path)}"
    return line + (f" chunk-length {region.chunk_length}" if region.protected else "")


def _note_key_length(length: int | None, protection: Protection) -> None:
    if length is None:
        return
    if length not in _KEY_LENGTHS:
        raise typer.BadParameter(
            f"--key-length is {length}, expected 16, 24 or 32 bytes (or 128, 192, 256 bits)"
        )
    if protection is not Protection.ENCRYPTED:
        ui.note("--key-length has no meaning for a region that is not encrypted")
    elif _KEY_LENGTHS[length] != KEY_LENGTH:
        ui.note(
            f"--key-length {length}: keys of {KEY_LENGTH} bytes (AES-256) are used all the same"
        )


def _parse_owner(owner: str | None) -> tuple[int, int] | None:
    if owner is None:
        return None
    found = _OWNER.match(owner)
    if found is None or max(int(found[1]), int(found[2])) >= 2**32 - 1:
        raise typer.BadParameter(f"--owner is {printable(os.fsencode(owner))}, expected UID:GID")
    return int(found[1]), int(found[2])


def _key(argument: str | None, key_file: str | None) -> bytes | None:
    if argument is not None and key_file is not None:
        raise typer.BadParameter("KEY and --key-file given, expected one")
    text = os.environ.get("SCONE_FSPF_KEY")
    what = "SCONE_FSPF_KEY"
    if argument is not None:
        ui.warning(
            "a key on the command line is seen by every user of this machine;"
            " SCONE_FSPF_KEY and --key-file are not"
        )
        text, what = argument, "KEY"
    elif key_file is not None:
        text, what = _read_key(key_file), "the key file's content"
    return None if text is None else parse_hex(text, KEY_LENGTH, what)


def _read_key(name: str) -> str:
    try:
        if name == "-":
            data = sys.stdin.buffer.read(_KEY_BYTES)
        else:
            with Path(name).open("rb") as file:
                data = file.read(_KEY_BYTES)
    except OSError as error:
        raise disk_error(error, "read", os.fsencode(name)) from error
    try:
        return data.decode("ascii").strip()
    except UnicodeDecodeError as error:
        raise FormatError("the key file's content is not hex") from error


@contextlib.contextmanager
def _progress() -> Iterator[tuple[Callable[[int, int], None], Callable[[int, int], None]]]:
    """A bar on stderr for long work, where stderr is a terminal; otherwise nothing."""
    if not sys.stderr.isatty():
        yield (lambda size, files: None), (lambda size, files: None)
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    bar = Progress(
        TextColumn("{task.fields[files]} files"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    task = bar.add_task("addf", files=0, total=None)
    done = 0

    def begin(size: int, files: int) -> None:
        if size >= _SHOW_BYTES or files >= _SHOW_FILES:
            bar.update(task, total=size)
            bar.start()

    def progress(size: int, files: int) -> None:
        nonlocal done
        done += files
        bar.update(task, advance=size, files=done)

    try:
        yield begin, progress
    finally:
        bar.stop()
