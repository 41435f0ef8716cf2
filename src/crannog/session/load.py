"""From bytes to a session: the one way in.

`load_session` decides whether a document is a session that this version of Crannog can honour. It
refuses what it does not know and what the language has but Crannog does not build yet, by name,
and reports everything at once. It looks at nothing outside the document; who posted it and what is
stored already are questions for `access.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from crannog.session.document import Session
from crannog.session.problems import Collector, Problem
from crannog.session.tree import MAX_BYTES, MAX_RENDERED, MAX_RENDERED_NODES, Mapping, parse
from crannog.session.validate import validate


@dataclass(frozen=True, slots=True)
class LoadedSession:
    """A session, and what its author should know about it all the same."""

    session: Session
    warnings: tuple[Problem, ...]


def load_session(data: bytes, *, limit: int = MAX_BYTES) -> LoadedSession:
    """The session that the YAML document `data` describes.

    Args:
        data: UTF-8, one YAML document.
        limit: in bytes.

    Raises:
        TooLarge: more than `limit` bytes.
        SessionInvalid: anything else that is wrong, all of it, with lines.
    """
    return _load(parse(data, limit=limit))


def load_stored(data: bytes) -> LoadedSession:
    """The session of a text that `canonical.render` wrote from one that was accepted before.

    The same checks, and bounds that such a text keeps: it may be longer than a document may be
    that somebody posts.

    Raises:
        TooLarge, SessionInvalid: as `load_session`; then it is not such a text.
    """
    return _load(parse(data, limit=MAX_RENDERED, nodes=MAX_RENDERED_NODES))


def _load(root: Mapping) -> LoadedSession:
    collector = Collector()
    session = validate(root, collector)
    if collector.failed:
        collector.fail()
    return LoadedSession(session, collector.warnings)
