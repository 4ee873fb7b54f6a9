"""Compares our storage engine with RocksDB and LevelDB: ``make bench-storage``, or ``python -m bench.storage``.

Each engine lives in a process of its own, and the phases of the run are interleaved: every engine does a phase before
any begins the next, so that other work of the machine hits all of them. It prints a table with the ratios to
RocksDB, and writes JSON when asked. It must not tune our engine: it runs with the defaults that nodes get, except for
the size of the block cache, which is the same for all engines.

Invariants:
    1. All engines get the same keys and values in the same order, made from ``--seed``.
    2. Every value that is read is compared, outside of the timed part or by its size.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import psutil

if __package__ in (None, ""):  # Started by its path, as `make bench-storage` does.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from bench.meter import cpu_s, family, rss_bytes
from bench.stores import ENGINES, disk_bytes, open_store, remove

KEY_BYTES, VALUE_BYTES, BATCH = 16, 100, 100
WARM_CACHE_BYTES = 8 << 30
READS_MAX = 100_000
PHASES = (
    "write",
    "compact",
    "sync",
    "idle",
    "reopen",
    "warm",
    "hit",
    "miss",
    "multi_get",
    "scan",
    "scan_back",
    "scan_100",
    "cold",
)
REPEATED = {"hit", "miss", "multi_get", "scan", "scan_back", "scan_100"}
ROUNDS = 3
"""How often short phases are done, in turn; the median counts."""

ROWS = (
    ("write", "rate", "batch of 100, no sync", "ops/s"),
    ("write", "front_us", "  CPU of the calling thread", "us"),
    ("write", "back_us", "  CPU of all else (helper)", "us"),
    ("compact", "settled_rate", "  until no compaction is due", "ops/s"),
    ("sync", "rate", "batch of 100, sync each", "ops/s"),
    ("hit", "rate", "get, hit, warm cache", "ops/s"),
    ("cold", "rate", "get, hit, cache of 10 %", "ops/s"),
    ("miss", "rate", "get, miss", "ops/s"),
    ("multi_get", "rate", "multi_get of 100, warm", "keys/s"),
    ("scan", "rate", "scan of all", "items/s"),
    ("scan_back", "rate", "scan of all, backwards", "items/s"),
    ("scan_100", "rate", "scans of 100", "items/s"),
    ("compact", "seconds", "compaction left after the writes", "s"),
    ("compact", "compacting_s", "compaction, time of the helper", "s"),
    ("compact", "read_mb", "compaction, read", "MB"),
    ("compact", "written_mb", "compaction, written", "MB"),
    ("compact", "write_amplification", "write amplification", "x"),
    ("idle", "seconds", "merges while idle, before the reads", "s"),
    ("idle", "read_mb", "merges while idle, read", "MB"),
    ("idle", "written_mb", "merges while idle, written", "MB"),
    ("idle", "write_amplification", "write amplification with these", "x"),
    ("idle", "disk_mb", "tables on disk", "MB"),
    ("reopen", "seconds", "open", "s"),
    ("warm", "memory_mb", "memory, all cached", "MB"),
    ("cold", "memory_mb", "memory, cache of 10 %", "MB"),
)


class Run:
    """One engine in its own process, which runs one phase after the other."""

    def __init__(self, engine: str, directory: Path, keys: int, seed: int, compression: str, helpers: int) -> None:
        self._engine = engine
        self._directory = directory
        self._compression = compression
        self._helpers = helpers
        rng = random.Random(seed)
        half = bytes(VALUE_BYTES // 2)
        # Half of each value is noise and half zeros.
        self._pairs = [(rng.randbytes(KEY_BYTES), rng.randbytes(VALUE_BYTES // 2) + half) for _ in range(keys)]
        self._rng = random.Random(seed + 1)
        self._reads = min(keys, READS_MAX)
        self._process = psutil.Process()
        gc.collect()
        # No engine must pay for the garbage collector's walk over the data of the benchmark.
        gc.freeze()
        self._base_bytes = rss_bytes(self._process)
        self._store = self._open("main", WARM_CACHE_BYTES)
        self._main_bytes = 0

    def phase(self, name: str) -> dict[str, float]:
        """Runs one phase and returns its figures."""
        return getattr(self, f"_{name}")()  # type: ignore[no-any-return]

    def close(self) -> None:
        """Ends it."""
        self._store.close()

    def _open(self, name: str, cache_bytes: int, *, sync: bool = False) -> Any:
        return open_store(
            self._engine,
            self._directory / name,
            cache_bytes,
            sync=sync,
            compression=self._compression,
            helpers=self._helpers,
        )

    def _written_bytes(self) -> int:
        return sum(process.io_counters().write_chars for process in family(self._process))

    def _timed(self, count: int, work: Callable[[], None]) -> dict[str, float]:
        cpu, front, started = cpu_s(family(self._process)), time.thread_time(), time.perf_counter()
        work()
        seconds = time.perf_counter() - started
        front_s = time.thread_time() - front
        back_s = cpu_s(family(self._process)) - cpu - front_s
        return {
            "seconds": seconds,
            "rate": count / seconds,
            "front_us": front_s / count * 1e6,
            "back_us": back_s / count * 1e6,
        }

    def _write_all(self, store: Any, pairs: list[tuple[bytes, bytes]], sync: bool) -> dict[str, float]:
        def work() -> None:
            write = store.write
            for start in range(0, len(pairs), BATCH):
                write(pairs[start : start + BATCH], sync)
            store.drain()

        return self._timed(len(pairs), work)

    def _write(self) -> dict[str, float]:
        self._written_before = self._written_bytes()
        figures = self._write_all(self._store, self._pairs, False)
        self._write_s = figures["seconds"]
        return figures

    def _sync(self) -> dict[str, float]:
        store = self._open("sync", WARM_CACHE_BYTES, sync=True)
        figures = self._write_all(store, self._pairs[: max(len(self._pairs) // 4, BATCH)], True)
        store.close()
        remove(self._directory / "sync")
        return figures

    def _compact(self) -> dict[str, float]:
        figures = self._timed(len(self._pairs), self._store.settle)
        seconds, read, written = self._store.compacted()
        figures["settled_rate"] = len(self._pairs) / (self._write_s + figures["seconds"])
        self._main_bytes = self._written_bytes() - self._written_before
        figures |= {
            "compacting_s": seconds,
            "read_mb": read / 1e6,
            "written_mb": written / 1e6,
            "write_amplification": self._main_bytes / self._user_bytes,
        }
        return figures

    def _idle(self) -> dict[str, float]:
        before, (_, read_before, written_before) = self._written_bytes(), self._store.compacted()
        figures = self._timed(len(self._pairs), self._store.idle)
        _, read, written = self._store.compacted()
        # This is no rate of users' operations.
        del figures["rate"]
        return figures | {
            "read_mb": (read - read_before) / 1e6,
            "written_mb": (written - written_before) / 1e6,
            "write_amplification": (self._main_bytes + self._written_bytes() - before) / self._user_bytes,
            "disk_mb": self._disk_mb(),
        }

    @property
    def _user_bytes(self) -> int:
        return len(self._pairs) * (KEY_BYTES + VALUE_BYTES)

    def _disk_mb(self) -> float:
        return disk_bytes(self._directory / "main") / 1e6

    def _reopen(self) -> dict[str, float]:
        return self._open_again(WARM_CACHE_BYTES)

    def _open_again(self, cache_bytes: int) -> dict[str, float]:
        self._store.close()
        gc.collect()
        started = time.perf_counter()
        self._store = self._open("main", cache_bytes)
        return {"seconds": time.perf_counter() - started}

    def _warm(self) -> dict[str, float]:
        get = self._store.get
        for key, value in self._pairs:
            assert get(key) == value
        return {"memory_mb": (rss_bytes(self._process) - self._base_bytes) / 1e6}

    def _hit(self) -> dict[str, float]:
        return self._get([key for key, _ in self._rng.choices(self._pairs, k=self._reads)], VALUE_BYTES)

    def _miss(self) -> dict[str, float]:
        return self._get([self._rng.randbytes(KEY_BYTES) for _ in range(self._reads)], 0)

    def _cold(self) -> dict[str, float]:
        self._open_again(len(self._pairs) * (KEY_BYTES + VALUE_BYTES) // 10)
        self._hit()
        return self._hit() | {"memory_mb": (rss_bytes(self._process) - self._base_bytes) / 1e6}

    def _get(self, keys: list[bytes], size: int) -> dict[str, float]:
        get = self._store.get
        found: list[bytes | None] = []

        def work() -> None:
            nonlocal found
            found = [get(key) for key in keys]

        figures = self._timed(len(keys), work)
        assert all(len(value or b"") == size for value in found)
        return figures

    def _multi_get(self) -> dict[str, float]:
        keys = [key for key, _ in self._rng.choices(self._pairs, k=self._reads)]
        batches = [keys[start : start + BATCH] for start in range(0, len(keys), BATCH)]
        found: list[list[bytes | None]] = []

        def work() -> None:
            found.extend(map(self._store.multi_get, batches))

        figures = self._timed(len(keys), work)
        assert all(value is not None and len(value) == VALUE_BYTES for values in found for value in values)
        return figures

    def _scan(self, *, reverse: bool = False) -> dict[str, float]:
        count = 0

        def work() -> None:
            nonlocal count
            for _key, _value in self._store.scan(b"", reverse=reverse):
                count += 1

        figures = self._timed(len(self._pairs), work)
        assert count == len(self._pairs), (count, len(self._pairs))
        return figures

    def _scan_back(self) -> dict[str, float]:
        return self._scan(reverse=True)

    def _scan_100(self) -> dict[str, float]:
        starts = [key for key, _ in self._rng.choices(self._pairs, k=self._reads // BATCH)]

        def work() -> None:
            for start in starts:
                for _key, _value in islice(self._store.scan(start), BATCH):
                    pass

        return self._timed(len(starts) * BATCH, work)


def serve(arguments: argparse.Namespace) -> int:
    """The process of one engine: reads names of phases, and prints their figures."""
    directory = Path(arguments.directory)
    run = Run(arguments.child, directory, arguments.keys, arguments.seed, arguments.compression, arguments.helpers)
    print(json.dumps({}), flush=True)
    for line in sys.stdin:
        print(json.dumps(run.phase(line.strip())), flush=True)
    run.close()
    return 0


class Child:
    """The parent's side of the process of one engine."""

    def __init__(self, engine: str, directory: Path, arguments: argparse.Namespace) -> None:
        command = [sys.executable, "-m", "bench.storage", "--child", engine, "--directory", str(directory / engine)]
        command += ["--keys", str(arguments.keys), "--seed", str(arguments.seed)]
        command += ["--compression", arguments.compression, "--helpers", str(arguments.helpers)]
        self._engine = engine
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent.parent
        )
        self.answer()

    def ask(self, phase: str) -> dict[str, float]:
        """Asks for a phase."""
        assert self._process.stdin is not None
        self._process.stdin.write(phase + "\n")
        self._process.stdin.flush()
        return self.answer()

    def answer(self) -> dict[str, float]:
        """The figures in the next line of the process."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._engine}: its process ended")
        return json.loads(line)  # type: ignore[no-any-return]

    def close(self) -> None:
        """Lets the process end, or kills it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def measure(arguments: argparse.Namespace, say: Callable[[str], None]) -> dict[str, dict[str, dict[str, float]]]:
    """All figures by engine and phase."""
    results: dict[str, dict[str, dict[str, float]]] = {engine: {} for engine in arguments.engines}
    children: dict[str, Child] = {}
    with tempfile.TemporaryDirectory(prefix="dougdb-bench-", dir=arguments.directory or None) as directory:
        try:
            for engine in arguments.engines:
                children[engine] = Child(engine, Path(directory), arguments)
            for phase in arguments.phases:
                rounds: dict[str, list[dict[str, float]]] = {engine: [] for engine in children}
                for _ in range(ROUNDS if phase in REPEATED else 1):
                    for engine, child in children.items():
                        rounds[engine].append(child.ask(phase))
                for engine, figures in rounds.items():
                    results[engine][phase] = sorted(figures, key=lambda one: one.get("rate", 0))[len(figures) // 2]
                say(f"{phase}: " + ", ".join(f"{name} {_gist(figures[phase])}" for name, figures in results.items()))
        finally:
            for child in children.values():
                child.close()
    return results


def _gist(figures: dict[str, float]) -> str:
    return f"{figures['rate']:,.0f}/s" if "rate" in figures else json.dumps(figures)


def table(results: dict[str, dict[str, dict[str, float]]]) -> str:
    """The figures as Markdown, with the ratio to RocksDB if that was measured."""
    engines = list(results)
    reference = results.get("rocksdict", {})
    lines = ["| | unit | " + " | ".join(engines) + " | ratio | ratio of CPU |", "|---" * (len(engines) + 4) + "|"]
    for phase, figure, title, unit in ROWS:
        values = [results[engine].get(phase, {}).get(figure) for engine in engines]
        ours, theirs = results.get("dougdb", {}).get(phase, {}).get(figure), reference.get(phase, {}).get(figure)
        ratio = f"{ours / theirs:.2f}" if ours and theirs else ""
        ours_us, theirs_us = (_cpu_us(results.get(engine, {}).get(phase, {})) for engine in ("dougdb", "rocksdict"))
        cpu = f"{theirs_us / ours_us:.2f}" if figure == "rate" and ours_us and theirs_us else ""
        cells = ["" if not value else f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for value in values]
        lines.append(f"| {title} | {unit} | " + " | ".join(cells) + f" | {ratio} | {cpu} |")
    return "\n".join(lines)


def against(results: dict[str, dict[str, dict[str, float]]], before: dict[str, dict[str, dict[str, float]]]) -> str:
    """Compares the rates with those of another run, as Markdown: the ratio of the rates, and that of CPU per operation.

    A ratio is below 1 if this run is slower. On a machine that does other work, too, the ratio of CPU is more reliable.
    """
    engines = [engine for engine in results if engine in before]
    titles = [f"{engine}{what}" for engine in engines for what in (", rate", ", CPU")]
    lines = ["| | " + " | ".join(titles) + " |", "|---" * (len(titles) + 1) + "|"]
    for phase, figure, title, _ in ROWS:
        if not figure.endswith("rate"):
            continue
        cells = []
        for engine in engines:
            now, then = results[engine].get(phase, {}), before[engine].get(phase, {})
            both = figure in now and figure in then
            cells.append(f"{now[figure] / then[figure]:.2f}" if both else "")
            cpu = both and figure == "rate" and _cpu_us(now) and _cpu_us(then)
            cells.append(f"{_cpu_us(then) / _cpu_us(now):.2f}" if cpu else "")
        lines.append(f"| {title.strip()} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cpu_us(figures: dict[str, float]) -> float:
    return figures.get("front_us", 0) + figures.get("back_us", 0)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="bench.storage", description="Our storage engine beside RocksDB and LevelDB.")
    parser.add_argument("--keys", type=int, default=1_000_000, help="how many keys of 16 + 100 bytes")
    parser.add_argument("--engines", type=lambda text: text.split(","), default=list(ENGINES), help="comma-separated")
    parser.add_argument(
        "--phases",
        type=lambda text: text.split(","),
        default=list(PHASES),
        help=f"of {','.join(PHASES)}; in order",
    )
    parser.add_argument("--compression", choices=("none", "lz4", "zstd"), default="lz4", help="of our engine")
    parser.add_argument("--helpers", type=int, choices=(1, 2), default=1, help="of our engine: tasks at a time")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--directory", default="", help="where the stores are made; they are removed afterwards")
    parser.add_argument("--json", default="", help="a file for the figures")
    parser.add_argument("--against", default="", help="the figures of another run, to be compared with")
    parser.add_argument("--child", choices=ENGINES, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    unknown = set(arguments.engines) - set(ENGINES)
    if unknown:
        parser.error(f"unknown engines: {', '.join(sorted(unknown))}; there are {', '.join(ENGINES)}")
    unknown = set(arguments.phases) - set(PHASES)
    if unknown:
        parser.error(f"unknown phases: {', '.join(sorted(unknown))}; there are {', '.join(PHASES)}")
    if arguments.keys < BATCH:
        parser.error(f"at least {BATCH} keys")
    return arguments


def main() -> int:
    """Runs it."""
    arguments = parse()
    if arguments.child:
        return serve(arguments)
    results = measure(arguments, lambda text: print(text, file=sys.stderr, flush=True))
    print(f"{arguments.keys:,} keys of {KEY_BYTES} + {VALUE_BYTES} bytes, ratio to rocksdict\n")
    print(table(results))
    if arguments.against:
        other = json.loads(Path(arguments.against).read_text())
        print(f"\nratio to the run of {other['keys']:,} keys\n")
        print(against(results, other["engines"]))
    if arguments.json:
        Path(arguments.json).write_text(json.dumps({"keys": arguments.keys, "engines": results}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
