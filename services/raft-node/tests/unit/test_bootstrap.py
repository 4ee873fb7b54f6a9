"""The first start of a shard's members, with others that answer slowly."""

from __future__ import annotations

import grpc
import pytest

from doug.v1 import raft_pb2 as pb
from raft_node.app import bootstrap
from raft_node.raft.types import NodeId
from raft_node.settings import NodeSettings

NEEDED_S = 2.0
"""What it takes to answer on a machine so busy that looking a name up takes a second."""


async def test_members_that_answer_slowly_are_given_more_time_from_round_to_round(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With one short deadline for every call they would wait for each other for ever."""
    given_s: list[float] = []

    async def ask(
        channel: grpc.aio.Channel, shard: int, sender: NodeId, timeout_s: float
    ) -> pb.IdentifyResponse | None:
        given_s.append(timeout_s)
        if timeout_s < NEEDED_S:
            return None
        return pb.IdentifyResponse(member=pb.Member(name="b", incarnation=2), shard=0)

    monkeypatch.setattr(bootstrap, "ask", ask)
    monkeypatch.setattr(bootstrap, "_POLL_S", 0.0)
    peers = "a=127.0.0.1:9,b=127.0.0.1:9"
    settings = NodeSettings(node_id="a", shard_id=0, peers=peers, wal_dir="unused", data_dir="unused")
    first = await bootstrap.Bootstrap(settings, NodeId("a", 1), "").run()
    assert first.entry is not None
    assert given_s == sorted(given_s)
    assert NEEDED_S <= given_s[-1] <= bootstrap._CALL_TIMEOUT_MAX_S
