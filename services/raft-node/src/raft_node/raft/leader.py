"""The leader's part, and its state: replication, commit, heartbeats, check-quorum, read rounds.

One ``Leader`` lives from winning an election to losing the role; it holds the paper's "volatile state on leaders" and
knows no other role. It writes messages into the outbox and moves the log's commit index; it never changes the role.

Invariants:

1. Only entries of the own term are committed by counting; older ones follow by log matching (the paper, 5.4.2).
2. The leader counts itself only with what is durable on its own disk (thesis, 10.2.1).
3. A commit index in a heartbeat is never beyond what the receiver is known to hold.
4. An AppendEntries counts as a heartbeat; a commit notice, which nobody answers, does not.

Reference: the paper, 5.3, 5.4 and 8; the thesis, 6.2 (check-quorum), 6.4 (ReadIndex), 10.2.1 (pipelining).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from raft_node.entry import Entry
from raft_node.errors import TransferRefusedError
from raft_node.raft.config import RaftConfig
from raft_node.raft.departures import Departures
from raft_node.raft.learners import Learners
from raft_node.raft.lease import Lease
from raft_node.raft.log import RaftLog
from raft_node.raft.messages import (
    AppendEntries,
    AppendEntriesResponse,
    Heartbeat,
    HeartbeatResponse,
    ReadIndexRequest,
    ReadIndexResponse,
    TimeoutNow,
)
from raft_node.raft.outbox import Outbox
from raft_node.raft.pace import Pace
from raft_node.raft.progress import Progress, ProgressState
from raft_node.raft.quorum import is_quorum, majority, quorum_value
from raft_node.raft.read_index import ReadIndexRounds
from raft_node.raft.thrift import Thrift
from raft_node.raft.types import Configuration, NodeId, ReadState


@dataclass(slots=True)
class Transfer:
    """A hand-over of leadership that is under way.

    Attributes:
        target: The member that is to lead.
        deadline_tick: When the transfer is given up.
        sent_tick: When the target was last asked to campaign; None before it has caught up.
    """

    target: NodeId
    deadline_tick: int
    sent_tick: int | None = None


class Leader:
    """The state of one leadership.

    Attributes:
        progress: The state of each peer: the other members, and nodes that still have to learn of their removal.
        reads: The rounds that confirm linearizable reads.
        lease: The lease, while which reads need no round.
        transfer: The hand-over that is under way, in which no proposals are taken; None without one.
    """

    def __init__(
        self,
        *,
        config: RaftConfig,
        node_id: NodeId,
        term: int,
        configuration: Configuration,
        log: RaftLog,
        outbox: Outbox,
        last_read_token: int,
        now: int,
    ) -> None:
        self._config = config
        self._id = node_id
        self._term = term
        self._log = log
        self._outbox = outbox
        self._voters: tuple[NodeId, ...] = ()
        self._other_voters: tuple[NodeId, ...] = ()
        # The entry that the caller is about to append is the first of this term.
        self._term_start_index = log.last_index + 1
        self._pace = Pace(config.heartbeat_ticks, now)
        self.transfer: Transfer | None = None
        self.reads = ReadIndexRounds(last_read_token)
        self.lease = Lease(config.lease_ticks)
        self.progress: dict[NodeId, Progress] = {}
        self._learners = Learners(config.election_timeout_ticks)
        self._thrift = Thrift(config.trail_ticks)
        self._departures = Departures(config.election_timeout_ticks_max, config.heartbeat_ticks)
        self._take_members(configuration, log.last_index + 1, now)

    @property
    def established(self) -> bool:
        """Whether an entry of the own term is committed."""
        return self._log.commit_index >= self._term_start_index

    # Time.

    def proposed(self, now: int) -> None:
        """Notes that entries were proposed together."""
        self._pace.proposed(now)

    def tick(self, now: int) -> None:
        """Sends the heartbeats and the commit notices that are due, and gives up a transfer that took too long."""
        if self.transfer is not None and now >= self.transfer.deadline_tick:
            self._abort_transfer("timeout")
        for learner in self._learners:
            self._learners.measure(learner, self.progress[learner], self._log.last_index, now)
        for node in self._departures.let_go(self.progress, now):
            del self.progress[node]
        interval = self._config.heartbeat_ticks
        progress = self.progress
        for peer in progress.values():
            if now - max(peer.heard_tick, peer.probed_tick) >= self._config.election_timeout_ticks_max:
                # A node that lags behind changes of the members knows its leader by entries alone, not by heartbeats.
                peer.probe_again(now)
        due = any(now - peer.sent_tick >= interval for peer in progress.values())
        for node, peer in progress.items():
            # When one peer is due, those that soon will be get theirs too: an idle leader wakes up once an interval.
            if (due and 2 * (now - peer.sent_tick) >= interval) or (
                self._awaits_read(node) and now - peer.heartbeat_tick >= interval
            ):
                self._heartbeat(node, peer, now)
            elif not self._pace.streaming and self._owes_commit_index(peer):
                self._notice(node, peer)

    def ticks_to_deadline(self, now: int) -> int:
        """How many ticks pass before the leader has to act; at least 1."""
        deadline = self._quorum_heard_tick(now) + self._config.election_timeout_ticks_max
        interval = self._config.heartbeat_ticks
        if self.transfer is not None:
            deadline = min(deadline, self.transfer.deadline_tick)
            if self.transfer.sent_tick is not None:
                deadline = min(deadline, self.transfer.sent_tick + interval)
        first, last = self._thrift.first, self._log.last_index
        if first:
            deadline = self._thrift.deadline(deadline)
        for node, peer in self.progress.items():
            if self._owes_commit_index(peer) and (not self._pace.streaming or peer.watched or peer.waits):
                return 1
            if first and peer.next_index <= last and not peer.inflights:
                deadline = min(deadline, self._trails_until(node, peer, now) or deadline)
            deadline = min(deadline, peer.sent_tick + interval)
            if self._awaits_read(node):
                deadline = min(deadline, peer.heartbeat_tick + interval)
        return max(1, deadline - now)

    def lost_quorum(self, now: int) -> bool:
        """Whether no quorum was heard within an election timeout (check-quorum)."""
        return now - self._quorum_heard_tick(now) >= self._config.election_timeout_ticks_max

    # Messages in.

    def append_entries_response(self, message: AppendEntriesResponse, now: int) -> None:
        """Takes a peer's answer to entries: it acknowledges or refuses them."""
        peer = self._heard(message.sender, now)
        peer.watched = message.watched
        if message.success:
            peer.accepted(message.match_index)
            if peer.state is ProgressState.SNAPSHOT and peer.match_index + 1 >= self._log.first_index:
                # The peer got that far by other means, such as a snapshot of an earlier leader.
                peer.snapshot_sent(peer.match_index)
            if message.sender in self._learners:
                self._learners.measure(message.sender, peer, self._log.last_index, now)
            self.advance_commit(now)
        else:
            # Skip all entries of terms that the peer cannot have (the paper, end of 5.3).
            hint = self._log.last_index_of_term_at_most(message.hint_index, message.hint_term)
            peer.rejected(message.rejected_index, hint + 1)

    def heartbeat_response(self, message: HeartbeatResponse, now: int) -> None:
        """Takes a peer's answer to a heartbeat: it may confirm a read round, or show that an AppendEntries was lost."""
        peer = self._heard(message.sender, now)
        peer.watched = message.watched
        if message.read_token:
            self.reads.acknowledge(message.sender, message.read_token, keeps_vote=message.keeps_vote)
        if peer.inflights:
            oldest = peer.inflights[0]
            # Entries that did arrive are answered after an fsync, which may take its time.
            arrived = peer.state is ProgressState.REPLICATE and message.last_log_index >= oldest.last_index
            patience = self._config.election_timeout_ticks if arrived else self._config.heartbeat_ticks
            if now - oldest.tick >= patience:
                peer.lost()

    def read_index_request(self, message: ReadIndexRequest) -> None:
        """Takes the request of a member that follows and wants to serve reads; the next round confirms them, too."""
        self.reads.forward(message.sender, message.token)

    def snapshot_sent(self, node: NodeId, index: int) -> None:
        """Notes that a peer has installed a snapshot of everything up to ``index``."""
        peer = self.progress.get(node)
        if peer is not None and peer.state is ProgressState.SNAPSHOT:
            peer.snapshot_sent(index)

    def snapshot_failed(self, node: NodeId) -> None:
        """Notes that a snapshot could not be sent to a peer."""
        peer = self.progress.get(node)
        if peer is not None and peer.state is ProgressState.SNAPSHOT:
            peer.snapshot_failed()

    def peer_unreachable(self, node: NodeId) -> None:
        """Notes that the transport lost the stream to a peer, with the messages in it."""
        peer = self.progress.get(node)
        if peer is not None:
            peer.lost()
            # Sending again at once would fail again at once; the next answer to a heartbeat opens the window.
            peer.paused = True

    # Members.

    def reconfigure(self, configuration: Configuration, index: int, now: int) -> None:
        """Goes on with the members of a new configuration, which is the entry at ``index``, the last of the log."""
        # Promises of a quorum of the former voters need not bind a quorum of the configuration after the next.
        self.lease.interrupt()
        former = set(self.progress)
        self._take_members(configuration, index, now)
        for node in former.difference(configuration.voters, configuration.learners):
            self.depart(node, index, now)
        if self.transfer is not None and self.transfer.target not in self._other_voters:
            self._abort_transfer("removed")

    def depart(self, node: NodeId, index: int, now: int) -> None:
        """Goes on sending to a node, for a while, so that it learns from the entry at ``index`` that it was removed."""
        if self._departures.add(node, index, now):
            self.progress.setdefault(node, self._new_progress(index, now))

    def caught_up(self, learner: NodeId) -> bool:
        """Whether a learner follows closely enough to become a voter without holding commits up."""
        return self._learners.caught_up(learner)

    # Transfer.

    def begin_transfer(self, target: NodeId | None, now: int) -> None:
        """Begins to hand leadership over (thesis, 3.10); None means the most caught-up voter that was heard lately.

        Asking again for the same target, or for any while one is under way, changes nothing; another target takes the
        place of the first.

        Raises:
            TransferRefusedError: The target is not another voter, or there is none.
        """
        if target is None:
            if self.transfer is not None:
                return
            target = self.best_successor(now)
            if target is None:
                raise TransferRefusedError("there is no other voter")
        elif target not in self._other_voters:
            raise TransferRefusedError(f"{target.name} is not another voter of this shard")
        if self.transfer is not None:
            if self.transfer.target == target:
                return
            self._abort_transfer("replaced")
        self.transfer = Transfer(target, now + self._config.election_timeout_ticks_max)
        self._outbox.event("transfer_started", term=self._term, target=target.name)

    def best_successor(self, now: int) -> NodeId | None:
        """The most caught-up of the other voters, those first that were heard lately; None when there are none."""

        def rank(voter: NodeId) -> tuple[bool, int, int]:
            peer = self.progress[voter]
            lately = now - peer.heard_tick < self._config.election_timeout_ticks
            return lately, peer.match_index, peer.heard_tick

        return max(self._other_voters, key=rank, default=None)

    def complete_successor(self, now: int) -> NodeId | None:
        """The best successor if it has the whole log, so that it can be elected at once."""
        node = self.best_successor(now)
        return node if node is not None and self.progress[node].match_index == self._log.last_index else None

    # Reads.

    def read(self, context: int, clock: float | None, now: int) -> ReadState | None:
        """Takes a read: confirmed at once while the lease holds, by the next round otherwise.

        Args:
            context: The number that names the read in ``Ready``.
            clock: The monotonic clock in ticks, read after the read came; None asks for a round.
            now: The tick.
        """
        reading = None
        if clock is not None and self._config.lease_ticks:
            reading = self.lease.read(clock, now)
            if self.lease.holds(reading):
                return ReadState(context, self._log.commit_index)
        self.reads.waiting.append(context)
        self.reads.asked = reading
        return None

    # Consequences.

    def advance_commit(self, now: int) -> None:
        """Commits the entries that a quorum has on disk, if the last of them is of the own term."""
        own = self._log.stable_index
        index = quorum_value([own if v == self._id else self.progress[v].match_index for v in self._voters])
        if index <= self._log.commit_index:
            return
        if index >= self._term_start_index:
            self._log.commit_to(index)
            needed = majority(len(self._voters)) - (own >= index)
            fastest = [voter for voter in self._other_voters if self.progress[voter].match_index >= index]
            self._thrift.answered(fastest, needed, len(self._other_voters), now)

    def send(self, now: int) -> list[ReadState]:
        """Sends the entries that the windows have room for, and begins a read round; returns the confirmed reads."""
        last = self._log.last_index
        if self._thrift.trail_ticks:
            self._keep_thrift(now)
        first = self._thrift.first
        slices: dict[int, tuple[Sequence[Entry], int]] = {}
        appends_max, bytes_max = self._config.inflight_appends_max, self._config.inflight_bytes_max
        for node, peer in self.progress.items():
            if first and node not in first and now < self._trails_until(node, peer, now):
                continue
            # A snapshot may hold the whole log; then only an answer to a probe shows what the peer has.
            unproven = peer.cautious and peer.match_index < last
            while (peer.next_index <= last or unproven) and peer.window_open(appends_max, bytes_max):
                self._append_entries(node, peer, slices, now)
        self._hand_over(now)
        read_states = self._read_round(now)
        self._tell_waiting(now)
        return read_states

    def validate(self, configuration: Configuration) -> None:
        """Checks the invariants that are cheap to check."""
        assert self._voters == configuration.voters
        members = {*configuration.voters, *configuration.learners} - {self._id}
        assert members == {node for node in self.progress if node not in self._departures}
        for peer in self.progress.values():
            assert 0 <= peer.match_index < peer.next_index <= self._log.last_index + 1
            assert peer.told_commit_index <= self._log.commit_index
            assert peer.inflight_bytes == sum(inflight.size for inflight in peer.inflights)
            assert len(peer.inflights) <= max(1, self._config.inflight_appends_max)
            assert peer.state is ProgressState.REPLICATE or len(peer.inflights) <= 1

    # Helpers.

    def _take_members(self, configuration: Configuration, next_index: int, now: int) -> None:
        self._voters = configuration.voters
        self._other_voters = tuple(voter for voter in configuration.voters if voter != self._id)
        for node in (*self._other_voters, *configuration.learners):
            # While a node was leaving it was denied snapshots; one that comes back begins anew.
            if self._departures.come_back(node) or node not in self.progress:
                self.progress[node] = self._new_progress(next_index, now)
        self._learners.take(configuration.learners, next_index, now)
        self._thrift.forget()

    @staticmethod
    def _new_progress(next_index: int, now: int) -> Progress:
        return Progress(next_index=next_index, heard_tick=now, sent_tick=now, heartbeat_tick=now)

    def _heard(self, node: NodeId, now: int) -> Progress:
        peer = self.progress[node]
        peer.heard_tick = now
        peer.paused = False
        return peer

    def _quorum_heard_tick(self, now: int) -> int:
        return quorum_value([now if v == self._id else self.progress[v].heard_tick for v in self._voters])

    def _keep_thrift(self, now: int) -> None:
        """Has nobody trail if the voters that are asked first are late, cannot be reached or are to be chosen anew."""
        thrift = self._thrift
        thrift.waits(self._log.commit_index < self._log.last_index or self.reads.current is not None, now)
        if thrift.late(now) or any(self.progress[node].state is not ProgressState.REPLICATE for node in thrift.first):
            thrift.forget()
            self._ask_round(now)

    def _trails_until(self, node: NodeId, peer: Progress, now: int) -> int:
        """The tick until which entries for a peer are gathered; 0 if they are sent at once."""
        if not self._thrift.trails(node) or node not in self._other_voters:
            return 0
        hurried = peer.next_index <= peer.wanted_index or (peer.watched and self._pace.calm(now))
        succeeds = self.transfer is not None and self.transfer.target == node
        if hurried or succeeds or peer.state is not ProgressState.REPLICATE:
            return 0
        return peer.sent_tick + self._thrift.trail_ticks

    def _owes_commit_index(self, peer: Progress) -> bool:
        """Whether no message on its way to the peer, and no entry that is to be sent, carries the commit index."""
        return (
            peer.told_commit_index < self._log.commit_index
            and not peer.inflights
            and peer.next_index > self._log.last_index
        )

    def _tell_waiting(self, now: int) -> None:
        """Sends the commit index at once to the peers at which somebody waits for it.

        To the others a notice goes out at the next tick, or none in a stream of proposals: then the next AppendEntries
        carries the index, and when the stream ends the next heartbeat.
        """
        for node, peer in self.progress.items():
            if peer.watched or peer.wanted_index:
                hurried = peer.waits or (peer.watched and self._pace.calm(now))
                if hurried and self._owes_commit_index(peer):
                    self._notice(node, peer)

    def _notice(self, node: NodeId, peer: Progress) -> None:
        """Sends a notice of the commit index, which nobody answers. Requires: the peer has all entries."""
        peer.told_commit_index = min(self._log.commit_index, peer.match_index)
        self._outbox.send(Heartbeat(self._id, node, self._term, peer.told_commit_index, 0, answer=False))

    def _awaits_read(self, node: NodeId) -> bool:
        current = self.reads.current
        return current is not None and node in self._other_voters and node not in current.acknowledged

    def _heartbeat(self, node: NodeId, peer: Progress, now: int) -> None:
        commit_index = min(self._log.commit_index, peer.match_index)
        peer.told_commit_index = max(peer.told_commit_index, commit_index)
        peer.sent_tick = peer.heartbeat_tick = now
        self._outbox.send(Heartbeat(self._id, node, self._term, commit_index, self.reads.token))

    def _append_entries(
        self, node: NodeId, peer: Progress, slices: dict[int, tuple[Sequence[Entry], int]], now: int
    ) -> None:
        log = self._log
        start = peer.next_index
        if start < log.first_index:
            peer.needs_snapshot()
            if node not in self._departures:
                self._outbox.snapshots_wanted.append(node)
            self._outbox.event("snapshot_needed", peer=node.name, next_index=start, first_index=log.first_index)
            return
        entries: Sequence[Entry] = ()
        size = 0
        if not peer.cautious:
            # Peers at the same place share one slice, so that a transport can encode it once.
            if start not in slices:
                entries = log.entries(start, log.last_index + 1, self._config.append_bytes_max)
                slices[start] = entries, sum([len(entry.data) for entry in entries])
            entries, size = slices[start]
        last_sent = start - 1 + len(entries)
        peer.sent(last_sent, size, now)
        peer.told_commit_index = max(peer.told_commit_index, min(log.commit_index, last_sent))
        self._outbox.send(
            AppendEntries(self._id, node, self._term, start - 1, log.term(start - 1), log.commit_index, entries)
        )

    def _hand_over(self, now: int) -> None:
        """Asks the target of a transfer to campaign once it has all entries; asks again if that seems to be lost."""
        transfer = self.transfer
        if transfer is None or self.progress[transfer.target].match_index < self._log.last_index:
            return
        if transfer.sent_tick is None or now - transfer.sent_tick >= self._config.heartbeat_ticks:
            transfer.sent_tick = now
            # The voters will not keep their promises to it, and it may arrive late, when the transfer was given up.
            self.lease.surrender()
            self._outbox.send(TimeoutNow(self._id, transfer.target, self._term))

    def _abort_transfer(self, reason: str) -> None:
        assert self.transfer is not None
        self._outbox.event("transfer_aborted", term=self._term, target=self.transfer.target.name, reason=reason)
        self.transfer = None

    def _read_round(self, now: int) -> list[ReadState]:
        states = self._end_round(now)
        # A new leader does not know what is committed before an entry of its own term is (the paper, 8).
        if self.reads.due and self.established:
            self.reads.begin(self._log.commit_index, self._id)
            self._ask_round(now)
            states += self._end_round(now)
        return states

    def _ask_round(self, now: int) -> None:
        """Sends the heartbeats of the round to the voters that were not asked yet, and that do not trail."""
        current = self.reads.current
        if current is not None and len(current.asked) < len(self._other_voters):
            for node in self._other_voters:
                if node not in current.asked and not self._thrift.trails(node):
                    current.asked.add(node)
                    self._heartbeat(node, self.progress[node], now)

    def _end_round(self, now: int) -> list[ReadState]:
        """Ends a confirmed read round: answers the members that forwarded reads, and returns the leader's own reads."""
        confirmed = self.reads.take_confirmed(self._voters)
        if confirmed is None:
            return []
        if confirmed.began is not None and is_quorum(self._voters, confirmed.keep_votes):
            self.lease.renew(confirmed.began)
        others = [voter for voter in self._other_voters if voter in confirmed.acknowledged]
        self._thrift.answered(others, majority(len(self._voters)) - 1, len(self._other_voters), now)
        for node, token in confirmed.forwarded.items():
            self._outbox.send(ReadIndexResponse(self._id, node, self._term, token, confirmed.read_index))
            # It waits for everything up to there.
            if node in self.progress:
                self.progress[node].wanted_index = confirmed.read_index
        return confirmed.read_states
