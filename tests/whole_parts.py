"""The processes of a whole shard in one event loop: nodes and facades, and what stands for disks and grpcio beside.

Real are the facade's protocol, its router and Pipe sessions, ``doug_stream`` at both ends, and the nodes' services,
peers, drivers and cores. What stands for something else: a log in memory whose writes become durable after a time that
the seed draws, a dictionary for the engine, and own streams for the unary calls that grpcio carries in processes.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from random import Random
from typing import Any, Protocol, cast

import grpc
import grpc.aio
import pytest
import uvicorn
from grpc.aio import Metadata
from uvicorn.server import ServerState

from doug.v1 import admin_pb2, doug_pb2, raft_pb2
from doug_stream.client import open_call
from doug_stream.errors import CallError
from doug_stream.server import Method, Server
from facade.app.application import Application
from facade.app.protocol import LimitedProtocol
from facade.client.channels import Channels
from facade.client.metrics import Metrics as FacadeMetrics
from facade.client.router import Router
from facade.discovery.targets import Target
from facade.settings import Settings, parse_address
from raft_node.kv.state_machine import StateMachine
from raft_node.observability.metrics import Metrics
from raft_node.raft.config import RaftConfig
from raft_node.raft.node import RaftNode
from raft_node.raft.types import Configuration, HardState, NodeId, Write
from raft_node.rpc import channels
from raft_node.rpc.doug.replica import Replica
from raft_node.rpc.doug.service import DougService
from raft_node.rpc.hot_streams import HEARTBEAT, PIPE, READ_INDEX, REPLICATE, HotStream, encode
from raft_node.rpc.raft.peers import LocalMember, Peers
from raft_node.rpc.raft.service import RaftService
from raft_node.runtime import clocks
from raft_node.runtime.driver import Driver
from raft_node.runtime.reads.freshness import Freshness
from raft_node.runtime.reads.reader import Reader
from raft_testing.fakes import DictStore
from raft_testing.in_memory import Host, InMemoryLoop, Network
from raft_testing.lockstep import MemoryLog

RAFT_PORT, DOUG_PORT, HTTP_PORT = 1, 2, 80


class Surroundings(Protocol):
    """What the processes of one run share."""

    names: tuple[str, ...]
    chance: Random
    events: Counter[str]
    failures: list[Any]

    @property
    def network(self) -> Network: ...

    def address_of(self, member: NodeId) -> str: ...


# What stands for something else.


class VirtualTime:
    """Stands for the module ``time`` in ``raft_node.runtime.clocks``: wall clock and monotonic clock are the loop's."""

    def __init__(self, loop: InMemoryLoop) -> None:
        self._loop = loop

    def time_ns(self) -> int:
        return 1_700_000_000_000_000_000 + self.monotonic_ns()

    def monotonic_ns(self) -> int:
        return int(self._loop.now_s * 1e9)

    def clock_gettime(self, clock: int) -> float:
        return self._loop.now_s


class Log(MemoryLog):
    """What a node's disk holds; it outlives the process. A write becomes durable after a time that the seed draws."""

    def __init__(self, chance: Random) -> None:
        super().__init__()
        self.hard_state = HardState()
        self.durable: Callable[[int], None] | None = None
        self.last_write_s = (0.0, 0.0)
        self.takes_s, self.late_share = (0.0002, 0.003), 0.01
        self._chance = chance
        self._since_s: float | None = None

    @property
    def idle(self) -> bool:
        return self._since_s is None

    @property
    def write_age_s(self) -> float:
        return 0.0 if self._since_s is None else asyncio.get_running_loop().time() - self._since_s

    def write(self, write: Write) -> None:
        assert self.idle, "one write is under way at a time"
        loop = asyncio.get_running_loop()
        self._since_s = loop.time()
        takes_s = self._chance.uniform(*self.takes_s) * (50 if self._chance.random() < self.late_share else 1)
        loop.call_later(takes_s, self._finish, write, self.durable)

    def _finish(self, write: Write, durable: Callable[[int], None] | None) -> None:
        if durable is not self.durable or durable is None:
            return  # Of a process that is dead by now.
        super().write(write)
        self.hard_state = write.hard_state or self.hard_state
        self._since_s = None
        durable(write.sequence)

    def cut_off(self) -> None:
        """The process dies: a write under way is lost, or was durable and is known to nobody."""
        self._since_s = self.durable = None


class Store(DictStore):
    """The engine, which has everything in memory."""

    def get(self, key: bytes) -> bytes | None:
        """See ``Engine``."""
        return self.data.get(key)


class UnaryChannel:
    """Stands for grpcio's channel: each unary call is an own stream with one message in each direction."""

    def __init__(self, address: str) -> None:
        self._address = parse_address(address)

    def unary_unary(self, path: str, request_serializer: Any, response_deserializer: Any, **_: Any) -> Any:
        async def ask(request: Any, timeout: float | None = None, metadata: Any = None, **_: Any) -> Any:
            host, port = self._address
            limit_s = timeout or 5.0
            try:
                async with asyncio.timeout(limit_s):
                    call = await open_call(host, port, path, request_serializer, response_deserializer, timeout_s=9.0)
                    try:
                        await call.write(request)
                        answer = await call.read()
                    finally:
                        call.cancel()
            except TimeoutError:
                raise failed(grpc.StatusCode.DEADLINE_EXCEEDED, "no answer in time") from None
            except CallError as error:
                code = next(code for code in grpc.StatusCode if code.value[0] == int(error.status))
                raise failed(code, error.details, error.trailers) from None
            if answer is grpc.aio.EOF:
                raise failed(grpc.StatusCode.UNAVAILABLE, "no answer")
            return answer

        return ask

    def _none(self, path: str, *_: Any, **__: Any) -> Any:
        return None

    stream_stream = unary_stream = stream_unary = _none

    async def close(self, grace: float | None = None) -> None:
        """Has nothing to close."""


def failed(code: grpc.StatusCode, details: str, trailers: Any = ()) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, Metadata(), Metadata(*trailers), details)


class InMemoryChannels(Channels):
    """How the facade reaches nodes: its Pipe streams as ever, everything else by ``UnaryChannel``."""

    def open(self, target: Target, options: Any = ()) -> Any:
        return UnaryChannel(target.address)


def unary(handler: Callable[[Any, Any], Any], decode: Any) -> Method:
    """Serves a unary call that came as an own stream."""

    async def serve(_: None, call: Any) -> None:
        with contextlib.suppress(CallError):
            request = await call.read()
            if request is not grpc.aio.EOF:
                await call.write(await handler(request, call))

    return Method(serve, decode, encode)


def stream(hot: HotStream, behaviour: Callable[[Any, Any], Any]) -> tuple[str, Method]:
    return hot.path, Method(behaviour, hot.decode_request, encode)


# A node, and the facade.


class Node:
    """One start of a node's process, on a disk that it may have from an earlier one."""

    def __init__(self, whole: Surroundings, name: str, log: Log) -> None:
        number = whole.names.index(name)
        self.host = Host(name, f"10.0.0.{number + 1}")
        self.log, self._whole = log, whole
        self.id = NodeId(name, number + 1)
        self._running: asyncio.Task[None] | None = None
        self._servers: list[Server] = []

    def start(self) -> None:
        """Begins, in the context of its own host. Requires: it is called there."""
        whole, log = self._whole, self.log
        metrics, store = Metrics(0), Store()
        members = tuple(NodeId(name, number + 1) for number, name in enumerate(whole.names))
        self.core = RaftNode(
            RaftConfig(trail_ticks=4), self.id, log, log.hard_state, Configuration(members), 0,
            Random(whole.chance.random()),
        )  # fmt: skip
        me = LocalMember(self.id, b"whole", 0, f"{self.host.address}:{DOUG_PORT}")
        peers = Peers(me, metrics)
        self.driver = driver = Driver(
            self.core, cast("Any", log), StateMachine.open(store), store, peers, metrics,
            tick_ms=10, proposal_timeout_ms=1000, shard=0, shards=1,
            on_event=self._heard, on_applied=self._applied, on_snapshots_wanted=lambda peers: None,
            on_failure=whole.failures.append,
        )  # fmt: skip
        log.durable = driver.durable
        reader = Reader(cast("Any", store), whole.failures.append, lambda: driver.machine.visibility)
        freshness = Freshness(driver, lambda: driver.reads.proven_s)
        self.replica = Replica(self.id.name, 0, driver, reader, peers, cast("Any", None), freshness)
        peers.connect(whole.address_of, driver.receive, driver.peer_unreachable)
        self._serve(metrics, peers)
        self._running = asyncio.create_task(self._run(peers))
        driver.start()

    def _serve(self, metrics: Metrics, peers: Peers) -> None:
        raft, doug = RaftService(self.id, 0, metrics), DougService(metrics)
        raft.attach(peers, self.driver.receive)
        doug.attach(self.replica)
        self._tell_leader = doug.tell_leader
        votes = {
            "/doug.v1.Raft/RequestVote": unary(raft.RequestVote, raft_pb2.RequestVoteRequest.FromString),
            "/doug.v1.Raft/TimeoutNow": unary(raft.TimeoutNow, raft_pb2.TimeoutNowRequest.FromString),
        }
        questions = {
            "/doug.v1.Admin/Status": unary(self._status, admin_pb2.StatusRequest.FromString),
            "/doug.v1.Doug/Partitions": unary(doug.Partitions, doug_pb2.PartitionsRequest.FromString),
        }
        hot = (stream(REPLICATE, raft.Replicate), stream(HEARTBEAT, raft.Heartbeat), stream(READ_INDEX, raft.ReadIndex))
        self._listen(RAFT_PORT, {**votes, **dict(hot)})
        self._listen(DOUG_PORT, {**questions, **dict((stream(PIPE, doug.Pipe),))})

    def _listen(self, port: int, methods: Mapping[str, Method]) -> None:
        server = Server(methods)
        self._servers.append(server)
        self._whole.network.listen(self.host, port, server.endpoint)

    async def _run(self, peers: Peers) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(peers.run())
            while True:
                await asyncio.sleep(0.1)
                self.driver.expire()

    def _applied(self) -> None:
        self.replica.freshness.applied()

    def _heard(self, event: Any) -> None:
        self._whole.events[event.name] += 1
        if event.name == "became_leader":
            self._tell_leader()

    async def _status(self, request: admin_pb2.StatusRequest, context: Any) -> admin_pb2.StatusResponse:
        core, (leader_id, leader_address) = self.core, self.replica.leader()
        return admin_pb2.StatusResponse(
            node_id=self.id.name, role=core.role.value, term=core.term, commit_index=core.commit_index,
            applied_index=self.driver.applied_index, last_log_index=core.last_index, first_log_index=1,
            leader_id=leader_id, leader_address=leader_address, cluster_id=b"whole",
            client_address=f"{self.host.address}:{DOUG_PORT}", incarnation=self.id.incarnation, initial_shards=1,
        )  # fmt: skip

    async def kill(self) -> None:
        """Ends the process: nothing of it reaches anybody or the disk any more."""
        self._whole.network.kill(self.host)
        self.log.cut_off()
        await self.close()

    async def close(self) -> None:
        """Ends what runs here."""
        self.driver.stop()
        self.replica.freshness.stop()
        self.replica.reader.close()
        assert self._running is not None
        tasks = [self._running, *(task for server in self._servers for task in server.tasks)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class FacadeInMemory:
    """A facade's process, with the short way for plain requests. Requires: it is made in the context of its host."""

    def __init__(self, whole: Surroundings, host: Host) -> None:
        addresses = {name: f"10.0.0.{number + 1}:{DOUG_PORT}" for number, name in enumerate(whole.names)}
        settings = Settings(nodes={0: addresses}, request_timeout_ms=2000)
        metrics = FacadeMetrics()
        self.router = Router(settings, metrics, InMemoryChannels())
        self.application = Application(self.router, metrics, settings, None, None)
        config = uvicorn.Config(self.application, interface="asgi3", proxy_headers=False, ws="none", log_config=None)
        config.load()
        state, front, hot = ServerState(), self.application.front, self.application.hot
        whole.network.listen(host, HTTP_PORT, lambda: LimitedProtocol(config, state, {}, front=front, hot=hot))
        self._upkeep = asyncio.create_task(self.router.upkeep.run())

    async def close(self) -> None:
        self._upkeep.cancel()
        await asyncio.gather(self._upkeep, return_exceptions=True)


@contextlib.contextmanager
def stand_ins(loop: InMemoryLoop) -> Iterator[None]:
    """Puts what stands for grpcio's channels and for the clocks in their place, for one run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(channels, "open_channel", lambda address, certificates=None: UnaryChannel(address))
        patch.setattr(clocks, "time", VirtualTime(loop))
        yield
