"""A leader that cannot serve hands over, but only to a voter that can."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from doug.v1 import raft_pb2 as pb
from raft_node.app.unfit_leader import LOOK_EVERY_S, STALLED_S, TRY_EVERY_S, UnfitLeader
from raft_node.errors import TransferFailedError
from raft_node.raft.types import Configuration, NodeId, Role

A, B, C, D = NodeId("a", 1), NodeId("b", 2), NodeId("c", 3), NodeId("d", 4)


class Shard:
    """A leader of four voters as the rule sees it; the driver, and what the others answer."""

    def __init__(self) -> None:
        progress = {voter: SimpleNamespace(match_index=index) for voter, index in ((B, 7), (C, 9), (D, 8))}
        self.node: Any = SimpleNamespace(
            id=A,
            role=Role.LEADER,
            configuration=Configuration((A, B, C, D)),
            leadership=SimpleNamespace(progress=progress),
        )
        self.holding = False
        self.present_stall_s = 0.0
        self.low = False
        self.targets: list[NodeId | None] = []
        self.answers = {
            member.name: pb.IdentifyResponse(member=pb.Member(name=member.name, incarnation=member.incarnation))
            for member in (B, C, D)
        }
        self.rule = UnfitLeader(self, lambda: self.low, lambda member: member.name, self.ask, 3.0)

    async def ask(self, address: str) -> pb.IdentifyResponse | None:
        return self.answers.get(address)

    async def hand_over(self, target: NodeId | None, timeout_s: float) -> NodeId:
        self.targets.append(target)
        if target == D:
            raise TransferFailedError("it is on its way down")
        self.node.role = Role.FOLLOWER
        return target or B


async def test_a_leader_whose_engine_stands_still_hands_over_to_the_longest_log_that_does_not() -> None:
    shard = Shard()
    shard.present_stall_s = STALLED_S / 2
    assert not await shard.rule.look(), "writes may wait for a flush now and then"
    told_before = shard.rule.stalled
    shard.present_stall_s = STALLED_S + 0.1
    assert (told_before, shard.rule.stalled) == (False, True), "and others are told so"
    shard.answers["c"].stalled = True
    shard.answers["d"].disk_low = True
    assert await shard.rule.look()
    assert shard.targets == [B]
    assert not await shard.rule.look(), "it follows now"
    assert shard.targets == [B]


async def test_leadership_stays_when_nobody_is_better_and_is_tried_again() -> None:
    shard = Shard()
    shard.low = True
    for answer in shard.answers.values():
        answer.stalled = True
    del shard.answers["b"]
    assert await shard.rule.look()
    shard.answers["d"].stalled = False
    shard.answers["c"] = pb.IdentifyResponse(member=pb.Member(name="c", incarnation=99))
    assert await shard.rule.look()
    assert shard.targets == [D], "another incarnation is nobody"
    shard.holding = True
    assert not await shard.rule.look()


async def test_it_looks_often_and_disturbs_seldom() -> None:
    shard, slept = Shard(), list[float]()

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 2:
            raise StopAsyncIteration
        shard.low = True

    with pytest.raises(StopAsyncIteration):
        await shard.rule.run(sleep)
    assert slept == [LOOK_EVERY_S, TRY_EVERY_S]
