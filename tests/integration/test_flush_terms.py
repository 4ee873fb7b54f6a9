"""While memtables are flushed and tables compacted under full load, nobody is elected: the default time-outs hold."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from bench.cluster import Cluster
from bench.load import Workload, run_blocking
from bench.meter import scrape, total

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

MEMTABLE_BYTES = 1 << 20
SECONDS = 15.0


@pytest.fixture(scope="module")
def cluster(new_cluster: Callable[..., Cluster]) -> Cluster:
    return new_cluster(environment={"DOUGDB_MEMTABLE_BYTES": str(MEMTABLE_BYTES)}).start()


def test_no_term_changes_under_load_with_flushes(cluster: Cluster) -> None:
    views = cluster.views()

    def terms() -> dict[str, float]:
        return {view.id: total(scrape(view.admin_port), "dougdb_raft_term") for view in views}

    before = terms()
    result = run_blocking(cluster.url, Workload(kind="put", seconds=SECONDS, value_bytes=1000))
    after = terms()
    print(result.summary())
    manifests = {node: max(cluster.files(node, "data/*.sst")).name for node in cluster.node_ids}
    print(f"the newest SSTable of each node: {manifests}")
    assert not result.errors
    written = result.ok * 1000 / cluster.shards
    assert written > 3 * MEMTABLE_BYTES, "too little was written for several flushes; this run says nothing"
    assert after == before
    for view in cluster.views():
        assert cluster.files(view.id, "data/*.sst"), f"{view.id} has no SSTable"
