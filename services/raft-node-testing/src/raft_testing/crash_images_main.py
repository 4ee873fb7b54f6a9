"""``make crash-images``: opens all crash images of all short workloads.

Exit codes: 0 every image held; 1 one did not (the command that repeats it is printed); 2 wrong usage.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from raft_node.errors import FatalError
from raft_testing.crash_images import STEPS, ImageError, Workload, run, workloads

PROGRESS_EVERY_S = 10.0


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    parser = argparse.ArgumentParser(description="Crash images of all short workloads on log and SSTables.")
    parser.add_argument("--operations", type=int, default=4, help="how long the workloads are, at most (4)")
    parser.add_argument("--failures", type=int, default=3, help="up to this length each call also fails once (3)")
    parser.add_argument("--every", type=int, default=1, help="only each n-th workload")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="processes to use")
    parser.add_argument("--only", default="", help="one workload: operations with commas between, as a failure shows")
    parsed = parser.parse_args(arguments)
    if parsed.only:
        only = tuple(parsed.only.split(","))
        if unknown := [name for name in only if name not in STEPS]:
            parser.error(f"unknown operation {unknown[0]}; there are {', '.join(STEPS)}")
        return _report([only], parsed.failures, 1)
    chosen = list(workloads(parsed.operations))[:: parsed.every]
    return _report(chosen, parsed.failures, parsed.processes)


def _report(chosen: list[Workload], failures: int, processes: int) -> int:
    begun = told = time.monotonic()
    images: Counter[int] = Counter()
    with ProcessPoolExecutor(processes) as pool:
        outcomes = pool.map(partial(_one, failures=failures), chosen, chunksize=8)
        for number, (workload, (count, failure)) in enumerate(zip(chosen, outcomes, strict=True), 1):
            images[len(workload)] += count
            if failure:
                pool.shutdown(cancel_futures=True)
                print(failure)
                print(f"again: python -m {__spec__.name} --only {','.join(workload)}")
                return 1
            if time.monotonic() - told > PROGRESS_EVERY_S:
                told = time.monotonic()
                print(f"{number} of {len(chosen)} workloads, {images.total()} images", flush=True)
    for length, count in sorted(images.items()):
        print(f"{count} images of workloads of {length}")
    print(f"{images.total()} images of {len(chosen)} workloads hold; {time.monotonic() - begun:.0f} s")
    return 0


def _one(workload: Workload, failures: int) -> tuple[int, str]:
    try:
        return run(workload, failures=len(workload) <= failures), ""
    except (ImageError, FatalError) as error:
        return 0, str(error)


if __name__ == "__main__":
    sys.exit(main())
