"""How much of the log is kept, and who asks for it."""

from __future__ import annotations

import pytest

from raft_node.runtime.log.retention import LogFigures, first_index_to_keep
from raft_node.runtime.log.trimmer import LogTrimmer


@pytest.mark.parametrize(
    ("figures", "first"),
    [
        # Nothing but the bytes decides.
        (LogFigures(flushed_index=900, keep_from=700, bound_from=100), 700),
        # What is not flushed is kept, whatever it takes.
        (LogFigures(flushed_index=500, keep_from=700, bound_from=600), 501),
        # A healthy follower holds it back ...
        (LogFigures(flushed_index=900, keep_from=700, bound_from=100, slowest_match=300), 301),
        # ... as far as the bound, and no further.
        (LogFigures(flushed_index=900, keep_from=700, bound_from=400, slowest_match=300), 400),
        # One that is ahead of what is kept anyway changes nothing.
        (LogFigures(flushed_index=900, keep_from=700, bound_from=100, slowest_match=899), 700),
        # So does a snapshot that is being sent: the log behind it is of use.
        (LogFigures(flushed_index=900, keep_from=700, bound_from=100, snapshots=(650, 800)), 651),
        (LogFigures(flushed_index=900, keep_from=700, bound_from=680, snapshots=(650,)), 680),
        # Nothing was ever flushed.
        (LogFigures(flushed_index=0, keep_from=50, bound_from=1), 1),
    ],
)
def test_where_the_log_may_begin(figures: LogFigures, first: int) -> None:
    assert first_index_to_keep(figures) == first


class FakeLog:
    """A hundred bytes to an entry."""

    def __init__(self, first_index: int, last_index: int) -> None:
        self.first_index = first_index
        self.last_index = last_index
        self.dropped_to: list[int] = []

    @property
    def size_bytes(self) -> int:
        return 100 * (self.last_index + 1 - self.first_index)

    def first_index_within(self, bytes_max: int) -> int:
        return max(self.first_index, self.last_index + 1 - bytes_max // 100)

    def drop_prefix(self, first_index: int) -> None:
        self.dropped_to.append(first_index)


class FakeEngine:
    def __init__(self, flushed_index: int) -> None:
        self.flushed_index = flushed_index
        self.rotations = 0

    def rotate(self) -> None:
        self.rotations += 1


class Rig:
    def __init__(self, log: FakeLog, flushed_index: int, match: int | None = None) -> None:
        self.log, self.engine, self.hurried = log, FakeEngine(flushed_index), 0
        self.trimmer = LogTrimmer(log, self.engine, 5_000, 20_000, lambda: match, lambda: (), self._hurry)

    def _hurry(self) -> None:
        self.hurried += 1

    def look(self) -> list[int]:
        self.trimmer.look()
        return self.log.dropped_to


def test_a_short_log_is_left_alone() -> None:
    assert Rig(FakeLog(1, 50), 50).look() == []


def test_a_long_one_is_cut_to_what_is_kept() -> None:
    assert Rig(FakeLog(1, 1000), 990).look() == [951]
    assert Rig(FakeLog(1, 1000), 990, match=900).look() == [901]
    assert Rig(FakeLog(1, 1000), 990, match=100).look() == [801]


def test_a_flush_is_asked_for_when_only_that_keeps_the_log_beyond_its_bound() -> None:
    rig = Rig(FakeLog(1, 1000), 500)
    assert rig.look() == [501]
    assert (rig.engine.rotations, rig.hurried) == (1, 1)
    rig = Rig(FakeLog(1, 1000), 900)
    assert rig.look() == [901]
    assert (rig.engine.rotations, rig.hurried) == (0, 0)
