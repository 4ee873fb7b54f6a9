"""Ties the parts together that make, send, receive and install snapshots and backups, and that let the log go.

It only builds, ticks and closes them; what each does is said in its own module.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from raft_node.app.context import Context
from raft_node.raft.types import NodeId
from raft_node.rpc.raft.peers import Peers
from raft_node.rpc.snapshots.backup_stream import BackupStream
from raft_node.rpc.snapshots.sender import SenderLimits, SnapshotSender
from raft_node.rpc.snapshots.service import SnapshotService
from raft_node.runtime.disk.maintenance import Maintenance
from raft_node.runtime.driver import Driver
from raft_node.runtime.log.store import LogStore
from raft_node.runtime.log.trimmer import LogTrimmer
from raft_node.runtime.snapshots.backups import Backups
from raft_node.runtime.snapshots.installer import Installer
from raft_node.runtime.snapshots.keeper import Snapshots
from raft_node.storage.engine import Engine
from raft_node.storage.merges.tasks import tmp_directory


class SnapshotParts:
    """The parts of one node that have to do with snapshots and backups.

    Attributes:
        service: Receives the snapshots that come in on the Raft service.
        backups: Sends this node's state for a backup.
    """

    def __init__(
        self,
        context: Context,
        driver: Driver,
        log: LogStore,
        engine: Engine,
        maintenance: Maintenance,
        peers: Peers,
    ) -> None:
        """Builds the parts. Requires: a running event loop."""
        settings, fs, metrics = context.settings, context.fs, context.metrics
        record, on_failure = context.timeline.record, context.fail
        # One thread receives and installs snapshots in order; others make and read those to be sent.
        self._receiving = ThreadPoolExecutor(1, thread_name_prefix="snapshot-in")
        self._sending = ThreadPoolExecutor(2, thread_name_prefix="snapshot-out")
        self._driver = driver
        self._snapshots = Snapshots(
            fs,
            engine,
            tmp_directory(settings.data_dir, context.start_id),
            self._sending,
            asyncio.get_running_loop().time,
            partial(metrics.snapshot_done, "create"),
        )
        self._sender = SnapshotSender(
            self._snapshots,
            driver,
            peers.me,
            peers.address_of,
            fs,
            self._sending,
            SenderLimits(settings.snapshot_chunk_bytes, settings.snapshot_timeout_ms / 1000),
            metrics,
            record,
            on_failure,
            context.security.certificates,
        )
        backups = Backups(driver, maintenance.flush, self._snapshots)
        self.backups = BackupStream(backups, peers.me, settings, fs, self._sending, record, on_failure)
        installer = Installer(fs, settings.data_dir, driver, engine, log, maintenance, self._receiving)
        self.service = SnapshotService(
            fs,
            settings.data_dir,
            installer,
            self._receiving,
            peers.me,
            lambda: driver.node.term,
            metrics,
            record,
            on_failure,
            context.space.room_bytes,
        )
        self._log_trimmer = LogTrimmer(
            log,
            engine,
            settings.log_keep_bytes,
            settings.log_bytes_max,
            lambda: driver.node.slowest_healthy_match,
            lambda: self._snapshots.indexes,
            maintenance.hurry,
        )

    def wanted(self, peers: Sequence[NodeId]) -> None:
        """Sends snapshots to the peers that the core has named."""
        self._sender.wanted(peers)

    def flushed(self) -> None:
        """Lets applying go on and trims the log, since a flush or a compaction has ended."""
        self._driver.wake()
        self._compact()

    def _compact(self) -> None:
        if not self._driver.restoring:
            self._log_trimmer.look()

    async def tidy(self) -> None:
        """Trims the log, and removes snapshots that nobody uses; called now and then."""
        self._compact()
        await self._snapshots.tidy()

    async def close(self) -> None:
        """Ends all transfers. Requires: the driver was stopped."""
        await self._sender.close()
        await self.service.close()
        self._sending.shutdown()
        self._receiving.shutdown()
