"""Watches that are behind, in front of fake nodes: whatever breaks or is not read, nothing is lost or told twice."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from fake_store import FakeStore
from watching import Client, put, told

from facade.client.watches import stream as stream_module
from facade.routes.watch import routes as routes_module
from facade.routes.watch import session as session_module

MakeFacade = Callable[..., Awaitable[Any]]


async def test_a_node_that_goes_is_replaced_and_nothing_is_lost(make: MakeFacade) -> None:
    facade = await make(shards=1, nodes=3)
    shard = facade.cluster.shards[0]
    client = await Client(facade).begun()
    for turn in range(4):
        await put(facade, *[f"k{turn}{number}" for number in range(5)])
        serving = [node for node in shard.nodes if node.watches_open]
        for node in serving:
            node.watch_code = "UNAVAILABLE"
        await put(facade, f"between{turn}")
        await facade.until(lambda: any(node.watches_open and not node.watch_code for node in shard.nodes), "another")
        for node in serving:
            node.watch_code = ""
    await client.has(24)
    assert client.changes == told(facade)
    await client.close()


async def test_a_replica_that_lags_tells_nothing_twice_and_nothing_late(make: MakeFacade) -> None:
    facade = await make(shards=1, nodes=2)
    shard = facade.cluster.shards[0]
    client = await Client(facade).begun()
    await put(facade, "a", "b", "c", "d")
    await client.has(4)
    first = next(node for node in shard.nodes if node.watches_open)
    other = next(node for node in shard.nodes if node is not first)
    other.lag = 3
    first.watch_code = "UNAVAILABLE"
    await facade.until(lambda: other.watches_open == 1, "the other one serves")
    first.watch_code = ""
    await put(facade, "e")
    # It stays behind, so the first one is asked again.
    await client.has(5)
    assert client.changes == told(facade)
    await client.close()


async def test_history_that_is_gone_is_410_at_connect_and_resync_within(make: MakeFacade) -> None:
    facade = await make(shards=1, nodes=2, watch_ring_bytes=1 << 16)
    shard = facade.cluster.shards[0]
    client = await Client(facade).begun()
    await put(facade, "a", "b")
    await client.has(2)
    oldest_id = client.ids[0]
    for number in range(60):
        await facade.http.put("/v1/kv/big", content=b"%d" % number * 2000)
    await client.has(62)
    for node in shard.nodes:
        node.history_floor = 10
    head = oldest_id.rpartition(":")[0]
    gone = await Client(facade, f"from={head}:9").begun()
    assert gone.status == 410 and gone.problem["code"] == "history_gone" and "revision 10" in gone.problem["detail"]
    at = await Client(facade, f"from={head}:10").begun()
    above = await Client(facade, "", **{"last-event-id": f"{head}:11"}).begun()
    await at.has(52)
    await above.has(51)
    assert at.changes == told(facade)[10:] and above.changes == told(facade)[11:]
    # One node holds it still: that is enough.
    shard.nodes[1].history_floor = 0
    found = await Client(facade, f"from={head}:5").begun()
    await found.has(57)
    assert found.status == 200 and found.changes == told(facade)[5:]
    for each in (client, at, above, found):
        await each.close()


async def test_a_node_that_is_away_for_a_moment_may_hold_what_the_others_do_not(
    make: MakeFacade, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that was just killed comes back with its history: 410 would have clients begin anew for nothing."""
    monkeypatch.setattr(routes_module, "OPEN_S", 0.3)
    monkeypatch.setattr(session_module, "OPEN_S", 0.3)
    facade = await make(shards=1, nodes=2, watch_ring_bytes=1 << 16)
    one, away = facade.cluster.shards[0].nodes
    client = await Client(facade).begun()
    origin = client.ids[0]
    for number in range(60):
        await facade.http.put(f"/v1/kv/k{number}", content=b"x" * 2000)
    await client.has(60)
    one.history_floor, away.watch_code = 10, "UNAVAILABLE"
    refused = await Client(facade, f"from={origin}").begun()
    assert (refused.status, refused.problem["code"]) == (503, "unavailable")
    away.watch_code = ""
    found = await Client(facade, f"from={origin}").begun()
    await found.has(60)
    assert found.changes == told(facade)
    # Nobody waits for ever for one that does not come.
    away.watch_code = "UNAVAILABLE"
    monkeypatch.setattr(stream_module, "AWAY_S", 0.0)
    gone = await Client(facade, f"from={origin}").begun()
    assert (gone.status, gone.problem["code"]) == (410, "history_gone")
    for each in (client, found):
        await each.close()


async def test_a_feed_waits_for_a_node_that_may_hold_what_the_others_do_not(make: MakeFacade) -> None:
    facade = await make(shards=1, nodes=2)
    shard = facade.cluster.shards[0]
    one, away = shard.nodes
    client = await Client(facade).begun()
    await put(facade, "a")
    await client.has(1)
    one.watch_code = away.watch_code = "UNAVAILABLE"
    await facade.until(lambda: not any(node.watches_open for node in shard.nodes), "nobody serves")
    await put(facade, "b", "c", "d")
    asked = len(one.watches)
    one.history_floor, one.watch_code = 3, ""
    await facade.until(lambda: len(one.watches) >= asked + 3, "it was asked again and again")
    assert not client.ended
    away.watch_code = ""
    await client.has(4)
    assert client.changes == told(facade)
    await client.close()


async def test_changes_that_nobody_holds_any_more_end_in_resync(make: MakeFacade) -> None:
    facade = await make(shards=1, nodes=2)
    shard = facade.cluster.shards[0]
    client = await Client(facade).begun()
    await put(facade, "a")
    await client.has(1)
    for node in shard.nodes:
        node.watch_code = "UNAVAILABLE"
    await facade.until(lambda: not any(node.watches_open for node in shard.nodes), "nobody serves")
    await put(facade, "b", "c", "d")
    for node in shard.nodes:
        node.history_floor, node.watch_code = 3, ""
    await facade.until(lambda: client.ended, "the watch has ended")
    assert client.events[-1] == {"event": "resync", "data": {"shard": 0, "oldest": "3"}}
    assert [change[1] for change in client.changes] == ["a"]
    again = await Client(facade).begun()
    await put(facade, "e")
    await again.has(1)
    assert [change[1] for change in again.changes] == ["e"]
    await again.close()


async def test_progress_is_told_while_what_was_missed_keeps_coming(
    make: MakeFacade, monkeypatch: pytest.MonkeyPatch
) -> None:
    facade = await make(shards=1, nodes=1, watch_ring_bytes=1 << 16)
    first = await Client(facade).begun()
    origin = first.ids[0]
    for number in range(60):
        await facade.http.put(f"/v1/kv/k{number}", content=b"x" * 2000)
    await first.has(60)
    facade.cluster.shards[0].nodes[0].page_records = 5
    # As if every step took longer than the time between two tellings.
    monkeypatch.setattr(session_module, "PROGRESS_S", 0.0)
    late = await Client(facade, f"from={origin}").begun()
    await late.has(60)
    assert late.changes == told(facade)
    within = late.events[1 : late.events.index(next(each for each in late.events if each["data"].get("key") == "k59"))]
    progress = [each for each in within if each["event"] == "progress"]
    assert len(progress) >= 5, "nothing was told on the way"
    reached = 0
    for event in late.events:
        if event["event"] == "progress":
            assert event["data"]["revisions"] == {"0": str(reached)}, "it tells of what was sent"
        else:
            reached = int(event["data"]["revision"])
    await first.close()
    await late.close()


async def test_who_does_not_read_takes_no_place_from_those_that_catch_up(
    make: MakeFacade, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "HOLD_S", 0.01)
    facade = await make(shards=1, nodes=1, watch_ring_bytes=1 << 16, watch_catch_ups_max=1)
    first = await Client(facade).begun()
    origin, count = first.ids[0], 200
    for number in range(count):
        await facade.http.put(f"/v1/kv/k{number}", content=b"x" * 20_000)
    await first.has(count)
    facade.cluster.shards[0].nodes[0].page_records = 20
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 10)
    sock.connect(("127.0.0.1", facade.http.base_url.port))
    reader, writer = await asyncio.open_connection(sock=sock, limit=1 << 10)
    writer.write(
        f"GET /v1/watch?from={origin} HTTP/1.1\r\nhost: localhost\r\naccept: application/x-ndjson\r\n\r\n".encode()
    )
    await reader.readexactly(12)
    late = await Client(facade, f"from={origin}").begun()
    await late.has(count)
    assert late.changes == told(facade)
    # It has lost nothing itself.
    revisions: list[bytes] = []
    data = b""
    while len(revisions) < count:
        data += await asyncio.wait_for(reader.read(1 << 20), 60)
        *lines, data = data.split(b"\n")
        revisions += [found[1] for line in lines if (found := re.search(rb'"revision":"(\d+)"', line))]
    assert revisions == [b"%d" % number for number in range(1, count + 1)]
    writer.close()
    for each in (first, late):
        await each.close()


async def test_who_does_not_read_what_is_there_holds_no_scan_and_loses_nothing(
    make: MakeFacade, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "HOLD_S", 0.01)
    monkeypatch.setattr(session_module, "SLICE", 4)
    facade = await make(shards=2, nodes=1, watch_catch_ups_max=1)
    nodes = [shard.nodes[0] for shard in facade.cluster.shards]
    count = 200
    for number in range(count):
        await facade.http.put(f"/v1/kv/k{number:03}", content=b"x" * 20_000)
    for node in nodes:
        node.page_records = 20
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 10)
    sock.connect(("127.0.0.1", facade.http.base_url.port))
    reader, writer = await asyncio.open_connection(sock=sock, limit=1 << 10)
    writer.write(b"GET /v1/watch?from=start HTTP/1.1\r\nhost: localhost\r\naccept: application/x-ndjson\r\n\r\n")
    await reader.readexactly(12)
    await facade.until(lambda: any(node.scans for node in nodes), "it has begun")
    await facade.until(lambda: not any(node.scans_open for node in nodes), "it holds no scan")
    late = await Client(facade, "from=start").begun()
    await late.has(count)
    await put(facade, *(f"k{number:03}" for number in range(0, count, 3)), "last")
    # It has lost nothing itself: of each key the revisions grow, and the last one comes.
    stored = {key.decode(): entry.revision for shard in facade.cluster.shards for key, entry in shard.data.items()}
    revisions: dict[str, list[int]] = {}
    data = b""
    while {key: each[-1] for key, each in revisions.items()} != stored:
        data += await asyncio.wait_for(reader.read(1 << 20), 60)
        *lines, data = data.split(b"\n")
        for line in lines:
            if found := re.search(rb'"event":"put".*"key":"(\w+)".*"revision":"(\d+)"', line):
                revisions.setdefault(found[1].decode(), []).append(int(found[2]))
    for key, told_of in revisions.items():
        assert told_of == sorted(set(told_of)), f"{key} was told {told_of}"
    assert facade.router.feeds.catching_up == 0
    writer.close()
    await late.close()


async def test_a_restored_cluster_ends_what_watched_the_old_one(make: MakeFacade) -> None:
    facade = await make(shards=1, nodes=1, request_timeout_ms=20_000)
    client = await Client(facade).begun()
    poll = asyncio.create_task(facade.http.get("/v1/kv/n0?wait=60s&after=0", timeout=60))
    await put(facade, *(f"k{number}" for number in range(20)))
    await client.has(20)
    shard, node = facade.cluster.shards[0], facade.cluster.shards[0].nodes[0]
    await node.stop()
    shard.store, shard.cluster_id = FakeStore(), b"d" * 16
    shard.store.revision = 5
    await node.start()
    node.lead()
    await facade.until(lambda: facade.router.directory.cluster_id == shard.cluster_id, "the facade knows it")
    await facade.until(lambda: client.ended, "the watch has ended")
    assert client.events[-1]["event"] == "resync"
    fresh = await Client(facade, "from=now").begun()
    await put(facade, *(f"n{number}" for number in range(10)))
    await fresh.has(10)
    assert [change[1] for change in fresh.changes] == [f"n{number}" for number in range(10)]
    assert (await asyncio.wait_for(poll, 60)).status_code == 200
    foreign = await Client(facade, **{"last-event-id": client.ids[-1]}).begun()
    assert foreign.status in (409, 410), "an id of the old cluster says nothing of this one"
    await client.close()
    await fresh.close()
    await foreign.close()


async def test_a_client_that_does_not_read_costs_little_and_catches_up(make: MakeFacade) -> None:
    facade = await make(shards=1, nodes=1, watch_ring_bytes=1 << 20)
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 10)
    sock.connect(("127.0.0.1", facade.http.base_url.port))
    reader, writer = await asyncio.open_connection(sock=sock, limit=1 << 10)
    writer.write(b"GET /v1/watch HTTP/1.1\r\nhost: localhost\r\naccept: application/x-ndjson\r\n\r\n")
    fast = await Client(facade).begun()
    await facade.until(lambda: facade.application.audience.size == 2, "both are there")
    count = 120
    for number in range(count):
        await facade.http.put(f"/v1/kv/k{number}", content=b"x" * 100_000)
    await fast.has(count)
    unread = max(
        connection._outgoing._transport.get_write_buffer_size()
        for _, state in facade._servers
        for connection in state.connections
    )
    assert 0 < unread < 1 << 20, unread
    await facade.until(lambda: facade.application.audience.size == 1, "it is not with the others any more")
    assert facade.metrics.watches.left_behind >= 1
    revisions: list[bytes] = []
    data = b""
    while len(revisions) < count:
        data += await asyncio.wait_for(reader.read(1 << 20), 60)
        *lines, data = data.split(b"\n")
        revisions += [found[1] for line in lines if (found := re.search(rb'"revision":"(\d+)"', line))]
    assert revisions == [b"%d" % number for number in range(1, count + 1)]
    writer.close()
    await fast.close()
