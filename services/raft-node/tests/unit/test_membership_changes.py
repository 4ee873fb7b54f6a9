"""What operators ask of a leader about members: who is admitted, who may go, and how learners become voters."""

from __future__ import annotations

from typing import Any

import pytest

from doug_wire.pipe import Status
from raft_node.entry import EntryKind, encode
from raft_node.errors import (
    AlreadyMemberError,
    ChangeUnderWayError,
    ConfigurationRefusedError,
    DougError,
    LastVoterError,
    NoSuchMemberError,
    NotLeaderError,
    OutcomeUnknownError,
    QuorumAtRiskError,
    SupersededError,
    UnreachableError,
    WrongNodeError,
)
from raft_node.raft.configuration import encode_configuration
from raft_node.raft.membership import with_learner, without
from raft_node.raft.node import RaftNode
from raft_node.raft.types import NO_MEMBERS, Configuration, NodeId
from raft_node.runtime.members.changes import Identified, MemberEvents, Membership
from raft_testing.lockstep import Lockstep, members

A, B, C, D = members(4)
SHARD, CLUSTER = 3, "c0ffee"
NEW_C = NodeId("c", 900)


class FakeDriver:
    """Proposes to a core of a lockstep shard, and answers when the shard has settled."""

    def __init__(self, shard: Lockstep) -> None:
        self.shard = shard
        self.node: RaftNode = shard["a"].node
        self.holding = False
        self.outcomes: list[int] = []
        """What becomes of the next changes, in place of the truth."""
        self.settles = True

    def change_members(self, configuration: Configuration, sink: Any) -> tuple[int, int]:
        if self.outcomes:
            sink.resolve(0, self.outcomes.pop(0), 0)
            return 0, 0
        index, term = self.node.propose_configuration(configuration, 0)
        if self.settles:
            self.shard.deliver()
            self.shard.tick(20)
            assert self.node.commit_index >= index
            sink.resolve(0, Status.OK, 0)
        return index, term


class Fixture:
    def __init__(self, count: int = 3, **configured: str) -> None:
        first = encode(1, 1, EntryKind.CONFIGURATION, 1, encode_configuration(Configuration(members(count))))
        self.shard = Lockstep(count, logs=[[first]] * count, term=1)
        self.shard.elect("a")
        self.shard.tick(6)
        self.driver: Any = FakeDriver(self.shard)
        self.answers: dict[str, Identified] = {}
        self.membership = Membership(self.driver, SHARD, CLUSTER, self.identify, configured)

    async def identify(self, address: str) -> Identified | None:
        return self.answers.get(address)

    def start(self, member: NodeId, address: str, shard: int = SHARD, cluster_id: str = CLUSTER) -> None:
        """A new node comes up at an address, with an empty disk."""
        self.answers[address] = Identified(member, shard, cluster_id)
        joiner = self.shard.join(member)
        joiner.configuration = NO_MEMBERS
        joiner.restart()

    @property
    def configuration(self) -> Configuration:
        return self.driver.node.configuration  # type: ignore[no-any-return]

    def cut(self, *names: str) -> None:
        """These are not heard any more."""
        self.shard.cut(*names)
        self.shard.tick(40)


async def test_a_node_is_admitted_under_the_incarnation_that_it_tells() -> None:
    fixture = Fixture()
    fixture.start(D, "h:4")
    done = await fixture.membership.add("d", "h:4")
    assert (done.member, done.removed) == (D, 0)
    assert fixture.configuration == Configuration((A, B, C), (D,), (("d", "h:4"),))
    views = fixture.membership.views()
    assert [(view.member.name, view.voter, view.leader) for view in views] == [
        ("a", True, True),
        ("b", True, False),
        ("c", True, False),
        ("d", False, False),
    ]
    last = fixture.driver.node.last_index
    assert [(view.match_index, view.lag, view.healthy) for view in views] == [(last, 0, True)] * 4
    assert [view.state for view in views] == ["", "replicate", "replicate", "replicate"]


async def test_a_node_of_no_cluster_is_admitted_by_name_and_incarnation_only() -> None:
    """Whoever got the members' port open could otherwise be sent the whole log by a name that anybody can say."""
    fixture = Fixture()
    fixture.start(D, "h:4", cluster_id="")
    before = fixture.configuration
    for incarnation in (0, D.incarnation + 1):
        with pytest.raises(WrongNodeError) as refused:
            await fixture.membership.add("d", "h:4", incarnation)
        with pytest.raises(WrongNodeError):
            await fixture.membership.replace("d", "h:4", force=False, incarnation=incarnation)
        if not incarnation:
            assert str(D.incarnation) not in str(refused.value).replace("h:4", ""), "it is not told either"
    assert fixture.configuration == before
    assert (await fixture.membership.add("d", "h:4", D.incarnation)).member == D


async def test_a_node_is_not_spoken_to_where_the_settings_would_not_have_it() -> None:
    fixture = Fixture()
    asked: list[str] = []

    def check(address: str) -> None:
        asked.append(address)
        raise ConfigurationRefusedError("plaintext would leave this machine")

    fixture.start(D, "10.0.0.1:4")
    fixture.membership = Membership(fixture.driver, SHARD, CLUSTER, fixture.identify, {}, check)
    with pytest.raises(ConfigurationRefusedError, match="plaintext"):
        await fixture.membership.add("d", "10.0.0.1:4")
    assert asked == ["10.0.0.1:4"]


async def test_it_is_promoted_once_it_has_caught_up_and_not_before() -> None:
    fixture = Fixture()
    fixture.start(D, "h:4")
    fixture.shard.passes = lambda message: D not in (message.sender, message.receiver)
    await fixture.membership.add("d", "h:4")
    fixture.membership.promote()
    assert fixture.configuration.learners == (D,), "nothing of it was heard"
    fixture.shard.heal()
    fixture.shard.tick(40)
    fixture.membership.promote()
    assert fixture.configuration == Configuration((A, B, C, D), (), (("d", "h:4"),))


async def test_a_new_leader_goes_on_promoting() -> None:
    fixture = Fixture()
    fixture.start(D, "h:4")
    await fixture.membership.add("d", "h:4")
    fixture.shard["a"].node.transfer_leadership(B)
    fixture.shard.deliver()
    fixture.shard.tick(40)
    assert fixture.shard.leaders() == ["b"]
    fixture.membership.promote()
    assert fixture.configuration.learners == (D,), "the old leader keeps out of it"
    fixture.driver.node = fixture.shard["b"].node
    fixture.membership.promote()
    assert fixture.configuration.voters == (A, B, C, D)


async def test_nothing_is_promoted_while_another_change_is_under_way() -> None:
    fixture = Fixture()
    fixture.start(D, "h:4")
    await fixture.membership.add("d", "h:4")
    fixture.shard.cut("a")
    fixture.driver.node.propose_configuration(without(fixture.configuration, C), 0)
    assert fixture.membership.changing
    fixture.membership.promote()
    assert fixture.configuration.learners == (D,)
    with pytest.raises(ChangeUnderWayError):
        await fixture.membership.remove("b", force=False)


@pytest.mark.parametrize(
    ("name", "address", "expected", "words"),
    [
        ("d", "h:9", UnreachableError, "nobody answers at h:9"),
        ("e", "h:4", WrongNodeError, "is d of shard 3, not e"),
        ("x", "h:5", WrongNodeError, "is x of shard 4"),
        ("y", "h:6", WrongNodeError, "another cluster"),
        ("b", "h:2", AlreadyMemberError, "already, with incarnation 101"),
        ("c", "h:3", AlreadyMemberError, "dougctl members replace c"),
        ("p", "h:7", WrongNodeError, "p is at elsewhere:1"),
    ],
)
async def test_who_is_not_admitted(name: str, address: str, expected: type[DougError], words: str) -> None:
    fixture = Fixture(p="elsewhere:1")
    fixture.answers = {
        "h:2": Identified(B, SHARD, CLUSTER),
        "h:3": Identified(NEW_C, SHARD, CLUSTER),
        "h:4": Identified(D, SHARD, CLUSTER),
        "h:5": Identified(NodeId("x", 1), 4, CLUSTER),
        "h:6": Identified(NodeId("y", 1), SHARD, "decaf"),
        "h:7": Identified(NodeId("p", 1), SHARD, CLUSTER),
    }
    before = fixture.driver.node.last_index
    with pytest.raises(expected, match=words):
        await fixture.membership.add(name, address)
    assert fixture.driver.node.last_index == before


async def test_a_member_is_removed() -> None:
    fixture = Fixture()
    assert (await fixture.membership.remove("c", force=False)).member == C
    assert fixture.configuration == Configuration((A, B))
    with pytest.raises(NoSuchMemberError):
        await fixture.membership.remove("c", force=False)


async def test_a_voter_stays_that_the_others_need() -> None:
    fixture = Fixture(5)
    fixture.cut("d", "e")
    with pytest.raises(QuorumAtRiskError, match=r"without b, 3 of 4 voters would be needed, and d, e cannot be heard"):
        await fixture.membership.remove("b", force=False)
    assert len(fixture.configuration.voters) == 5
    assert (await fixture.membership.remove("d", force=False)).member == D, "one that is dead does not help"


async def test_an_operator_may_insist() -> None:
    fixture = Fixture(5)
    fixture.cut("d", "e")
    fixture.driver.outcomes = [Status.OK]
    assert (await fixture.membership.remove("b", force=True)).member == B


async def test_the_last_voter_stays() -> None:
    fixture = Fixture(1)
    with pytest.raises(LastVoterError):
        await fixture.membership.remove("a", force=True)


async def test_a_wiped_node_is_replaced() -> None:
    fixture = Fixture(c="h:3")
    fixture.start(NEW_C, "h:3")
    done = await fixture.membership.replace("c", "", force=False)
    assert (done.member, done.removed) == (NEW_C, C.incarnation)
    assert fixture.configuration == Configuration((A, B), (NEW_C,), (("c", "h:3"),))
    fixture.membership.promote()
    assert fixture.configuration.voters == (A, B, NEW_C)
    with pytest.raises(AlreadyMemberError, match="just this incarnation"):
        await fixture.membership.replace("c", "", force=False)


async def test_a_replacement_that_was_cut_in_the_middle_is_asked_for_again() -> None:
    fixture = Fixture()
    fixture.start(NEW_C, "h:3")
    fixture.driver.outcomes = [Status.OK, Status.UNKNOWN]
    with pytest.raises(OutcomeUnknownError, match="members replace c --shard 3` again"):
        await fixture.membership.replace("c", "h:3", force=False)
    await fixture.membership.remove("c", force=False)
    done = await fixture.membership.replace("c", "h:3", force=False)
    assert (done.member, done.removed) == (NEW_C, 0)


async def test_a_replacement_that_is_not_there_leaves_the_old_one_alone() -> None:
    fixture = Fixture()
    with pytest.raises(UnreachableError):
        await fixture.membership.replace("c", "h:3", force=False)
    with pytest.raises(NoSuchMemberError, match="say where it is"):
        await fixture.membership.replace("c", "", force=False)
    assert fixture.configuration.voters == (A, B, C)


@pytest.mark.parametrize(
    ("outcome", "expected"), [(Status.NOT_APPLIED, SupersededError), (Status.UNKNOWN, OutcomeUnknownError)]
)
async def test_the_outcome_is_told_as_it_is(outcome: int, expected: type[DougError]) -> None:
    fixture = Fixture()
    fixture.driver.outcomes = [outcome]
    with pytest.raises(expected):
        await fixture.membership.remove("c", force=False)


async def test_only_a_leader_that_stays_is_asked() -> None:
    fixture = Fixture()
    fixture.driver.holding = True
    with pytest.raises(ChangeUnderWayError, match="handed over"):
        await fixture.membership.remove("c", force=False)
    fixture.driver.node = fixture.shard["b"].node
    with pytest.raises(NotLeaderError):
        fixture.membership.views()
    with pytest.raises(NotLeaderError):
        await fixture.membership.remove("c", force=False)


def test_the_timeline_is_told_what_each_change_was() -> None:
    told: list[tuple[str, Any]] = []

    def record(name: str, **details: object) -> None:
        told.append((name, details["member"]))

    three = Configuration((A, B, C))
    events = MemberEvents(three, record)
    events.committed(with_learner(three, D))
    events.committed(Configuration((A, B, C, D)))
    events.committed(Configuration((B, C, D)))
    assert told == [("member_added", "d"), ("member_promoted", "d"), ("member_removed", "a")]
    MemberEvents(NO_MEMBERS, record).committed(three)
    assert len(told) == 3, "a new node does not tell what it only replays"
