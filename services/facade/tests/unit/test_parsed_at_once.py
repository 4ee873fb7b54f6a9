"""Pieces of what has come, each of which ends with a head: facade.app.slices."""

from __future__ import annotations

import pytest
from connection_under_test import GET
from hypothesis import given
from hypothesis import strategies as st

from facade.app.slices import END_BYTES, SLICE_BYTES, slice_end


def sliced(data: bytes, *, in_body: bool) -> list[bytes]:
    pieces, at = [], 0
    while at < len(data):
        end = slice_end(data, at, in_body=in_body)
        assert end > at
        pieces.append(data[at:end])
        at = end
    return pieces


@given(st.text("\r\n\r\nab", max_size=200), st.booleans())
def test_slices_of_any_bytes_are_the_bytes(text: str, in_body: bool) -> None:
    data = text.encode()
    assert b"".join(sliced(data, in_body=in_body)) == data


def test_each_head_is_a_slice() -> None:
    assert sliced(3 * GET, in_body=False) == [GET, GET, GET]
    long = b"GET / HTTP/1.1\r\nX: " + b"x" * 2 * SLICE_BYTES + b"\r\n\r\n"
    assert [len(each) for each in sliced(long + GET, in_body=False)][-1] == len(GET)
    assert max(len(each) for each in sliced(long, in_body=False)) == SLICE_BYTES


@pytest.mark.parametrize("empty", [b"\r\n", b"\n", b"\r\n\r\n"])
def test_empty_lines_before_a_head_are_none_of_their_own(empty: bytes) -> None:
    """Each slice takes a call of the parser: a stranger may send as many empty lines as they like."""
    before = empty * 1000
    assert sliced(before + GET, in_body=False) == [before + GET]
    assert len(sliced(empty * SLICE_BYTES, in_body=False)) <= 2 * len(empty)


def test_bodies_are_cut_small_only_where_they_may_end() -> None:
    assert [len(each) for each in sliced(bytes(2 * SLICE_BYTES), in_body=True)] == [SLICE_BYTES, SLICE_BYTES]
    assert max(len(each) for each in sliced(b"ab" + 100 * GET, in_body=True)) == END_BYTES
