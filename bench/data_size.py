"""What the amount of data costs one node's engine, with its memory limited: ``python -m bench.data_size``.

For each number of keys a process of its own writes them all, in an order that looks random, lets the engine merge as it
does while little is written, and then reads: keys all over, and keys of a hundredth of them. The processes of a run
share a cgroup with the memory that a node's pod has, its cache of files included; where no cgroup can be made, memory
is not limited, and the output says so.

It must not tune the engine: it runs with the options that nodes have. Keys and values follow from their numbers, so
that the benchmark holds none of them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from bench.meter import cpu_s, family
from bench.stores import DougStore, disk_bytes
from raft_node.storage.options import EngineOptions

BATCH, VALUE_BYTES = 100, 100
STEP = 2_654_435_761
"""A prime: numbers that are this far apart come all over the keys, each once."""
POOL = random.Random(1).randbytes(1 << 20)  # It must be the same each time.
"""The noise of which values are pieces."""
LEGACY, UNIFIED = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
HEAD = (
    "| keys | on disk | writes/s | CPU of a write | gets/s, all keys | p50, p99 | gets/s, 1 % of the keys | memory at "
    "most |\n|---|---|---|---|---|---|---|---|"
)


def key_of(number: int) -> bytes:
    """The key with a number."""
    return b"%016d" % number


def value_of(number: int) -> bytes:
    """The value of that key."""
    start = number * 7919 % (len(POOL) - VALUE_BYTES)
    return POOL[start : start + VALUE_BYTES]


def _write(store: DougStore, keys: int) -> None:
    for first in range(0, keys, BATCH):
        numbers = [place * STEP % keys for place in range(first, min(first + BATCH, keys))]
        store.write([(key_of(number), value_of(number)) for number in numbers], False)
    store.drain()


def _read(store: DougStore, keys: int, seconds: float) -> list[float]:
    """Reads keys for some time; returns how long each get took."""
    chance, took = random.Random(2), list[float]()  # It must be the same each time.
    until_s = time.perf_counter() + seconds
    while (began_s := time.perf_counter()) < until_s:
        number = chance.randrange(keys)
        value = store.get(key_of(number))
        took.append(time.perf_counter() - began_s)
        if value != value_of(number):
            raise AssertionError(f"key {number} has another value")
    return sorted(took)


def measure(directory: Path, keys: int, seconds: float) -> dict[str, float]:
    """Writes and reads a number of keys; returns the figures."""
    store = DougStore(directory, EngineOptions().block_cache_bytes, sync=False)
    family_s, began_s = cpu_s(family(psutil.Process())), time.perf_counter()
    _write(store, keys)
    found = {"write_s": time.perf_counter() - began_s}
    store.settle()
    found["write_cpu_us"] = (cpu_s(family(psutil.Process())) - family_s) / keys * 1e6
    store.idle()
    found["idle_s"] = time.perf_counter() - began_s - found["write_s"]
    found["disk_mb"] = disk_bytes(directory) / 1e6
    everywhere, few = _read(store, keys, seconds), _read(store, max(1, keys // 100), seconds)
    found["gets"], found["few_gets"] = len(everywhere) / seconds, len(few) / seconds
    found["p50_us"], found["p99_us"] = (everywhere[len(everywhere) * part // 100] * 1e6 for part in (50, 99))
    store.close()
    return found


@contextlib.contextmanager
def limited(bytes_max: int) -> Iterator[Path | None]:
    """A cgroup whose processes have so much memory together; None where this process may make none."""
    legacy = LEGACY.is_dir()
    group = (LEGACY if legacy else UNIFIED) / f"dougdb-bench-{time.time_ns():x}"
    try:
        group.mkdir()
        limit = group / ("memory.limit_in_bytes" if legacy else "memory.max")
        limit.write_text(str(bytes_max))
    except OSError:
        with contextlib.suppress(OSError):
            group.rmdir()
        yield None
        return
    try:
        yield group
    finally:
        group.rmdir()


def peak_mb(group: Path) -> float:
    """The most memory that the processes of a cgroup had, without files that can be dropped, by the last look."""
    counted = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    return int(counted.get("rss", counted.get("anon", 0))) / 1e6


def run(keys: int, options: argparse.Namespace) -> dict[str, float]:
    """Measures a number of keys in a process of its own."""
    with tempfile.TemporaryDirectory(dir=options.directory) as folder, limited(options.memory_mib << 20) as group:
        command = [sys.executable, "-m", "bench.data_size", "--child", folder]
        command += ["--keys", str(keys), "--seconds", str(options.seconds)]
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert child.stdin is not None and child.stdout is not None
        if group is not None:
            (group / "cgroup.procs").write_text(str(child.pid))
        child.stdin.write("\n")
        child.stdin.flush()
        most_mb = 0.0
        while child.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(0.5)
            most_mb = max(most_mb, 0.0 if group is None else peak_mb(group))
        if child.returncode:
            raise SystemExit(f"the run with {keys} keys ended with {child.returncode}")
        found: dict[str, float] = json.loads(child.stdout.read())
        return {"keys": keys, "limited": group is not None, "memory_mb": most_mb, **found}


def row(found: dict[str, float]) -> str:
    """One line of the table."""
    return (
        f"| {found['keys']:,.0f} | {found['disk_mb']:,.0f} MB | {found['keys'] / found['write_s']:,.0f} "
        f"| {found['write_cpu_us']:.1f} us | {found['gets']:,.0f} | {found['p50_us']:.0f}, {found['p99_us']:.0f} us "
        f"| {found['few_gets']:,.0f} | {found['memory_mb']:.0f} MB |"
    )


def main() -> None:
    """Measures each number of keys, and prints a table."""
    parser = argparse.ArgumentParser(description="One node's engine by the amount of data, with limited memory.")
    parser.add_argument("--keys", type=int, nargs="+", default=[100_000, 1_000_000, 5_000_000])
    parser.add_argument("--seconds", type=float, default=10.0, help="how long each kind of reads takes")
    parser.add_argument("--memory-mib", type=int, default=512, help="the limit of a node's pod in the chart")
    parser.add_argument("--directory", type=Path, help="where the data lie meanwhile")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        sys.stdin.readline()
        print(json.dumps(measure(options.child, options.keys[0], options.seconds)))
        return
    print(HEAD)
    for keys in options.keys:
        found = run(keys, options)
        print(row(found), "" if found["limited"] else "memory was not limited", json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
