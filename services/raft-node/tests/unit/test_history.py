"""The history of changes in the engine: what is held, what a restart finds, and what goes."""

from __future__ import annotations

import contextlib
import random
import secrets
from dataclasses import replace

import pytest

from raft_node.errors import CorruptionError
from raft_node.storage.changes.history import SUFFIX, Kept
from raft_node.storage.changes.span import Span
from raft_node.storage.engine import Engine
from raft_testing.disk import CuttableFileSystem, PowerCutError
from raft_testing.engines import TINY_OPTIONS, settle
from raft_testing.files import MemoryFileSystem

D = "/data"
OPTIONS = replace(TINY_OPTIONS, history_bytes_max=1 << 20)


def put(engine: Engine, first: int, last: int, time_us: int = 0) -> None:
    """One change for each number, each in a batch of its own."""
    for number in range(first, last + 1):
        batch = [(b"k%d" % (number % 7), b"%d" % number * 10)]
        engine.write(batch, number, 1, Span(number - 1, number, time_us or number, b"n%d" % number))


def held(engine: Engine, mark: int) -> list[int] | None:
    """The changes behind one, as whoever reads the history finds them; None if they are gone."""
    history, found, offset = engine.history, list[int](), 0
    while True:
        step = history.behind(mark, 3)
        if step is None:
            return None
        if isinstance(step, Kept):
            piece = history.read(step, mark, offset, 100)
            written, offset = piece.written, piece.offset
            mark = written[-1].upto if offset else step.upto
        else:
            written = step
            if not written:
                return found
            mark = written[-1].upto
        for each in written:
            assert each.notes == b"n%d" % each.upto and each.batch[0][1] == b"%d" % each.upto * 10
        found += [each.upto for each in written]


def an_engine(fs: MemoryFileSystem, mark: int = 0, options: object = OPTIONS) -> Engine:
    engine = Engine.open(fs, D, options, secrets.token_hex(4))  # type: ignore[arg-type]
    engine.begin_history(mark)
    return engine


def test_every_change_is_found_from_every_mark_on_in_memory_and_in_kept_segments() -> None:
    fs = MemoryFileSystem()
    engine = an_engine(fs)
    put(engine, 1, 60)
    engine.rotate()
    settle(engine, fs, D)
    put(engine, 61, 90)
    engine.rotate()
    put(engine, 91, 100)
    for mark in range(101):
        assert held(engine, mark) == list(range(mark + 1, 101))
    assert held(engine, 100) == []
    assert engine.history.floor == 0 and engine.history.kept_bytes > 0


def test_a_restart_finds_the_kept_segments_and_makes_the_others_from_the_log() -> None:
    fs = MemoryFileSystem()
    engine = an_engine(fs)
    put(engine, 1, 50)
    engine.rotate()
    settle(engine, fs, D)
    flushed = engine.flushed_index
    put(engine, 51, 80)
    engine.close()
    again = an_engine(fs, flushed)
    assert held(again, 0) == list(range(1, flushed + 1))
    put(again, flushed + 1, 80)
    for mark in range(0, 81, 3):
        assert held(again, mark) == list(range(mark + 1, 81))


def test_a_crash_before_any_operation_of_a_flush_leaves_no_gap() -> None:
    chance = random.Random(5)
    for cut in range(1, 30):
        fs = CuttableFileSystem()
        engine = an_engine(fs)
        put(engine, 1, 40)
        engine.rotate()
        settle(engine, fs, D)
        put(engine, 41, 70)
        engine.rotate()
        fs.cut_at = cut
        with contextlib.suppress(PowerCutError):
            settle(engine, fs, D)
        fs.cut_at = 0
        fs.crash(chance)
        engine = Engine.open(fs, D, OPTIONS, f"again{cut}")
        flushed = engine.flushed_index
        engine.begin_history(flushed)
        put(engine, flushed + 1, 70)
        floor = engine.history.floor
        assert floor == 0, f"after the cut {cut} the history begins at {floor}"
        assert held(engine, floor) == list(range(floor + 1, 71))
        engine.close()


def test_segments_go_by_bytes_and_by_age() -> None:
    fs = MemoryFileSystem()
    engine = an_engine(fs, options=replace(OPTIONS, history_bytes_max=3000))
    put(engine, 1, 200)
    engine.rotate()
    settle(engine, fs, D)
    floor = engine.history.floor
    assert 0 < floor < 200 and engine.history.kept_bytes <= 3000
    assert held(engine, floor) == list(range(floor + 1, 201))
    assert held(engine, floor - 1) is None
    assert held(engine, floor + 1) == list(range(floor + 2, 201))
    put(engine, 201, 260)
    engine.rotate()
    settle(engine, fs, D)
    settle(engine, fs, D)
    put(engine, 261, 300, time_us=OPTIONS.history_age_us + 1_000)
    engine.rotate()
    settle(engine, fs, D)
    assert engine.history.floor >= 260
    # What was dropped is removed by a later background step.
    put(engine, 301, 340, time_us=OPTIONS.history_age_us + 1_000)
    engine.rotate()
    settle(engine, fs, D)
    names = [name for name in fs.list_directory(D) if name.endswith(SUFFIX)]
    assert sum(len(fs.read_file(f"{D}/{name}")) for name in names) <= 2 * 3000


def test_without_room_for_segments_only_memtables_are_held_and_nothing_is_synced_for_it() -> None:
    fs = MemoryFileSystem()
    engine = an_engine(fs, options=TINY_OPTIONS)
    put(engine, 1, 50)
    engine.rotate()
    settle(engine, fs, D)
    assert engine.history.floor == 50 and held(engine, 49) is None and held(engine, 50) == []
    assert not [name for name in fs.list_directory(D) if name.endswith((SUFFIX, ".chg"))]


def test_a_state_that_does_not_follow_the_segments_drops_them() -> None:
    fs = MemoryFileSystem()
    engine = an_engine(fs)
    put(engine, 1, 40)
    engine.rotate()
    settle(engine, fs, D)
    engine.close()
    # As after a snapshot that was adopted: the tables are later than the history.
    later = an_engine(fs, 90)
    assert later.history.floor == 90 and held(later, 89) is None and held(later, 90) == []


def test_a_damaged_segment_is_told_and_can_be_given_up() -> None:
    fs = MemoryFileSystem()
    engine = an_engine(fs)
    put(engine, 1, 40)
    engine.rotate()
    settle(engine, fs, D)
    name = next(name for name in fs.list_directory(D) if name.endswith(SUFFIX))
    fs.flip_bit(f"{D}/{name}", 8 * 60)
    with pytest.raises(CorruptionError):
        held(engine, 0)
    engine.give_up_history()
    assert engine.history.floor == engine.flushed_index and held(engine, 0) is None
