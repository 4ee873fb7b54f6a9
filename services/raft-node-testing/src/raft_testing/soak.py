"""``python -m raft_testing.soak --from N --seeds M``: runs many seeds, and prints a digest of all their traces.

The digest is a hash over the trace hashes in the order of the seeds. It does not depend on the machine, nor on how many
processes ran them; so it shows whether two runs of the same code over the same seeds were the same.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from hashlib import blake2b

from raft_testing.__main__ import report, run_seeds
from raft_testing.faults import RARE, SEEDS_FOR_EFFECTS
from raft_testing.simulation import ALL_EFFECTS, Options

_PROGRESS_SEEDS = 100


def main(arguments: list[str] | None = None) -> int:
    """Runs the seeds; prints progress, and at the end the digest.

    Returns:
        0 if all seeds held, 1 if a seed failed or an effect never showed.
    """
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--from", dest="first", type=int, required=True, metavar="FROM", help="the first seed")
    parser.add_argument("--seeds", type=int, required=True, help="how many")
    parser.add_argument("--processes", type=int, default=0, help="processes to use; 0 means one for each processor")
    parsed = parser.parse_args(arguments)
    bounds = ("from", parsed.first, 0), ("seeds", parsed.seeds, 1), ("processes", parsed.processes, 0)
    for name, value, least in bounds:
        if value < least:
            parser.error(f"--{name} must be at least {least}, not {value}")
    digest = blake2b(digest_size=8)
    counters: Counter[str] = Counter()
    failed: list[str] = []
    operations, began_s = 0, time.monotonic()
    last = parsed.first + parsed.seeds - 1
    results = run_seeds(range(parsed.first, last + 1), Options(), parsed.processes)
    for done, result in enumerate(results, 1):
        digest.update(bytes.fromhex(result.trace))
        counters.update(result.counters)
        operations += result.operations
        if result.failure:
            report(result, whole=False)
            failed.append(result.replay)
        if done % _PROGRESS_SEEDS == 0:
            rate = done / max(0.001, time.monotonic() - began_s)
            _print(f"{done} of {parsed.seeds} seeds, {len(failed)} failed, {operations} operations, {rate:.1f} seeds/s")
    _print("effects " + " ".join(f"{name}={counters[name]}" for name in (*ALL_EFFECTS, *RARE)))
    missing = [name for name in ALL_EFFECTS if not counters[name]] if parsed.seeds >= SEEDS_FOR_EFFECTS else []
    if missing:
        _print(f"these never made a difference: {', '.join(missing)}")
    for replay in failed:
        _print(f"failed: {replay}")
    _print(f"seeds {parsed.first}..{last}: {len(failed)} failed, {operations} operations, digest {digest.hexdigest()}")
    return 1 if failed or missing else 0


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
