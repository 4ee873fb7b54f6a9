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
    machine_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert memory_limit(tmp_path) == machine_bytes
    (tmp_path / "memory.max").write_text("max\n")
    assert memory_limit(tmp_path) == machine_bytes
    (tmp_path / "memory.max").write_text("536870912\n")
    assert memory_limit(tmp_path) == GIB // 2


@pytest.mark.parametrize("unlimited", ["9223372036854771712\n", "-1\n"])
def test_control_groups_of_version_1_limit_memory(tmp_path: Path, unlimited: str) -> None:
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory/memory.limit_in_bytes").write_text(unlimited)
    assert memory_limit(tmp_path) == memory_limit(tmp_path / "none")
    (tmp_path / "memory/memory.limit_in_bytes").write_text("536870912\n")
    assert memory_limit(tmp_path) == GIB // 2


def test_control_groups_of_version_1_limit_cores(tmp_path: Path) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text("-1\n")
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000\n")
    assert usable_cores(tmp_path) == usable_cores(tmp_path / "none")
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text("50000\n")
    assert usable_cores(tmp_path) == 0.5


def test_a_service_is_limited_by_its_own_group_and_those_around_it(tmp_path: Path) -> None:
    """Only in a container is it the root of the tree."""
    own = tmp_path / "own"
    own.write_text("4:memory:/slice\n3:cpu,cpuacct:/slice/a:b\n1:name=systemd:/other\n0::/slice/service\n")
    for folder in ("slice/service", "cpu/slice/a:b", "memory/slice", "other"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "other/memory.max").write_text("1\n")
    (tmp_path / "slice/service/memory.max").write_text("536870912\n")
    assert memory_limit(tmp_path, own) == GIB // 2
    (tmp_path / "slice/memory.max").write_text("268435456\n")
    assert memory_limit(tmp_path, own) == GIB // 4
    (tmp_path / "memory/slice/memory.limit_in_bytes").write_text("134217728\n")
    assert memory_limit(tmp_path, own) == GIB // 8
    (tmp_path / "slice/cpu.max").write_text("50000 100000\n")
    assert usable_cores(tmp_path, own) == 0.5
    (tmp_path / "cpu/slice/a:b/cpu.cfs_quota_us").write_text("25000\n")
    (tmp_path / "cpu/slice/a:b/cpu.cfs_period_us").write_text("100000\n")
    assert usable_cores(tmp_path, own) == 0.25


def test_the_second_helper_runs_only_once_it_is_needed(tmp_path: Path) -> None:
    workers = start_helpers(str(tmp_path), 2)
    try:
        assert workers[0].pid and not workers[1].pid
    finally:
        for worker in workers:
            worker.close()
    assert len(workers) == 2
