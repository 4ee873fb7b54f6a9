"""The simulator's own parts: clock, network and disk, and that a seed gives one trace."""

from __future__ import annotations

import inspect
import os
import random
import subprocess
import sys
import tomllib
from collections import Counter
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from raft_node.entry import Entry, EntryKind, encode
from raft_node.raft.config import RaftConfig
from raft_node.raft.messages import Heartbeat
from raft_node.raft.types import Configuration, HardState, NodeId, Write
from raft_testing import __main__ as command
from raft_testing import soak
from raft_testing.clock import Clock
from raft_testing.cluster import Cluster
from raft_testing.disk import MemoryLog, Reset, WalLog
from raft_testing.engine_store import EngineStore
from raft_testing.faults import FAULTS
from raft_testing.machine import Head, MemoryStore, Snapshot, encode_put
from raft_testing.network import AnyMessage, Network
from raft_testing.simulation import ALL_EFFECTS, Options, Result, missing_effects, run_seed
from raft_testing.snapshots import Receiving, Sending, SnapshotChunk, SnapshotChunkResponse

# With changes of the members in all; with the real log, and with the real engine.
HASHED_SEEDS = (13, 16, 200)
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
        self.chunks: list[SnapshotChunk] = []
        self.noticed: list[tuple[str, str]] = []
        self.network = Network(
            self.clock,
            random.Random(7),
            self.counters,
            self._take,
            lambda name, peer: self.noticed.append((name, peer)),
        )

    def _take(self, name: str, message: AnyMessage) -> None:
        if isinstance(message, SnapshotChunk):
            self.chunks.append(message)
        elif not isinstance(message, SnapshotChunkResponse):
            self.arrived.append(message.term)

    def send(self, count: int) -> None:
        for term in range(count):
            self.network.send(Heartbeat(NodeId("a", 1), NodeId("b", 1), term, 0, 1))
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
    assert len(wire.arrived) == 200 - wire.counters["loss"] + wire.counters["duplicate"] + wire.counters["echo"]
    assert wire.noticed == [("a", "b")] * wire.counters["loss"]
    assert wire.counters["loss"] > 0 < wire.counters["duplicate"]
    # Echoes come seconds after all that was sent behind them.
    assert wire.counters["echo"] > 0
    assert wire.arrived[-1] < 199


def test_a_cut_is_one_way_takes_what_is_under_way_and_ends(wire: Wire) -> None:
    wire.network.send(Heartbeat(NodeId("a", 1), NodeId("b", 1), 5, 0, 1))
    wire.network.cut([("a", "b")], "one_way")
    wire.network.send(Heartbeat(NodeId("b", 1), NodeId("a", 1), 6, 0, 1))
    wire.send(3)
    assert wire.arrived == [6]
    assert wire.counters["one_way"] == 4
    wire.network.mend([("a", "b")], "one_way")
    wire.send(1)
    assert wire.arrived == [6, 0]


def test_a_damaged_chunk_is_told_by_its_checksum(wire: Wire) -> None:
    wire.network.damage_permille = 1000
    sending = sending_of(b"0123456789")
    wire.network.send(sending.chunk())
    wire.send(1)
    (chunk,) = wire.chunks
    assert chunk.data != sending.chunk().data
    note: list[str] = []
    receiving = Receiving()
    assert receiving.take(chunk, note) is None
    assert (receiving.offset, note) == (0, ["snapshot_damaged"])


def test_idle_heartbeats_count_for_no_fault(wire: Wire) -> None:
    wire.network.loss_permille = 1000
    wire.network.send(Heartbeat(NodeId("a", 1), NodeId("b", 1), 1, 0, 0))
    assert wire.counters.total() == 0
    wire.send(1)
    assert wire.counters["loss"] == 1


# Snapshots on their way.


def sending_of(payload: bytes, index: int = 9, chunk_bytes: int = 4) -> Sending:
    head = Head(index, 2, 0, Configuration((NodeId("a", 1),)))
    return Sending(NodeId("a", 1), NodeId("b", 1), Snapshot(head, payload), chunk_bytes)


def transfer(sending: Sending, receiving: Receiving, note: list[str], chunks: int = 99) -> Snapshot | None:
    for _ in range(chunks):
        snapshot = receiving.take(sending.chunk(), note)
        if snapshot is not None:
            return snapshot
        sending.answered(receiving.offset)
    return None


def test_a_snapshot_arrives_in_chunks_and_goes_on_after_a_crash() -> None:
    sending, receiving = sending_of(b"0123456789"), Receiving()
    note: list[str] = []
    assert transfer(sending, receiving, note, chunks=2) is None
    assert receiving.offset == 8
    receiving.crash(random.Random(1), spoil=False)
    left = receiving.offset
    assert 0 < left < 8
    assert transfer(sending, receiving, note) == sending.snapshot
    assert note == ["snapshot_resumed"]


def test_a_late_or_repeated_chunk_adds_nothing() -> None:
    sending, receiving = sending_of(b"0123456789"), Receiving()
    first = sending.chunk()
    receiving.take(first, [])
    receiving.take(first, [])
    assert receiving.offset == 4
    sending.answered(8)
    receiving.take(sending.chunk(), [])
    assert receiving.offset == 4


def test_what_a_disk_spoiled_is_refused_as_a_whole_and_fetched_again() -> None:
    sending, receiving = sending_of(b"0123456789"), Receiving()
    note: list[str] = []
    transfer(sending, receiving, note, chunks=2)
    receiving.crash(random.Random(1), spoil=True)
    assert transfer(sending, receiving, note) == sending.snapshot
    assert note == ["snapshot_resumed", "snapshot_spoiled"]


def test_another_snapshot_takes_the_place_of_the_first() -> None:
    receiving, note = Receiving(), list[str]()
    transfer(sending_of(b"0123456789"), receiving, note, chunks=2)
    newer = sending_of(b"abcdef", index=12)
    assert transfer(newer, receiving, note) == newer.snapshot
    assert note == ["snapshot_superseded"]


# The states.


@pytest.fixture(params=[MemoryStore, EngineStore])
def store(request: pytest.FixtureRequest) -> MemoryStore | EngineStore:
    made: MemoryStore | EngineStore = request.param(Configuration((NodeId("a", 1),)))
    return made


def put_entry(index: int, value: str) -> Entry:
    return encode(index, 1, EntryKind.COMMAND, index, encode_put(f"k{index % 3}", value))


def test_a_state_keeps_what_was_flushed(store: MemoryStore | EngineStore) -> None:
    for index in range(1, 6):
        store.apply(put_entry(index, f"v{index}"))
    store.flush()
    kept = store.head
    store.apply(put_entry(6, "late"))
    store.crash(random.Random(0))
    assert store.head == kept
    assert store.contents() == {"k1": "v4", "k2": "v5", "k0": "v3"}


def test_a_crash_while_a_state_is_adopted_leaves_the_old_or_the_new_one(store: MemoryStore | EngineStore) -> None:
    ahead = type(store)(Configuration((NodeId("a", 1),)))
    for index in range(1, 30):
        ahead.apply(put_entry(index, f"v{index}"))
        if index % 7 == 0:
            ahead.flush()
    ahead.flush()
    snapshot = ahead.snapshot()
    left = Counter[int]()
    for seed in range(40):
        behind = type(store)(Configuration((NodeId("a", 1),)))
        behind.apply(put_entry(1, "v1"))
        behind.flush()
        before = behind.head
        behind.crash(random.Random(seed), snapshot)
        assert behind.head in (before, snapshot.head)
        left[behind.head.applied_index] += 1
        if behind.head == before:
            behind.adopt(snapshot)
        assert behind.contents() == ahead.contents()
    assert left[1] > 0 < left[29], left


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


def filled(log: MemoryLog | WalLog, last: int) -> None:
    for index in range(2, last + 1):
        log.begin(Write(2 * index, HardState(1, None, index), None, [entry(index, 1)]))
        log.complete()


def test_a_log_lets_its_prefix_go(log: MemoryLog | WalLog) -> None:
    filled(log, 300)
    log.drop_prefix(200)
    filled_to = log.last_index
    for index in range(filled_to + 1, filled_to + 100):
        log.begin(Write(2 * index, None, None, [entry(index, 1)]))
        log.complete()
        log.drop_prefix(200)
    assert 1 < log.first_index <= 200
    assert log.term(log.first_index - 1) == 1
    first = log.first_index
    log.crash(random.Random(2))
    assert log.first_index == first
    assert log.entries(first, first + 1, 1)[0] == entry(first, 1)


def test_a_crash_during_a_reset_leaves_the_old_log_or_the_new_one(log: MemoryLog | WalLog) -> None:
    filled(log, 20)
    chance = random.Random(5)
    left = Counter[int]()
    target = Reset(40, 3)
    while not left[41]:
        log.crash(chance, target)
        assert (log.first_index, log.last_index) in ((1, 20), (41, 40))
        left[log.first_index] += 1
    assert left[1] > 0
    assert log.term(40) == 3
    log.reset(Reset(40, 3))
    assert log.last_index == 40


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


@pytest.mark.seconds
@pytest.mark.parametrize("seed", HASHED_SEEDS)
def test_the_trace_does_not_depend_on_the_hash_seed(seed: int) -> None:
    last_lines = set()
    for hash_seed in ("0", "1", "4711"):
        done = subprocess.run(
            [sys.executable, "-m", "raft_testing", "--seed", str(seed), "--ops", "60", "--faults", "3"],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
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
    assert "replay: python -m raft_testing --seed 9 --nodes 3 --ops 40 --faults 2" in lines


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--nodes", "0"], "--nodes must be from 1 to 9, not 0"),
        (["--nodes", "10"], "--nodes must be from 1 to 9, not 10"),
        (["--ops", "0"], "--ops must be from 1 to 20000, not 0"),
        (["--faults", "-1"], "--faults must be from 0 to 200, not -1"),
        (["--seed", "-1"], "--seed must be at least 0, not -1"),
        (["--seeds", "0"], "--seeds must be at least 1, not 0"),
        (["--seed", "one"], "invalid int value: 'one'"),
        (["--loss", "3"], "unrecognized arguments: --loss 3"),
    ],
)
def test_wrong_arguments_are_named(capsys: pytest.CaptureFixture[str], arguments: list[str], said: str) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(arguments)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_dougctl_has_the_same_command(capsys: pytest.CaptureFixture[str]) -> None:
    pyproject = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    named = pyproject["project"]["entry-points"]["dougctl.commands"]["simulate"]
    function = EntryPoint("simulate", named, "dougctl.commands").load()
    assert function is command.simulate
    assert {name: kind.default for name, kind in inspect.signature(function).parameters.items()} == {
        "seed": 1,
        "nodes": Options().nodes,
        "ops": Options().operations,
        "faults": Options().faults,
    }
    with pytest.raises(SystemExit) as ended:
        function(seed=3, nodes=3, ops=40, faults=2)
    assert ended.value.code == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"trace {run_seed(3, SMALL).trace}"
    with pytest.raises(SystemExit) as ended:
        function(nodes=0)
    assert ended.value.code == 2


def test_the_digest_of_a_soak_does_not_depend_on_the_number_of_processes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(soak, "Options", lambda: SMALL)
    digests = set()
    for processes in ("1", "2"):
        assert soak.main(["--from", "5", "--seeds", "6", "--processes", processes]) == 0
        digests.add(capsys.readouterr().out.splitlines()[-1])
    (line,) = digests
    assert line.startswith("seeds 5..10: 0 failed, ")
    assert "digest" in line


def test_a_soak_that_fails_ends_with_1_and_says_how_to_replay(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = Result(9, SMALL, failure="log_matching: two logs differ", trace="00ff", tail=["a line"])
    monkeypatch.setattr(soak, "run_seeds", lambda seeds, options, processes: [failed])
    assert soak.main(["--from", "9", "--seeds", "1"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2] == "failed: python -m raft_testing --seed 9 --nodes 3 --ops 40 --faults 2"
    with pytest.raises(SystemExit):
        soak.main(["--from", "9", "--seeds", "0"])
    assert "--seeds must be at least 1, not 0" in capsys.readouterr().err


def test_a_fault_that_never_mattered_is_named() -> None:
    result = Result(1, SMALL, counters=Counter(dict.fromkeys(ALL_EFFECTS, 1)))
    assert missing_effects([result]) == []
    del result.counters["crash_all"]
    assert missing_effects([result]) == ["crash_all"]
    assert set(FAULTS) - {"damage"} <= set(ALL_EFFECTS)
