"""How many descriptors connections may take: doug_wire.descriptors and facade.app.front."""

from __future__ import annotations

import resource

import structlog.testing

from doug_wire import descriptors
from facade.app.front import Front
from facade.client.metrics import Metrics
from facade.settings import Settings

SETTINGS = Settings(nodes={0: {"n": "127.0.0.1:1"}})


def test_connections_leave_a_reserve() -> None:
    assert descriptors.connections_max(1024, 0) == 1024 - descriptors.RESERVE
    assert descriptors.connections_max(64, 0) == 32
    assert descriptors.connections_max(4, 0) == descriptors.CONNECTIONS_MIN
    assert descriptors.connections_max(1024, 100) == 100
    assert descriptors.connections_max(1024, 5000) == 1024 - descriptors.RESERVE


def test_the_soft_limit_is_raised() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (512, before[1]))
        raised = descriptors.raise_limit()
        assert raised == resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 512
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_limit_that_is_near_is_told_once_and_measured() -> None:
    metrics = Metrics()
    front = Front(SETTINGS, metrics)
    front.connections_max = 10
    with structlog.testing.capture_logs() as logs:
        for connections in (7, 8, 9, 10, 7, 8, 6, 8):
            front.look(connections)
    told = [entry["used"] for entry in logs if entry["event"] == "connections.nearly_all_used"]
    assert told == [8, 8]
    assert metrics.registry.get_sample_value("dougdb_facade_connections") == 8
    assert metrics.registry.get_sample_value("dougdb_facade_connections_max") == 10
    front.connections_refused = 3
    front.look(1)
    front.look(1)
    assert metrics.registry.get_sample_value("dougdb_facade_connections_refused_total") == 3
