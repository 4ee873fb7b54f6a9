"""Asks a shard's leader for its members, and has it change them, when an operator wants it.

Must not know HTTP. A change that was certainly not proposed is asked for again until the deadline; one whose answer was
lost is never repeated and never reported as done: the list of members tells what became of it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import grpc

from doug.v1 import admin_pb2
from facade.client.node import Node
from facade.client.operators.leader_calls import Refusal, ask_leader
from facade.client.shard import Shard
from facade.errors import BadRequestError, NotAppliedError, OutcomeUnknownError, ProblemError

TIMEOUT_S = 10.0
"""How long a change may take: the leader asks the new node who it is until 3 s are left; the rest takes no time."""

T = TypeVar("T")

REFUSALS = {
    "UNKNOWN_MEMBER": ("unknown_member", 404),
    "ALREADY_MEMBER": ("already_member", 409),
    "LAST_VOTER": ("last_voter", 409),
    "QUORUM_AT_RISK": ("quorum_at_risk", 409),
    "MEMBER_UNREACHABLE": ("member_unreachable", 409),
    "WRONG_NODE": ("wrong_node", 409),
    "MEMBERS_REFUSED": ("members_refused", 409),
}
"""The final refusals by the leader's code: the problem's code and status."""

RETRIED = {"NOT_LEADER": "no_leader", "UNAVAILABLE": "no_leader", "CHANGE_UNDER_WAY": "change_under_way"}
"""The refusals that are worth another try, since nothing was proposed: the problem's code."""


async def list_members(shard: Shard) -> admin_pb2.MembersResponse:
    """The members of a shard as its leader sees them.

    Raises:
        ProblemError: 503; there is no leader to ask.
    """
    return await _ask(shard, lambda leader, left_s: leader.members(left_s), reads=True)


async def add_member(shard: Shard, name: str, address: str, incarnation: int = 0) -> admin_pb2.ChangeMembersResponse:
    """Admits a node as a learner.

    Raises:
        ProblemError: 409, 503 or 504; see docs/api.md.
    """
    request = admin_pb2.AddMemberRequest(name=name, address=address, incarnation=incarnation)
    return await _ask(shard, lambda leader, left_s: leader.add_member(request, left_s))


async def remove_member(shard: Shard, name: str, *, force: bool) -> admin_pb2.ChangeMembersResponse:
    """Removes a member.

    Raises:
        ProblemError: 404, 409, 503 or 504; see docs/api.md.
    """
    request = admin_pb2.RemoveMemberRequest(name=name, force=force)
    return await _ask(shard, lambda leader, left_s: leader.remove_member(request, left_s))


async def replace_member(
    shard: Shard, name: str, address: str, incarnation: int = 0, *, force: bool
) -> admin_pb2.ChangeMembersResponse:
    """Admits the new incarnation of a node in place of the old one.

    Raises:
        ProblemError: 404, 409, 503 or 504; see docs/api.md.
    """
    request = admin_pb2.ReplaceMemberRequest(name=name, address=address, force=force, incarnation=incarnation)
    return await _ask(shard, lambda leader, left_s: leader.replace_member(request, left_s))


async def _ask(shard: Shard, call: Callable[[Node, float], Awaitable[T]], *, reads: bool = False) -> T:
    waits_for, detail = "no_leader", "The shard has no leader that could be asked."

    def judge(refusal: Refusal) -> ProblemError | None:
        nonlocal waits_for, detail
        if refusal.code not in RETRIED and not (reads and not refusal.code):
            return _problem(shard, refusal)
        if refusal.code == "CHANGE_UNDER_WAY":
            waits_for, detail = RETRIED[refusal.code], refusal.detail
        return None

    def late() -> ProblemError:
        return NotAppliedError(waits_for, detail, shard=shard.id)

    return await ask_leader(shard, call, TIMEOUT_S, judge, late, reads=reads)


def _problem(shard: Shard, refusal: Refusal) -> ProblemError:
    """The error for the client after a refusal."""
    code, detail = refusal.code, refusal.detail
    known = REFUSALS.get(code)
    if known is not None:
        return BadRequestError(known[0], detail, status=known[1], shard=shard.id)
    if code == "NOT_APPLIED":
        return NotAppliedError("superseded", detail, shard=shard.id)
    if code == "UNKNOWN":
        return OutcomeUnknownError("outcome_unknown", detail, shard=shard.id)
    if refusal.status is grpc.StatusCode.UNIMPLEMENTED:
        detail = "The shard's leader is of a version that cannot change members."
        return NotAppliedError("unavailable", detail, shard=shard.id)
    late = refusal.status is grpc.StatusCode.DEADLINE_EXCEEDED
    detail = "The shard's leader was asked and did not answer; the list of members tells what became of it."
    return OutcomeUnknownError("deadline_exceeded" if late else "outcome_unknown", detail, shard=shard.id)
