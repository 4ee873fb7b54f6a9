"""Cursors: golden bytes, and that nothing but a cursor of the same scan is taken for one."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facade.routes.ranges import cursor
from facade.routes.ranges.cursor import CursorError

SCOPE = cursor.scope_of(b"read", b"cluster", b"a", b"b")


def test_golden_bytes() -> None:
    assert f"{SCOPE:016x}" == "cf854c1c36f11e1f"
    assert cursor.encode(b"key\x00", 0x0102030405060708) == "AQgHBgUEAwIB661nzGtleQA"


def test_what_it_belongs_to_is_cut_where_it_was_said() -> None:
    assert cursor.scope_of(b"ab", b"c") != cursor.scope_of(b"a", b"bc")


@given(st.binary(max_size=1025), st.integers(0, (1 << 64) - 1))
def test_a_bound_comes_back(bound: bytes, scope: int) -> None:
    assert cursor.decode(cursor.encode(bound, scope), scope) == bound


@given(st.one_of(st.text(max_size=60), st.binary(max_size=60).map(lambda raw: base64.urlsafe_b64encode(raw).decode())))
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(CursorError):
        cursor.decode(text, SCOPE)


def test_damaged_foreign_and_newer_ones_are_refused() -> None:
    text = cursor.encode(b"key", SCOPE)
    raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    for place in range(8 * len(raw)):
        damaged = bytearray(raw)
        damaged[place // 8] ^= 1 << place % 8
        with pytest.raises(CursorError):
            cursor.decode(base64.urlsafe_b64encode(damaged).decode().rstrip("="), SCOPE)
    for other in (text + "=", text + "A", text[:-1], " " + text, text + "\n", ""):
        with pytest.raises(CursorError):
            cursor.decode(other, SCOPE)
    with pytest.raises(CursorError, match="another range"):
        cursor.decode(text, SCOPE + 1)
