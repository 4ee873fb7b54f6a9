"""Measures processes: CPU time and memory from ``/proc``, and counters from ``/metrics``.

Invariants:
    1. A node's figures include its children: the helper processes belong to it.
    2. Memory is PSS if the kernel tells it, so that shared pages are counted once over all processes.
"""

from __future__ import annotations

import re
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import psutil

from bench.http11 import Secure, fetch

CPUCLOCK_SCHED = 2
"""The kind of clock that counts what the scheduler has given a process (linux/posix-timers.h)."""
SAMPLE = re.compile(r"^(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)(?P<labels>\{[^}]*\})?\s+(?P<value>\S+)")


def family(process: psutil.Process) -> list[psutil.Process]:
    """A process and all its living descendants."""
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def cpu_s(processes: Iterable[psutil.Process]) -> float:
    """The CPU seconds of processes so far, including children that have ended."""
    total = 0.0
    for process in processes:
        try:
            times = process.cpu_times()
            own_s = own_cpu_s(process.pid) if sys.platform == "linux" else times.user + times.system
        except (psutil.NoSuchProcess, ProcessLookupError):
            continue
        total += own_s + times.children_user + times.children_system
    return total


def own_cpu_s(pid: int) -> float:
    """The CPU seconds of a living process, all of its threads included, to the nanosecond.

    ``/proc`` counts in hundredths of a second, which in a short run are some percent of the whole. The clock of a
    process is numbered as clock_getcpuclockid(3) does on Linux.

    Raises:
        ProcessLookupError: There is no such process.
    """
    try:
        return time.clock_gettime((~pid << 3) | CPUCLOCK_SCHED)
    except OSError as error:
        raise ProcessLookupError(f"no process {pid}") from error


def waited_for_core_s(pid: int) -> float:
    """How many seconds the main thread of a process waited for a core; 0 if the kernel does not tell."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text(encoding="ascii").split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0


def pss_bytes(process: psutil.Process) -> int:
    """The proportional share of memory of one process; 0 if it has ended.

    Requires: Linux, which tells it in ``/proc/<pid>/smaps_rollup``.
    """
    try:
        text = Path(f"/proc/{process.pid}/smaps_rollup").read_text(encoding="ascii")
    except (FileNotFoundError, ProcessLookupError):
        return 0
    found = re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def family_pss_bytes(process: psutil.Process) -> int:
    """The memory of a process and its children."""
    return sum(pss_bytes(member) for member in family(process))


def rss_bytes(process: psutil.Process) -> int:
    """The resident memory of a process and its children, shared pages counted in each."""
    total = 0
    for member in family(process):
        try:
            total += member.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


class MemorySampler(threading.Thread):
    """Watches the memory of some processes until it is stopped and keeps the highest figure of each.

    Args:
        find: Gives the living process of each name; called again for every sample, so that restarts are noticed.
        interval_s: The pause between two samples of all.
    """

    def __init__(self, find: Callable[[], Mapping[str, psutil.Process]], interval_s: float = 0.5) -> None:
        super().__init__(name="memory-sampler", daemon=True)
        self._find = find
        self._interval_s = interval_s
        self._over = threading.Event()
        self.samples = 0
        self.peak_bytes: dict[str, int] = defaultdict(int)

    def run(self) -> None:
        """Samples until ``stop``."""
        while not self._over.is_set():
            for name, process in self._find().items():
                self.peak_bytes[name] = max(self.peak_bytes[name], family_pss_bytes(process))
            self.samples += 1
            self._over.wait(self._interval_s)

    def stop(self) -> None:
        """Ends the thread and waits for the last sample."""
        self._over.set()
        self.join()

    def __enter__(self) -> MemorySampler:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def parse_metrics(text: str) -> dict[str, dict[str, float]]:
    """The samples of a Prometheus text: the value by name and by the text of the labels."""
    metrics: dict[str, dict[str, float]] = defaultdict(dict)
    for line in text.splitlines():
        match = SAMPLE.match(line)
        if match is not None:
            metrics[match["name"]][match["labels"] or ""] = float(match["value"])
    return metrics


def scrape(port: int, secure: Secure | None = None) -> dict[str, dict[str, float]]:
    """The metrics that a process serves on its admin port; over TLS with ``secure``."""
    response = fetch(port, "GET", "/metrics", headers={"accept": "text/plain"}, secure=secure)
    assert response.status == 200, f"/metrics on port {port} answered {response.status}"
    return parse_metrics(response.body.decode())


def total(metrics: Mapping[str, Mapping[str, float]], name: str) -> float:
    """The sum of a metric over all its labels.

    Raises:
        KeyError: No metric has this name.
    """
    if name not in metrics:
        raise KeyError(f"no metric {name} among {sorted(metrics)}")
    return sum(metrics[name].values())
