"""All processes of a cluster run native modules if whoever starts it does: by `make test-compiled`, and else none."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from bench.cluster import Cluster
from bench.meter import scrape, total

import facade.app.server  # noqa: F401 - so that this process has modules that may be native
from doug_wire import native

pytestmark = [pytest.mark.integration, pytest.mark.light]


def test_all_processes_run_the_same_modules(new_cluster: Callable[..., Cluster]) -> None:
    here = native.modules()
    assert here or not os.environ.get("REQUIRE_NATIVE"), "these are not the native modules: see `make test-compiled`"
    cluster = new_cluster(shards=1, nodes=3).start()
    assert cluster.request("PUT", "/v1/kv/k", b"v").status == 200
    assert cluster.request("GET", "/v1/kv/k").body == b"v"
    for port in (cluster.port, *(view.admin_port for view in cluster.views())):
        assert (total(scrape(port), "dougdb_native_modules") > 0) == (here > 0), port
