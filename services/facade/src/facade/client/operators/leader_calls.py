"""Asks a shard's leader something by a unary call: finds the leader, follows hints, and tries again where that helps.

The one helper for whatever only a leader can answer: the map, the members, a change of them, a transfer of leadership.
Must not know what is asked. Invariant: a refusal is judged by the caller, and only what it allows is asked again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import NamedTuple, TypeVar

import grpc
import grpc.aio

from facade.client.node import Node
from facade.client.shard import Shard
from facade.errors import ProblemError

RETRY_S = 0.05
TRY_S = 1.0
"""How long one try may take of what changes nothing: a leader that hangs may have a successor that is asked next."""

T = TypeVar("T")


class Refusal(NamedTuple):
    """The refusal of a call by a node.

    Attributes:
        code: The node's ``doug-code``; empty if the connection failed, or the node does not know the call.
        detail: The node's reason, as a sentence.
        status: The status of the call.
        node: The node that was asked.
    """

    code: str
    detail: str
    status: grpc.StatusCode
    node: Node


async def call_leader(shard: Shard, call: Callable[[Node], Awaitable[T]]) -> T | Refusal | None:
    """Asks the leader once, or the node to which it points if it leads no more; None while no leader is known."""
    leader = shard.leader
    if leader is None:
        return None
    try:
        return await call(leader)
    except grpc.aio.AioRpcError as error:
        hints = {key: value for key, value in error.trailing_metadata() or () if isinstance(value, str)}
        code = hints.get("doug-code", "")
        if code == "NOT_LEADER":
            shard.pointed_elsewhere(leader, hints.get("doug-leader-id", ""), hints.get("doug-leader-address", ""))
        detail = (error.details() or "").removeprefix(f"{code}: ").rstrip(".") + "."
        return Refusal(code, detail, error.code(), leader)


def _within(call: Callable[[Node, float], Awaitable[T]], left_s: float, node: Node) -> Awaitable[T]:
    return call(node, left_s)


async def ask_leader(
    shard: Shard,
    call: Callable[[Node, float], Awaitable[T]],
    timeout_s: float,
    judge: Callable[[Refusal], ProblemError | T | None],
    late: Callable[[], ProblemError],
    *,
    reads: bool = False,
) -> T:
    """Asks the leader, or the next one, until there is an answer.

    Args:
        shard: The shard whose leader is asked.
        call: Asks a node, within some seconds.
        timeout_s: How long all tries may take together.
        judge: Turns a refusal into an error, into an answer after all, or into None if it is worth another try.
        late: Makes the error for the end of the time.
        reads: Whether the call changes nothing, so that a try without an answer is worth another one elsewhere.

    Raises:
        ProblemError: The error that ``judge`` or ``late`` made.
    """
    loop = asyncio.get_running_loop()
    ends_s = loop.time() + timeout_s
    while True:
        left_s = ends_s - loop.time()
        if left_s <= 0:
            raise late()
        answer = await call_leader(shard, partial(_within, call, min(left_s, TRY_S) if reads else left_s))
        if isinstance(answer, Refusal):
            verdict = judge(answer)
            if isinstance(verdict, ProblemError):
                raise verdict
            answer = verdict
        if answer is not None:
            return answer
        await asyncio.sleep(min(left_s, RETRY_S))
