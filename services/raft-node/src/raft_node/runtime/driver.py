"""The Ready loop: feeds the core with messages, proposals and time, and does what it asks for.

Everything here runs on the event loop; only the log writer and the engine's background work have threads. What arrives
in one turn of the loop becomes one batch: ``wake`` schedules a single ``_turn``, whatever the number of callers.

Invariants:
1. The order of duties is that of ``raft_node.raft.ready``; persist, then send.
2. One log write is under way at a time.
3. Time reaches the core as ticks (``raft_node.runtime.ticks``).
4. While leadership is handed over, writes are held back, and reads as soon as this node does not lead any more. Once
   somebody leads, they are refused with that leader's name, certainly not applied; if it stays here, they go on.
5. Entries are applied in order: while blocks are loaded that some command reads, none behind it is.
6. Between ``begin_restore`` and ``end_restore`` the core is ahead of what lies on disk: nothing is written to the log
   and nothing applied, and ``applied_index`` tells what reads see.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from doug_wire import command as commands
from doug_wire.command import Opcode
from doug_wire.pipe import Status
from raft_node.entry import Entry, EntryKind
from raft_node.errors import FatalError, NotLeaderError, OverloadedError
from raft_node.kv import partitions
from raft_node.kv.state_machine import StateMachine
from raft_node.observability.metrics import Metrics
from raft_node.observability.tracing import NodeTraces
from raft_node.raft.messages import Message
from raft_node.raft.node import Proposal, RaftNode
from raft_node.raft.ready import Event, Ready
from raft_node.raft.types import Configuration, HardState, NodeId, Role
from raft_node.runtime.clocks import WallClock
from raft_node.runtime.disk.stalls import Stalls
from raft_node.runtime.driver_ports import LoadBlocks, NoSink, Stallable, Transport
from raft_node.runtime.leadership.hand_overs import HandOvers
from raft_node.runtime.leadership.holds import Hold
from raft_node.runtime.log.commit_times import CommitTimes, NodeTimes
from raft_node.runtime.log.store import LogStore
from raft_node.runtime.reads.log_clock import ClockCallback, LogClock, TimedRequests
from raft_node.runtime.reads.rounds import PendingReads, ReadCallback
from raft_node.runtime.ticks import Ticks
from raft_node.runtime.writes.proposals import PendingProposals, Sink, Submission
from raft_node.runtime.writes.waiting import WaitingWrites

READS_WAITING_MAX = 50_000
"""The most reads that wait for a quorum; more are refused."""

HUNG_WRITE_S = 1.0
"""A leader steps down when a log write takes longer: its clients wait for its disk, and followers could go on."""


_NO_CRC = commands.checksum(b"")


class Driver:
    """Runs one ``RaftNode``.

    Attributes:
        times: The times that the steps of the newest answers took.
    """

    def __init__(
        self,
        node: RaftNode,
        log: LogStore,
        machine: StateMachine,
        engine: Stallable,
        transport: Transport,
        metrics: Metrics,
        *,
        tick_ms: int,
        proposal_timeout_ms: int,
        shard: int,
        shards: int,
        on_event: Callable[[Event], None],
        on_applied: Callable[[], None],
        on_snapshots_wanted: Callable[[Sequence[NodeId]], None],
        on_failure: Callable[[FatalError], None],
        lease_clock: Callable[[], float] | None = None,
        load: LoadBlocks | None = None,
        disk_full: Callable[[], bool] = lambda: False,
        taken_when_full: Callable[[bytes], bool] = lambda command: False,
        traces: NodeTraces | None = None,
    ) -> None:
        """Builds it; ``start`` sets it going.

        Args:
            node: The core.
            log: The core's log.
            machine: The state machine, which committed entries are applied to.
            engine: Tells when applying must wait.
            transport: Sends messages to peers.
            metrics: The metrics of the node.
            tick_ms: The grain of the core's time.
            proposal_timeout_ms: The time after which an unanswered proposal becomes unknown.
            shard: This shard's number, for the entry that creates it.
            shards: How many shards a new cluster starts with, for the same entry.
            on_event: Takes the core's events.
            on_applied: Called after entries were applied, so that flushes are seen to.
            on_snapshots_wanted: Takes peers that need a snapshot; ``snapshot_sent`` or ``snapshot_failed`` ends that.
            on_failure: Called when the node must stop; the driver has stopped then.
            lease_clock: The clock that leases are judged by, in ticks; None without leases.
            load: Loads blocks for the state machine, off the event loop; None only if it never needs any.
            disk_full: Tells whether writes are refused for want of space; asked for every batch.
            taken_when_full: Tells whether a command is taken on a full disk, because it frees space.
            traces: The spans of sampled writes; None while tracing is off.
        """
        self.node, self.machine, self.pending = node, machine, PendingProposals()
        self._log = log
        self._engine, self._transport, self._metrics = engine, transport, metrics
        self._proposal_timeout_s = proposal_timeout_ms / 1000
        self._create_shard, self._create_shard_term = partitions.encode_create_shard(shard, shards), 0
        self._on_event, self._on_applied = on_event, on_applied
        self._on_snapshots_wanted, self._on_failure = on_snapshots_wanted, on_failure
        self._load, self._log_clock, self._traces = load, LogClock(self._propose_clock), traces
        self._loop = asyncio.get_running_loop()
        self._clock = WallClock()
        self._inbox = list[Message]()
        self._timed = TimedRequests(self._log_clock, lambda: self.machine.may_be_due(self._clock.now_us()), self.wake)
        self._waiting = WaitingWrites(metrics, lambda: engine.stalled, disk_full, taken_when_full)
        self._held: Sequence[Entry] = ()
        self._loading = False
        self.times = NodeTimes()
        self.reads = PendingReads(node, metrics, self._loop.time, lease_clock, times=self.times)
        self._ticks = Ticks(node, tick_ms / 1000, metrics, self._guarded, self._turn)
        self._turn_scheduled = self._stopped = False
        self._stalls = Stalls(self._loop.time, on_event)
        self._commit_times = CommitTimes(metrics.commit_duration.observe, self.times)
        self._holds: set[Hold] = set()
        self._hand_overs = HandOvers(node, metrics, self.wake)
        self._restoring_from: int | None = None  # The applied index while a snapshot is being installed.

    # Input.

    def start(self) -> None:
        """Starts the clock of the core, and applies the entries that are known to be committed."""
        self._ticks.begin()
        self.wake()

    def stop(self) -> None:
        """Ends all activity. Writes without a result are answered as unknown."""
        self._stopped = True
        self._ticks.stop()
        self.pending.expire(float("inf"))
        self._hand_overs.fail("the node stops")
        for submission in self._waiting.pop():
            submission.sink.resolve(submission.record_id, Status.NOT_LEADER, 0)
        self.reads.stop()

    def receive(self, message: Message) -> None:
        """Takes a message that the transport has decoded."""
        self._inbox.append(message)
        self.wake()

    def peer_unreachable(self, peer: NodeId) -> None:
        """Notes that the messages under way to a peer are lost."""
        if not self._stopped:
            self.node.peer_unreachable(peer)
            self.wake()

    def submit(self, submissions: Sequence[Submission]) -> None:
        """Proposes writes; each write's sink is told its outcome, once."""
        if not self._takes_requests():
            self._waiting.refuse(submissions, Status.NOT_LEADER, "not_leader")
        elif self._waiting.take(submissions):
            self.wake()

    def propose(self, kind: EntryKind, command: bytes) -> bool:
        """Proposes an entry of the node itself, which nobody waits for; returns whether it was proposed."""
        if self._stopped or self.holding or not self._waiting.has_room_for(command):
            return False
        try:
            self.node.propose([Proposal(kind, command, commands.checksum(command))], self._clock.now_us())
        except (NotLeaderError, OverloadedError):
            return False
        self.wake()
        return True

    def change_members(self, configuration: Configuration, sink: Sink) -> tuple[int, int]:
        """Proposes other members; returns the entry's index and term. The sink is told the outcome, once.

        Raises:
            NotLeaderError: Another node leads, or none.
            OverloadedError: Leadership is being handed over.
            ConfigurationRefusedError: See ``RaftNode.propose_configuration``.
        """
        if self._stopped:
            raise NotLeaderError
        index, term = self.node.propose_configuration(configuration, self._clock.now_us())
        self.pending.add(index, term, [Submission(sink, 0, 0, b"")], self._loop.time() + self._proposal_timeout_s)
        self.wake()
        return index, term

    def now_us(self) -> int:
        """The clock that entries are stamped with while this node leads, in microseconds since the epoch."""
        return self._clock.now_us()

    def move_clock(self, callback: ClockCallback) -> None:
        """Has the log clock moved up to now; see ``raft_node.runtime.reads.log_clock``."""
        self._log_clock.move(callback)

    def _propose_clock(self, sink: Sink) -> bool:
        if self._stopped or self.holding:
            return False
        try:
            index, term = self.node.propose([Proposal(EntryKind.CLOCK, b"", _NO_CRC)], self._clock.now_us())
        except (NotLeaderError, OverloadedError):
            return False
        self.pending.add(index, term, [Submission(sink, 0, 0, b"")], self._loop.time() + self._proposal_timeout_s)
        self.wake()
        return True

    def read(self, callback: ReadCallback, *, forward: bool = False) -> None:
        """Asks for a linearizable read; reads that come while a round is under way share the next one.

        Args:
            callback: Called once, with whether the read may be served here.
            forward: Whether a node that follows asks its leader, instead of refusing the read.
        """
        takes = self._takes_requests() or (forward and not self._stopped and self.node.leader is not None)
        if not takes or len(self.reads) >= READS_WAITING_MAX:
            callback(False)
            return
        self.reads.add(callback, forward=forward)
        self.wake()

    @property
    def holding(self) -> bool:
        """Whether requests are held back, because leadership is about to move."""
        return bool(self._holds)

    def hold(self) -> Hold:
        """Proposes nothing until the hold ends; requests that come meanwhile wait for that, or ``stop`` refuses them.

        Once no hold is left, the requests that wait are proposed if this node leads, and refused otherwise.
        """
        return Hold(self._holds, self.wake)

    def hand_over(self, target: NodeId | None, timeout_s: float) -> Coroutine[Any, Any, NodeId]:
        """Hands leadership over; gives, awaited, the new leader, which under ill luck is another node than the target.

        Args:
            target: A voter; None for the most caught-up one.
            timeout_s: How long to wait until a leader is known, and how long requests are held back at most.

        Raises:
            NotLeaderError: Another node leads, or none.
            TransferRefusedError: The target cannot take over.
            TransferFailedError: No other node was seen to take over in time.
        """
        if self._stopped:
            raise NotLeaderError
        return self._hand_overs.run(target, timeout_s, self.hold)

    def _takes_requests(self) -> bool:
        return not self._stopped and (self.node.role is Role.LEADER or self.holding)

    def durable(self, sequence: int) -> None:
        """Notes that a log write is durable."""
        if not self._stopped:
            self._commit_times.written(self._log.last_index, *self._log.last_write_s)
            self.node.persisted(sequence)
            self.wake()

    def expire(self) -> None:
        """Answers requests that have waited too long, and leaves the lead if the disk hangs; called now and then."""
        now_s = self._loop.time()
        expired = self.pending.expire(now_s)
        if expired:
            self._metrics.proposals_failed.labels(self._metrics.shard, "timeout").inc(expired)
        self.reads.expire(now_s - self._proposal_timeout_s)
        if self.node.role is Role.LEADER and self._log.write_age_s > HUNG_WRITE_S:
            self.node.resign("the disk hangs")
            self.wake()

    @property
    def applied_index(self) -> int:
        """The last entry that was applied here, and that reads see."""
        return self.node.applied_index if self._restoring_from is None else self._restoring_from

    # Snapshots.

    def snapshot_sent(self, peer: NodeId, index: int) -> None:
        """Notes that a peer which needed a snapshot has everything up to ``index``."""
        if not self._stopped:
            self.node.snapshot_sent(peer, index)
            self.wake()

    def snapshot_failed(self, peer: NodeId) -> None:
        """Notes that a peer which needed a snapshot got none."""
        if not self._stopped:
            self.node.snapshot_failed(peer)
            self.wake()

    def begin_restore(self, index: int, term: int, configuration: Configuration, timestamp_us: int) -> HardState | None:
        """Has the core take over a snapshot whose files are complete; None if it is of no use any more.

        Otherwise the caller makes it the durable state, resets the log with the hard state that it was given, and ends
        with ``end_restore``; if it cannot, the node must stop.
        """
        assert self._restoring_from is None, "one snapshot is installed at a time"
        applied = self.node.applied_index
        if self._stopped or not self.node.restore(index, term, configuration, timestamp_us):
            return None
        self._restoring_from = applied
        # Entries that were handed out before are void: the snapshot includes them.
        self._held, self._loading = (), False
        self.wake()
        return HardState(self.node.term, self.node.voted_for, index)

    def take_state(self, machine: StateMachine, index: int) -> None:
        """Takes the snapshot's state machine; the log is reset afterwards."""
        assert self._restoring_from is not None
        self._restoring_from = index
        self.machine = machine

    def end_restore(self) -> None:
        """Goes on writing and applying: state and log are those of the snapshot now."""
        assert self._restoring_from is not None
        self._restoring_from = None
        self.wake()

    @property
    def restoring(self) -> bool:
        """Whether a snapshot is being installed."""
        return self._restoring_from is not None

    @property
    def present_stall_s(self) -> float:
        """For how long applying has waited for flushes and compactions by now; 0 when it does not."""
        return self._stalls.present_s

    @property
    def stalled_s(self) -> float:
        """For how long in all applying has waited for flushes and compactions since the start."""
        return self._stalls.total_s

    def wake(self) -> None:
        """Has ``_turn`` run once, soon."""
        if not self._turn_scheduled and not self._stopped:
            self._turn_scheduled = True
            self._loop.call_soon(self._guarded, self._turn)

    # One turn.

    def _guarded(self, act: Callable[[], None]) -> None:
        """Runs every callback of the driver; an error that must end the node leaves the driver here alone."""
        try:
            act()
        except FatalError as error:
            self.stop()
            self._on_failure(error)

    def _turn(self) -> None:
        self._turn_scheduled = False
        if self._stopped:
            return
        self._note_stall()
        if self._inbox or self._timed:
            self._step()
        if self._held and not self._must_hold:
            held, self._held = self._held, ()
            self._apply(held)
        if self._waiting and not self.holding:
            self._propose()
        if self.reads.waiting and (self.node.role is Role.LEADER or not self.holding):
            self.reads.ask()
        ready = self.node.ready(self._may_write)
        while ready is not None:
            self._handle(ready)
            if ready.committed and self.node.applied_index < min(self.node.commit_index, self._log.last_index):
                # Much of the log is to be replayed. Between two chunks of it the loop serves everybody else, the flush
                # of what was applied so far among them.
                self.wake()
                break
            ready = self.node.ready(self._may_write)
        self.reads.serve(self.applied_index)
        self._hand_overs.conclude()
        self._note_stall()
        self._ticks.set_timer()

    @property
    def _may_write(self) -> bool:
        return self._restoring_from is None and self._log.idle

    @property
    def _must_hold(self) -> bool:
        return self._restoring_from is not None or self._engine.stalled or self._loading

    def _note_stall(self) -> None:
        """Notes whether the engine holds applying up; called twice a turn, since that may change within one."""
        self._stalls.note(self._engine.stalled, self.node.applied_index)

    def _step(self) -> None:
        self._ticks.count_before_message()
        inbox, self._inbox = self._timed.take(self._inbox), []
        for message in inbox:
            self.node.step(message)

    def _handle(self, ready: Ready) -> None:
        if ready.messages:
            self._transport.send(ready.messages)
        if ready.write is not None:
            self._log.write(ready.write)
        for event in ready.events:
            if event.name == "became_leader":
                ahead_us = self._clock.rebase(self.node.log.last_timestamp_us)
                self._metrics.log_clock_ahead.set(ahead_us / 1e6)
            elif event.name == "lost_leadership":
                self._metrics.log_clock_ahead.set(0)
            self._hand_overs.heard(event)
            self._on_event(event)
        if ready.committed:
            assert not self._held, "the core hands out one chunk of committed entries at a time"
            if self._traces is not None:
                self._traces.committed(ready.committed)
            self._commit_times.committed(ready.committed[-1].index, self.node.term, self._loop.time())
            if self._must_hold:
                # Applied by a later turn; meanwhile the core hands out no more, so that memory stays bounded.
                self._held = ready.committed
            else:
                self._apply(ready.committed)
        # Deposed while it hands over, its reads wait with the others until it can be said who leads.
        self.reads.take(ready, keep=self.holding)
        if ready.snapshots_wanted:
            self._on_snapshots_wanted(ready.snapshots_wanted)

    def _apply(self, entries: Sequence[Entry]) -> None:
        started_s = time.perf_counter()
        outcomes = self.machine.apply(entries)
        if len(outcomes) < len(entries):
            self._keep(entries[len(outcomes) :])
            entries = entries[: len(outcomes)]
            if not entries:
                return
        self.times.apply_s = time.perf_counter() - started_s
        self._metrics.apply_duration.observe(self.times.apply_s)
        if self._traces is not None:
            self._traces.applied(entries)
        last = entries[-1]
        self.node.applied(last.index)
        self._metrics.entries_applied.inc(len(entries))
        self._metrics.apply_batch.observe(len(entries))
        committed = self.pending.applied(entries, outcomes)
        if committed:
            self._metrics.proposals_committed.inc(committed)
        if not self.machine.created and last.term == self.node.term:
            self._propose_creation()
        self._on_applied()

    def _keep(self, entries: Sequence[Entry]) -> None:
        """Holds entries back until the blocks that they need are loaded, or the event loop has done other work."""
        machine, self._held = self.machine, entries
        if not machine.needed:
            self.wake()
            return
        assert self._load is not None, "nothing can be loaded"
        self._loading = True

        def loaded(found: Sequence[tuple[bytes, bytes | None]]) -> None:
            # A snapshot may have taken the place of this state meanwhile.
            if machine is self.machine and self._loading and not self._stopped:
                machine.loaded(found)
                self._loading = False
                self.wake()

        self._load(machine.needed, loaded)

    def _propose_creation(self) -> None:
        """Proposes the entry that says which slots a new shard owns, once in each term of this leader."""
        if self.node.role is Role.LEADER and self._create_shard_term != self.node.term:
            self._create_shard_term = self.node.term
            command = commands.encode(Opcode.CREATE_SHARD, b"", value=self._create_shard)
            self._waiting.add(Submission(NoSink(), 0, commands.checksum(command), command))
            self.wake()

    def _propose(self) -> None:
        submissions = self._waiting.pop()
        proposals = [Proposal(EntryKind.COMMAND, item.command, item.crc) for item in submissions]
        try:
            first_index, term = self.node.propose(proposals, self._clock.now_us())
        except NotLeaderError:
            self._waiting.refuse(submissions, Status.NOT_LEADER, "not_leader")
        except OverloadedError:
            self._waiting.refuse(submissions, Status.OVERLOADED, "overloaded")
        else:
            now_s = self._loop.time()
            self._commit_times.proposed(first_index + len(submissions) - 1, term, now_s)
            self.pending.add(first_index, term, submissions, now_s + self._proposal_timeout_s)
            if self._traces is not None:
                self._traces.proposed(first_index, term, [item.trace for item in submissions])


__all__ = ["Driver", "ReadCallback", "Sink", "Stallable", "Submission", "Transport", "WallClock"]
