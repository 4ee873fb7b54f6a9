"""Random schedules with transfers, changes of the members, dropped log prefixes and snapshots between the usual faults.

Four nodes of which three are members at first. The simulator does this with time and on a large scale; here Hypothesis
shrinks what it finds to a few steps.
"""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from raft_node.entry import Entry, EntryKind
from raft_node.errors import RefusedError
from raft_node.raft.config import RaftConfig
from raft_node.raft.configuration import decode_configuration
from raft_node.raft.membership import members_of, with_learner, with_voter, without
from raft_node.raft.messages import Message
from raft_node.raft.types import Configuration, NodeId, Role
from raft_testing.lockstep import Lockstep, Peer, commands

KINDS = (
    *("tick", "elapse", "work", "work", "persist", "deliver", "deliver", "deliver", "repeat", "lose", "propose"),
    *("crash", "transfer", "change", "change", "compact", "snapshot", "install", "settle", "settle"),
)
STEPS = st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 60)), min_size=20, max_size=120)


class Schedule:
    """A shard whose every step is chosen from outside, and what must hold after each."""

    def __init__(self, window: int) -> None:
        self.shard = Lockstep(3, config=RaftConfig(inflight_appends_max=window, cache_bytes_max=1))
        self.shard.join(NodeId("d", 400))
        self.ids = [peer.id for peer in self.shard.peers.values()]
        self.network: list[Message] = []
        self.leaders: dict[int, str] = {}
        self.agreed: list[Entry] = []
        # What each has applied before the first of its ``committed``.
        self.start = dict.fromkeys(self.shard.peers, 0)
        self.snapshots: list[tuple[int, int, Configuration]] = []
        self.changes = self.transfers = self.installed = 0

    def act(self, kind: str, number: int) -> None:
        name = "abcd"[number % 4]
        peer = self.shard[name]
        match kind:
            case "tick":
                peer.node.tick()
            case "elapse":
                peer.tick_to_deadline()
            case "work":
                self.network += peer.pump(persist=False)
            case "persist":
                peer.persist()
            case "crash":
                self.start[name] = peer.log.first_index - 1
                peer.restart(self.start[name])
            case "settle":
                # All that is on its way arrives, so that something comes about between the faults.
                for message in self.network:
                    self.shard[message.receiver.name].node.step(message)
                self.network.clear()
                self.shard.deliver()
            case "propose" | "transfer" | "change":
                self.ask(kind, peer, number)
            case "compact":
                self.compact(peer)
            case "snapshot":
                self.send_snapshots(peer, lose=number % 3 == 0)
            case "install" if self.snapshots:
                self.install(peer, number % len(self.snapshots))
            case "deliver" | "repeat" | "lose" if self.network:
                message = self.network[number % len(self.network)]
                if kind != "repeat":
                    self.network.remove(message)
                if kind != "lose":
                    self.shard[message.receiver.name].node.step(message)

    def ask(self, kind: str, peer: Peer, number: int) -> None:
        """Asks whoever leads."""
        peer = next((self.shard[name] for name in self.shard.leaders()), peer)
        target = self.ids[number % 4]
        try:
            if kind == "propose":
                peer.node.propose(commands(1 + number % 3), number)
            elif kind == "transfer":
                peer.node.transfer_leadership(target if number % 2 else None)
                self.transfers += 1
            else:
                change = (with_learner, with_voter, without)[number // 4 % 3]
                peer.node.propose_configuration(change(peer.node.configuration, target), number)
                self.changes += 1
        except RefusedError:
            return

    def compact(self, peer: Peer) -> None:
        index = min(peer.node.applied_index, peer.node.log.stable_index)
        if peer.write is None and peer.log.first_index <= index <= peer.log.last_index:
            peer.configuration = peer.node.applied_configuration
            peer.log.compact(index)

    def send_snapshots(self, peer: Peer, *, lose: bool = False) -> None:
        """Does what a leader's driver does for those who want a snapshot."""
        wanted, peer.snapshots_wanted = peer.snapshots_wanted, []
        node = peer.node
        for target in wanted:
            self.snapshots.append((node.applied_index, node.log.term(node.applied_index), node.applied_configuration))
            if lose:
                node.snapshot_failed(target)
            else:
                self.install(self.shard[target.name], -1)
                node.snapshot_sent(target, self.snapshots[-1][0])

    def install(self, peer: Peer, number: int) -> None:
        """Gives a node a snapshot, new or old."""
        snapshot = self.snapshots[number]
        if peer.restore(*snapshot):
            self.installed += 1
            self.start[peer.id.name] = snapshot[0]

    def check(self) -> None:
        for name, peer in self.shard.peers.items():
            peer.node.validate()
            if peer.plays(Role.LEADER):
                assert self.leaders.setdefault(peer.node.term, name) == name, "two leaders in a term"
            start = self.start[name]
            for entry in peer.committed[max(0, len(self.agreed) - start) :]:
                assert entry.index == len(self.agreed) + 1
                self.agreed.append(entry)
            assert peer.committed == self.agreed[start : start + len(peer.committed)], "the state machines differ"

    def check_configuration(self, peer: Peer) -> None:
        """The configuration in force is that of the last such entry in the log, or that of the state."""
        log = peer.node.log
        expected = peer.node.applied_configuration
        for index in range(log.applied_index + 1, log.last_index + 1):
            (entry,) = log.entries(index, index + 1, 1)
            if entry.kind == EntryKind.CONFIGURATION:
                expected = decode_configuration(entry.command)
        assert peer.node.configuration == expected
        state = self.agreed[: log.applied_index]
        applied = [decode_configuration(e.command) for e in state if e.kind == EntryKind.CONFIGURATION]
        assert peer.node.applied_configuration == (applied[-1] if applied else self.shard.configuration)

    def recover(self) -> Peer:
        """Lets everything work; gives the leader that must come of it."""
        for _ in range(150):
            self.shard.tick()
            for name in self.shard.leaders():
                self.send_snapshots(self.shard[name])
            self.check()
        (name,) = self.shard.leaders()
        return self.shard[name]


def run(steps: list[tuple[str, int]], window: int) -> Schedule:
    schedule = Schedule(window)
    for kind, number in steps:
        schedule.act(kind, number)
        schedule.check()
        schedule.check_configuration(schedule.shard["abcd"[number % 4]])
    return schedule


def finish(schedule: Schedule) -> None:
    """Heals, and checks that whoever leads takes every member along."""
    leader = schedule.recover()
    leader.node.propose(commands(1), 0)
    for _ in range(20):
        schedule.shard.tick()
        schedule.send_snapshots(leader)
    schedule.check()
    for peer in schedule.shard.peers.values():
        schedule.check_configuration(peer)
        if peer.id in members_of(leader.node.configuration):
            assert peer.node.commit_index == leader.node.last_index


@settings(max_examples=100, deadline=None)
@given(STEPS, st.integers(1, 3))
def test_safety_holds_whoever_comes_and_goes_and_progress_returns(steps: list[tuple[str, int]], window: int) -> None:
    finish(run(steps, window))


def test_long_schedules_in_which_much_comes_about() -> None:
    """Deep states need more steps than Hypothesis makes; these are drawn from seeds, and each effect must show."""
    effects = Counter[str]()
    for seed in range(200):
        chance = random.Random(seed)
        steps = [(chance.choice(KINDS), chance.randint(0, 60)) for _ in range(chance.randint(20, 400))]
        try:
            schedule = run(steps, chance.randint(1, 3))
            finish(schedule)
        except Exception:
            print(f"seed {seed}")
            raise
        effects["transfers"] += schedule.transfers
        effects["changes"] += schedule.changes
        effects["snapshots"] += schedule.installed
        effects["elections"] += len(schedule.leaders)
        effects["changes of members committed"] += sum(e.kind == EntryKind.CONFIGURATION for e in schedule.agreed)
    print(dict(effects))
    assert min(effects.values()) > 20
