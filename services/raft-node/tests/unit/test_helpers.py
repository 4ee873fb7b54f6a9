"""How many helper processes a node has: by cores, by memory, or as the operator wants."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from raft_node.runtime.disk.helpers import helpers_for, memory_limit, start_helpers, usable_cores

GIB = 1 << 30


@pytest.mark.parametrize(
    ("cores", "memory_bytes", "count"),
    [(1, GIB, 1), (2, GIB, 1), (2.5, GIB, 1), (3, GIB, 2), (64, GIB, 2), (64, GIB // 2, 1), (64, float("inf"), 2)],
)
def test_a_second_helper_needs_a_third_core_and_memory(cores: float, memory_bytes: float, count: int) -> None:
    assert helpers_for(cores, memory_bytes) == count


@pytest.mark.parametrize("text", ["max 100000\n", "", "no quota", "100000", "50000 0"])
def test_without_a_quota_the_affinity_counts(tmp_path: Path, text: str) -> None:
    (tmp_path / "cpu.max").write_text(text)
    assert usable_cores(tmp_path) == usable_cores(tmp_path / "none") >= 1


def test_a_container_has_the_cores_of_its_quota(tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    assert usable_cores(tmp_path) == 0.5


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity to set")
def test_cores_that_it_may_not_use_do_not_count(tmp_path: Path) -> None:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert usable_cores(tmp_path) == 1
    finally:
        os.sched_setaffinity(0, before)


def test_the_limit_of_memory(tmp_path: Path) -> None:
    assert memory_limit(tmp_path) == float("inf")
    (tmp_path / "memory.max").write_text("max\n")
    assert memory_limit(tmp_path) == float("inf")
    (tmp_path / "memory.max").write_text("536870912\n")
    assert memory_limit(tmp_path) == GIB // 2


def test_the_second_helper_runs_only_once_it_is_needed(tmp_path: Path) -> None:
    workers = start_helpers(str(tmp_path), 2)
    try:
        assert workers[0].pid and not workers[1].pid
    finally:
        for worker in workers:
            worker.close()
    assert len(workers) == 2
