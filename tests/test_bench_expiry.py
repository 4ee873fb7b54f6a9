"""Keys that have expired are gone from disk after merges: ``make bench-expiry`` on a small scale."""

from __future__ import annotations

from bench.expiry import beyond, run

from raft_node.storage.options import EngineOptions
from raft_testing.files import MemoryFileSystem

KEYS = 20_000
POLICY = EngineOptions(memtable_bytes=1 << 20, hidden_bytes_min=1 << 14)
"""A sixteenth of what a node has, and less: a million keys are 50 times as many."""


def test_expired_keys_are_gone_from_disk_after_merges() -> None:
    fs = MemoryFileSystem()
    fs.make_directory("data")
    figures = run(fs, "data", KEYS, 100, POLICY)
    assert beyond(figures) == [], figures
    assert figures["before"]["table_bytes"] > 100 * KEYS


def test_what_is_left_is_told() -> None:
    fs = MemoryFileSystem()
    fs.make_directory("data")
    # Too little is hidden for a flush before the memtable is full.
    figures = run(fs, "data", 1_000, 10, EngineOptions())
    assert figures["after"]["keys"] == 0
    assert beyond(figures) == ["too many bytes are left", "too many records are left"]
