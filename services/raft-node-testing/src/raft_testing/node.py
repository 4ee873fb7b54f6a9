"""One simulated process: a Raft core, its driver, its log on a virtual disk and its state machine.

It performs the driver's duties in the order of ``raft_node.raft.ready``, and everything takes virtual time: fsyncs,
applying, messages. It knows the cluster only through its ``Environment``. Its work with
snapshots is in ``raft_testing.installation``.

Invariants:
1. After a crash nothing of an earlier life reaches the node: every delayed call carries the life that it belongs to.
2. While it is paused it neither acts nor counts time; on waking it handles what has arrived, then counts one tick.
3. The log is compacted only as far as the durable state goes, so that the two always meet.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from typing import Any

from raft_node import errors
from raft_node.entry import Entry, EntryKind
from raft_node.raft.messages import Message
from raft_node.raft.node import RaftNode
from raft_node.raft.ready import Ready
from raft_node.raft.types import Configuration, NodeId, Proposal, Role, Write
from raft_testing.describe import describe, hard, show, span, state
from raft_testing.disk import Reset, SimulatedLog
from raft_testing.environment import EPOCH_US, TICK_US, Environment, Outcome
from raft_testing.installation import Installation
from raft_testing.machine import StateStore, encode_put
from raft_testing.observer import Observer
from raft_testing.snapshots import SnapshotMessage
from raft_testing.waiting import WaitingRequests


class SimulatedNode:
    """A node that can crash, pause and have a slow disk.

    Attributes:
        identity: Its name and incarnation; a replaced disk gives it another incarnation.
        store: The node's state.
        installation: The node's snapshots.
        spoils: Whether its disk sometimes damages the received part of a snapshot.
        fsync_max_us: How long an fsync takes at most.
        apply_max_us: How long a batch waits before it is applied, at most.
        sleeps: Whether its driver sleeps until the core's next deadline, or counts every single tick.
        tick_us: The length of its tick; nodes may have different ones.
        watched: Whether somebody waits at it for whatever is committed next.
        clock_offset_us: By how many microseconds its wall clock is ahead.
    """

    def __init__(self, environment: Environment, identity: NodeId, log: SimulatedLog, store: StateStore) -> None:
        self.name = identity.name
        self.identity = identity
        self.log = log
        self.store = store
        self.environment = environment
        self.installation = Installation(self)
        self.raft: RaftNode | None = None
        self.life = 0
        self.paused = False
        self.fsync_max_us = 2_000
        self.apply_max_us = 0
        self.sleeps = False
        self.tick_us = TICK_US
        self.spoils = False
        self.watched = False
        self.clock_offset_us = 0
        self._inbox: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        self._unapplied: deque[Entry] = deque()
        self._applying = False
        self._writer_busy = False
        self._write_began_us = 0
        self._waiting = WaitingRequests(environment, identity.name)
        self._observer = Observer(environment, identity.name)
        self._ticks_slept = 0
        self._lead_offset_us = 0

    @property
    def now_us(self) -> int:
        """The time of its clock for log timestamps, in microseconds."""
        return EPOCH_US + self.environment.clock.now_us + self._lead_offset_us

    # Life and death.

    def start(self) -> None:
        """Starts the process with the contents of its disk."""
        assert self.raft is None, "it runs"
        self.life += 1
        self.paused = False
        self._ticks_slept = 0
        environment = self.environment
        chance = random.Random(f"{environment.chance.random()}/{self.name}/{self.life}")  # noqa: S311
        head = self.store.head
        environment.checkers.state_durable(self.name, head.applied_index)
        index, term = head.applied_index, head.applied_term
        assert index >= self.log.first_index - 1, "the log begins behind the state"
        if index > self.log.last_index or self.log.term(index) != term:
            # It died between switching to a snapshot and resetting its log.
            self.log.reset(Reset(index, term))
            environment.counters["reset_at_start"] += 1
        if index:
            environment.checkers.applied(self.name, index, head.digest)
        self.raft = environment.core(
            environment.config,
            self.identity,
            self.log,
            self.log.hard_state,
            head.configuration,
            index,
            chance,
            head.timestamp_us,
        )
        self.raft.be_watched(self.watched)
        self._observer.started(self.raft)
        environment.trace(
            f"{self.name} start life={self.life} state={index} log={self.log.first_index}..{self.log.last_index} "
            f"{hard(self.log)}"
        )
        environment.clock.call_later(int(chance.random() * self.tick_us), self._tick, self.life)
        self.pump()

    def crash(self) -> None:
        """Kills the process: everything that is not on disk is lost."""
        assert self.raft is not None, "it does not run"
        environment = self.environment
        self.raft = None
        self.life += 1
        step = self.installation.step or "-"
        adopting, reset = self.installation.crash(spoil=self.spoils)
        self.store.crash(environment.chance, adopting)
        environment.checkers.state_durable(self.name, self.store.durable_index)
        fate, survivors = self.log.crash(environment.chance, reset)
        environment.counters[f"write_{fate}"] += 1
        environment.trace(f"{self.name} crash write={fate} install={step} state={self.store.durable_index}")
        environment.checkers.became_durable(self.name, survivors)
        environment.checkers.disk_changed(self.name)
        self._inbox.clear()
        self._unapplied.clear()
        self._applying = False
        self._writer_busy = False
        self._waiting.lose_all()

    def wipe(self, identity: NodeId, log: SimulatedLog, store: StateStore) -> None:
        """Gives a node that is down an empty disk, and so another incarnation."""
        assert self.raft is None, "it runs"
        assert identity.name == self.name
        self.identity, self.log, self.store = identity, log, store
        self.installation.wipe()
        self.environment.trace(f"{self.name} wiped incarnation={identity.incarnation}")

    def pause(self) -> None:
        """Stops the process without killing it."""
        self.paused = True
        self.environment.trace(f"{self.name} pause")

    def resume(self, life: int) -> None:
        """Lets it go on: it handles all arrived messages, and then counts one tick, however long the pause was."""
        if life != self.life or not self.paused or self.raft is None:
            return
        self.paused = False
        inbox, self._inbox = self._inbox, []
        self.environment.trace(f"{self.name} resume waiting={len(inbox)}")
        self.environment.counters["pause"] += bool(inbox)
        was_leading = self.raft.role is Role.LEADER and self.raft.term < self.environment.checkers.newest_led_term
        self.environment.counters["pause_deposed"] += was_leading
        self._ticks_slept = 0
        if self.environment.chance.random() < 0.5:
            # Clients and peers have connections of their own, and nothing orders them: here clients come first.
            inbox.sort(key=lambda waiting: waiting[0] not in (self._submit, self._read))
        for call, arguments in inbox:
            call(*arguments)
        if self.raft is not None:
            self._ticks_slept = 1
            self._count_time()
            self.pump()

    def when_awake(self, life: int, call: Callable[..., None], *arguments: Any) -> None:
        """Makes a call now; if the node is paused, later; if it has died since, never."""
        if life != self.life or self.raft is None:
            return
        if self.paused:
            self._inbox.append((call, arguments))
        else:
            # It was not due before, or the clock would have woken it; so time is counted first.
            self._count_time()
            call(*arguments)

    def _tick(self, life: int) -> None:
        if life != self.life or self.raft is None:
            return
        self.environment.clock.call_later(self.tick_us, self._tick, life)
        if self.paused:
            return
        self._resign_if_slow()
        self._ticks_slept += 1
        if not self.sleeps or self._ticks_slept >= self.raft.ticks_to_deadline():
            self._count_time()
            self.pump()

    def _resign_if_slow(self) -> None:
        limit_us = self.environment.habits.resign_us
        if limit_us is None or not self._writer_busy or self.raft is None or self.raft.role is not Role.LEADER:
            return
        if self.environment.clock.now_us - self._write_began_us > limit_us:
            self.environment.counters["resigned"] += 1
            self.raft.resign("the disk hangs")
            self.pump()

    def _count_time(self) -> None:
        """Passes the ticks to the core that have gone by since it was last called."""
        ticks, self._ticks_slept = self._ticks_slept, 0
        if ticks and self.raft is not None:
            self.raft.tick(ticks)

    # What arrives.

    def deliver(self, message: Message | SnapshotMessage) -> None:
        """A message from another node."""
        self.when_awake(self.life, self._step, message)

    def _step(self, message: Message | SnapshotMessage) -> None:
        if self.raft is None:
            return
        self.environment.trace(f"{self.name} < {describe(message)}")
        if isinstance(message, SnapshotMessage):
            self.installation.deliver(message)
        else:
            self.raft.step(message)
            self.pump()

    def peer_unreachable(self, peer: NodeId) -> None:
        """Tells the core that a message to a peer was lost."""
        self.when_awake(self.life, self._notice, peer)

    def _notice(self, peer: NodeId) -> None:
        if self.raft is not None:
            self.environment.counters["unreachable"] += 1
            self.raft.peer_unreachable(peer)
            self.pump()

    def put(self, writes: list[tuple[str, str, Outcome]]) -> None:
        """Takes writes of clients that arrive together."""
        self.submit(
            [(Proposal(EntryKind.COMMAND, encode_put(key, value), None), outcome) for key, value, outcome in writes]
        )

    def submit(self, writes: list[tuple[Proposal, Outcome]]) -> None:
        """Proposes entries that arrive together."""
        if self.raft is None:
            for _, outcome in writes:
                outcome("refused")
            return
        self.when_awake(self.life, self._submit, writes)

    def _submit(self, writes: list[tuple[Proposal, Outcome]]) -> None:
        if self.raft is None:
            return
        try:
            first, term = self.raft.propose([proposal for proposal, _ in writes], self.now_us)
        except errors.NotLeaderError as refusal:
            for _, outcome in writes:
                outcome("refused", None, refusal.leader_id)
            return
        except errors.OverloadedError:
            self.environment.counters["overloaded"] += 1
            for _, outcome in writes:
                outcome("refused", None, self.name)
            return
        self.environment.trace(f"{self.name} propose {first}+{len(writes)} term={term}")
        for offset, (_, outcome) in enumerate(writes):
            self._waiting.add_write(first + offset, term, outcome)
        self.pump()

    def get(self, key: str, outcome: Outcome) -> None:
        """Takes a client's linearizable read."""
        if self.raft is None:
            outcome("refused")
            return
        self.when_awake(self.life, self._read, key, outcome)

    def _read(self, key: str, outcome: Outcome) -> None:
        if self.raft is None:
            return
        context = self._waiting.add_read(key, outcome)
        try:
            # The clock goes on while the process is paused, whereas its ticks do not.
            self.raft.read_index(context, self.environment.clock.now_us / TICK_US)
        except (errors.NotLeaderError, errors.OverloadedError) as refusal:
            self._waiting.refuse_read(context, getattr(refusal, "leader_id", self.name))
            return
        self.pump()

    def change_members(self, configuration: Configuration, outcome: Callable[[str], None]) -> None:
        """Proposes other members for the operator; ``outcome`` is called with the result of the proposal."""
        if self.raft is None:
            outcome("down")
        else:
            self.when_awake(self.life, self._change_members, configuration, outcome)

    def _change_members(self, configuration: Configuration, outcome: Callable[[str], None]) -> None:
        raft = self.raft
        if raft is None:
            return
        before = raft.configuration_index, raft.configuration
        try:
            index, term = raft.propose_configuration(configuration, self.now_us)
        except errors.RefusedError as refusal:
            outcome(type(refusal).__name__)
            return
        self.environment.trace(f"{self.name} change {index} {show(configuration)}")
        self.environment.checkers.configurations.proposed(self.name, (index, term), configuration, *before)
        outcome("proposed")
        self.pump()

    def transfer(self, target: NodeId | None) -> None:
        """Begins a transfer of leadership for the operator."""
        self.when_awake(self.life, self._transfer, target)

    def _transfer(self, target: NodeId | None) -> None:
        if self.raft is None:
            return
        try:
            self.raft.transfer_leadership(target)
        except errors.RefusedError as refusal:
            self.environment.trace(f"{self.name} transfer {type(refusal).__name__}")
            return
        self.environment.trace(f"{self.name} transfer to {target.name if target else 'anybody'}")
        self.pump()

    # The driver's duties.

    def pump(self) -> None:
        """Carries out everything that the core asks for."""
        raft = self.raft
        while raft is not None and raft is self.raft:
            self._observe(raft)
            ready = raft.ready(writer_idle=not self._writer_busy and not self.installation.restoring)
            if raft.commit_index != self._observer.commit_index:
                self._observe(raft)
            if ready is None:
                return
            self._perform(raft, ready)

    def _perform(self, raft: RaftNode, ready: Ready) -> None:
        environment = self.environment
        for event in ready.events:
            environment.trace(f"{self.name} * {event.name} {event.fields}")
            if event.name in ("transfer_aborted", "transfer_started", "removed"):
                environment.counters[event.name] += 1
            elif event.name == "became_candidate" and event.fields["transfer"]:
                self._observer.asked_to_lead_term = raft.term
        for message in ready.messages:
            environment.checkers.sent(self.name, message, self.log.hard_state)
            environment.send(message)
        if ready.write is not None:
            self._begin_write(ready.write)
        if ready.committed:
            environment.checkers.committed(self.name, raft.term, ready.committed)
            self._unapplied.extend(ready.committed)
            self._schedule_apply()
        for context in ready.reads_dropped:
            self._waiting.refuse_read(context, raft.leader.name if raft.leader else "")
        if ready.read_states:
            self._waiting.confirm(ready.read_states)
            self._serve_reads()
        for peer in ready.snapshots_wanted:
            self.installation.send_to(peer)

    def _begin_write(self, write: Write) -> None:
        environment = self.environment
        environment.checkers.writes(self.name, self.log.hard_state, write.hard_state, write.truncate_from)
        self.log.begin(write)
        self._writer_busy = True
        self._write_began_us = environment.clock.now_us
        environment.trace(
            f"{self.name} write #{write.sequence} hard={state(write.hard_state)} truncate={write.truncate_from} "
            f"entries={span(write.entries)}"
        )
        delay_us = 200 + int(environment.chance.random() * self.fsync_max_us)
        if delay_us > environment.config.election_timeout_ticks * TICK_US:
            environment.counters["slow_disk"] += 1
        environment.clock.call_later(delay_us, self._fsynced, self.life)

    def _fsynced(self, life: int) -> None:
        # The disk works on while the process is paused; only the news of it waits.
        if life != self.life or self.raft is None:
            return
        write = self.log.writing
        assert write is not None, "nothing was written"
        truncated = write.truncate_from
        if truncated is not None and truncated <= self.log.last_index:
            self.environment.counters["truncation"] += 1
        self.log.complete()
        self.environment.checkers.became_durable(self.name, write.entries)
        if truncated is not None:
            self.environment.checkers.disk_changed(self.name)
        self.environment.trace(f"{self.name} fsync #{write.sequence}")
        self.when_awake(life, self._persisted, write.sequence)

    def _persisted(self, sequence: int) -> None:
        if self.raft is not None:
            self._writer_busy = False
            self.raft.persisted(sequence)
            self.installation.write_ended()
            self.pump()

    def _schedule_apply(self) -> None:
        if self.installation.restoring:
            return
        if not self.apply_max_us:
            self._apply()
        elif not self._applying:
            self._applying = True
            self.environment.counters["slow_apply"] += 1
            delay_us = int(self.environment.chance.random() * self.apply_max_us)
            self.environment.clock.call_later(delay_us, self.when_awake, self.life, self._apply_later)

    def _apply_later(self) -> None:
        self._applying = False
        self._apply()
        self.pump()

    def _apply(self) -> None:
        if self.raft is None or not self._unapplied or self.installation.restoring:
            return
        environment = self.environment
        while self._unapplied:
            entry = self._unapplied.popleft()
            told = self.store.apply(entry)
            environment.checkers.applied(self.name, entry.index, self.store.head.digest)
            self._waiting.answer_write(entry, told)
        applied = self.store.head.applied_index
        environment.trace(f"{self.name} applied {applied}")
        self.raft.applied(applied)
        assert self.raft.applied_configuration == self.store.head.configuration, "the core and the state differ"
        if environment.chance.random() * 1000 < environment.habits.flush_permille:
            self.flush()
        self._serve_reads()

    def flush(self) -> None:
        """Makes the state durable, and drops the log entries that are not needed any more."""
        if self.store.head.applied_index == self.store.durable_index:
            return
        # A table never holds entries that the node's own log may still lose.
        assert self.store.head.applied_index <= self.log.last_index, "the state is ahead of the log"
        self.store.flush()
        durable = self.store.durable_index
        self.environment.checkers.state_durable(self.name, durable)
        self.environment.trace(f"{self.name} flush {durable}")
        kept = self.environment.habits.kept_entries
        if kept is not None:
            first = self.log.first_index
            self.log.drop_prefix(max(first, min(durable - kept, self.installation.pinned_index()) + 1))
            if self.log.first_index > first:
                self.environment.counters["compaction"] += 1
                self.environment.trace(f"{self.name} compact {self.log.first_index}..{self.log.last_index}")

    # Snapshots.

    def restored(self, index: int) -> None:
        """The core has taken over a snapshot: entries that it handed out before are void."""
        self._unapplied.clear()
        self._observer.forget_configuration()
        self._waiting.lose_writes(index)

    def applied_snapshot(self) -> None:
        """The snapshot is installed, or was not needed: the node goes on."""
        if self._unapplied:
            self._schedule_apply()
        self._serve_reads()
        self.pump()

    def _serve_reads(self) -> None:
        for key, outcome in self._waiting.take_reads(self.store.head.applied_index):
            if self.store.has_run_out(key, self.now_us):
                self._answer_by_clock(key, outcome)
            else:
                outcome("ok", self.store.get(key))

    def _answer_by_clock(self, key: str, outcome: Outcome) -> None:
        """Answers a read of a value that has expired by this node's clock once it has by the log clock, too."""

        def moved(status: str, value: str | None = None, leader: str = "") -> None:
            outcome(status, self.store.get(key) if status == "ok" else value, leader)

        self._submit([(Proposal(EntryKind.CLOCK, b"", None), moved)])

    def _observe(self, raft: RaftNode) -> None:
        if self._observer.look(raft, self.life):
            # As the runtime's clock does, which looks at the wall clock at an election and then counts by itself.
            self._lead_offset_us = self.clock_offset_us
