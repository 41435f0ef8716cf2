"""Contents of files that a config repeats: `RUN echo …` writes them into the history.

The history is for people, so an entry that holds the whole content of an encrypted file says so
instead. Anywhere else in a config the content is what a container runs with, and is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from crannog.errors import Misconfigured
from crannog.wire import Json

MAX_CONTENT = 64 << 10  # bytes of a file that is looked for
MAX_TOTAL = 16 << 20  # bytes of all of them
_MIN_CONTENT = 16
_NOT_KEPT = ("history", "container", "container_config")
REDACTED = "(not kept: it held the content of an encrypted file)"


class Contents:
    """The contents of small files, to be looked for; bounded."""

    def __init__(self) -> None:
        self._texts: set[str] = set()
        self._left = MAX_TOTAL

    def add(self, content: bytes) -> None:
        """Remember one; large ones, and those that are no text, are not looked for."""
        if len(content) > min(MAX_CONTENT, self._left):
            return
        try:
            text = content.decode("utf-8").strip()
        except UnicodeDecodeError:
            return
        if len(text) >= _MIN_CONTENT and text not in self._texts:
            self._left -= len(content)
            self._texts.add(text)

    def in_any(self, texts: Iterable[str]) -> bool:
        """Whether one of `texts` holds one of the contents, also as a shell would be given it."""
        for text in texts:
            forms = (text, text.replace("\\n", "\n"), text.replace("\\'", "'").replace('\\"', '"'))
            if any(content in form for form in forms for content in self._texts):
                return True
        return False


def find_traces(config: Mapping[str, Json], contents: Contents) -> dict[int, str]:
    """The entries of the history to be replaced, with what they say instead.

    Raises:
        Misconfigured: a content stands elsewhere in the config.
    """
    replaced: dict[int, str] = {}
    history = config.get("history")
    rest: list[Json] = [{key: value for key, value in config.items() if key not in _NOT_KEPT}]
    for number, entry in enumerate(history if isinstance(history, list) else ()):
        if not isinstance(entry, dict):
            continue
        if contents.in_any(_strings(entry.get("created_by"))):
            replaced[number] = REDACTED
        rest.append({key: value for key, value in entry.items() if key != "created_by"})
    if contents.in_any(_strings(rest)):
        raise Misconfigured(
            "the image's config (its command, environment or labels) holds the whole content of a"
            " file that is to be encrypted",
            hint="take it out of the Dockerfile: everybody who has the image can read its config",
        )
    return replaced


def _strings(value: Json) -> Iterator[str]:
    pending: list[Json] = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, list):
            pending += item
        elif isinstance(item, dict):
            pending += item.values()
            pending += item.keys()
