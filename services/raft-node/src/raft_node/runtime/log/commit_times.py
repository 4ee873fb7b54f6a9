"""How long proposals take, from the moment they enter the log until they are committed, and on the leader's own disk.

One figure stands for all proposals of one turn of the loop: the last of them is watched. Pure bookkeeping: no clock.

Invariant: only commits of the term in which the batch was proposed are measured. What another leader makes of an entry
says nothing about this one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple


class WriteTimes(NamedTuple):
    """How long the steps of a committed batch took, in seconds.

    Attributes:
        append_s: The write to the leader's own log, without the sync; 0 if the others committed the batch before it.
        fsync_s: The sync of that write; 0 likewise.
        commit_s: The time from the proposal until a majority had the batch.
    """

    append_s: float
    fsync_s: float
    commit_s: float


class NodeTimes:
    """How long the steps of the newest answers took, for ``raft_node.rpc.doug.timings``.

    Attributes:
        write: The times of the newest committed batch of writes, a new object for each; None before there was one.
        apply_s: How long applying the newest entries took.
        confirm_s: How long the reads that are being answered have waited since a majority was asked.
    """

    __slots__ = ("apply_s", "confirm_s", "write")

    def __init__(self) -> None:
        self.write: WriteTimes | None = None
        self.apply_s = 0.0
        self.confirm_s = 0.0


class _Batch:
    __slots__ = ("append_s", "fsync_s", "last_index", "proposed_s", "term")

    def __init__(self, last_index: int, term: int, proposed_s: float) -> None:
        self.last_index = last_index
        self.term = term
        self.proposed_s = proposed_s
        self.append_s = self.fsync_s = 0.0


class CommitTimes:
    """The batches of one leader that are not committed yet, oldest first."""

    def __init__(self, observe: Callable[[float], None], times: NodeTimes | None = None) -> None:
        """Begins empty; ``observe`` is told the seconds of each batch, and ``times`` keeps those of the newest."""
        self._observe = observe
        self._times = times or NodeTimes()
        self._batches: deque[_Batch] = deque()

    def proposed(self, last_index: int, term: int, now_s: float) -> None:
        """Notes a batch that ends at ``last_index``."""
        if self._batches and self._batches[-1].term != term:
            self._batches.clear()
        self._batches.append(_Batch(last_index, term, now_s))

    def written(self, last_index: int, append_s: float, fsync_s: float) -> None:
        """Notes that the leader's own disk has everything up to ``last_index``, by a write that took so long."""
        for batch in self._batches:
            if batch.last_index > last_index:
                break
            if not batch.append_s:
                batch.append_s, batch.fsync_s = append_s, fsync_s

    def committed(self, index: int, term: int, now_s: float) -> None:
        """Notes that everything up to ``index`` is committed; ``term`` is the current one."""
        batches = self._batches
        while batches and batches[0].last_index <= index:
            batch = batches.popleft()
            if batch.term == term:
                duration_s = now_s - batch.proposed_s
                self._observe(duration_s)
                self._times.write = WriteTimes(batch.append_s, batch.fsync_s, duration_s)
