"""/v1/shards/{id}/backup: an archive of one replica's state, whole or broken, never whole-looking and wrong."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import socket
import tarfile
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest
import uvicorn
import xxhash

from facade.client.operators import backup

MakeFacade = Callable[..., Awaitable[Any]]
PATH = "/v1/shards/0/backup"


def members_of(archive: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        found = {}
        for member in tar:
            file = tar.extractfile(member)
            assert file is not None
            found[member.name] = file.read()
    return found


@contextlib.asynccontextmanager
async def served(facade: Any) -> AsyncIterator[httpx.AsyncClient]:
    """The facade behind a real socket: only there a broken answer can be told from a short one."""
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(facade.application, lifespan="off", log_config=None, ws="none"))
    task = asyncio.create_task(server.serve([listening]))
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{listening.getsockname()[1]}", timeout=20) as http:
            yield http
    finally:
        server.should_exit = True
        await task
        listening.close()


async def test_the_archive_holds_the_state_and_says_what_it_is(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=3)
    answer = await facade.http.get(PATH)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/x-tar"
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert answer.headers["doug-shard"] == "0"
    found = members_of(answer.content)
    node = facade.cluster.shards[0].nodes[1]
    assert answer.headers["doug-served-by"] == node.id
    facts = json.loads(found.pop("SHARD.json"))
    assert found == node.files
    assert facts.pop("files") == [
        {"name": name, "size_bytes": len(content), "xxh3": xxhash.xxh3_64_hexdigest(content)}
        for name, content in node.files.items()
    ]
    assert facts == {
        "format": 1,
        "cluster_id": "c0ffee",
        "shard": 0,
        "initial_shards": 1,
        "index": 40,
        "term": 4,
        "log_time_us": 1_700_000_000_000_000,
        "voters": ["shard-0-0", "shard-0-1", "shard-0-2"],
        "learners": [],
        "node": node.id,
        "version": "0.1.0",
    }


async def test_followers_that_are_up_to_date_come_before_the_leader_and_that_before_others(
    make_facade: MakeFacade, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup, "LAG_MAX", 2)
    facade = await make_facade(nodes=3)
    leader, behind, close = facade.cluster.shards[0].nodes
    leader.applied_index, behind.applied_index, close.applied_index = 100, 90, 99
    for fault, expected in ((), close), ((close,), leader), ((close, leader), behind):
        for node in fault:
            node.backup_fault = "refuse"
        answer = await facade.http.get(PATH)
        assert (answer.status_code, answer.headers["doug-served-by"]) == (200, expected.id)


@pytest.mark.parametrize("fault", ["refuse", "foreign", "name"])
async def test_without_a_replica_that_can_it_is_refused(make_facade: MakeFacade, fault: str) -> None:
    facade = await make_facade(nodes=2)
    for node in facade.cluster.shards[0].nodes:
        node.backup_fault = fault
    answer = await facade.http.get(PATH)
    assert (answer.status_code, answer.json()["code"], answer.json()["retryable"]) == (503, "unavailable", True)
    assert "shard-0-0" in answer.json()["detail"] and "shard-0-1" in answer.json()["detail"]


async def test_a_node_that_is_gone_or_never_begins_is_passed_over(
    make_facade: MakeFacade, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup, "HEADER_TIMEOUT_S", 1.0)
    facade = await make_facade(nodes=3)
    _, gone, silent = facade.cluster.shards[0].nodes
    await gone.stop()
    silent.applied_index = 8
    real = silent._wait_while_silent

    async def stuck() -> None:
        if silent.backups:
            await asyncio.sleep(60)
        await real()

    silent._wait_while_silent = stuck
    answer = await facade.http.get(PATH)
    assert (answer.status_code, silent.backups) == (200, 1)
    assert answer.headers["doug-served-by"] == "shard-0-0"
    async with asyncio.timeout(60):
        while silent.backups_open:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("fault", ["break", "damage", "shorten"])
async def test_a_transfer_that_goes_wrong_breaks_the_answer(make_facade: MakeFacade, fault: str) -> None:
    facade = await make_facade(nodes=1)
    node = facade.cluster.shards[0].nodes[0]
    node.backup_fault = fault
    async with served(facade) as http:
        with pytest.raises(httpx.RemoteProtocolError):
            await http.get(PATH)
        node.backup_fault = ""
        assert members_of((await http.get(PATH)).content).keys() == {"SHARD.json", *node.files}


async def test_a_client_that_goes_away_ends_the_nodes_stream(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=1)
    node = facade.cluster.shards[0].nodes[0]
    node.files["000003.sst"] = bytes(16 << 20)
    async with served(facade) as http:
        async with http.stream("GET", PATH) as answer:
            assert answer.status_code == 200
            async for _ in answer.aiter_raw():
                break
            assert node.backups_open == 1
        async with asyncio.timeout(60):
            while node.backups_open:
                await asyncio.sleep(0.01)


async def test_what_is_not_understood_is_refused(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=1)
    unknown = await facade.http.get("/v1/shards/7/backup")
    assert (unknown.status_code, unknown.json()["code"]) == (404, "unknown_shard")
    odd = await facade.http.get(f"{PATH}?from=x")
    assert (odd.status_code, odd.json()["code"]) == (400, "unknown_parameter")
    assert facade.cluster.shards[0].nodes[0].backups == 0


async def test_so_many_backups_are_sent_at_a_time_and_no_more(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=1, backups_max=1)
    node = facade.cluster.shards[0].nodes[0]
    gate = asyncio.Event()

    async def stuck() -> None:
        if node.backups:
            await gate.wait()

    node._wait_while_silent = stuck
    first = asyncio.create_task(facade.http.get(PATH))
    await facade.until(lambda: node.backups == 1, "the first one is under way")
    second = await facade.http.get(PATH)
    assert (second.status_code, second.json()["code"], node.backups) == (503, "overloaded", 1)
    gate.set()
    assert (await first).status_code == 200
    assert (await facade.http.get(PATH)).status_code == 200, "the place is free again"
