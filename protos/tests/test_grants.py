"""Grants and the one rule: what is not allowed by a prefix or a verb is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doug_wire.auth.grants import ALL, NOTHING, Grant, GrantError, KeyRange, Rights, Verb, authorize, parse_grant

KEYS = st.binary(max_size=6).filter(lambda key: key != b"")
GRANTS = st.builds(Grant, st.sampled_from([Verb.READ, Verb.WRITE, Verb.WATCH]), st.binary(max_size=4))


def rights(*texts: str) -> Rights:
    return Rights(parse_grant(text) for text in texts)


@pytest.mark.parametrize(
    ("text", "grant"),
    [
        ("read:config/", Grant(Verb.READ, b"config/")),
        ("write:*", Grant(Verb.WRITE)),
        ("watch:caf\u00e9/", Grant(Verb.WATCH, "caf\u00e9/".encode())),
        ("read:%2Astar", Grant(Verb.READ, b"*star")),
        ("read:%00%ff", Grant(Verb.READ, b"\x00\xff")),
        ("read:a:b", Grant(Verb.READ, b"a:b")),
        ("admin:backup", Grant(Verb.BACKUP)),
        ("metrics", Grant(Verb.METRICS)),
    ],
)
def test_a_grant_is_read(text: str, grant: Grant) -> None:
    assert parse_grant(text) == grant
    assert parse_grant(str(grant)) == grant


@pytest.mark.parametrize(
    "text",
    [
        *("", "read", "read:", ":config/", "READ:config/", "reads:config/", "admin", "admin:", "admin:everything"),
        *("metrics:a", "admin:auth:x", "read:config/*", "read:a*b", "read:%", "read:%4", "read:%zz", "read:\ud800"),
        *("read:" + "a" * 1025, "read:" + "%41" * 5000),
    ],
)
def test_what_is_no_grant_is_refused(text: str) -> None:
    with pytest.raises(GrantError):
        parse_grant(text)


@given(GRANTS)
def test_a_grant_is_what_it_shows(grant: Grant) -> None:
    assert parse_grant(str(grant)) == grant


@given(GRANTS, KEYS)
def test_a_key_is_allowed_if_it_begins_with_the_prefix(grant: Grant, key: bytes) -> None:
    assert authorize(Rights([grant]), grant.verb, key) == key.startswith(grant.prefix)


@given(st.lists(GRANTS, max_size=3), KEYS, st.binary(max_size=4), st.binary(max_size=4))
def test_a_range_that_is_allowed_holds_no_key_that_is_not(
    grants: list[Grant], key: bytes, start: bytes, end: bytes
) -> None:
    found = Rights(grants)
    inside = start <= key and (not end or key < end)
    if inside and authorize(found, Verb.READ, KeyRange(start, end)):
        assert authorize(found, Verb.READ, key)


def test_both_ends_of_a_range_count() -> None:
    found = rights("read:config/")
    allowed = [(b"config/", b"config0"), (b"config/a", b"config/b"), (b"config/", b"config/")]
    refused = [(b"config/", b""), (b"", b""), (b"confi", b"config0"), (b"config/", b"config1"), (b"", b"config/a")]
    assert all(authorize(found, Verb.READ, KeyRange(*ends)) for ends in allowed)
    assert not any(authorize(found, Verb.READ, KeyRange(*ends)) for ends in refused)
    assert authorize(rights("read:*"), Verb.READ, KeyRange(b"", b""))
    assert authorize(rights("read:%ff"), Verb.READ, KeyRange(b"\xff\x01", b"")), "nothing lies behind this prefix"
    assert not authorize(rights("read:a", "read:b"), Verb.READ, KeyRange(b"a", b"c")), "one prefix covers all of it"


@pytest.mark.parametrize("verb", list(Verb))
def test_everything_but_what_is_granted_is_refused(verb: Verb) -> None:
    targets = (None, b"k", KeyRange(b"k", b"l"))
    assert not any(authorize(NOTHING, verb, target) for target in targets)
    keyed = verb in (Verb.READ, Verb.WRITE, Verb.WATCH)
    assert authorize(ALL, verb, b"k" if keyed else None)
    assert not authorize(ALL, verb, None if keyed else b"k"), "a verb of keys wants keys, and no other does"
    others = Rights(Grant(other) for other in Verb if other is not verb)
    assert not any(authorize(others, verb, target) for target in targets)
