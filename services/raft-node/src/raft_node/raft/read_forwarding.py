"""Linearizable reads of a node that does not lead: they are asked of whoever does.

All reads that wait share one request, and one request is under way at a time. The leader answers it with the index of
a read round that began after it came; the reads may be served here once that index is applied.

Pure bookkeeping: ``raft_node.raft.node`` sends the messages.

Invariants:

1. A token stands for one request. It is never used again, by no later life of the process either: the first one is
   drawn at random from 2^62. So a late or repeated answer confirms nothing.
2. A request that is repeated carries the same token and the same reads; reads that come meanwhile wait for the next.
3. Every read ends within ``patience_ticks``: it is confirmed, or given up.

Reference: the thesis, 6.4 (a follower asks the leader for its read index).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

from raft_node.raft.types import NodeId, Randomness

_TOKEN_BITS = 62


class _Read(NamedTuple):
    """A read, and the tick at which it is given up."""

    context: int
    deadline_tick: int


@dataclass(slots=True)
class _Request:
    """A request to the leader that is under way."""

    token: int
    leader: NodeId
    term: int
    reads: deque[_Read]
    sent_tick: int


class ForwardedReads:
    """The reads that a node cannot confirm by itself, and so asks its leader for."""

    __slots__ = ("_asked", "_patience_ticks", "_random", "_retry_ticks", "_token", "_waiting")

    def __init__(self, random: Randomness, patience_ticks: int, retry_ticks: int) -> None:
        """Starts without reads.

        Args:
            random: Draws the first token.
            patience_ticks: The time after which a read is given up.
            retry_ticks: The time after which a request is sent again.
        """
        self._random = random
        self._patience_ticks = patience_ticks
        self._retry_ticks = retry_ticks
        self._token = 0
        self._asked: _Request | None = None
        self._waiting: deque[_Read] = deque()

    def __len__(self) -> int:
        """How many reads wait, or are part of a request under way."""
        return len(self._waiting) + (len(self._asked.reads) if self._asked else 0)

    def add(self, context: int, now: int) -> None:
        """Takes a read."""
        self._waiting.append(_Read(context, now + self._patience_ticks))

    def ask(self, leader: NodeId, term: int, now: int) -> int:
        """Begins a request to the leader, or repeats it, if that is due; returns its token, else 0."""
        asked = self._asked
        if asked is not None and (asked.leader, asked.term) != (leader, term):
            # Whoever was asked leads no more; what it may still answer is not waited for.
            self._waiting.extendleft(reversed(asked.reads))
            asked = self._asked = None
        if asked is not None:
            if now - asked.sent_tick < self._retry_ticks:
                return 0
            asked.sent_tick = now
            return asked.token
        if not self._waiting:
            return 0
        if not self._token:
            # Drawn late, so that a node without such reads draws nothing.
            self._token = self._random.getrandbits(_TOKEN_BITS)
        self._token += 1
        self._asked = _Request(self._token, leader, term, self._waiting, now)
        self._waiting = deque()
        return self._token

    def answered(self, token: int) -> list[int]:
        """The reads that an answer confirms; none if its token is not that of the request under way."""
        asked = self._asked
        if asked is None or token != asked.token:
            return []
        self._asked = None
        return [read.context for read in asked.reads]

    def expire(self, now: int) -> list[int]:
        """Gives up the reads that have waited too long."""
        expired = []
        asked = self._asked
        for reads in (asked.reads if asked is not None else deque(), self._waiting):
            while reads and reads[0].deadline_tick <= now:
                expired.append(reads.popleft().context)
        if asked is not None and not asked.reads:
            self._asked = None
        return expired

    def take_all(self) -> list[int]:
        """Removes and returns all reads, oldest first: this node leads now, and confirms them itself."""
        reads = [*(self._asked.reads if self._asked else ()), *self._waiting]
        self._asked = None
        self._waiting.clear()
        return [read.context for read in reads]

    def deadline(self) -> int | None:
        """The tick at which a read is given up or a request is due; None without reads."""
        asked = self._asked
        deadlines = [reads[0].deadline_tick for reads in (asked.reads if asked else (), self._waiting) if reads]
        if asked is not None:
            deadlines.append(asked.sent_tick + self._retry_ticks)
        return min(deadlines, default=None)
