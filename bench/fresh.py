"""Runs a measurement on a cluster that is made for it and ended after it, whatever happens meanwhile.

A benchmark that hangs, or that somebody interrupts, must not leave a cluster behind: signals become exceptions here,
and the cluster is closed on the way out.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from bench.cluster import Cluster, ClusterError

Figures = dict[str, Any]
Run = Callable[[Cluster, argparse.Namespace], Figures]


def add_layout(parser: argparse.ArgumentParser, shards: int = 2) -> None:
    """Adds the options for the layout of the cluster."""
    parser.add_argument("--shards", type=int, default=shards)
    parser.add_argument("--nodes", type=int, default=5)


def on_fresh_cluster(
    run: Run, options: argparse.Namespace, limit_s: float, environment: Mapping[str, str] | None = None
) -> Figures | None:
    """Runs a measurement on a fresh cluster; returns its figures, or None if there are none; the reason is on stderr.

    Args:
        run: The measurement.
        options: The options of the command line, with those of ``add_layout``.
        limit_s: After how many seconds the measurement is given up.
        environment: Variables set for every process.
    """
    for number in (signal.SIGALRM, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _give_up)
    signal.alarm(int(limit_s))
    with tempfile.TemporaryDirectory(prefix="dougdb-bench-", ignore_cleanup_errors=True) as folder:
        cluster = Cluster(Path(folder), shards=options.shards, nodes=options.nodes, environment=environment)
        try:
            figures = run(cluster, options)
            code = cluster.stop()
        except ClusterError as error:
            print(error, file=sys.stderr)
            return None
        finally:
            cluster.close()
    if code:
        print(f"dougctl dev ended with exit code {code}", file=sys.stderr)
        return None
    return figures


def _give_up(number: int, frame: FrameType | None) -> None:
    raise SystemExit(f"gave up: signal {signal.Signals(number).name}")
