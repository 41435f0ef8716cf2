"""From a session to what one of its services gets: arguments, environment, files, keys.

Pure: decides nothing about who may have it. Nothing of the host goes in: what the session does not
set is fixed and documented here.
"""

from __future__ import annotations

from crannog.cas.values import Values
from crannog.errors import TooLarge, Unsupported
from crannog.exchange.configuration import (
    MAX_FILE,
    MAX_FILES,
    MAX_FILES_TOTAL,
    MAX_STRING,
    MAX_STRINGS,
    Configuration,
    File,
    FspfReference,
)
from crannog.levels import Level
from crannog.session.document import Image, InjectionFile, Service, Session
from crannog.session.template import Lookup, substitute, substitute_argument, substitute_environment

DEFAULT_ENVIRONMENT = (
    ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
    ("HOME", "/"),
)
"""What a program gets where its session sets no variable of that name."""

MAX_VALUES = 16 * 1024 * 1024
"""Bytes of secrets in one configuration, each counted as often as it is referred to."""


class Budget:
    """How many bytes of secrets may still be put in.

    References are short and secrets may be long, so many references to one secret, each within its
    own bound, are bounded together: within one service, and where all services of a session are
    rehearsed, over all of them.
    """

    def __init__(self, limit: int = MAX_VALUES) -> None:
        self._limit = limit
        self._left = limit

    def bounded(self, lookup: Lookup) -> Lookup:
        """`lookup`, counting what it gives; raises `TooLarge` when nothing is left."""

        def counted(name: str, suffix: str) -> bytes:
            value = lookup(name, suffix)
            self.spend(len(value))
            return value

        return counted

    def spend(self, size: int) -> None:
        """Take `size` bytes away; `TooLarge` when there are not so many left."""
        self._left -= size
        if self._left < 0:
            raise TooLarge(
                f"SCONE value replacement gives more than {self._limit} bytes",
                hint="refer to large secrets less often",
            )


def configure(
    session: Session,
    service: Service,
    values: Values,
    *,
    session_hash: str,
    level: Level,
    mrenclave: bytes,
    budget: Budget | None = None,
) -> Configuration:
    """What `service` gets.

    Args:
        session: the version that applies.
        service: one of its services.
        values: the version's secrets.
        session_hash: the version's hash, 64 hex.
        level: the level at which the evidence was accepted.
        mrenclave: the measurement that was accepted.
        budget: shared with other services; None for one of `MAX_VALUES`.

    Raises:
        SubstitutionFailed: a secret cannot stand where the session puts it.
        FormatError: a reference is malformed, or names what is not there.
        TooLarge: more than a program can be given (`crannog.exchange.configuration`).
        Unsupported: a file without content, which would be read on the program's machine.
    """
    lookup = (budget or Budget()).bounded(values.lookup)
    argv = tuple(
        substitute_argument(position, text, lookup) for position, text in enumerate(service.command)
    )
    environment = dict(DEFAULT_ENVIRONMENT)
    for name, text in service.environment:
        environment[name] = substitute_environment(name, text, lookup)
    image = session.image_of(service)
    configuration = Configuration(
        argv=argv,
        environment=tuple(environment.items()),
        pwd=service.pwd,
        files=_files(image, lookup),
        fspf=_fspf(service),
        session_hash=session_hash,
        level=level,
        mrenclave=mrenclave,
    )
    _check_limits(configuration, service)
    return configuration


def _files(image: Image | None, lookup: Lookup) -> tuple[File, ...]:
    if image is None:
        return ()
    return tuple(
        File(file.path, _content(file, lookup), file.mode) for file in image.injection_files
    )


def _content(file: InjectionFile, lookup: Lookup) -> bytes:
    if file.content is None:
        raise Unsupported(
            f"injected file {file.path!r} has no content: templates on the program's own disk are "
            "not supported yet",
            hint="put the template's text into the session, under content",
        )
    return substitute(file.content, lookup)


def _fspf(service: Service) -> FspfReference | None:
    if service.fspf is None:
        return None
    return FspfReference(
        service.fspf.path, bytes.fromhex(service.fspf.key), bytes.fromhex(service.fspf.tag)
    )


def _check_limits(configuration: Configuration, service: Service) -> None:
    where = f"service {service.name!r}"
    strings = [*configuration.argv, *(f"{n}={v}" for n, v in configuration.environment)]
    if max(len(configuration.argv), len(configuration.environment)) > MAX_STRINGS:
        raise TooLarge(f"{where} has more than {MAX_STRINGS} arguments or variables")
    if any(len(text.encode()) > MAX_STRING for text in strings):
        raise TooLarge(
            f"{where} has an argument or variable of more than {MAX_STRING} bytes, "
            "which Linux does not take",
            hint="put it into an injected file",
        )
    if len(configuration.files) > MAX_FILES:
        raise TooLarge(f"{where} has more than {MAX_FILES} injected files")
    sizes = [len(file.content) for file in configuration.files]
    if any(size > MAX_FILE for size in sizes) or sum(sizes) > MAX_FILES_TOTAL:
        raise TooLarge(
            f"{where} has files of {sum(sizes)} bytes, expected at most {MAX_FILE} each and "
            f"{MAX_FILES_TOTAL} together"
        )
