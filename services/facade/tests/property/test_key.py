"""Keys survive the way through a URL, or are refused: facade.routes.key."""

from __future__ import annotations

from urllib.parse import quote, unquote_to_bytes

from hypothesis import given
from hypothesis import strategies as st

from facade.errors import BadRequestError
from facade.routes.key import key_of

KEYS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=300).filter(
    lambda text: len(text.encode()) <= 1024
)


@given(KEYS, st.sampled_from(["", "/", "/.~-_!$&'()*+,;=:@"]))
def test_every_utf8_key_arrives_as_it_was(key: str, safe: str) -> None:
    assert key_of(b"/v1/kv/" + quote(key, safe=safe).encode()) == key.encode()


@given(st.binary(max_size=1100))
def test_any_bytes_are_a_key_or_refused_and_never_replaced(raw: bytes) -> None:
    try:
        key = key_of(b"/v1/kv/" + quote(raw, safe="").encode())
    except BadRequestError as error:
        assert error.status == 400
        if error.code == "empty_key":
            assert not raw
        elif error.code == "key_too_long":
            assert len(raw) > 1024
        else:
            assert error.code == "key_not_utf8"
            assert raw.decode("utf-8", "replace").encode() != raw
    else:
        assert key == raw


@given(st.text(st.sampled_from("%0Fafg/. "), max_size=12))
def test_escapes_are_decoded_once_or_refused(text: str) -> None:
    raw = text.encode()
    try:
        key = key_of(b"/v1/kv/" + raw)
    except BadRequestError as error:
        assert error.code in {"bad_escape", "empty_key", "key_not_utf8"}
    else:
        assert key == unquote_to_bytes(raw)
        assert b"%" not in raw or all(len(part) >= 2 for part in raw.split(b"%")[1:])
