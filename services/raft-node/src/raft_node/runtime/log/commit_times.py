"""How long proposals take from the moment they enter the log until they are committed.

One figure stands for all proposals of one turn of the loop: the last of them is watched. Pure bookkeeping: no clock.

Invariant: only commits of the term in which the batch was proposed are measured. What another leader makes of an entry
says nothing about this one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple


class _Batch(NamedTuple):
    last_index: int
    term: int
    proposed_s: float


class CommitTimes:
    """The batches of one leader that are not committed yet, oldest first."""

    def __init__(self, observe: Callable[[float], None]) -> None:
        """``observe`` takes the seconds of each batch."""
        self._observe = observe
        self._batches: deque[_Batch] = deque()

    def proposed(self, last_index: int, term: int, now_s: float) -> None:
        """Notes a batch that ends at ``last_index``."""
        if self._batches and self._batches[-1].term != term:
            self._batches.clear()
        self._batches.append(_Batch(last_index, term, now_s))

    def committed(self, index: int, term: int, now_s: float) -> None:
        """Notes that everything up to ``index`` is committed; ``term`` is the current one."""
        batches = self._batches
        while batches and batches[0].last_index <= index:
            batch = batches.popleft()
            if batch.term == term:
                self._observe(now_s - batch.proposed_s)
