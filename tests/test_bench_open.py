"""What ``make bench`` makes of open loads, kills of leaders and watchers, and what it draws."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from bench import compare_plot, failover, fan_out, open_loop
from bench.compare import options_of
from bench.go_peers import replicas_online
from bench.load import percentile
from bench.open_loop import OpenFigures, OpenTable, Request, Requests, figures_of
from bench.systems import Load

DONE, REFUSED, UNKNOWN = "done", "failed: 503 no_leader", "unknown: no answer in time"


def steady(*, stops_s: float, goes_on_s: float, outcome: str = DONE) -> Requests:
    """A put each 10 ms for 3 s, each answered 2 ms later; those due in a gap are answered, or given up, at its end."""
    found = []
    for number in range(300):
        due = number / 100
        in_gap = stops_s <= due < goes_on_s
        found.append(Request(due, due, goes_on_s + 0.001 if in_gap else due + 0.002, outcome if in_gap else DONE))
    return Requests(1000.0, found)


def test_records_are_read_in_seconds_with_what_they_came_to() -> None:
    told = {
        "started_unix_s": 5.5,
        "outcomes": [DONE, UNKNOWN],
        "records": [[0, 10, 1500, 0], [1_000_000, 1_000_020, 6_000_000, 1]],
    }
    first, second = Requests.of(told).all
    assert first == Request(0.0, 0.00001, 0.0015, DONE) and first.is_done
    assert second.outcome == UNKNOWN and not second.is_done
    assert Requests.of(told).outcomes() == {UNKNOWN: 1}


def test_a_latency_counts_from_when_the_request_was_due_not_from_when_it_was_sent() -> None:
    # The system pauses for a second: only one request was on its way, and a hundred were due.
    waited = [Request(number / 100, 1.0, 1.001, DONE) for number in range(100)]
    found = figures_of(Requests(0.0, waited), 1.0)
    assert found.p50_ms == pytest.approx(511.0) and found.p99_ms == pytest.approx(1001.0)
    assert found.late_p99_ms == pytest.approx(1000.0)


def test_what_did_not_succeed_has_no_latency_and_late_answers_lower_the_rate() -> None:
    some = [Request(0.0, 0.0, 0.001, DONE), Request(0.5, 0.5, 0.501, REFUSED), Request(0.9, 0.9, 4.0, DONE)]
    found = figures_of(Requests(0.0, some), 1.0)
    assert (found.due_per_s, found.done_per_s) == (3.0, 0.5)
    assert found.p99_ms == pytest.approx(3100.0) and found.outcomes == {REFUSED: 1}


def test_a_percentile_is_one_of_the_values() -> None:
    assert percentile([], 0.99) == 0.0
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile(list(range(1000)), 0.999) == 999


def test_an_open_table_has_medians_and_all_that_did_not_succeed() -> None:
    runs = [
        OpenFigures(100, 100, 1.0, 2.0, 3.0, 0.1, {}),
        OpenFigures(100, 50, 9.0, 90.0, 99.0, 0.3, {REFUSED: 2, UNKNOWN: 1}),
        OpenFigures(100, 90, 3.0, 4.0, 5.0, 0.2, {UNKNOWN: 4}),
    ]
    table = OpenTable(Load("put", 64, 100, 1000, 1.0), "DougDB", 0.8, 100.0, runs)
    assert table.row() == "| put | DougDB | 80% | 100 | 90 | 3.00 | 4.0 | 5.0 | 0.2 | 2 | 5 |"
    assert table.document()["runs"][1]["outcomes"] == {REFUSED: 2, UNKNOWN: 1}


def test_a_schedule_is_asked_for_by_rate_seed_and_form() -> None:
    load = Load("stale", 64, 100, 1000, 2.0)
    even, drawn = (open_loop.arguments_of(load, 1234.5, poisson, 7) for poisson in (False, True))
    assert drawn == (*even, "-poisson")
    assert even[:2] == ("-kind", "stale") and even[-6:-4] == ("-rate", "1234.500") and even[-2:] == ("-seed", "7")


@pytest.mark.parametrize("outcome", [DONE, REFUSED])
def test_an_outage_is_the_longest_time_without_an_acknowledged_put_after_the_kill(outcome: str) -> None:
    found = failover.judge(steady(stops_s=1.0, goes_on_s=1.8, outcome=outcome), 1.0, 2.5)
    assert found.gap_s == pytest.approx(0.81, abs=0.011)
    assert found.before_p99_ms == pytest.approx(2.0) and found.after_p99_ms == pytest.approx(2.0)
    assert found.dead_p99_ms == pytest.approx(2.0), "puts that the outage delayed are in its length"
    assert found.outcomes == ({} if outcome == DONE else {REFUSED: 80})


def test_a_pause_before_the_kill_is_no_outage_and_one_without_end_lasts_to_the_end() -> None:
    assert failover.judge(steady(stops_s=0.2, goes_on_s=0.9), 1.0, 2.5).gap_s == pytest.approx(0.01)
    lost = failover.judge(steady(stops_s=1.0, goes_on_s=8.0, outcome=UNKNOWN), 1.0, 2.0)
    assert lost.gap_s == pytest.approx(8.001 - 0.992) and lost.outcomes == {UNKNOWN: 200}
    assert failover.judge(Requests(0.0, []), 1.0, 2.0).gap_s == 0.0


def test_a_row_of_kills_has_the_median_and_the_longest() -> None:
    runs = [failover.Outage(gap, 1.0, 2.0, 3.0, {UNKNOWN: 1}) for gap in (0.5, 3.0, 0.7)]
    (line,) = failover.rows({"etcd gRPC": runs}, 200.0)
    assert line == "| 200 puts/s | etcd gRPC | 0.70 (longest 3.00) | 0 | 3 | 1.0 | 2.0 | 3.0 |"


def test_watchers_read_so_many_events_a_second_and_what_was_skipped_is_said() -> None:
    found = fan_out.figures_of({"took_s": [0.01, 0.03, 0.02], "stream_s": 2.0, "told": 9990, "sent": 10_000})
    assert (round(found.median_ms, 6), round(found.slowest_ms, 6)) == (20.0, 30.0)
    assert (found.events_per_s, found.skipped) == (4995.0, 10)
    assert fan_out.row(100, "NATS KV", [found, found]) == "| 100 | NATS KV | 20.0 | 30.0 | 4,995 | 20 |"


def test_only_replicas_that_get_each_write_count() -> None:
    told = (
        "# Replication\r\nrole:master\r\nconnected_slaves:2\r\n"
        "slave0:ip=127.0.0.1,port=25001,state=online,offset=14,lag=0\r\n"
        "slave1:ip=127.0.0.1,port=25002,state=wait_bgsave,offset=0,lag=0\r\nslave_read_only:1\r\n"
    )
    assert replicas_online(told) == 1
    assert replicas_online("") == 0


def test_every_kind_is_measured_unless_some_are_chosen() -> None:
    assert {"put", "open", "failover", "watch"} <= set(options_of([]).kinds)
    assert options_of(["--kinds", "watch", "--watchers", "10", "100"]).watchers == [10, 100]


@pytest.fixture
def document() -> dict[str, Any]:
    """Two kinds of load at two numbers of connections, measured twice."""
    loads = []
    for kind in ("put", "stale"):
        for connections in (64, 8):
            runs = [{"operations_per_s": connections * 10.0 * turn, "p99_ms": 5.0 * turn} for turn in (1, 2, 4)]
            systems = {"DougDB": runs, "etcd gRPC": runs} if kind == "put" else {"DougDB": runs}
            loads.append({"load": Load(kind, connections, 100, 1000, 1.0)._asdict(), "runs": systems})
    return {"machine": "2 cores", "loads": loads}


def test_a_picture_has_a_column_for_each_kind_and_the_medians_by_connections(document: dict[str, Any]) -> None:
    assert compare_plot.columns_of(document["loads"]) == ["put, 100 B", "stale, 100 B"]
    lines = compare_plot.lines_of(document["loads"], "put, 100 B", "operations_per_s")
    assert lines == {"DougDB": [(8, 160.0), (64, 1280.0)], "etcd gRPC": [(8, 160.0), (64, 1280.0)]}
    assert list(compare_plot.lines_of(document["loads"], "stale, 100 B", "p99_ms")) == ["DougDB"]


def test_the_picture_is_drawn(document: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is missing: make bench-tools installs it")
    compare_plot.draw(document, tmp_path / "new" / "bench.png")
    assert (tmp_path / "new" / "bench.png").read_bytes().startswith(b"\x89PNG")
