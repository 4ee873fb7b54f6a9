"""Each checker must be able to fail: one test shows it what is allowed, others what is not."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from raft_node.entry import Entry, EntryKind, encode
from raft_node.raft.messages import AppendEntriesResponse, RequestVoteResponse
from raft_node.raft.types import HardState, NodeId, Write
from raft_node.testing.checkers import Checkers, InvariantViolationError
from raft_node.testing.disk import MemoryLog

NAMES = ("a", "b", "c")
IDS = {name: NodeId(name, 1) for name in NAMES}


def entry(index: int, term: int, command: bytes = b"x") -> Entry:
    return encode(index, term, EntryKind.COMMAND, 0, command)


class World:
    """Three logs and the checkers that watch them."""

    def __init__(self) -> None:
        self.logs = {name: MemoryLog(HardState(1, None, 1), [entry(1, 1)]) for name in NAMES}
        self.checkers = Checkers(self.logs, [entry(1, 1)])

    def store(self, name: str, entries: Sequence[Entry], truncate_from: int | None = None) -> None:
        self.checkers.writes(name, self.logs[name].hard_state, None, truncate_from)
        self.logs[name].begin(Write(1, None, truncate_from, entries))
        self.logs[name].complete()
        self.checkers.became_durable(name, entries)

    def lead(self, name: str, life: int, term: int, *, commit: int = 1, last: int = 2) -> None:
        self.checkers.observe(name, life, term, commit, last, leads=True)


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
        world.checkers.committed("a", 2, [entry(2, 2)])


def test_leader_completeness(world: World) -> None:
    for name in ("a", "b"):
        world.store(name, [entry(2, 2)])
    world.checkers.committed("a", 2, [entry(2, 2)])
    world.checkers.led_log("c", 2, [0, 1])
    with violates("leader_completeness"):
        world.checkers.led_log("c", 3, [0, 1, 3])


def test_state_machine_safety_of_entries(world: World) -> None:
    for name in ("a", "b"):
        world.store(name, [entry(2, 2)])
    world.checkers.committed("a", 2, [entry(2, 2)])
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
    for name in ("a", "b"):
        world.store(name, [entry(2, 2)])
    world.store("c", [entry(2, 1)])
    world.checkers.committed("a", 2, [entry(2, 2)])
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
