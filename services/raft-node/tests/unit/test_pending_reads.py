"""Reads between those who ask and the core: who may be served here, when the lease's clock is read, and each answer."""

from __future__ import annotations

import pytest

from raft_node.observability.metrics import Metrics
from raft_node.raft.config import RaftConfig
from raft_node.raft.messages import Heartbeat, HeartbeatResponse, ReadIndexRequest, ReadIndexResponse
from raft_node.raft.ready import Ready
from raft_node.raft.types import Configuration, ReadState
from raft_node.runtime.clocks import LeaseClock
from raft_node.runtime.reads.rounds import PendingReads
from raft_testing.lockstep import Lockstep, Peer, log_of, members

A, B, C = members(3)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Rig:
    """The reads of one core, and the answers that came of them."""

    def __init__(self, peer: Peer, lease_clock: Clock | None = None) -> None:
        self.peer = peer
        self.loop = Clock()
        self.proofs = Clock()
        self.reads = PendingReads(peer.node, Metrics(0), self.loop, lease_clock, self.proofs)
        self.answers: list[tuple[str, bool]] = []

    def add(self, name: str, *, forward: bool = False) -> None:
        self.reads.add(lambda confirmed: self.answers.append((name, confirmed)), forward=forward)

    def take(self, *, keep: bool = False) -> None:
        """What the core has to say by now."""
        peer = self.peer
        self.reads.take(Ready([], None, [], peer.read_states, peer.reads_dropped, []), keep=keep)
        peer.read_states, peer.reads_dropped = [], []


def leading(config: RaftConfig | None = None) -> tuple[Lockstep, Peer]:
    shard = Lockstep(3, config=config)
    peer = shard.elect("a")
    shard.tick(6)
    return shard, peer


def following() -> Peer:
    peer = Peer(A, Configuration((A, B, C)), log=log_of(1, 1, 1))
    peer.step(Heartbeat(B, A, 1, 3, 0))
    return peer


def test_a_follower_forwards_what_may_be_forwarded_and_refuses_the_rest() -> None:
    peer = following()
    rig = Rig(peer)
    rig.add("here")
    rig.add("anywhere", forward=True)
    rig.add("anywhere too", forward=True)
    rig.reads.ask()
    assert rig.answers == [("here", False)] and len(rig.reads) == 2
    (request,) = [m for m in peer.pump() if isinstance(m, ReadIndexRequest)]
    peer.step(ReadIndexResponse(B, A, 1, request.token, 3))
    rig.take()
    rig.reads.serve(2)
    assert len(rig.answers) == 1, "its index is not applied yet"
    rig.reads.serve(3)
    assert rig.answers[1:] == [("anywhere", True), ("anywhere too", True)] and len(rig.reads) == 0


def test_a_leader_puts_all_reads_of_a_turn_into_one_context() -> None:
    shard, peer = leading()
    rig = Rig(peer)
    rig.add("a")
    rig.add("b", forward=True)
    rig.reads.ask()
    rig.reads.ask()
    shard.deliver()
    assert [state.context for state in peer.read_states] == [1]
    rig.take()
    rig.reads.serve(peer.node.applied_index)
    assert rig.answers == [("a", True), ("b", True)]


def test_the_clock_is_read_when_the_core_is_asked_not_when_the_read_came() -> None:
    """A process that stood still in between must not judge its lease by what the clock showed before."""
    shard, peer = leading(RaftConfig(lease_ticks=9))
    clock = Clock()
    rig = Rig(peer, clock)
    rig.add("first")
    rig.reads.ask()
    shard.deliver()
    clock.now = 5.0
    rig.add("leased")
    rig.reads.ask()
    assert not [m for m in peer.pump() if isinstance(m, Heartbeat)]
    assert [state.context for state in peer.read_states] == [1, 2]
    rig.add("before the pause")
    clock.now = 100.0
    rig.reads.ask()
    assert [m for m in peer.pump() if isinstance(m, Heartbeat)]
    assert [state.context for state in peer.read_states] == [1, 2]


def test_reads_whose_index_comes_later_do_not_hold_others_up() -> None:
    rig = Rig(following())
    for name in ("late", "early"):
        rig.add(name, forward=True)
        rig.reads.ask()
    rig.peer.read_states = [ReadState(1, 9), ReadState(2, 4), ReadState(77, 1)]
    rig.take()
    rig.reads.serve(5)
    assert rig.answers == [("early", True)]
    rig.reads.serve(9)
    assert rig.answers == [("early", True), ("late", True)]


@pytest.mark.parametrize("keep", [False, True])
def test_dropped_reads_are_refused_or_wait_anew(keep: bool) -> None:
    shard, peer = leading()
    rig = Rig(peer)
    rig.add("a")
    rig.reads.ask()
    peer.node.resign("test")
    shard.deliver()
    rig.take(keep=keep)
    assert rig.answers == ([] if keep else [("a", False)]) and rig.reads.waiting is keep
    rig.reads.ask()
    assert rig.answers == [("a", False)]


def test_what_waits_too_long_is_refused_and_a_late_confirmation_is_nobodys() -> None:
    peer = leading()[1]
    rig = Rig(peer)
    rig.add("old")
    rig.reads.ask()
    rig.loop.now = 10.0
    rig.add("new")
    rig.reads.ask()
    rig.reads.expire(5.0)
    assert rig.answers == [("old", False)]
    peer.pump()
    peer.step(HeartbeatResponse(B, A, 1, 1, 1))
    rig.take()
    rig.reads.serve(100)
    assert [name for name, confirmed in rig.answers if confirmed] in ([], ["new"])


def test_a_stop_answers_everything_once() -> None:
    peer = following()
    rig = Rig(peer)
    rig.add("asked", forward=True)
    rig.reads.ask()
    rig.add("confirmed", forward=True)
    rig.reads.ask()
    peer.read_states = [ReadState(2, 50)]
    rig.take()
    rig.add("waiting")
    rig.add("waiting too", forward=True)
    rig.reads.stop()
    assert sorted(rig.answers) == [
        ("asked", False),
        ("confirmed", False),
        ("waiting", False),
        ("waiting too", False),
    ]
    assert len(rig.reads) == 0 and not rig.reads.waiting


def test_without_a_leader_nothing_is_kept_waiting() -> None:
    rig = Rig(Peer(A, Configuration((A, B, C))))
    rig.add("a", forward=True)
    rig.reads.ask()
    assert rig.answers == [("a", False)]


def test_the_lease_clock_goes_on() -> None:
    clock = LeaseClock(tick_ms=10)
    first, second = clock.now(), clock.now()
    assert 0 < first <= second < first + 1000


def test_a_confirmed_round_proves_what_was_acknowledged_before_it_was_asked_for_once_its_index_is_applied() -> None:
    peer = following()
    rig = Rig(peer)
    rig.proofs.now = 10.0
    rig.add("anywhere", forward=True)
    rig.reads.ask()
    (request,) = [m for m in peer.pump() if isinstance(m, ReadIndexRequest)]
    rig.proofs.now = 12.0
    peer.step(ReadIndexResponse(B, A, 1, request.token, 3))
    rig.take()
    rig.reads.serve(2)
    assert rig.reads.proven_s < 0, "its index is not applied yet"
    rig.reads.serve(3)
    assert rig.reads.proven_s == 10.0


def test_the_heartbeats_of_a_leader_prove_nothing() -> None:
    peer = following()
    rig = Rig(peer)
    for _ in range(3):
        peer.step(Heartbeat(B, A, 1, 3, 0))
    rig.take()
    rig.reads.serve(3)
    assert rig.reads.proven_s < 0
