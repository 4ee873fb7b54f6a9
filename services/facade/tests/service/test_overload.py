"""Ten times as much as there is room for, over sockets: refused at once and in words, and forgotten afterwards."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from facade.client import registry as registry_module
from facade.client.modes import Kind
from facade.routes.problem import MEDIA_TYPE

pytestmark = pytest.mark.seconds

MakeFacade = Callable[..., Awaitable[Any]]

ROOM = 32
Connect = Callable[..., Awaitable["Client"]]


class Client:
    """A client with one connection, whose head is plain, so that it is served on the short way."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    def put(self, key: str) -> None:
        self.writer.write(f"PUT /v1/kv/{key} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nv".encode())

    async def answer(self) -> tuple[int, bytes]:
        """The status, and the head with the body."""
        async with asyncio.timeout(60):
            head = await self._reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            body = await self._reader.readexactly(length)
        return int(head.split()[1]), head.lower() + body


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Makes clients, and has them leave at the end."""
    made: list[Client] = []

    async def connect(port: int, address: str = "127.0.0.1") -> Client:
        made.append(Client(*await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0))))
        return made[-1]

    yield connect
    for client in made:
        client.writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await client.writer.wait_closed()


@pytest.mark.parametrize(("window", "status", "code"), [(256, 429, b"too_many_requests"), (0, 503, b"overloaded")])
async def test_ten_times_as_much_as_there_is_room_for(
    make_facade: MakeFacade, connect: Connect, window: int, status: int, code: bytes
) -> None:
    facade = await make_facade(nodes=1, queue_items_max=ROOM, fair_window_items=window, request_timeout_ms=60_000)
    node, load, port = facade.cluster.shards[0].nodes[0], facade.router.registry.load(0), await facade.listen()
    clients = [await connect(port) for _ in range(10 * ROOM)]
    node.silent = True
    for number, client in enumerate(clients):
        client.put(f"k{number}")
    # All but those that there is room for are answered while the node says nothing at all.
    waiting = {asyncio.create_task(client.answer()): client for client in clients}
    answers: list[tuple[int, bytes]] = []
    while len(answers) < 9 * ROOM:
        done, _ = await asyncio.wait(waiting, timeout=60, return_when=asyncio.FIRST_COMPLETED)
        assert done, f"only {len(answers)} were told"
        answers += [task.result() for task in done]
        for task in done:
            del waiting[task]
    assert Counter(found for found, _ in answers) == {status: 9 * ROOM}
    for _, told in answers:
        assert b"retry-after: 1\r\n" in told
        assert MEDIA_TYPE.encode() in told
        assert b'"%b"' % code in told
        assert b'"outcome":"not_applied"' in told
    assert (await facade.http.get("/livez")).status_code == 200
    assert (await facade.http.get("/v1/cluster")).status_code == 200
    assert load.items == ROOM
    node.silent = False
    assert {found for found, _ in [await task for task in waiting]} == {200}
    assert load.items == 0
    for client in clients[:ROOM]:
        client.put("again")
    assert [(await client.answer())[0] for client in clients[:ROOM]] == [200] * ROOM
    assert len(facade.cluster.shards[0].store.data) == ROOM + 1, "of what was refused nothing is there"


@pytest.mark.parametrize(("window", "status"), [(256, 429), (0, 503)])
async def test_who_would_wait_too_long_is_refused_at_once(
    make_facade: MakeFacade, connect: Connect, monkeypatch: pytest.MonkeyPatch, window: int, status: int
) -> None:
    monkeypatch.setattr(registry_module, "MANY", 4)
    facade = await make_facade(nodes=1, fair_window_items=window, request_timeout_ms=60_000)
    node, shard, port = facade.cluster.shards[0].nodes[0], facade.router.shards[0], await facade.listen()
    loop, load = asyncio.get_running_loop(), facade.router.registry.load(0)
    held = [await connect(port) for _ in range(4)]
    greedy, other = await connect(port), await connect(port, "127.0.0.2")
    node.silent = True
    for number, client in enumerate(held):
        client.put(f"k{number}")
    await facade.until(lambda: load.items == 4, "all to wait")
    # As if all answers had been late for two seconds.
    shard.waits._since_s[Kind.WRITE], shard.waits._heard_s[Kind.WRITE] = loop.time() - 2.0, loop.time() + 60.0
    greedy.put("more")
    found, told = await greedy.answer()
    assert (found, b"retry-after: 1\r\n" in told) == (status, True)
    shown = {"operations": [{"op": "put", "key": "in-a-batch", "value": "v"}]}
    batch = asyncio.create_task(facade.http.post("/v1/batch", json=shown))
    await facade.until(lambda: load.items == 5, "a batch to be let in")
    other.put("other")
    if window:
        await facade.until(lambda: load.items == 6, "another client to be let in")
    else:
        assert (await other.answer())[0] == 503
    node.silent = False
    assert [(await client.answer())[0] for client in held] == [200] * 4
    assert [each["status"] for each in (await batch).json()["results"]] == [200]
    if window:
        assert (await other.answer())[0] == 200
    assert not shard.waits.are_long(Kind.WRITE, loop.time()), "the answers came soon"


async def test_clients_that_give_up_leave_nothing_in_the_queue(
    make_facade: MakeFacade, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry_module, "ABANDONED_S", 0.0)
    facade = await make_facade(nodes=1, inflight_items_max=1, request_timeout_ms=60_000)
    node, load, port = facade.cluster.shards[0].nodes[0], facade.router.registry.load(0), await facade.listen()
    clients = [await connect(port) for _ in range(12)]
    node.silent = True
    clients[0].put("sent")
    await facade.until(lambda: sum(len(n.link.in_flight) for n in facade.router.shards[0].nodes.values()) == 1, "it")
    for number, client in enumerate(clients[1:]):
        client.put(f"waits{number}")
    await facade.until(lambda: load.items == 12, "all to wait")
    for client in clients[:11]:
        client.writer.transport.abort()
    await facade.until(lambda: load.items == 2, "those that gave up to be forgotten")
    node.silent = False
    assert (await clients[11].answer())[0] == 200
    await facade.until(lambda: load.items == 0, "all to be over")
    assert sorted(facade.cluster.shards[0].store.data) == [b"sent", b"waits10"], "what was sent is carried out"


async def test_what_is_sent_at_once_is_carried_out_though_its_client_leaves(
    make_facade: MakeFacade, connect: Connect
) -> None:
    facade = await make_facade(nodes=1)
    client = await connect(await facade.listen())
    client.put("k")
    client.writer.close()
    store = facade.cluster.shards[0].store
    await facade.until(lambda: b"k" in store.data, "it to be carried out")
