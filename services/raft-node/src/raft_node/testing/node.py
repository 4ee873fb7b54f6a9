"""One simulated process: a Raft core, its driver, its log on a virtual disk and its state machine.

It performs the driver's duties in the order of ``raft_node.raft.ready``, and everything takes virtual time: fsyncs,
applying, messages. It knows the cluster only through the ``Environment`` that it is given.

Invariants:
1. After a crash nothing of an earlier life reaches the node: every delayed call carries the life that it belongs to.
2. While it is paused it neither acts nor counts time; on waking it handles what has arrived, then counts one tick.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from raft_node import errors
from raft_node.entry import Entry, EntryKind
from raft_node.raft.config import RaftConfig
from raft_node.raft.messages import AppendEntries, Message
from raft_node.raft.node import RaftNode
from raft_node.raft.ready import Ready
from raft_node.raft.types import Configuration, NodeId, Proposal, Role, Write
from raft_node.testing.checkers import Checkers
from raft_node.testing.clock import Clock
from raft_node.testing.disk import SimulatedLog
from raft_node.testing.machine import KeyValueMachine, MachineState, encode_put

TICK_US = 10_000
EPOCH_US = 1_700_000_000_000_000


class Outcome(Protocol):
    """Where a request's answer goes: a value (for a get), or why it was refused."""

    def __call__(self, status: str, value: str | None = None, leader: str = "") -> None:
        """``status`` is ``ok``, ``refused`` (certainly without effect) or ``lost`` (the connection broke)."""


@dataclass(slots=True)
class Environment:
    """What the nodes of a run share."""

    clock: Clock
    chance: random.Random
    counters: Counter[str]
    checkers: Checkers
    send: Callable[[Message], None]
    trace: Callable[[str], None]
    core: type[RaftNode]
    config: RaftConfig


class SimulatedNode:
    """A node that can crash, pause and have a slow disk.

    Attributes:
        fsync_max_us: How long an fsync takes at most.
        apply_max_us: How long a batch waits before it is applied, at most.
        sleeps: Whether its driver sleeps until the core's next deadline, or counts every single tick.
        tick_us: The length of its tick, which need not be everybody's.
    """

    def __init__(
        self, environment: Environment, identity: NodeId, log: SimulatedLog, configuration: Configuration
    ) -> None:
        self.name = identity.name
        self.identity = identity
        self.log = log
        self.raft: RaftNode | None = None
        self.life = 0
        self.paused = False
        self.fsync_max_us = 2_000
        self.apply_max_us = 0
        self.sleeps = False
        self.tick_us = TICK_US
        self.machine = KeyValueMachine(MachineState())
        self._environment = environment
        self._configuration = configuration
        self._kept = MachineState()
        self._inbox: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        self._unapplied: deque[Entry] = deque()
        self._applying = False
        self._writer_busy = False
        self._writes: dict[int, tuple[int, Outcome]] = {}
        self._reads: dict[int, tuple[str, Outcome, int]] = {}
        self._confirmed: list[tuple[int, int]] = []
        self._next_context = 0
        self._led_term = 0
        self._ticks_slept = 0

    # Life and death.

    def start(self) -> None:
        """Starts the process on what its disk holds."""
        assert self.raft is None, "it runs"
        self.life += 1
        self.paused = False
        self._led_term = 0
        self._ticks_slept = 0
        self.machine = KeyValueMachine(self._kept)
        environment = self._environment
        chance = random.Random(f"{environment.chance.random()}/{self.name}/{self.life}")  # noqa: S311
        self.raft = environment.core(
            environment.config,
            self.identity,
            self.log,
            self.log.hard_state,
            self._configuration,
            self._kept.applied_index,
            chance,
        )
        environment.trace(f"{self.name} start life={self.life} last={self.log.last_index} {_hard(self.log)}")
        environment.clock.call_later(int(chance.random() * self.tick_us), self._tick, self.life)
        self._pump()

    def crash(self) -> None:
        """Kills the process: what is not on disk is gone."""
        assert self.raft is not None, "it does not run"
        environment = self._environment
        self.raft = None
        self.life += 1
        fate, survivors = self.log.crash(environment.chance)
        environment.counters[f"write_{fate}"] += 1
        environment.trace(f"{self.name} crash write={fate}")
        environment.checkers.became_durable(self.name, survivors)
        self._inbox.clear()
        self._unapplied.clear()
        self._applying = False
        self._writer_busy = False
        self._confirmed.clear()
        outcomes = [outcome for _, outcome in self._writes.values()]
        outcomes += [outcome for _, outcome, _ in self._reads.values()]
        self._writes.clear()
        self._reads.clear()
        for outcome in outcomes:
            outcome("lost")

    def pause(self) -> None:
        """Stops the process without killing it."""
        self.paused = True
        self._environment.trace(f"{self.name} pause")

    def resume(self, life: int) -> None:
        """Lets it go on: first what has arrived, then one tick, however long it was."""
        if life != self.life or not self.paused or self.raft is None:
            return
        self.paused = False
        inbox, self._inbox = self._inbox, []
        self._environment.trace(f"{self.name} resume waiting={len(inbox)}")
        self._environment.counters["pause"] += bool(inbox)
        self._ticks_slept = 0
        if self._environment.chance.random() < 0.5:
            # Clients and peers have connections of their own, and nothing orders them: here clients come first.
            inbox.sort(key=lambda waiting: waiting[0] not in (self._propose, self._read))
        for call, arguments in inbox:
            call(*arguments)
        if self.raft is not None:
            self._ticks_slept = 1
            self._count_time()
            self._pump()

    def _when_awake(self, life: int, call: Callable[..., None], *arguments: Any) -> None:
        """Does something now, later if it is paused, never if it has died since."""
        if life != self.life or self.raft is None:
            return
        if self.paused:
            self._inbox.append((call, arguments))
        else:
            # It has not overslept, for then the clock would have woken it; so time comes first.
            self._count_time()
            call(*arguments)

    def _tick(self, life: int) -> None:
        if life != self.life or self.raft is None:
            return
        self._environment.clock.call_later(self.tick_us, self._tick, life)
        if self.paused:
            return
        self._ticks_slept += 1
        if not self.sleeps or self._ticks_slept >= self.raft.ticks_to_deadline():
            self._count_time()
            self._pump()

    def _count_time(self) -> None:
        """Tells the core of the ticks that it has slept through."""
        ticks, self._ticks_slept = self._ticks_slept, 0
        if ticks and self.raft is not None:
            self.raft.tick(ticks)

    # What arrives.

    def deliver(self, message: Message) -> None:
        """A message from another node."""
        self._when_awake(self.life, self._step, message)

    def _step(self, message: Message) -> None:
        if self.raft is not None:
            self._environment.trace(f"{self.name} < {describe(message)}")
            self.raft.step(message)
            self._pump()

    def peer_unreachable(self, peer: NodeId) -> None:
        """The transport noticed that something to a peer was lost."""
        self._when_awake(self.life, self._notice, peer)

    def _notice(self, peer: NodeId) -> None:
        if self.raft is not None:
            self._environment.counters["unreachable"] += 1
            self.raft.peer_unreachable(peer)
            self._pump()

    def put(self, writes: list[tuple[str, str, Outcome]]) -> None:
        """Clients' writes that arrive together."""
        if self.raft is None:
            for _, _, outcome in writes:
                outcome("refused")
            return
        self._when_awake(self.life, self._propose, writes)

    def _propose(self, writes: list[tuple[str, str, Outcome]]) -> None:
        if self.raft is None:
            return
        proposals = [Proposal(EntryKind.COMMAND, encode_put(key, value), None) for key, value, _ in writes]
        try:
            first, term = self.raft.propose(proposals, EPOCH_US + self._environment.clock.now_us)
        except errors.NotLeaderError as refusal:
            for _, _, outcome in writes:
                outcome("refused", None, refusal.leader_id)
            return
        except errors.OverloadedError:
            self._environment.counters["overloaded"] += 1
            for _, _, outcome in writes:
                outcome("refused", None, self.name)
            return
        self._environment.trace(f"{self.name} propose {first}+{len(writes)} term={term}")
        for offset, (_, _, outcome) in enumerate(writes):
            if replaced := self._writes.get(first + offset):
                assert replaced[0] < term, "two proposals of a term share an index"
                # It was truncated, and the node has come to lead again before it learned what took its place.
                replaced[1]("lost")
            self._writes[first + offset] = (term, outcome)
        self._pump()

    def get(self, key: str, outcome: Outcome) -> None:
        """A client's linearizable read."""
        if self.raft is None:
            outcome("refused")
            return
        self._when_awake(self.life, self._read, key, outcome)

    def _read(self, key: str, outcome: Outcome) -> None:
        if self.raft is None:
            return
        self._next_context += 1
        context = self._next_context
        self._reads[context] = (key, outcome, self._environment.checkers.committed_index)
        try:
            self.raft.read_index(context)
        except (errors.NotLeaderError, errors.OverloadedError) as refusal:
            del self._reads[context]
            outcome("refused", None, getattr(refusal, "leader_id", self.name))
            return
        self._pump()

    # The driver's duties.

    def _pump(self) -> None:
        raft = self.raft
        while raft is not None and raft is self.raft:
            self._observe(raft)
            ready = raft.ready(writer_idle=not self._writer_busy)
            if ready is None:
                return
            self._perform(raft, ready)

    def _perform(self, raft: RaftNode, ready: Ready) -> None:
        environment = self._environment
        for event in ready.events:
            environment.trace(f"{self.name} * {event.name} {event.fields}")
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
            self._reads.pop(context)[1]("refused", None, raft.leader.name if raft.leader else "")
        if ready.read_states:
            for context, read_index in ready.read_states:
                environment.checkers.read_confirmed(self.name, read_index, self._reads[context][2])
            self._confirmed.extend(ready.read_states)
            self._serve_reads()

    def _begin_write(self, write: Write) -> None:
        environment = self._environment
        environment.checkers.writes(self.name, self.log.hard_state, write.hard_state, write.truncate_from)
        self.log.begin(write)
        self._writer_busy = True
        environment.trace(
            f"{self.name} write #{write.sequence} hard={_state(write.hard_state)} truncate={write.truncate_from} "
            f"entries={_span(write.entries)}"
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
            self._environment.counters["truncation"] += 1
        self.log.complete()
        self._environment.checkers.became_durable(self.name, write.entries)
        self._environment.trace(f"{self.name} fsync #{write.sequence}")
        self._when_awake(life, self._persisted, write.sequence)

    def _persisted(self, sequence: int) -> None:
        if self.raft is not None:
            self._writer_busy = False
            self.raft.persisted(sequence)
            self._pump()

    def _schedule_apply(self) -> None:
        if not self.apply_max_us:
            self._apply()
        elif not self._applying:
            self._applying = True
            self._environment.counters["slow_apply"] += 1
            delay_us = int(self._environment.chance.random() * self.apply_max_us)
            self._environment.clock.call_later(delay_us, self._when_awake, self.life, self._apply_later)

    def _apply_later(self) -> None:
        self._applying = False
        self._apply()
        self._pump()

    def _apply(self) -> None:
        if self.raft is None or not self._unapplied:
            return
        environment = self._environment
        while self._unapplied:
            entry = self._unapplied.popleft()
            self.machine.apply(entry)
            environment.checkers.applied(self.name, entry.index, self.machine.digest)
            self._answer(entry)
        environment.trace(f"{self.name} applied {self.machine.applied_index}")
        # A table never holds what the node's own log may still lose.
        if self.machine.applied_index <= self.log.last_index and environment.chance.random() < 0.05:
            self._kept = self.machine.state()
            environment.trace(f"{self.name} flush {self._kept.applied_index}")
        self.raft.applied(self.machine.applied_index)
        self._serve_reads()

    def _answer(self, entry: Entry) -> None:
        waiting = self._writes.pop(entry.index, None)
        if waiting is None:
            return
        term, outcome = waiting
        if term == entry.term:
            self._environment.checkers.acknowledged(self.name, entry.index, entry.term)
            outcome("ok")
        else:
            self._environment.counters["superseded"] += 1
            outcome("refused")

    def _serve_reads(self) -> None:
        if not self._confirmed:
            return
        applied = self.machine.applied_index
        later: list[tuple[int, int]] = []
        for context, index in self._confirmed:
            if index <= applied:
                key, outcome, _ = self._reads.pop(context)
                outcome("ok", self.machine.data.get(key))
            else:
                later.append((context, index))
        self._confirmed = later

    def _observe(self, raft: RaftNode) -> None:
        raft.validate()
        leads = raft.role is Role.LEADER
        checkers = self._environment.checkers
        checkers.observe(self.name, self.life, raft.term, raft.commit_index, raft.last_index, leads=leads)
        if leads and self._led_term != raft.term:
            self._led_term = raft.term
            self._environment.trace(f"{self.name} LEADS term={raft.term} from={raft.last_index}")
            checkers.led_log(self.name, raft.term, [raft.log.term(index) for index in range(raft.last_index + 1)])


def describe(message: Message) -> str:
    """A message as the trace shows it."""
    kind = type(message).__name__
    if isinstance(message, AppendEntries):
        return (
            f"{kind} from {message.sender.name} term={message.term} prev={message.prev_log_index}/"
            f"{message.prev_log_term} commit={message.commit_index} entries={_span(message.entries)}"
        )
    return f"{kind} from {message.sender.name} {message[2:]}"


def _span(entries: Any) -> str:
    if not entries:
        return "-"
    return f"{entries[0].index}/{entries[0].term}..{entries[-1].index}/{entries[-1].term}"


def _state(hard_state: Any) -> str:
    if hard_state is None:
        return "-"
    voted_for = hard_state.voted_for.name if hard_state.voted_for else "-"
    return f"{hard_state.term}/{voted_for}/{hard_state.commit_index}"


def _hard(log: SimulatedLog) -> str:
    return f"hard={_state(log.hard_state)}"
