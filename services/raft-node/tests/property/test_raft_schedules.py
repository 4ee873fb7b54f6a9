"""Random schedules of a small shard, with messages lost, repeated and reordered and nodes restarted.

The simulator does this with time and on a large scale; here Hypothesis shrinks what it finds to a few steps.
"""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from raft_node.entry import Entry
from raft_node.errors import NotLeaderError, OverloadedError
from raft_node.raft.config import RaftConfig
from raft_node.raft.messages import Message
from raft_node.raft.types import Role
from raft_testing.lockstep import Lockstep, commands

NAMES = "abc"
STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "tick",
                "elapse",
                "work",
                "work",
                "persist",
                "deliver",
                "deliver",
                "deliver",
                "repeat",
                "lose",
                "propose",
                "crash",
            ]
        ),
        st.integers(0, 30),
    ),
    min_size=20,
    max_size=150,
)


class Schedule:
    """A shard whose every step is chosen from outside, and what must hold after each."""

    def __init__(self, window: int) -> None:
        self.shard = Lockstep(3, config=RaftConfig(inflight_appends_max=window))
        self.network: list[Message] = []
        self.leaders: dict[int, str] = {}
        self.agreed: list[Entry] = []

    def act(self, kind: str, number: int) -> None:
        peer = self.shard[NAMES[number % 3]]
        if kind == "tick":
            peer.node.tick()
        elif kind == "elapse":
            peer.tick_to_deadline()
        elif kind == "work":
            self.network += peer.pump(persist=False)
        elif kind == "persist":
            peer.persist()
        elif kind == "crash":
            peer.restart()
        elif kind == "propose":
            try:
                peer.node.propose(commands(1 + number % 3), number)
            except (NotLeaderError, OverloadedError):
                return
        elif self.network:
            message = self.network[number % len(self.network)]
            if kind != "repeat":
                self.network.remove(message)
            if kind != "lose":
                self.shard[message.receiver.name].node.step(message)

    def check(self) -> None:
        for name, peer in self.shard.peers.items():
            peer.node.validate()
            if peer.plays(Role.LEADER):
                assert self.leaders.setdefault(peer.node.term, name) == name, "two leaders in a term"
            for entry in peer.committed[len(self.agreed) :]:
                assert entry.index == len(self.agreed) + 1
                self.agreed.append(entry)
            assert peer.committed == self.agreed[: len(peer.committed)], "the state machines differ"


@settings(max_examples=150, deadline=None)
@given(STEPS, st.integers(1, 3))
def test_safety_holds_in_any_schedule_and_progress_returns(steps: list[tuple[str, int]], window: int) -> None:
    schedule = Schedule(window)
    for kind, number in steps:
        schedule.act(kind, number)
        schedule.check()
    shard = schedule.shard
    for _ in range(120):
        shard.tick()
        schedule.check()
    (leader,) = shard.leaders()
    shard[leader].node.propose(commands(1), 0)
    shard.tick(10)
    schedule.check()
    assert {peer.node.commit_index for peer in shard.peers.values()} == {shard[leader].node.last_index}
