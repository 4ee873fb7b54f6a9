"""Sessions and bounded reads through a facade, over fake nodes of which some are behind."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from doug.v1 import doug_pb2
from doug_wire import pipe
from facade.client.sessions import entry_of
from facade.client.watches.stream import WatchBrokenError, WatchStream

MakeFacade = Callable[..., Awaitable[Any]]
SESSION = {"doug-consistency": "session"}
BOUNDED = {"consistency": "bounded", "max_staleness": "2s"}

both = pytest.mark.parametrize("make_facade", ["asgi", "sockets"], indirect=True)


def nodes_of(facade: Any, shard: int = 0) -> list[Any]:
    return list(facade.cluster.shards[shard].nodes)


@both
async def test_a_session_reads_what_it_wrote_from_whoever_has_it(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=3)
    leader, behind, fresh = nodes_of(facade)
    leader.log_index, fresh.log_index, behind.log_index = 20, 20, 5
    token = (await facade.http.put("/v1/kv/k", content=b"v")).headers["doug-session"]
    for _ in range(12):
        answer = await facade.http.get("/v1/kv/k", headers={**SESSION, "doug-session": token})
        assert (answer.status_code, answer.content) == (200, b"v")
        assert answer.headers["doug-consistency-used"] == "session"
        assert answer.headers["doug-served-by"] != behind.id
        assert int(answer.headers["doug-applied-index"]) >= 20
        token = answer.headers["doug-session"]


@both
async def test_a_session_that_nobody_has_caught_up_with_is_refused_in_time(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=2, request_timeout_ms=1000)
    leader, _ = nodes_of(facade)
    leader.log_index = 20
    token = (await facade.http.put("/v1/kv/k", content=b"v")).headers["doug-session"]
    leader.log_index = 9
    answer = await facade.http.get("/v1/kv/k", headers={**SESSION, "doug-session": token})
    assert (answer.status_code, answer.json()["code"]) == (503, "not_fresh_enough")
    assert answer.headers["doug-shard"] == "0" and "doug-served-by" in answer.headers


@both
async def test_a_session_without_a_token_begins_one(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=3)
    answer = await facade.http.get("/v1/kv/k", headers=SESSION)
    assert answer.status_code == 404
    assert answer.headers["doug-consistency-used"] == "session" and answer.headers["doug-session"]


@both
async def test_a_session_goes_over_shards_and_never_loses_one(make_facade: MakeFacade) -> None:
    facade = await make_facade(shards=2, nodes=1)
    nodes_of(facade, 0)[0].log_index, nodes_of(facade, 1)[0].log_index = 30, 40
    token = ""
    seen = set()
    for number in range(12):
        headers = {"doug-session": token} if token else {}
        answer = await facade.http.put(f"/v1/kv/k{number}", content=b"v", headers=headers)
        seen.add(answer.headers["doug-shard"])
        token = answer.headers["doug-session"]
    assert seen == {"0", "1"}
    session = facade.router.directory.sessions.read(token.encode())
    assert dict(session.indexes) == {0: 30, 1: 40}


@both
async def test_a_foreign_and_a_broken_token_are_refused_before_anything_is_done(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=1)
    node = nodes_of(facade)[0]
    foreign = type(facade.router.directory.sessions)()
    foreign.know(b"another", 1)
    for token, status, code in ((foreign.issue(0, 1), 409, "foreign_session"), (b"junk", 400, "bad_session")):
        asked = len(node.batches)
        for method, target in (("GET", "/v1/kv/k"), ("PUT", "/v1/kv/k"), ("GET", "/v1/kv"), ("POST", "/v1/batch")):
            answer = await facade.http.request(
                method, target, headers={"doug-session": token.decode(), "content-type": "application/json"}
            )
            assert (answer.status_code, answer.json()["code"]) == (status, code), (method, target)
        assert len(node.batches) == asked


@both
async def test_a_token_from_before_a_shard_was_recovered_without_its_quorum_is_refused(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=1)
    node = nodes_of(facade)[0]
    node.log_index = 20
    before = {"doug-session": (await facade.http.put("/v1/kv/k", content=b"v")).headers["doug-session"]}
    # What the client has seen is lost, and the log is as long again.
    node.generation, node.log_index = 1, 25
    # The facade learns it by the first answer, whatever that is an answer to.
    for headers in ({**SESSION, **before}, SESSION, {**SESSION, **before}):
        answer = await facade.http.get("/v1/kv/k", headers=headers)
        if "doug-session" in headers:
            assert (answer.status_code, answer.json()["code"]) == (409, "foreign_session")
        else:
            assert answer.status_code == 200
            after = {"doug-session": answer.headers["doug-session"]}
    written = len(node.batches)
    for method, target in (("PUT", "/v1/kv/k"), ("GET", "/v1/kv"), ("POST", "/v1/batch")):
        answer = await facade.http.request(method, target, headers={**before, "content-type": "application/json"})
        assert (answer.status_code, answer.json()["code"]) == (409, "foreign_session"), (method, target)
    assert len(node.batches) == written
    assert (await facade.http.get("/v1/kv/k", headers={**SESSION, **after})).status_code == 200


@both
async def test_a_node_of_before_a_recovery_serves_no_session_of_after_it(make_facade: MakeFacade) -> None:
    """It holds what was lost, under indexes that mean something else by now; this facade has not heard of it."""
    # Nobody else is there who could tell the facade of the recovery: it knows of it by the token alone.
    alone = await make_facade(nodes=1, request_timeout_ms=300)
    nodes_of(alone)[0].log_index = 30
    sessions = type(alone.router.directory.sessions)()
    sessions.know(b"c" * 16, 1)
    token = sessions.issue(0, entry_of(1, 20)).decode()
    answer = await alone.http.get("/v1/kv/k", headers={**SESSION, "doug-session": token})
    assert (answer.status_code, answer.json()["code"]) == (503, "not_fresh_enough")
    facade = await make_facade(nodes=2, request_timeout_ms=5000)
    leader, old = nodes_of(facade)
    leader.generation = 1
    leader.log_index = old.log_index = 30
    for _ in range(8):
        answer = await facade.http.get("/v1/kv/k", headers={**SESSION, "doug-session": token})
        assert answer.status_code == 404
        assert answer.headers["doug-served-by"] == leader.id
    page = await facade.http.get("/v1/kv", headers={**SESSION, "doug-session": token})
    assert page.status_code in (200, 503)
    assert page.status_code == 503 or page.headers["doug-served-by"] == leader.id


async def test_a_scan_by_a_token_from_before_the_recovery_is_refused_although_nobody_has_heard(
    make_facade: MakeFacade,
) -> None:
    facade = await make_facade(nodes=1)
    node = nodes_of(facade)[0]
    node.log_index = 20
    token = (await facade.http.put("/v1/kv/k", content=b"v")).headers["doug-session"]
    node.generation, node.log_index = 1, 25
    answer = await facade.http.get("/v1/kv", headers={**SESSION, "doug-session": token})
    assert (answer.status_code, answer.json()["code"]) == (409, "foreign_session")


@both
async def test_a_node_from_before_the_recovery_is_not_believed(make_facade: MakeFacade) -> None:
    """A disk that should have been destroyed is back: it is ahead in indexes, and has what was lost."""
    facade = await make_facade(nodes=2)
    leader, old = nodes_of(facade)
    leader.generation, leader.log_index, old.log_index = 1, 25, 99
    token = (await facade.http.put("/v1/kv/k", content=b"v")).headers["doug-session"]
    eventual = {"doug-consistency": "eventual"}
    async with asyncio.timeout(60):
        while not old.batches:  # It is connected when it is first wanted.
            answer = await facade.http.get("/v1/kv/k", headers=eventual)
            assert (answer.status_code, answer.headers["doug-served-by"]) == (200, leader.id)
    for headers in (eventual, {**SESSION, "doug-session": token}):
        for _ in range(4):
            answer = await facade.http.get("/v1/kv/k", headers=headers)
            assert (answer.status_code, answer.headers["doug-served-by"]) == (200, leader.id), headers
    for _ in range(4):
        answer = await facade.http.get("/v1/kv?prefix=k", headers={"doug-consistency": "eventual"})
        assert (answer.status_code, len(answer.json()["items"])) == (200, 1)


@both
async def test_a_leader_from_before_the_recovery_is_not_believed(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=1)
    facade.router.directory.sessions.heard(0, 1)
    written = await facade.http.put("/v1/kv/k", content=b"w")
    assert (written.status_code, written.json()["outcome"]) == (504, "unknown")


async def test_a_watch_at_a_node_from_before_the_recovery_goes_elsewhere(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=1)
    node = nodes_of(facade)[0]
    node.generation = 1
    assert (await facade.http.put("/v1/kv/k", content=b"v")).status_code == 200
    shard = facade.router.directory.shards[0]
    request = doug_pb2.WatchRequest(now=True)
    for generation, refused in ((0, True), (1, False), (2, False)):
        node.generation = generation
        stream = WatchStream(shard, shard.nodes[node.id], request)
        try:
            if refused:
                with pytest.raises(WatchBrokenError, match="from before its shard was recovered"):
                    await stream.begin(b"")
            else:
                await stream.begin(b"")
        finally:
            stream.close()


async def test_a_token_by_a_newer_map_has_the_map_loaded_first(make_facade: MakeFacade) -> None:
    facade = await make_facade(shards=2, nodes=1)
    sessions = type(facade.router.directory.sessions)()
    sessions.know(b"c" * 16, 2)
    token = sessions.issue(1, 7).decode()
    # All slots have gone to shard 1, and this facade does not know it yet; shard 0 would answer from the past.
    facade.cluster.shards[0].store.data[b"k"] = (b"old", b"", 1)
    facade.cluster.shards[1].store.data[b"k"] = (b"new", b"", 2)
    stale = facade.cluster.shards[0].ranges
    facade.cluster.set_map([(0, 1023, 1, 2)], 2)
    facade.cluster.shards[0].ranges, facade.cluster.shards[0].owns = stale, lambda key, epoch: True
    asked = asyncio.ensure_future(facade.http.get("/v1/kv/k", headers={**SESSION, "doug-session": token}))
    await asyncio.sleep(0)
    facade.cluster.shards[0].ranges = facade.cluster.shards[1].ranges
    answer = await asked
    assert (answer.status_code, answer.content, answer.headers["doug-shard"]) == (200, b"new", "1")


async def test_a_map_of_a_restored_cluster_is_taken_although_its_epoch_is_lower(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=1)
    directory = facade.router.directory
    token = (await facade.http.put("/v1/kv/k", content=b"v")).headers["doug-session"]
    directory.map.epoch = 9
    directory.cluster_id = b"from before"
    assert await facade.router.upkeep.load_map()
    assert (directory.map.epoch, directory.cluster_id) == (1, b"c" * 16)
    answer = await facade.http.get("/v1/kv/k", headers={**SESSION, "doug-session": token})
    assert answer.status_code == 200


@both
async def test_a_bounded_read_goes_to_who_can_prove_it(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=3)
    leader, cut_off, proven = nodes_of(facade)
    leader.staleness_ms, proven.staleness_ms, cut_off.staleness_ms = 3, 700, 60_000
    await facade.http.put("/v1/kv/k", content=b"v")
    for _ in range(12):
        answer = await facade.http.get("/v1/kv/k", params=BOUNDED)
        assert answer.status_code == 200
        assert answer.headers["doug-consistency-used"] == "bounded"
        assert answer.headers["doug-served-by"] != cut_off.id
        assert 3 <= int(answer.headers["doug-staleness-ms"]) <= 2000


@both
async def test_a_bounded_read_that_nobody_can_prove_is_refused_in_time(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=2, request_timeout_ms=1000)
    answer = await facade.http.get("/v1/kv/k", params=BOUNDED)
    assert (answer.status_code, answer.json()["code"]) == (503, "not_fresh_enough")


async def test_who_proves_nothing_serves_nothing_within_a_bound(make_facade: MakeFacade) -> None:
    """A node of an earlier version does not know the bound, and answers all the same."""
    facade = await make_facade(nodes=1, request_timeout_ms=300)
    node = nodes_of(facade)[0]
    node.staleness_ms, node._is_fresh = None, lambda min_index, bound_ms: True
    for path in ("/v1/kv/k", "/v1/kv"):
        answer = await facade.http.get(path, params=BOUNDED)
        assert (answer.status_code, answer.json()["code"]) == (503, "not_fresh_enough"), path
    assert (await facade.http.get("/v1/kv")).status_code == 200


async def test_an_answer_counts_only_if_it_is_fresh_enough_when_it_is_here(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=1, request_timeout_ms=1000)
    # Fresh enough when it left the node, and older by the time on its way since.
    nodes_of(facade)[0].staleness_ms = 100
    answer = await facade.http.get("/v1/kv/k", params={"consistency": "bounded", "max_staleness": "100ms"})
    assert (answer.status_code, answer.json()["code"]) == (503, "not_fresh_enough")
    answer = await facade.http.get("/v1/kv/k", params={"consistency": "bounded", "max_staleness": "5s"})
    assert answer.status_code == 404
    for bound, status in (("100ms", 503), ("5s", 200)):
        answer = await facade.http.get("/v1/kv", params={"consistency": "bounded", "max_staleness": bound})
        assert answer.status_code == status, answer.content


@both
async def test_staleness_is_told_only_where_it_is_proven(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=1)
    node = nodes_of(facade)[0]
    answer = await facade.http.put("/v1/kv/k", content=b"v")
    assert (answer.headers["doug-staleness-ms"], answer.headers["doug-role"]) == ("0", "leader")
    answer = await facade.http.get("/v1/kv/k?consistency=eventual")
    assert "doug-staleness-ms" not in answer.headers
    node.staleness_ms = 1500
    answer = await facade.http.get("/v1/kv/k?consistency=eventual")
    assert int(answer.headers["doug-staleness-ms"]) >= 1500


async def test_ranges_and_batches_take_sessions_and_bounds(make_facade: MakeFacade) -> None:
    facade = await make_facade(shards=2, nodes=2)
    operations = [{"op": "put", "key": f"k{number}", "value": "v"} for number in range(12)]
    answer = await facade.http.post("/v1/batch", json={"operations": operations})
    token = answer.headers["doug-session"]
    assert dict(facade.router.directory.sessions.read(token.encode()).indexes) == {0: 7, 1: 7}
    for node in (nodes_of(facade, 0)[1], nodes_of(facade, 1)[1]):
        node.log_index = 2
    for _ in range(4):
        answer = await facade.http.get("/v1/kv", headers={**SESSION, "doug-session": token})
        assert (answer.status_code, len(answer.json()["items"])) == (200, 12)
        assert answer.headers["doug-served-by"] == "shard-0-0, shard-1-0"
        assert answer.headers["doug-applied-index"] == "7, 7"
        token = answer.headers["doug-session"]
    reads = {"operations": [{"op": "get", "key": "k1"}]}
    answer = await facade.http.post("/v1/batch", json=reads, headers={**SESSION, "doug-session": token})
    assert answer.json()["results"][0]["status"] == 200
    for node in (nodes_of(facade, 0)[0], nodes_of(facade, 1)[0]):
        node.log_index = 9
    for asked in ("prefix=k1", "prefix=k&dry_run=true", "prefix=k&limit=2&dry_run=true"):
        answer = await facade.http.delete(f"/v1/kv?{asked}", headers={"doug-session": token})
        assert answer.headers["doug-consistency-used"] == "linearizable"
        known = facade.router.directory.sessions.read(answer.headers["doug-session"].encode())
        assert dict(known.indexes) == {0: 9, 1: 9}, "a session reads what it has deleted"
    for shard in (0, 1):
        nodes_of(facade, shard)[1].staleness_ms = 30
    for _ in range(4):
        answer = await facade.http.get("/v1/kv", params=BOUNDED)
        assert answer.headers.get("doug-served-by") == "shard-0-1, shard-1-1", answer.content
        assert 30 <= int(answer.headers["doug-staleness-ms"]) <= 2000


async def test_the_answer_to_a_batch_names_all_nodes_that_gave_it(make_facade: MakeFacade) -> None:
    facade = await make_facade(shards=2, nodes=2)
    known = [node for shard in facade.router.shards.values() for node in shard.nodes.values()]
    for node in known:
        node.want()
    await facade.until(lambda: all(node.up for node in known), "all are connected")
    for shard in (0, 1):
        leader, follower = nodes_of(facade, shard)
        leader.log_index, leader.staleness_ms, follower.staleness_ms = 7, 1, 30 + shard
    puts = [{"op": "put", "key": f"k{number}", "value": "v"} for number in range(12)]
    gets = [{"op": "get", "key": each["key"]} for each in puts]

    async def receipt(operations: list[dict[str, str]], **params: str) -> dict[str, str]:
        answer = await facade.http.post("/v1/batch", json={"operations": operations}, params=params)
        assert {each["status"] for each in answer.json()["results"]} <= {200}
        return {name: value for name, value in answer.headers.items() if name.startswith("doug-")}

    told = await receipt([*puts, *gets])
    assert (told["doug-shard"], told["doug-served-by"]) == ("0, 1", "shard-0-0, shard-1-0")
    assert (told["doug-role"], told["doug-applied-index"]) == ("leader, leader", "7, 7")
    assert len(told["doug-term"].split(", ")) == 2
    assert (told["doug-consistency-used"], told["doug-staleness-ms"]) == ("linearizable", "0")
    one = await receipt([gets[0]])
    assert one["doug-served-by"] == f"shard-{one['doug-shard']}-0", "one shard, one node"
    for _ in range(8):
        told = await receipt(gets, consistency="eventual")
        served = told["doug-served-by"].split(", ")
        assert told["doug-shard"] == "0, 1" and len(served) == len(told["doug-role"].split(", ")) == 2
        stale_ms = max({"shard-0-1": 30, "shard-1-1": 31}.get(node_id, 1) for node_id in served)
        assert int(told["doug-staleness-ms"]) >= stale_ms, "as old as the oldest"
        if served == ["shard-0-1", "shard-1-1"]:
            break
    else:
        pytest.fail("no batch was answered by the followers")
    told = await receipt(puts, consistency="eventual")
    assert told["doug-staleness-ms"] == "0", "nothing was read"
    for node in (*nodes_of(facade, 0), nodes_of(facade, 1)[1]):
        node.staleness_ms = None
    assert "doug-staleness-ms" not in await receipt(gets, consistency="eventual"), "not proven of all"
    assert "doug-served-by" not in await receipt([]), "nobody was asked"
    lines = b"".join(json.dumps(each).encode() + b"\n" for each in puts)
    answer = await facade.http.post("/v1/batch", content=lines, headers={"content-type": "application/x-ndjson"})
    assert answer.headers["doug-served-by"] == "shard-0-0, shard-1-0" and "doug-session" not in answer.headers
    answer = await facade.http.delete("/v1/kv?prefix=k")
    assert (answer.json()["deleted"], answer.headers["doug-served-by"]) == (12, "shard-0-0, shard-1-0")
    answer = await facade.http.delete("/v1/kv?prefix=k&limit=2&dry_run=true")
    assert answer.headers["doug-served-by"] == "shard-0-0, shard-1-0"


@pytest.mark.parametrize("lines", [False, True])
async def test_a_session_sees_what_came_before_in_the_same_batch(make_facade: MakeFacade, *, lines: bool) -> None:
    facade = await make_facade(nodes=2)
    leader, behind = nodes_of(facade)
    leader.log_index, behind.log_index = 20, 5
    operations: list[Any] = []
    for number in range(12):
        operations += [{"op": "put", "key": "k", "value": f"v{number}"}, {"op": "get", "key": "k"}]
    if lines:
        body = b"".join(json.dumps(each).encode() + b"\n" for each in operations)
        headers = {**SESSION, "content-type": "application/x-ndjson"}
        answer = await facade.http.post("/v1/batch", content=body, headers=headers)
        results = [json.loads(line) for line in answer.content.splitlines()]
    else:
        answer = await facade.http.post("/v1/batch", json={"operations": operations}, headers=SESSION)
        results = answer.json()["results"]
    asked = [
        record.min_index
        for node in (leader, behind)
        for batch in node.raw
        if batch.kind != doug_pb2.BATCH_KIND_WRITE
        for record in pipe.decode_reads(batch.records)
    ]
    assert len(asked) >= 12 and min(asked) == 20, "who has not seen the writes is not let answer"
    assert [each["value"] for each in results[1::2]] == [f"v{number}" for number in range(12)]


async def test_linearizable_reads_go_to_followers_too_while_many_wait(make_facade: MakeFacade) -> None:
    # Nobody's deadline passes, however slow the machine is.
    facade = await make_facade(nodes=3, spread_reads_items=8, request_timeout_ms=60_000)
    for node in facade.router.shards[0].nodes.values():
        node.want()
    await facade.until(lambda: all(node.up for node in facade.router.shards[0].nodes.values()), "all are connected")
    leader, *followers = nodes_of(facade)
    leader.silent = True
    first = asyncio.ensure_future(facade.http.get("/v1/kv/k"))
    await facade.until(lambda: any(kind == 2 for kind, _ in leader.batches), "the leader's window is shut")
    more = [asyncio.ensure_future(facade.http.get("/v1/kv/k")) for _ in range(40)]
    answers = await asyncio.gather(*more[:8])
    assert {answer.status_code for answer in answers} == {404}
    assert {answer.headers["doug-consistency-used"] for answer in answers} == {"linearizable"}
    assert any(batch.forward and batch.kind == 2 for node in followers for batch in node.raw)
    leader.silent = False
    await asyncio.gather(first, *more)
