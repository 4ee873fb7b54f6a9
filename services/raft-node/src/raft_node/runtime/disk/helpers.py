"""How many helper processes a node has: a second one only where cores and memory are free for it (docs/adr/0022).

A flush beside a merge takes a core from the event loop unless there is a third. It must not know what helpers do.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

from raft_node.runtime.disk.worker_process import WorkerProcess

_CORES_MIN = 3
"""One for the event loop, and one for each helper."""
_BYTES_MIN = 768 << 20
"""The limit of memory under which there is one helper; each may take up to 128 MiB beside its node."""
_CONTROL_GROUP = Path("/sys/fs/cgroup")


def start_helpers(data_dir: str, wanted: int) -> list[WorkerProcess]:
    """Starts the first helper, and prepares the second, if there is to be one.

    Args:
        data_dir: The directory of the tables.
        wanted: How many there are to be; 0 to decide by what this process may use.
    """
    count = wanted or helpers_for(usable_cores(), memory_limit())
    return [WorkerProcess(data_dir, at_once=place == 0) for place in range(count)]


def helpers_for(cores: float, memory_bytes: float) -> int:
    """How many helpers so many cores and so much memory are enough for."""
    return 2 if cores >= _CORES_MIN and memory_bytes >= _BYTES_MIN else 1


def memory_limit(group: Path = _CONTROL_GROUP) -> float:
    """How many bytes the container may take; infinity without a limit."""
    text = _read(group / "memory.max").strip()
    return int(text) if text.isdecimal() else math.inf


def usable_cores(group: Path = _CONTROL_GROUP) -> float:
    """How many cores this process may use: by its affinity, and by the quota of its container if there is one."""
    # Only some systems tell the affinity.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = _read(group / "cpu.max").strip().partition(" ")
    if not (quota.isdecimal() and period.isdecimal() and int(period)):
        # There is no limit, or no control group of version 2.
        return cores
    return min(cores, int(quota) / int(period))


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
