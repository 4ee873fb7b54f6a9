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
from raft_node.app.figures import node_state
from raft_node.app.snapshots import SnapshotParts
from raft_node.app.storage import check_incarnation, first_configuration, open_storage, stored_configuration
from raft_node.errors import (
    AlreadyLeaderError,
    FatalError,
    NotLeaderError,
    SettingsError,
    TransferFailedError,
    UnavailableError,
    UnknownMemberError,
)
from raft_node.kv.state_machine import StateMachine
from raft_node.observability.logs import get_logger
from raft_node.observability.metrics import Metrics, NodeState, StateCollector
from raft_node.raft.config import RaftConfig
from raft_node.raft.node import RaftNode
from raft_node.raft.ready import Event
from raft_node.raft.types import Configuration, HardState, NodeId, Role
from raft_node.rpc.admin_service import AdminService, Leadership
from raft_node.rpc.channels import SERVER_OPTIONS
from raft_node.rpc.doug_service import DougService
from raft_node.rpc.peers import LocalMember, Peers
from raft_node.rpc.raft_service import RaftService
from raft_node.rpc.shard import Shard
from raft_node.runtime import identity as identities
from raft_node.runtime.drain import drain
from raft_node.runtime.driver import Driver
from raft_node.runtime.events import EventRing
from raft_node.runtime.log_store import LogStore, to_raft, to_wal
from raft_node.runtime.maintenance import Maintenance
from raft_node.runtime.reader import Reader
from raft_node.runtime.worker_process import WorkerProcess
from raft_node.settings import NodeSettings
from raft_node.storage.engine import Engine
from raft_node.storage.files import FileSystem
from raft_node.storage.wal import Wal

_EXPIRE_EVERY_S = 0.5
_GRACE_S = 1.0
_PEER_GRACE_S = 0.1
"""Raft loses messages without harm."""

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
    )


def _end_with(task: asyncio.Task[None]) -> None:
    """A background task that ends by itself has met a defect: without it the node would only seem to live."""
    if not task.cancelled() and (error := task.exception()) is not None:
        raise error


class Node:
    """One replica of a shard, as a process."""

    def __init__(self, settings: NodeSettings, fs: FileSystem) -> None:
        """Prepares it; ``run`` does everything. Requires: both volumes exist and are locked."""
        self._settings = settings
        self._fs = fs
        self._metrics = Metrics(settings.shard_id)
        self._stopping = asyncio.Event()
        self._fatal: FatalError | None = None
        self._engine: Engine | None = None
        self._log: LogStore | None = None
        self._maintenance: Maintenance | None = None
        self._start_id = ""
        self._shard: Shard | None = None
        self._incarnation = 0
        self._draining = False
        self._health: health.aio.HealthServicer | None = None
        self._drains: set[asyncio.Task[None]] = set()
        self._events = EventRing(settings.events_max, settings.events_bytes_max)
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

    async def run(self) -> None:
        """Runs the node until it is stopped.

        Raises:
            FatalError: It had to stop.
        """
        settings = self._settings
        identity = identities.load_or_create(
            self._fs, settings.wal_dir, settings.data_dir, settings.node_id, settings.shard_id
        )
        self._incarnation = identity.incarnation
        self.record("process_started", incarnation=identity.incarnation, version=__version__)
        async with contextlib.AsyncExitStack() as stack:
            start_id = secrets.token_hex(8)
            worker = WorkerProcess(settings.data_dir)
            stack.callback(worker.close)
            raft_service, doug_service, health_service, client_server = await self._open_ports(stack, identity)
            identities.check_log_is_there(self._fs, settings.wal_dir, identity)
            wal, engine = await self._open_storage(start_id)
            self._start_id = start_id
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
            self._draining = True
            await health_service.enter_graceful_shutdown()
            if self._fatal is None:
                await self._hand_over_and_settle(self._shard)
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
        raft_service = RaftService(NodeId(identity.name, identity.incarnation), settings.shard_id, self._metrics)
        raft_service.cluster_id = identity.cluster_id.encode()
        doug_service = DougService(self._metrics)
        health_service = self._health = health.aio.HealthServicer()
        await health_service.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
        await health_service.set("readiness", health_pb2.HealthCheckResponse.NOT_SERVING)
        await health_service.set("startup", health_pb2.HealthCheckResponse.NOT_SERVING)
        await health_service.set("liveness", health_pb2.HealthCheckResponse.SERVING)

        admin = AdminServer(settings.admin_listen, self._metrics.registry, self._not_ready, self._is_started)
        admin_task = asyncio.create_task(admin.run())
        peer_server = grpc.aio.server(options=SERVER_OPTIONS)
        client_server = grpc.aio.server(options=SERVER_OPTIONS)
        raft_pb2_grpc.add_RaftServicer_to_server(raft_service, peer_server)
        doug_pb2_grpc.add_DougServicer_to_server(doug_service, client_server)
        admin_pb2_grpc.add_AdminServicer_to_server(
            AdminService(settings.node_id, settings.shard_id, self, self._events), client_server
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
                server.add_insecure_port(address)
            except RuntimeError as error:
                raise SettingsError(f"cannot listen on {address} ({what}): is the port taken?") from error
            await server.start()
        return raft_service, doug_service, health_service, client_server

    async def _open_storage(self, start_id: str) -> tuple[Wal, Engine]:
        """Reads the log and the manifest on a thread, while the ports already answer that the node is starting."""
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1) as threads:
            opened = await loop.run_in_executor(threads, open_storage, self._fs, self._settings, start_id)
        for note in opened.notes:
            _log.warning("wal.recovered", note=note)
            self.record("wal_recovered", note=note)
        return opened.wal, opened.engine

    async def _join(
        self, identity: identities.Identity, wal: Wal, engine: Engine, raft_service: RaftService
    ) -> tuple[identities.Identity, Configuration | None]:
        """The identity within the cluster and the configuration; None when the node was stopped while it waited."""
        settings = self._settings
        me = NodeId(identity.name, identity.incarnation)
        if wal.last_index == 0:
            joining = asyncio.create_task(Bootstrap(settings, me, identity.cluster_id).run())
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
            # Durable before this member tells it on, and before it votes.
            wal.publish(wal.append(to_wal(HardState(FIRST_TERM, None, 1)), None, [first.entry]))
        configuration = stored_configuration(wal, engine)
        check_incarnation(configuration, me)
        raft_service.cluster_id = identity.cluster_id.encode()
        raft_service.first_configuration = first_configuration(self._fs, settings.data_dir, wal)
        return identity, configuration

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
        peers = Peers(
            LocalMember(me, identity.cluster_id.encode(), settings.shard_id, settings.client_address), self._metrics
        )
        # The driver is made of the log and the maintenance, and both report to it.
        log = self._make_log(wal, lambda sequence: driver.durable(sequence))  # noqa: PLW0108
        stack.callback(log.close)
        self._log = log
        machine = StateMachine(engine)
        core = RaftNode(
            raft_config(settings),
            me,
            log,
            to_raft(wal.hard_state),
            configuration,
            engine.applied_index,
            random.Random(secrets.randbits(64)),  # noqa: S311 - it only draws election timeouts
            machine.clock_us,
        )
        maintenance = Maintenance(
            engine,
            worker,
            self._metrics,
            lambda: snapshots.flushed(),  # noqa: PLW0108
            self.fail,
            self.record,
        )
        self._maintenance = maintenance
        driver = self._make_driver(
            core,
            log,
            machine,
            engine,
            peers,
            maintenance,
            lambda wanted: snapshots.wanted(wanted),  # noqa: PLW0108
        )
        snapshots = SnapshotParts(
            settings,
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
        )
        reader = Reader(engine, self.fail)
        stack.callback(reader.close)
        self._shard = Shard(settings.node_id, settings.shard_id, driver, reader, peers)
        peers.connect(self._addresses_of_others(configuration, me), driver.receive, driver.peer_unreachable)
        self._start_tasks(stack, peers, maintenance, driver, snapshots)
        raft_service.attach(peers, driver.receive, snapshots.service)
        doug_service.attach(self._shard)
        driver.start()

    def _make_log(self, wal: Wal, on_durable: Callable[[int], None]) -> LogStore:
        return LogStore(
            wal,
            self._metrics,
            on_durable,
            self.fail,
            slow_s=self._settings.slow_append_ms / 1000,
            on_slow=self._tell_slow_disk,
            on_compacted=self._tell_compaction,
        )

    def _make_driver(
        self,
        core: RaftNode,
        log: LogStore,
        machine: StateMachine,
        engine: Engine,
        peers: Peers,
        maintenance: Maintenance,
        on_snapshots_wanted: Callable[[Sequence[NodeId]], None],
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
            on_applied=maintenance.poke,
            on_snapshots_wanted=on_snapshots_wanted,
        )

    def _start_tasks(
        self,
        stack: contextlib.AsyncExitStack,
        peers: Peers,
        maintenance: Maintenance,
        driver: Driver,
        snapshots: SnapshotParts,
    ) -> None:
        tasks = [
            asyncio.create_task(peers.run()),
            asyncio.create_task(maintenance.run()),
            asyncio.create_task(self._expire(driver, snapshots)),
        ]

        for task in tasks:
            task.add_done_callback(_end_with)

        async def end_tasks() -> None:
            await snapshots.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            maintenance.close()

        stack.push_async_callback(end_tasks)

    def _addresses_of_others(self, configuration: Configuration, me: NodeId) -> dict[NodeId, str]:
        addresses = self._settings.peer_addresses
        unknown = sorted(member.name for member in configuration.voters if member.name not in addresses)
        if unknown:
            raise SettingsError(f"DOUGDB_PEERS has no address of {', '.join(unknown)}")
        return {member: addresses[member.name] for member in configuration.voters if member != me}

    async def _show_readiness(self, ready: bool) -> None:
        status = health_pb2.HealthCheckResponse.SERVING if ready else health_pb2.HealthCheckResponse.NOT_SERVING
        assert self._health is not None
        await self._health.set("", status)
        await self._health.set("readiness", status)

    async def _expire(self, driver: Driver, snapshots: SnapshotParts) -> None:
        shown = False
        while True:
            await asyncio.sleep(_EXPIRE_EVERY_S)
            driver.expire()
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
        if event.name == "became_leader" and self._draining and not self._stopping.is_set():
            assert self._shard is not None
            again = asyncio.create_task(self._hand_over_again(self._shard))
            self._drains.add(again)
            again.add_done_callback(self._drains.discard)
            again.add_done_callback(_end_with)

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

    # What operators ask for.

    async def transfer_leadership(self, target: str) -> Leadership:
        """See ``Operated``."""
        shard = self._leading_shard()
        core = shard.driver.node
        members = {member.name: member for member in (*core.configuration.voters, *core.configuration.learners)}
        if target and target not in members:
            raise UnknownMemberError(f"shard {shard.number} has no member {target}")
        if target == core.id.name:
            raise AlreadyLeaderError(f"{target} leads already")
        timeout_s = self._settings.drain_timeout_ms / 1000
        leader = await shard.driver.hand_over(members[target] if target else None, timeout_s)
        if target and leader.name != target:
            raise TransferFailedError(f"{leader.name} leads now, not {target}")
        return self._leadership(shard)

    async def drain(self) -> Leadership:
        """See ``Operated``."""
        shard = self._shard
        if shard is None:
            raise UnavailableError("the node is starting")
        assert self._health is not None
        self._draining = True
        self.record("drain_began")
        await self._health.set("readiness", health_pb2.HealthCheckResponse.NOT_SERVING)
        await self._hand_over_and_settle(shard)
        if shard.is_leader:
            self._draining = False
            await self._health.set("readiness", health_pb2.HealthCheckResponse.SERVING)
            shard.driver.release()
            raise TransferFailedError("nobody took over; this node goes on")
        return self._leadership(shard)

    async def _hand_over_and_settle(self, shard: Shard) -> None:
        settings = self._settings
        leader = await drain(shard.driver, settings.drain_timeout_ms / 1000, settings.election_timeout_max_ms / 1000)
        left = len(shard.driver.pending)
        self.record("drained", leader=leader.name if leader else "", unanswered=left)
        _log.info("node.drained", leader=leader.name if leader else "", unanswered=left)

    async def _flush(self) -> None:
        """Has what is in memory written as an SSTable, so that the next start replays little."""
        assert self._maintenance is not None
        flushed = await self._maintenance.flush(self._settings.stop_flush_timeout_ms / 1000)
        self.record("flushed_for_stop", in_time=flushed)

    async def _hand_over_again(self, shard: Shard) -> None:
        """A drained node was elected all the same: the others could not, or an operator asked for it."""
        await self._hand_over_and_settle(shard)
        if shard.is_leader:
            shard.driver.release()

    def _leading_shard(self) -> Shard:
        shard = self._shard
        if shard is None:
            raise UnavailableError("the node is starting")
        if not shard.is_leader:
            raise NotLeaderError(*shard.leader())
        return shard

    @staticmethod
    def _leadership(shard: Shard) -> Leadership:
        return Leadership(*shard.leader(), shard.driver.node.term)

    def _is_started(self) -> bool:
        return self._shard is not None

    def _not_ready(self) -> str:
        shard = self._shard
        if shard is None:
            return "starting"
        if self._draining:
            return "draining"
        if shard.driver.node.leader is None:
            return "no leader is known"
        return ""

    def status(self) -> admin_pb2.StatusResponse:
        """See ``Operated``."""
        settings = self._settings
        response = admin_pb2.StatusResponse(
            node_id=settings.node_id,
            shard=settings.shard_id,
            role=Role.FOLLOWER.value,
            client_address=settings.client_address,
            peer_address=settings.peer_listen,
            admin_address=settings.admin_listen,
            incarnation=self._incarnation,
            version=__version__,
            initial_shards=settings.initial_shards,
        )
        shard = self._shard
        if shard is not None:
            core = shard.driver.node
            response.role = core.role.value
            response.term = core.term
            response.commit_index = core.commit_index
            response.applied_index = shard.driver.applied_index
            response.last_log_index = core.last_index
            assert self._log is not None
            response.first_log_index = self._log.first_index
            response.leader_id, response.leader_address = shard.leader()
            response.cluster_id = shard.peers.me.cluster_id
        return response

    def _state(self) -> NodeState | None:
        if self._shard is None or self._engine is None or self._log is None:
            return None
        return node_state(self._shard.driver, self._engine, self._log)
