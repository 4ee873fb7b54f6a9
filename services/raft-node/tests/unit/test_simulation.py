"""The simulator's own parts: clock, network and disk, and that a seed gives one trace."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections import Counter

import pytest

from raft_node.entry import Entry, EntryKind, encode
from raft_node.raft.config import RaftConfig
from raft_node.raft.messages import Heartbeat
from raft_node.raft.types import HardState, NodeId, Write
from raft_node.testing import __main__ as command
from raft_node.testing.clock import Clock
from raft_node.testing.cluster import Cluster
from raft_node.testing.disk import MemoryLog, WalLog
from raft_node.testing.faults import FAULTS
from raft_node.testing.network import Network
from raft_node.testing.simulation import ALL_EFFECTS, Options, Result, missing_effects, run_seed

SMALL = Options(nodes=3, operations=40, faults=2)


def entry(index: int, term: int) -> Entry:
    return encode(index, term, EntryKind.COMMAND, 0, b"key value")


# The clock.


def test_calls_are_made_in_the_order_of_their_time_and_then_of_their_asking() -> None:
    clock = Clock()
    made: list[str] = []
    clock.call_later(20, made.append, "late")
    clock.call_later(10, made.append, "first")
    clock.call_later(10, made.append, "second")
    assert clock.run(lambda: len(made) == 3, 100)
    assert made == ["first", "second", "late"]
    assert clock.now_us == 20


def test_the_clock_stops_at_its_limit() -> None:
    clock = Clock()
    made: list[str] = []
    clock.call_later(200, made.append, "late")
    assert not clock.run(lambda: bool(made), 100)
    assert clock.now_us == 100


# The network.


class Wire:
    """A network between a and b, and what arrived."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.counters: Counter[str] = Counter()
        self.arrived: list[int] = []
        self.noticed: list[tuple[str, str]] = []
        self.network = Network(
            self.clock,
            random.Random(7),
            self.counters,
            lambda name, message: self.arrived.append(message.term),
            lambda name, peer: self.noticed.append((name, peer)),
        )

    def send(self, count: int) -> None:
        for term in range(count):
            self.network.send(Heartbeat(NodeId("a", 1), NodeId("b", 1), term, 0, 0))
        self.clock.run(lambda: False, self.clock.now_us + 10_000_000)


@pytest.fixture
def wire() -> Wire:
    return Wire()


def test_a_sound_network_delivers_everything_in_order(wire: Wire) -> None:
    wire.send(100)
    assert wire.arrived == list(range(100))
    assert not wire.counters


def test_delay_keeps_the_order_and_reordering_does_not(wire: Wire) -> None:
    wire.network.delay_max_us = 200_000
    wire.send(100)
    assert wire.arrived == list(range(100))
    wire.arrived.clear()
    wire.network.reorder_permille = 1000
    wire.send(100)
    assert sorted(wire.arrived) == list(range(100)) != wire.arrived
    assert wire.counters["delay"] > 0
    assert wire.counters["reorder"] > 0


def test_loss_duplicates_and_notices_are_counted(wire: Wire) -> None:
    wire.network.loss_permille = 300
    wire.network.duplicate_permille = 300
    wire.network.notice_permille = 1000
    wire.send(200)
    assert len(wire.arrived) == 200 - wire.counters["loss"] + wire.counters["duplicate"]
    assert wire.noticed == [("a", "b")] * wire.counters["loss"]
    assert wire.counters["loss"] > 0 < wire.counters["duplicate"]


def test_a_cut_is_one_way_takes_what_is_under_way_and_ends(wire: Wire) -> None:
    wire.network.send(Heartbeat(NodeId("a", 1), NodeId("b", 1), 5, 0, 0))
    wire.network.cut([("a", "b")], "one_way")
    wire.network.send(Heartbeat(NodeId("b", 1), NodeId("a", 1), 6, 0, 0))
    wire.send(3)
    assert wire.arrived == [6]
    assert wire.counters["one_way"] == 4
    wire.network.mend([("a", "b")], "one_way")
    wire.send(1)
    assert wire.arrived == [6, 0]


# The disks.


@pytest.fixture(params=[MemoryLog, WalLog])
def log(request: pytest.FixtureRequest) -> MemoryLog | WalLog:
    made: MemoryLog | WalLog = request.param(HardState(1, None, 1), [entry(1, 1)])
    return made


def test_a_write_is_there_once_it_is_complete(log: MemoryLog | WalLog) -> None:
    voted = HardState(3, NodeId("n2", 9), 1)
    log.begin(Write(1, voted, None, [entry(2, 2), entry(3, 3)]))
    assert (log.last_index, log.hard_state.term) == (1, 1)
    log.complete()
    assert (log.last_index, log.hard_state) == (3, voted)
    assert [log.term(index) for index in range(4)] == [0, 1, 2, 3]
    log.begin(Write(2, None, 2, [entry(2, 4)]))
    log.complete()
    assert list(log.entries(1, 3, 1 << 20)) == [entry(1, 1), entry(2, 4)]
    assert list(log.entries(1, 3, 1)) == [entry(1, 1)]


def test_a_crash_leaves_what_was_complete_and_perhaps_more(log: MemoryLog | WalLog) -> None:
    chance = random.Random(3)
    fates = Counter[str]()
    for number in range(60):
        last = log.last_index
        log.begin(Write(2 * number, None, None, [entry(last + 1, 1)]))
        log.complete()
        log.begin(Write(2 * number + 1, HardState(1, None, last), None, [entry(last + 2, 1), entry(last + 3, 1)]))
        fate, survivors = log.crash(chance)
        fates[fate] += 1
        assert log.last_index == last + 1 + len(survivors)
        assert list(log.entries(1, log.last_index + 1, 1 << 30))[-1] == entry(log.last_index, 1)
        assert log.writing is None
    assert fates["lost"] > 0 < fates["whole"], fates
    assert fates["torn"] > 0, fates
    assert log.crash(chance) == ("none", ())


# Whole runs.


def test_a_cluster_without_faults_elects_one_leader() -> None:
    cluster = Cluster(1, 5, RaftConfig())
    cluster.start()
    assert cluster.clock.run(lambda: cluster.converged, 2_000_000)
    assert cluster.checkers.leaders == 1


def test_the_same_seed_gives_the_same_trace() -> None:
    first, second, other = run_seed(3, SMALL), run_seed(3, SMALL), run_seed(4, SMALL)
    assert not first.failure
    assert first.trace == second.trace != other.trace
    assert first == second


@pytest.mark.slow
def test_the_trace_does_not_depend_on_the_hash_seed() -> None:
    last_lines = set()
    for hash_seed in ("0", "1", "4711"):
        done = subprocess.run(
            [sys.executable, "-m", "raft_node.testing", "--seed", "7", "--ops", "60", "--faults", "3"],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        last_lines.add(done.stdout.splitlines()[-1])
    (line,) = last_lines
    assert line.startswith("trace ")


def test_a_seed_prints_a_summary_and_its_trace(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--seed", "3", "--nodes", "3", "--ops", "40", "--faults", "2"]) == 0
    summary, last = capsys.readouterr().out.splitlines()
    assert summary.startswith("seed 3 ok ops=")
    assert last == f"trace {run_seed(3, SMALL).trace}"


def test_a_failure_prints_how_to_replay_it(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    failed = Result(9, SMALL, failure="log_matching: two logs differ", tail=["line one", "line two"])
    monkeypatch.setattr(command, "run_seed", lambda seed, options: failed)
    assert command.main(["--seed", "9"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "line two" in lines
    assert "FAILED log_matching: two logs differ" in lines
    assert "replay: python -m raft_node.testing --seed 9 --nodes 3 --ops 40 --faults 2" in lines


def test_a_fault_that_never_mattered_is_named() -> None:
    result = Result(1, SMALL, counters=Counter(dict.fromkeys(ALL_EFFECTS, 1)))
    assert missing_effects([result]) == []
    del result.counters["crash_all"]
    assert missing_effects([result]) == ["crash_all"]
    assert set(FAULTS) <= set(ALL_EFFECTS)
