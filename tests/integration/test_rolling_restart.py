"""A rolling restart under load: every node of a shard is stopped and started, and no request fails for it.

The load is judged as the client of the facade sees it: every answer must be a success, the longest time in which no
write was acknowledged is bounded, and the whole history must be linearizable. A time in which the disk or the processor
stood still for everybody is the machine's, not the cluster's: a witness beside the load notes it, and what was slow
then is not judged.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from itertools import count, pairwise
from pathlib import Path
from typing import NamedTuple

import pytest
from bench.cluster import STATUS_AGE_S, Cluster, is_alive
from bench.recorder import KeyRing, Recorder, run_client
from bench.witness import TooLate, Witness

from raft_testing.linearizability import check_history

pytestmark = [pytest.mark.integration, pytest.mark.safety, pytest.mark.slow, pytest.mark.timeout(600)]

ROUNDS = int(os.environ.get("ROLLING_ROUNDS", "1"))
"""More of them make a soak test."""
CLIENTS = 8
SHARD = "0"
GAP_MAX_S = 0.3
CALM = 2
"""So many threads that want to run for each processor are this test's own."""
STALL_S = 0.1
"""A machine that stands still for longer may have a follower campaign, and what it held up comes late altogether."""
STALL_BEFORE_S = 1.0
STOP_MAX_S = 60.0
STALL_OF_REQUESTS_S = 1.0
"""A request has five seconds; several stalls of this length in a row may use them up."""
SETTLE_S = 0.5
WARM_UP_S = 1.5
SEED = 41_100


class Gap(NamedTuple):
    """A time in which no write was acknowledged, without what the machine stood still of it."""

    length_s: float
    began_s: float
    stalled_s: float


class Stop(NamedTuple):
    """How one node was stopped: its role, and from when until when it was on its way."""

    node: str
    role: str
    began_s: float
    ended_s: float
    back_s: float


@pytest.fixture(scope="module")
def cluster(new_cluster: Callable[..., Cluster]) -> Cluster:
    return new_cluster(shards=1).start()


async def restart(cluster: Cluster, node_id: str) -> Stop:
    """Stops a node with SIGTERM and waits until the supervisor has started it again and it has caught up."""
    leader = await asyncio.to_thread(cluster.await_leader, SHARD)
    process = cluster.member(node_id)
    began = time.monotonic()
    process.terminate()
    while is_alive(process):
        if time.monotonic() - began > STOP_MAX_S:
            raise TooLate(f"{node_id} does not stop")
        await asyncio.sleep(0.01)
    ended = time.monotonic()

    def is_back() -> bool:
        # The facade may answer with what it saw before the node was gone.
        if time.monotonic() - ended <= STATUS_AGE_S:
            return False
        views = {view.id: view for view in cluster.shard_views(SHARD)}
        commit = max(view.commit_index for view in views.values())
        view = views[node_id]
        return view.role in ("leader", "follower") and view.applied_index > 0 and view.applied_index + 200 > commit

    while not await asyncio.to_thread(is_back):
        assert time.monotonic() - began < 120, f"{node_id} did not come back"
        await asyncio.sleep(0.05)
    role = "leader" if leader.id == node_id else "follower"
    return Stop(node_id, role, began, ended, time.monotonic())


def gaps_of(recorder: Recorder, witness: Witness, since_s: float, until_s: float) -> list[Gap]:
    """The times between one acknowledged write and the next, longest first."""
    acknowledged = sorted(
        operation.returned
        for operation in recorder.history.operations
        if operation.kind == "put" and operation.returned is not None and operation.ok
    )
    times = [since_s, *(moment for moment in acknowledged if since_s < moment < until_s), until_s]
    stalled = [(before, after, witness.stalled_s(before, after)) for before, after in pairwise(times)]
    return sorted((Gap(after - before - lost_s, before, lost_s) for before, after, lost_s in stalled), reverse=True)


async def roll(cluster: Cluster, recorder: Recorder) -> list[Stop]:
    """Restarts every node under load, the leader of the beginning first."""
    running, ring = True, KeyRing(f"rolling/{number}" for number in count())
    stops: list[Stop] = []
    async with asyncio.TaskGroup() as group:
        for number in range(CLIENTS):
            client = run_client(recorder, "127.0.0.1", cluster.port, ring, SEED + number, lambda: running)
            group.create_task(client)
        try:
            await asyncio.sleep(WARM_UP_S)
            for _ in range(ROUNDS):
                first = (await asyncio.to_thread(cluster.await_leader, SHARD)).id
                for node_id in sorted(cluster.node_ids, key=lambda name: (name != first, name)):
                    stops.append(await restart(cluster, node_id))
                    await asyncio.sleep(SETTLE_S)
        finally:
            running = False
    return stops


async def test_a_rolling_restart_fails_no_request(cluster: Cluster, tmp_path: Path) -> None:
    print(f"seed {SEED}")
    recorder = Recorder()
    began = time.monotonic() + WARM_UP_S
    with Witness(tmp_path) as witness:
        stops = await roll(cluster, recorder)
        ended = time.monotonic()
    # The witness needs next to nothing, and gets it at once; where many wait for the processors, a node waits as well.
    crowd = max(1.0, os.getloadavg()[0] / (CALM * (os.cpu_count() or 1)))
    print(f"{witness.told()}; the time that a gap may take is multiplied by {crowd:.1f}")
    for stop in stops:
        longest = gaps_of(recorder, witness, stop.began_s - 0.1, stop.back_s)[0]
        print(
            f"{stop.node} ({stop.role}) stopped in {stop.ended_s - stop.began_s:.2f} s, was back after "
            f"{stop.back_s - stop.began_s:.2f} s; longest write gap {longest.length_s * 1000:.0f} ms, "
            f"{(longest.began_s - stop.began_s) * 1000:+.0f} ms from SIGTERM"
        )
    gaps = gaps_of(recorder, witness, began, ended - 0.5)
    print(f"the longest write gaps in ms: {[round(gap.length_s * 1000) for gap in gaps[:8]]}")
    operations = recorder.history.operations
    print(f"{len(operations)} operations, {dict(recorder.statuses)}, slowest answer {recorder.slowest_s * 1000:.0f} ms")
    assert len(stops) == 5 * ROUNDS
    assert any(stop.role == "leader" for stop in stops)
    failed = {name: times for name, times in recorder.statuses.items() if name.split()[1] not in ("200", "404")}
    assert not failed or witness.longest_s() > STALL_OF_REQUESTS_S, f"requests failed: {failed}"
    assert not recorder.oddities, recorder.oddities[:5]
    violations = check_history(operations)
    if violations:
        recorder.save(tmp_path / "history.jsonl")
        print(f"the history is in {tmp_path / 'history.jsonl'}")
    assert not violations, "\n".join(str(violation) for violation in violations[:3])
    owed = [
        gap
        for gap in gaps
        if witness.stalled_s(gap.began_s - STALL_BEFORE_S, gap.began_s + gap.length_s + gap.stalled_s) < STALL_S
    ]
    if owed and owed[0].length_s > GAP_MAX_S * crowd:
        raise TooLate(f"no write was acknowledged: {owed[0]}")
