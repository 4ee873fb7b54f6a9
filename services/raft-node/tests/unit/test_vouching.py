"""Who is in no configuration of a node is heard by the word of members alone."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message_factory import GetMessageClass
from structlog.testing import capture_logs

from doug.v1 import raft_pb2 as pb
from raft_node.observability.metrics import Metrics
from raft_node.raft.types import NO_MEMBERS, Configuration, NodeId
from raft_node.rpc.raft import codec
from raft_node.rpc.raft import service as service_module
from raft_node.rpc.raft.peers import LocalMember, Peers
from raft_node.rpc.raft.refusals import LINES_BURST, REASON_CHARACTERS_MAX
from raft_node.rpc.raft.service import Attached, RaftService
from raft_node.rpc.raft.vouching import ASKING_MAX, ASKING_OF_ONE, REMEMBERED_MAX, Vouching

A, B, C = NodeId("a", 1), NodeId("b", 2), NodeId("c", 3)
LEADER = NodeId("d", 4)
FACADE = NodeId("dougdb-facade", 5)
THREE = Configuration((A, B, C))
SHARD, CLUSTER = 7, b"c0ffee"
ADDRESSES = {"a": "a:1", "b": "b:1", "c": "c:1"}


class Shard:
    """What the members of a shard say of senders; the node that asks is a."""

    def __init__(self, current: Configuration, addresses: Mapping[str, str], members: set[NodeId]) -> None:
        self.current = current
        self.applied = NO_MEMBERS
        self.members = members
        self.cluster_id = CLUSTER
        self.shard = SHARD
        self.away: set[str] = set()
        self.asked: list[str] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.vouching = Vouching(A, SHARD, CLUSTER, lambda: (self.current, self.applied), lambda: addresses, self.ask)

    async def ask(self, address: str, sender: NodeId) -> pb.IdentifyResponse | None:
        self.asked.append(address)
        await self.may_answer.wait()
        if address in self.away:
            return None
        standing = pb.STANDING_MEMBER if sender in self.members else pb.STANDING_NO_MEMBER
        return pb.IdentifyResponse(shard=self.shard, cluster_id=self.cluster_id, standing=standing)


async def heard(shard: Shard, sender: NodeId) -> bool:
    """Whether a sender with a certificate of its own is heard."""
    return await shard.vouching.is_member(sender, {sender.name})


async def test_a_member_that_is_known_is_asked_about_by_nobody() -> None:
    shard = Shard(THREE, ADDRESSES, set())
    assert await heard(shard, B)
    shard.current, shard.applied = Configuration((A, C)), THREE
    assert await heard(shard, B), "who leads while it is removed, leads to the end of that"
    assert shard.asked == []


async def test_a_certificate_of_the_authority_makes_no_member() -> None:
    shard = Shard(THREE, ADDRESSES, {A, B, C})
    assert not await heard(shard, FACADE)
    assert not await heard(shard, NodeId("b", 99)), "an old disk of a member"
    assert shard.asked == ["b:1", "c:1", "c:1"], "nobody vouches for itself while others can"


async def test_a_leader_that_came_while_the_node_was_away_is_heard_by_a_members_word() -> None:
    shard = Shard(THREE, ADDRESSES, {A, B, C, LEADER})
    shard.away = {"b:1"}
    assert await heard(shard, LEADER)
    assert await heard(shard, LEADER)
    assert shard.asked == ["b:1", "c:1"], "it is remembered"
    shard.current = Configuration((A, B, C), (FACADE,))
    shard.members.discard(LEADER)
    assert not await heard(shard, LEADER), "but not beyond a change of the members"


async def test_a_word_from_before_a_change_of_the_members_counts_no_more() -> None:
    """It was remembered under the new members, whichever of them had been removed meanwhile."""
    shard = Shard(THREE, ADDRESSES, {A, B, C, LEADER})
    shard.may_answer.clear()
    asking = asyncio.create_task(heard(shard, LEADER))
    while not shard.asked:
        await asyncio.sleep(0)
    shard.may_answer.set()
    shard.current = Configuration((A, B))
    assert not await asking
    shard.members.discard(LEADER)
    assert not await heard(shard, LEADER)


@pytest.mark.parametrize("wrong", ["nobody answers", "another cluster", "another shard"])
async def test_without_a_members_word_nobody_is_heard(wrong: str) -> None:
    shard = Shard(THREE, ADDRESSES, {A, B, C, LEADER})
    match wrong:
        case "nobody answers":
            shard.away = {"b:1", "c:1"}
        case "another cluster":
            shard.cluster_id = b"decaf"
        case _:
            shard.shard = 8
    assert not await heard(shard, LEADER)


async def test_an_empty_node_asks_whom_the_settings_name_and_else_believes_its_leader() -> None:
    shard = Shard(NO_MEMBERS, {"b": "b:1", "c": "c:1"}, {B, C})
    assert await heard(shard, B)
    assert shard.asked == ["c:1"]
    assert not await heard(shard, FACADE)
    alone = Shard(NO_MEMBERS, {}, set())
    assert await heard(alone, LEADER)
    pair = Shard(NO_MEMBERS, {"b": "b:1"}, {B})
    assert await heard(pair, B), "at its own address, where there is nobody else"
    assert pair.asked == ["b:1"]
    assert not await heard(Shard(Configuration((A,)), {"a": "a:1"}, set()), FACADE), "nobody to ask"


async def test_askings_and_what_is_remembered_are_bounded() -> None:
    shard = Shard(THREE, ADDRESSES, {NodeId(f"n{number}", 1) for number in range(200)})
    shard.may_answer.clear()
    asking = [asyncio.create_task(heard(shard, NodeId(f"n{number}", 1))) for number in range(20)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert len(shard.asked) == 2 * ASKING_MAX
    shard.may_answer.set()
    assert sum(await asyncio.gather(*asking)) == ASKING_MAX
    for number in range(200):
        assert await heard(shard, NodeId(f"n{number}", 1))
    assert len(shard.vouching._vouched) <= REMEMBERED_MAX


async def test_whoever_is_refused_again_and_again_keeps_no_leader_out() -> None:
    """Any certificate of the authority had all askings to itself, under as many names as it liked."""
    shard = Shard(THREE, ADDRESSES, {A, B, C, LEADER})
    shard.may_answer.clear()
    names = {"somebody", "10.0.0.9"}
    strangers = [asyncio.create_task(shard.vouching.is_member(NodeId(f"x{n}", n), names)) for n in range(20)]
    await asyncio.sleep(0)
    leader = asyncio.create_task(heard(shard, LEADER))
    await asyncio.sleep(0)
    shard.may_answer.set()
    assert await leader
    assert not any(await asyncio.gather(*strangers))
    assert len(shard.asked) == 2 * ASKING_OF_ONE + 2, "about some of them, and the leader"
    assert not await shard.vouching.is_member(NodeId("x1", 99), names)
    assert len(shard.asked) == 2 * ASKING_OF_ONE + 4, "and about the next one, once there is an answer"


async def test_a_removed_member_keeps_no_leader_out_that_shows_the_same_certificate() -> None:
    """All pods of a shard may have one certificate, and so may one that was a member and does not know better."""
    shard = Shard(THREE, ADDRESSES, {A, B, C, LEADER})
    shard.may_answer.clear()
    names, removed = {"*.dougdb-s0"}, NodeId("e", 5)
    tries = [asyncio.create_task(shard.vouching.is_member(removed, names)) for _ in range(20)]
    await asyncio.sleep(0)
    leader = asyncio.create_task(shard.vouching.is_member(LEADER, names))
    await asyncio.sleep(0)
    shard.may_answer.set()
    assert await leader
    assert not any(await asyncio.gather(*tries))
    assert len(shard.asked) == 2 + 2


class Refused(Exception):  # noqa: N818 - what gRPC's abort does
    """The call was aborted."""


class Call:
    """A call with a certificate of these names, or in plaintext."""

    def __init__(self, *names: str, secure: bool = True) -> None:
        kind = b"ssl" if secure else b"insecure"
        self.properties = {
            "transport_security_type": [kind],
            "x509_subject_alternative_name": [name.encode() for name in names],
        }

    def auth_context(self) -> dict[str, list[bytes]]:
        return self.properties

    def peer(self) -> str:
        return "ipv4:10.0.0.9:4711"

    async def abort(self, code: grpc.StatusCode, words: str) -> None:
        raise Refused(words)


def service_of(me: NodeId) -> tuple[RaftService, LocalMember]:
    metrics = Metrics(SHARD)
    service, member = RaftService(me, SHARD, metrics), LocalMember(me, CLUSTER, SHARD, "a:9")
    service.attach(Peers(member, metrics), lambda message: None)
    shard = Shard(THREE, ADDRESSES, {A, B, C})
    service.is_member = shard.vouching.is_member
    service.address_of = lambda node: ADDRESSES.get(node.name)
    return service, member


def envelope(sender: NodeId, client_address: str = "") -> pb.Envelope:
    return pb.Envelope(
        cluster_id=CLUSTER,
        shard=SHARD,
        sender=pb.Member(name=sender.name, incarnation=sender.incarnation),
        receiver=pb.Member(name=A.name, incarnation=A.incarnation),
        format_version=codec.FORMAT_VERSION,
        client_address=client_address,
    )


async def admitted(service: RaftService, sent: pb.Envelope, call: Call) -> tuple[Attached, NodeId]:
    return await service._admit(sent, call)  # type: ignore[arg-type]


async def test_a_facades_certificate_speaks_for_no_member_and_leaves_no_address() -> None:
    service, member = service_of(A)
    for sender, names in ((FACADE, ("dougdb-facade",)), (NodeId("x", 1), ("10.0.0.9",)), (B, ("dougdb-facade",))):
        with pytest.raises(Refused):
            await admitted(service, envelope(sender, "evil:1"), Call(*names))
    assert member.client_addresses == {"a": "a:9"}
    assert (await admitted(service, envelope(B, "b:9"), Call("b")))[1] == B
    assert member.client_addresses == {"a": "a:9", "b": "b:9"}


METHODS = [method for method in pb.DESCRIPTOR.services_by_name["Raft"].methods if method.name != "Identify"]
"""All methods by which a node is told something; ``Identify`` only answers."""


class Calling(Call):
    """A call that sends one message."""

    def __init__(self, message: Any, *names: str) -> None:
        super().__init__(*names)
        self.messages = [message]

    async def read(self) -> Any:
        return self.messages.pop() if self.messages else grpc.aio.EOF

    async def write(self, message: object) -> None:
        """Nobody reads the answers."""


def sent_by(method: MethodDescriptor, sender: NodeId) -> Any:
    """A message of a method, from a sender."""
    message: Any = GetMessageClass(method.input_type)()
    holder = message if "envelope" in method.input_type.fields_by_name else message.header
    holder.envelope.CopyFrom(envelope(sender))
    return message


@pytest.mark.parametrize("method", METHODS, ids=lambda method: str(method.name))
async def test_no_method_hears_who_is_not_proven_to_be_a_member(
    method: MethodDescriptor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A vote, a heartbeat, entries, a snapshot, a wish: by a stranger's, a facade's or another member's certificate."""
    monkeypatch.setattr(service_module, "_VOTE_TIMEOUT_S", 0.0)
    service, member = service_of(A)
    received: list[object] = []
    service.attach(Peers(member, Metrics(SHARD)), received.append)

    async def called(sender: NodeId, *names: str) -> str:
        """How the call is refused, or with what else it ends."""
        message = sent_by(method, sender)
        call = Calling(message, *names)
        try:
            await getattr(service, method.name)(iter(()) if method.client_streaming else message, call)
        except (Refused, codec.MessageError) as error:
            return str(error)
        return ""

    for sender, names in (
        (B, ()), (B, ("dougdb-facade",)), (B, ("c",)), (B, ("bb", "*")), (FACADE, ("dougdb-facade",)),
        (LEADER, ("d",)), (NodeId("b", 99), ("b",)),
    ):  # fmt: skip
        refused = await called(sender, *names)
        assert "certificate" in refused or "no member" in refused, (sender, names, refused)
        assert received == []
    ended = await called(B, "b")
    assert "certificate" not in ended and "no member" not in ended


async def test_no_sender_fills_a_disk_with_what_it_calls_itself() -> None:
    """Any certificate of the authority, and in plaintext anybody, got a line of megabytes for each message."""
    service, _ = service_of(A)
    with capture_logs() as lines:
        for number in range(2 * LINES_BURST):
            with pytest.raises(Refused) as refused:
                await admitted(service, envelope(NodeId(f"{number}" + "x" * 100_000, 1)), Call("dougdb-client"))
    assert len(lines) == LINES_BURST
    assert max(len(str(line)) for line in lines) < 2 * REASON_CHARACTERS_MAX
    assert len(str(refused.value)) == REASON_CHARACTERS_MAX


async def test_addresses_that_are_heard_are_bounded_and_the_own_one_is_nobody_elses() -> None:
    service, member = service_of(A)
    for number in range(500):
        await admitted(service, envelope(NodeId(f"n{number}", 1), f"n{number}:9"), Call(secure=False))
    await admitted(service, envelope(NodeId("a", 7), "evil:1"), Call(secure=False))
    assert len(member.client_addresses) == 64
    assert (member.client_addresses["a"], member.client_addresses["n499"]) == ("a:9", "n499:9")
