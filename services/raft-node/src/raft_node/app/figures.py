"""What a node is at this moment, as figures for Prometheus."""

from __future__ import annotations

from raft_node.observability.metrics import NodeState
from raft_node.runtime.driver import Driver
from raft_node.runtime.log_store import LogStore
from raft_node.storage.engine import Engine


def node_state(driver: Driver, engine: Engine, log: LogStore) -> NodeState:
    """Looks at a running node."""
    core = driver.node
    stats = engine.stats()
    leadership = core.leadership
    return NodeState(
        role=core.role.value,
        term=core.term,
        commit_index=core.commit_index,
        applied_index=driver.applied_index,
        last_log_index=core.last_index,
        first_log_index=log.first_index,
        has_leader=core.leader is not None,
        members=len(core.configuration.voters),
        proposals_pending=len(driver.pending),
        peers={} if leadership is None else {peer.name: p.match_index for peer, p in leadership.progress.items()},
        wal_bytes=log.bytes_written,
        wal_disk_bytes=log.size_bytes,
        wal_syncs=log.syncs,
        memtable_bytes=stats.memtable_bytes + stats.immutable_bytes,
        tables=dict(enumerate(zip(stats.level_tables, stats.level_bytes, strict=True))),
        block_cache_hits=stats.cache_hits,
        block_cache_misses=stats.cache_misses,
        flushes=stats.flushes,
        compactions=stats.compactions,
        stalled=engine.stalled,
        restoring=driver.restoring,
    )
