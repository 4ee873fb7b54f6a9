"""``Server-Timing``: where the time of an answer went, by both ways through the facade."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from doug.v1 import doug_pb2

MakeFacade = Callable[..., Awaitable[Any]]

TIMINGS = doug_pb2.Timings(append_us=110, fsync_us=2200, commit_us=3300, apply_us=440, confirm_us=5500, read_us=60)


def steps(answer: httpx.Response) -> dict[str, float]:
    """The metrics of an answer, in milliseconds."""
    (told,) = answer.headers.get_list("server-timing")
    found = [re.fullmatch(r"([a-z]+);dur=([0-9]+\.[0-9]{2})", part) for part in told.split(", ")]
    assert all(found), told
    return {match[1]: float(match[2]) for match in found if match is not None}


async def client_of(facade: Any, *, hot: bool) -> httpx.AsyncClient:
    port = await facade.listen(hot=hot)
    return httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}")


@pytest.mark.parametrize("hot", [True, False])
async def test_answers_of_keys_say_what_the_node_said(make_facade: MakeFacade, hot: bool) -> None:
    facade = await make_facade(nodes=1)
    facade.cluster.shards[0].nodes[0].timings.CopyFrom(TIMINGS)
    async with await client_of(facade, hot=hot) as http:
        wrote = steps(await http.put("/v1/kv/k", content=b"v"))
        assert list(wrote) == ["facade", "route", "append", "fsync", "quorum", "apply"]
        assert [wrote[name] for name in ("append", "fsync", "quorum", "apply")] == [0.11, 2.2, 3.3, 0.44]
        assert wrote["facade"] >= wrote["route"]
        read = steps(await http.get("/v1/kv/k"))
        assert list(read) == ["facade", "route", "quorum", "read"]
        assert (read["quorum"], read["read"]) == (5.5, 0.06)
        missing = await http.get("/v1/kv/none")
        assert missing.status_code == 404
        assert list(steps(missing)) == ["facade", "route", "quorum", "read"]


async def test_every_other_answer_says_what_the_facade_took(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=1)
    async with await client_of(facade, hot=True) as http:
        for path in ("/v1/version", "/livez", "/nothing", "/v1/kv?prefix=a", "/v1/kv/k?x=1", "/ui/", "/metrics"):
            assert list(steps(await http.get(path))) == ["facade"], path
        batch = await http.post("/v1/batch", json={"operations": [{"op": "put", "key": "k", "value": "v"}]})
        assert (batch.status_code, list(steps(batch))) == (200, ["facade", "route"])
        txn = await http.post("/v1/txn", json={"success": [{"op": "put", "key": "k", "value": "v"}]})
        assert (txn.status_code, list(steps(txn))) == (200, ["facade", "route"])


async def test_it_can_be_turned_off_and_then_nodes_are_not_asked(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=1, server_timing_enabled=False)
    node = facade.cluster.shards[0].nodes[0]
    node.timings.CopyFrom(TIMINGS)
    for hot in (True, False):
        async with await client_of(facade, hot=hot) as http:
            for path in ("/v1/kv/k", "/v1/version"):
                assert "server-timing" not in (await http.get(path)).headers
            batch = await http.post("/v1/batch", json={"operations": [{"op": "put", "key": "k", "value": "v"}]})
            assert "server-timing" not in batch.headers
    assert not any(batch.timed for batch in node.raw)
