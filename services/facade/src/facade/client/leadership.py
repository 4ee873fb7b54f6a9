"""Moves the leadership of a shard to another node, when an operator asks for it.

Must not know HTTP. Moving leadership changes no data, so that a request whose fate is unknown is simply made again; it
is only never reported as done without an answer that says so.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple

import grpc
import grpc.aio

from facade.client.node import Node
from facade.client.shard import Shard
from facade.errors import BadRequestError, NotAppliedError, OutcomeUnknownError, ProblemError

TIMEOUT_S = 5.0
"""A node gives a transfer up after 3 s at most by its own settings."""
RETRY_S = 0.05


class Moved(NamedTuple):
    """Who leads now, since which term, and who did before."""

    leader: str
    term: int
    previous: str


async def move_leadership(shard: Shard, target: str) -> Moved:
    """Has a shard's leader hand over to ``target``, empty for the most caught-up voter; returns once that leads.

    Raises:
        ProblemError: 409, 422, 503 or 504; see docs/api.md.
    """
    loop = asyncio.get_running_loop()
    ends_s = loop.time() + TIMEOUT_S
    asked = False
    while True:
        left_s = ends_s - loop.time()
        leader = shard.leader
        if left_s <= 0:
            raise _too_late(shard, asked=asked)
        if leader is None:
            await asyncio.sleep(min(left_s, RETRY_S))
            continue
        try:
            answer = await leader.transfer_leadership(target, left_s)
        except grpc.aio.AioRpcError as error:
            hints = {key: value for key, value in error.trailing_metadata() or () if isinstance(value, str)}
            code = hints.get("doug-code", "")
            if code == "ALREADY_LEADER" and asked:
                # An earlier request did it, and only its answer was lost.
                return Moved(leader.id, shard.leader_term, "")
            problem = _problem(shard, error, code)
            if problem is not None:
                raise problem from None
            asked = asked or not code
            if code == "NOT_LEADER":
                _follow_hints(shard, leader, hints)
            await asyncio.sleep(RETRY_S)
            continue
        shard.leader_moved(leader, answer.term, answer.leader_id, answer.leader_address)
        return Moved(answer.leader_id, answer.term, leader.id)


def _follow_hints(shard: Shard, node: Node, hints: dict[str, str]) -> None:
    shard.pointed_elsewhere(node, hints.get("doug-leader-id", ""), hints.get("doug-leader-address", ""))


def _too_late(shard: Shard, *, asked: bool) -> ProblemError:
    if asked:
        detail = "The shard's leader was asked to hand over and did not answer in time."
        return OutcomeUnknownError("deadline_exceeded", detail, shard=shard.id)
    return NotAppliedError("no_leader", "The shard has no leader that could hand over.", shard=shard.id)


def _problem(shard: Shard, error: grpc.aio.AioRpcError, code: str) -> ProblemError | None:
    """What a refusal means for the client; None when it is worth another try."""
    detail = (error.details() or "").removeprefix(f"{code}: ").rstrip(".") + "."
    if code == "ALREADY_LEADER":
        return BadRequestError("already_leader", detail, status=409, shard=shard.id)
    if code == "TRANSFER_REFUSED":
        return BadRequestError("transfer_refused", detail, status=409, shard=shard.id)
    if code == "UNKNOWN_MEMBER":
        return BadRequestError("unknown_target", detail, status=422, shard=shard.id)
    if code == "TRANSFER_FAILED":
        return OutcomeUnknownError("transfer_failed", detail, shard=shard.id)
    if code in ("NOT_LEADER", "UNAVAILABLE"):
        return None
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return _too_late(shard, asked=True)
    if error.code() is grpc.StatusCode.UNIMPLEMENTED:
        return NotAppliedError(
            "unavailable", "The shard's leader is of a version that cannot hand over.", shard=shard.id
        )
    # The connection: nobody was reached, or the answer was lost.
    return None
