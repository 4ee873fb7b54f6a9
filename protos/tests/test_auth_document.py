"""The document of roles, users and tokens, and the tokens themselves."""

from __future__ import annotations

import json

import pytest

from doug_wire.auth import document as documents
from doug_wire.auth import tokens
from doug_wire.auth.document import EMPTY, Document, DocumentError, Held, MissingError, TakenError, TokenRecord
from doug_wire.auth.grants import Grant, Verb, authorize

CONFIG = Grant(Verb.READ, b"config/")
RECORD = TokenRecord("00" * 8, b"\1" * 16, b"\2" * 32, Held((CONFIG,), ("ops",)), 1_700_000_000_000, 0, 5)
FULL = Document({"ops": (Grant(Verb.METRICS),)}, {"cert:alice": Held((), ("ops", "reader"))}, {"app": RECORD})
GOLDEN = (
    b'{"format":1,"roles":{"ops":["metrics"]},"tokens":{"app":{"allow":["read:config/"],"created":1700000000000,'
    b'"expires":0,"hash":"' + b"02" * 32 + b'","id":"0000000000000000","roles":["ops"],"salt":"' + b"01" * 16 + b'",'
    b'"used":5}},"users":{"cert:alice":{"allow":[],"roles":["ops","reader"]}}}'
)


def test_the_bytes_of_a_document_stay() -> None:
    assert FULL.encode() == GOLDEN
    assert documents.decode(GOLDEN) == FULL
    assert documents.decode(EMPTY.encode()) == EMPTY


def changed(**parts: object) -> bytes:
    return json.dumps(json.loads(GOLDEN) | parts).encode()


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"[]", b"{}", b"\xff", b"[" * 100_000, b" " * (documents.DOCUMENT_BYTES_MAX + 1)),
        changed(format=2),
        changed(more=1),
        changed(roles={"admin": []}),
        changed(roles={"-": []}),
        changed(roles={}),
        changed(roles=[]),
        changed(users={"alice": {"allow": [], "roles": []}}),
        changed(users={"cert:a\n": {"allow": [], "roles": []}}),
        changed(users={"cert:a": {"allow": ["read:"], "roles": []}}),
        changed(users={"cert:a": {"allow": [], "roles": ["nobody"]}}),
        changed(tokens={"app": {}}),
        changed(tokens={"a": json.loads(GOLDEN)["tokens"]["app"], "b": json.loads(GOLDEN)["tokens"]["app"]}),
        changed(tokens={"a": json.loads(GOLDEN)["tokens"]["app"] | {"expires": -1}}),
        changed(tokens={"a": json.loads(GOLDEN)["tokens"]["app"] | {"expires": True}}),
        changed(tokens={"a": json.loads(GOLDEN)["tokens"]["app"] | {"hash": "00"}}),
        changed(tokens={"a": json.loads(GOLDEN)["tokens"]["app"] | {"salt": "xyz"}}),
    ],
)
def test_what_is_no_document_is_refused(data: bytes) -> None:
    with pytest.raises(DocumentError):
        documents.decode(data)


def test_tokens_come_and_go() -> None:
    record = TokenRecord("11" * 8, b"s", b"d" * 32, Held((CONFIG,)), 1)
    made = EMPTY.with_token("app", record)
    assert made.by_id() == {"11" * 8: ("app", record)}
    with pytest.raises(TakenError):
        made.with_token("app", record)
    with pytest.raises(MissingError):
        EMPTY.with_token("other", TokenRecord("22" * 8, b"s", b"d", Held((), ("nobody",)), 1))
    for name in ("", "a b", "a/b", "\u00e9", "a" * 65, "-a"):
        with pytest.raises(DocumentError):
            EMPTY.with_token(name, record)
    given = made.with_user("token:app", "monitor")
    assert given.without_token("app") == EMPTY, "what its principal was given goes with it"
    with pytest.raises(MissingError):
        EMPTY.without_token("app")
    assert made.with_uses({"app": 9, "gone": 9}).tokens["app"].used_ms == 9


def test_a_new_token_may_do_what_it_was_made_for_and_nothing_else() -> None:
    """A role for a token that is not there, from a slip of the pen or an older version, waits for no other one."""
    with pytest.raises(MissingError):
        EMPTY.with_user("token:app", "admin")
    record = TokenRecord("11" * 8, b"s", b"d" * 32, Held((CONFIG,)), 1)
    before = Document(users={"token:app": Held((), ("admin",)), "token:other": Held((), ("reader",))})
    made = documents.decode(before.encode()).with_token("app", record)
    assert made.rights(("token:app",), record.held).grants == (CONFIG,)
    assert made.users == {"token:other": Held((), ("reader",))}


def test_a_role_is_taken_from_a_token_that_was_made_with_it() -> None:
    """It was said that the token does not have it, which somebody may take for the truth."""
    record = TokenRecord("11" * 8, b"s", b"d" * 32, Held((CONFIG,), ("admin", "reader")), 1)
    made = EMPTY.with_token("app", record).with_user("token:app", "admin")
    less = made.without_user("token:app", "admin")
    assert less.tokens["app"].held == Held((CONFIG,), ("reader",))
    assert less.users == {}
    assert not authorize(less.rights(("token:app",), less.tokens["app"].held), Verb.AUTH)
    with pytest.raises(MissingError):
        less.without_user("token:app", "admin")


def test_roles_come_and_go_with_whoever_has_them() -> None:
    made = EMPTY.with_role("config", [CONFIG, CONFIG]).with_user("oidc:bob", "config").with_user("oidc:bob", "monitor")
    assert authorize(made.rights(("oidc:bob", "group:x")), Verb.READ, b"config/a")
    assert not authorize(made.rights(("oidc:eve",)), Verb.READ, b"config/a")
    less = made.without_role("config")
    assert not authorize(less.rights(("oidc:bob",)), Verb.READ, b"config/a")
    assert authorize(less.rights(("oidc:bob",)), Verb.METRICS)
    assert less.without_user("oidc:bob", "monitor") == EMPTY
    for name in ("admin", "reader"):
        with pytest.raises(TakenError):
            made.with_role(name, ())
        with pytest.raises(TakenError):
            made.without_role(name)
    with pytest.raises(MissingError):
        made.without_role("other")
    with pytest.raises(MissingError):
        made.with_user("oidc:bob", "other")
    with pytest.raises(MissingError):
        made.without_user("oidc:bob", "operator")
    for name in ("bob", "user:bob", "cert:", "oidc:" + "a" * 200, "cert:a\x00"):
        with pytest.raises(DocumentError):
            made.with_user(name, "monitor")


def test_a_document_is_bounded() -> None:
    roles = {f"role{number}": (Grant(Verb.READ, b"a" * 1000),) for number in range(600)}
    with pytest.raises(DocumentError):
        Document(roles).encode()


def test_a_token_is_found_by_its_id_and_proved_by_its_secret() -> None:
    made = tokens.mint()
    parsed = tokens.parse(made.text)
    assert parsed is not None
    token_id, secret = parsed
    assert token_id == made.id
    assert tokens.is_secret(secret, made.salt, made.digest)
    assert not tokens.is_secret(secret[:-1] + ("A" if secret[-1] != "A" else "B"), made.salt, made.digest)
    assert secret.encode() not in made.digest
    assert tokens.mint().text != made.text


@pytest.mark.parametrize(
    "text",
    [
        *("", "doug_", "doug_0123456789abcdef_", "doug_0123456789ABCDEF_" + "a" * 43, "x" * 10_000),
        *("doug_0123456789abcdef_" + "a" * 44, "doug_0123456789abcdef_" + "a" * 42 + "\n"),
        "doug_0123456789abcdef_" + "\u00e9" * 43,
    ],
)
def test_what_is_no_token_is_none(text: str) -> None:
    assert tokens.parse(text) is None


def test_tokens_that_have_ended_go_with_what_they_were_given() -> None:
    ends = {"past": 1000, "now": 2000, "later": 2001, "never": 0}
    document = EMPTY
    for number, (name, expires_ms) in enumerate(ends.items()):
        record = TokenRecord(f"{number:016x}", b"\1" * 16, b"\2" * 32, Held(roles=("reader",)), 1, expires_ms)
        document = document.with_token(name, record).with_user(f"token:{name}", "writer")
    left = document.without_expired(2000)
    assert set(left.tokens) == {"later", "never"} and set(left.users) == {"token:later", "token:never"}
    assert left.without_expired(2000) is left
    assert document.without_expired(0) is document
