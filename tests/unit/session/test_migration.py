"""Which generated values an update keeps: the reference's table."""

from __future__ import annotations

import pytest

from crannog.session.document import KeyType, Migrate, Secret, SecretKind
from crannog.session.migration import keeps_value

ASCII = Secret("A", SecretKind.ASCII, size=20)
KEY = Secret("A", SecretKind.PRIVATE_KEY, key_type=KeyType.P256, migrate=Migrate.ALWAYS)


def test_ascii_and_binary_values_are_kept() -> None:
    assert keeps_value(ASCII, ASCII)
    binary = Secret("A", SecretKind.BINARY, size=20)
    assert keeps_value(binary, binary)


@pytest.mark.parametrize(
    "other",
    [
        Secret("B", SecretKind.ASCII, size=20),
        Secret("A", SecretKind.BINARY, size=20),
        Secret("A", SecretKind.ASCII, size=21),
        Secret("A", SecretKind.ASCII, value="x"),
        Secret("A", SecretKind.ASCII, size=20, migrate=Migrate.NEVER),
    ],
)
def test_another_name_kind_size_or_wish_ends_a_value(other: Secret) -> None:
    assert not keeps_value(ASCII, other)
    assert not keeps_value(other, ASCII)


def test_a_private_key_is_kept_only_where_both_say_so() -> None:
    assert keeps_value(KEY, KEY)
    silent = Secret("A", SecretKind.PRIVATE_KEY, key_type=KeyType.P256)
    assert not keeps_value(silent, silent)
    assert not keeps_value(KEY, silent)
    assert not keeps_value(silent, KEY)


def test_a_private_key_of_another_type_is_new() -> None:
    other = Secret("A", SecretKind.PRIVATE_KEY, key_type=KeyType.P384, migrate=Migrate.ALWAYS)
    assert not keeps_value(KEY, other)


def test_certificates_are_issued_anew() -> None:
    certificate = Secret("A", SecretKind.X509)
    assert not keeps_value(certificate, certificate)
