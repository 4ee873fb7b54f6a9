"""A whole shard with two facades in one event loop without sockets, by seed, while everything breaks.

``raft_testing.simulation`` runs cores by a driver of its own and has no bytes at all. Here everything between the
request of a client and the log runs as it does in processes (``whole_parts``), over a network in memory
(``raft_testing.in_memory``). ``run`` judges nothing but what clients see: their history must be linearizable.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any, NamedTuple

from whole_parts import HTTP_PORT, RAFT_PORT, FacadeInMemory, Log, Node, stand_ins

from raft_node.raft.types import NodeId, Role
from raft_testing.history import History, Operation
from raft_testing.in_memory import Host, InMemoryLoop, Network
from raft_testing.linearizability import Violation, check_history

NODES, CLIENTS, KEYS = 3, 8, 3
READERS = 2
"""So many clients only read, one at each facade: a put that waits for a leader holds its client up."""
FACADES, CLIENT = ("facade-0", "facade-1"), "client"
LONG_BYTES = 300_000
"""Some values are longer than the windows of HTTP/2 and than what a transport holds."""
LONGEST_S = 120.0
"""In virtual time; a run whose end takes longer waits for something that never comes."""
STATUS = re.compile(rb"HTTP/1\.1 ([0-9]{3}) ")
LENGTH = re.compile(rb"\r\ncontent-length: ([0-9]+)\r\n")
OUTCOME = re.compile(rb'"outcome": ?"([a-z_]+)"')


class Answer(NamedTuple):
    """An answer; ``outcome`` is empty unless the request failed."""

    status: int
    body: bytes
    outcome: str


class HttpConnection(asyncio.Protocol):
    """A client's connection, with one request under way at a time."""

    def __init__(self) -> None:
        self._data = b""
        self._answer: asyncio.Future[Answer] | None = None
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionResetError("before the answer"))

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, end, body = self._data.partition(b"\r\n\r\n")
        status, length = STATUS.match(head), LENGTH.search(head.lower() + b"\r\n")
        if not end or length is None or len(body) < int(length[1]):
            return
        assert status is not None and len(body) == int(length[1]), self._data
        outcome = OUTCOME.search(body) if status[1][:1] != b"2" else None
        self._data = b""
        assert self._answer is not None and not self._answer.done(), "an answer without a request"
        self._answer.set_result(Answer(int(status[1]), body, outcome[1].decode() if outcome else ""))

    async def ask(self, method: str, key: str, body: bytes = b"") -> Answer:
        """One request.

        Raises:
            ConnectionError: The connection is gone.
        """
        if self.transport.is_closing():
            raise ConnectionResetError("before the request")
        self._answer = asyncio.get_running_loop().create_future()
        head = f"{method} /v1/kv/{key} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        self.transport.write(head.encode() + body)
        return await self._answer


class Client:
    """Puts unique values and reads them, one request at a time."""

    def __init__(self, whole: Whole, number: int) -> None:
        self._whole, self._number, self._written = whole, number, 0
        self._facade = whole.facade_hosts[number % len(FACADES)]
        self._chance = Random(whole.chance.random())
        self._puts = 0.0 if number > CLIENTS - READERS else 0.5
        self._connection: HttpConnection | None = None

    async def run(self, until: Callable[[], bool]) -> None:
        while not until():
            key = f"k{self._chance.randrange(KEYS)}"
            done = await (self.put(key) if self._chance.random() < self._puts else self.get(key))
            await asyncio.sleep(self._chance.random() * (0.005 if done else 0.05))

    async def put(self, key: str) -> bool:
        self._written += 1
        size = self._chance.randrange(LONG_BYTES) if self._chance.random() < 0.03 else 0
        value = f"{self._number}.{self._written}.{size}"
        operation = self._whole.history.begin(self._number, "put", key, value, self._whole.loop.now_s)
        answer = await self._ask("PUT", operation, f"{value}:".encode() + bytes(size))
        if answer is None:
            self._number = self._whole.next_number()  # What was sent may still take effect.
        elif answer.status == 200:
            self._whole.history.succeed(operation, self._whole.loop.now_s)
        elif answer.outcome == "not_applied":
            self._whole.history.refuse(operation, self._whole.loop.now_s)
        else:
            assert answer.outcome == "unknown", answer
            self._number = self._whole.next_number()
        return answer is not None and answer.status == 200

    async def get(self, key: str) -> bool:
        operation = self._whole.history.begin(self._number, "get", key, None, self._whole.loop.now_s)
        answer = await self._ask("GET", operation)
        if answer is None or answer.status not in (200, 404):
            return False
        value = None
        if answer.status == 200:
            name, _, filling = answer.body.partition(b":")
            value = name.decode()
            assert filling == bytes(int(value.rpartition(".")[2])), "the value is torn"
        self._whole.history.succeed(operation, self._whole.loop.now_s, value)
        return True

    async def _ask(self, method: str, operation: Operation, body: bytes = b"") -> Answer | None:
        try:
            async with asyncio.timeout(self._chance.choice((0.05, 0.1, 0.3, 3.0))):
                if self._connection is None:
                    _, self._connection = await self._whole.loop.create_connection(
                        HttpConnection, self._facade.address, HTTP_PORT
                    )
                answer = await self._connection.ask(method, str(operation.key), body)
        except (TimeoutError, ConnectionError) as error:
            self._whole.answers[f"{method} {type(error).__name__}"] += 1
            if self._connection is not None:
                self._connection.transport.abort()
            self._connection = None
            return None
        self._whole.answers[f"{method} {answer.status}"] += 1
        return answer

    def close(self) -> None:
        if self._connection is not None:
            self._connection.transport.close()


# A run.


@dataclass
class Whole:
    """A shard, its facade and its clients.

    Attributes:
        answers: What clients were answered, by method and status.
        events: What the cores told of themselves, by name.
        faults: How many there were, by kind.
        failures: Errors after which a node must stop: there must be none.
    """

    loop: InMemoryLoop
    chance: Random
    names: tuple[str, ...] = tuple(f"n{number}" for number in range(NODES))
    history: History = field(default_factory=History)
    answers: Counter[str] = field(default_factory=Counter)
    events: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    failures: list[Any] = field(default_factory=list)
    nodes: dict[str, Node] = field(default_factory=dict)
    clients: int = CLIENTS

    def __post_init__(self) -> None:
        self.facade_hosts = [Host(name, f"10.0.1.{number + 1}") for number, name in enumerate(FACADES)]
        self.client_host = Host(CLIENT, "10.0.2.1")

    @property
    def network(self) -> Network:
        return self.loop.network

    def address_of(self, member: NodeId) -> str:
        return f"10.0.0.{self.names.index(member.name) + 1}:{RAFT_PORT}"

    def next_number(self) -> int:
        """The number of another client: one whose request may still be under way is not heard of again."""
        self.clients += 1
        return self.clients

    def start(self, name: str, log: Log) -> None:
        node = self.nodes[name] = Node(self, name, log)
        node.host.context.run(node.start)

    @property
    def leader(self) -> Node | None:
        return next((node for node in self.nodes.values() if node.core.role is Role.LEADER), None)

    async def disturb(self, faults: int) -> None:
        """Breaks things, one after the other, and mends them."""
        hosts = [*self.names, *FACADES]
        for _ in range(faults):
            await asyncio.sleep(self.chance.uniform(0.02, 0.4))
            kind = self.chance.choice(("kill", "cut off", "cut", "break off", "clients"))
            self.faults[kind] += 1
            one = self.chance.choice(self.names)
            if self.leader is not None and self.chance.random() < 0.5:
                one = self.leader.id.name
            others = [each for each in hosts if each != one]
            lasts_s = self.chance.choice((0.02, 0.1, 0.6, 1.5))
            if kind == "kill":
                await self.nodes[one].kill()
                await asyncio.sleep(lasts_s)
                self.start(one, self.nodes[one].log)
            elif kind == "cut off":
                # With some facades, which is how a leader is asked that has been deposed.
                side = {one, *(each for each in FACADES if self.chance.random() < 0.5)}
                for each in side:
                    for other in (other for other in hosts if other not in side):
                        self.network.cut(each, other)
            elif kind == "cut":
                self.network.cut(one, self.chance.choice(others))
            elif kind == "break off":
                self.network.break_off(one, self.chance.choice(others))
            else:
                self.network.break_off(self.chance.choice(FACADES), CLIENT)
            if kind.startswith("cut"):
                await asyncio.sleep(lasts_s)
                self.network.heal()

    async def run(self, faults: int) -> None:
        for name in self.names:
            self.start(name, Log(Random(self.chance.random())))
        facades = [host.context.run(FacadeInMemory, self, host) for host in self.facade_hosts]
        clients = [Client(self, number + 1) for number in range(CLIENTS)]
        over = False
        started = [
            self.loop.create_task(client.run(lambda: over), context=self.client_host.context.copy())
            for client in clients
        ]
        while not all(facade.router.ready for facade in facades):
            await asyncio.sleep(0.05)
        await self.disturb(faults)
        await asyncio.sleep(0.2)
        over = True
        await asyncio.gather(*started)
        await self.loop.create_task(self._read_all(clients[0]), context=self.client_host.context.copy())
        for client in clients:
            client.close()
        for facade in facades:
            await facade.close()
        for node in self.nodes.values():
            await node.close()
        for wire in list(self.network.wires):
            wire.abort()
        await asyncio.sleep(1.0)

    async def _read_all(self, client: Client) -> None:
        for number in range(KEYS):
            while not await client.get(f"k{number}"):
                await asyncio.sleep(0.05)


@dataclass(frozen=True)
class Result:
    """What became of a run.

    Attributes:
        digest: Of everything that clients have seen, with times; the same for the same seed.
    """

    seed: int
    violations: list[Violation]
    failures: list[Any]
    answers: Counter[str]
    events: Counter[str]
    faults: Counter[str]
    bytes_carried: int
    virtual_s: float
    digest: str

    def __str__(self) -> str:
        found = "; ".join(map(str, (*self.violations[:2], *self.failures))) or "fine"
        return (
            f"seed {self.seed}: {found} | {dict(self.answers)} {dict(self.faults)} {dict(self.events)} "
            f"{self.bytes_carried} bytes, {self.virtual_s:.1f} s, {self.digest}"
        )


def run(seed: int, faults: int = 6) -> Result:
    """One run of a seed."""
    chance = Random(seed)
    loop = InMemoryLoop(Random(chance.random()))
    whole = Whole(loop, chance)

    async def bounded() -> None:
        async with asyncio.timeout(LONGEST_S):
            await whole.run(faults)

    with stand_ins(loop), asyncio.Runner(loop_factory=lambda: loop) as runner:
        began_s = loop.now_s
        runner.run(bounded())
        lasted_s = loop.now_s - began_s
    operations = whole.history.operations
    digest = hashlib.sha256("\n".join(map(repr, operations)).encode()).hexdigest()[:16]
    return Result(
        seed, check_history(operations), whole.failures, whole.answers, whole.events, whole.faults,
        loop.network.bytes_carried, lasted_s, digest,
    )  # fmt: skip
