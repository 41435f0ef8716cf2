"""docs/formats/session.md names every key that the tables know."""

from __future__ import annotations

from pathlib import Path

import pytest

from crannog.session import (
    read_claims,
    read_images,
    read_policy,
    read_secrets,
    read_security,
    read_services,
)
from crannog.session import validate as root
from crannog.session.document import Language, SecretKind
from crannog.session.fields import KeyTable
from crannog.session.forms import suffixes

TEXT = (Path(__file__).parents[3] / "docs" / "formats" / "session.md").read_text()
TABLES = {
    f"{module.__name__.rsplit('.', 1)[-1]}.{name}": table
    for module in (
        root,
        read_claims,
        read_services,
        read_images,
        read_secrets,
        read_policy,
        read_security,
    )
    for name, table in vars(module).items()
    if isinstance(table, KeyTable)
}


def test_all_tables_are_looked_at() -> None:
    assert len(TABLES) == 10


@pytest.mark.parametrize("name", sorted(TABLES))
def test_every_key_is_documented(name: str) -> None:
    table = TABLES[name]
    known = {key for language in Language for key in table.known(language)} | set(table.later())
    missing = [key for key in known if f"`{key}`" not in TEXT and f".{key}`" not in TEXT]
    assert [key for key in missing if f"{{{key}: " not in TEXT] == []


def test_every_form_is_documented() -> None:
    missing = [s for kind in SecretKind for s in suffixes(kind) if s and f"`{s}`" not in TEXT]
    assert missing == []
