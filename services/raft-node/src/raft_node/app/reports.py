"""The events of the core and the log: as log lines, as counters, and on the timeline.

It does one thing besides: a node whose log has lost what it acknowledged ends, and never uses these volumes again.
"""

from __future__ import annotations

from collections.abc import Callable

from raft_node.app.context import Context
from raft_node.errors import FatalError, IdentityError
from raft_node.observability.logs import get_logger
from raft_node.raft.ready import Event
from raft_node.runtime.log.store import LogStore
from raft_node.runtime.members.identity import give_up, log_lost

_log = get_logger()


class Reports:
    """Takes the events of a node's parts to its log, its metrics and its timeline."""

    def __init__(
        self, context: Context, log: LogStore, on_elected: Callable[[], None], on_event: Callable[[Event], None]
    ) -> None:
        """Takes the node's surroundings.

        Args:
            context: The node's surroundings.
            log: The log, whose compactions are reported.
            on_elected: Called when this node has become the leader.
            on_event: Takes every event of the core as well.
        """
        self._context = context
        self._log = log
        self._on_elected = on_elected
        self._on_event = on_event

    def event(self, event: Event) -> None:
        """Reports an event of the core."""
        metrics = self._context.metrics
        if event.name == "became_leader":
            metrics.elections.labels(metrics.shard, "won").inc()
        elif event.name == "became_pre_candidate":
            metrics.elections.labels(metrics.shard, "started").inc()
        if event.name in ("became_leader", "follows"):
            metrics.leader_changes.inc()
        _log.info(f"raft.{event.name}", **event.fields)
        self._context.timeline.record(event.name, **event.fields)
        self._on_event(event)
        if event.name == "became_leader":
            self._on_elected()

    def slow_disk(self, duration_s: float, entries: int) -> None:
        """Reports an append to the log that took long."""
        # The duration is not compared, so that a disk that stays slow is one event with a count.
        _log.warning("wal.slow_append", duration_ms=round(duration_s * 1000), entries=entries)
        self._context.timeline.record("slow_disk", longer_than_ms=self._context.settings.slow_append_ms)

    def log_compacted(self, before: int, after: int) -> None:
        """Reports that the log, which began with the entry ``before``, begins with ``after`` now."""
        self._context.metrics.log_compactions.inc()
        _log.debug("log.compacted", first_before=before, first_after=after, disk_bytes=self._log.size_bytes)
        # Named as the entries that are gone: from, to.
        self._context.timeline.record("log_compacted", **{"from": before, "to": after - 1})

    def log_lost(self, acknowledged: int, last_index: int) -> None:
        """Ends the node for ever, because its log has certainly lost acknowledged entries."""
        settings = self._context.settings
        directories = (settings.wal_dir, settings.data_dir)
        reason = log_lost(settings.node_id, settings.shard_id, directories, acknowledged, last_index)
        self._context.fail(IdentityError(reason))
        try:
            give_up(self._context.fs, *directories, reason)
        except FatalError as error:
            _log.error("node.fatal", reason=str(error))
