"""The one hierarchy of errors.

An error speaks to two audiences. Code looks at the class and at its stable `code`. A person reads
one line (lower case, no full stop: thing, what was found, what was expected) and, where there is
one, a hint that says what would make it pass. Neither ever holds a secret. What only the operator
may know goes to `internal`, which is logged and never sent.

Hostile input raises nothing but these. Misuse of our own functions is `ValueError` or
`RuntimeError` and may crash.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_DEFECT = 70  # EX_SOFTWARE of sysexits.h
EXIT_TRY_AGAIN = 75  # EX_TEMPFAIL of sysexits.h
EXIT_REFUSED = 78  # EX_CONFIG of sysexits.h


class Error(Exception):
    """The root. Raised as such nowhere; catch it at a boundary.

    Args:
        message: the public line.
        hint: what would make it pass, public; empty where nothing is known.
        internal: the cause for the operator's log; never sent to a peer.
    """

    code: ClassVar[str] = "error"
    exit_code: ClassVar[int] = EXIT_FAILED
    details: tuple[str, ...] = ()  # public lines that follow the message in the chain

    def __init__(self, message: str, *, hint: str = "", internal: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.internal = internal


class FormatError(Error):
    """Malformed bytes or text. `offset` is in bytes from the start, or -1 where it says nothing."""

    code = "malformed"

    def __init__(
        self, message: str, *, offset: int = -1, hint: str = "", internal: str = ""
    ) -> None:
        super().__init__(message, hint=hint, internal=internal)
        self.offset = offset


class IntegrityError(Error):
    """Well-formed and not authentic: a wrong key, a changed byte, another document's part."""

    code = "not-authentic"
    exit_code = EXIT_REFUSED


class EvidenceRejected(Error):
    """Decided: no. `mismatches` holds every one of them, a line each."""

    code = "evidence-rejected"
    exit_code = EXIT_REFUSED

    def __init__(
        self, message: str, mismatches: Iterable[str] = (), *, hint: str = "", internal: str = ""
    ) -> None:
        super().__init__(message, hint=hint, internal=internal)
        self.mismatches = tuple(mismatches)


class EvidenceUnverifiable(Error):
    """Could not decide, and so denied as well. Trying again may help."""

    code = "evidence-unverifiable"
    exit_code = EXIT_TRY_AGAIN


class Unauthenticated(Error):
    """The peer did not say who it is: no client certificate."""

    code = "unauthenticated"


class Denied(Error):
    """The peer is known and may not do this."""

    code = "denied"
    exit_code = EXIT_REFUSED


class NotFound(Error):
    """It does not exist, or the caller may not know that it does."""

    code = "not-found"


class AlreadyExists(Error):
    """A session of that name is there and no predecessor was given."""

    code = "already-exists"


class Conflict(Error):
    """Somebody else was faster: a stale predecessor, a second writer."""

    code = "conflict"


class TooLarge(Error):
    """Over a documented bound."""

    code = "too-large"


class Unsupported(Error):
    """Known to the reference, not built here yet; or beyond what this machine can do."""

    code = "not-supported-yet"
    exit_code = EXIT_REFUSED


class Unavailable(Error):
    """A peer or a resource is not there now. Trying again may help."""

    code = "unavailable"
    exit_code = EXIT_TRY_AGAIN


class Misconfigured(Error):
    """What the operator gave does not fit together: a variable, an option, a file's mode."""

    code = "misconfigured"
    exit_code = EXIT_REFUSED


class StorageFailed(Error):
    """The disk or the database refused: full, unreadable, locked by another."""

    code = "storage-failed"


class Refused(Error):
    """The other side refused and said why. `messages` is its cause chain, outermost first."""

    code = "refused"
    exit_code = EXIT_REFUSED

    def __init__(
        self, message: str, messages: Iterable[str] = (), *, hint: str = "", internal: str = ""
    ) -> None:
        super().__init__(message, hint=hint, internal=internal)
        self.messages = tuple(messages)


class Defect(Error):
    """A fault of Crannog itself, as a user sees it. Raised nowhere; `defect` makes it."""

    code = "defect"
    exit_code = EXIT_DEFECT


def defect(error: Exception) -> Defect:
    """What a user sees of a foreign exception that nobody has caught: its kind and place.

    Its text stays unsaid: a codec's error, for one, carries along what it was given.
    """
    place = ""
    step = error.__traceback__
    while step is not None:
        name = step.tb_frame.f_code.co_filename
        if "crannog" in name:
            place = f" at {name[name.rfind('crannog') :]}:{step.tb_lineno}"
        step = step.tb_next
    return Defect(
        f"internal error: {type(error).__name__}{place}",
        hint="this is a defect of crannog: please report this line, and what was asked of it",
    )


def chain(error: BaseException) -> tuple[str, ...]:
    """The public cause chain, outermost first: our errors along `__cause__`, with their details.

    Foreign exceptions are left out, since nobody has read their text for secrets; who raises one of
    ours from a foreign one puts what the user needs into the message.
    """
    lines: list[str] = []
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        if isinstance(current, Error):
            lines.append(current.message)
            lines.extend(current.details)
            if isinstance(current, EvidenceRejected):
                lines.extend(current.mismatches)
            if isinstance(current, Refused):
                lines.extend(current.messages)
        current = current.__cause__
    return tuple(lines)


def hints(error: BaseException) -> tuple[str, ...]:
    """The hints along the cause chain, outermost first, each once."""
    found: list[str] = []
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        if isinstance(current, Error) and current.hint and current.hint not in found:
            found.append(current.hint)
        current = current.__cause__
    return tuple(found)
