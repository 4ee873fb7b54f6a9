"""Measures a scan of a whole fresh cluster as a stream of lines: ``make bench-scan``, or ``python -m bench.scan``.

It fills a local cluster, then reads all of it through the facade while a few other clients go on, and says how many
entries came per second, by how much the memory of facade and nodes grew, how long the other clients waited without and
with the scan, and whether a term changed. With ``--check`` it ends with exit code 1 beyond the limits below.

It must not tune anything: the cluster runs with the defaults that users get.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc.aio

if __package__ in (None, ""):  # Started by its path, as `make bench-scan` does.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from bench.cluster import Cluster, ClusterError
from bench.fresh import add_layout, on_fresh_cluster
from bench.load import LoadResult, Workload, run_blocking
from bench.meter import MemorySampler, family_pss_bytes
from bench.smoke import Meter
from doug.v1 import doug_pb2, doug_pb2_grpc
from doug_wire import command, pipe
from doug_wire.command import Opcode
from doug_wire.slots import initial_ranges, slot_of

ITEMS_PER_S_MIN = 50_000
GROWTH_MB_MAX = 50.0
P99_RATIO_MAX = 3.0
FILL_RECORDS = 1000
FILL_TRIES = 200
OTHERS = 4
OTHERS_KEYS = 1_000
PREFIX = b"scan/"
ACCEPT = "application/x-ndjson"


def key_of(number: int) -> bytes:
    """The name of a key."""
    return b"%b%010d" % (PREFIX, number)


async def _fill_shard(address: str, shard: int, keys: Iterator[bytes], value_bytes: int) -> None:
    """Puts keys to the leader of a shard, one batch at a time; refused keys are sent again."""
    async with grpc.aio.insecure_channel(address) as channel:
        call = doug_pb2_grpc.DougStub(channel).Pipe()
        last = False
        while not last:
            waiting = {}
            for number, key in zip(range(FILL_RECORDS), keys, strict=False):
                encoded = command.encode(Opcode.PUT, key, b"text/plain", key.ljust(value_bytes, b".")[:value_bytes])
                waiting[number] = pipe.encode_write(number, command.checksum(encoded), encoded)
            last = len(waiting) < FILL_RECORDS
            for _ in range(FILL_TRIES):
                if not waiting:
                    break
                batch = doug_pb2.Batch(kind=doug_pb2.BATCH_KIND_WRITE, shard=shard, records=b"".join(waiting.values()))
                await call.write(batch)
                await _take_answers(call, waiting)
            if waiting:
                raise ClusterError(f"shard {shard} kept refusing writes")
        await call.done_writing()


async def _take_answers(call: Any, waiting: dict[int, bytes]) -> None:
    """Reads until every record was answered, and removes the written keys from ``waiting``."""
    answered = 0
    expected = len(waiting)
    overloaded = False
    while answered < expected:
        message = await call.read()
        if message is grpc.aio.EOF:
            raise ClusterError("the leader ended the stream")
        for result in pipe.decode_results(message.results):
            answered += 1
            if result.status == pipe.Status.OK:
                del waiting[result.id]
            elif result.status == pipe.Status.OVERLOADED:
                overloaded = True
            else:
                raise ClusterError(f"a write was answered with status {result.status}")
    if overloaded:
        await asyncio.sleep(0.05)


async def fill(cluster: Cluster, shards: int, keys: int, value_bytes: int) -> None:
    """Puts all keys, each to the shard that owns it."""
    owner = {slot: shard for first, last, shard in initial_ranges(shards) for slot in range(first, last + 1)}
    leaders = {int(view.shard): view.address for view in cluster.views() if view.role == "leader"}

    def owned(shard: int) -> Iterator[bytes]:
        return (key for key in map(key_of, range(keys)) if owner[slot_of(key)] == shard)

    fills = [_fill_shard(leaders[shard], shard, owned(shard), value_bytes) for shard in range(shards)]
    await asyncio.gather(*fills)


def read(url: str) -> dict[str, Any]:
    """Reads a stream of lines to its end, as fast as it comes.

    Returns:
        ``items``, ``seconds``, ``bytes`` and the last line as ``trailer``.
    """
    parts = urlsplit(url)
    assert parts.hostname is not None and parts.port is not None
    begun = time.monotonic()
    lines = size = 0
    tail = b""
    with socket.create_connection((parts.hostname, parts.port), timeout=60) as connection:
        target = f"{parts.path}?{parts.query}"
        head = f"GET {target} HTTP/1.1\r\nhost: {parts.netloc}\r\naccept: {ACCEPT}\r\nconnection: close\r\n\r\n"
        connection.sendall(head.encode())
        # An entry has no line end of its own; chunks have some, and none of them ends like an entry.
        while data := connection.recv(1 << 18):
            lines += (tail[-1:] + data).count(b"}\n")
            size += len(data)
            tail = (tail + data)[-4096:]
    last = next(line for line in reversed(tail.split(b"\n")) if line.startswith(b'{"complete"'))
    return {"items": lines - 1, "seconds": time.monotonic() - begun, "bytes": size, "trailer": json.loads(last)}


def run(cluster: Cluster, options: argparse.Namespace) -> dict[str, Any]:
    """Fills a cluster and scans it; returns all figures."""
    cluster.start()
    begun = time.monotonic()
    asyncio.run(fill(cluster, options.shards, options.keys, options.value_bytes))
    print(f"{options.keys:,} keys were put in {time.monotonic() - begun:.0f} s")
    others = Workload(kind="put", connections=OTHERS, keys=OTHERS_KEYS, prefix="others/", operations=OTHERS_KEYS)
    run_blocking(cluster.url, others)
    others = replace(others, kind="get", operations=0, seconds=options.seconds)
    time.sleep(options.rest)
    alone = run_blocking(cluster.url, others)
    meter = Meter(cluster)
    groups = meter.groups()
    processes = {
        **{f"facade {process.pid}": process for process in groups["facade"]},
        **{f"node {process.pid}": process for process in (*groups["leaders"], *groups["followers"])},
    }
    before = {name: family_pss_bytes(process) for name, process in processes.items()}
    terms = meter.terms()
    argv = [sys.executable, str(Path(__file__).resolve()), "--read", f"{cluster.url}/v1/kv?prefix={PREFIX.decode()}"]
    with MemorySampler(lambda: processes, 0.2) as memory:
        # The scan runs once alone for its speed, and once beside other clients for their waits.
        scanned = json.loads(subprocess.run(argv, check=True, capture_output=True, text=True).stdout)
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as reading:
            beside = run_blocking(cluster.url, others)
            assert reading.stdout is not None
            second = json.loads(reading.stdout.read())
    grown = {name: round((memory.peak_bytes[name] - before[name]) / 1e6, 1) for name in processes}
    return {
        "items": scanned["items"],
        "items_per_s": round(scanned["items"] / scanned["seconds"]),
        "mb_per_s": round(scanned["bytes"] / 1e6 / scanned["seconds"], 1),
        "items_per_s_beside_others": round(second["items"] / second["seconds"]),
        "complete": scanned["trailer"]["complete"] and second["trailer"]["complete"],
        "cut_changed": scanned["trailer"]["cut_changed"] or second["trailer"]["cut_changed"],
        "growth_mb": dict(sorted(grown.items())),
        "terms_changed": {name: each for name, each in meter.terms().items() if each != terms[name]},
        "others_alone": _waits(alone),
        "others_beside": _waits(beside),
    }


def _waits(result: LoadResult) -> dict[str, Any]:
    return {
        "operations_per_s": round(result.operations_per_s),
        "p50_ms": round(result.percentile_ms(0.5), 2),
        "p99_ms": round(result.percentile_ms(0.99), 2),
        "errors": result.errors,
    }


def beyond(figures: dict[str, Any], keys: int) -> list[str]:
    """The limits that were not kept, as sentences."""
    ratio = figures["others_beside"]["p99_ms"] / max(0.001, figures["others_alone"]["p99_ms"])
    grown = max(figures["growth_mb"].values())
    judged = {
        "entries are missing": figures["items"] != keys or not figures["complete"],
        f"fewer than {ITEMS_PER_S_MIN} entries a second": figures["items_per_s"] < ITEMS_PER_S_MIN,
        f"a process grew by {grown} MB": grown > GROWTH_MB_MAX,
        f"the p99 of others is {ratio:.1f} times as long": ratio > P99_RATIO_MAX,
        f"terms changed: {figures['terms_changed']}": bool(figures["terms_changed"]),
    }
    return [what for what, bad in judged.items() if bad]


def main() -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description="A scan of a whole fresh local cluster.")
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--value-bytes", type=int, default=100)
    add_layout(parser)
    parser.add_argument("--seconds", type=float, default=8.0, help="how long the other clients go on, each time")
    parser.add_argument("--rest", type=float, default=10.0, help="how long flushes and merges may catch up before")
    parser.add_argument("--check", action="store_true", help="exit code 1 beyond the limits")
    parser.add_argument("--read", metavar="URL", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.read:
        print(json.dumps(read(options.read)))
        return 0
    figures = on_fresh_cluster(run, options, 600)
    if figures is None:
        return 1
    print(json.dumps(figures, indent=2))
    bad = beyond(figures, options.keys)
    for what in bad:
        print(what, file=sys.stderr)
    return 1 if options.check and bad else 0


if __name__ == "__main__":
    sys.exit(main())
