"""Merging sorted sources: the newest version of a key wins, in both directions."""

from __future__ import annotations

from raft_node.storage.iterators import Record, live, merge

NEW: list[Record] = [(b"a", b"new"), (b"c", None), (b"e", b"new")]
MIDDLE: list[Record] = [(b"b", b"middle"), (b"c", b"middle")]
OLD: list[Record] = [(b"a", b"old"), (b"b", None), (b"c", b"old"), (b"d", b"old")]
MERGED: list[Record] = [(b"a", b"new"), (b"b", b"middle"), (b"c", None), (b"d", b"old"), (b"e", b"new")]


def test_the_newest_version_of_each_key_wins() -> None:
    assert list(merge([NEW, MIDDLE, OLD])) == MERGED


def test_it_wins_backwards_as_well() -> None:
    assert list(merge([NEW[::-1], MIDDLE[::-1], OLD[::-1]], reverse=True)) == MERGED[::-1]


def test_one_source_and_none_are_fine() -> None:
    assert list(merge([OLD])) == OLD
    assert list(merge([])) == []
    assert list(merge([[], OLD, []])) == OLD


def test_live_leaves_the_tombstones_out() -> None:
    assert [key for key, _ in live(merge([NEW, MIDDLE, OLD]))] == [b"a", b"b", b"d", b"e"]


def test_merging_reads_ahead_by_one_record_per_source() -> None:
    read = []

    def source(name: bytes) -> list[Record]:
        return [(b"%d%s" % (number, name), b"") for number in range(1000)]

    def counted(records: list[Record]):  # type: ignore[no-untyped-def]
        for record in records:
            read.append(record)
            yield record

    merged = merge([counted(source(b"a")), counted(source(b"b"))])
    next(merged)
    assert len(read) <= 4
