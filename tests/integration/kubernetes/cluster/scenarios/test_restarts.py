"""A rolling restart of every pod, the facades too, under 200 requests per second from within the cluster."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from integration.kubernetes.cluster import load
from integration.kubernetes.cluster.driver import Cluster
from integration.kubernetes.cluster.scenarios.judged import (
    clocks_differ_s,
    failed,
    lines_about_the_slowest,
    operations_of,
    slow_lines,
)

from raft_testing.linearizability import check_history

RATE, CLIENTS, SEED = 200, 16, 90_100
WARM_UP_S, COOL_DOWN_S = 3.0, 2.0


def finish(client: subprocess.Popen[str]) -> Any:
    """Ends the load and gives its report."""
    told, _ = client.communicate("stop\n", timeout=120)
    assert client.returncode == 0, told[-2000:]
    return json.loads(told.splitlines()[-1])


def test_a_rolling_restart_of_every_pod_fails_no_request(cluster: Cluster, figure: Callable[[str], None]) -> None:
    cluster.heal()
    cluster.await_ready()
    pods = [*cluster.nodes(), *cluster.facades()]
    before = {pod: cluster.identity(pod) for pod in cluster.nodes()}
    script = Path(load.__file__).read_text()
    client = cluster.run(script, cluster.service, "8080", str(RATE), str(CLIENTS), str(SEED))
    try:
        assert client.stdout is not None
        assert client.stdout.readline() == "started\n"
        time.sleep(WARM_UP_S)
        began_s = time.monotonic()
        cluster.restart_every_pod()
        took_s = time.monotonic() - began_s
        time.sleep(COOL_DOWN_S)
        report = finish(client)
    finally:
        client.kill()
        client.wait()
    requests, rate = report["requests"], report["requests"] / report["seconds"]
    slowest_ms = max(one[5] - one[4] for one in report["operations"] if one[5]) * 1000
    bad = failed(report)
    figure(
        f"rolling restart of {len(pods)} pods in {took_s:.0f} s: {requests} requests at {rate:.0f}/s, "
        f"{bad.total()} failed, {report['late']} late, slowest answer {slowest_ms:.0f} ms (seed {SEED})"
    )
    # Restarted nodes have forgotten what they did before; their peers and they themselves afterwards have not.
    events = [
        one
        for shard in range(cluster.shards)
        for one in cluster.call("GET", f"/v1/shards/{shard}/events?limit=10000").json()["events"]
    ]
    for line in (*slow_lines(report), *lines_about_the_slowest(report, events, clocks_differ_s())):
        figure(line)
    assert rate > 0.5 * RATE, f"the machine did not keep the rate: {rate:.0f} requests/s, of which {bad.total()} failed"
    assert not bad, bad
    assert all(cluster.identity(pod) != run for pod, run in before.items())
    violations = check_history(operations_of(report))
    assert not violations, "\n".join(str(violation) for violation in violations[:3])
