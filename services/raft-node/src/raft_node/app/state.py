"""What a scrape of a node shows: reads the running parts, and changes nothing.

It runs on the event loop whenever Prometheus asks, so nothing here may wait or walk through data.
"""

from __future__ import annotations

from raft_node.observability.metrics import Metrics, NodeState
from raft_node.observability.volumes import Volumes
from raft_node.rpc.doug.replica import Replica
from raft_node.runtime.log.store import LogStore
from raft_node.storage.engine import Engine


def read_state(
    replica: Replica,
    engine: Engine,
    log: LogStore,
    metrics: Metrics,
    wal_replay_s: float,
    volumes: Volumes,
    *,
    disk_low: bool,
) -> NodeState:
    """Reads the state that ``StateCollector`` shows.

    Args:
        replica: The replica.
        engine: The replica's storage engine.
        log: The replica's write-ahead log.
        metrics: The metrics of the node.
        wal_replay_s: How long reading the log took at the start.
        volumes: How full the node's disks are.
        disk_low: Whether writes are refused for want of space.
    """
    core = replica.driver.node
    stats = engine.stats()
    leadership = core.leadership
    return NodeState(
        role=core.role.value,
        term=core.term,
        commit_index=core.commit_index,
        leader_commit_index=max(core.leader_commit_index, core.commit_index),
        lease_held=replica.driver.reads.lease_held,
        applied_index=replica.driver.applied_index,
        last_log_index=core.last_index,
        first_log_index=log.first_index,
        has_leader=core.leader is not None,
        members=len(core.configuration.voters),
        learners=len(core.configuration.learners),
        proposals_pending=len(replica.driver.pending),
        peers={} if leadership is None else {peer.name: p.match_index for peer, p in leadership.progress.items()},
        messages_sent=metrics.raft_messages_sent(),
        wal_bytes=log.bytes_written,
        wal_syncs=log.syncs,
        wal_size_bytes=log.size_bytes,
        wal_replay_s=wal_replay_s,
        memtable_bytes=stats.memtable_bytes,
        immutable_bytes=stats.immutable_bytes,
        tables=dict(enumerate(zip(stats.level_tables, stats.level_bytes, strict=True))),
        table_memory_bytes=stats.table_memory_bytes,
        open_tables=stats.open_tables,
        table_opens=stats.table_opens,
        block_cache_bytes=stats.cache_bytes,
        block_cache_hits=stats.cache_hits,
        block_cache_misses=stats.cache_misses,
        filter_negatives=stats.filter_negatives,
        filter_false_positives=stats.filter_false_positives,
        flushes=stats.flushes,
        flushed_bytes=stats.flushed_bytes,
        compactions=stats.compactions,
        compacted_read_bytes=stats.compacted_read_bytes,
        compacted_written_bytes=stats.compacted_written_bytes,
        compaction_pending_bytes=stats.pending_bytes,
        stalled=engine.stalled,
        stalled_s=replica.driver.stalled_s,
        restoring=replica.driver.restoring,
        idempotency_keys=replica.driver.machine.tokens,
        idempotency_bytes=replica.driver.machine.token_bytes,
        volumes={name: (space.total_bytes, space.free_bytes) for name, space in volumes.space.items()},
        disk_low=disk_low,
    )
