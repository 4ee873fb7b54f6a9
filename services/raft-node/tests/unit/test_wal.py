"""The log while it runs, and what a reopen finds again."""

from __future__ import annotations

import random

import pytest

from raft_node import entry
from raft_node.entry import Entry
from raft_node.errors import CorruptionError, DiskError
from raft_node.storage.files import OsFileSystem
from raft_node.storage.wal.index import EXTENT_BYTES
from raft_node.storage.wal.log import Wal, WalHardState, WalOptions
from raft_testing.files import MemoryFileSystem

DIRECTORY = "/n/wal"
SMALL = WalOptions(segment_bytes=4096)


def make(index: int, term: int = 1, command: bytes = b"c" * 40) -> Entry:
    return entry.encode(index, term, entry.EntryKind.COMMAND, 1_000_000 + index, command)


def run(start: int, end: int, term: int = 1) -> list[Entry]:
    return [make(index, term) for index in range(start, end)]


def put(
    wal: Wal, entries: list[Entry], *, hard_state: WalHardState | None = None, truncate_from: int | None = None
) -> None:
    wal.publish(wal.append(hard_state, truncate_from, entries))


def everything(wal: Wal) -> list[Entry]:
    return wal.entries(wal.first_index, wal.last_index + 1, 1 << 40)


def test_empty_log() -> None:
    wal = Wal.open(MemoryFileSystem(), DIRECTORY, SMALL)
    assert (wal.first_index, wal.last_index, wal.term(0)) == (1, 0, 0)
    assert wal.hard_state == WalHardState(0, "", 0, 0)
    assert wal.entries(1, 1, 100) == []
    assert wal.recovery_notes == []


def test_entries_are_read_back_from_many_segments_before_and_after_reopen() -> None:
    fs = MemoryFileSystem()
    wal = Wal.open(fs, DIRECTORY, SMALL)
    written: list[Entry] = []
    for first in range(1, 400, 7):
        batch = run(first, first + 7, term=1 + first // 100)
        put(wal, batch)
        written += batch
    assert wal.segment_count > 5
    assert everything(wal) == written
    wal.close()
    wal = Wal.open(fs, DIRECTORY, SMALL)
    assert everything(wal) == written
    assert [wal.term(one.index) for one in written] == [one.term for one in written]
    assert wal.entries(100, 120, 1 << 20) == written[99:119]
    put(wal, run(wal.last_index + 1, wal.last_index + 3, term=9))
    assert wal.term(wal.last_index) == 9


def test_nothing_is_visible_before_publish() -> None:
    wal = Wal.open(MemoryFileSystem(), DIRECTORY, SMALL)
    put(wal, run(1, 4))
    appended = wal.append(WalHardState(2, "a", 1, 3), 3, run(3, 6, term=2))
    assert wal.last_index == 3
    assert wal.term(3) == 1
    assert [one.term for one in everything(wal)] == [1, 1, 1]
    assert wal.hard_state.term == 0
    wal.publish(appended)
    assert [one.term for one in everything(wal)] == [1, 1, 2, 2, 2]
    assert wal.hard_state == WalHardState(2, "a", 1, 3)


def test_one_append_is_one_write_and_one_sync() -> None:
    fs = MemoryFileSystem()
    wal = Wal.open(fs, DIRECTORY, WalOptions())
    fs.operations.clear()
    put(wal, run(1, 17), hard_state=WalHardState(1, "a", 1, 0))
    assert [operation.name for operation in fs.operations] == ["write", "sync"]


def test_an_append_of_nothing_writes_nothing() -> None:
    fs = MemoryFileSystem()
    wal = Wal.open(fs, DIRECTORY, SMALL)
    fs.operations.clear()
    put(wal, [])
    assert fs.operations == []


@pytest.mark.parametrize("with_entries", [False, True])
def test_hard_state_survives_with_and_without_entries(with_entries: bool) -> None:
    fs = MemoryFileSystem()
    wal = Wal.open(fs, DIRECTORY, SMALL)
    state = WalHardState(7, "shard-0-3", (1 << 64) - 1, 0)
    put(wal, run(1, 3, term=7) if with_entries else [], hard_state=state)
    wal.close()
    fs.crash(random.Random(1))
    assert Wal.open(fs, DIRECTORY, SMALL).hard_state == state


def test_the_header_of_a_segment_repeats_the_hard_state() -> None:
    fs = MemoryFileSystem()
    wal = Wal.open(fs, DIRECTORY, SMALL)
    state = WalHardState(3, "shard-0-1", 5, 0)
    put(wal, [], hard_state=state)
    while wal.segment_count < 3:
        put(wal, run(wal.last_index + 1, wal.last_index + 11, term=3))
    wal.close()
    assert Wal.open(fs, DIRECTORY, SMALL).hard_state == state


def test_truncate_then_append_then_reopen() -> None:
    fs = MemoryFileSystem()
    wal = Wal.open(fs, DIRECTORY, SMALL)
    put(wal, run(1, 60))
    put(wal, run(60, 100))
    put(wal, run(30, 35, term=2), truncate_from=30)
    put(wal, [], truncate_from=33)
    put(wal, run(33, 200, term=3))
    expected = [*run(1, 30), *run(30, 33, term=2), *run(33, 200, term=3)]
    assert everything(wal) == expected
    wal.close()
    wal = Wal.open(fs, DIRECTORY, SMALL)
    assert everything(wal) == expected
    assert [wal.term(index) for index in (0, 1, 29, 30, 32, 33, 199)] == [0, 1, 1, 2, 2, 3, 3]
    put(wal, run(1, 3, term=4), truncate_from=1)
    wal.close()
    assert everything(Wal.open(fs, DIRECTORY, SMALL)) == run(1, 3, term=4)


def test_bytes_max_cuts_after_the_entry_that_passes_it() -> None:
    wal = Wal.open(MemoryFileSystem(), DIRECTORY, WalOptions())
    put(wal, run(1, 11))
    size = len(make(1).data)
    assert len(wal.entries(1, 11, 0)) == 1
    assert len(wal.entries(1, 11, size)) == 1
    assert len(wal.entries(1, 11, size + 1)) == 2
    assert len(wal.entries(4, 11, 1 << 30)) == 7


def test_bytes_max_holds_across_frames_and_extents() -> None:
    wal = Wal.open(MemoryFileSystem(), DIRECTORY, WalOptions())
    batch = [make(index, command=bytes([index % 251]) * 3000) for index in range(1, 101)]
    for first in range(0, 100, 50):
        put(wal, batch[first : first + 50])
    size = len(batch[0].data)
    assert size * 50 > 2 * EXTENT_BYTES
    for start in (1, 22, 23, 45, 50, 51, 99, 100):
        for count in (1, 25, 60):
            assert wal.entries(start, 101, size * count) == batch[start - 1 : start - 1 + count]


def test_adjacent_frames_are_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    wal = Wal.open(MemoryFileSystem(), DIRECTORY, WalOptions())
    for index in range(1, 101):
        put(wal, [make(index)])
    wal.entries(1, 2, 1)
    file, reads = wal._reader._files[1], list[tuple[int, int]]()
    read_at = file.read_at

    def counted(offset: int, size: int) -> bytes:
        reads.append((offset, size))
        return read_at(offset, size)

    monkeypatch.setattr(file, "read_at", counted)
    assert wal.entries(1, 101, 1 << 20) == run(1, 101)
    assert len(reads) == 1
    # One that is asked for alone comes alone.
    assert wal.entries(50, 101, 1) == run(50, 51)
    assert reads[1:] == [(reads[1][0], len(make(50).data))]


def test_what_changes_the_members_is_known_without_a_look_at_the_log() -> None:
    fs = MemoryFileSystem()
    wal = Wal.open(fs, DIRECTORY, SMALL)

    def change(index: int, term: int = 1) -> Entry:
        return entry.encode(index, term, entry.EntryKind.CONFIGURATION, 1_000_000, b"members")

    put(wal, [change(1), *run(2, 30), change(30)])
    put(wal, [*run(31, 60), change(60), change(61)])
    assert list(wal.configurations) == [1, 30, 60, 61]
    put(wal, run(60, 62, term=2), truncate_from=60)
    assert list(wal.configurations) == [1, 30]
    while wal.segment_count < 4:
        put(wal, run(wal.last_index + 1, wal.last_index + 10, term=2))
    put(wal, [change(wal.last_index + 1, 2)])
    last = wal.last_index
    assert list(wal.configurations) == [1, 30, last]
    wal.close()
    wal = Wal.open(fs, DIRECTORY, SMALL)
    assert list(wal.configurations) == [1, 30, last]
    # Behind the beginning of the log there is none any more.
    wal.drop_prefix(last)
    while not wal.wants_drop:
        put(wal, run(wal.last_index + 1, wal.last_index + 10, term=2))
    wal.take_drop()
    assert wal.first_index > 30
    assert list(wal.configurations) == [last]
    wal.publish(wal.reset(wal.last_index + 5, 9, WalHardState(9, "", 0, 0)))
    assert list(wal.configurations) == []


def test_an_entry_larger_than_a_segment_gets_one_of_its_own() -> None:
    fs = MemoryFileSystem()
    options = WalOptions(segment_bytes=64 << 10)
    wal = Wal.open(fs, DIRECTORY, options)
    large = [make(2, command=random.Random(2).randbytes(3 << 20)), make(3, command=bytes(1 << 20))]
    put(wal, run(1, 2))
    put(wal, large)
    put(wal, run(4, 5))
    wal.close()
    fs.crash(random.Random(3))
    wal = Wal.open(fs, DIRECTORY, options)
    assert everything(wal) == [make(1), *large, make(4)]
    assert wal.segment_count == 2
    assert len(fs.read_file(f"{DIRECTORY}/00000000000000000002.wal")) > 4 << 20


def fill_half(wal: Wal) -> None:
    assert not wal.wants_segment
    for _ in range(5):
        put(wal, run(wal.last_index + 1, wal.last_index + 6))
    assert wal.segment_count == 1
    assert wal.wants_segment


def test_a_prepared_segment_is_used_and_spares_the_append_the_zeros() -> None:
    fs = MemoryFileSystem()
    wal = Wal.open(fs, DIRECTORY, SMALL)
    fill_half(wal)
    wal.prepare_next_segment()
    assert not wal.wants_segment
    zeroed = wal.bytes_zeroed
    while wal.segment_count == 1:
        put(wal, run(wal.last_index + 1, wal.last_index + 6))
    assert wal.bytes_zeroed == zeroed
    put(wal, run(wal.last_index + 1, wal.last_index + 6))
    last_index = wal.last_index
    wal.close()
    fs.crash(random.Random(4))
    wal = Wal.open(fs, DIRECTORY, SMALL)
    assert everything(wal) == run(1, last_index + 1)
    assert wal.segment_count == 2


def test_a_prepared_segment_that_was_not_used_is_removed() -> None:
    fs = MemoryFileSystem()
    wal = Wal.open(fs, DIRECTORY, SMALL)
    put(wal, run(1, 30))
    wal.prepare_next_segment()
    wal.close()
    assert len(fs.list_directory(DIRECTORY)) == 2
    wal = Wal.open(fs, DIRECTORY, SMALL)
    assert fs.list_directory(DIRECTORY) == ["00000000000000000001.wal"]
    assert everything(wal) == run(1, 30)


def test_a_new_segment_is_durable_by_name_zeros_and_header_before_its_first_frame() -> None:
    fs = MemoryFileSystem()
    Wal.open(fs, DIRECTORY, SMALL)
    names = [operation.name for operation in fs.operations if operation.name != "make_directory"]
    assert names[-6:] == ["create", "write", "sync", "sync_directory", "write", "sync"]
    assert fs.is_synced(f"{DIRECTORY}/00000000000000000001.wal")


@pytest.mark.parametrize("operation", ["write", "sync"])
def test_after_a_failed_write_or_sync_the_log_refuses_further_use(operation: str) -> None:
    fs = MemoryFileSystem()
    wal = Wal.open(fs, DIRECTORY, SMALL)
    put(wal, run(1, 3))
    fs.fail_next(operation)
    with pytest.raises(DiskError):
        wal.append(None, None, run(3, 4))
    for call in (
        lambda: wal.append(None, None, run(3, 4)),
        lambda: wal.entries(1, 2, 100),
        wal.prepare_next_segment,
    ):
        with pytest.raises(DiskError):
            call()
    assert not wal.wants_segment


def test_a_failed_preparation_stops_the_log() -> None:
    fs = MemoryFileSystem()
    wal = Wal.open(fs, DIRECTORY, SMALL)
    put(wal, run(1, 30))
    fs.fail_next("sync")
    with pytest.raises(DiskError):
        wal.prepare_next_segment()
    with pytest.raises(DiskError):
        wal.append(None, None, run(30, 31))


def test_what_is_read_after_a_failed_sync_and_a_restart_is_durable() -> None:
    # The kernel takes the pages of a failed sync for clean: they can be read, and would be gone after the next crash.
    fs = MemoryFileSystem()
    wal = Wal.open(fs, DIRECTORY, SMALL)
    put(wal, run(1, 3))
    fs.fail_next("sync")
    with pytest.raises(DiskError):
        wal.append(WalHardState(2, "a", 1, 0), None, run(3, 6, term=2))
    seen = Wal.open(fs, DIRECTORY, SMALL)
    assert seen.last_index == 5
    for seed in range(10):
        fs.crash(random.Random(seed))
        again = Wal.open(fs, DIRECTORY, SMALL)
        assert (again.last_index, again.hard_state) == (5, seen.hard_state)


def test_what_is_read_after_a_kill_between_write_and_sync_is_durable() -> None:
    fs = MemoryFileSystem()
    wal = Wal.open(fs, DIRECTORY, SMALL)
    put(wal, run(1, 3))
    path = f"{DIRECTORY}/00000000000000000001.wal"
    before = fs.read_file(path)
    put(wal, run(3, 5))
    after = fs.read_file(path)
    fs.put(path, before)
    fs.open_for_write(path).write_at(0, [after])
    assert Wal.open(fs, DIRECTORY, SMALL).last_index == 4
    assert fs.is_synced(path)


def test_gaps_and_falling_terms_are_programmer_errors() -> None:
    wal = Wal.open(MemoryFileSystem(), DIRECTORY, SMALL)
    put(wal, run(1, 5, term=3))
    for truncate_from, entries in (
        (None, run(6, 7, term=3)),
        (None, run(5, 6, term=2)),
        (3, run(4, 5, term=3)),
        (3, run(3, 4, term=2)),
        (6, []),
        (0, []),
    ):
        with pytest.raises(AssertionError):
            wal.append(None, truncate_from, entries)
    with pytest.raises(AssertionError):
        wal.term(5)
    with pytest.raises(AssertionError):
        wal.entries(1, 6, 100)
    with pytest.raises(ValueError, match="entry 7 follows entry 5"):
        wal.append(None, None, [make(5, 3), make(7, 3)])
    put(wal, run(5, 6, term=3))
    assert everything(wal) == run(1, 6, term=3)


def test_damage_that_comes_later_is_found_when_it_is_read() -> None:
    fs = MemoryFileSystem()
    wal = Wal.open(fs, DIRECTORY, SMALL)
    put(wal, run(1, 4))
    path = f"{DIRECTORY}/00000000000000000001.wal"
    offset = fs.read_file(path).index(make(2).data)
    fs.flip_bit(path, 8 * (offset + 60))
    with pytest.raises(CorruptionError) as raised:
        everything(wal)
    assert (raised.value.path, raised.value.offset) == (path, offset)
    assert wal.entries(1, 2, 100) == run(1, 2)


def test_many_segments_are_read_with_few_open_files() -> None:
    wal = Wal.open(MemoryFileSystem(), DIRECTORY, SMALL)
    put(wal, [make(1, command=bytes(3000))])
    while wal.segment_count < 30:
        put(wal, [make(wal.last_index + 1, command=bytes(3000))])
    for index in (1, wal.last_index, 1, wal.last_index // 2):
        assert wal.entries(index, index + 1, 1)[0].index == index
    assert len(everything(wal)) == wal.last_index
    assert len(wal._reader.open_segments) <= 8


def test_on_a_real_disk(tmp_path: object) -> None:
    directory = f"{tmp_path}/a/wal"
    fs = OsFileSystem()
    wal = Wal.open(fs, directory, SMALL)
    for first in range(1, 301, 10):
        put(wal, run(first, first + 10), hard_state=WalHardState(1, "a", 1, first))
        if wal.wants_segment:
            wal.prepare_next_segment()
    assert everything(wal) == run(1, 301)
    wal.close()
    wal = Wal.open(fs, directory, SMALL)
    assert everything(wal) == run(1, 301)
    assert wal.hard_state == WalHardState(1, "a", 1, 291)
    put(wal, run(301, 305))
    wal.close()
    assert Wal.open(fs, directory, SMALL).last_index == 304
