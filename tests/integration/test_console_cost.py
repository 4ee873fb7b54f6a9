"""A hundred open consoles ask the nodes as often as one, and hardly cost the facade more: real processes, no times."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest
from bench.cluster import Cluster
from bench.console import Consoles
from bench.meter import scrape
from bench.smoke import Meter

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(240)]

MANY = 100
SHARDS = 2
NODES = 6
LOOKS_A_SECOND = 2
"""So often a facade looks while a console is open."""
STATES = 24
"""So many states each console gets while it is counted: a dozen seconds of them, unless the machine stands still."""
WAIT_S = 120.0


class Spent(NamedTuple):
    """What so many states for each console took.

    Attributes:
        asked: How often the nodes were asked how they are, for each of the times at which they may be.
        cpu_s: The CPU time of the facade for each state that a console got.
    """

    asked: float
    cpu_s: float


def asked(cluster: Cluster) -> float:
    """How often all nodes were asked for their status."""
    return sum(
        value
        for view in cluster.views()
        for labels, value in scrape(view.admin_port)["grpc_server_started_total"].items()
        if 'grpc_method="Status"' in labels
    )


async def spent(cluster: Cluster, consoles: Consoles, count: int) -> Spent:
    """Counts while ``count`` consoles are open."""
    meter = Meter(cluster)

    async def states(wanted: int) -> None:
        async with asyncio.timeout(WAIT_S):
            while consoles.states < wanted:
                await asyncio.sleep(0.02)

    consoles.open(count)
    await states(consoles.states + 2 * count)
    began_s, before = time.monotonic(), await asyncio.to_thread(asked, cluster)
    first, cpu_s = consoles.states, meter.cpu_s()["facade"]
    await states(first + STATES * count)
    passed, cpu_s = (consoles.states - first) / count, meter.cpu_s()["facade"] - cpu_s
    after = await asyncio.to_thread(asked, cluster)
    times = 1 + (time.monotonic() - began_s) * LOOKS_A_SECOND
    return Spent((after - before) / times, cpu_s / passed)


def test_a_hundred_consoles_cost_the_nodes_nothing_more_and_the_facade_little(
    new_cluster: Callable[..., Cluster],
) -> None:
    cluster = new_cluster(shards=SHARDS, nodes=NODES // SHARDS).start()
    place = urlsplit(cluster.url)
    assert place.hostname is not None
    assert place.port is not None
    host, port = place.hostname, place.port

    async def both() -> tuple[Spent, Spent]:
        consoles = Consoles(host, port)
        try:
            return await spent(cluster, consoles, 1), await spent(cluster, consoles, MANY)
        finally:
            await consoles.close()

    one, many = asyncio.run(both())
    # However slow the machine is, nobody is asked more often for that.
    assert 0 < one.asked <= NODES, (one, many)
    assert 0 < many.asked <= NODES, (one, many)
    # A state is read and encoded once for all; what each console costs is to be sent its bytes.
    assert (many.cpu_s - one.cpu_s) / (MANY - 1) < one.cpu_s / 50, (one, many)
