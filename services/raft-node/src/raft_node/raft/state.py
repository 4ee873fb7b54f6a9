"""The state of a member of a shard at one moment: the one state that the parts of the Raft core share.

``raft_node.raft.roles`` changes the role, ``voter`` answers who asks for votes, ``follower`` takes what a leader sends,
``inbox`` judges messages, ``handout`` gives out what is to be written and applied, and ``raft_node.raft.node`` is what
the driver talks to. Each part knows this state, and of the other parts at most those before it in this list. A leader's
view of its peers is a value of its own (``raft_node.raft.leader``).

Invariants:

1. ``term`` never goes back; with a new term ``voted_for`` is free. ``outbox.change`` grows with each change of term,
   vote and log.
2. ``leadership`` exists exactly while ``role`` is LEADER, ``election`` exactly while it is a candidate's.
3. ``configuration`` is the newest one in the log, committed or not; ``members`` are its voters and learners.

Reference: the paper, figure 2 ("state").
"""

from __future__ import annotations

from dataclasses import dataclass, field

from raft_node.entry import Entry
from raft_node.raft.config import RaftConfig
from raft_node.raft.election import Election
from raft_node.raft.leader import Leader
from raft_node.raft.log import RaftLog
from raft_node.raft.membership import ConfigurationHistory, members_of
from raft_node.raft.outbox import Outbox
from raft_node.raft.read_forwarding import ForwardedReads
from raft_node.raft.types import Configuration, HardState, LogReader, NodeId, Randomness, ReadState, Role

_READ_PATIENCE_TIMEOUTS = 2
"""The number of longest election timeouts for which leaders are asked for a read: enough to find a new leader."""


@dataclass(slots=True, eq=False)
class State:
    """The state of one member.

    Attributes:
        config: Settings.
        id: The member's name and incarnation.
        random: Draws election timeouts and the first token of forwarded reads.
        log: The log.
        configurations: The configurations in the log's tail.
        configuration: The configuration in force.
        members: The members of that configuration, voters and learners.
        forwarded: The reads for which this member asks its leader.
        term: The latest term that this member has seen.
        voted_for: The candidate that got this member's vote in this term; None if none did.
        outbox: The messages and events that leave the core, and the barrier between messages and the disk.
        changing_index: The entry of the newest change of the members, until it is committed; 0 when there is none.
        introduced: A node outside the configuration whose pre-vote was granted: it may be of a newer configuration.
        role: The present role of this member.
        leader: The leader of this term; None while it is not known.
        leadership: The state of this member's leadership; None while it does not lead.
        election: The votes of this member's campaign; None without one.
        last_read_token: The newest token of a read round of an earlier leadership.
        read_states: Confirmed reads that are not handed out yet.
        reads_dropped: Reads that were given up and are not handed out yet.
        now: The time in ticks since the start.
        leader_heard_tick: When a leader was heard last; None when none was.
        election_deadline: When this member campaigns, unless it hears a leader or gives its vote.
        ignored_messages: How many messages changed nothing because of their sender, receiver or content.
        leader_commit_index: The highest commit index that a leader told; heartbeats clip it to the entries held here.
        watched: Whether somebody waits here for whatever is committed next; answers tell the leader.
    """

    config: RaftConfig
    id: NodeId
    random: Randomness
    log: RaftLog
    configurations: ConfigurationHistory
    configuration: Configuration
    members: frozenset[NodeId]
    forwarded: ForwardedReads
    term: int
    voted_for: NodeId | None
    outbox: Outbox = field(default_factory=Outbox)
    changing_index: int = 0
    introduced: NodeId | None = None
    role: Role = Role.FOLLOWER
    leader: NodeId | None = None
    leadership: Leader | None = None
    election: Election | None = None
    last_read_token: int = 0
    read_states: list[ReadState] = field(default_factory=list)
    reads_dropped: list[int] = field(default_factory=list)
    now: int = 0
    leader_heard_tick: int | None = None
    election_deadline: int = 0
    ignored_messages: int = 0
    leader_commit_index: int = 0
    watched: bool = False

    @classmethod
    def stored(
        cls,
        config: RaftConfig,
        node_id: NodeId,
        reader: LogReader,
        hard_state: HardState,
        configuration: Configuration,
        applied_index: int,
        random: Randomness,
        timestamp_us: int,
    ) -> State:
        """The state of a member that starts on what it has stored; the arguments are those of ``RaftNode``."""
        log = RaftLog(reader, hard_state.commit_index, applied_index, config.cache_bytes_max, timestamp_us)
        # A log that is empty behind a snapshot may be ahead: the crash came before the snapshot's term was written.
        empty = log.last_index < log.first_index
        assert empty or log.last_term <= hard_state.term, "the log is ahead of the hard state"
        configurations = ConfigurationHistory(configuration)
        configurations.scan(log)
        patience = _READ_PATIENCE_TIMEOUTS * config.election_timeout_ticks_max
        state = cls(
            config=config,
            id=node_id,
            random=random,
            log=log,
            configurations=configurations,
            configuration=configurations.current,
            members=members_of(configurations.current),
            forwarded=ForwardedReads(random, patience, config.heartbeat_ticks),
            term=hard_state.term,
            voted_for=hard_state.voted_for,
            # With leases, the promises of this voter to a leader before its restart still bind it.
            leader_heard_tick=0 if config.lease_ticks else None,
        )
        state.changing_index = state.uncommitted_change()
        return state

    def append(self, entries: list[Entry]) -> None:
        """Appends a leader's own entries to the log."""
        self.log.append(entries)
        self.outbox.change += 1

    def uncommitted_change(self) -> int:
        """The entry of the configuration in force while it is not committed; 0 once it is."""
        index = self.configurations.index
        return index if index > self.log.commit_index else 0

    def may_campaign(self) -> bool:
        """Whether this node starts elections: a voter, and one whose removal is not known to be committed.

        Its log may be the only one with that entry, and then nobody else can be elected (thesis, 4.2.2).
        """
        if self.id in self.configuration.voters:
            return True
        return self.changing_index > 0 and self.id in self.configurations.previous.voters

    def validate(self) -> None:
        """Asserts the invariants that are cheap to check."""
        self.log.validate()
        assert (self.leadership is not None) == (self.role is Role.LEADER)
        assert (self.election is not None) == (self.role in (Role.CANDIDATE, Role.PRE_CANDIDATE))
        if self.role in (Role.LEADER, Role.CANDIDATE):
            assert self.voted_for == self.id
        if self.leadership is not None:
            assert self.leader == self.id
            self.leadership.validate(self.configuration)
