"""A driver with fakes around it: the test controls its log, its transport and its clock."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from random import Random

import pytest

from doug_wire import command as commands
from doug_wire.command import Opcode
from raft_node import entry as entries
from raft_node.entry import EntryKind
from raft_node.errors import FatalError
from raft_node.kv.state_machine import StateMachine
from raft_node.observability.metrics import Metrics
from raft_node.raft.config import RaftConfig
from raft_node.raft.messages import (
    AppendEntries,
    AppendEntriesResponse,
    Heartbeat,
    HeartbeatResponse,
    Message,
    RequestVote,
    RequestVoteResponse,
    TimeoutNow,
)
from raft_node.raft.node import RaftNode
from raft_node.raft.ready import Event
from raft_node.raft.types import Configuration, HardState, NodeId, Role, Write
from raft_node.runtime.driver import Driver, Submission
from raft_testing.fakes import DictStore
from raft_testing.lockstep import MemoryLog

ME, OTHER, THIRD = NodeId("a", 1), NodeId("b", 2), NodeId("c", 3)
ALL = (ME, OTHER, THIRD)


class FakeLog(MemoryLog):
    """A log whose writes become durable when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.idle = True
        self.write_age_s = 0.0
        self.last_write_s = (0.0, 0.0)
        self.writes: list[Write] = []

    def write(self, write: Write) -> None:
        """Takes a write, which stays under way."""
        assert self.idle
        self.idle = False
        self.writes.append(write)

    def finish(self, driver: Driver) -> None:
        """The newest write becomes durable."""
        write = self.writes[-1]
        assert write.truncate_from is None
        self.stored.extend(write.entries)
        self.idle = True
        driver.durable(write.sequence)


class FakeTransport:
    """A network that keeps the sent messages."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.asked_to_campaign: list[NodeId] = []

    def send(self, messages: Sequence[Message]) -> None:
        """Keeps messages."""
        self.sent.extend(messages)
        self.asked_to_campaign += [message.receiver for message in messages if isinstance(message, TimeoutNow)]


class ListSink:
    """Keeps the outcomes of proposals."""

    def __init__(self) -> None:
        self.results: list[tuple[int, int]] = []

    def resolve(self, record_id: int, status: int, revision: int, details: object = None) -> None:
        """See ``Sink``."""
        self.results.append((record_id, status))


class Rig:
    """A driver with fakes around it. The event loop's clock is ``now_s``, which the test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, voters: tuple[NodeId, ...] = (ME,)) -> None:
        self.now_s = 1000.0
        loop = asyncio.get_running_loop()
        self.timers: list[tuple[float, Callable[..., None], tuple[object, ...]]] = []

        class Handle:
            def __init__(handle, entry: tuple[float, Callable[..., None], tuple[object, ...]]) -> None:  # noqa: N805
                handle.entry = entry

            def cancel(handle) -> None:  # noqa: N805
                if handle.entry in self.timers:
                    self.timers.remove(handle.entry)

        def call_at(when: float, callback: Callable[..., None], *arguments: object) -> Handle:
            entry = (when, callback, arguments)
            self.timers.append(entry)
            return Handle(entry)

        monkeypatch.setattr(loop, "time", lambda: self.now_s)
        monkeypatch.setattr(loop, "call_at", call_at)
        self.log, self.store, self.transport = FakeLog(), DictStore(), FakeTransport()
        self.events: list[Event] = []
        self.failures: list[FatalError] = []
        self.wanted: list[NodeId] = []
        self.core = RaftNode(RaftConfig(), ME, self.log, HardState(), Configuration(voters), 0, Random(1))  # noqa: S311 - it only draws election timeouts
        self.driver = Driver(
            self.core,
            self.log,  # type: ignore[arg-type]
            StateMachine.open(self.store),
            self.store,
            self.transport,
            Metrics(0),
            tick_ms=10,
            proposal_timeout_ms=1000,
            shard=0,
            shards=1,
            on_event=self.events.append,
            on_applied=lambda: None,
            on_snapshots_wanted=self.wanted.extend,
            on_failure=self.failures.append,
        )
        self.driver.start()

    async def settle(self) -> None:
        """Runs all callbacks that are due."""
        for _ in range(5):
            await asyncio.sleep(0)

    async def finish_writes(self) -> None:
        """Makes every write durable, and then the writes that follow from it."""
        await self.settle()
        while not self.log.idle:
            self.log.finish(self.driver)
            await self.settle()

    async def advance(self, to_s: float) -> None:
        """Moves the clock to a time and fires the timers that are due, at that time, however late they are."""
        self.now_s = to_s
        for entry in [timer for timer in self.timers if timer[0] <= to_s]:
            self.timers.remove(entry)
            entry[1](*entry[2])
        await self.settle()

    async def elect(self) -> None:
        """Lets time pass until this node leads."""
        await self.settle()
        while self.core.role is not Role.LEADER:
            await self.advance(self.timers[0][0])
            await self.finish_writes()
        await self.finish_writes()
        assert self.driver.machine.created

    async def lead(self) -> None:
        """Lets the node be elected among several voters, and commits the first entries of a new leader."""
        await self.settle()
        while self.core.role is not Role.LEADER:
            await self.advance(self.timers[0][0])
            await self.converse()
        await self.converse()
        assert self.driver.machine.created

    async def converse(self, peers: tuple[NodeId, ...] = (OTHER, THIRD)) -> None:
        """Finishes writes and lets peers agree to every message, until there are no more messages."""
        await self.finish_writes()
        while self.transport.sent:
            sent, self.transport.sent = self.transport.sent, []
            for message in sent:
                answer = agree(message)
                if answer is not None and answer.sender in peers:
                    self.driver.receive(answer)
            await self.finish_writes()

    async def let_lead(self, peer: NodeId, commit_index: int = 0) -> None:
        """Lets the others elect a peer, which sends its no-op entry behind the last entry of this node."""
        term, last = self.core.term + 1, self.core.last_index
        prev_term = self.core.log.term(last)
        self.driver.receive(RequestVote(peer, ME, term, last, prev_term, False, True))
        await self.finish_writes()
        noop = [entries.encode(last + 1, term, EntryKind.NOOP, 0)]
        self.driver.receive(AppendEntries(peer, ME, term, last, prev_term, commit_index, noop))
        await self.finish_writes()

    def put(self, sink: ListSink, record_id: int, key: bytes = b"k") -> None:
        """Submits one put."""
        command = commands.encode(Opcode.PUT, key, b"", b"v")
        self.driver.submit([Submission(sink, record_id, commands.checksum(command), command)])


def agree(message: Message) -> Message | None:
    """The answer of a peer that agrees; None if the message needs none."""
    match message:
        case RequestVote():
            return RequestVoteResponse(message.receiver, ME, message.term, True, message.pre_vote)
        case AppendEntries():
            last = message.prev_log_index + len(message.entries)
            return AppendEntriesResponse(message.receiver, ME, message.term, True, last, 0, 0, 0)
        case Heartbeat():
            return HeartbeatResponse(message.receiver, ME, message.term, message.read_token, message.commit_index)
        case _:
            return None
