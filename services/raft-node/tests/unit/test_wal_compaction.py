"""The log's beginning: what a dropped prefix and a reset leave, at every step of a crash."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from itertools import product

import pytest

from raft_node import entry
from raft_node.entry import Entry
from raft_node.errors import CorruptionError, DiskError
from raft_node.storage import record
from raft_node.storage.files import OsFileSystem
from raft_node.storage.wal import segment as wal_segment
from raft_node.storage.wal.log import Wal, WalHardState, WalOptions
from raft_testing.files import MemoryFileSystem
from raft_testing.inodes import Loss

DIRECTORY = "/n/wal"
SMALL = WalOptions(segment_bytes=4096)
STATE = WalHardState(3, "shard-0-1", 5, 0)


def make(index: int, term: int = 1) -> Entry:
    return entry.encode(index, term, entry.EntryKind.COMMAND, 1_000_000 + index, b"c" * 40)


def run(start: int, end: int, term: int = 1) -> list[Entry]:
    return [make(index, term) for index in range(start, end)]


def put(
    wal: Wal, entries: list[Entry], *, hard_state: WalHardState | None = None, truncate_from: int | None = None
) -> None:
    wal.publish(wal.append(hard_state, truncate_from, entries))


def fill(wal: Wal, segments: int, term: int = 1) -> None:
    """Appends until so many more segments were begun."""
    wanted = newest_id(wal) + segments
    while newest_id(wal) < wanted:
        put(wal, run(wal.last_index + 1, wal.last_index + 6, term))


def newest_id(wal: Wal) -> int:
    return wal._index.segments[-1].segment_id


def path_of(segment_id: int) -> str:
    return f"{DIRECTORY}/{segment_id:020d}.wal"


def everything(wal: Wal) -> list[Entry]:
    return wal.entries(wal.first_index, wal.last_index + 1, 1 << 40)


def wants_drop(wal: Wal) -> bool:
    """A function, so that types do not take the answer for a constant."""
    return wal.wants_drop


def do_drop(wal: Wal) -> None:
    if wal.wants_drop:
        drop = wal.take_drop()
        drop.run()
        wal.drop_done(drop)


def dropped_log(*, remove: bool = True) -> tuple[MemoryFileSystem, Wal]:
    """A log of segments 4 to 6; with ``remove`` the files of 1 to 3 are gone."""
    fs = MemoryFileSystem()
    wal = Wal.open(fs, DIRECTORY, SMALL)
    put(wal, [], hard_state=STATE)
    fill(wal, 4)
    wal.drop_prefix(wal._index.segments[3].previous_index + 1)
    fill(wal, 1)
    assert wal.wants_drop
    if remove:
        do_drop(wal)
        fs.remove(f"{DIRECTORY}/recycled.tmp")
        fs.sync_directory(DIRECTORY)
    return fs, wal


def refuses(files: dict[str, bytes]) -> CorruptionError:
    fs = MemoryFileSystem()
    fs.make_directory(DIRECTORY)
    for path, content in files.items():
        fs.put(path, content)
    with pytest.raises(CorruptionError) as raised:
        Wal.open(fs, DIRECTORY, SMALL)
    assert fs.files() == files, "a damaged log was changed"
    return raised.value


def test_whole_segments_go_and_the_rest_is_there_after_a_reopen() -> None:
    fs, wal = dropped_log()
    first_index, last_index = wal.first_index, wal.last_index
    assert first_index > 30 and wal.segment_count == 3
    assert fs.list_directory(DIRECTORY) == [path_of(segment_id)[-24:] for segment_id in (4, 5, 6)]
    for reopened in (False, True):
        if reopened:
            wal.close()
            fs.crash(random.Random(1))
            wal = Wal.open(fs, DIRECTORY, SMALL)
        assert (wal.first_index, wal.last_index, wal.segment_count) == (first_index, last_index, 3)
        assert everything(wal) == run(first_index, last_index + 1)
        assert wal.term(first_index - 1) == 1 and wal.hard_state == STATE
        for call in (lambda: wal.term(first_index - 2), lambda: wal.entries(first_index - 1, first_index, 1)):  # noqa: B023
            with pytest.raises(AssertionError):
                call()
    fill(wal, 2)
    assert everything(wal) == run(first_index, wal.last_index + 1)


def test_the_term_before_the_first_entry_is_known() -> None:
    fs = MemoryFileSystem()
    wal = Wal.open(fs, DIRECTORY, SMALL)
    for term in (1, 2, 3, 4):
        put(wal, run(wal.last_index + 1, wal.last_index + 4, term))
        fill(wal, 1, term)
    terms = {one.index: one.term for one in everything(wal)}
    wal.drop_prefix(wal.last_index)
    fill(wal, 1, 5)
    do_drop(wal)
    for again in (wal, Wal.open(fs, DIRECTORY, SMALL)):
        assert again.first_index > 40
        assert again.term(again.first_index - 1) == terms[again.first_index - 1]


def test_nothing_is_removed_before_a_newer_header_says_so() -> None:
    fs = MemoryFileSystem()
    wal = Wal.open(fs, DIRECTORY, SMALL)
    fill(wal, 3)
    wal.drop_prefix(wal.last_index + 1)
    assert not wants_drop(wal) and wal.first_index == 1
    with pytest.raises(AssertionError):
        wal.take_drop()
    fs.operations.clear()
    fill(wal, 1)
    assert wants_drop(wal) and wal.first_index == 1 and wal.entries(1, 2, 1) == run(1, 2)
    # The order: the new segment's header is durable, and only then are files removed.
    assert not [operation for operation in fs.operations if operation.name in ("remove", "rename")]
    drop = wal.take_drop()
    assert wal.first_index > 1 and not wants_drop(wal) and drop.segment_count == 3
    assert wal.size_bytes == 5 * 4096
    assert fs.exists(path_of(1))
    drop.run()
    wal.drop_done(drop)
    assert not fs.exists(path_of(1)) and wal.size_bytes == 2 * 4096
    header = wal_segment.decode_header(fs.read_file(path_of(5)))
    assert header is not None and (header.first_segment, header.first_index) == (4, wal.first_index)


def test_appends_and_reads_go_on_while_a_drop_is_under_way() -> None:
    fs, wal = dropped_log(remove=False)
    assert everything(wal) == run(1, wal.last_index + 1)
    reader = wal._reader._files[3]
    drop = wal.take_drop()
    with pytest.raises(AssertionError, match="closed"):
        reader.read_at(0, 1)
    put(wal, run(wal.last_index + 1, wal.last_index + 3))
    assert everything(wal) == run(wal.first_index, wal.last_index + 1)
    drop.run()
    put(wal, run(wal.last_index + 1, wal.last_index + 3))
    wal.drop_done(drop)
    assert everything(wal) == run(wal.first_index, wal.last_index + 1)
    # Readers of what is gone are closed, and none is opened for it again.
    assert all(segment_id >= 4 for segment_id in wal._reader.open_segments)
    fs.crash(random.Random(2))
    assert Wal.open(fs, DIRECTORY, SMALL).first_index == wal.first_index


def test_a_drop_that_frees_no_whole_segment_does_nothing() -> None:
    wal = Wal.open(MemoryFileSystem(), DIRECTORY, SMALL)
    fill(wal, 1)
    second = wal._index.segments[1].previous_index + 1
    wal.drop_prefix(second - 1)
    fill(wal, 1)
    assert not wal.wants_drop
    with pytest.raises(AssertionError, match="beyond the log"):
        wal.drop_prefix(wal.last_index + 2)
    wal.drop_prefix(second)
    # Going back is no use.
    wal.drop_prefix(1)
    fill(wal, 1)
    do_drop(wal)
    assert wal.first_index == second


def test_a_crash_may_bring_any_of_the_removed_segments_back() -> None:
    complete = dropped_log(remove=False)[0].files()
    expected: list[Entry] = []
    for kept in range(8):
        fs = MemoryFileSystem()
        fs.make_directory(DIRECTORY)
        for path, content in complete.items():
            segment_id = int(path[-24:-4])
            if segment_id > 3 or kept >> (segment_id - 1) & 1:
                # What is left over need not even be whole.
                fs.put(path, content[:700] if segment_id == 2 else content)
        wal = Wal.open(fs, DIRECTORY, SMALL)
        expected = expected or everything(wal)
        assert everything(wal) == expected and wal.hard_state == STATE
        assert fs.list_directory(DIRECTORY) == [path_of(segment_id)[-24:] for segment_id in (4, 5, 6)]


def test_a_start_removes_nothing_for_a_header_that_is_not_durable() -> None:
    """A sync fails, the process ends, and the next start reads what a power cut in the middle of it takes back."""
    step = 0
    while True:
        step += 1
        fs = MemoryFileSystem()
        wal = Wal.open(fs, DIRECTORY, SMALL)
        put(wal, [], hard_state=STATE)
        fill(wal, 4)
        first_index = wal._index.segments[3].previous_index + 1
        wal.drop_prefix(first_index)
        fs.fail_at(step, for_ever=False)
        try:
            fill(wal, 1)
        except DiskError:
            acknowledged = wal.last_index
        else:
            break
        # What was not synced may be kept all the same, but not what a failed sync was about: that is never durable.
        for cut, loss in product(range(1, 20), (Loss.DROPPED, Loss.KEPT)):
            disk = fs.copy()
            disk.fail_at(cut)
            with contextlib.suppress(DiskError):
                Wal.open(disk, DIRECTORY, SMALL)
            disk.crash_as(loss, random.Random(1))
            reopened = Wal.open(disk, DIRECTORY, SMALL)
            where = f"step {step}, cut {cut}, {loss}"
            assert reopened.first_index <= first_index and reopened.last_index >= acknowledged, where
    assert step > 10


def test_every_other_missing_segment_is_refused() -> None:
    files = dropped_log()[0].files()
    for missing in (4, 5):
        error = refuses({path: content for path, content in files.items() if path != path_of(missing)})
        assert (error.path, error.what) == (path_of(missing), "the segment is missing")
    # Nor may the beginning vanish that no header has let go: here the newest one alone did.
    error = refuses({path: content for path, content in files.items() if path != path_of(6)})
    assert error.path == path_of(1)


@pytest.mark.parametrize(
    "change",
    [
        lambda header: header._replace(first_segment=5),
        lambda header: header._replace(first_index=header.first_index + 1),
        lambda header: header._replace(first_index=header.first_index - 1),
        lambda header: header._replace(first_segment=3),
        lambda header: header._replace(first_segment=1, first_index=1),
    ],
)
def test_a_beginning_that_does_not_fit_is_refused(
    change: Callable[[wal_segment.SegmentHeader], wal_segment.SegmentHeader],
) -> None:
    files = dropped_log()[0].files()
    header = wal_segment.decode_header(files[path_of(6)])
    assert header is not None and header.first_segment == 4
    refuses({**files, path_of(6): wal_segment.encode_header(change(header)) + files[path_of(6)][512:]})


def test_a_beginning_that_goes_back_is_refused() -> None:
    fs, wal = dropped_log()
    fill(wal, 1)
    files = fs.files()
    header = wal_segment.decode_header(files[path_of(7)])
    assert header is not None and header.first_segment == 4
    older = header._replace(first_segment=3, first_index=20)
    refuses({**files, path_of(7): wal_segment.encode_header(older) + files[path_of(7)][512:]})


def test_a_beginning_that_goes_back_in_between_is_refused() -> None:
    fs, wal = dropped_log()
    fill(wal, 2)
    files = fs.files()
    header = wal_segment.decode_header(files[path_of(7)])
    assert header is not None and header.first_segment == 4
    older = wal_segment.encode_header(header._replace(first_segment=3))
    assert refuses({**files, path_of(7): older + files[path_of(7)][512:]}).path == path_of(7)


def test_an_unused_segment_does_not_hide_where_the_log_begins() -> None:
    fs, wal = dropped_log()
    expected = everything(wal)
    fs.put(path_of(7), bytes(4096))
    again = Wal.open(fs, DIRECTORY, SMALL)
    assert everything(again) == expected and again.segment_count == 3


def test_a_later_choice_does_not_widen_a_drop_that_a_header_allowed() -> None:
    fs, wal = dropped_log(remove=False)
    wal.drop_prefix(wal.last_index + 1)
    do_drop(wal)
    assert wal.segment_count == 3
    wal.close()
    assert Wal.open(fs, DIRECTORY, SMALL).first_index == wal.first_index


def test_a_torn_header_that_was_to_move_the_beginning_was_never_used() -> None:
    fs, wal = dropped_log(remove=False)
    wal.close()
    files = fs.files()
    content = files[path_of(6)]
    for cut in range(0, 512, 3):
        fs = MemoryFileSystem()
        fs.make_directory(DIRECTORY)
        for path, data in {**files, path_of(6): content[:cut] + bytes(4096 - cut)}.items():
            fs.put(path, data)
        again = Wal.open(fs, DIRECTORY, SMALL)
        assert (again.first_index, again.segment_count) == (1, 5)
        assert everything(again) == run(1, again.last_index + 1)


def test_a_segment_that_later_ones_truncated_into_can_not_be_the_beginning() -> None:
    fs = MemoryFileSystem()
    wal = Wal.open(fs, DIRECTORY, SMALL)
    fill(wal, 2)
    third = wal._index.segments[2].previous_index
    # Term 2 overwrites the end of segment 2 from within segment 3, and the log grows beyond it again.
    put(wal, run(third - 3, third + 4, term=2), truncate_from=third - 3)
    wal.drop_prefix(third + 1)
    fill(wal, 1, 2)
    do_drop(wal)
    # Segment 2 holds the entries before the truncation, so it must stay.
    assert wal.first_index <= third - 3
    for again in (wal, Wal.open(fs, DIRECTORY, SMALL)):
        assert [one.index for one in everything(again)] == list(range(again.first_index, again.last_index + 1))
        assert again.term(third) == 2


def test_entries_below_the_beginning_can_not_be_truncated() -> None:
    _, wal = dropped_log()
    with pytest.raises(AssertionError, match="truncate"):
        wal.append(None, wal.first_index - 1, [])


def test_a_dropped_segment_becomes_the_next_one_and_holds_nothing_of_its_past() -> None:
    fs, wal = dropped_log(remove=False)
    old = fs.read_file(path_of(1))
    do_drop(wal)
    assert fs.list_directory(DIRECTORY)[-1] == "recycled.tmp"
    while not wal.wants_segment:
        put(wal, run(wal.last_index + 1, wal.last_index + 2))
    fs.operations.clear()
    wal.prepare_next_segment()
    assert [operation.name for operation in fs.operations] == ["rename", "write", "sync"]
    assert fs.read_file(f"{DIRECTORY}/prepared.tmp") == bytes(4096)
    assert fs.is_synced(f"{DIRECTORY}/prepared.tmp") or fs.durable(f"{DIRECTORY}/prepared.tmp") is None
    fill(wal, 1)
    path = path_of(newest_id(wal))
    assert record.find(fs.read_file(path), 0, record.framing_of(1), 0) is None
    last_index = wal.last_index
    wal.close()
    # And if the zeros had not reached the disk: frames of the old segment do not pass for new ones.
    content = fs.read_file(path)
    used = len(content.rstrip(b"\0"))
    stale = {**fs.files(), path: content[:used] + old[used:]}
    assert refuses(stale).path == path
    assert Wal.open(fs, DIRECTORY, SMALL).last_index == last_index


def test_only_one_segment_is_kept_for_reuse_and_a_start_removes_it() -> None:
    fs, wal = dropped_log(remove=False)
    do_drop(wal)
    assert len(fs.list_directory(DIRECTORY)) == 4
    wal.close()
    Wal.open(fs, DIRECTORY, SMALL)
    assert len(fs.list_directory(DIRECTORY)) == 3


def test_a_segment_of_another_size_is_not_reused() -> None:
    fs, wal = dropped_log(remove=False)
    wal.close()
    for path in (path_of(1), path_of(2)):
        fs.remove(path)
    wal = Wal.open(fs, DIRECTORY, WalOptions(segment_bytes=8192))
    wal.drop_prefix(wal.last_index + 1)
    fill(wal, 1)
    assert wal.wants_drop
    do_drop(wal)
    assert not fs.exists(f"{DIRECTORY}/recycled.tmp") and wal.segment_count == 2


def test_the_index_to_keep_a_size() -> None:
    wal = Wal.open(MemoryFileSystem(), DIRECTORY, SMALL)
    fill(wal, 5)
    assert wal.size_bytes == 6 * 4096
    assert wal.first_index_within(6 * 4096) == 1
    assert wal.first_index_within(0) == wal._index.segments[-1].previous_index + 1
    wal.drop_prefix(wal.first_index_within(3 * 4096))
    fill(wal, 1)
    do_drop(wal)
    assert wal.segment_count == 4


@pytest.mark.parametrize("operation", ["remove", "rename"])
def test_a_failed_removal_stops_the_log(operation: str) -> None:
    fs, wal = dropped_log(remove=False)
    drop = wal.take_drop()
    fs.fail_next(operation)
    with pytest.raises(DiskError):
        drop.run()
    with pytest.raises(DiskError):
        wal.append(None, None, run(wal.last_index + 1, wal.last_index + 2))


# Reset.


def test_a_log_that_ends_before_the_snapshot_is_discarded() -> None:
    fs = MemoryFileSystem()
    wal = Wal.open(fs, DIRECTORY, SMALL)
    fill(wal, 2)
    state = WalHardState(7, "b", 9, 500)
    appended = wal.reset(500, 6, state)
    # Nothing is visible, and no file is gone, before it was published.
    assert wal.first_index == 1 and len(everything(wal)) == wal.last_index
    wal.publish(appended)
    assert (wal.first_index, wal.last_index, wal.term(500), wal.hard_state) == (501, 500, 6, state)
    put(wal, run(501, 504, term=7))
    assert wal.wants_drop
    do_drop(wal)
    for again in (wal, Wal.open(fs, DIRECTORY, SMALL)):
        assert everything(again) == run(501, 504, term=7)
        assert (again.first_index, again.term(500), again.hard_state, again.segment_count) == (501, 6, state, 1)
    assert fs.list_directory(DIRECTORY) == [path_of(4)[-24:]]


@pytest.mark.parametrize("index", [40, 45])
def test_a_suffix_that_matches_is_kept(index: int) -> None:
    fs = MemoryFileSystem()
    wal = Wal.open(fs, DIRECTORY, SMALL)
    put(wal, run(1, 41))
    put(wal, run(41, 46, term=2))
    state = WalHardState(3, "", 0, index)
    wal.publish(wal.reset(index, wal.term(index), state))
    for again in (wal, Wal.open(fs, DIRECTORY, SMALL)):
        assert everything(again) == [*run(1, 41), *run(41, 46, term=2)]
        assert again.hard_state == state


def test_a_suffix_of_another_term_is_discarded() -> None:
    fs = MemoryFileSystem()
    wal = Wal.open(fs, DIRECTORY, SMALL)
    put(wal, run(1, 41))
    wal.publish(wal.reset(40, 2, WalHardState(3, "", 0, 40)))
    for again in (wal, Wal.open(fs, DIRECTORY, SMALL)):
        assert (again.first_index, again.last_index, again.term(40)) == (41, 40, 2)


def test_after_a_reset_an_older_choice_of_the_beginning_does_not_count() -> None:
    fs = MemoryFileSystem()
    wal = Wal.open(fs, DIRECTORY, SMALL)
    fill(wal, 3)
    wal.drop_prefix(wal.last_index)
    wal.publish(wal.reset(900, 1, WalHardState(1, "", 0, 900)))
    fill(wal, 2)
    do_drop(wal)
    for again in (wal, Wal.open(fs, DIRECTORY, SMALL)):
        assert again.first_index == 901 and everything(again) == run(901, again.last_index + 1)


def test_a_reset_requires_what_raft_promises() -> None:
    _, wal = dropped_log()
    with pytest.raises(AssertionError, match="term falls"):
        wal.reset(900, 1, WalHardState(2, "", 0, 0))
    with pytest.raises(AssertionError, match="compacted away"):
        wal.reset(wal.first_index - 2, 1, STATE)


def test_a_crash_at_any_step_of_a_reset_leaves_the_old_log_or_the_new_one() -> None:
    outcomes = set()
    for step in range(1, 9):
        for seed in range(12):
            fs, wal = dropped_log()
            old = (wal.first_index, wal.last_index, STATE)
            new = (901, 900, WalHardState(8, "c", 2, 900))
            fs.fail_at(step)
            acknowledged = False
            try:
                wal.publish(wal.reset(900, 7, new[2]))
                acknowledged = True
                do_drop(wal)
            except DiskError:
                with pytest.raises(DiskError):
                    wal.append(None, None, run(901, 902, term=8))
            fs.crash(random.Random(seed))
            again = Wal.open(fs, DIRECTORY, SMALL)
            seen = (again.first_index, again.last_index, again.hard_state)
            assert seen in ((new,) if acknowledged else (old, new)), (step, seed)
            assert everything(again) == (run(old[0], old[1] + 1) if seen == old else [])
            outcomes.add((step, seen == new))
    assert {(1, False), (8, True)} <= outcomes


def test_what_an_unfinished_reset_left_is_removed() -> None:
    fs, wal = dropped_log()
    fs.fail_next("rename")
    with pytest.raises(DiskError):
        wal.reset(900, 7, WalHardState(8, "", 0, 900))
    assert fs.exists(f"{DIRECTORY}/reset.tmp")
    again = Wal.open(fs, DIRECTORY, SMALL)
    assert again.hard_state == STATE and not fs.exists(f"{DIRECTORY}/reset.tmp")


def test_the_new_log_has_a_whole_header_before_it_has_a_name() -> None:
    fs, wal = dropped_log()
    fs.operations.clear()
    wal.reset(900, 7, WalHardState(8, "", 0, 900))
    names = [operation.name for operation in fs.operations]
    assert names == ["create", "write", "sync", "write", "sync", "rename", "sync_directory"]


def test_on_a_real_disk(tmp_path: object) -> None:
    directory = f"{tmp_path}/wal"
    fs = OsFileSystem()
    wal = Wal.open(fs, directory, SMALL)
    for _ in range(6):
        fill(wal, 1)
        wal.drop_prefix(wal.first_index_within(2 * 4096))
        do_drop(wal)
        if wal.wants_segment:
            wal.prepare_next_segment()
    assert wal.segment_count == 3
    first_index = wal.first_index
    wal.close()
    wal = Wal.open(fs, directory, SMALL)
    assert everything(wal) == run(first_index, wal.last_index + 1)
    wal.publish(wal.reset(1000, 4, WalHardState(4, "", 0, 1000)))
    do_drop(wal)
    wal.close()
    wal = Wal.open(fs, directory, SMALL)
    assert (wal.first_index, wal.term(1000)) == (1001, 4)
    wal.close()
