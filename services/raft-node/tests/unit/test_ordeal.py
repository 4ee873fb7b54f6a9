"""The ordeal of one node's disks: a seed repeats itself, everything comes about, broken disks and stores are told."""

from __future__ import annotations

from collections import Counter

import pytest

from raft_node.storage import record
from raft_node.storage.engine import Engine
from raft_node.storage.snapshots import checkpoint
from raft_node.storage.wal import log as wal
from raft_testing import inodes, ordeal
from raft_testing.ordeal import run_ordeal


def outcome(seeds: range) -> str:
    """The first failure among some seeds; a test names it."""
    counters: Counter[str] = Counter()
    found = next((failure for seed in seeds if (failure := run_ordeal(seed, lambda line: None, counters))), "")
    print(found)
    return found


def test_a_seed_repeats_itself() -> None:
    traces: list[list[str]] = [[], []]
    counters = [Counter[str](), Counter[str]()]
    for trace, counter in zip(traces, counters, strict=True):
        assert run_ordeal(3, trace.append, counter) == ""
    assert traces[0] == traces[1]
    assert counters[0] == counters[1]
    assert len(traces[0]) > ordeal.STEPS


@pytest.mark.seconds
def test_most_things_come_about_soon() -> None:
    counters: Counter[str] = Counter()
    for seed in range(1, 21):
        assert run_ordeal(seed, lambda line: None, counters) == ""
    # Of a hundred flipped bits one is in bytes that nobody reads.
    rare = {"ordeal_reset_at_start", "ordeal_segment_reused", "ordeal_damage_harmless"}
    assert [name for name in ordeal.EFFECTS if not counters[name] and name not in rare] == []


def test_a_disk_that_does_not_sync_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inodes.Inode, "sync", lambda self: None)
    assert "Error(" in outcome(range(1, 11)) or "durable" in outcome(range(1, 11))


def test_a_log_that_does_not_look_at_its_damage_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "judge_tail", lambda *arguments: None)
    assert "log_durable" in outcome(range(1, 31))


def test_a_state_that_goes_back_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Engine, "applied_index", property(lambda self: self.flushed_index))
    assert outcome(range(1, 11)).startswith("ordeal: ")


def test_a_checkpoint_that_nobody_checks_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ordeal, "verify_checkpoint", checkpoint.load_checkpoint)
    assert "snapshot_checked" in outcome(range(1, 21))


def test_a_log_that_drops_too_much_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    drop = wal.Wal.drop_prefix
    monkeypatch.setattr(wal.Wal, "drop_prefix", lambda self, first: drop(self, self.last_index + 1))
    assert "state_meets_log" in outcome(range(1, 31))
