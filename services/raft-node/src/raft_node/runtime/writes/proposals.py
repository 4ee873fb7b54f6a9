"""Proposals that wait for their entry to be applied.

Invariant: a proposal is answered once. It succeeds only if the entry at its index has its term when it is applied; when
another leader's entry stands there, it is certain that it left no trace; until then nobody can tell, and after
``proposal_timeout_ms`` the answer is that it is unknown.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from doug_wire.pipe import Status
from raft_node.entry import Entry
from raft_node.kv.operations.work import Details, Outcome
from raft_node.observability.tracing import WriteTrace


class Sink(Protocol):
    """Takes the results of writes."""

    def resolve(self, record_id: int, status: int, revision: int, details: Details | None = None) -> None:
        """Takes the result of one record. Called once for each, on the event loop.

        ``details`` are those of an entry that was applied (``raft_node.kv.operations.work.Outcome``).
        """


class Submission(NamedTuple):
    """A write on its way: the sink and the id for its answer, and the command with its CRC32C."""

    sink: Sink
    record_id: int
    crc: int
    command: bytes

    @property
    def trace(self) -> WriteTrace | None:
        """The trace of a sampled write; None for others, which costs nothing."""
        return None


class _Pending(NamedTuple):
    term: int
    sink: Sink
    record_id: int
    deadline_s: float


class PendingProposals:
    """Waiting proposals by log index."""

    def __init__(self) -> None:
        """Starts empty."""
        self._pending: dict[int, _Pending] = {}

    def __len__(self) -> int:
        """How many proposals wait."""
        return len(self._pending)

    def add(self, first_index: int, term: int, submissions: Sequence[Submission], deadline_s: float) -> None:
        """Notes proposals that were given the indexes from ``first_index`` on, in ``term``.

        What still waits at such an index was proposed by this node in an earlier term. Its entry is gone from this log,
        but another node may still hold it, lead and commit it: its outcome is unknown.
        """
        pending = self._pending
        for index, submission in enumerate(submissions, first_index):
            replaced = pending.pop(index, None)
            if replaced is not None:
                replaced.sink.resolve(replaced.record_id, Status.UNKNOWN, 0)
            pending[index] = _Pending(term, submission.sink, submission.record_id, deadline_s)

    def applied(self, entries: Sequence[Entry], outcomes: Sequence[Outcome]) -> int:
        """Answers the proposals whose indexes were applied; returns how many of them were committed."""
        pending = self._pending
        if not pending:
            return 0
        committed = 0
        for entry, outcome in zip(entries, outcomes, strict=True):
            waiting = pending.pop(entry.index, None)
            if waiting is None:
                continue
            if waiting.term == entry.term:
                committed += 1
                waiting.sink.resolve(waiting.record_id, *outcome)
            else:
                waiting.sink.resolve(waiting.record_id, Status.NOT_APPLIED, 0)
        return committed

    def expire(self, now_s: float) -> int:
        """Answers the proposals whose deadline has passed, as unknown; returns how many they were."""
        late = [index for index, waiting in self._pending.items() if waiting.deadline_s <= now_s]
        for index in late:
            waiting = self._pending.pop(index)
            waiting.sink.resolve(waiting.record_id, Status.UNKNOWN, 0)
        return len(late)
