"""Hedged reads: a second copy of an eventual read that takes long, one answer, and no more copies than allowed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from doug.v1 import doug_pb2
from facade.client import hedging, replicas, shard
from facade.client.modes import EVENTUAL as EVENTUAL_READ

MakeFacade = Callable[..., Awaitable[Any]]
EVENTUAL = {"doug-consistency": "eventual"}
FOR_EVER_S = 1e6


@pytest.fixture(autouse=True)
def no_other_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is silent stays with its reads: only a copy can be answered."""
    monkeypatch.setattr(shard, "SLOW_S", FOR_EVER_S)
    monkeypatch.setattr(shard, "SILENT_S", FOR_EVER_S)
    monkeypatch.setattr(replicas, "SILENT_S", FOR_EVER_S)


def counted(facade: Any, outcome: str) -> float:
    found = facade.metrics.registry.get_sample_value("dougdb_facade_hedged_reads_total", {"outcome": outcome})
    assert found is not None
    return float(found)


async def stuck(facade: Any) -> tuple[Any, asyncio.Task[Any]]:
    """A node that does not answer, and a read that it has."""
    nodes = facade.cluster.shards[0].nodes
    for node in nodes:
        node.silent = True
    task = asyncio.create_task(facade.http.get("/v1/kv/k", headers=EVENTUAL))
    await facade.until(lambda: any(local_reads(node) for node in nodes), "the read to be at a node")
    (taken,) = [node for node in nodes if local_reads(node)]
    return taken, task


def local_reads(node: Any) -> int:
    return sum(items for kind, items in node.batches if kind == doug_pb2.BATCH_KIND_READ_LOCAL)


def wake(facade: Any, *but: Any) -> None:
    for node in facade.cluster.shards[0].nodes:
        node.silent = node in but


async def test_a_read_that_takes_long_is_answered_by_another_replica(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=3, hedge_reads_ms=1)
    await facade.http.put("/v1/kv/k", content=b"v")
    taken, task = await stuck(facade)
    wake(facade, taken)
    answer = await asyncio.wait_for(task, 60)
    assert (answer.status_code, answer.content) == (200, b"v")
    assert answer.headers["doug-served-by"] != taken.id
    assert (counted(facade, "sent"), counted(facade, "won"), counted(facade, "over_budget")) == (1, 1, 0)
    # What the first one says later is nobody's answer, and nothing of it is left.
    wake(facade)
    await facade.until(lambda: not facade.router.registry._pending, "everything to be over")
    load = facade.router.registry.load(0)
    assert (load.items, load.size) == (0, 0)


async def test_the_first_copy_may_win_and_the_second_ends_with_it(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=2, hedge_reads_ms=1)
    await facade.http.put("/v1/kv/k", content=b"v")
    taken, task = await stuck(facade)
    (other,) = [node for node in facade.cluster.shards[0].nodes if node is not taken]
    await facade.until(lambda: local_reads(other), "the copy to be at the other node")
    wake(facade, other)
    answer = await asyncio.wait_for(task, 60)
    assert (answer.status_code, answer.headers["doug-served-by"]) == (200, taken.id)
    assert (counted(facade, "sent"), counted(facade, "won")) == (1, 0)
    assert not facade.router.registry._pending
    wake(facade)


async def test_there_are_no_more_copies_than_allowed(make_facade: MakeFacade, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hedging, "RESERVE", 2.0)
    facade = await make_facade(nodes=2, hedge_reads_ms=1, hedge_reads_percent=0.001)
    await facade.http.put("/v1/kv/k", content=b"v")
    nodes = facade.cluster.shards[0].nodes
    for node in nodes:
        node.silent = True
    tasks = [asyncio.create_task(facade.http.get("/v1/kv/k", headers=EVENTUAL)) for _ in range(10)]
    await facade.until(lambda: counted(facade, "over_budget") > 2, "copies to be refused")
    assert counted(facade, "sent") == 2
    wake(facade)
    assert {(await task).status_code for task in tasks} == {200}
    assert counted(facade, "sent") == 2


async def test_other_reads_are_never_copied_and_it_is_off_by_default(make_facade: MakeFacade) -> None:
    for settings, headers in (({"hedge_reads_ms": 1}, {}), ({}, EVENTUAL)):
        facade = await make_facade(nodes=2, request_timeout_ms=300, **settings)
        for node in facade.cluster.shards[0].nodes:
            node.silent = True
        answer = await facade.http.get("/v1/kv/k", headers=headers)
        assert answer.status_code in (503, 504)
        assert counted(facade, "sent") == 0
        wake(facade)


async def test_copies_that_are_over_hold_no_other_reads_up(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=1, hedge_reads_ms=1)
    owner = facade.router.directory.shards[0]
    (node,) = owner.nodes.values()
    read, over = (facade.router.read(b"k", EVENTUAL_READ) for _ in range(2))
    owner._queues[read.kind].remove(over)
    over.future.cancel()
    node.copies.append(over)
    node.granted.add(read.kind)
    cut = owner._cut_granted(node, asyncio.get_running_loop().time())
    assert cut is not None and (cut.items, cut.records) == (1, read.record)
