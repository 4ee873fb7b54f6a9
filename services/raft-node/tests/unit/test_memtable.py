"""Memtables: the last write wins, and a snapshot does not see later ones."""

from __future__ import annotations

import random

from raft_node.storage.memtable import ENTRY_OVERHEAD_BYTES, Memtable, Writes


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


def test_scans_between_writes_see_what_was_there_and_sort_only_what_is_new() -> None:
    rng = random.Random(5)
    memtable = Memtable(0, 0)
    model: dict[bytes, bytes | None] = {}
    snapshots = []
    for index in range(1, 60):
        batch = [(b"%03d" % rng.randrange(500), b"%d" % index) for _ in range(rng.randrange(1, 40))]
        memtable.write(batch, index, 1)
        model.update(batch)
        if rng.random() < 0.7:
            snapshots.append((memtable.snapshot(), sorted(model.items())))
        # In any order, so that an old snapshot is read when a newer one has been.
        snapshot, expected = rng.choice(snapshots) if snapshots else (memtable.snapshot(), sorted(model.items()))
        assert list(snapshot.items(b"", None, False)) == expected
        assert list(snapshot.items(b"1", b"3", True)) == [each for each in expected if b"1" <= each[0] < b"3"][::-1]
    assert len(memtable._order.of(memtable.entries)) < 6


def test_columns_are_the_same_batch() -> None:
    batch: list[tuple[bytes, bytes | None]] = [(b"a", b"1"), (b"b", None), (b"a", b"2")]
    writes = Writes.of(batch)
    assert (list(writes), len(writes), writes[1], writes[-1]) == (batch, 3, (b"b", None), (b"a", b"2"))
    assert list(writes[1:]) == batch[1:]
    assert Writes.of(writes) is writes
    assert not Writes.of([])
    one, other = Memtable(0, 0), Memtable(0, 0)
    one.write(batch, 1, 1)
    other.write(writes, 1, 1)
    assert (one.entries, one.size_bytes, one.deletes) == (other.entries, other.size_bytes, other.deletes)
