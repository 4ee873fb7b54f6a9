"""While memtables are flushed and tables compacted under full load, nobody is elected; and what a rest is used for."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from bench.cluster import Cluster, wait_for
from bench.load import Workload, run_blocking
from bench.meter import scrape, total
from bench.witness import Witness

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(300)]

MEMTABLE_BYTES = 1 << 20
SECONDS = 15.0
TIMES_MAX = 8
FLUSHES = 3
ELECTION_S = 0.1
"""A machine that stands still for longer may have a follower campaign, rightly: it hears nobody for 150 ms."""


@pytest.fixture(scope="module")
def cluster(new_cluster: Callable[..., Cluster]) -> Cluster:
    environment = {"DOUGDB_MEMTABLE_BYTES": str(MEMTABLE_BYTES), "DOUGDB_IDLE_MERGE_MS": "300"}
    return new_cluster(environment=environment).start()


def test_no_term_changes_under_load_with_flushes(cluster: Cluster, tmp_path: Path) -> None:
    views = cluster.views()

    def terms() -> dict[str, float]:
        return {view.id: total(scrape(view.admin_port), "dougdb_raft_term") for view in views}

    before = terms()
    written = 0.0
    with Witness(tmp_path) as witness:
        for _ in range(TIMES_MAX):
            result = run_blocking(cluster.url, Workload(kind="put", seconds=SECONDS, value_bytes=1000))
            print(result.summary())
            assert not result.errors
            written += result.ok * 1000 / cluster.shards
            if written > FLUSHES * MEMTABLE_BYTES:
                break
    after = terms()
    print(witness.told())
    assert written > FLUSHES * MEMTABLE_BYTES, "too little was written for several flushes; this run says nothing"
    assert after == before or witness.longest_s() > ELECTION_S
    for node in cluster.node_ids:
        newest = max(wait_for(partial(cluster.files, node, "data/*.sst"), 60, f"an SSTable of {node}"))
        print(f"the newest SSTable of {node}: {newest.name}")


def test_what_stops_have_flushed_is_merged_while_little_is_written(cluster: Cluster) -> None:
    def top_tables() -> list[int]:
        """The tables at level 0 of each node."""
        tables = [scrape(view.admin_port)["dougdb_sstable_count"] for view in cluster.views()]
        return [int(count) for levels in tables for labels, count in levels.items() if 'level="0"' in labels]

    for turn in range(2):
        for number in range(20):
            assert cluster.request("PUT", f"/v1/kv/rest/{turn}/{number}", b"v").status == 200
        cluster.stop()
        cluster.start()
    # Two small tables at least: writes would leave them there until there are four.
    wait_for(lambda: not any(top_tables()), 120, "level 0 to be merged away")
    assert cluster.request("GET", "/v1/kv/rest/1/19").body == b"v"
