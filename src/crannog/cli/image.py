"""`crannog image`: protect the files of container images.

The new image's name goes to stdout, and without a session file also what a session needs, key
included; everything else goes to stderr.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from crannog import __version__
from crannog.cli.state import state
from crannog.cli.ui import ui
from crannog.image.destination import Destination
from crannog.image.encrypt import Encrypted, SessionChoice, encrypt_image
from crannog.image.engine import Engine, check_tag, choose_engine
from crannog.image.request import make_request
from crannog.image.session_file import FIELDS, Values
from crannog.image.source import parse_source
from crannog.oci.documents import parse_platform
from crannog.oci.write import new_file

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Protect the files of container images.",
)

_SHOW_BYTES = 64 << 20
_TEMPLATE = re.compile(r"[A-Za-z0-9_./~$-]*\$[A-Za-z0-9_./~$-]*\Z")

_Paths = list[str]


@app.callback()
def group() -> None:
    """Protect the files of container images."""


@app.command()
def encrypt(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="The image: NAME, oci:DIR[:REF], oci-archive:FILE or docker-archive:FILE.",
            show_default=False,
        ),
    ],
    tag: Annotated[str, typer.Option("--tag", "-t", metavar="NAME", help="The new image's name.")],
    encrypted: Annotated[
        _Paths | None,
        typer.Option("--encrypt", "-e", metavar="PATH", help="A directory to encrypt; repeatable."),
    ] = None,
    authenticated: Annotated[
        _Paths | None,
        typer.Option(
            "--authenticate",
            "-a",
            metavar="PATH",
            help="A directory whose files stay readable and are verified; repeatable.",
        ),
    ] = None,
    not_protected: Annotated[
        _Paths | None,
        typer.Option(
            "--not-protected",
            "-n",
            metavar="PATH",
            help="A directory that may hold plain copies of encrypted files; repeatable.",
        ),
    ] = None,
    session: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The session file that gets fspf path, key and tag."),
    ] = None,
    service: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The session's service; needed where it has several."),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace an fspf that something else wrote there.")
    ] = False,
    engine: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="docker, podman or buildah; else the first that answers."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Write an OCI layout (a directory) or an archive (FILE.tar), and store nothing.",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace an image that has the tag already.")
    ] = False,
    platform: Annotated[
        str | None,
        typer.Option(metavar="OS/ARCH", help="Which image, where SOURCE has several."),
    ] = None,
    fspf: Annotated[
        str, typer.Option(metavar="PATH", help="Where the fspf lies in the image.")
    ] = "/fspf.pb",
    key_out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write path, key and tag to this new file, mode 0600."),
    ] = None,
    allow_key: Annotated[
        _Paths | None,
        typer.Option(
            metavar="PATH", help="A file of the image that may hold a key all the same; repeatable."
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")] = False,
) -> None:
    """Make an image whose files only an attested program can read.

    Example: crannog image encrypt hello:0.2 --encrypt /app --session session.yaml --tag hello:0.3
    """
    state.doing = f"encrypting image {source} failed"
    if session is None and service is not None:
        raise typer.BadParameter("--service is given and --session is not")
    wanted = parse_source(source)
    request = make_request(
        encrypt=map(os.fsencode, encrypted or ()),
        authenticate=map(os.fsencode, authenticated or ()),
        not_protected=map(os.fsencode, not_protected or ()),
        fspf=os.fsencode(fspf),
        allowed_keys=map(os.fsencode, allow_key or ()),
    )
    name = check_tag(tag)
    chosen: Engine | None = None
    if wanted.kind == "engine" or output is None:
        chosen = choose_engine(engine)
        name = chosen.stored_name(name)
    destination = Destination(name, chosen if output is None else None, output, force)
    with _cleaning_up(), _progress() as told, _KeyFile(key_out) as keys:
        done = encrypt_image(
            wanted,
            request,
            destination,
            engine=chosen,
            session=None if session is None else SessionChoice(session, service, replace),
            platform=None if platform is None else parse_platform(platform),
            now=datetime.now(UTC),
            version=__version__,
            told=told,
            announce=keys.write,
        )
    for line in done.warnings:
        ui.warning(line)
    printed = session is None and key_out is None
    _report(done, destination, printed=printed, json=json)
    _next(done, destination, chosen, session, key_out)


class _KeyFile:
    """`--key-out`: written before the image is stored, so that no image is without its key."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._written = False

    def write(self, values: Values) -> None:
        """Write the values, where that was asked for."""
        if self._path is None:
            return
        with new_file(self._path, replace=False, mode=0o600) as sink:
            sink.write((_lines(values) + "\n").encode())
        self._written = True

    def __enter__(self) -> _KeyFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """After an error take it away again: there is no image that its key would open."""
        if kind is not None and self._written and self._path is not None:
            self._path.unlink(missing_ok=True)


def _report(done: Encrypted, destination: Destination, *, printed: bool, json: bool) -> None:
    if json:
        ui.json(
            {
                "image": str(destination),
                "id": done.image_id,
                "files": done.files,
                "bytes": done.size,
                "fspf_path": done.values.path,
                "fspf_tag": done.values.tag,
                **({"fspf_key": done.values.key} if printed else {}),
                "warnings": list(done.warnings),
            }
        )
        return
    ui.result(str(destination))
    if printed:
        ui.result(_lines(done.values))


def _lines(values: Values) -> str:
    return "\n".join(f'{name}: "{value}"' for name, value in zip(FIELDS, values, strict=True))


def _next(
    done: Encrypted,
    destination: Destination,
    engine: Engine | None,
    session: Path | None,
    key_out: Path | None,
) -> None:
    """What a user does next, on stderr."""
    tag = shlex.quote(destination.tag)
    program = engine.name if engine is not None and engine.name != "buildah" else "podman"
    ui.note(f"{done.files} files of {done.size} bytes are protected in {destination}")
    if session is not None:
        ui.note(f"{session} has their path, key and tag now: it is a secret (mode 0600)")
    elif key_out is not None:
        ui.note(f"{key_out} has their path, key and tag: put them into the session's service")
    else:
        ui.note("put the three lines into the session's service; the key is printed only here")
    ui.note("next:")
    if destination.path is not None:
        if destination.is_archive:
            ui.note(f"  {program} load -i {shlex.quote(str(destination.path))}")
        else:
            ui.note(f"  skopeo copy oci:{shlex.quote(str(destination.path))} docker://{tag}")
    if engine is not None and engine.name == "buildah":
        ui.note(f"  buildah push {tag}")
    else:
        ui.note(f"  {program} push {tag}")
    ui.note(f"  {program} run -i --rm -e SCONE_HASH=1 {tag}   # for mrenclaves, if not there yet")
    file = shlex.quote(str(session)) if session is not None else "SESSION.yaml"
    config = "SESSION/SERVICE"
    more = ""
    if done.target is not None:
        config = f"{done.target.session}/{done.target.service}"
        if done.target.variables:
            more = f" --use-env   # with {', '.join(done.target.variables)}"
    ui.note(f"  crannog session create {file}{more}")
    # In double quotes where the session's name has a variable, as $NS~hello in the tutorial.
    config = f'"{config}"' if _TEMPLATE.match(config) else shlex.quote(config)
    ui.note(
        f"  {program} run -e SCONE_CONFIG_ID={config} -e SCONE_CAS_ADDR=… -e SCONE_LAS_ADDR=… {tag}"
    )


@contextlib.contextmanager
def _cleaning_up() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end this as Ctrl-C does: with nothing left behind."""

    def interrupt(number: int, frame: object) -> None:
        del number, frame
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGTERM, signal.SIGHUP)
    old = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


class _Silent:
    def step(self, what: str, size: int) -> None:
        del what, size

    def progress(self, size: int) -> None:
        del size


class _Bar:
    """One bar for the current step, shown when the work is long."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._task: TaskID | None = None
        self._started = False

    def step(self, what: str, size: int) -> None:
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task(what, total=size or None)
        if not self._started and size >= _SHOW_BYTES:
            self._started = True
            self._bar.start()

    def progress(self, size: int) -> None:
        if self._task is not None:
            self._bar.update(self._task, advance=size)


@contextlib.contextmanager
def _progress() -> Iterator[_Silent | _Bar]:
    """A bar on stderr for long work, where stderr is a terminal; otherwise nothing."""
    if not sys.stderr.isatty():
        yield _Silent()
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    try:
        yield _Bar(bar)
    finally:
        bar.stop()
