"""One node, from its settings to its end.

The order of the start: lock and identify the volumes, start the helper process (before gRPC has threads), open the
ports, read the log and the manifest, find or make the first configuration, then let Raft run. Until then the services
answer that the node is starting. The order of the stop is the reverse.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from concurrent.futures import ThreadPoolExecutor

from doug.v1 import admin_pb2
from doug_wire import native
from doug_wire.descriptors import raise_limit
from raft_node import __version__
from raft_node.app.admin import AdminServer
from raft_node.app.background import Background
from raft_node.app.context import Context
from raft_node.app.descriptors import shares, watch
from raft_node.app.joining import join
from raft_node.app.operator import Operator, RunningParts
from raft_node.app.parts import Parts, attach, build
from raft_node.app.ports import GRACE_S, Ports, open_ports
from raft_node.app.readiness import Readiness
from raft_node.app.state import read_state
from raft_node.app.storage import Opened, open_storage
from raft_node.app.timeline import Timeline
from raft_node.app.vitals import Vitals
from raft_node.errors import FatalError
from raft_node.observability.logs import get_logger
from raft_node.observability.metrics import Metrics, NodeState, StateCollector
from raft_node.observability.tracing import NodeTraces
from raft_node.observability.volumes import Volumes
from raft_node.rpc.security import Security
from raft_node.runtime.disk.helpers import start_helpers
from raft_node.runtime.disk.space import SpaceWatch
from raft_node.runtime.events import EventRing
from raft_node.runtime.faults import Faults
from raft_node.runtime.members import identity as identities
from raft_node.settings import NodeSettings
from raft_node.storage.files import DiskFileSystem

_TEND_EVERY_S = 0.5

_log = get_logger()


class Node:
    """One replica of a shard, as a process."""

    def __init__(
        self,
        settings: NodeSettings,
        fs: DiskFileSystem,
        traces: NodeTraces | None = None,
        faults: Faults | None = None,
    ) -> None:
        """Prepares the node; ``run`` does the work. Requires: both volumes exist and are locked."""
        volumes = {"wal": settings.wal_dir, "data": settings.data_dir}
        metrics = Metrics(settings.shard_id, settings.build_commit)
        timeline = Timeline(EventRing(settings.events_max, settings.events_bytes_max))
        self._context = Context(
            settings=settings,
            fs=fs,
            start_id=secrets.token_hex(8),
            metrics=metrics,
            security=Security(settings, metrics.registry),
            timeline=timeline,
            space=SpaceWatch(fs, volumes, settings.data_dir, settings.reserve_bytes, timeline.record),
            fail=self.fail,
            traces=traces,
            faults=faults,
        )
        if faults is not None:
            faults.record = timeline.record
        self._volumes = Volumes(volumes)
        self._readiness = Readiness()
        self._operator = Operator(settings, timeline.record, self._readiness.show_readiness)
        self._vitals = Vitals(metrics, settings.tick_ms, self._context.security.certificates)
        self._operator.vitals = self._tell_vitals
        self._background = Background(self.fail)
        self._stopping = asyncio.Event()
        self._fatal: FatalError | None = None
        self._wal_replay_s = 0.0
        self._parts: Parts | None = None
        metrics.registry.register(StateCollector(settings.shard_id, self._state))

    def stop(self) -> None:
        """Has ``run`` end in order."""
        self._stopping.set()

    def fail(self, error: FatalError) -> None:
        """Has ``run`` end because of an error after which the node may promise nothing."""
        if self._fatal is None:
            self._fatal = error
            _log.error("node.fatal", reason=str(error))
        if self._parts is not None:
            self._parts.driver.stop()
        self._stopping.set()

    async def run(self) -> None:
        """Runs the node until it is stopped.

        Raises:
            FatalError: The node had to stop.
        """
        context, settings = self._context, self._context.settings
        identity = identities.load_or_create(
            context.fs, settings.wal_dir, settings.data_dir, settings.node_id, settings.shard_id
        )
        self._operator.incarnation = identity.incarnation
        context.timeline.record("process_started", incarnation=identity.incarnation, version=__version__)
        async with contextlib.AsyncExitStack() as stack:
            workers = start_helpers(settings.data_dir, settings.helpers)
            for worker in workers:
                stack.callback(worker.close)
            await stack.enter_async_context(context.security.reloading())
            admin = AdminServer(
                settings.admin_listen,
                context.metrics.registry,
                self._not_ready,
                self._is_started,
                context.security.https,
                shares(raise_limit()).admin,
            )
            ports = await open_ports(stack, context, identity, self._operator, self._readiness, admin)
            identities.check_log_is_there(context.fs, settings.wal_dir, identity)
            opened = await self._open_storage()
            stack.callback(opened.engine.close)
            joined = await join(context, identity, opened, ports.raft, self._stopping)
            if joined is None:
                opened.wal.close()
                return
            parts = self._parts = build(stack, context, joined, opened, workers, self._elected)
            self._start(stack, parts, ports)
            await self._readiness.started()
            _log.info("node.started", incarnation=identity.incarnation, native_modules=native.modules())
            context.timeline.record(
                "node_started", applied=parts.driver.applied_index, last_index=opened.wal.last_index
            )
            await self._stopping.wait()
            await self._end(parts, ports)
        if self._fatal is not None:
            raise self._fatal

    async def _open_storage(self) -> Opened:
        """Reads the log and the manifest on a thread, while the ports already answer that the node is starting."""
        context, loop = self._context, asyncio.get_running_loop()
        with ThreadPoolExecutor(1) as threads:
            opened = await loop.run_in_executor(threads, open_storage, context.fs, context.settings, context.start_id)
        self._wal_replay_s = opened.wal_replay_s
        context.metrics.wal_corrupt_records.inc(len(opened.wal.recovery_notes))
        for note in opened.notes:
            _log.warning("wal.recovered", note=note)
            context.timeline.record("wal_recovered", note=note)
        return opened

    def _start(self, stack: contextlib.AsyncExitStack, parts: Parts, ports: Ports) -> None:
        """Starts the parts, and connects the services and the operators to them."""
        context = self._context
        self._operator.attach(
            RunningParts(parts.replica, parts.log, parts.members.membership, parts.book, parts.snapshots.backups)
        )
        self._operator.is_waiting = lambda: parts.members.standing.is_waiting
        if ports.bearers is not None:
            self._background.start(ports.bearers.run())
        self._background.start(
            parts.peers.run(),
            parts.maintenance.run(),
            self._tend(parts),
            self._volumes.run(),
            context.space.run(),
            parts.scrubber.run(),
            parts.upkeep.run(),
            watch(raise_limit()),
            *parts.members.duties(),
        )

        async def end_tasks() -> None:
            await parts.snapshots.close()
            await parts.members.close()
            await self._background.close()
            parts.maintenance.close()

        stack.push_async_callback(end_tasks)
        attach(context, parts, ports)
        parts.driver.start()

    async def _end(self, parts: Parts, ports: Ports) -> None:
        self._context.timeline.record("node_stopping")
        self._operator.draining = True
        await self._readiness.stop()
        if self._fatal is None:
            # Never released: proposals that are still held when the driver stops are refused.
            await self._operator.settle(parts.driver.hold())
            ports.doug.tell_leader()
            # Clients that still ask here are sent to the leader, while this node goes on as a follower.
            await asyncio.gather(ports.clients.stop(GRACE_S), self._flush(parts))
        parts.driver.stop()

    async def _flush(self, parts: Parts) -> None:
        """Flushes the memtable, so that the next start replays little."""
        flushed = await parts.maintenance.flush(self._context.settings.stop_flush_timeout_ms / 1000)
        self._context.timeline.record("flushed_for_stop", in_time=flushed)

    async def _tend(self, parts: Parts) -> None:
        """Does the checks that are made now and then."""
        shown = False
        while True:
            await asyncio.sleep(_TEND_EVERY_S)
            parts.driver.expire()
            parts.members.membership.promote()
            parts.peers.retain(parts.driver.node.peers)
            await parts.snapshots.tidy()
            ready = not self._not_ready()
            if ready != shown:
                shown = ready
                await self._readiness.show(ready)

    def _elected(self) -> None:
        if self._operator.draining and not self._stopping.is_set():
            self._background.start(self._operator.settle_again())

    # The attributes that others may read.

    def _is_started(self) -> bool:
        return self._parts is not None

    def _not_ready(self) -> str:
        parts = self._parts
        if parts is None:
            return "starting"
        if self._operator.draining:
            return "draining"
        if parts.members.standing.reason:
            return parts.members.standing.reason
        if parts.driver.node.leader is None:
            return "no leader is known"
        return ""

    def _state(self) -> NodeState | None:
        parts = self._parts
        if parts is None:
            return None
        args = parts.replica, parts.engine, parts.log, self._context.metrics, self._wal_replay_s, self._volumes
        return read_state(*args, disk_low=self._context.space.low)

    def _tell_vitals(self) -> admin_pb2.Vitals | None:
        parts, state = self._parts, self._state()
        if parts is None or state is None:
            return None
        return self._vitals.read(parts.driver.node, state, draining=self._operator.draining)
