"""What a node that is no member says of itself, and whom it believes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import grpc.aio
import pytest

from doug.v1 import raft_pb2 as pb
from doug.v1 import raft_pb2_grpc
from raft_node.app.standing import MEMBER, Standing, newest, verdict
from raft_node.entry import EntryKind, encode
from raft_node.observability.metrics import Metrics
from raft_node.raft.configuration import encode_configuration
from raft_node.raft.types import NO_MEMBERS, Configuration, NodeId
from raft_node.rpc.channels import SERVER_OPTIONS
from raft_node.rpc.raft.service import RaftService

pytestmark = pytest.mark.sockets

A, B, C = NodeId("a", 1), NodeId("b", 2), NodeId("c", 3)
WIPED = NodeId("b", 99)
TWO = Configuration((A, B))
SHARD, CLUSTER = 7, b"c0ffee"


def answer(
    standing: pb.Standing.ValueType, applied: int, shard: int = SHARD, cluster: bytes = CLUSTER
) -> pb.IdentifyResponse:
    return pb.IdentifyResponse(shard=shard, cluster_id=cluster, standing=standing, applied_index=applied)


def test_a_member_is_one_under_its_own_incarnation() -> None:
    assert verdict(TWO, B, SHARD) == MEMBER
    assert verdict(Configuration((A,), (B,)), B, SHARD) == MEMBER


def test_a_wiped_disk_is_told_the_way_out() -> None:
    found = verdict(TWO, WIPED, SHARD)
    assert found == (
        "incarnation_refused",
        "b is a member of shard 7 with another incarnation than this disk's, 99: the disk was wiped or replaced; "
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
    older, newer = answer(pb.STANDING_MEMBER, 5), answer(pb.STANDING_NO_MEMBER, 9)
    assert newest([older, newer], SHARD, CLUSTER) == newest([newer, older], SHARD, CLUSTER) == newer
    others = [
        answer(pb.STANDING_NO_MEMBER, 50, shard=8),
        answer(pb.STANDING_NO_MEMBER, 50, cluster=b"decaf"),
        answer(pb.STANDING_UNKNOWN, 50),
    ]
    assert newest([older, *others], SHARD, CLUSTER) == older
    assert newest(others, SHARD, CLUSTER) is None
    later_version = pb.IdentifyResponse(shard=SHARD, cluster_id=CLUSTER, applied_index=99)
    later_version.standing = 77  # type: ignore[assignment]
    assert newest([later_version], SHARD, CLUSTER) is None


def test_whoever_is_behind_this_node_is_not_believed() -> None:
    assert newest([answer(pb.STANDING_MEMBER, 5)], SHARD, CLUSTER, since=6) is None
    assert newest([answer(pb.STANDING_MEMBER, 6)], SHARD, CLUSTER, since=6) is not None


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


@pytest.mark.seconds
async def test_it_is_told_once_and_ends_with_the_admission(peer: tuple[RaftService, str]) -> None:
    service, address = peer
    node = Node(WIPED, address)
    await node.standing.look()
    assert node.standing.reason == "no member of shard 7 answers"
    service.members = lambda: (TWO, 5)
    for _ in range(3):
        await node.standing.look()
    assert "another incarnation than this disk's, 99" in node.standing.reason
    waited = node.standing.is_waiting
    service.members = lambda: (Configuration((A,)), 6)
    await node.standing.look()
    assert "not a member of shard 7" in node.standing.reason
    service.members = lambda: (Configuration((A,), (WIPED,)), 7)
    await node.standing.look()
    assert node.standing.reason == ""
    assert (waited, node.standing.is_waiting) == (True, False)
    assert node.told == ["join_waiting", "incarnation_refused", "join_waiting", "joined"]


@pytest.mark.seconds
async def test_a_member_that_follows_somebody_asks_nobody(peer: tuple[RaftService, str]) -> None:
    service, address = peer
    service.members = lambda: (Configuration((A,)), 9)
    node = Node(B, address)
    node.configuration, node.has_leader = TWO, True
    await node.standing.look()
    assert (node.standing.reason, node.told) == ("", [])
    node.has_leader = False
    await node.standing.look()
    assert "not a member" in node.standing.reason, "it was removed, and nobody could tell it"


@pytest.mark.seconds
async def test_an_old_disk_under_its_old_name_learns_that_it_is_no_member(peer: tuple[RaftService, str]) -> None:
    """It holds itself for one, and would serve the past for ever."""
    service, address = peer
    old = Node(B, address)
    old.configuration = TWO
    found = [old.standing.is_member]
    await old.standing.look()
    found.append(old.standing.is_member)
    for configuration in (Configuration((A, WIPED)), TWO):
        service.members = partial(lambda members: (members, 9), configuration)
        await old.standing.look()
        found.append(old.standing.is_member)
    assert found == [False, True, False, True], "nothing is known; nobody knows better; a peer does; it is one again"


def identified(service: RaftService, sender: NodeId, shard: int = SHARD, **context: object) -> pb.IdentifyResponse:
    request = pb.IdentifyRequest(shard=shard, sender=sender.name, incarnation=sender.incarnation)
    return asyncio.run(service.Identify(request, Caller(**context)))  # type: ignore[arg-type]


class Caller:
    """Who calls: in plaintext, or with a certificate of these names."""

    def __init__(self, names: list[str] | None = None) -> None:
        self.names = names

    def auth_context(self) -> dict[str, list[bytes]]:
        if self.names is None:
            return {"transport_security_type": [b"insecure"]}
        names = [name.encode() for name in self.names]
        return {"transport_security_type": [b"ssl"], "x509_subject_alternative_name": names}

    def peer(self) -> str:
        return "ipv4:10.0.0.9:4711"


def test_a_stranger_is_told_nothing_that_it_could_speak_in_anothers_name_with() -> None:
    service = RaftService(A, SHARD, Metrics(SHARD))
    first = encode(1, 1, EntryKind.CONFIGURATION, 1, encode_configuration(TWO)).data
    service.cluster_id, service.first_configuration = CLUSTER, first
    service.members, service.acknowledged = lambda: (TWO, 9), lambda member: 8
    told = identified(service, B)
    assert (told.member.incarnation, told.first_configuration, told.acknowledged) == (1, first, 8)
    assert told.standing == pb.STANDING_MEMBER
    for stranger, standing in (
        (WIPED, pb.STANDING_OTHER_INCARNATION),
        (NodeId("b", 0), pb.STANDING_OTHER_INCARNATION),
        (C, pb.STANDING_NO_MEMBER),
    ):
        told = identified(service, stranger)
        assert (told.member.name, told.member.incarnation, told.standing) == ("a", 0, standing)
        assert (told.first_configuration, told.acknowledged, told.applied_index) == (b"", 0, 9)
    assert identified(service, B, shard=8).standing == pb.STANDING_UNKNOWN
    service.members = lambda: (NO_MEMBERS, 0)
    assert identified(service, B).standing == pb.STANDING_MEMBER, "by the first configuration, before the core runs"
    assert identified(service, C).member.incarnation == 0
    fresh = RaftService(WIPED, SHARD, Metrics(SHARD))
    assert identified(fresh, A).member.incarnation == 99, "whoever is to admit it must know whom"


def test_a_certificate_that_is_not_made_out_to_a_member_makes_a_stranger_of_it() -> None:
    service = RaftService(A, SHARD, Metrics(SHARD))
    service.members = lambda: (TWO, 9)
    service.address_of = {B: "b.doug.svc:21001"}.get
    for names in (["b"], ["facade", "b.doug.svc"], ["*.doug.svc"]):
        assert identified(service, B, names=names).member.incarnation == 1, names
    for names in (["facade"], [], ["*.svc"], ["b.other.svc"], ["10.0.0.9"], ["*"]):
        assert identified(service, B, names=names).member.incarnation == 0, names
    service.address_of = lambda member: None
    assert identified(service, B, names=["10.0.0.9"]).member.incarnation == 1, "where it comes from stands for it"
    service.address_of = {B: "[::1]:21001"}.get
    assert identified(service, B, names=["::1"]).member.incarnation == 1
