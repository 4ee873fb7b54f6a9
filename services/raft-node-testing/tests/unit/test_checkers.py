"""Each checker must be able to fail: one test shows it what is allowed, others what is not."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from raft_node.entry import Entry, EntryKind, encode
from raft_node.raft.configuration import encode_configuration
from raft_node.raft.log import RaftLog
from raft_node.raft.messages import AppendEntriesResponse, RequestVoteResponse
from raft_node.raft.types import Configuration, HardState, NodeId, Write
from raft_testing.checkers import Checkers, InvariantViolationError
from raft_testing.disk import MemoryLog, Reset
from raft_testing.machine import Head

NAMES = ("a", "b", "c")
IDS = {name: NodeId(name, 1) for name in NAMES}
A, B, C = IDS.values()
D = NodeId("d", 1)
THREE = Configuration((A, B, C))


def entry(index: int, term: int, command: bytes = b"x") -> Entry:
    return encode(index, term, EntryKind.COMMAND, 0, command)


def members(index: int, term: int, configuration: Configuration) -> Entry:
    return encode(index, term, EntryKind.CONFIGURATION, 0, encode_configuration(configuration))


FIRST = members(1, 1, THREE)


class World:
    """Three logs and the checkers that watch them."""

    def __init__(self) -> None:
        self.logs = {name: MemoryLog(HardState(1, None, 1), [FIRST]) for name in NAMES}
        self.checkers = Checkers(self.logs, [FIRST])

    def store(self, name: str, entries: Sequence[Entry], truncate_from: int | None = None) -> None:
        self.checkers.writes(name, self.logs[name].hard_state, None, truncate_from)
        self.logs[name].begin(Write(1, None, truncate_from, entries))
        self.logs[name].complete()
        self.checkers.became_durable(name, entries)

    def lead(self, name: str, life: int, term: int, *, commit: int = 1, last: int = 2) -> None:
        self.checkers.observe(name, life, term, commit, last, leads=True)

    def commit(self, index: int, term: int, *holders: str) -> None:
        """An entry comes to the disks of some nodes and is committed by a, in term ``term``."""
        for name in holders:
            self.store(name, [entry(index, term)])
        self.checkers.leader_commits("a", index, term, THREE)
        self.checkers.committed("a", term, [entry(index, term)])


@pytest.fixture
def world() -> World:
    return World()


def violates(invariant: str) -> pytest.RaisesExc[InvariantViolationError]:
    return pytest.RaisesExc(InvariantViolationError, check=lambda error: error.invariant == invariant)


def test_a_correct_run_passes(world: World) -> None:
    world.lead("a", 1, 2)
    for name in ("a", "b"):
        world.store(name, [entry(2, 2)])
    world.lead("a", 1, 2, commit=2)
    world.checkers.leader_commits("a", 2, 2, THREE)
    world.checkers.committed("a", 2, [entry(2, 2)])
    world.checkers.applied("a", 2, b"s")
    world.checkers.applied("b", 2, b"s")
    world.checkers.acknowledged("a", 2, 2)
    world.lead("b", 1, 3, commit=2, last=3)
    world.checkers.led_log("b", 3, [0, 1, 2, 3])
    assert world.checkers.leaders == 2
    assert world.checkers.committed_index == 2


def test_election_safety(world: World) -> None:
    world.lead("a", 1, 2)
    with violates("election_safety"):
        world.lead("b", 1, 2)


def test_election_safety_over_two_lives(world: World) -> None:
    world.lead("a", 1, 2)
    with violates("election_safety"):
        world.lead("a", 2, 2)


def test_one_vote_a_term(world: World) -> None:
    voted = HardState(2, IDS["a"], 0)
    world.checkers.sent("b", RequestVoteResponse(IDS["b"], IDS["a"], 2, True, False), voted)
    with violates("one_vote_a_term"):
        world.checkers.sent("b", RequestVoteResponse(IDS["b"], IDS["c"], 2, True, False), voted)


def test_pre_votes_and_refusals_bind_nobody(world: World) -> None:
    nothing = HardState(1, None, 0)
    world.checkers.sent("b", RequestVoteResponse(IDS["b"], IDS["a"], 2, True, True), nothing)
    world.checkers.sent("b", RequestVoteResponse(IDS["b"], IDS["c"], 2, False, False), nothing)


@pytest.mark.parametrize("on_disk", [HardState(1, None, 0), HardState(2, None, 0), HardState(2, IDS["c"], 0)])
def test_vote_durable(world: World, on_disk: HardState) -> None:
    with violates("vote_durable"):
        world.checkers.sent("b", RequestVoteResponse(IDS["b"], IDS["a"], 2, True, False), on_disk)


@pytest.mark.parametrize(("match_index", "term"), [(2, 1), (1, 2)])
def test_acknowledgement_durable(world: World, match_index: int, term: int) -> None:
    message = AppendEntriesResponse(IDS["b"], IDS["a"], term, True, match_index, 0, 0, 0)
    with violates("acknowledgement_durable"):
        world.checkers.sent("b", message, HardState(1, None, 1))


def test_log_matching_of_the_entry(world: World) -> None:
    world.store("a", [entry(2, 2)])
    with violates("log_matching"):
        world.store("b", [entry(2, 2, b"other")])


def test_log_matching_of_what_lies_before(world: World) -> None:
    world.store("a", [entry(2, 2), entry(3, 3)])
    with violates("log_matching"):
        world.store("b", [entry(2, 1), entry(3, 3)])


def test_log_matching_wants_terms_in_order(world: World) -> None:
    with violates("log_matching"):
        world.store("a", [entry(2, 3), entry(3, 2)])


def test_commit_rule(world: World) -> None:
    world.lead("a", 1, 2, last=5)
    with violates("commit_rule"):
        world.lead("a", 1, 2, commit=4, last=5)


def test_commit_durable(world: World) -> None:
    world.store("a", [entry(2, 2)])
    with violates("commit_durable"):
        world.checkers.leader_commits("a", 2, 2, THREE)


def test_commit_durable_by_the_members_that_the_leader_goes_by(world: World) -> None:
    world.store("a", [entry(2, 2)])
    world.checkers.leader_commits("a", 2, 2, Configuration((A,), (B,)))
    for name in ("b", "c"):
        world.store(name, [entry(2, 2)])
    with violates("commit_durable"):
        # A member's earlier incarnation holds nothing, whatever lies on the new disk.
        world.checkers.leader_commits("a", 2, 2, Configuration((A, NodeId("b", 9), D, NodeId("c", 9))))


def test_what_lay_on_a_disk_that_was_lost_was_acknowledged_rightly(world: World) -> None:
    for name in ("a", "b"):
        world.store(name, [entry(2, 2)])
    world.checkers.wiped("b", MemoryLog(HardState(), ()), NodeId("b", 9))
    world.checkers.leader_commits("a", 2, 2, THREE)
    with violates("commit_durable"):
        world.checkers.leader_commits("a", 2, 2, Configuration((A, NodeId("b", 9), C)))


def test_nobody_commits_what_no_leader_has(world: World) -> None:
    for name in NAMES:
        world.store(name, [entry(2, 2)])
    with violates("commit_durable"):
        world.checkers.committed("b", 2, [entry(2, 2)])


def test_leader_completeness(world: World) -> None:
    world.commit(2, 2, "a", "b")
    world.checkers.led_log("c", 2, [0, 1])
    with violates("leader_completeness"):
        world.checkers.led_log("c", 3, [0, 1, 3])


def test_leader_completeness_of_a_log_that_begins_behind_a_snapshot(world: World) -> None:
    world.commit(2, 2, "a", "b")
    world.commit(3, 2, "a", "b")
    world.checkers.led_log("b", 3, [2, 2, 3], first=2)
    with violates("leader_completeness"):
        world.checkers.led_log("b", 3, [2, 3], first=2)


def test_state_machine_safety_of_entries(world: World) -> None:
    world.commit(2, 2, "a", "b")
    with violates("state_machine_safety"):
        world.checkers.committed("c", 3, [entry(2, 3)])


def test_state_machine_safety_of_states(world: World) -> None:
    world.checkers.applied("a", 1, b"one")
    with violates("state_machine_safety"):
        world.checkers.applied("b", 1, b"two")


def test_the_commit_index_never_shrinks(world: World) -> None:
    world.checkers.observe("a", 1, 1, 3, 3, leads=False)
    world.checkers.observe("a", 2, 1, 1, 3, leads=False)
    with violates("committed_never_shrinks"):
        world.checkers.observe("a", 2, 1, 0, 3, leads=False)


def test_committed_entries_are_not_truncated(world: World) -> None:
    world.store("c", [entry(2, 1)])
    world.commit(2, 2, "a", "b")
    world.store("c", [entry(2, 2)], truncate_from=2)
    with violates("committed_never_shrinks"):
        world.store("a", [entry(2, 3)], truncate_from=2)


def test_the_term_never_shrinks(world: World) -> None:
    world.checkers.observe("a", 1, 3, 1, 1, leads=False)
    world.checkers.observe("a", 2, 2, 1, 1, leads=False)
    with violates("term_never_shrinks"):
        world.checkers.observe("a", 2, 1, 1, 1, leads=False)
    with violates("term_never_shrinks"):
        world.checkers.writes("a", HardState(2, None, 0), HardState(1, None, 0), None)


def test_a_vote_on_disk_is_not_replaced(world: World) -> None:
    world.checkers.writes("a", HardState(2, None, 0), HardState(2, IDS["b"], 0), None)
    world.checkers.writes("a", HardState(2, IDS["b"], 0), HardState(3, None, 0), None)
    for vote in (None, IDS["c"]):
        with violates("one_vote_a_term"):
            world.checkers.writes("a", HardState(2, IDS["b"], 0), HardState(2, vote, 0), None)


def test_acknowledged_durable(world: World) -> None:
    world.store("a", [entry(2, 2)])
    with violates("acknowledged_durable"):
        world.checkers.acknowledged("a", 2, 2)


def test_read_index_fresh(world: World) -> None:
    world.checkers.read_confirmed("a", 2, 2)
    with violates("read_index_fresh"):
        world.checkers.read_confirmed("a", 1, 2)


def test_what_was_committed_stays_on_disks(world: World) -> None:
    world.commit(2, 2, "a", "b")
    world.checkers.disk_changed("c")
    world.checkers.wiped("c", MemoryLog(HardState(), ()), NodeId("c", 2))
    # Only a, the new c, which has no vote, and b are left of three: without b nobody can be elected.
    with violates("acknowledged_durable"):
        world.logs["b"].durable.pop()
        world.logs["a"].durable.pop()
        world.checkers.disk_changed("b")


def test_what_a_state_includes_is_kept_without_a_log(world: World) -> None:
    world.commit(2, 2, "a", "b")
    world.checkers.state_durable("b", 2)
    world.logs["b"].drop_prefix(3)
    world.checkers.disk_changed("b")
    world.checkers.sent("b", AppendEntriesResponse(B, A, 1, True, 2, 0, 0, 0), HardState(1, None, 1))


def test_a_durable_state_never_goes_back(world: World) -> None:
    world.checkers.state_durable("a", 4)
    with violates("state_never_shrinks"):
        world.checkers.state_durable("a", 3)


class TestSnapshots:
    def test_of_a_state_that_nobody_committed(self, world: World) -> None:
        with violates("snapshot_correct"):
            world.checkers.snapshot("a", Head(2, 2, 0, THREE))

    def test_with_another_term(self, world: World) -> None:
        world.commit(2, 2, "a", "b")
        world.checkers.snapshot("a", Head(2, 2, 0, THREE))
        with violates("snapshot_correct"):
            world.checkers.snapshot("a", Head(2, 1, 0, THREE))

    def test_with_another_state(self, world: World) -> None:
        world.commit(2, 2, "a", "b")
        world.checkers.applied("b", 2, Head(2, 2, 0, THREE, b"chain").digest)
        world.checkers.snapshot("a", Head(2, 2, 0, THREE, b"chain"))
        with violates("snapshot_correct"):
            world.checkers.snapshot("a", Head(2, 2, 0, THREE, b"other"))

    def test_with_other_members(self, world: World) -> None:
        with violates("configuration_history"):
            world.checkers.snapshot("a", Head(1, 1, 0, Configuration((A, B))))


class Core:
    """What the checker looks at of a core."""

    def __init__(self, log: MemoryLog, configuration: Configuration, index: int, applied: int = 1) -> None:
        self.log = RaftLog(log, log.last_index, applied, 1 << 20)
        self.configuration = configuration
        self.configuration_index = index
        self.applied_configuration = THREE


class TestConfigurations:
    def test_a_change_that_is_in_force_until_it_is_cut_off(self, world: World) -> None:
        four = Configuration((A, B, C), (D,))
        world.store("a", [members(2, 2, four)])
        configurations = world.checkers.configurations
        configurations.in_force("a", Core(world.logs["a"], four, 2))
        configurations.in_force("b", Core(world.logs["b"], THREE, 1))
        with violates("configuration_in_force"):
            configurations.in_force("a", Core(world.logs["a"], THREE, 1))
        with violates("configuration_in_force"):
            configurations.in_force("b", Core(world.logs["b"], four, 2))
        assert configurations.pending() == [four]

    def test_the_members_of_the_state(self, world: World) -> None:
        with violates("configuration_history"):
            world.checkers.configurations.in_force("b", Core(world.logs["b"], Configuration((A,)), 0))

    def test_one_change_at_a_time(self, world: World) -> None:
        configurations = world.checkers.configurations
        four = Configuration((A, B, C), (D,))
        world.lead("a", 1, 2)
        with violates("one_change_at_a_time"):
            # No entry of the own term is committed.
            configurations.proposed("a", (3, 2), four, 1, THREE)
        world.lead("a", 1, 2, commit=2)
        configurations.proposed("a", (3, 2), four, 1, THREE)
        with violates("one_change_at_a_time"):
            configurations.proposed("a", (4, 2), Configuration((A, B, C, D)), 3, four)

    def test_majorities_meet(self, world: World) -> None:
        configurations = world.checkers.configurations
        world.lead("a", 1, 2)
        world.lead("a", 1, 2, commit=2)
        configurations.proposed("a", (3, 2), Configuration((A, B)), 1, THREE)
        with violates("adjacent_quorums"):
            configurations.proposed("a", (3, 2), Configuration((A,)), 1, THREE)
        configurations.committed(members(3, 2, Configuration((A, B, C, D))))
        assert (configurations.newest_index, configurations.changes) == (3, 1)
        with violates("adjacent_quorums"):
            configurations.committed(members(4, 2, Configuration((A,))))


def test_a_log_begins_anew_behind_a_snapshot() -> None:
    log = MemoryLog(HardState(1, None, 1), [FIRST, entry(2, 1), entry(3, 1)])
    log.reset(Reset(2, 1))
    assert (log.first_index, log.last_index, log.term(3)) == (1, 3, 1)
    log.reset(Reset(3, 2))
    assert (log.first_index, log.last_index, log.term(3)) == (4, 3, 2)
