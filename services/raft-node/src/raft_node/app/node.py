"""One node, from its settings to its end.

The order of the start: lock and identify the volumes, start the helper process (before gRPC has threads), open the
ports, read the log and the manifest, find or make the first configuration, then let Raft run. Until then the services
answer that the node is starting. The order of the stop is the reverse.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from doug.v1 import admin_pb2, admin_pb2_grpc, doug_pb2, doug_pb2_grpc, raft_pb2, raft_pb2_grpc
from raft_node import __version__
from raft_node.app.admin import AdminServer
from raft_node.app.bootstrap import FIRST_TERM, Bootstrap
from raft_node.app.full_disk import give_way
from raft_node.app.operator import Operator, Replica
from raft_node.app.snapshots import SnapshotParts
from raft_node.app.standing import Standing
from raft_node.app.state import read_state
from raft_node.app.storage import first_configuration, open_storage
from raft_node.errors import FatalError, IdentityError, SettingsError
from raft_node.kv.keyspace import CONFIGURATION_KEY
from raft_node.kv.operations.work import Limits
from raft_node.kv.state_machine import StateMachine
from raft_node.observability.logs import follow_term, get_logger
from raft_node.observability.metrics import Metrics, NodeState, StateCollector
from raft_node.observability.tracing import NodeTraces
from raft_node.observability.volumes import Volumes
from raft_node.raft.config import RaftConfig
from raft_node.raft.configuration import decode_configuration, encode_configuration
from raft_node.raft.node import RaftNode
from raft_node.raft.ready import Event
from raft_node.raft.types import NO_MEMBERS, Configuration, HardState, NodeId
from raft_node.rpc.addresses import AddressBook
from raft_node.rpc.admin_service import AdminService
from raft_node.rpc.channels import SERVER_OPTIONS
from raft_node.rpc.doug_service import DougService
from raft_node.rpc.identify import identify
from raft_node.rpc.interceptor import CountingInterceptor
from raft_node.rpc.peers import LocalMember, Peers
from raft_node.rpc.raft_service import RaftService
from raft_node.rpc.security import Security
from raft_node.rpc.shard import Shard
from raft_node.runtime import identity as identities
from raft_node.runtime.clocks import LeaseClock
from raft_node.runtime.divergence import StateMarks
from raft_node.runtime.driver import Driver
from raft_node.runtime.events import EventRing
from raft_node.runtime.log_store import LogStore, to_raft, to_wal
from raft_node.runtime.maintenance import Maintenance
from raft_node.runtime.membership import Identified, MemberEvents, Membership
from raft_node.runtime.prefetch import Prefetcher
from raft_node.runtime.reader import Reader
from raft_node.runtime.scans import ScanLimits
from raft_node.runtime.scrubber import Scrubber
from raft_node.runtime.space import SpaceWatch
from raft_node.runtime.upkeep import Upkeep
from raft_node.runtime.worker_process import WorkerProcess
from raft_node.settings import NodeSettings
from raft_node.storage.engine import Engine
from raft_node.storage.files import DiskFileSystem
from raft_node.storage.wal import Wal

_EXPIRE_EVERY_S = 0.5
_GRACE_S = 1.0
_IDENTIFY_TIMEOUT_S = 2.0
_PEER_GRACE_S = 0.1  # Raft loses messages without harm.

_log = get_logger()


def raft_config(settings: NodeSettings) -> RaftConfig:
    """The settings as the core wants them: in ticks."""
    tick_ms = settings.tick_ms
    return RaftConfig(
        election_timeout_ticks=settings.election_timeout_ms // tick_ms,
        election_timeout_ticks_max=settings.election_timeout_max_ms // tick_ms,
        heartbeat_ticks=max(1, settings.heartbeat_ms // tick_ms),
        inflight_appends_max=settings.replicate_window,
        append_bytes_max=settings.replicate_bytes_max,
        uncommitted_bytes_max=settings.uncommitted_bytes_max,
        cache_bytes_max=settings.log_cache_bytes,
        # Applied in one go: some milliseconds of small entries, in which the event loop does nothing else.
        committed_bytes_max=256 << 10,
        lease_ticks=settings.lease_ticks if settings.leader_lease_enabled else 0,
    )


class Node:
    """One replica of a shard, as a process."""

    def __init__(self, settings: NodeSettings, fs: DiskFileSystem, traces: NodeTraces | None = None) -> None:
        """Prepares it; ``run`` does everything. Requires: both volumes exist and are locked."""
        self._settings = settings
        self._fs = fs
        self._traces = traces
        self._metrics = Metrics(settings.shard_id, settings.build_commit)
        self._security = Security(settings, self._metrics.registry)
        volumes = {"wal": settings.wal_dir, "data": settings.data_dir}
        self._volumes = Volumes(volumes)
        self._wal_replay_s = 0.0
        self._stopping = asyncio.Event()
        self._fatal: FatalError | None = None
        self._engine: Engine | None = None
        self._log: LogStore | None = None
        self._maintenance: Maintenance | None = None
        self._start_id = ""
        self._shard: Shard | None = None
        self._health: health.aio.HealthServicer | None = None
        self._drains: set[asyncio.Task[None]] = set()
        self._events = EventRing(settings.events_max, settings.events_bytes_max)
        self._operator = Operator(settings, self.record, self._show_drained)
        self._space = SpaceWatch(fs, volumes, settings.data_dir, settings.reserve_bytes, self.record)
        self._standing: Standing | None = None
        self._member_events: MemberEvents | None = None
        self._metrics.registry.register(StateCollector(settings.shard_id, self._state))

    def stop(self) -> None:
        """Has ``run`` end in order."""
        self._stopping.set()

    def fail(self, error: FatalError) -> None:
        """Has ``run`` end because nothing may be promised any more."""
        if self._fatal is None:
            self._fatal = error
            _log.error("node.fatal", reason=str(error))
        if self._shard is not None:
            self._shard.driver.stop()
        self._stopping.set()

    def _end_with(self, task: asyncio.Task[None]) -> None:
        """A background task that ends by itself: without it the node would only seem to live."""
        if not task.cancelled() and (error := task.exception()) is not None:
            if not isinstance(error, FatalError):
                raise error  # A defect, after which nothing of this process can be trusted.
            self.fail(error)

    async def run(self) -> None:
        """Runs the node until it is stopped.

        Raises:
            FatalError: It had to stop.
        """
        settings = self._settings
        identity = identities.load_or_create(
            self._fs, settings.wal_dir, settings.data_dir, settings.node_id, settings.shard_id
        )
        self._operator.incarnation = identity.incarnation
        self.record("process_started", incarnation=identity.incarnation, version=__version__)
        async with contextlib.AsyncExitStack() as stack:
            self._start_id = secrets.token_hex(8)
            worker = WorkerProcess(settings.data_dir)
            stack.callback(worker.close)
            await stack.enter_async_context(self._security.reloading())
            raft_service, doug_service, health_service, client_server = await self._open_ports(stack, identity)
            identities.check_log_is_there(self._fs, settings.wal_dir, identity)
            wal, engine = await self._open_storage(self._start_id)
            stack.callback(engine.close)
            self._engine = engine
            identity, configuration = await self._join(identity, wal, engine, raft_service)
            if configuration is None:
                wal.close()
                return
            await self._run_shard(stack, identity, configuration, wal, engine, worker, raft_service, doug_service)
            await health_service.set("startup", health_pb2.HealthCheckResponse.SERVING)
            _log.info("node.started", incarnation=identity.incarnation)
            assert self._shard is not None
            self.record("node_started", applied=self._shard.driver.applied_index, last_index=wal.last_index)
            await self._stopping.wait()
            self.record("node_stopping")
            self._operator.draining = True
            await health_service.enter_graceful_shutdown()
            if self._fatal is None:
                # Never released: what is still held when the driver stops is refused.
                await self._operator.settle(self._shard.driver.hold())
                doug_service.tell_leader()
                # Whoever still asks here is told where to go, while this node goes on as a follower.
                await asyncio.gather(client_server.stop(_GRACE_S), self._flush())
            self._shard.driver.stop()
        if self._fatal is not None:
            raise self._fatal

    async def _open_ports(
        self, stack: contextlib.AsyncExitStack, identity: identities.Identity
    ) -> tuple[RaftService, DougService, health.aio.HealthServicer, grpc.aio.Server]:
        settings = self._settings
        me = NodeId(identity.name, identity.incarnation)
        raft_service = RaftService(me, settings.shard_id, self._metrics, self._traces)
        raft_service.cluster_id = identity.cluster_id.encode()
        doug_service = DougService(self._metrics, self._traces)
        health_service = self._health = health.aio.HealthServicer()
        for service in ("", "readiness", "startup"):
            await health_service.set(service, health_pb2.HealthCheckResponse.NOT_SERVING)
        await health_service.set("liveness", health_pb2.HealthCheckResponse.SERVING)

        admin = AdminServer(
            settings.admin_listen, self._metrics.registry, self._not_ready, self._is_started, self._security.https
        )
        admin_task = asyncio.create_task(admin.run())
        peer_server, client_server = (
            grpc.aio.server(interceptors=(CountingInterceptor(self._metrics, self.fail),), options=SERVER_OPTIONS)
            for _ in range(2)
        )
        raft_pb2_grpc.add_RaftServicer_to_server(raft_service, peer_server)
        doug_pb2_grpc.add_DougServicer_to_server(doug_service, client_server)
        admin_pb2_grpc.add_AdminServicer_to_server(
            AdminService(settings.node_id, settings.shard_id, self._operator, self._events), client_server
        )
        own = {
            peer_server: (raft_pb2.DESCRIPTOR.services_by_name["Raft"].full_name,),
            client_server: (
                doug_pb2.DESCRIPTOR.services_by_name["Doug"].full_name,
                admin_pb2.DESCRIPTOR.services_by_name["Admin"].full_name,
            ),
        }
        for server, names in own.items():
            health_pb2_grpc.add_HealthServicer_to_server(health_service, server)
            reflection.enable_server_reflection((*names, health.SERVICE_NAME, reflection.SERVICE_NAME), server)

        async def close_ports() -> None:
            admin.stop()
            await asyncio.gather(peer_server.stop(_PEER_GRACE_S), client_server.stop(_GRACE_S), admin_task)

        stack.push_async_callback(close_ports)
        for server, address, what in (
            (peer_server, settings.peer_listen, "peer"),
            (client_server, settings.client_listen, "client"),
        ):
            try:
                self._security.add_port(server, address)
            except RuntimeError as error:
                raise SettingsError(f"cannot listen on {address} ({what}): is the port taken?") from error
            await server.start()
        return raft_service, doug_service, health_service, client_server

    async def _open_storage(self, start_id: str) -> tuple[Wal, Engine]:
        """Reads the log and the manifest on a thread, while the ports already answer that the node is starting."""
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1) as threads:
            opened = await loop.run_in_executor(threads, open_storage, self._fs, self._settings, start_id)
        self._wal_replay_s = opened.wal_replay_s
        self._metrics.wal_corrupt_records.inc(len(opened.wal.recovery_notes))
        for note in opened.notes:
            _log.warning("wal.recovered", note=note)
            self.record("wal_recovered", note=note)
        return opened.wal, opened.engine

    async def _join(
        self, identity: identities.Identity, wal: Wal, engine: Engine, raft_service: RaftService
    ) -> tuple[identities.Identity, Configuration | None]:
        """The identity within the cluster and the applied members; None when the node was stopped while it waited."""
        settings = self._settings
        me = NodeId(identity.name, identity.incarnation)
        if wal.last_index == 0:
            bootstrap = Bootstrap(settings, me, identity.cluster_id, self._security.certificates)
            joining = asyncio.create_task(bootstrap.run())
            stopping = asyncio.create_task(self._stopping.wait())
            await asyncio.wait((joining, stopping), return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            if not joining.done():
                joining.cancel()
                await asyncio.gather(joining, return_exceptions=True)
                return identity, None
            first = joining.result()
            # The cluster's id before the entry: a log with entries always belongs to a known cluster.
            identity = identities.join_cluster(
                self._fs, settings.wal_dir, settings.data_dir, identity, first.cluster_id
            )
            if first.entry is not None:
                # Durable before this member tells it on, and before it votes.
                wal.publish(wal.append(to_wal(HardState(FIRST_TERM, None, 1)), None, [first.entry]))
        raft_service.cluster_id = identity.cluster_id.encode()
        raft_service.first_configuration = first_configuration(self._fs, settings.data_dir, wal)
        # What is not applied yet, the core finds in the log: the first configuration too.
        stored = engine.get_blocking(CONFIGURATION_KEY)
        return identity, NO_MEMBERS if stored is None else decode_configuration(stored)

    async def _run_shard(
        self,
        stack: contextlib.AsyncExitStack,
        identity: identities.Identity,
        configuration: Configuration,
        wal: Wal,
        engine: Engine,
        worker: WorkerProcess,
        raft_service: RaftService,
        doug_service: DougService,
    ) -> None:
        settings = self._settings
        me = NodeId(identity.name, identity.incarnation)
        local = LocalMember(me, identity.cluster_id.encode(), settings.shard_id, settings.client_address)
        peers = Peers(local, self._metrics, self._security.certificates, self._traces)
        # The driver is made of the log and the maintenance, and both report to it.
        log = self._log = self._make_log(wal, lambda sequence: driver.durable(sequence))  # noqa: PLW0108
        stack.callback(log.close)
        machine = StateMachine(engine)
        draws = random.Random(secrets.randbits(64))  # noqa: S311 - it only draws election timeouts
        config, hard_state, applied = raft_config(settings), to_raft(wal.hard_state), engine.applied_index
        core = RaftNode(config, me, log, hard_state, configuration, applied, draws, machine.clock_us)
        maintenance = self._maintenance = Maintenance(
            engine,
            worker,
            self._metrics,
            lambda: snapshots.flushed(),  # noqa: PLW0108
            self.fail,
            self.record,
            self._space.notice,
            idle_s=settings.idle_merge_ms / 1000,
            room_bytes=self._space.room_bytes,
        )

        prefetcher = Prefetcher(engine, self.fail)
        stack.callback(prefetcher.close)

        def on_applied() -> None:
            maintenance.poke()
            marks.look()
            upkeep.poke()

        driver = self._make_driver(
            core,
            log,
            machine,
            engine,
            peers,
            on_applied,
            lambda wanted: snapshots.wanted(wanted),  # noqa: PLW0108
            prefetcher,
        )
        upkeep = Upkeep(driver, engine, Limits(settings.idempotency_kept_ms * 1000, settings.idempotency_keys_max))
        marks = StateMarks(
            settings.state_hash_every,
            lambda: (core.role, core.term, driver.applied_index, driver.machine),
            driver.propose,
            self._metrics,
            self.record,
        )
        snapshots = self._make_snapshots(driver, log, engine, maintenance, peers)
        limits = ScanLimits(settings.scans_max, settings.scan_hold_ms / 1000, settings.scan_idle_ms / 1000)
        reader = Reader(engine, self.fail, lambda: driver.machine.visibility, limits)
        stack.callback(reader.close)
        self._shard = Shard(settings.node_id, settings.shard_id, driver, reader, peers)
        book = AddressBook(settings.peer_addresses, lambda: core.configuration)
        peers.connect(book.find, driver.receive, driver.peer_unreachable)
        membership = self._attach_members(identity, driver, book, log, raft_service, snapshots)
        self._start_tasks(stack, peers, maintenance, driver, membership, snapshots, book, upkeep)
        raft_service.attach(peers, driver.receive, snapshots.service)
        doug_service.attach(self._shard)
        driver.start()

    def _make_snapshots(
        self, driver: Driver, log: LogStore, engine: Engine, maintenance: Maintenance, peers: Peers
    ) -> SnapshotParts:
        return SnapshotParts(
            self._settings,
            self._fs,
            self._start_id,
            driver,
            log,
            engine,
            maintenance,
            peers,
            self._metrics,
            self.record,
            self.fail,
            self._security.certificates,
            self._space.room_bytes,
        )

    def _make_scrubber(self) -> Scrubber:
        assert self._engine is not None
        every_s, bytes_s = self._settings.scrub_every_ms / 1000, self._settings.scrub_bytes_per_s
        return Scrubber(self._engine.tables, bytes_s, every_s, self._metrics, self.record)

    def _make_log(self, wal: Wal, on_durable: Callable[[int], None]) -> LogStore:
        return LogStore(
            wal,
            self._metrics,
            on_durable,
            self.fail,
            slow_s=self._settings.slow_append_ms / 1000,
            on_slow=self._tell_slow_disk,
            on_compacted=self._tell_compaction,
            on_full=self._space.notice,
            traces=self._traces,
        )

    def _attach_members(
        self,
        identity: identities.Identity,
        driver: Driver,
        book: AddressBook,
        log: LogStore,
        raft_service: RaftService,
        snapshots: SnapshotParts,
    ) -> Membership:
        """What has to do with members and terms: changes, how this node stands, and what others are told of them."""
        core, settings = driver.node, self._settings
        follow_term(lambda: core.term)
        cluster_id = identity.cluster_id.encode()

        async def who_is(address: str) -> Identified | None:
            found = await identify(
                address, settings.shard_id, settings.node_id, _IDENTIFY_TIMEOUT_S, self._security.certificates
            )
            if found is None:
                return None
            member = NodeId(found.member.name, found.member.incarnation)
            return Identified(member, found.shard, found.cluster_id.decode())

        def applied() -> tuple[bytes, int]:
            configuration = core.applied_configuration
            return (
                (b"", 0) if configuration == NO_MEMBERS else (encode_configuration(configuration), core.applied_index)
            )

        membership = Membership(driver, settings.shard_id, identity.cluster_id, who_is, settings.peer_addresses)
        assert self._shard is not None
        self._operator.attach(Replica(self._shard, log, membership, book, snapshots.backups))
        self._member_events = MemberEvents(core.applied_configuration, self.record)
        self._standing = Standing(
            core.id,
            settings.shard_id,
            cluster_id,
            lambda: (core.configuration, max(core.configuration_index, core.applied_index)),
            lambda: core.leader is not None,
            book.all,
            self.record,
            self._security.certificates,
        )
        raft_service.configuration = applied
        raft_service.disk_low = lambda: self._space.low
        return membership

    def _make_driver(
        self,
        core: RaftNode,
        log: LogStore,
        machine: StateMachine,
        engine: Engine,
        peers: Peers,
        on_applied: Callable[[], None],
        on_snapshots_wanted: Callable[[Sequence[NodeId]], None],
        prefetcher: Prefetcher,
    ) -> Driver:
        settings = self._settings
        return Driver(
            core,
            log,
            machine,
            engine,
            peers,
            self._metrics,
            tick_ms=settings.tick_ms,
            proposal_timeout_ms=settings.proposal_timeout_ms,
            shard=settings.shard_id,
            shards=settings.initial_shards,
            on_event=self._tell,
            on_applied=on_applied,
            on_snapshots_wanted=on_snapshots_wanted,
            on_failure=self.fail,
            load=prefetcher.load,
            disk_full=lambda: self._space.low,
            traces=self._traces,
            lease_clock=LeaseClock(settings.tick_ms).now if settings.leader_lease_enabled else None,
        )

    def _start_tasks(
        self,
        stack: contextlib.AsyncExitStack,
        peers: Peers,
        maintenance: Maintenance,
        driver: Driver,
        membership: Membership,
        snapshots: SnapshotParts,
        book: AddressBook,
        upkeep: Upkeep,
    ) -> None:
        settings, standing = self._settings, self._standing
        assert standing is not None
        tasks = [
            asyncio.create_task(peers.run()),
            asyncio.create_task(maintenance.run()),
            asyncio.create_task(upkeep.run()),
            asyncio.create_task(standing.run()),
            asyncio.create_task(self._expire(driver, peers, membership, snapshots)),
            asyncio.create_task(self._volumes.run()),
            asyncio.create_task(self._space.run()),
            asyncio.create_task(self._make_scrubber().run()),
            asyncio.create_task(give_way(self._space, driver, settings, book.find, self._security.certificates)),
        ]

        for task in tasks:
            task.add_done_callback(self._end_with)

        async def end_tasks() -> None:
            await snapshots.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            maintenance.close()

        stack.push_async_callback(end_tasks)

    async def _show_readiness(self, ready: bool, services: Sequence[str] = ("", "readiness")) -> None:
        status = health_pb2.HealthCheckResponse.SERVING if ready else health_pb2.HealthCheckResponse.NOT_SERVING
        assert self._health is not None
        for service in services:
            await self._health.set(service, status)

    async def _show_drained(self, ready: bool) -> None:
        await self._show_readiness(ready, ("readiness",))

    async def _expire(self, driver: Driver, peers: Peers, membership: Membership, snapshots: SnapshotParts) -> None:
        shown = False
        while True:
            await asyncio.sleep(_EXPIRE_EVERY_S)
            driver.expire()
            membership.promote()
            peers.retain(driver.node.peers)
            await snapshots.tidy()
            ready = not self._not_ready()
            if ready != shown:
                shown = ready
                await self._show_readiness(ready)

    def _tell(self, event: Event) -> None:
        if event.name == "became_leader":
            self._metrics.elections.labels(self._metrics.shard, "won").inc()
        elif event.name == "became_pre_candidate":
            self._metrics.elections.labels(self._metrics.shard, "started").inc()
        if event.name in ("became_leader", "follows"):
            self._metrics.leader_changes.inc()
        _log.info(f"raft.{event.name}", **event.fields)
        self.record(event.name, **event.fields)
        if event.name == "configuration_committed" and self._member_events is not None:
            assert self._shard is not None
            self._member_events.committed(self._shard.driver.node.configuration)
        if event.name == "log_lost":
            self._give_up(event)
        if event.name == "became_leader" and self._operator.draining and not self._stopping.is_set():
            assert self._shard is not None
            again = asyncio.create_task(self._operator.settle_again())
            self._drains.add(again)
            again.add_done_callback(self._drains.discard)
            again.add_done_callback(self._end_with)

    def _give_up(self, event: Event) -> None:
        settings, ends = self._settings, (event.fields["acknowledged"], event.fields["last_index"])
        directories = (settings.wal_dir, settings.data_dir)
        reason = identities.log_lost(settings.node_id, settings.shard_id, directories, *ends)
        self.fail(IdentityError(reason))
        try:
            identities.give_up(self._fs, *directories, reason)
        except FatalError as error:
            _log.error("node.fatal", reason=str(error))

    def _tell_slow_disk(self, duration_s: float, entries: int) -> None:
        # The duration is left out of what is compared, so that a disk that stays slow is one event with a count.
        _log.warning("wal.slow_append", duration_ms=round(duration_s * 1000), entries=entries)
        self.record("slow_disk", longer_than_ms=self._settings.slow_append_ms)

    def _tell_compaction(self, before: int, after: int) -> None:
        assert self._log is not None
        self._metrics.log_compactions.inc()
        _log.debug("log.compacted", first_before=before, first_after=after, disk_bytes=self._log.size_bytes)
        # Named as the entries that are gone: from, to.
        self.record("log_compacted", **{"from": before, "to": after - 1})

    def record(self, name: str, **details: object) -> None:
        """Notes what happened, for the timeline; a core's event brings the term that it speaks of."""
        shard = self._shard
        term = details.pop("term", None)
        if not isinstance(term, int):
            term = 0 if shard is None else shard.driver.node.term
        self._events.add(name, term, details)

    async def _flush(self) -> None:
        """Has what is in memory written as an SSTable, so that the next start replays little."""
        assert self._maintenance is not None
        flushed = await self._maintenance.flush(self._settings.stop_flush_timeout_ms / 1000)
        self.record("flushed_for_stop", in_time=flushed)

    def _is_started(self) -> bool:
        return self._shard is not None

    def _not_ready(self) -> str:
        shard = self._shard
        if shard is None:
            return "starting"
        if self._operator.draining:
            return "draining"
        if self._standing is not None and self._standing.reason:
            return self._standing.reason
        if shard.driver.node.leader is None:
            return "no leader is known"
        return ""

    def _state(self) -> NodeState | None:
        shard, engine, log = self._shard, self._engine, self._log
        if shard is None or engine is None or log is None:
            return None
        args = shard, engine, log, self._metrics, self._wal_replay_s, self._volumes
        return read_state(*args, disk_low=self._space.low)
