"""Batches of puts without options have a way of their own, and the answers that they would have without it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from doug_wire.payload import BATCH_PART
from doug_wire.pipe import Status
from facade.client.fanout import PART_BYTES_MAX
from facade.client.put_batches import PutBatches, Puts, _parts

MakeFacade = Callable[..., Awaitable[Any]]
Written = tuple[list[dict[str, Any]], dict[str, str], list[dict[bytes, Any]]]
TOLD = ("doug-shard", "doug-node", "doug-term", "doug-role", "doug-consistency", "doug-session", "content-type")


async def no_way_of_their_own(*_: object) -> None:
    return None


async def write(make_facade: MakeFacade, keys: list[str], script: list[Status], **settings: Any) -> Written:
    """What a batch is answered, and what the shards hold then."""
    facade = await make_facade(**settings)
    for shard in facade.cluster.shards:
        shard.nodes[0].script.extend(script)
    operations = [{"op": "put", "key": key, "value": f"value {number}"} for number, key in enumerate(keys)]
    answer = await facade.http.post("/v1/batch", json={"operations": operations})
    assert answer.status_code == 200, answer.text
    told = {name: answer.headers.get(name, "") for name in TOLD}
    return answer.json()["results"], told, [dict(shard.data) for shard in facade.cluster.shards]


@pytest.mark.parametrize("keys", [["k"], ["a", "b", "a", "c"] * (BATCH_PART // 3)])
@pytest.mark.parametrize("shards", [1, 2])
async def test_the_answers_are_the_same(
    make_facade: MakeFacade, monkeypatch: pytest.MonkeyPatch, keys: list[str], shards: int
) -> None:
    fast = await write(make_facade, keys, [], shards=shards, nodes=1)
    monkeypatch.setattr(PutBatches, "run", no_way_of_their_own)
    assert fast == await write(make_facade, keys, [], shards=shards, nodes=1)
    assert [each["status"] for each in fast[0]] == [200] * len(keys)


@pytest.mark.parametrize("script", [Status.OVERLOADED, Status.UNKNOWN, Status.WRONG_SHARD, Status.RESULT_TOO_LARGE])
async def test_what_does_not_succeed_is_answered_the_same(
    make_facade: MakeFacade, monkeypatch: pytest.MonkeyPatch, script: Status
) -> None:
    keys = [f"k{number}" for number in range(9)]
    fast = await write(make_facade, keys, [script], shards=2, nodes=1)
    monkeypatch.setattr(PutBatches, "run", no_way_of_their_own)
    slow = await write(make_facade, keys, [script], shards=2, nodes=1)
    assert [(each["status"], each.get("code")) for each in fast[0]] == [
        (each["status"], each.get("code")) for each in slow[0]
    ]


@pytest.mark.parametrize("own_way", [True, False])
@pytest.mark.parametrize(
    ("script", "others"), [([Status.WRONG_SHARD], BATCH_PART - 1), ([Status.RESULT_TOO_LARGE, Status.WRONG_SHARD], 7)]
)
async def test_puts_of_a_key_keep_their_order_though_the_first_is_sent_again(
    make_facade: MakeFacade, monkeypatch: pytest.MonkeyPatch, script: list[Status], others: int, own_way: bool
) -> None:
    if not own_way:
        monkeypatch.setattr(PutBatches, "run", no_way_of_their_own)
    keys = ["k", *(f"other{number}" for number in range(others)), "k"]
    results, _, (data,) = await write(make_facade, keys, script, shards=1, nodes=1)
    assert [each["status"] for each in results] == [200] * len(keys)
    assert int(results[0]["revision"]) < int(results[-1]["revision"])
    assert b"value %d" % (len(keys) - 1) in repr(data[b"k"]).encode()


async def test_puts_go_without_an_object_for_each_of_them(
    make_facade: MakeFacade, monkeypatch: pytest.MonkeyPatch
) -> None:
    facade = await make_facade(shards=2)
    monkeypatch.setattr(facade.application.batch.fanout, "run", None)
    operations: list[dict[str, str]] = [{"op": "put", "key": f"k{number}", "value": "v"} for number in range(3)]
    answer = await facade.http.post("/v1/batch", json={"operations": operations})
    assert [each["status"] for each in answer.json()["results"]] == [200] * 3


def puts(*sizes: int) -> Puts:
    return Puts(range(len(sizes)), [b"%d" % number for number in range(len(sizes))], [bytes(size) for size in sizes])


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([1], [1]),
        ([1] * (2 * BATCH_PART + 1), [BATCH_PART, BATCH_PART, 1]),
        ([400_000] * 5, [2, 2, 1]),
        ([PART_BYTES_MAX, 1, PART_BYTES_MAX, PART_BYTES_MAX - 100, 1], [1, 1, 1, 2]),
    ],
)
def test_a_part_has_few_operations_and_few_bytes(sizes: list[int], expected: list[int]) -> None:
    parts = list(_parts(puts(*sizes)))
    assert [len(part.keys) for part in parts] == expected
    assert [place for part in parts for place in part.places] == list(range(len(sizes)))
    assert all(len(part.keys) == len(part.values) for part in parts)
