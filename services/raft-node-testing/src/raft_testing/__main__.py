"""``python -m raft_testing --seed N``: run seeds of the simulator, or one again."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from raft_testing.faults import RARE, SEEDS_FOR_EFFECTS
from raft_testing.simulation import ALL_EFFECTS, Options, Result, missing_effects, run_seed

TAIL_LINES = 60


def main(arguments: list[str] | None = None, name: str = "python -m raft_testing") -> int:
    """Runs seeds and prints a line for each; on a failure also how to replay it and the end of its trace.

    Args:
        arguments: The arguments of the command line; None for those of the process.
        name: The name of the command in messages.

    Returns:
        0 if all seeds held, 1 if a seed failed, 2 if a kind of fault never made a difference over many seeds.
    """
    parser = argparse.ArgumentParser(
        prog=name, description="Simulates shards of Raft nodes under clients and faults, in virtual time."
    )
    parser.add_argument("--seed", type=int, default=1, help="the first seed")
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds, one after the other")
    parser.add_argument("--nodes", type=int, default=5, help="nodes of the shard")
    parser.add_argument("--ops", type=int, default=300, help="client operations a seed, at least")
    parser.add_argument("--faults", type=int, default=10, help="faults a seed, at least")
    parser.add_argument("--processes", type=int, default=0, help="processes to use; 0 means one for each processor")
    parser.add_argument("--trace", action="store_true", help="print more of the end of a failed seed's trace")
    parsed = parser.parse_args(arguments)
    try:
        options = Options(parsed.nodes, parsed.ops, parsed.faults)
    except ValueError as error:
        parser.error(str(error))
    for option, least in (("seed", 0), ("seeds", 1), ("processes", 0)):
        if getattr(parsed, option) < least:
            parser.error(f"--{option} must be at least {least}, not {getattr(parsed, option)}")
    seeds = range(parsed.seed, parsed.seed + parsed.seeds)
    results: list[Result] = []
    for result in run_seeds(seeds, options, parsed.processes):
        results.append(result)
        report(result, whole=parsed.trace)
    failed = [result.seed for result in results if result.failure]
    if len(results) == 1:
        _print(f"trace {results[0].trace}")
        return 1 if failed else 0
    _print(effects(results))
    if failed:
        _print(f"{len(failed)} of {len(results)} seeds failed: {failed}")
        return 1
    if len(results) >= SEEDS_FOR_EFFECTS and (missing := missing_effects(results)):
        _print(f"these never made a difference: {', '.join(missing)}")
        return 2
    return 0


def run_seeds(seeds: Iterable[int], options: Options, processes: int = 0) -> Iterator[Result]:
    """Runs seeds on several processes, and yields the results in the order of the seeds."""
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
    return "effects " + " ".join(
        f"{name}={sum(result.counters[name] for result in results)}" for name in (*ALL_EFFECTS, *RARE)
    )


def simulate(seed: int = 1, nodes: int = 5, ops: int = 300, faults: int = 10) -> None:
    """Simulate one seed: a shard under clients and faults, in virtual time.

    The same seed with the same options gives the same run. The last line is the hash of all that happened.
    """
    arguments = ["--seed", seed, "--nodes", nodes, "--ops", ops, "--faults", faults]
    raise SystemExit(main([str(argument) for argument in arguments], "dougctl simulate"))


def report(result: Result, *, whole: bool) -> None:
    """Prints the result of a seed; if it failed, also the end of its trace, and how to replay it."""
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
