"""The statuses of all nodes, for clients that watch the cluster.

Must not know HTTP. Invariants: (1) nodes are asked at most every ``FRESH_S``, however many ask at once; (2) at most
``BEGUN_AT_ONCE`` calls are begun in one piece, however many nodes there are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any, TypeVar

from doug.v1 import admin_pb2
from facade.client.node import Node
from facade.client.operators.leader_calls import Refusal, call_leader
from facade.client.shard import Shard

STATUS_TIMEOUT_S = 0.5
FRESH_S = 0.5
EVENTS_TIMEOUT_S = 2.0
BEGUN_AT_ONCE = 48
"""So many calls take some milliseconds to begin; then whatever else waits has its turn."""

T = TypeVar("T")

Statuses = Mapping[int, list[tuple[Node, admin_pb2.StatusResponse | None]]]
Events = list[tuple[Node, admin_pb2.EventsResponse | None]]


async def learn_members(shard: Shard) -> None:
    """Asks a shard's leader for the members; without an answer the members of before are kept."""
    answer = await call_leader(shard, lambda leader: leader.members(STATUS_TIMEOUT_S))
    if answer is not None and not isinstance(answer, Refusal):
        shard.learn_members(answer)


async def _all_of(calls: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """The answers to calls that wait for their answers together."""
    begun = []
    async with asyncio.TaskGroup() as group:
        for number, call in enumerate(calls, 1):
            begun.append(group.create_task(call))
            if number % BEGUN_AT_ONCE == 0:
                await asyncio.sleep(0)
    return [each.result() for each in begun]


async def ask_statuses(shards: list[Shard]) -> Statuses:
    """Asks every member for its status, all at once; before a leader told who they are, every listed node."""
    asked = [node for shard in shards for node in shard.nodes.values()]
    answers, _ = await asyncio.gather(
        _all_of(node.status(STATUS_TIMEOUT_S, vitals=True) for node in asked),
        _all_of(learn_members(shard) for shard in shards),
    )
    known = dict(zip(asked, answers, strict=True))
    found = [node for shard in shards for node in shard.nodes.values() if node not in known]
    new = await _all_of(node.status(STATUS_TIMEOUT_S, vitals=True) for node in found)
    known.update(zip(found, new, strict=True))
    return {shard.id: [(node, known[node]) for node in shard.expected if node in known] for shard in shards}


async def ask_events(shard: Shard, since_us: Callable[[Node], int], limit: int) -> Events:
    """Asks every node of a shard for its newest events since a time, all at once.

    Nodes that were removed are asked too, but do not count as missing when they do not answer.
    """
    nodes = tuple(shard.nodes.values())
    answers = await asyncio.gather(*(node.events(since_us(node), limit, EVENTS_TIMEOUT_S) for node in nodes))
    return [
        (node, answer)
        for node, answer in zip(nodes, answers, strict=True)
        if answer is not None or shard.members is None or node.id in shard.members
    ]


class ClusterStatus:
    """The newest statuses, asked for again when they are old."""

    def __init__(self, shards: Mapping[int, Shard]) -> None:
        self._shards = shards
        self._loop = asyncio.get_running_loop()
        self._asked_s = float("-inf")
        self._round: asyncio.Task[Statuses] | None = None

    async def read(self) -> Statuses:
        """The statuses from less than ``FRESH_S`` ago, or else those of now."""
        now_s = self._loop.time()
        if self._round is None or (self._round.done() and now_s - self._asked_s >= FRESH_S):
            self._asked_s = now_s
            shards = [shard for _, shard in sorted(self._shards.items())]
            asking = asyncio.create_task(ask_statuses(shards))
            self._round = asking
        # A caller that gives up does not end the round for which others wait.
        return await asyncio.shield(self._round)
