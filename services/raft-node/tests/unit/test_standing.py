"""What a node that is no member says of itself, and whom it believes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from doug.v1 import raft_pb2 as pb
from doug.v1 import raft_pb2_grpc
from raft_node.app.standing import MEMBER, Standing, newest, verdict
from raft_node.observability.metrics import Metrics
from raft_node.raft.configuration import encode_configuration
from raft_node.raft.types import NO_MEMBERS, Configuration, NodeId
from raft_node.rpc.channels import SERVER_OPTIONS
from raft_node.rpc.raft_service import RaftService

A, B, C = NodeId("a", 1), NodeId("b", 2), NodeId("c", 3)
WIPED = NodeId("b", 99)
TWO = Configuration((A, B))
SHARD, CLUSTER = 7, b"c0ffee"


def answer(configuration: Configuration | None, applied: int, shard: int = SHARD, cluster: bytes = CLUSTER) -> Any:
    data = b"" if configuration is None else encode_configuration(configuration)
    return pb.IdentifyResponse(shard=shard, cluster_id=cluster, configuration=data, applied_index=applied)


def test_a_member_is_one_under_its_own_incarnation() -> None:
    assert verdict(TWO, B, SHARD) == MEMBER
    assert verdict(Configuration((A,), (B,)), B, SHARD) == MEMBER


def test_a_wiped_disk_is_told_the_way_out() -> None:
    found = verdict(TWO, WIPED, SHARD)
    assert found == (
        "incarnation_refused",
        "b is a member of shard 7 with incarnation 2, and this disk has 99: the disk was wiped or replaced; "
        "run `dougctl members replace b --shard 7` to admit it anew",
    )


def test_a_new_node_is_told_the_way_in() -> None:
    assert verdict(TWO, C, SHARD) == (
        "join_waiting",
        "not a member of shard 7; run `dougctl members add c --shard 7 --address HOST:PORT`",
    )


def test_a_node_whose_address_is_known_is_told_the_whole_command() -> None:
    assert verdict(TWO, C, SHARD, "10.0.0.6:21001").reason.endswith("add c --shard 7 --address 10.0.0.6:21001`")


def test_whoever_has_applied_the_most_is_believed() -> None:
    older, newer = answer(TWO, 5), answer(Configuration((A,)), 9)
    assert newest([older, newer], SHARD, CLUSTER) == newest([newer, older], SHARD, CLUSTER) == Configuration((A,))
    others = [answer(TWO, 50, shard=8), answer(TWO, 50, cluster=b"decaf"), answer(None, 50)]
    assert newest([older, *others], SHARD, CLUSTER) == TWO
    damaged = pb.IdentifyResponse(shard=SHARD, cluster_id=CLUSTER, configuration=b"\x09", applied_index=99)
    assert newest([damaged], SHARD, CLUSTER) is None


def test_whoever_is_behind_this_node_is_not_believed() -> None:
    assert newest([answer(TWO, 5)], SHARD, CLUSTER, since=6) is None
    assert newest([answer(TWO, 6)], SHARD, CLUSTER, since=6) == TWO


class Node:
    """A node whose standing is looked at, and what it tells."""

    def __init__(self, me: NodeId, address: str) -> None:
        self.configuration = NO_MEMBERS
        self.has_leader = False
        self.told: list[str] = []
        self.standing = Standing(
            me,
            SHARD,
            CLUSTER,
            lambda: (self.configuration, 0),
            lambda: self.has_leader,
            lambda: {"a": address, me.name: "nowhere:1"},
            self.record,
        )

    def record(self, name: str, **details: object) -> None:
        self.told.append(name)


@pytest.fixture
async def peer(tmp_path: Path) -> AsyncIterator[tuple[RaftService, str]]:
    """Member a, which answers who it is, and where."""
    service = RaftService(A, SHARD, Metrics(SHARD))
    service.cluster_id = CLUSTER
    server = grpc.aio.server(options=SERVER_OPTIONS)
    raft_pb2_grpc.add_RaftServicer_to_server(service, server)
    address = f"unix:{tmp_path}/raft"
    server.add_insecure_port(address)
    await server.start()
    yield service, address
    await server.stop(0)


@pytest.mark.slow
async def test_it_is_told_once_and_ends_with_the_admission(peer: tuple[RaftService, str]) -> None:
    service, address = peer
    node = Node(WIPED, address)
    await node.standing.look()
    assert node.standing.reason == "no member of shard 7 answers"
    service.configuration = lambda: (encode_configuration(TWO), 5)
    for _ in range(3):
        await node.standing.look()
    assert "this disk has 99" in node.standing.reason and node.standing.is_waiting
    service.configuration = lambda: (encode_configuration(Configuration((A,))), 6)
    await node.standing.look()
    assert "not a member of shard 7" in node.standing.reason
    service.configuration = lambda: (encode_configuration(Configuration((A,), (WIPED,))), 7)
    await node.standing.look()
    assert node.standing.reason == "" and not node.standing.is_waiting
    assert node.told == ["join_waiting", "incarnation_refused", "join_waiting", "joined"]


@pytest.mark.slow
async def test_a_member_that_follows_somebody_asks_nobody(peer: tuple[RaftService, str]) -> None:
    service, address = peer
    service.configuration = lambda: (encode_configuration(Configuration((A,))), 9)
    node = Node(B, address)
    node.configuration, node.has_leader = TWO, True
    await node.standing.look()
    assert (node.standing.reason, node.told) == ("", [])
    node.has_leader = False
    await node.standing.look()
    assert "not a member" in node.standing.reason, "it was removed, and nobody could tell it"
