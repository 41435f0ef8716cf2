"""Splitting a command that is written as one text into its arguments.

    command  = *WS [ argument *( 1*WS argument ) ] *WS
    argument = 1*( plain / "'" *( any but "'" ) "'" / DQUOTE *( any but DQUOTE ) DQUOTE )
    WS       = SP / HTAB / LF / CR / VT / FF

Version 0.3 groups words with either quote, and knows no escapes: a backslash is a backslash. In 0.2
quotes are ordinary characters. Nothing else of a shell is there. Secrets are put in afterwards, so
a value with spaces stays one argument.
"""

from __future__ import annotations

from typing import ClassVar

from crannog.errors import Error

_WHITESPACE = " \t\n\r\v\f"


class CommandMalformed(Error):
    """The text cannot be split: a quote is not closed."""

    code: ClassVar[str] = "command-malformed"


def split_command(text: str, *, quotes: bool) -> tuple[str, ...]:
    """The arguments of `text`; `quotes` says whether quotes group, as they do in 0.3.

    Raises:
        CommandMalformed: a quote is not closed. The text is not repeated.
    """
    arguments: list[str] = []
    current: list[str] | None = None  # None between arguments, so that '' is an argument
    quote = ""
    for character in text:
        if quote:
            if character == quote:
                quote = ""
            elif current is not None:
                current.append(character)
        elif character in _WHITESPACE:
            if current is not None:
                arguments.append("".join(current))
            current = None
        else:
            current = [] if current is None else current
            if quotes and character in "'\"":
                quote = character
            else:
                current.append(character)
    if quote:
        raise CommandMalformed(f"a quote ({quote}) is not closed")
    if current is not None:
        arguments.append("".join(current))
    return tuple(arguments)
