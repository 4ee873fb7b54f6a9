"""Key, consistency and Accept of a request: facade.routes.key."""

from __future__ import annotations

import pytest

from facade.errors import BadRequestError
from facade.routes.key import key_of, wants_json
from facade.routes.options import READ_PARAMETERS, freshness_of, parse_query


def consistency_of(query: bytes, header: bytes | None) -> bytes:
    found = parse_query(query, READ_PARAMETERS)
    asked = freshness_of(found.get(b"consistency"), found.get(b"max_staleness"), header)
    return asked.mode.name.encode() + (b" %d" % asked.bound_ms if asked.bound_ms else b"")


@pytest.mark.parametrize(
    ("accept", "json"),
    [
        (None, False),
        (b"*/*", False),
        (b"application/json", True),
        (b"Application/JSON; charset=utf-8", True),
        (b"application/json, text/plain, */*", True),
        (b"text/html, application/json;q=0.9", False),
        (b"text/html;q=0.5, application/json;q=0.9", True),
        (b"application/json;q=0", False),
        (b"application/json;q=often", False),
        (b"application/problem+json", False),
        (b"image/png", False),
    ],
)
def test_wants_json(accept: bytes | None, json: bool) -> None:
    assert wants_json(accept) is json


@pytest.mark.parametrize(
    ("query", "header", "used"),
    [
        (b"", None, b"linearizable"),
        (b"&", None, b"linearizable"),
        (b"consistency=eventual", None, b"eventual"),
        (b"%63onsistency=event%75al", None, b"eventual"),
        (b"", b" eventual ", b"eventual"),
        (b"consistency=eventual&consistency=eventual", b"eventual", b"eventual"),
        (b"consistency=session", None, b"session"),
        (b"consistency=bounded&max_staleness=2s", None, b"bounded 2000"),
        (b"max_staleness=2s", b"bounded", b"bounded 2000"),
        (b"", b"bounded; max_staleness=150ms", b"bounded 150"),
        (b"consistency=bounded&max_staleness=2s", b"bounded;max-staleness=2s", b"bounded 2000"),
    ],
)
def test_consistency(query: bytes, header: bytes | None, used: bytes) -> None:
    assert consistency_of(query, header) == used


@pytest.mark.parametrize(
    ("query", "header", "code"),
    [
        (b"consistency=Eventual", None, "bad_consistency"),
        (b"", b"", "bad_consistency"),
        (b"consistency=eventual", b"linearizable", "bad_consistency"),
        (b"consistency=bounded", None, "bad_consistency"),
        (b"max_staleness=2s", None, "bad_consistency"),
        (b"consistency=eventual&max_staleness=2s", None, "bad_consistency"),
        (b"consistency=bounded&max_staleness=0s", None, "bad_consistency"),
        (b"consistency=bounded&max_staleness=keep", None, "bad_consistency"),
        (b"consistency=bounded&max_staleness=2d", None, "bad_consistency"),
        (b"consistency=bounded&max_staleness=1s", b"bounded; max_staleness=2s", "bad_consistency"),
        (b"", b"bounded; max_staleness=2s; x=1", "bad_consistency"),
        (b"Consistency=eventual", None, "unknown_parameter"),
        (b"%ff=1", None, "unknown_parameter"),
        (b"consistency=%e", None, "bad_escape"),
    ],
)
def test_bad_consistency(query: bytes, header: bytes | None, code: str) -> None:
    with pytest.raises(BadRequestError) as caught:
        consistency_of(query, header)
    assert (caught.value.status, caught.value.code) == (400, code)


def test_every_bad_escape_is_refused() -> None:
    for raw in (b"%", b"%a", b"a%", b"%g0", b"%0g", b"%%41", b"%+1", b"% 1", b"%u0041"):
        with pytest.raises(BadRequestError) as caught:
            key_of(b"/v1/kv/" + raw)
        assert caught.value.code == "bad_escape", raw
