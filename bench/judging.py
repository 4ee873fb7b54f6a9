"""The end of a test under load: all replicas are equal, every key is read once more, and the history is judged."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import grpc

from bench.cluster import Cluster
from bench.recorder import Recorder, RegisterClient, succeeded
from doug.v1 import doug_pb2, doug_pb2_grpc
from raft_testing.linearizability import check_history

UNKNOWN_SHARE_MAX = 0.05
"""The largest allowed fraction of unknown outcomes: with more, the judgement would mean little."""


def assert_replicas_agree(cluster: Cluster, shard: str, keys: list[str]) -> None:
    """Every node of a shard, asked directly, holds the same value of every key."""
    seen = []
    for view in cluster.await_equal(shard):
        with grpc.insecure_channel(view.address, options=[("grpc.enable_http_proxy", 0)]) as channel:
            stub = doug_pb2_grpc.DougStub(channel)
            requests = [
                doug_pb2.GetRequest(key=key.encode(), consistency=doug_pb2.CONSISTENCY_EVENTUAL) for key in keys
            ]
            answers = [stub.Get(request, timeout=30) for request in requests]
            seen.append([(answer.found, answer.value, answer.revision) for answer in answers])
    assert all(values == seen[0] for values in seen), f"the replicas of shard {shard} differ"


async def judge(cluster: Cluster, recorder: Recorder, keys: dict[str, list[str]], folder: Path) -> None:
    """Reads every key once more, compares the replicas, and judges the whole history.

    Args:
        cluster: All of its nodes are up, and no fault is active any more.
        recorder: The clients' history.
        keys: The keys that the clients used, by shard.
        folder: The folder in which the history is kept if it is not linearizable.
    """
    reader = RegisterClient(recorder, "127.0.0.1", cluster.port)
    for shard, names in keys.items():
        await asyncio.to_thread(cluster.await_equal, shard)
        for name in names:
            assert succeeded(await reader.get(name)), "the last reads have to succeed, or the judgement is void"
        await asyncio.to_thread(assert_replicas_agree, cluster, shard, names)
    await reader.close()
    operations = recorder.history.operations
    print(f"{len(operations)} operations, {dict(recorder.statuses)}")
    print(f"unknown: {recorder.unknown_share():.2%} of the puts, the slowest answer took {recorder.slowest_s:.2f} s")
    assert not recorder.oddities, recorder.oddities[:5]
    assert recorder.unknown_share() < UNKNOWN_SHARE_MAX
    begun = time.monotonic()
    violations = check_history(operations)
    print(f"judged in {time.monotonic() - begun:.2f} s")
    if violations:
        recorder.save(folder / "history.jsonl")
        print(f"the history is in {folder / 'history.jsonl'}")
    assert not violations, "\n".join(str(violation) for violation in violations[:3])
