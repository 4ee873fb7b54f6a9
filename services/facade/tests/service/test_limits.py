"""What one client may ask for, over the facade: shares under load, rates, connections."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from facade.routes import batch as batch_module

pytestmark = pytest.mark.seconds

MakeFacade = Callable[..., Awaitable[Any]]


def client_at(facade: Any, address: str) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(facade.application, client=(address, 4711))
    return httpx.AsyncClient(transport=transport, base_url="http://facade", timeout=60.0)


@pytest.mark.parametrize("window", [64, 0])
async def test_a_greedy_client_leaves_a_polite_one_at_least_half_of_its_share(
    make_facade: MakeFacade, window: int
) -> None:
    """One asks ten times as much as the other; of what is served first, half of its share is a quarter."""
    facade = await make_facade(nodes=1, fair_window_items=window, request_timeout_ms=60_000)
    node = facade.cluster.shards[0].nodes[0]
    served: list[str] = []

    async def ask(name: str, client: httpx.AsyncClient) -> None:
        response = await client.put("/v1/kv/k", content=b"v")
        assert response.status_code == 200
        served.append(name)

    async with client_at(facade, "10.0.0.1") as greedy, client_at(facade, "10.0.0.2") as polite:
        node.silent = True
        async with asyncio.TaskGroup() as group:
            for number in range(352):
                name, client = ("greedy", greedy) if number % 11 else ("polite", polite)
                group.create_task(ask(name, client))
            await facade.until(lambda: facade.router.registry.load(0).items == 352, "all is asked for")
            node.silent = False
    assert len(served) == 352, "and nobody is refused"
    part = served[:96].count("polite") / 96
    assert part >= 0.25 if window else part < 0.15


async def test_a_client_alone_has_the_whole_queue_and_the_next_one_finds_a_reserve(
    make_facade: MakeFacade,
) -> None:
    """64 puts of 1 MB at a time are an ordinary load; here it is nine of 220 KB in 2 MiB."""
    facade = await make_facade(nodes=1, queue_bytes_max=2 << 20, request_timeout_ms=60_000)
    node, load = facade.cluster.shards[0].nodes[0], facade.router.registry.load(0)
    async with client_at(facade, "10.0.0.1") as greedy, client_at(facade, "10.0.0.2") as polite:
        node.silent = True
        async with asyncio.TaskGroup() as group:
            alone = [group.create_task(greedy.put(f"/v1/kv/{n}", content=b"v" * 220_000)) for n in range(9)]
            await facade.until(lambda: load.items == 9, "all is admitted")
            assert (await greedy.put("/v1/kv/more", content=b"v" * 220_000)).status_code == 429
            second = group.create_task(polite.put("/v1/kv/other", content=b"v" * 220_000))
            await facade.until(lambda: load.items == 10, "there is a reserve for others")
            third = await polite.put("/v1/kv/third", content=b"v" * 220_000)
            assert third.status_code == 503, "and it is bounded"
            node.silent = False
    assert [each.result().status_code for each in (*alone, second)] == [200] * 10
    assert (load.items, load.size) == (0, 0)


async def test_ten_times_what_can_be_done_is_refused_in_words_and_nothing_is_left_of_it(
    make_facade: MakeFacade,
) -> None:
    """By counting: what is held never exceeds the queue, what is refused left no trace, and all is as before."""
    facade = await make_facade(nodes=1, queue_items_max=64, request_timeout_ms=60_000)
    node, load = facade.cluster.shards[0].nodes[0], facade.router.registry.load(0)
    held: list[int] = []

    async def ask(client: httpx.AsyncClient, key: str) -> int:
        held.append(load.items)
        return (await client.put(f"/v1/kv/{key}", content=b"v")).status_code

    async with client_at(facade, "10.0.0.1") as client:
        node.silent = True
        async with asyncio.TaskGroup() as group:
            flood = [group.create_task(ask(client, f"flood{number}")) for number in range(640)]
            await facade.until(lambda: sum(task.done() for task in flood) == 640 - 64, "what is too much is refused")
            assert (await client.get("/livez")).status_code == 200
            node.silent = False
        statuses = [task.result() for task in flood]
        assert statuses.count(200) == 64 and set(statuses) <= {200, 429, 503}
        assert max(held) <= 64 and (load.items, load.size) == (0, 0)
        assert facade.cluster.shards[0].store.revision == 64, "what was refused left no trace"
        after = await asyncio.gather(*(ask(client, f"after{number}") for number in range(64)))
        assert set(after) == {200}


async def test_a_client_has_so_many_scans_and_others_find_some(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=1, scans_max=4, request_timeout_ms=60_000)
    leader = facade.cluster.shards[0].leader
    async with client_at(facade, "10.0.0.1") as greedy, client_at(facade, "10.0.0.2") as polite:
        leader.silent = True
        async with asyncio.TaskGroup() as group:
            first = [group.create_task(greedy.get("/v1/kv")) for _ in range(3)]
            await facade.until(lambda: len(leader.scans) == 3, "three scans are under way")
            refused = await greedy.get("/v1/kv?count_only=true")
            assert (refused.status_code, refused.json()["code"]) == (429, "too_many_requests")
            assert int(refused.headers["retry-after"]) >= 1
            other = group.create_task(polite.get("/v1/kv"))
            await facade.until(lambda: len(leader.scans) == 4, "there is a place for another client")
            refused = await polite.get("/v1/kv", headers={"accept": "application/x-ndjson"})
            assert refused.status_code == 503, "and then there is none for anybody"
            pages = [group.create_task(client.get("/v1/kv")) for client in (greedy, polite) for _ in range(20)]
            waiting = facade.application._ranges._places._waiting

            def many_wait() -> bool:
                return sum(len(each) for queues in waiting.values() for each in queues.values()) == 40

            await facade.until(many_wait, "pages wait")
            leader.silent = False
        assert {each.result().status_code for each in (*first, other, *pages)} == {200}, "pages wait for a place"
        assert (await greedy.get("/v1/kv")).status_code == 200, "places are given back"
    facade.application.front.look(1)
    assert facade.metrics.registry.get_sample_value("dougdb_facade_limited_total", {"reason": "places"}) == 1


async def test_batches_that_do_not_come_take_no_place_from_other_clients(make_facade: MakeFacade) -> None:
    """A chunked batch counts as the largest one until it has come; three of them are one client's part."""
    facade = await make_facade(nodes=1, request_timeout_ms=60_000)
    bodies, gate = facade.application.batch.bodies, asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        await gate.wait()
        yield b'{"operations":[]}'

    headers = {"content-type": "application/json"}
    async with client_at(facade, "10.0.0.1") as greedy, client_at(facade, "10.0.0.2") as polite:
        async with asyncio.TaskGroup() as group:
            held = [group.create_task(greedy.post("/v1/batch", content=endless(), headers=headers)) for _ in range(3)]
            await facade.until(lambda: bodies.held == 48 << 20, "three are awaited")
            refused = await greedy.post("/v1/batch", content=endless(), headers=headers)
            assert (refused.status_code, refused.json()["code"]) == (429, "too_many_requests")
            answer = await polite.post("/v1/batch", json={"operations": [{"op": "put", "key": "k", "value": "v"}]})
            assert (answer.status_code, answer.json()["results"][0]["status"]) == (200, 200)
            gate.set()
        assert {each.result().status_code for each in held} == {200}
    assert (bodies.held, bodies._clients) == (0, {})


@pytest.mark.parametrize("limit", [{"client_watches_max": 1}, {"address_watches_max": 1}])
async def test_a_client_has_so_many_watches_and_so_many_long_polls(
    make_facade: MakeFacade, limit: dict[str, int]
) -> None:
    facade = await make_facade(nodes=1, **limit)
    await facade.use_sockets()
    async with facade.http.stream("GET", "/v1/watch") as watch:
        assert watch.status_code == 200
        assert (await facade.http.get("/v1/watch")).status_code == 429
        waiting = asyncio.create_task(facade.http.get("/v1/kv/k?wait=60s&after=0"))
        await facade.until(lambda: facade.application.audience._waits, "it waits")
        assert (await facade.http.get("/v1/kv/k?wait=60s&after=0")).status_code == 429
        assert (await facade.http.put("/v1/kv/k", content=b"v")).status_code == 200, "and nothing else is refused"
        assert (await waiting).status_code == 200
    assert (await facade.http.get("/v1/kv/k?wait=50ms&after=0")).status_code == 200, "places are given back"


async def test_rates_are_refused_before_anything_is_proposed_and_probes_and_operators_get_through(
    make_facade: MakeFacade,
) -> None:
    facade = await make_facade(nodes=1, address_requests_per_s=5)
    await facade.use_sockets()
    # All at once: however slow the machine is, they come faster than they may.
    answers = await asyncio.gather(*(facade.http.put("/v1/kv/k", content=b"v") for _ in range(60)))
    refused = [answer for answer in answers if answer.status_code == 429]
    assert len(refused) >= 1 and [answer.status_code for answer in answers].count(200) == 60 - len(refused) >= 5
    told = refused[0].json()
    assert (told["code"], told["outcome"], told["retryable"]) == ("too_many_requests", "not_applied", True)
    assert int(refused[0].headers["retry-after"]) >= 1
    # The other way, and the routes beside the keys: of what comes at once, the last is one too many.
    batches = await asyncio.gather(*(facade.http.get("/v1/kv?limit=1") for _ in range(60)))
    assert 429 in {answer.status_code for answer in batches}
    for path in ("/livez", "/readyz", "/metrics", "/v1/cluster", "/v1/limits"):
        assert (await facade.http.get(path)).status_code == 200, path
    facade.application.front.look(1)
    count = facade.metrics.registry.get_sample_value("dougdb_facade_limited_total", {"reason": "rate"})
    assert count >= len(refused) + 1
    store = facade.cluster.shards[0].store
    assert store.revision == 60 - len(refused), "what was refused has left no trace"


async def test_operations_of_batches_and_transactions_count_each(make_facade: MakeFacade) -> None:
    """A batch is let in whole while there is room for one request, and what comes next waits for all of it."""
    facade = await make_facade(nodes=1, address_requests_per_s=5)
    now_s = [1000.0]
    facade.application.front.quotas._addresses._clock = lambda: now_s[0]
    gets = [{"op": "get", "key": "k"}] * 12
    lines = b"".join(json.dumps(each).encode() + b"\n" for each in gets)
    for target, body, kind in (
        ("/v1/batch", json.dumps({"operations": gets}).encode(), "application/json"),
        ("/v1/batch", lines, "application/x-ndjson"),
        ("/v1/txn", json.dumps({"success": gets}).encode(), "application/json"),
    ):
        now_s[0] += 100
        answer = await facade.http.post(target, content=body, headers={"content-type": kind})
        assert answer.status_code == 200, answer.text
        refused = await facade.http.get("/v1/kv/k")
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "2"), target


async def test_a_stream_of_operations_has_no_more_than_the_rate(
    make_facade: MakeFacade, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_module, "GROUP_ITEMS", 4)
    facade = await make_facade(nodes=1, address_requests_per_s=5)
    facade.application.front.quotas._addresses._clock = lambda: 1000.0
    body = b'{"op": "put", "key": "k", "value": "v"}\n' * 20
    answer = await facade.http.post("/v1/batch", content=body, headers={"content-type": "application/x-ndjson"})
    statuses = [json.loads(line)["status"] for line in answer.text.splitlines()]
    assert statuses == [200] * 8 + [429] * 12, "a group is let in while there is room for one of it"
    assert facade.cluster.shards[0].store.revision == 8


async def test_addresses_of_one_ipv6_network_are_one_client(make_facade: MakeFacade) -> None:
    """Whoever has one address of IPv6 has 2^64: with a new one for each request there would be no limit."""
    facade = await make_facade(nodes=1, address_requests_per_s=3, client_scans_max=1)
    facade.application.front.quotas._addresses._clock = lambda: 1000.0

    async def get(address: str) -> int:
        async with client_at(facade, address) as client:
            return (await client.get("/v1/kv/k")).status_code

    assert [await get(f"2001:db8::{number}") for number in range(1, 5)] == [404] * 3 + [429]
    assert (await get("2001:db8:0:1::1"), await get("192.0.2.1")) == (404, 404)


async def test_strangers_have_a_rate_whatever_they_ask_for(make_facade: MakeFacade, tmp_path: Path) -> None:
    """Whoever tries tokens is told to slow down; who has one asks on, from the same address, too."""
    token = "bootstrap-" + "b" * 32
    (tmp_path / "token").write_text(token)
    facade = await make_facade(
        nodes=1, auth_mode="token", auth_bootstrap_file=str(tmp_path / "token"), address_requests_per_s=5
    )
    facade.application.front.quotas._addresses._clock = lambda: 1000.0
    wrong, right = {"authorization": f"Bearer {token[:-1]}"}, {"authorization": f"Bearer {token}"}
    paths = ["/v1/auth/whoami", "/v1/console/state"] * 4
    tried = [(await facade.http.get(path, headers=wrong)).status_code for path in paths]
    assert tried == [401] * 5 + [429] * 3
    assert (await facade.http.get("/v1/auth/whoami", headers=right)).status_code == 200


async def test_the_audit_log_names_who_is_refused_for_asking_too_much(make_facade: MakeFacade, tmp_path: Path) -> None:
    """Once a minute for each client and limit, whichever way the request went."""
    path = tmp_path / "audit.jsonl"
    facade = await make_facade(
        nodes=1,
        audit_file=str(path),
        address_requests_per_s=5,
        client_scans_max=1,
        client_bytes_max=1 << 20,
        request_timeout_ms=60_000,
    )
    facade.application.front.quotas._addresses._clock = lambda: 1000.0
    node = facade.cluster.shards[0].leader
    clients = {name: client_at(facade, name) for name in ("10.0.0.1", "10.0.0.2", "10.0.0.3")}
    async with clients["10.0.0.1"] as fast, clients["10.0.0.2"] as scanning, clients["10.0.0.3"] as large:
        answers = [(await fast.get("/v1/kv/k")).status_code for _ in range(9)]
        assert answers == [404] * 5 + [429] * 4
        node.silent = True
        async with asyncio.TaskGroup() as group:
            group.create_task(scanning.get("/v1/kv"))
            await facade.until(lambda: len(node.scans) == 1, "a scan is under way")
            group.create_task(large.put("/v1/kv/a", content=b"v" * 700_000))
            await facade.until(lambda: facade.router.registry.load(0).items == 1, "a write is under way")
            for _ in range(2):
                assert (await scanning.get("/v1/kv?count_only=true")).status_code == 429
                assert (await large.put("/v1/kv/a", content=b"v" * 700_000)).status_code == 429
            node.silent = False
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    told = [(line["limit"], line["client"], line["times"]) for line in lines if line["event"] == "limited"]
    assert told == [("rate", "10.0.0.1", 1), ("places", "10.0.0.2", 1), ("share", "10.0.0.3", 1)]


async def test_an_address_that_has_too_many_connections_is_told_so(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=1, address_connections_max=1)
    port = await facade.listen()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    second, other = await asyncio.open_connection("127.0.0.1", port)
    whole = await second.read()
    assert whole.startswith(b"HTTP/1.1 429") and b"too_many_requests" in whole
    other.close()
    writer.close()
    await facade.until(lambda: not facade.application.front.quotas._connections, "the connections are forgotten")
