"""Memtables: the last write wins, and a snapshot does not see later ones."""

from __future__ import annotations

from raft_node.storage.memtable import ENTRY_OVERHEAD_BYTES, Memtable


def test_the_last_write_of_a_key_wins_also_inside_a_batch() -> None:
    memtable = Memtable(0, 0)
    memtable.write([(b"a", b"1"), (b"a", b"2"), (b"b", b"1")], 1, 1)
    memtable.write([(b"b", None)], 2, 1)
    assert memtable.entries == {b"a": b"2", b"b": None}
    assert (memtable.applied_index, memtable.applied_term) == (2, 1)


def test_every_write_counts_also_one_that_replaces_another() -> None:
    memtable = Memtable(0, 0)
    memtable.write([(b"key", b"value")], 1, 1)
    memtable.write([(b"key", None)], 2, 1)
    assert memtable.size_bytes == 8 + 3 + 2 * ENTRY_OVERHEAD_BYTES


def test_a_snapshot_does_not_see_later_writes_and_is_shared_until_then() -> None:
    memtable = Memtable(0, 0)
    memtable.write([(b"a", b"1")], 1, 1)
    before = memtable.snapshot()
    assert memtable.snapshot() is before
    memtable.write([(b"a", b"2"), (b"b", b"2")], 2, 1)
    assert list(before.items(b"", None, False)) == [(b"a", b"1")]
    assert list(memtable.snapshot().items(b"", None, False)) == [(b"a", b"2"), (b"b", b"2")]


def test_scans_sort_across_runs_in_both_directions() -> None:
    count = 10_000
    memtable = Memtable(0, 0)
    memtable.write([(b"%06d" % (number * 7919 % count), b"") for number in range(count)], 1, 1)
    keys = [b"%06d" % number for number in range(count)]
    for reverse in (False, True):
        order = keys[::-1] if reverse else keys
        assert [key for key, _ in memtable.snapshot().items(b"", None, reverse)] == order
        part = [key for key in order if b"000100" <= key < b"005000"]
        assert [key for key, _ in memtable.snapshot().items(b"000100", b"005000", reverse)] == part


def test_a_frozen_memtable_is_read_without_a_copy() -> None:
    memtable = Memtable(0, 0)
    memtable.write([(b"a", b"1")], 1, 1)
    memtable.freeze()
    assert list(memtable.snapshot().items(b"", None, False)) == [(b"a", b"1")]
