"""One member of a shard: what its driver asks of it.

``RaftNode`` is synchronous and acts on nothing: time comes as ticks, randomness is injected, and what must happen
leaves in a ``Ready`` whose module numbers the driver's duties. It knows neither what commands mean nor how anything is
stored or sent.

Invariants:

1. Every message comes in by ``step``, and everything leaves by ``ready``.
2. What it is at the moment is one ``State``. Roles, votes, following, messages in and what is handed out are parts that
   share it; each part states its own invariants.

Reference: the paper, figure 2 and 5; the thesis, 3.10, 4, 6.2, 6.4, 9.6. ``docs/raft.md`` maps them to functions.
"""

from __future__ import annotations

from collections.abc import Sequence

from raft_node import entry as entries_codec
from raft_node.entry import EntryKind
from raft_node.errors import ConfigurationRefusedError, NotLeaderError, OverloadedError
from raft_node.raft.config import RaftConfig
from raft_node.raft.configuration import encode_configuration
from raft_node.raft.follower import Follower
from raft_node.raft.handout import Handout
from raft_node.raft.inbox import Inbox
from raft_node.raft.leader import Leader
from raft_node.raft.log import RaftLog
from raft_node.raft.membership import check_change
from raft_node.raft.messages import AppendEntriesResponse, Message, ReadIndexRequest
from raft_node.raft.progress import ProgressState
from raft_node.raft.ready import Ready, SoftState
from raft_node.raft.roles import Roles
from raft_node.raft.state import State
from raft_node.raft.types import Configuration, HardState, LogReader, NodeId, Proposal, Randomness, Role
from raft_node.raft.voter import Voter

__all__ = ["Proposal", "RaftNode"]


class RaftNode:
    """One member of a shard."""

    def __init__(
        self,
        config: RaftConfig,
        node_id: NodeId,
        reader: LogReader,
        hard_state: HardState,
        configuration: Configuration,
        applied_index: int,
        random: Randomness,
        timestamp_us: int = 0,
    ) -> None:
        """Starts a member on what it has stored.

        Args:
            config: Settings.
            node_id: The member's name and incarnation.
            reader: The stored log.
            hard_state: The hard state that was stored with the log.
            configuration: The members as of ``applied_index``; changes behind that are found in the log.
            applied_index: The last entry that the stored state includes.
            random: Draws election timeouts.
            timestamp_us: The log time of the stored state, for a log that begins behind it.
        """
        state = State.stored(config, node_id, reader, hard_state, configuration, applied_index, random, timestamp_us)
        self._state = state
        self._roles = Roles(state)
        self._voter = Voter(state, self._roles)
        self._follower = Follower(state, self._roles)
        self._inbox = Inbox(state, self._roles, self._voter, self._follower)
        self._handout = Handout(state, hard_state)
        self._roles.become_follower(max(hard_state.term, state.log.last_term), None)

    # The attributes that others may read.

    @property
    def id(self) -> NodeId:
        """The member's name and incarnation."""
        return self._state.id

    @property
    def role(self) -> Role:
        """The present role of this node."""
        return self._state.role

    @property
    def term(self) -> int:
        """The latest term that this node has seen."""
        return self._state.term

    @property
    def voted_for(self) -> NodeId | None:
        """The candidate that got this node's vote in this term; None if none did."""
        return self._state.voted_for

    @property
    def leader(self) -> NodeId | None:
        """The leader of this term; None while it is not known."""
        return self._state.leader

    @property
    def commit_index(self) -> int:
        """The last entry known to be committed."""
        return self._state.log.commit_index

    @property
    def last_index(self) -> int:
        """The last entry of the log, durable or not."""
        return self._state.log.last_index

    @property
    def applied_index(self) -> int:
        """The last entry that was applied."""
        return self._state.log.applied_index

    @property
    def configuration(self) -> Configuration:
        """The members of the shard, by the newest configuration in the log, committed or not."""
        return self._state.configuration

    @property
    def is_member(self) -> bool:
        """Whether this node is a member by its own log; a node that was removed learns nothing new any more."""
        return self._state.id in self._state.members

    @property
    def configuration_index(self) -> int:
        """The entry that brought the configuration; 0 when it came with the applied state."""
        return self._state.configurations.index

    @property
    def applied_configuration(self) -> Configuration:
        """The configuration as of the applied index: the one that a snapshot of the state goes with."""
        return self._state.configurations.applied

    @property
    def peers(self) -> frozenset[NodeId]:
        """The nodes to which messages may go unasked: the other members, and those that are to learn that they left.

        Answers go to any node that has asked.
        """
        leaving = self._state.leadership.progress if self._state.leadership is not None else ()
        return self._state.members.union(leaving) - {self._state.id}

    @property
    def soft_state(self) -> SoftState:
        """Role, term and leader at a glance."""
        return SoftState(self._state.role, self._state.term, self._state.leader.name if self._state.leader else "")

    @property
    def log(self) -> RaftLog:
        """The log, for checks and figures; only the core changes it."""
        return self._state.log

    @property
    def leadership(self) -> Leader | None:
        """The leader's view of its peers while this node leads, for checks and figures."""
        return self._state.leadership

    def hears(self, peer: NodeId) -> bool:
        """Whether a leader heard this peer within the longest election timeout; itself always."""
        if self._state.leadership is None or peer == self._state.id:
            return peer == self._state.id
        progress = self._state.leadership.progress.get(peer)
        return (
            progress is not None
            and self._state.now - progress.heard_tick < self._state.config.election_timeout_ticks_max
        )

    @property
    def slowest_healthy_match(self) -> int | None:
        """While this node leads, the last entry of the slowest peer that was heard within an election timeout.

        None without such a peer. Peers that wait for a snapshot do not count: the log is of no use to them.
        """
        if self._state.leadership is None:
            return None
        patience = self._state.config.election_timeout_ticks_max
        return min(
            (
                peer.match_index
                for peer in self._state.leadership.progress.values()
                if peer.state is not ProgressState.SNAPSHOT and self._state.now - peer.heard_tick < patience
            ),
            default=None,
        )

    @property
    def ignored_messages(self) -> int:
        """How many messages changed nothing because of their sender, their receiver or their content."""
        return self._state.ignored_messages

    def ticks_since_heard(self, peer: NodeId | None = None) -> int | None:
        """How many ticks ago this leader heard a peer, or without ``peer`` this member heard the leader.

        None if it was never heard, if this node does not lead, or if there is no such peer.
        """
        state = self._state
        if peer is None:
            return None if state.leader_heard_tick is None else state.now - state.leader_heard_tick
        progress = None if state.leadership is None else state.leadership.progress.get(peer)
        return None if progress is None else state.now - progress.heard_tick

    @property
    def leader_commit_index(self) -> int:
        """The highest commit index that a leader told; heartbeats clip it to the entries that this node holds."""
        return self._state.leader_commit_index

    def be_watched(self, watched: bool) -> None:
        """Notes whether somebody waits here for whatever is committed next; then the leader tells of it without delay.

        It learns of that from the next answer to it. This changes when a commit index is told, nothing else.
        """
        self._state.watched = watched

    # Time.

    def tick(self, ticks: int = 1) -> None:
        """Lets time pass: heartbeats, check-quorum, elections."""
        state = self._state
        state.now += ticks
        state.reads_dropped += state.forwarded.expire(state.now)
        if state.leadership is not None:
            if state.leadership.lost_quorum(state.now):
                state.outbox.event("lost_quorum", term=state.term)
                self._roles.become_follower(state.term, None)
            else:
                state.leadership.tick(state.now)
        elif state.now >= state.election_deadline and state.may_campaign():
            self._roles.become_pre_candidate()

    def ticks_to_deadline(self) -> int:
        """How many ticks until this node would act by itself; at least 1."""
        state = self._state
        if state.leadership is not None:
            return state.leadership.ticks_to_deadline(state.now)
        deadline = state.election_deadline
        if state.role is Role.LEARNER:
            deadline = state.now + state.config.election_timeout_ticks_max
        read_deadline = state.forwarded.deadline()
        if read_deadline is not None:
            deadline = min(deadline, read_deadline)
        return max(1, deadline - state.now)

    # The driver's side.

    def propose(self, commands: Sequence[Proposal], timestamp_us: int) -> tuple[int, int]:
        """Appends commands to the log, one entry each; returns the index of the first one, and the term.

        They are committed once entries with those indexes **and** this term come out of ``Ready.committed``.

        Raises:
            NotLeaderError: Another node leads, or none.
            OverloadedError: Too much is not applied yet, or leadership is being handed over. Nothing was appended.
        """
        state = self._state
        assert commands, "nothing is proposed"
        if state.leadership is None:
            raise self._not_leader()
        if state.leadership.transfer is not None:
            raise OverloadedError(f"leadership is being handed over to {state.leadership.transfer.target.name}")
        size = sum([len(proposal.command) for proposal in commands])
        waiting = state.log.unapplied_bytes
        if waiting and waiting + size > state.config.uncommitted_bytes_max:
            raise OverloadedError(f"{waiting} bytes in the log are not applied yet")
        state.leadership.proposed(state.now)
        first, term = state.log.last_index + 1, state.term
        timestamp_us = max(timestamp_us, state.log.last_timestamp_us)
        encode = entries_codec.encode
        state.append(
            [
                encode(index, term, kind, timestamp_us, command, crc)
                for index, (kind, command, crc) in enumerate(commands, first)
            ]
        )
        return first, term

    def propose_configuration(self, configuration: Configuration, timestamp_us: int) -> tuple[int, int]:
        """Changes the members by one; returns the entry's index, and the term.

        The new configuration is in force at once, here and wherever the entry comes, and is undone if the entry is cut
        off. It has come to stay once an entry with that index **and** term comes out of ``Ready.committed``.

        Raises:
            NotLeaderError: Another node leads, or none.
            OverloadedError: Leadership is being handed over.
            ConfigurationRefusedError: The configuration is not one step from the present one; or the leader has not
                committed an
                entry of its own term yet; or the change before is not committed; or the learner that is to become a
                voter has not caught up.
        """
        state = self._state
        if state.leadership is None:
            raise self._not_leader()
        if state.leadership.transfer is not None:
            raise OverloadedError(f"leadership is being handed over to {state.leadership.transfer.target.name}")
        if not state.leadership.established:
            # Without this, two leaders could each commit a change that the other does not know of (raft-dev, 2015).
            raise ConfigurationRefusedError("the leader is new: no entry of its term is committed yet")
        if state.configurations.index > state.log.commit_index:
            raise ConfigurationRefusedError(f"the change at index {state.configurations.index} is not committed yet")
        promoted = check_change(state.configuration, configuration)
        if promoted is not None and not state.leadership.caught_up(promoted):
            raise ConfigurationRefusedError(f"{promoted.name} has not caught up yet")
        index, term = state.log.last_index + 1, state.term
        timestamp_us = max(timestamp_us, state.log.last_timestamp_us)
        command = encode_configuration(configuration)
        entry = entries_codec.encode(index, term, EntryKind.CONFIGURATION, timestamp_us, command)
        state.append([entry])
        state.configurations.append([entry])
        self._roles.adopt_configuration()
        return index, term

    def transfer_leadership(self, target: NodeId | None = None) -> None:
        """Hands leadership over to another voter; None means the most caught-up one.

        It goes on by itself: the target is brought up to date, then told to campaign. ``transfer_aborted`` says that
        it did not come about within an election timeout; until then proposals are refused.

        Raises:
            NotLeaderError: Another node leads, or none.
            TransferRefusedError: The target is this node, a learner or unknown, or there is no other voter.
        """
        state = self._state
        if state.leadership is None:
            raise self._not_leader()
        state.leadership.begin_transfer(target, state.now)

    def read_index(self, context: int, clock: float | None = None) -> None:
        """Asks for a read; it comes back in ``Ready.read_states``, or in ``reads_dropped``.

        A leader confirms it, and drops it when it loses its office. Another node asks the leader that it follows, also
        the next one, and drops it if none answers within two of the longest election timeouts.

        Args:
            context: The number that names the read in ``Ready``.
            clock: A monotonic clock in ticks with fractions, which goes on while the process stands still; read after
                the read came in and immediately before this call. A lease is judged by it alone; without it, or
                without leases, every read takes a round.

        Raises:
            NotLeaderError: No leader is known.
            OverloadedError: Too many reads wait.
        """
        state = self._state
        waiting = len(state.forwarded if state.leadership is None else state.leadership.reads.waiting)
        if waiting >= state.config.reads_waiting_max:
            raise OverloadedError(f"{waiting} reads wait for a round")
        if state.leadership is not None:
            confirmed = state.leadership.read(context, clock, state.now)
            if confirmed is not None:
                state.read_states.append(confirmed)
        elif state.leader is not None:
            state.forwarded.add(context, state.now)
        else:
            raise self._not_leader()

    def holds_lease(self, clock: float) -> bool:
        """Whether this node leads with a lease at this moment; ``clock`` as for ``read_index``."""
        state = self._state
        if state.leadership is None or not state.config.lease_ticks:
            return False
        lease = state.leadership.lease
        return lease.holds(lease.read(clock, state.now))

    def peer_unreachable(self, peer: NodeId) -> None:
        """Notes that the transport lost the stream to a peer, with the messages in it."""
        state = self._state
        if state.leadership is not None:
            state.leadership.peer_unreachable(peer)

    def snapshot_sent(self, peer: NodeId, index: int) -> None:
        """Notes that a peer of ``Ready.snapshots_wanted`` has installed a snapshot of everything up to ``index``."""
        state = self._state
        if state.leadership is not None:
            state.leadership.snapshot_sent(peer, index)

    def snapshot_failed(self, peer: NodeId) -> None:
        """Notes that a peer of ``Ready.snapshots_wanted`` got none; it is named again once it is heard."""
        state = self._state
        if state.leadership is not None:
            state.leadership.snapshot_failed(peer)

    def restore(self, index: int, term: int, configuration: Configuration, timestamp_us: int = 0) -> bool:
        """Takes over a snapshot that is complete on disk; returns False if it is of no use, and is to be thrown away.

        After True, the driver switches state and log before anything else is written or applied: entries that were
        handed out before are void, and ``LogReader`` begins at ``index + 1``, with the old entries behind it if theirs
        at ``index`` has this term, without any if not.

        Args:
            index: The last entry that the snapshot includes.
            term: The term of that entry.
            configuration: The members as of ``index``.
            timestamp_us: The log time as of ``index``.
        """
        state = self._state
        if state.leadership is not None or index <= state.log.commit_index:
            return False
        if term > state.term or state.election is not None:
            self._roles.become_follower(max(term, state.term), None)
        keeps = state.log.restore(index, term, timestamp_us)
        self._handout.recall()
        state.outbox.change += 1  # An answer that rests on the snapshot waits for the write behind the driver's switch.
        state.configurations.restore(index, configuration, keeps_tail=keeps)
        state.outbox.event("restored", index=index, term=term, keeps_entries=keeps)
        was_member = state.id in state.members
        self._roles.adopt_configuration()
        if was_member and state.id not in state.members:
            state.outbox.event("removed", term=state.term)
        return True

    def resign(self, reason: str) -> None:
        """Leaves the lead, because something outside of the protocol keeps this node from serving."""
        state = self._state
        if state.leadership is not None:
            state.outbox.event("resigned", term=state.term, reason=reason)
            self._roles.become_follower(state.term, None)

    def applied(self, index: int) -> None:
        """Notes that the committed entries up to ``index`` have been applied."""
        self._handout.applied(index)

    def persisted(self, sequence: int) -> None:
        """Notes that the write with this sequence is durable. Requires: the ``LogReader`` shows it."""
        state = self._state
        for message in self._handout.persisted(sequence):
            if message.receiver == state.id:
                # The vote for oneself.
                self._inbox.dispatch(message)
            elif not isinstance(message, AppendEntriesResponse) or message.term == state.term:
                # An acknowledgement in an older term speaks of a log that may have changed since.
                state.outbox.send(message)
        if state.leadership is not None:
            state.leadership.advance_commit(state.now)

    def ready(self, writer_idle: bool) -> Ready | None:
        """The duties of the driver now, None if there are none; see ``raft_node.raft.ready``."""
        state = self._state
        if state.changing_index and state.changing_index <= state.log.commit_index:
            self._roles.configuration_committed()
        if state.leadership is not None:
            state.read_states += state.leadership.send(state.now)
        elif state.leader in state.members:
            # A leader that is not yet a member in this node's configuration cannot be reached by a message of ours.
            self._ask_leader(state.leader)
        write = self._handout.take_write() if writer_idle else None
        committed = self._handout.take_committed()
        outbox = state.outbox
        wanted, states, dropped = outbox.snapshots_wanted, state.read_states, state.reads_dropped
        if not (outbox.messages or write or committed or states or dropped or outbox.events or wanted):
            return None
        ready = Ready(outbox.messages, write, committed, states, dropped, outbox.events, wanted)
        outbox.messages, outbox.events, outbox.snapshots_wanted = [], [], []
        state.read_states, state.reads_dropped = [], []
        return ready

    def validate(self) -> None:
        """Asserts the invariants that are cheap to check."""
        self._state.validate()
        assert self._state.term >= self._handout.hard_state.term

    # Messages.

    def step(self, message: Message) -> None:
        """Takes a message from a peer. It may come late, twice, out of order, or from anybody."""
        self._inbox.step(message)

    # Helpers.

    def _ask_leader(self, leader: NodeId) -> None:
        """Forwards the reads that wait to the leader; again if the request or its answer seems to be lost."""
        state = self._state
        token = state.forwarded.ask(leader, state.term, state.now)
        if token:
            state.outbox.send(ReadIndexRequest(state.id, leader, state.term, token))

    def _not_leader(self) -> NotLeaderError:
        state = self._state
        return NotLeaderError(state.leader.name if state.leader else "")
