"""What a member is in every role: term, vote, log and clock, what others may look at, what it writes and applies.

``raft_node.raft.roles``, ``raft_node.raft.voter`` and ``raft_node.raft.node`` are the protocol on top of it.

Invariants:

1. One write is under way at a time, and carries every change of term, vote and log up to one.
2. Committed entries are handed out in order, one chunk at a time, and only when they are durable here.

Reference: the paper, figure 2 ("state"); the thesis, 10.2.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from raft_node.entry import Entry
from raft_node.raft.config import RaftConfig
from raft_node.raft.election import Election
from raft_node.raft.leader import Leader
from raft_node.raft.log import RaftLog
from raft_node.raft.membership import ConfigurationHistory, members_of
from raft_node.raft.outbox import Outbox
from raft_node.raft.progress import ProgressState
from raft_node.raft.read_forwarding import ForwardedReads
from raft_node.raft.ready import SoftState
from raft_node.raft.types import Configuration, HardState, LogReader, NodeId, ReadState, Role, Write
from raft_node.raft.vote_reports import VoteReports

if TYPE_CHECKING:
    # Only the type: randomness itself is injected.
    from random import Random


_READ_PATIENCE_TIMEOUTS = 2
"""So many of the longest election timeouts a read is asked of leaders; that is enough to find a new one."""


class Member:
    """The state of one member of a shard.

    Attributes:
        ignored_messages: How many messages changed nothing because of who sent them to whom, or of what they said.
        leader_commit_index: The highest commit index that a leader told; heartbeats clip it to what this node holds.
    """

    def __init__(
        self,
        config: RaftConfig,
        node_id: NodeId,
        reader: LogReader,
        hard_state: HardState,
        configuration: Configuration,
        applied_index: int,
        random: Random,
        timestamp_us: int = 0,
    ) -> None:
        self._config = config
        self._id = node_id
        self._random = random
        self._log = RaftLog(reader, hard_state.commit_index, applied_index, config.cache_bytes_max, timestamp_us)
        self._configurations = ConfigurationHistory(configuration)
        self._configurations.scan(self._log)
        self._configuration = self._configurations.current
        self._members = members_of(self._configuration)
        # The newest change, until it is committed; 0 when there is none.
        self._changing_index = self._uncommitted_change()
        # A node outside the configuration whose pre-vote was granted: it may be of a newer configuration.
        self._introduced: NodeId | None = None
        self._outbox = Outbox()
        self._vote_reports = VoteReports(self._outbox, config.election_timeout_ticks_max)
        self._term = hard_state.term
        self._voted_for = hard_state.voted_for
        # A log that is empty behind a snapshot may be ahead: the crash came before the snapshot's term was written.
        empty = self._log.last_index < self._log.first_index
        assert empty or self._log.last_term <= self._term, "the log is ahead of the hard state"
        self._written_hard_state = hard_state
        self._write_sequence = 0
        self._write_change: int | None = None  # The newest change in the write under way.
        self._applying_index: int | None = None  # The end of the chunk that is being applied.
        self._role = Role.FOLLOWER
        self._leader_id: NodeId | None = None
        self._leader: Leader | None = None
        self._election: Election | None = None
        self._last_read_token = 0
        self._forwarded = ForwardedReads(
            random, _READ_PATIENCE_TIMEOUTS * config.election_timeout_ticks_max, config.heartbeat_ticks
        )
        self._read_states: list[ReadState] = []
        self._reads_dropped: list[int] = []
        self.ignored_messages = 0
        self.leader_commit_index = 0
        self._now = 0
        # With leases, whatever this voter promised a leader before it restarted binds it still.
        self._leader_heard_tick: int | None = 0 if config.lease_ticks else None
        self._election_deadline = 0

    # What others may look at.

    @property
    def id(self) -> NodeId:
        """Who this is."""
        return self._id

    @property
    def role(self) -> Role:
        """What this node is at the moment."""
        return self._role

    @property
    def term(self) -> int:
        """The latest term that it has seen."""
        return self._term

    @property
    def voted_for(self) -> NodeId | None:
        """Who got its vote in this term."""
        return self._voted_for

    @property
    def leader(self) -> NodeId | None:
        """The leader of this term, if known."""
        return self._leader_id

    @property
    def commit_index(self) -> int:
        """The last entry known to be committed."""
        return self._log.commit_index

    @property
    def last_index(self) -> int:
        """The last entry of the log, durable or not."""
        return self._log.last_index

    @property
    def applied_index(self) -> int:
        """The last entry that was applied."""
        return self._log.applied_index

    @property
    def configuration(self) -> Configuration:
        """The members of the shard, by the newest configuration in the log, committed or not."""
        return self._configuration

    @property
    def is_member(self) -> bool:
        """Whether this node is among them; one that was removed learns nothing new any more."""
        return self._id in self._members

    @property
    def configuration_index(self) -> int:
        """The entry that brought the configuration; 0 when it came with the applied state."""
        return self._configurations.index

    @property
    def applied_configuration(self) -> Configuration:
        """The configuration as of the applied index: the one that a snapshot of the state goes with."""
        return self._configurations.applied

    @property
    def peers(self) -> frozenset[NodeId]:
        """Whom messages may go to by themselves: the other members, and those that are about to learn that they left.

        Answers go to whoever asked.
        """
        leaving = self._leader.progress if self._leader is not None else ()
        return self._members.union(leaving) - {self._id}

    @property
    def soft_state(self) -> SoftState:
        """Role, term and leader at a glance."""
        return SoftState(self._role, self._term, self._leader_id.name if self._leader_id else "")

    @property
    def log(self) -> RaftLog:
        """The log, for checks and figures; only this class changes it."""
        return self._log

    @property
    def leadership(self) -> Leader | None:
        """The leader's view of its peers while this node leads, for checks and figures."""
        return self._leader

    def hears(self, peer: NodeId) -> bool:
        """Whether a leader heard this peer within the longest election timeout; itself always."""
        if self._leader is None or peer == self._id:
            return peer == self._id
        progress = self._leader.progress.get(peer)
        return progress is not None and self._now - progress.heard_tick < self._config.election_timeout_ticks_max

    @property
    def slowest_healthy_match(self) -> int | None:
        """While it leads, the least that is known to be stored by a peer that was heard within an election timeout.

        None when there is none. Peers that wait for a snapshot do not count: the log is of no use to them.
        """
        if self._leader is None:
            return None
        patience = self._config.election_timeout_ticks_max
        return min(
            (
                peer.match_index
                for peer in self._leader.progress.values()
                if peer.state is not ProgressState.SNAPSHOT and self._now - peer.heard_tick < patience
            ),
            default=None,
        )

    # What is written and applied.

    def applied(self, index: int) -> None:
        """The committed entries up to ``index`` have been applied."""
        assert self._applying_index is not None and index <= self._applying_index, "not handed out"
        self._log.applied_to(index)
        self._configurations.settle(index)
        if index == self._applying_index:
            self._applying_index = None

    def _append(self, entries: list[Entry]) -> None:
        self._log.append(entries)
        self._outbox.change += 1

    def _take_write(self) -> Write | None:
        outbox = self._outbox
        if self._write_change is not None or outbox.change == outbox.durable_change:
            return None
        hard_state = HardState(self._term, self._voted_for, self._log.commit_index)
        truncate_from, entries = self._log.begin_write()
        self._write_sequence += 1
        self._write_change = outbox.change
        changed = hard_state != self._written_hard_state
        self._written_hard_state = hard_state
        return Write(self._write_sequence, hard_state if changed else None, truncate_from, entries)

    def _take_committed(self) -> Sequence[Entry]:
        """The next chunk to apply; only entries that are durable here, so that no state is ahead of its log."""
        log = self._log
        if self._applying_index is not None:
            return ()
        end = min(log.commit_index, log.stable_index)
        if end <= log.applied_index:
            return ()
        committed = log.entries(log.applied_index + 1, end + 1, self._config.committed_bytes_max)
        self._applying_index = committed[-1].index
        return committed

    def _uncommitted_change(self) -> int:
        index = self._configurations.index
        return index if index > self._log.commit_index else 0

    def _may_campaign(self) -> bool:
        """Whether this node starts elections: a voter, and one whose removal is not known to be committed.

        Its log may be the only one with that entry, and then nobody else can be elected (thesis, 4.2.2).
        """
        if self._id in self._configuration.voters:
            return True
        return self._changing_index > 0 and self._id in self._configurations.previous.voters
