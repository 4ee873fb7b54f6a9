"""/v1/shards/{id}/members: what is shown, what is asked of the leader, every refusal; and nodes that came or went."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from free_ports import free_port

from doug.v1 import admin_pb2
from facade.client.operators import leader_calls, membership

MakeFacade = Callable[..., Awaitable[Any]]
MEMBERS = "/v1/shards/0/members"
CHANGED = {"shard": 0, "name": "n", "incarnation": "4611686018427387905", "index": 9, "term": 1}


async def test_the_members_are_shown_as_the_leader_sees_them(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=2)
    answer = await facade.http.get(MEMBERS)
    assert answer.status_code == 200
    document = answer.json()
    first, second = document.pop("members")
    assert document == {"shard": 0, "term": 1, "commit_index": 7, "last_log_index": 8, "changing": False}
    assert first == {
        "name": "shard-0-0",
        "incarnation": "4611686018427387904",
        "role": "voter",
        "leader": True,
        "address": "raft-shard-0-0:1",
        "client_address": facade.cluster.shards[0].nodes[0].address,
        "match_index": 8,
        "lag": 0,
        "state": None,
        "healthy": True,
    }
    assert (second["name"], second["leader"], second["state"]) == ("shard-0-1", False, "replicate")


async def test_changes_are_handed_to_the_leader(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=2)
    facade.cluster.shards[0].nodes[1].lead()
    leader = facade.cluster.shards[0].nodes[1]
    term = facade.cluster.shards[0].term
    http = facade.http
    answers = [
        await http.post(MEMBERS, json={"name": "n", "address": "h:1"}),
        await http.delete(f"{MEMBERS}/n"),
        await http.delete(f"{MEMBERS}/n?force=true"),
        await http.post(f"{MEMBERS}/n/replace"),
        await http.post(f"{MEMBERS}/n/replace?force=true", json={"address": "h:2"}),
    ]
    assert [answer.status_code for answer in answers] == [200] * 5
    changed = {**CHANGED, "term": term, "removed_incarnation": None}
    assert [answer.json() for answer in answers] == [changed] * 3 + [{**changed, "removed_incarnation": "6"}] * 2
    assert leader.member_calls == [
        admin_pb2.AddMemberRequest(name="n", address="h:1"),
        admin_pb2.RemoveMemberRequest(name="n"),
        admin_pb2.RemoveMemberRequest(name="n", force=True),
        admin_pb2.ReplaceMemberRequest(name="n"),
        admin_pb2.ReplaceMemberRequest(name="n", address="h:2", force=True),
    ]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("GET", "/v1/shards/9/members", b"", 404, "unknown_shard"),
        ("GET", f"{MEMBERS}?x=1", b"", 400, "unknown_parameter"),
        ("POST", MEMBERS, b"", 400, "bad_request"),
        ("POST", MEMBERS, b"{", 400, "bad_json"),
        ("POST", MEMBERS, b'{"name": "n"}', 400, "bad_request"),
        ("POST", MEMBERS, b'{"name": "n", "address": 7}', 400, "bad_request"),
        ("POST", MEMBERS, b'{"name": "n", "address": "h:1", "voter": true}', 400, "bad_request"),
        ("POST", f"{MEMBERS}?force=true", b'{"name": "n", "address": "h:1"}', 400, "unknown_parameter"),
        ("POST", MEMBERS, b'{"name": "n", "address": "' + b"h" * 5000 + b'"}', 413, "value_too_large"),
        ("DELETE", f"{MEMBERS}/n?force=yes", b"", 400, "bad_request"),
        ("DELETE", f"{MEMBERS}/n?force=true&force=false", b"", 400, "bad_request"),
        ("DELETE", f"{MEMBERS}/n?farce=true", b"", 400, "unknown_parameter"),
        ("DELETE", "/v1/shards/9/members/n", b"", 404, "unknown_shard"),
        ("POST", f"{MEMBERS}/n/replace", b'{"name": "n"}', 400, "bad_request"),
        ("PUT", MEMBERS, b"", 405, "method_not_allowed"),
    ],
)
async def test_what_is_not_understood_reaches_nobody(
    make_facade: MakeFacade, method: str, path: str, body: bytes, status: int, code: str
) -> None:
    facade = await make_facade(nodes=1)
    answer = await facade.http.request(method, path, content=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert facade.cluster.shards[0].nodes[0].member_calls == []


@pytest.mark.parametrize(
    ("code", "status", "problem", "outcome"),
    [
        ("UNKNOWN_MEMBER", 404, "unknown_member", "not_applied"),
        ("ALREADY_MEMBER", 409, "already_member", "not_applied"),
        ("LAST_VOTER", 409, "last_voter", "not_applied"),
        ("QUORUM_AT_RISK", 409, "quorum_at_risk", "not_applied"),
        ("MEMBER_UNREACHABLE", 409, "member_unreachable", "not_applied"),
        ("WRONG_NODE", 409, "wrong_node", "not_applied"),
        ("MEMBERS_REFUSED", 409, "members_refused", "not_applied"),
        ("NOT_APPLIED", 503, "superseded", "not_applied"),
        ("UNKNOWN", 504, "outcome_unknown", "unknown"),
    ],
)
async def test_what_the_leader_refuses(
    make_facade: MakeFacade, code: str, status: int, problem: str, outcome: str
) -> None:
    facade = await make_facade(nodes=1)
    facade.cluster.shards[0].nodes[0].member_code = code
    answer = await facade.http.delete(f"{MEMBERS}/n")
    document = answer.json()
    assert (answer.status_code, document["code"], document["outcome"]) == (status, problem, outcome)
    assert (document["detail"], document["shard"]) == ("it is so.", 0)
    assert document["title"] not in ("", "Conflict", "Not Found")


async def test_a_change_that_waits_for_another_is_asked_for_again(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=1)
    node = facade.cluster.shards[0].nodes[0]
    node.member_code = "CHANGE_UNDER_WAY"
    asking = asyncio.create_task(facade.http.delete(f"{MEMBERS}/n"))
    await facade.until(lambda: len(node.member_calls) > 2, "it asks again")
    node.member_code = ""
    assert (await asking).status_code == 200


async def test_not_for_ever(make_facade: MakeFacade, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(membership, "TIMEOUT_S", 0.3)
    facade = await make_facade(nodes=1)
    facade.cluster.shards[0].nodes[0].member_code = "CHANGE_UNDER_WAY"
    answer = await facade.http.delete(f"{MEMBERS}/n")
    assert (answer.status_code, answer.json()["code"], answer.json()["detail"]) == (
        503,
        "change_under_way",
        "it is so.",
    )
    facade.cluster.shards[0].nodes[0].member_code = "NOT_LEADER"
    facade.cluster.shards[0].leader = None
    answer = await facade.http.get(MEMBERS)
    assert (answer.status_code, answer.json()["code"]) == (503, "no_leader")


@pytest.mark.parametrize("path", [MEMBERS, "/v1/console/members?shard=0"])
async def test_the_members_are_told_by_a_new_leader_though_the_old_one_hangs(
    make_facade: MakeFacade, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(membership, "TIMEOUT_S", 600.0)
    monkeypatch.setattr(leader_calls, "TRY_S", 0.05)
    facade = await make_facade(nodes=3)
    old, new, _ = facade.cluster.shards[0].nodes
    before = old.asked_for_members
    old.silent = True
    asking = asyncio.create_task(facade.http.get(path))
    await facade.until(lambda: old.asked_for_members > before, "the old leader was asked")
    new.lead()
    async with asyncio.timeout(60):
        answer = await asking
    assert answer.status_code == 200
    assert [each["name"] for each in answer.json()["members"] if each["leader"]] == [new.id]
    old.silent = False


async def test_a_change_whose_answer_is_lost_is_not_repeated(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=1)
    node = facade.cluster.shards[0].nodes[0]
    node.member_breaks = True
    answer = await facade.http.delete(f"{MEMBERS}/n")
    assert (answer.status_code, answer.json()["outcome"]) == (504, "unknown")
    assert len(node.member_calls) == 1


async def grow(facade: Any) -> Any:
    """A node more, which the facade's settings do not name."""
    shard = facade.cluster.shards[0]
    node = type(shard.nodes[0])(shard, 7, free_port())
    await node.start()
    shard.nodes.append(node)
    return node


async def test_a_new_member_is_shown_and_asked(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=2)
    node = await grow(facade)
    try:
        nodes = (await facade.http.get("/v1/cluster")).json()["shards"][0]["nodes"]
        assert [(each["id"], each["role"]) for each in nodes] == [
            ("shard-0-0", "leader"),
            ("shard-0-1", "follower"),
            ("shard-0-7", "follower"),
        ]

        async def reads() -> None:
            while not node.batches:
                assert (await facade.http.get("/v1/kv/k?consistency=eventual")).status_code == 404

        async with asyncio.timeout(60):
            await reads()
        node.lead()
        assert (await facade.http.put("/v1/kv/k", content=b"v")).status_code == 200
    finally:
        await node.stop()


async def test_who_was_removed_is_not_shown_and_serves_no_reads(
    make_facade: MakeFacade, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("facade.client.operators.cluster_status.FRESH_S", 0.0)
    facade = await make_facade(nodes=2)
    shard = facade.cluster.shards[0]
    new = await grow(facade)
    await facade.http.get(MEMBERS)
    assert set(facade.router.shards[0].nodes) == {"shard-0-0", "shard-0-1", "shard-0-7"}
    gone = [shard.nodes.pop(), shard.nodes.pop()]
    try:
        nodes = (await facade.http.get("/v1/cluster")).json()["shards"][0]["nodes"]
        assert [each["id"] for each in nodes] == ["shard-0-0"]
        assert set(facade.router.shards[0].nodes) == {"shard-0-0", "shard-0-1"}, "the settings may name it again"
        before = [len(node.batches) for node in gone]
        for _ in range(20):
            assert (await facade.http.get("/v1/kv/k?consistency=eventual")).status_code == 404
        assert [len(node.batches) for node in gone] == before
        shard.nodes.append(gone[1])
        nodes = (await facade.http.get("/v1/cluster")).json()["shards"][0]["nodes"]
        assert [each["id"] for each in nodes] == ["shard-0-0", "shard-0-1"], "it came back"
    finally:
        await new.stop()
        await gone[1].stop()


async def test_an_old_disk_that_comes_back_under_its_name_serves_no_reads(make_facade: MakeFacade) -> None:
    """Names are equal; incarnations tell the disk that is a member from the one that was."""
    facade = await make_facade(nodes=2)
    await facade.http.get(MEMBERS)
    node, known = facade.cluster.shards[0].nodes[1], facade.router.shards[0].nodes["shard-0-1"]

    async def restarted(incarnation: int) -> bool:
        """Whether it is asked once it runs on a disk with this incarnation."""
        await node.stop()
        node.incarnation = incarnation
        await node.start()
        async with asyncio.timeout(60):
            while known.incarnation != incarnation or not known.up:
                await facade.http.get("/v1/kv/k?consistency=eventual")
        node.batches.clear()
        for _ in range(10):
            assert (await facade.http.get("/v1/kv/k?consistency=eventual")).status_code == 404
        return bool(node.batches)

    assert not await restarted(17)
    assert await restarted((1 << 62) + 1)


async def test_a_node_whose_status_was_not_to_be_had_is_asked_again(make_facade: MakeFacade) -> None:
    """Its stream is open again before another connection is: what disk it is on has to be found out all the same."""
    facade = await make_facade(nodes=2)
    await facade.http.get(MEMBERS)
    node, known = facade.cluster.shards[0].nodes[1], facade.router.shards[0].nodes["shard-0-1"]
    known.want()
    await facade.until(lambda: known.up, "its stream is open")
    ask, refusals = known.status, [True, True]

    async def refused_at_first(timeout_s: float, *, vitals: bool = False) -> admin_pb2.StatusResponse | None:
        return None if known.up and refusals and refusals.pop() else await ask(timeout_s, vitals=vitals)

    known.status = refused_at_first
    await node.stop()
    node.incarnation = 17
    await node.start()
    await facade.until(lambda: known.incarnation == 17, "it is known to run on another disk")
    assert not refusals


async def test_openapi_describes_it(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=1)
    paths = (await facade.http.get("/openapi.json")).json()["paths"]
    assert set(paths["/v1/shards/{shard}/members"]) == {"get", "head", "post"}
    assert set(paths["/v1/shards/{shard}/members/{name}"]) == {"delete"}
    replace = paths["/v1/shards/{shard}/members/{name}/replace"]["post"]
    assert {"200", "400", "404", "409", "503", "504"} <= set(replace["responses"])
    assert replace["requestBody"]["content"]["application/json"]["schema"]["properties"].keys() == {
        "address",
        "incarnation",
    }
    assert "force" in {parameter["name"] for parameter in replace["parameters"]}
