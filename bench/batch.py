"""Measures batches of many puts: ``make bench-batch``, or ``python -m bench.batch``.

It sends ``POST /v1/batch`` with 10,000 puts, eight requests in flight, to a fresh local cluster, and prints how many
puts per second that gives, and the CPU of each by group of processes. With ``--check`` it ends with exit code 1 below
the limit. On a machine that does other work, too, only the CPU is meaningful.

It must not tune anything: the cluster runs with the defaults that users get.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

if __package__ in (None, ""):  # Started by its path, as `make bench-batch` does.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from bench.cluster import Cluster, ClusterError
from bench.fresh import add_layout, on_fresh_cluster
from bench.http11 import Client
from bench.smoke import Meter

PUTS_PER_S_MIN = 25_000
JSON = {"Content-Type": "application/json"}


def body_of(number: int, puts: int, value_bytes: int) -> bytes:
    """The body of one batch."""
    value = "x" * value_bytes
    operations = [{"op": "put", "key": f"batch/{number}/{place}", "value": value} for place in range(puts)]
    return json.dumps({"operations": operations}).encode()


async def _send(url: str, options: argparse.Namespace) -> float:
    """Sends all batches and returns how long they took, from the first byte to the last answer.

    Raises:
        ClusterError: A put was refused.
    """
    parts = urlsplit(url)
    assert parts.hostname is not None and parts.port is not None
    host, port = parts.hostname, parts.port
    # The bodies are made before, since the client's cost is not measured.
    bodies = [body_of(number, options.puts, options.value_bytes) for number in range(options.batches)]

    async def worker() -> None:
        async with Client(host, port, timeout_s=60.0) as client:
            while bodies:
                answer = await client.request("POST", "/v1/batch", bodies.pop(), JSON)
                good = answer.body.count(b'{"status":200') if answer.status == 200 else 0
                if good != options.puts:
                    raise ClusterError(
                        f"{answer.status}: only {good} of {options.puts} puts were carried out: {answer.body[:200]!r}"
                    )

    begun = time.monotonic()
    await asyncio.gather(*(worker() for _ in range(options.in_flight)))
    return time.monotonic() - begun


def run(cluster: Cluster, options: argparse.Namespace) -> dict[str, Any]:
    """Sends the batches to a fresh cluster; returns all figures."""
    cluster.start()
    meter = Meter(cluster)
    spent, terms = meter.cpu_s(), meter.terms()
    seconds = asyncio.run(_send(cluster.url, options))
    puts = options.batches * options.puts
    after = meter.cpu_s()
    return {
        "puts": puts,
        "seconds": round(seconds, 2),
        "puts_per_s": round(puts / seconds),
        "cpu_us_per_put": {name: round((after[name] - spent[name]) * 1e6 / puts, 2) for name in spent},
        "terms_changed": {name: term for name, term in meter.terms().items() if term != terms[name]},
    }


def main() -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description="Batches of many puts to a fresh local cluster.")
    parser.add_argument("--batches", type=int, default=40)
    parser.add_argument("--puts", type=int, default=10_000, help="of each batch")
    parser.add_argument("--in-flight", type=int, default=8)
    parser.add_argument("--value-bytes", type=int, default=20)
    add_layout(parser)
    parser.add_argument("--check", action="store_true", help="exit code 1 below the limit")
    options = parser.parse_args()
    figures = on_fresh_cluster(run, options, 300)
    if figures is None:
        return 1
    print(json.dumps(figures, indent=2))
    if options.check and figures["puts_per_s"] < PUTS_PER_S_MIN:
        print(f"fewer than {PUTS_PER_S_MIN:,} puts a second", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
