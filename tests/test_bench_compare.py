"""The tables of ``make bench``: medians, ratios turn by turn, and what wrk is understood to have found."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from bench import compare, compare_plot, lineup
from bench.compare import Table
from bench.go_peers import EtcdGrpc, EtcdJson
from bench.systems import DougDB, Figures, Load, Spent, batches_of, run_wrk, wrk_figures


def figures(rate: float, p99_ms: float, errors: int = 0) -> Figures:
    return Figures(rate, 1.0, p99_ms, 2 * p99_ms, {"status": errors}, {"members": 10.0})


@pytest.fixture
def table() -> Table:
    table = Table(Load("put", 64, 100, 1000, 1.0))
    table.runs = {
        "DougDB": [figures(300, 6), figures(100, 8), figures(80, 5)],
        "etcd gRPC": [figures(100, 12), figures(100, 8), figures(20, 50, errors=3)],
    }
    return table


def test_a_ratio_is_the_median_of_the_turns_not_of_the_rates(table: Table) -> None:
    assert table.ratio("etcd gRPC", "operations_per_s") == 3.0
    assert table.ratio("etcd gRPC", "p99_ms") == 0.5


def test_a_table_has_a_row_for_each_system_with_its_errors_and_the_ratios(table: Table) -> None:
    ours, theirs = table.rows()
    assert ours == "| put 64 | DougDB | 100 | 1.00 | 6.0 | 12.0 | members 10 | 0 |  |"
    assert theirs == "| put 64 | etcd gRPC | 100 | 1.00 | 12.0 | 24.0 | members 10 | 3 | 3.00 / 0.50 |"
    assert json.loads(json.dumps(table.document()))["runs"]["etcd gRPC"][2]["errors"] == {"status": 3}


def test_keys_are_put_in_batches_that_every_facade_takes() -> None:
    """Those of 64 KiB were refused, and nothing of that size was measured."""
    for value_bytes in (10, 100, 65_536, 1 << 20):
        load = Load("put", 256, value_bytes, 2500, 1.0)
        batches = batches_of(load)
        assert [number for batch in batches for number in batch] == list(range(2500))
        assert all(len(batch) == 1 or len(batch) * (value_bytes + 60) < 16 << 20 for batch in batches)
    assert len(batches_of(Load("put", 256, 100, 20_000, 1.0))) == 20


def test_a_picture_that_cannot_be_drawn_is_refused_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(compare_plot, "is_possible", lambda: False)
    monkeypatch.setattr("sys.argv", ["compare.py", "--plot", str(tmp_path / "bench.png")])
    assert compare.main() == 2
    assert "make bench-tools" in capsys.readouterr().err


def test_wrk_is_asked_for_whole_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """It refuses any others."""
    asked: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        return subprocess.CompletedProcess(command, 0, 'figures {"requests": 1}\n', "")

    monkeypatch.setattr("bench.systems.shutil.which", lambda name: name)
    monkeypatch.setattr("bench.systems.subprocess.run", run)
    assert run_wrk("http://a", Load("batch", 8, 100, 1000, 2.5), ())[0] == {"requests": 1}
    assert asked[0][asked[0].index("-d") + 1] == "3s"


def test_a_request_of_wrk_may_be_many_operations() -> None:
    found = {
        **{"requests": 50, "duration_us": 2_000_000, "p50_us": 1500, "p99_us": 3000, "p999_us": 4000},
        "errors": {"status": 2, "timeout": 0},
    }
    made = wrk_figures(found, 0.64, Spent({}), each=128)
    assert made == Figures(3200.0, 1.5, 3.0, 4.0, {"status": 2}, {"generator": 100.0})


def test_half_puts_and_half_reads_are_asked_of_all_that_have_linearizable_reads() -> None:
    systems: tuple[type[Any], ...] = (DougDB, EtcdGrpc, EtcdJson)
    for system in systems:
        assert {"put", "linearizable", "mixed"} <= system.kinds(object.__new__(system)), system


class Stood:
    """A system that is only told to start and to end."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self.arguments, self.named, self.closed = arguments, named, False

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize("etcd", ["/usr/bin/etcd", None])
def test_without_go_the_etcd_of_the_machine_is_asked_by_its_gateway(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], etcd: str | None
) -> None:
    for name in ("DougDB", "EtcdJson"):
        monkeypatch.setattr(lineup, name, Stood)
    monkeypatch.setattr("bench.lineup.shutil.which", {"etcd": etcd}.get)
    monkeypatch.setattr(lineup, "start_etcd", lambda command, folder: (command, [1]))
    with lineup.running(("dougdb", "etcd", "etcd-json", "nats", "redis"), tmp_path) as systems:
        found = [system for system in systems if isinstance(system, Stood)]
    asked = found[1:]
    assert len(found) == len(systems) and all(each.closed for each in found)
    assert [(each.arguments, each.named) for each in asked] == (
        [] if etcd is None else [(((etcd,), [1]), {"alone": True})]
    )
    assert "Go is not installed" in capsys.readouterr().err
