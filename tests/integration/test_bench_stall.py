"""The functions of the benchmarks of stalls and of replays, on figures and logs made up here."""

from __future__ import annotations

import argparse
from array import array
from pathlib import Path

import pytest
from bench import replay, stall, stall_plot
from bench.load import LoadResult
from bench.meter import parse_metrics
from bench.stall import Lags, Phase, Span

from raft_node.entry import EntryKind
from raft_node.storage.files import OsFileSystem
from raft_node.storage.wal.log import Wal, WalHardState, WalOptions

pytestmark = pytest.mark.seconds


def text(late: dict[str, int], *, started: int = 0, flushes: int = 0, compactions: int = 0) -> str:
    """What a node shows: timers by the upper bound of their bucket, and counters."""
    lines = [f'dougdb_event_loop_timer_lag_seconds_bucket{{le="{bound}",shard="0"}} {n}' for bound, n in late.items()]
    lines += [
        f'dougdb_raft_elections_total{{outcome="started",shard="0"}} {started}',
        'dougdb_raft_elections_total{outcome="won",shard="0"} 7',
        f'dougdb_flush_total{{shard="0"}} {flushes}',
        f'dougdb_compaction_total{{shard="0"}} {compactions}',
        'dougdb_write_stall_seconds_total{shard="0"} 0.0',
    ]
    return "\n".join(lines)


def load(latency_ms: float, seconds: float = 10.0, **errors: int) -> LoadResult:
    result = LoadResult(begun=100, ok=100, seconds=seconds)
    result.statuses.update({"200": 100, **errors})
    result.latencies_ns = array("q", [int(latency_ms * 1e6)] * 100)
    result.answered_ns = array("q", [int(place * seconds * 1e7) for place in range(100)])
    return result


def phase(name: str, latency_ms: float, late: dict[float, float], **fields: int) -> Phase:
    made = Phase(name, load(latency_ms), Lags(late))
    for field, value in fields.items():
        setattr(made, field, value)
    return made


QUICK = {0.01: 990.0, 0.02: 995.0, float("inf"): 1000.0}


def test_lags_are_added_up_over_nodes_and_told_by_percentile() -> None:
    before = [parse_metrics(text({"0.01": 10, "0.02": 10, "+Inf": 10}))] * 2
    after = [
        parse_metrics(text({"0.01": 60, "0.02": 100, "+Inf": 110})),
        parse_metrics(text({"0.01": 110, "0.02": 110, "+Inf": 110})),
    ]
    lags = Lags.of(after).since(Lags.of(before))
    assert lags.counts == {0.01: 150, 0.02: 190, float("inf"): 200}
    assert lags.timers == 200
    assert lags.share_within(0.02) == 0.95
    assert lags.percentile_s(0.5) == pytest.approx(0.01 * 100 / 150)
    assert lags.percentile_s(0.9) == pytest.approx(0.01 + 0.01 * 30 / 40)
    # Behind the last bound nobody knows by how much.
    assert lags.percentile_s(0.99) == 0.02
    assert Lags({}).percentile_s(0.99) == 0.0


def test_spans_are_read_from_the_ends_that_a_timeline_tells() -> None:
    events = [
        {"name": "flush_done", "node": "a", "time_us": 5_000_000, "details": {"duration_ms": 500}},
        {"name": "became_leader", "node": "a", "time_us": 5_100_000, "details": {}},
        {"name": "compaction_done", "node": "b", "time_us": 7_000_000, "details": {"duration_ms": 1500}},
    ]
    spans = stall.spans_of(events, 4_000_000)
    assert spans == [Span("flush", "a", 0.5, 1.0), Span("compaction", "b", 1.5, 3.0)]
    assert stall.covered_s([(0.5, 1.0), (0.0, 0.75), (0.8, 0.9), (9.0, 99.0)], 10.0) == 2.0
    assert stall.unrest_of(events, 4_000_000) == ["  1.10 s a became_leader {}"]
    made = phase("with", 1.0, QUICK)
    made.spans = spans
    assert made.busy_share() == pytest.approx(0.2)


def test_a_phase_is_what_was_added_between_its_samples() -> None:
    samples = [
        (at, [parse_metrics(text({"0.02": n, "+Inf": n}, started=started, flushes=n, compactions=n // 2))])
        for at, n, started in ((0.0, 10, 3), (2.0, 20, 3), (4.0, 50, 4), (4.1, 51, 4))
    ]
    made = stall.read_samples("with", load(1.0), samples)
    assert (made.elections, made.flushes, made.compactions, made.lags.timers) == (1, 41, 20, 41)
    # The last piece is too short to be shown.
    assert [(at, lags.timers) for at, lags in made.lags_over_time] == [(2.0, 10), (4.0, 30)]


@pytest.mark.parametrize(
    ("busy", "holding"),
    [
        (phase("with", 19.0, QUICK), [True, True, True]),
        (phase("with", 21.0, QUICK), [True, True, False]),
        (phase("with", 19.0, QUICK, elections=1), [True, False, True]),
        (phase("with", 19.0, {0.02: 989.0, float("inf"): 1000.0}), [False, True, True]),
    ],
)
def test_each_limit_is_judged(busy: Phase, holding: list[bool]) -> None:
    assert [verdict.holds for verdict in stall.judge([phase("without", 10.0, QUICK)], [busy])] == holding


def test_what_is_no_measurement_is_said() -> None:
    quiet, busy = phase("without", 1.0, QUICK), phase("with", 1.0, QUICK, flushes=5, compactions=2)
    busy.spans = [Span("flush", "a", 0.0, 2.6)]
    assert stall.problems([quiet], [busy]) == []
    quiet.flushes = 1
    assert "where nothing should be" in stall.problems([quiet], [busy])[0]
    quiet.flushes, busy.compactions = 0, 0
    assert "too little of the time" in stall.problems([quiet], [busy])[0]
    busy.compactions, busy.load = 2, load(1.0, timeout=1)
    assert "puts failed" in stall.problems([quiet], [busy])[0]


def test_the_picture_is_a_png(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is missing: make bench-tools installs it")
    made = phase("with", 1.0, QUICK)
    made.spans = [Span("flush", "a", 0.0, 1.0), Span("compaction", "a", 1.0, 2.0)]
    made.lags_over_time = [(2.0, Lags(QUICK)), (4.0, Lags(QUICK))]
    stall_plot.draw(phase("without", 1.0, QUICK), made, tmp_path / "stall.png")
    assert (tmp_path / "stall.png").read_bytes().startswith(b"\x89PNG")
    assert stall_plot.windows([3_000_000, 1_000_000, 2_000_000], [0, 1, 300_000_000], 0.5) == (
        [0.125, 0.375],
        [3.0, 2.0],
    )


def test_replicas_get_one_log_to_replay(tmp_path: Path) -> None:
    directories = [str(tmp_path / name) for name in "abc"]
    first = next(replay.batches(1, 1, 0, 10))
    for term, directory in enumerate(directories, 1):
        # Each has an entry that only its own short leadership brought.
        wal = Wal.open(OsFileSystem(), directory, WalOptions())
        own = [next(replay.batches(2, term, 0, 10))[0]]
        wal.publish(wal.append(WalHardState(term, "x", 1, 1), None, [*first, *own]))
        wal.close()
    last = replay.extend_logs(directories, 100_000, 100)
    logs = [Wal.open(OsFileSystem(), directory, WalOptions()) for directory in directories]
    read = [wal.entries(1, last + 1, 1 << 30) for wal in logs]
    assert read[0] == read[1] == read[2]
    assert [entry.kind for entry in read[0][2:5]] == [EntryKind.STATE_HASH, EntryKind.COMMAND, EntryKind.COMMAND]
    assert sum(len(entry.data) for entry in read[0]) > 100_000
    assert {wal.hard_state.commit_index for wal in logs} == {wal.last_index for wal in logs} == {last}
    assert {wal.hard_state.term for wal in logs} == {3}


def test_every_node_of_a_replay_has_ports_of_its_own(tmp_path: Path) -> None:
    settings = [replay.environment(tmp_path, 26_000, 5, node) for node in range(5)]
    assert len({each["DOUGDB_PEERS"] for each in settings}) == 1
    listening = [value for each in settings for name, value in each.items() if name.endswith("_LISTEN")]
    assert len(set(listening)) == len(listening) == 15


def test_both_have_the_options_that_their_documents_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["stall", "--rounds", "2", "--seconds", "1", "--memtable-bytes", "65536"])
    options: argparse.Namespace = stall.arguments()
    assert (options.rounds, options.seconds, options.memtable_bytes, options.plot) == (
        2,
        1,
        65536,
        Path("out/stall.png"),
    )
