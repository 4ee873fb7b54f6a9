"""The leader's knowledge of one peer's log, and the window of AppendEntries to it.

Pure bookkeeping without messages: the leader (``raft_node.raft.leader``) asks and tells.

Invariants:

1. ``0 <= match_index < next_index``; ``match_index`` never goes back within a term.
2. PROBE: one AppendEntries in flight, ``next_index`` waits for its answer. REPLICATE: ``next_index`` runs ahead of the
   answers within the window. SNAPSHOT: the log no longer holds what the peer needs; nothing is sent but heartbeats.
3. What is in flight never keeps the window shut for ever: ``lost`` reopens it, cautiously, with an AppendEntries that
   carries no entries.

Reference: the paper, 5.3; the thesis, 10.2.1 (pipelining).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple


class ProgressState(StrEnum):
    """The ways in which a leader sends entries to a peer."""

    PROBE = "probe"
    REPLICATE = "replicate"
    SNAPSHOT = "snapshot"


class Inflight(NamedTuple):
    """An AppendEntries that was not answered yet."""

    last_index: int
    size: int
    tick: int


@dataclass(slots=True)
class Progress:
    """The leader's view of one peer.

    Attributes:
        next_index: The next entry to send.
        match_index: The last entry that is known to be the same, and durable, at the peer.
        state: How entries are sent.
        cautious: Whether a probe without entries goes first: a message was lost, or the logs are not known to match.
        paused: Whether the peer is sent heartbeats alone until it is heard, since the transport cannot reach it.
        inflights: The AppendEntries that were not answered, oldest first.
        inflight_bytes: The bytes of the entries in them.
        heard_tick: When the peer last answered anything in this term.
        sent_tick: When the peer was last sent a message that it answers.
        heartbeat_tick: When the peer was last sent a heartbeat that it answers.
        told_commit_index: The commit index that the peer knows if no message got lost.
        probed_tick: When the peer was last probed although it was silent.
        wanted_index: A read at the peer waits for the entries up to this one.
        watched: Whether somebody waits at the peer for whatever is committed next, by its newest answer.
    """

    next_index: int
    heard_tick: int
    sent_tick: int
    heartbeat_tick: int
    match_index: int = 0
    state: ProgressState = ProgressState.PROBE
    cautious: bool = False
    paused: bool = False
    inflights: deque[Inflight] = field(default_factory=deque)
    inflight_bytes: int = 0
    told_commit_index: int = 0
    probed_tick: int = 0
    wanted_index: int = 0
    watched: bool = False

    @property
    def waits(self) -> bool:
        """Whether a read at the peer waits for a commit index that the peer was not told yet."""
        return self.told_commit_index < self.wanted_index

    def window_open(self, appends_max: int, bytes_max: int) -> bool:
        """Whether another AppendEntries may be sent now."""
        if self.paused or self.state is ProgressState.SNAPSHOT:
            return False
        if not self.inflights:
            return True
        if self.state is ProgressState.PROBE:
            return False
        return len(self.inflights) < appends_max and self.inflight_bytes < bytes_max

    def sent(self, last_index: int, size: int, tick: int) -> None:
        """Notes an AppendEntries whose last entry (or previous one, when empty) is ``last_index``."""
        self.inflights.append(Inflight(last_index, size, tick))
        self.inflight_bytes += size
        self.sent_tick = tick
        if self.state is ProgressState.REPLICATE:
            self.next_index = last_index + 1

    def accepted(self, match_index: int) -> bool:
        """Notes that the peer holds everything up to ``match_index``; returns whether that was new."""
        news = match_index > self.match_index
        if news:
            self.match_index = match_index
        if self.state is ProgressState.SNAPSHOT:
            # An answer from before; whether it suffices is for the leader to say.
            self.next_index = max(self.next_index, self.match_index + 1)
            return news
        if self.state is ProgressState.REPLICATE:
            while self.inflights and self.inflights[0].last_index <= match_index:
                self.inflight_bytes -= self.inflights.popleft().size
            self.next_index = max(self.next_index, self.match_index + 1)
        elif news or match_index >= self.next_index - 1:
            # A probe came through. An older answer that says nothing new leaves the probe in flight.
            self._clear()
            self.state = ProgressState.REPLICATE
            self.cautious = False
            self.next_index = self.match_index + 1
        return news

    def rejected(self, rejected_index: int, next_index: int) -> None:
        """Notes that the peer's log did not fit before the entries that were sent, and which entry to try next.

        Answers to older messages than those in flight are ignored: they say nothing about the present.
        """
        if self.state is ProgressState.REPLICATE:
            if rejected_index > self.match_index:
                # Something before it got lost on the way. What matches is durable there, so go on behind that.
                self._probe(self.match_index + 1)
        elif self.state is ProgressState.PROBE and rejected_index == self.next_index - 1:
            self._probe(max(self.match_index + 1, min(rejected_index, next_index)))

    def lost(self) -> None:
        """Gives up the messages in flight, and probes."""
        if self.state is ProgressState.SNAPSHOT:
            return
        self._probe(self.match_index + 1 if self.state is ProgressState.REPLICATE else self.next_index)
        self.cautious = True

    def probe_again(self, tick: int) -> None:
        """Gives up all messages that a silent peer did not answer, and probes once more."""
        self.probed_tick = tick
        self.paused = False
        self.lost()

    def needs_snapshot(self) -> None:
        """Has the peer get a snapshot, since the log does not reach back to ``next_index`` any more."""
        self._clear()
        self.state = ProgressState.SNAPSHOT

    def snapshot_sent(self, index: int) -> None:
        """Notes that the peer has a snapshot up to ``index``: the entries behind it are tried next, cautiously."""
        self._probe(max(index, self.match_index) + 1)
        self.cautious = True
        self.paused = False

    def snapshot_failed(self) -> None:
        """Notes that the peer got no snapshot; another is tried once the peer is heard, not at once."""
        self._probe(self.match_index + 1)
        self.cautious = True
        self.paused = True

    def _probe(self, next_index: int) -> None:
        self._clear()
        self.state = ProgressState.PROBE
        self.next_index = next_index
        # Entries behind a place that is not known to match would mostly be sent for nothing.
        self.cautious = next_index != self.match_index + 1

    def _clear(self) -> None:
        self.inflights.clear()
        self.inflight_bytes = 0
