"""The writes and entries that a member hands to its driver to be written and applied, and their outcome.

Invariants:

1. One write is under way at a time, and carries every change of term, vote and log up to one.
2. Committed entries are handed out in order, one chunk at a time, and only when they are durable here.

Reference: the paper, figure 2 ("updated on stable storage before responding to RPCs"); the thesis, 10.2.1.
"""

from __future__ import annotations

from collections.abc import Sequence

from raft_node.entry import Entry
from raft_node.raft.messages import Message
from raft_node.raft.state import State
from raft_node.raft.types import HardState, Write


class Handout:
    """Hands out writes and committed entries, and knows which of them are out now.

    Attributes:
        hard_state: The newest hard state that was handed out.
    """

    def __init__(self, state: State, hard_state: HardState) -> None:
        self._state = state
        self._sequence = 0
        self._change: int | None = None  # The newest change in the write under way.
        self._applying_index: int | None = None  # The end of the chunk that is being applied.
        self.hard_state = hard_state

    def take_write(self) -> Write | None:
        """The next write, if something changed and none is under way."""
        state = self._state
        outbox, log = state.outbox, state.log
        if self._change is not None or outbox.change == outbox.durable_change:
            return None
        hard_state = HardState(state.term, state.voted_for, log.commit_index)
        truncate_from, entries = log.begin_write()
        self._sequence += 1
        self._change = outbox.change
        changed = hard_state != self.hard_state
        self.hard_state = hard_state
        return Write(self._sequence, hard_state if changed else None, truncate_from, entries)

    def persisted(self, sequence: int) -> list[Message]:
        """Notes that the write with this sequence is durable; returns the messages that waited for it."""
        assert self._change is not None and sequence == self._sequence, "not the write under way"
        self._state.log.end_write()
        released = self._state.outbox.persisted(self._change)
        self._change = None
        return released

    def take_committed(self) -> Sequence[Entry]:
        """The next chunk of entries to apply; all are durable here, so that no state is ahead of its log."""
        log = self._state.log
        if self._applying_index is not None:
            return ()
        end = min(log.commit_index, log.stable_index)
        if end <= log.applied_index:
            return ()
        committed = log.entries(log.applied_index + 1, end + 1, self._state.config.committed_bytes_max)
        self._applying_index = committed[-1].index
        return committed

    def applied(self, index: int) -> None:
        """Notes that the committed entries up to ``index`` have been applied."""
        assert self._applying_index is not None and index <= self._applying_index, "not handed out"
        self._state.log.applied_to(index)
        self._state.configurations.settle(index)
        if index == self._applying_index:
            self._applying_index = None

    def recall(self) -> None:
        """Takes back the entries that were handed out to be applied: a snapshot takes their place."""
        self._applying_index = None
