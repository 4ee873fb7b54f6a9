"""One member of a shard: what its driver asks of it, and the way of every message.

``RaftNode`` is synchronous and acts on nothing: time comes as ticks, randomness is injected, and what must happen
leaves in a ``Ready`` whose module numbers the driver's duties. It knows neither what commands mean nor how anything is
stored or sent.

Invariants:

1. Every message comes in by ``step``, and everything leaves by ``ready``.
2. A message for another incarnation, or that no correct node could have sent, changes nothing; of nodes outside the
   configuration only an elected leader and whoever asks before it campaigns are heard.
3. Those of ``raft_node.raft.member``, ``raft_node.raft.roles`` and ``raft_node.raft.voter``, on which it is built.

Reference: the paper, figure 2 and 5; the thesis, 3.10, 4, 6.2, 6.4, 9.6. ``docs/raft.md`` maps them to functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, assert_never

from raft_node import entry as entries_codec
from raft_node.entry import EntryKind
from raft_node.errors import ConfigurationRefusedError, NotLeaderError, OverloadedError
from raft_node.raft.config import RaftConfig
from raft_node.raft.configuration import encode_configuration
from raft_node.raft.follower import refusal, take_entries
from raft_node.raft.membership import check_change
from raft_node.raft.messages import (
    AppendEntries,
    AppendEntriesResponse,
    Heartbeat,
    HeartbeatResponse,
    Message,
    ReadIndexRequest,
    ReadIndexResponse,
    RequestVote,
    RequestVoteResponse,
    TimeoutNow,
)
from raft_node.raft.ready import Ready
from raft_node.raft.types import Configuration, HardState, LogReader, NodeId, Proposal, ReadState, Role
from raft_node.raft.validity import malformed
from raft_node.raft.voter import Voter

__all__ = ["Proposal", "RaftNode"]

if TYPE_CHECKING:
    # Only the type: randomness itself is injected.
    from random import Random


class RaftNode(Voter):
    """One member of a shard."""

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
        """Starts a member on what it has stored.

        Args:
            config: Settings.
            node_id: Who it is.
            reader: The stored log.
            hard_state: What was stored with it.
            configuration: The members as of ``applied_index``; changes behind that are found in the log.
            applied_index: What the stored state includes.
            random: Draws election timeouts.
            timestamp_us: The log time of the stored state, for a log that begins behind it.
        """
        super().__init__(config, node_id, reader, hard_state, configuration, applied_index, random, timestamp_us)
        self._become_follower(max(hard_state.term, self._log.last_term), None)

    # Time.

    def tick(self, ticks: int = 1) -> None:
        """Lets time pass: heartbeats, check-quorum, elections."""
        self._now += ticks
        self._reads_dropped += self._forwarded.expire(self._now)
        if self._leader is not None:
            if self._leader.lost_quorum(self._now):
                self._outbox.event("lost_quorum", term=self._term)
                self._become_follower(self._term, None)
            else:
                self._leader.tick(self._now)
        elif self._now >= self._election_deadline and self._may_campaign():
            self._become_pre_candidate()

    def ticks_to_deadline(self) -> int:
        """How many ticks until this node would act by itself; at least 1."""
        if self._leader is not None:
            return self._leader.ticks_to_deadline(self._now)
        deadline = self._election_deadline
        if self._role is Role.LEARNER:
            deadline = self._now + self._config.election_timeout_ticks_max
        read_deadline = self._forwarded.deadline()
        if read_deadline is not None:
            deadline = min(deadline, read_deadline)
        return max(1, deadline - self._now)

    # The driver's side.

    def propose(self, commands: Sequence[Proposal], timestamp_us: int) -> tuple[int, int]:
        """Appends commands to the log, one entry each; gives the first one's index, and the term.

        They are committed once entries with those indexes **and** this term come out of ``Ready.committed``.

        Raises:
            NotLeaderError: Another node leads, or none.
            OverloadedError: Too much is not applied yet, or leadership is being handed over. Nothing was appended.
        """
        assert commands, "nothing is proposed"
        if self._leader is None:
            raise self._not_leader()
        if self._leader.transfer is not None:
            raise OverloadedError(f"leadership is being handed over to {self._leader.transfer.target.name}")
        size = sum([len(proposal.command) for proposal in commands])
        waiting = self._log.unapplied_bytes
        if waiting and waiting + size > self._config.uncommitted_bytes_max:
            raise OverloadedError(f"{waiting} bytes in the log are not applied yet")
        self._leader.proposed(self._now)
        first, term = self._log.last_index + 1, self._term
        timestamp_us = max(timestamp_us, self._log.last_timestamp_us)
        encode = entries_codec.encode
        self._append(
            [
                encode(index, term, kind, timestamp_us, command, crc)
                for index, (kind, command, crc) in enumerate(commands, first)
            ]
        )
        return first, term

    def propose_configuration(self, configuration: Configuration, timestamp_us: int) -> tuple[int, int]:
        """Changes the members by one; gives the entry's index, and the term.

        The new configuration is in force at once, here and wherever the entry comes, and is undone if the entry is cut
        off. It has come to stay once an entry with that index **and** term comes out of ``Ready.committed``.

        Raises:
            NotLeaderError: Another node leads, or none.
            OverloadedError: Leadership is being handed over.
            ConfigurationRefusedError: It is not one step from the present one; or the leader has not committed an
                entry of its own term yet; or the change before is not committed; or the learner that is to become a
                voter has not caught up.
        """
        if self._leader is None:
            raise self._not_leader()
        if self._leader.transfer is not None:
            raise OverloadedError(f"leadership is being handed over to {self._leader.transfer.target.name}")
        if not self._leader.established:
            # Without this, two leaders could each commit a change that the other does not know of (raft-dev, 2015).
            raise ConfigurationRefusedError("the leader is new: no entry of its term is committed yet")
        if self._configurations.index > self._log.commit_index:
            raise ConfigurationRefusedError(f"the change at index {self._configurations.index} is not committed yet")
        promoted = check_change(self._configuration, configuration)
        if promoted is not None and not self._leader.caught_up(promoted):
            raise ConfigurationRefusedError(f"{promoted.name} has not caught up yet")
        index, term = self._log.last_index + 1, self._term
        timestamp_us = max(timestamp_us, self._log.last_timestamp_us)
        command = encode_configuration(configuration)
        entry = entries_codec.encode(index, term, EntryKind.CONFIGURATION, timestamp_us, command)
        self._append([entry])
        self._configurations.append([entry])
        self._adopt_configuration()
        return index, term

    def transfer_leadership(self, target: NodeId | None = None) -> None:
        """Hands leadership over to another voter; None means the most caught-up one.

        It goes on by itself: the target is brought up to date, then told to campaign. ``transfer_aborted`` says that
        it did not come about within an election timeout; until then proposals are refused.

        Raises:
            NotLeaderError: Another node leads, or none.
            TransferRefusedError: The target is this node, a learner or unknown, or there is no other voter.
        """
        if self._leader is None:
            raise self._not_leader()
        self._leader.begin_transfer(target, self._now)

    def read_index(self, context: int, clock: float | None = None) -> None:
        """Asks for a read; it comes back in ``Ready.read_states``, or in ``reads_dropped``.

        A leader confirms it, and drops it when it loses its office. Another node asks the leader that it follows, also
        the next one, and drops it if none answers within two of the longest election timeouts.

        Args:
            context: What names the read in ``Ready``.
            clock: A monotonic clock in ticks with fractions, which goes on while the process stands still; read after
                the read came in and immediately before this call. A lease is judged by it alone; without it, or
                without leases, every read takes a round.

        Raises:
            NotLeaderError: No leader is known.
            OverloadedError: Too many reads wait.
        """
        waiting = len(self._forwarded if self._leader is None else self._leader.reads.waiting)
        if waiting >= self._config.reads_waiting_max:
            raise OverloadedError(f"{waiting} reads wait for a round")
        if self._leader is not None:
            confirmed = self._leader.read(context, clock, self._now)
            if confirmed is not None:
                self._read_states.append(confirmed)
        elif self._leader_id is not None:
            self._forwarded.add(context, self._now)
        else:
            raise self._not_leader()

    def holds_lease(self, clock: float) -> bool:
        """Whether this node leads with a lease at this moment; ``clock`` as for ``read_index``."""
        if self._leader is None or not self._config.lease_ticks:
            return False
        lease = self._leader.lease
        return lease.holds(lease.read(clock, self._now))

    def peer_unreachable(self, peer: NodeId) -> None:
        """The transport lost the stream to a peer, with whatever was in it."""
        if self._leader is not None:
            self._leader.peer_unreachable(peer)

    def snapshot_sent(self, peer: NodeId, index: int) -> None:
        """A peer of ``Ready.snapshots_wanted`` has installed a snapshot of everything up to ``index``."""
        if self._leader is not None:
            self._leader.snapshot_sent(peer, index)

    def snapshot_failed(self, peer: NodeId) -> None:
        """A peer of ``Ready.snapshots_wanted`` got none; it is named again once it is heard."""
        if self._leader is not None:
            self._leader.snapshot_failed(peer)

    def restore(self, index: int, term: int, configuration: Configuration, timestamp_us: int = 0) -> bool:
        """Takes over a snapshot that is complete on disk; False if it is of no use here, and is to be thrown away.

        After True, the driver switches state and log before anything else is written or applied: entries that were
        handed out before are void, and ``LogReader`` begins at ``index + 1``, with the old entries behind it if theirs
        at ``index`` has this term, without any if not.

        Args:
            index: The last entry that the snapshot includes.
            term: Its term.
            configuration: The members as of ``index``.
            timestamp_us: The log time as of ``index``.
        """
        if self._leader is not None or index <= self._log.commit_index:
            return False
        if term > self._term or self._election is not None:
            self._become_follower(max(term, self._term), None)
        keeps = self._log.restore(index, term, timestamp_us)
        self._applying_index = None
        self._outbox.change += 1  # An answer that rests on the snapshot waits for the write behind the driver's switch.
        self._configurations.restore(index, configuration, keeps_tail=keeps)
        self._outbox.event("restored", index=index, term=term, keeps_entries=keeps)
        was_member = self._id in self._members
        self._adopt_configuration()
        if was_member and self._id not in self._members:
            self._outbox.event("removed", term=self._term)
        return True

    def resign(self, reason: str) -> None:
        """Leaves the lead, because something outside of the protocol keeps this node from serving."""
        if self._leader is not None:
            self._outbox.event("resigned", term=self._term, reason=reason)
            self._become_follower(self._term, None)

    def persisted(self, sequence: int) -> None:
        """The write with this sequence is durable, and the ``LogReader`` shows it."""
        assert self._write_change is not None and sequence == self._write_sequence, "not the write under way"
        self._log.end_write()
        released = self._outbox.persisted(self._write_change)
        self._write_change = None
        for message in released:
            if message.receiver == self._id:
                # The vote for oneself.
                self._dispatch(message)
            elif not isinstance(message, AppendEntriesResponse) or message.term == self._term:
                # An acknowledgement in an older term speaks of a log that may have changed since.
                self._outbox.send(message)
        if self._leader is not None:
            self._leader.advance_commit()

    def ready(self, writer_idle: bool) -> Ready | None:
        """What is to be done now, if anything; see ``raft_node.raft.ready``."""
        if self._changing_index and self._changing_index <= self._log.commit_index:
            self._configuration_committed()
        if self._leader is not None:
            self._read_states += self._leader.send(self._now)
        elif self._leader_id in self._members:
            # A leader that this node has still to learn of as a member is not reachable by itself.
            self._ask_leader(self._leader_id)
        write = self._take_write() if writer_idle else None
        committed = self._take_committed()
        outbox = self._outbox
        wanted, states, dropped = outbox.snapshots_wanted, self._read_states, self._reads_dropped
        if not (outbox.messages or write or committed or states or dropped or outbox.events or wanted):
            return None
        ready = Ready(outbox.messages, write, committed, states, dropped, outbox.events, wanted)
        outbox.messages, outbox.events, outbox.snapshots_wanted = [], [], []
        self._read_states, self._reads_dropped = [], []
        return ready

    def validate(self) -> None:
        """Asserts the invariants that are cheap to check."""
        self._log.validate()
        assert (self._leader is not None) == (self._role is Role.LEADER)
        assert (self._election is not None) == (self._role in (Role.CANDIDATE, Role.PRE_CANDIDATE))
        assert self._term >= self._written_hard_state.term
        if self._role in (Role.LEADER, Role.CANDIDATE):
            assert self._voted_for == self._id
        if self._leader is not None:
            assert self._leader_id == self._id
            self._leader.validate(self._configuration)

    # Messages.

    def step(self, message: Message) -> None:
        """Takes a message from a peer. It may come late, twice, out of order, or from anybody."""
        if message.receiver != self._id or message.sender == self._id:
            self.ignored_messages += 1
        elif not self._admits(message):
            self.ignored_messages += 1
            if isinstance(message, RequestVote):
                self._refused(message, "not a member")
        elif malformed(message):
            self.ignored_messages += 1
            self._outbox.event("malformed_message", sender=message.sender.name, kind=type(message).__name__)
        else:
            self._dispatch(message)

    def _admits(self, message: Message) -> bool:
        """Whether the sender may say this.

        A node outside the configuration may belong to a newer one that this node has still to learn of, and may need
        its vote for that (thesis, 4.1). So an elected leader is heard when it sends entries, and a candidate when it
        asks first; everything else of strangers changes nothing.
        """
        sender = message.sender
        if sender in self._members or sender == self._leader_id:
            return True
        match message:
            case AppendEntries():
                return True
            case RequestVote():
                return message.pre_vote or sender == self._introduced
            case AppendEntriesResponse() | HeartbeatResponse():
                # Of a removed node that is being told so; its term is nobody's concern.
                return self._leader is not None and sender in self._leader.progress and message.term <= self._term
            case _:
                return False

    def _dispatch(self, message: Message) -> None:
        match message:
            case RequestVote():
                self._request_vote(message)
            case RequestVoteResponse():
                self._request_vote_response(message)
            case TimeoutNow():
                self._timeout_now(message)
            case AppendEntries():
                self._append_entries(message)
            case AppendEntriesResponse():
                self._append_entries_response(message)
            case Heartbeat():
                self._heartbeat(message)
            case HeartbeatResponse():
                self._heartbeat_response(message)
            case ReadIndexRequest():
                self._read_index_request(message)
            case ReadIndexResponse():
                self._read_index_response(message)
            case _:
                assert_never(message)

    def _append_entries(self, message: AppendEntries) -> None:
        """The paper, 5.3. The answer waits until what it acknowledges is durable."""
        if message.term < self._term:
            # The sender is deposed, and learns it from the term.
            self._outbox.send_when_durable(refusal(message, self._term, 0, 0))
            return
        if not self._follow(message.term, message.sender):
            return
        self.leader_commit_index = max(self.leader_commit_index, message.commit_index)
        answer, changed = take_entries(self._log, message, self._term)
        if changed:
            self._outbox.change += 1
            # Both count: an entry was cut off, and another came.
            undone, came = self._configurations.rollback(self._log), self._configurations.append(message.entries)
            if undone or came:
                self._adopt_configuration()
            if came and not self._changing_index:
                # To somebody who lags, a change comes together with the news that it is committed.
                self._configuration_committed()
        self._outbox.send_when_durable(answer)

    def _append_entries_response(self, message: AppendEntriesResponse) -> None:
        if message.term > self._term:
            self._become_follower(message.term, None)
        elif self._leader is not None and message.term == self._term:
            if message.match_index > self._log.last_index:
                self.ignored_messages += 1
                self._outbox.event("malformed_message", sender=message.sender.name, kind="AppendEntriesResponse")
                return
            self._leader.append_entries_response(message, self._now)

    def _heartbeat(self, message: Heartbeat) -> None:
        """Answered at once: the answer promises nothing of the log."""
        if message.term >= self._term:
            if not self._follow(message.term, message.sender):
                return
            self.leader_commit_index = max(self.leader_commit_index, message.commit_index)
            # The leader clips it to what was acknowledged to it, and in this term nothing of that is ever cut off.
            if message.commit_index <= self._log.last_index:
                self._log.commit_to(message.commit_index)
            else:
                self._outbox.event("log_lost", acknowledged=message.commit_index, last_index=self._log.last_index)
            if not message.answer:
                return
        self._outbox.send(
            HeartbeatResponse(
                self._id,
                message.sender,
                self._term,
                message.read_token,
                self._log.last_index,
                self._config.lease_ticks > 0,
            )
        )

    def _heartbeat_response(self, message: HeartbeatResponse) -> None:
        if message.term > self._term:
            self._become_follower(message.term, None)
        elif self._leader is not None and message.term == self._term:
            self._leader.heartbeat_response(message, self._now)

    def _read_index_request(self, message: ReadIndexRequest) -> None:
        """Only the leader of that very term answers; whoever asked another one will hear who leads, and ask again."""
        if self._leader is not None and message.term == self._term:
            self._leader.read_index_request(message)

    def _read_index_response(self, message: ReadIndexResponse) -> None:
        if message.term > self._term:
            self._become_follower(message.term, None)
        elif message.term == self._term and message.sender == self._leader_id:
            self._read_states += [
                ReadState(context, message.read_index) for context in self._forwarded.answered(message.token)
            ]

    # Helpers.

    def _ask_leader(self, leader: NodeId) -> None:
        """Forwards the reads that wait; again when the request or its answer seems to be lost."""
        token = self._forwarded.ask(leader, self._term, self._now)
        if token:
            self._outbox.send(ReadIndexRequest(self._id, leader, self._term, token))

    def _not_leader(self) -> NotLeaderError:
        return NotLeaderError(self._leader_id.name if self._leader_id else "")
