"""Three defects of the project that this one took its idea from: those that concern the services, numbered as there.

The others are tests of the core: services/raft-node/tests/unit/test_original_defects.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

MakeFacade = Callable[..., Awaitable[Any]]

WRITE = 1


async def test_defect_7_a_redirect_names_an_address_that_can_be_followed(make_facade: MakeFacade) -> None:
    """The old leader's refusal names the new one, and the facade asks that one next and no other."""
    facade = await make_facade(nodes=3)
    shard, client = facade.cluster.shards[0], facade.router.shards[0]
    await facade.http.put("/v1/kv/k", content=b"1")
    shard.nodes[2].lead()
    answer = await facade.http.put("/v1/kv/k", content=b"2")
    assert (answer.status_code, answer.headers["doug-served-by"]) == (200, shard.nodes[2].id)
    assert client.leader.address == shard.nodes[2].address
    assert not shard.nodes[1].batches, "the others were not tried"


async def test_defect_8_a_put_that_may_have_been_applied_is_not_put_again(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=3)
    shard = facade.cluster.shards[0]
    shard.nodes[0].break_on_batch = True
    answer = await facade.http.put("/v1/kv/k", content=b"once")
    assert (answer.status_code, answer.json()["outcome"]) == (504, "unknown")
    await asyncio.sleep(0.2)
    assert shard.revision == 1
    assert sum(items for node in shard.nodes for kind, items in node.batches if kind == WRITE) == 1


async def test_defect_9_puts_do_not_wait_for_one_another(make_facade: MakeFacade) -> None:
    """While a batch is under way the next one gathers: a slow node gets few batches, not one put after the other."""
    facade = await make_facade(nodes=1)
    leader = facade.cluster.shards[0].nodes[0]
    leader.silent = True
    puts = [asyncio.create_task(facade.http.put(f"/v1/kv/k{i}", content=b"v")) for i in range(100)]
    await facade.until(lambda: len(leader.batches) > 0, "the first batch arrived")
    leader.silent = False
    answers = await asyncio.gather(*puts)
    assert {answer.status_code for answer in answers} == {200}
    sizes = [items for kind, items in leader.batches if kind == WRITE]
    assert sum(sizes) == 100
    assert len(sizes) <= 10, sizes
