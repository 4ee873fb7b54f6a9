"""How many helper processes a node has: a second one only where cores and memory are free for it (docs/adr/0022).

A flush beside a merge takes a core from the event loop unless there is a third. It must not know what helpers do.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from raft_node.runtime.disk.worker_process import WorkerProcess

_CORES_MIN = 3
"""One for the event loop, and one for each helper."""
_BYTES_MIN = 768 << 20
"""The limit of memory under which there is one helper; each may take up to 128 MiB beside its node."""
_CONTROL_GROUPS = Path("/sys/fs/cgroup")
_OWN_GROUPS = Path("/proc/self/cgroup")


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


def memory_limit(mounts: Path = _CONTROL_GROUPS, own: Path = _OWN_GROUPS) -> int:
    """How many bytes this process may take: those of the machine, or what a control group leaves of them."""
    limit = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for group in _groups("memory", mounts, own):
        for name in ("memory.max", "memory.limit_in_bytes"):
            text = _read(group / name).strip()
            if text.isdecimal():
                limit = min(limit, int(text))
    return limit


def usable_cores(mounts: Path = _CONTROL_GROUPS, own: Path = _OWN_GROUPS) -> float:
    """How many cores this process may use: by its affinity, and by the quotas of its control groups."""
    # Only some systems tell the affinity.
    cores: float = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for group in _groups("cpu", mounts, own):
        version_2 = _read(group / "cpu.max").split()
        version_1 = [*_read(group / "cpu.cfs_quota_us").split(), *_read(group / "cpu.cfs_period_us").split()]
        for words in (version_2, version_1):
            # Another word, or a negative number, is no limit.
            if len(words) == 2 and all(word.isdecimal() for word in words) and int(words[1]):
                cores = min(cores, int(words[0]) / int(words[1]))
    return cores


def _groups(controller: str, mounts: Path, own: Path) -> Iterator[Path]:
    """The directories of the control groups of this process, and of those around them, which limit it as well.

    Version 2 has one tree, version 1 one for each controller. A container sees its own group as the root of the tree,
    whatever path it is told.
    """
    root = PurePosixPath("/")
    paths = {mounts: root, mounts / controller: root}
    for line in _read(own).splitlines():
        _, _, of_group = line.partition(":")
        controllers, _, path = of_group.partition(":")
        if not controllers or controller in controllers.split(","):
            paths[mounts / controller if controllers else mounts] = root / path
    for mount, inner in paths.items():
        for group in (inner, *inner.parents):
            yield mount / group.relative_to(root)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
