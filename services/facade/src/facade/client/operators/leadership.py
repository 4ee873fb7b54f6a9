"""Moves the leadership of a shard to another node, when an operator asks for it.

Must not know HTTP. Moving leadership changes no data, so that a request whose fate is unknown is simply made again; it
is only never reported as done without an answer that says so.
"""

from __future__ import annotations

from typing import NamedTuple

import grpc

from facade.client.node import Node
from facade.client.operators.leader_calls import Refusal, ask_leader
from facade.client.shard import Shard
from facade.errors import BadRequestError, NotAppliedError, OutcomeUnknownError, ProblemError

TIMEOUT_S = 5.0
"""How long a transfer may take; a node gives it up after 3 s by its own settings, unless these were changed."""


class Moved(NamedTuple):
    """The leader of now, its term, and the leader before."""

    leader: str
    term: int
    previous: str


async def move_leadership(shard: Shard, target: str) -> Moved:
    """Has a shard's leader hand over to ``target``, empty for the most caught-up voter; returns once that leads.

    Raises:
        ProblemError: 409, 422, 503 or 504; see docs/api.md.
    """
    asked = False

    async def hand_over(leader: Node, left_s: float) -> Moved:
        answer = await leader.transfer_leadership(target, left_s)
        shard.leader_moved(leader, answer.term, answer.leader_id, answer.leader_address)
        return Moved(answer.leader_id, answer.term, leader.id)

    def judge(refusal: Refusal) -> ProblemError | Moved | None:
        nonlocal asked
        if refusal.code == "ALREADY_LEADER" and asked:
            # An earlier attempt succeeded, and only its answer was lost.
            return Moved(refusal.node.id, shard.leader_term, "")
        problem = _problem(shard, refusal)
        asked = asked or not refusal.code
        return problem

    return await ask_leader(shard, hand_over, TIMEOUT_S, judge, lambda: _too_late(shard, asked=asked))


def _too_late(shard: Shard, *, asked: bool) -> ProblemError:
    if asked:
        detail = "The shard's leader was asked to hand over and did not answer in time."
        return OutcomeUnknownError("deadline_exceeded", detail, shard=shard.id)
    return NotAppliedError("no_leader", "The shard has no leader that could hand over.", shard=shard.id)


def _problem(shard: Shard, refusal: Refusal) -> ProblemError | None:
    """The error for the client after a refusal; None if it is worth another try."""
    code, detail = refusal.code, refusal.detail
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
    if refusal.status is grpc.StatusCode.DEADLINE_EXCEEDED:
        return _too_late(shard, asked=True)
    if refusal.status is grpc.StatusCode.UNIMPLEMENTED:
        return NotAppliedError(
            "unavailable", "The shard's leader is of a version that cannot hand over.", shard=shard.id
        )
    # The connection failed: no node was reached, or the answer was lost.
    return None
