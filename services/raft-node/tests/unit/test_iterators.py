"""Merging sorted sources: the newest version of a key wins, in both directions, and nobody reads far ahead."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raft_node.storage.tables.iterators import Columns, Record, live, merge, records

NEW: list[Record] = [(b"a", b"new"), (b"c", None), (b"e", b"new")]
MIDDLE: list[Record] = [(b"b", b"middle"), (b"c", b"middle")]
OLD: list[Record] = [(b"a", b"old"), (b"b", None), (b"c", b"old"), (b"d", b"old")]
MERGED: list[Record] = [(b"a", b"new"), (b"b", b"middle"), (b"c", None), (b"d", b"old"), (b"e", b"new")]


def source(content: Sequence[Record], size: int = 2, *, reverse: bool = False) -> Iterator[Columns]:
    """Sorted records in pieces of a size, in the order asked for."""
    starts = range(0, len(content), size)
    for start in reversed(starts) if reverse else starts:
        keys, values = zip(*content[start : start + size], strict=True)
        yield Columns(keys, values, None in values)


def merged(sources: Sequence[Sequence[Record]], size: int = 2, *, reverse: bool = False) -> list[Record]:
    pieces = merge([source(content, size, reverse=reverse) for content in sources], reverse=reverse)
    return list(records(pieces, reverse=reverse))


@pytest.mark.parametrize("size", [1, 2, 100])
def test_the_newest_version_of_each_key_wins(size: int) -> None:
    assert merged([NEW, MIDDLE, OLD], size) == MERGED


@pytest.mark.parametrize("size", [1, 2, 100])
def test_it_wins_backwards_as_well(size: int) -> None:
    assert merged([NEW, MIDDLE, OLD], size, reverse=True) == MERGED[::-1]


def test_one_source_and_none_are_fine() -> None:
    assert merged([OLD]) == OLD
    assert merged([]) == []
    assert merged([[], OLD, []]) == OLD


@pytest.mark.parametrize("reverse", [False, True])
def test_live_leaves_the_tombstones_out(reverse: bool) -> None:
    sources = [source(content, reverse=reverse) for content in (NEW, MIDDLE, OLD)]
    expected = [record for record in MERGED if record[1] is not None]
    assert list(live(merge(sources, reverse=reverse), reverse=reverse)) == (expected[::-1] if reverse else expected)


@given(
    st.lists(st.dictionaries(st.binary(max_size=2), st.none() | st.binary(max_size=1), max_size=30), max_size=5),
    st.integers(1, 7),
    st.booleans(),
)
def test_merging_is_what_a_dict_does(sources: list[dict[bytes, bytes | None]], size: int, reverse: bool) -> None:
    model: dict[bytes, bytes | None] = {}
    for content in reversed(sources):
        model.update(content)
    expected = sorted(model.items(), reverse=reverse)
    assert merged([sorted(content.items()) for content in sources], size, reverse=reverse) == expected


@pytest.mark.parametrize("reverse", [False, True])
def test_merging_reads_ahead_by_one_piece_per_source(reverse: bool) -> None:
    read = 0

    def counted(name: bytes) -> Iterator[Columns]:
        nonlocal read
        content: list[Record] = [(b"%04d%s" % (number, name), b"") for number in range(1000)]
        for piece in source(content, 10, reverse=reverse):
            read += 1
            yield piece

    pieces = merge([counted(b"a"), counted(b"b")], reverse=reverse)
    next(pieces)
    assert read == 2
    next(pieces)
    assert read <= 4
