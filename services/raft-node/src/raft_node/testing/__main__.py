"""``python -m raft_node.testing --seed N``: run seeds of the simulator, or one again."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from raft_node.testing.simulation import ALL_EFFECTS, Options, Result, missing_effects, run_seed

TAIL_LINES = 60


def main(arguments: list[str] | None = None) -> int:
    """Runs seeds and prints a line for each; on a failure also how to replay it and the end of its trace.

    Returns:
        0 when all held, 1 when a seed failed, 2 when a fault kind never made a difference over many seeds.
    """
    parser = argparse.ArgumentParser(prog="python -m raft_node.testing", description=main.__doc__)
    parser.add_argument("--seed", type=int, default=1, help="the first seed")
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds, one after the other")
    parser.add_argument("--nodes", type=int, default=5, help="nodes of the shard")
    parser.add_argument("--ops", type=int, default=300, help="client operations a seed, at least")
    parser.add_argument("--faults", type=int, default=10, help="faults a seed, at least")
    parser.add_argument("--processes", type=int, default=0, help="processes to use; 0 means one for each processor")
    parser.add_argument("--trace", action="store_true", help="print the whole tail of the trace, failed or not")
    parsed = parser.parse_args(arguments)
    options = Options(parsed.nodes, parsed.ops, parsed.faults)
    seeds = range(parsed.seed, parsed.seed + parsed.seeds)
    results: list[Result] = []
    for result in run_seeds(seeds, options, parsed.processes):
        results.append(result)
        _report(result, whole=parsed.trace)
    failed = [result.seed for result in results if result.failure]
    if len(results) == 1:
        _print(f"trace {results[0].trace}")
        return 1 if failed else 0
    _print(effects(results))
    if failed:
        _print(f"{len(failed)} of {len(results)} seeds failed: {failed}")
        return 1
    if len(results) >= 100 and (missing := missing_effects(results)):
        _print(f"these never made a difference: {', '.join(missing)}")
        return 2
    return 0


def run_seeds(seeds: Iterable[int], options: Options, processes: int = 0) -> Iterator[Result]:
    """Runs seeds on several processes, and gives the results in the order of the seeds."""
    seeds = list(seeds)
    processes = processes or os.cpu_count() or 1
    if processes == 1 or len(seeds) == 1:
        for seed in seeds:
            yield run_seed(seed, options)
        return
    with ProcessPoolExecutor(max_workers=processes) as pool:
        yield from pool.map(partial(run_seed, options=options), seeds, chunksize=4)


def effects(results: Iterable[Result]) -> str:
    """How often each fault made a difference."""
    results = list(results)
    return "effects " + " ".join(f"{name}={sum(result.counters[name] for result in results)}" for name in ALL_EFFECTS)


def _report(result: Result, *, whole: bool) -> None:
    _print(result.summary())
    if result.failure:
        for line in result.tail if whole else result.tail[-TAIL_LINES:]:
            _print(line)
        _print(f"FAILED {result.failure}")
        _print(f"replay: {result.replay}")


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")


if __name__ == "__main__":
    sys.exit(main())
