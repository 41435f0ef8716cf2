from __future__ import annotations

import pytest

from crannog.cas.changes import widened
from crannog.session.load import load_session
from tests.unit.cas.support import MRENCLAVE, OTHER, session


def _injecting(content: str) -> bytes:
    return session(
        more=f"images: [{{name: i, injection_files: [{{path: /app/x.py, content: {content}}}]}}]"
    ).replace(
        b"  - name: application\n",
        b"  - name: application\n    image_name: i\n",
    )


def test_the_same_session_widens_nothing() -> None:
    one = load_session(session()).session
    assert widened(one, one) == ()


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (session(), session(more="access_policy: {read: [ANY]}"), "access_policy.read"),
        (session(), session(more="access_policy: {update: [ANY]}"), "access_policy.update"),
        (
            session(),
            session(mrenclave=f"{MRENCLAVE}, {OTHER}"),
            "service application mrenclaves",
        ),
        (
            session(more="security: {minimum_level: node}"),
            session(more="security: {minimum_level: simulation}"),
            "service application minimum level",
        ),
        (
            session(secrets="  - {name: A, kind: ascii}"),
            session(secrets="  - {name: A, kind: ascii, export_public: true}"),
            "secret A public",
        ),
        (
            session(more="security: {service_access_token: aaaaaaaaaa}"),
            session(),
            "service access token",
        ),
        (
            session(),
            session().replace(b"/app/server.py", b"/app/other.py"),
            "service application program",
        ),
        (session().replace(b"name: app", b"name: other"), session(), "service application new"),
        (
            session(environment="LD_PRELOAD: /a.so"),
            session(environment="LD_PRELOAD: /b.so"),
            "service application environment",
        ),
        (_injecting("one"), _injecting("two"), "service application files"),
    ],
)
def test_what_widens_is_named(before: bytes, after: bytes, expected: str) -> None:
    old, new = load_session(before).session, load_session(after).session
    assert expected in widened(old, new)


def test_what_narrows_is_not() -> None:
    wide = session(mrenclave=f"{MRENCLAVE}, {OTHER}", more="access_policy: {read: [ANY]}")
    narrow = session(more="security: {minimum_level: node}")
    old, new = load_session(wide).session, load_session(narrow).session
    assert widened(old, new) == ()
