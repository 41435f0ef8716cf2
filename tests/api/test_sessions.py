from __future__ import annotations

import json
from pathlib import Path

import pytest

from crannog.session.canonical import session_hash
from crannog.session.load import load_session
from crannog.transport.http_client import HttpClient
from tests.api.helpers import SESSION, Cas, running, together

READ = "/v1/sessions/tutorial"
EXISTS = "Session already exists, please specify predecessor hash"


def _named(name: str, predecessor: str | None = None) -> str:
    text = f'name: {name}\nversion: "0.3"\n'
    return text if predecessor is None else text + f"predecessor: {predecessor}\n"


# --- every route × role ---------------------------------------------------------------------------

ROLES = ("owner", "stranger", "nobody")
ROUTES = [
    # method, target, owner, stranger, without a certificate
    ("GET", READ, 200, 403, 401),
    ("GET", "/session/tutorial", 200, 403, 401),
    ("GET", "/v1/sessions/unknown", 404, 404, 404),
    ("GET", "/session/unknown", 404, 404, 404),
    ("GET", "/v1/values/session=tutorial", 200, 200, 200),
    ("GET", "/v1/values/session=tutorial,secret=shown", 200, 200, 200),
    ("GET", "/v1/values/session=tutorial,secret=hidden", 404, 404, 404),
    ("GET", "/v1/values/session=unknown", 404, 404, 404),
    ("GET", "/v1/values/tutorial", 400, 400, 400),
    ("HEAD", "/v1/values/session=tutorial,secret=hidden", 405, 405, 405),
    ("GET", "/v1/version", 200, 200, 200),
    ("HEAD", "/v1/version", 200, 200, 200),
    ("GET", "/v1/health", 200, 200, 200),
    ("GET", "/v1/health/live", 200, 200, 200),
    ("GET", "/v1/health/ready", 200, 200, 200),
    ("GET", "/v1/metrics", 200, 200, 200),
    ("GET", "/v1/sessions", 405, 405, 405),
    ("POST", "/v1/version", 405, 405, 405),
    ("DELETE", READ, 405, 405, 405),
    ("GET", "/", 404, 404, 404),
    ("GET", "/v1/sessions/", 404, 404, 404),
    ("GET", READ + "?hash=1", 400, 400, 400),
    ("GET", READ + "?hsah=" + "0" * 64, 400, 400, 400),
    ("GET", READ + "?hash=" + "0" * 64, 404, 404, 404),
    ("GET", "/v1/sessions/%ff", 400, 400, 400),
]


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("row", ROUTES, ids=lambda row: f"{row[0]} {row[1][:45]}")
def test_each_route_for_each_role(
    shared: Cas, row: tuple[str, str, int, int, int], role: str
) -> None:
    who = {"owner": shared.owner, "stranger": shared.stranger, "nobody": None}[role]
    answer = HttpClient(shared.api, identity=who).request(row[0], row[1])
    assert answer.status == row[2 + ROLES.index(role)]
    if row[0] == "HEAD":
        assert answer.body == b""
    elif answer.status >= 400:
        body = json.loads(answer.body)
        assert set(body) == {"msg", "code", "hint", "request_id", "version"}
        assert body["msg"]
    assert b"hunter2" not in answer.body or (
        role == "owner" and row[1] in (READ, "/session/tutorial")
    )


@pytest.mark.parametrize("path", ["/session", "/v1/sessions"])
def test_both_paths_take_sessions(shared: Cas, path: str) -> None:
    name = "posted" + path.replace("/", "-")
    status, body = shared.call("POST", path, _named(name), shared.owner)
    assert status == 201
    assert len(body["hash"]) == 64


def test_posting_without_a_certificate_is_401(shared: Cas) -> None:
    status, body = shared.call("POST", "/session", _named("never"))
    assert (status, body["code"]) == (401, "unauthenticated")
    assert "--cert" in body["hint"]


# --- create, update, read -------------------------------------------------------------------------


def test_the_same_session_twice_is_400_with_the_reference_s_text(shared: Cas) -> None:
    status, body = shared.call("POST", "/session", SESSION, shared.owner)
    assert (status, body["code"]) == (400, "already-exists")
    assert body["msg"][0] == EXISTS


def test_a_read_back_session_has_the_same_hash(shared: Cas) -> None:
    _, body = shared.call("GET", READ, who=shared.owner)
    loaded = load_session(body["session"].encode())
    assert session_hash(loaded.session) == body["hash"]


def test_both_ways_of_reading_give_the_same_text(shared: Cas) -> None:
    _, body = shared.call("GET", READ, who=shared.owner)
    _, text = shared.call("GET", "/session/tutorial", who=shared.owner)
    assert body["session"] == text


def test_an_old_version_is_read_by_its_hash(shared: Cas) -> None:
    first = shared.post(_named("history"))
    second = shared.post(_named("history", first))
    path = "/v1/sessions/history"
    assert shared.call("GET", path, who=shared.owner)[1]["hash"] == second
    assert shared.call("GET", f"{path}?hash={first}", who=shared.owner)[1]["hash"] == first


def test_an_old_version_is_not_readable_under_another_name(shared: Cas) -> None:
    first = shared.post(_named("mine"))
    status, _ = shared.call("GET", f"{READ}?hash={first}", who=shared.owner)
    assert status == 404


def test_a_stale_predecessor_is_409(shared: Cas) -> None:
    first = shared.post(_named("stale"))
    shared.post(_named("stale", first))
    status, body = shared.call("POST", "/session", _named("stale", first), shared.owner)
    assert (status, body["code"]) == (409, "conflict")


def test_a_predecessor_of_a_session_that_is_not_there_is_404(shared: Cas) -> None:
    status, body = shared.call("POST", "/session", _named("absent", "0" * 64), shared.owner)
    assert (status, body["code"]) == (404, "not-found")


def test_a_null_predecessor_creates(shared: Cas) -> None:
    shared.post(_named("fresh", "~"))


def test_a_stranger_s_update_is_403(shared: Cas) -> None:
    first = shared.post(_named("taken"))
    status, body = shared.call("POST", "/session", _named("taken", first), shared.stranger)
    assert (status, body["code"]) == (403, "denied")


def test_of_two_updates_at_once_one_wins(shared: Cas) -> None:
    for round_ in range(5):
        first = shared.post(_named(f"race-{round_}"))
        texts = [_named(f"race-{round_}", first) + f"# {n}\n" for n in range(4)]
        texts = [
            text + f"secrets:\n  - {{name: s{n}, kind: ascii}}\n" for n, text in enumerate(texts)
        ]

        def update(number: int, texts: list[str] = texts) -> int:
            return shared.call("POST", "/session", texts[number], shared.owner)[0]

        results = together(4, update)
        assert sorted(results) == [201, 409, 409, 409]


def test_an_invalid_session_is_422_with_all_problems(shared: Cas) -> None:
    text = (
        'name: bad\nversion: "0.3"\nservices:\n  - name: a\n    comand: x\n    mrenclaves: [zz]\n'
    )
    status, body = shared.call("POST", "/session", text, shared.owner)
    assert (status, body["code"]) == (422, "session-invalid")
    assert len(body["problems"]) >= 2
    assert all(problem["line"] > 0 for problem in body["problems"])
    assert len(body["msg"]) == 1 + len(body["problems"])


def test_warnings_come_with_the_hash(shared: Cas) -> None:
    text = SESSION.replace("tutorial", "warned").replace("hello", "$$SCONE::hidden$$")
    status, body = shared.call("POST", "/session", text, shared.owner)
    assert status == 201
    assert body["warnings"]


def test_a_session_of_garbage_is_refused(shared: Cas) -> None:
    for data in (b"", b"\0", b"\xff\xfe", b"- a\n", b"a: &a [*a]\n", b"{" * 5000):
        status, body = shared.call("POST", "/session", data, shared.owner)
        assert status in (400, 422), data
        assert body["msg"]


def test_a_yaml_bomb_is_refused(shared: Cas) -> None:
    bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n"
    for previous, name in zip("abcdefgh", "bcdefghi", strict=True):
        bomb += f"{name}: &{name} [" + ",".join([f"*{previous}"] * 9) + "]\n"
    status, _ = shared.call("POST", "/session", bomb, shared.owner)
    assert status == 422


def test_a_name_with_a_tilde_reads_back_however_it_is_spelt(shared: Cas) -> None:
    shared.post(_named("NS-1~hello"))
    for spelling in ("NS-1~hello", "NS-1%7Ehello", "NS-1%7ehello"):
        status, body = shared.call("GET", f"/v1/sessions/{spelling}", who=shared.owner)
        assert status == 200, body


# --- values ---------------------------------------------------------------------------------------


def test_a_public_value_is_shown_as_the_reference_shows_it(shared: Cas) -> None:
    _, body = shared.call("GET", "/v1/values/session=tutorial,secret=shown")
    assert body == {"kind": "string", "value": "a public value", "expires": None, "renew": None}


def test_all_public_values_of_a_session(shared: Cas) -> None:
    _, body = shared.call("GET", "/v1/values/session=tutorial")
    assert list(body["values"]) == ["shown"]
    assert body["values"]["shown"]["value"] == "a public value"


@pytest.mark.parametrize("secret", ["hidden", "absent"])
def test_a_value_that_is_not_public_has_the_reference_s_texts(shared: Cas, secret: str) -> None:
    _, body = shared.call("GET", f"/v1/values/session=tutorial,secret={secret}")
    assert body["msg"] == [
        f"Failed to read value '{secret}' of '/session=tutorial' requested by a public client",
        "Secret does not exist or is not visible for a public client",
    ]


# --- what stays -----------------------------------------------------------------------------------


def test_sessions_survive_a_restart_and_the_key_is_the_same(tmp_path: Path) -> None:
    with running(tmp_path / "state") as cas:
        owner, first, key = cas.owner, cas.post(SESSION), cas.server.key_sha256
    with running(tmp_path / "state", minimum_level=None) as cas:
        assert cas.server.key_sha256 == key
        assert cas.call("GET", READ, who=owner)[1]["hash"] == first


def test_no_secret_is_logged(shared: Cas) -> None:
    assert "hunter2" not in shared.logged.text
    assert "session stored" in shared.logged.text
