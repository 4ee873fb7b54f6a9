"""The running replica of a node: which parts it has, how each is built, and who tells whom.

``build`` makes the parts in the order in which they need one another. Where two need each other, the first one gets a
``Wire``, and ``_connect`` leads all wires, so that every call from a part to a later one can be read there.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

from doug_wire.payload import frees_space
from raft_node.app.context import Context
from raft_node.app.joining import Joined
from raft_node.app.members import Members
from raft_node.app.ports import Ports
from raft_node.app.reports import Reports
from raft_node.app.snapshots import SnapshotParts
from raft_node.app.storage import Opened
from raft_node.errors import DiskError
from raft_node.kv.operations.work import Limits
from raft_node.kv.state_machine import StateMachine
from raft_node.observability.logs import follow_term
from raft_node.raft.config import RaftConfig
from raft_node.raft.messages import Message
from raft_node.raft.node import RaftNode
from raft_node.raft.ready import Event
from raft_node.raft.types import NodeId
from raft_node.rpc.doug.replica import Replica
from raft_node.rpc.raft.addresses import AddressBook
from raft_node.rpc.raft.peers import LocalMember, Peers
from raft_node.runtime.clocks import LeaseClock
from raft_node.runtime.disk.maintenance import Maintenance
from raft_node.runtime.disk.scrubber import Scrubber
from raft_node.runtime.disk.worker_process import WorkerProcess
from raft_node.runtime.divergence import StateMarks
from raft_node.runtime.driver import Driver
from raft_node.runtime.driver_ports import Transport
from raft_node.runtime.log.store import LogStore, to_raft
from raft_node.runtime.reads.freshness import Freshness
from raft_node.runtime.reads.reader import Reader
from raft_node.runtime.reads.scans import ScanLimits
from raft_node.runtime.reads.watches import Watches
from raft_node.runtime.wire import Wire
from raft_node.runtime.writes.prefetch import Prefetcher
from raft_node.runtime.writes.upkeep import Upkeep
from raft_node.settings import NodeSettings
from raft_node.storage.engine import Engine
from raft_node.storage.files import FileSystem


@dataclass(frozen=True, slots=True)
class Parts:
    """The running parts of one replica.

    Attributes:
        log: The write-ahead log, with its writer thread.
        engine: The storage engine, with the state.
        maintenance: Has flushes and compactions made.
        peers: The streams to the other nodes.
        book: The addresses of the other nodes.
        driver: Runs the core.
        snapshots: The parts that have to do with snapshots and backups.
        members: Changes of the members, and how this node stands among them.
        scrubber: Reads all tables again and again.
        upkeep: Removes expired keys through the log, while this node leads.
        replica: The replica, as the services use it.
    """

    log: LogStore
    engine: Engine
    maintenance: Maintenance
    peers: Peers
    book: AddressBook
    driver: Driver
    snapshots: SnapshotParts
    members: Members
    scrubber: Scrubber
    upkeep: Upkeep
    replica: Replica


@dataclass(frozen=True, slots=True)
class _Wires:
    """The calls from parts to others that are built later."""

    durable: Wire[[int]] = field(default_factory=Wire)
    slow_append: Wire[[float, int]] = field(default_factory=Wire)
    log_compacted: Wire[[int, int]] = field(default_factory=Wire)
    flushed: Wire[[]] = field(default_factory=Wire)
    applied: Wire[[]] = field(default_factory=Wire)
    snapshots_wanted: Wire[[Sequence[NodeId]]] = field(default_factory=Wire)
    core_event: Wire[[Event]] = field(default_factory=Wire)


def raft_config(settings: NodeSettings) -> RaftConfig:
    """The settings as the core wants them: in ticks."""
    tick_ms = settings.tick_ms
    heartbeat_ticks = max(1, settings.heartbeat_ms // tick_ms)
    return RaftConfig(
        election_timeout_ticks=settings.election_timeout_ms // tick_ms,
        election_timeout_ticks_max=settings.election_timeout_max_ms // tick_ms,
        heartbeat_ticks=heartbeat_ticks,
        trail_ticks=min(-(-settings.trail_ms // tick_ms), heartbeat_ticks - 1),
        inflight_appends_max=settings.replicate_window,
        append_bytes_max=settings.replicate_bytes_max,
        uncommitted_bytes_max=settings.uncommitted_bytes_max,
        cache_bytes_max=settings.log_cache_bytes,
        # How many bytes are applied at once: some milliseconds of small entries, which block the event loop.
        committed_bytes_max=128 << 10,
        lease_ticks=settings.lease_ticks if settings.leader_lease_enabled else 0,
    )


def build(
    stack: contextlib.AsyncExitStack,
    context: Context,
    joined: Joined,
    opened: Opened,
    workers: Sequence[WorkerProcess],
    on_elected: Callable[[], None],
) -> Parts:
    """Builds all parts; nothing runs yet. Requires: a running event loop.

    Args:
        stack: Takes the parts that have to be closed.
        context: The node's surroundings.
        joined: The identity of this node, and the members.
        opened: The log and the engine.
        workers: The helper processes.
        on_elected: Called when this node has become the leader.
    """
    settings, timeline, engine, wires = context.settings, context.timeline, opened.engine, _Wires()
    log = _build_log(context, opened, wires)
    stack.callback(log.close)
    machine = StateMachine(engine, opened.state)
    engine.begin_history(machine.revision)
    core = _build_core(context, joined, opened, log, machine)
    timeline.follow(core)
    follow_term(lambda: core.term)
    reports = Reports(context, log, on_elected, wires.core_event)
    peers = _build_peers(context, joined)
    maintenance = _build_maintenance(context, engine, workers, wires)
    prefetcher = Prefetcher(engine, context.fail)
    stack.callback(prefetcher.close)
    transport = peers if context.faults is None else context.faults.outgoing(peers)
    driver = _build_driver(context, core, log, machine, engine, transport, prefetcher, reports.event, wires)
    limits = ScanLimits(settings.scans_max, settings.scan_hold_ms / 1000, settings.scan_idle_ms / 1000)
    reader = Reader(engine, context.fail, lambda: driver.machine.visibility, limits)
    stack.callback(reader.close)
    freshness = Freshness(driver, lambda: driver.reads.proven_s)
    stack.callback(freshness.stop)
    watches = Watches(
        engine,
        lambda: driver.machine,
        settings.watches_max,
        lambda reason: timeline.record("history_damaged", reason=reason),
        core.be_watched,
    )
    stack.callback(watches.close_all)
    context.space.give_way = partial(_give_up_history, context, engine)
    book = AddressBook(settings.peer_addresses, lambda: core.configuration)
    parts = Parts(
        log=log,
        engine=engine,
        maintenance=maintenance,
        peers=peers,
        book=book,
        driver=driver,
        snapshots=SnapshotParts(context, driver, log, engine, maintenance, peers),
        members=Members(context, joined.identity, driver, book, reports.log_lost),
        scrubber=Scrubber(
            engine.tables,
            settings.scrub_bytes_per_s,
            settings.scrub_every_ms / 1000,
            context.metrics,
            timeline.record,
        ),
        upkeep=Upkeep(driver, engine, Limits(*settings.token_limits)),
        replica=Replica(settings.node_id, settings.shard_id, driver, reader, peers, watches, freshness, settings.zone),
    )
    _connect(context, parts, reports, wires)
    return parts


def _connect(context: Context, parts: Parts, reports: Reports, wires: _Wires) -> None:
    """Connects the wires: says which part tells which other one."""
    parts.replica.is_known_member = lambda: parts.members.standing.is_member
    driver, maintenance, snapshots = parts.driver, parts.maintenance, parts.snapshots
    core = driver.node
    marks = StateMarks(
        context.settings.state_hash_every,
        lambda: (core.role, core.term, driver.applied_index, driver.machine),
        driver.propose,
        context.metrics,
        context.timeline.record,
    )
    wires.durable.lead_to(driver.durable)
    wires.slow_append.lead_to(reports.slow_disk)
    wires.log_compacted.lead_to(reports.log_compacted)
    wires.flushed.lead_to(snapshots.flushed)
    watches, freshness = parts.replica.watches, parts.replica.freshness
    wires.applied.lead_to(maintenance.poke, marks.look, parts.upkeep.poke, watches.poke, freshness.applied)
    wires.snapshots_wanted.lead_to(snapshots.wanted)
    wires.core_event.lead_to(parts.members.heard)
    parts.peers.connect(parts.book.find, _receive(context, driver), driver.peer_unreachable)


def attach(context: Context, parts: Parts, ports: Ports) -> None:
    """Gives the services their parts, so that they serve calls from now on."""
    parts.members.tell(ports.raft)
    if context.faults is not None:
        ports.raft.cut_off = context.faults.is_cut_off
    ports.raft.attach(parts.peers, _receive(context, parts.driver), parts.snapshots.service)
    ports.doug.attach(parts.replica)


def _receive(context: Context, driver: Driver) -> Callable[[Message], None]:
    """What takes the messages of other nodes."""
    return driver.receive if context.faults is None else context.faults.incoming(driver.receive)


# One step each.


def _build_log(context: Context, opened: Opened, wires: _Wires) -> LogStore:
    return LogStore(
        opened.wal,
        context.metrics,
        wires.durable,
        context.fail,
        slow_s=context.settings.slow_append_ms / 1000,
        on_slow=wires.slow_append,
        on_compacted=wires.log_compacted,
        on_full=context.space.notice,
        traces=context.traces,
    )


def _build_core(context: Context, joined: Joined, opened: Opened, log: LogStore, machine: StateMachine) -> RaftNode:
    return RaftNode(
        raft_config(context.settings),
        NodeId(joined.identity.name, joined.identity.incarnation),
        log,
        to_raft(opened.wal.hard_state),
        joined.configuration,
        opened.engine.applied_index,
        random.Random(secrets.randbits(64)),  # noqa: S311 - it only draws election timeouts
        machine.clock_us,
    )


def _build_peers(context: Context, joined: Joined) -> Peers:
    settings, identity = context.settings, joined.identity
    me = NodeId(identity.name, identity.incarnation)
    local = LocalMember(me, identity.cluster_id.encode(), settings.shard_id, settings.client_address)
    return Peers(local, context.metrics, context.security.certificates, context.traces)


async def _give_up_history(context: Context, engine: Engine) -> bool:
    """Gives the history of changes up to make room for writes; returns whether there was any."""
    names = engine.history.drop_kept()
    if names:
        paths = [f"{context.settings.data_dir}/{name}" for name in names]
        left = await asyncio.to_thread(remove_all, context.fs, paths)
        context.timeline.record("history_given_up", files=len(names), left=len(left))
    return bool(names)


def remove_all(fs: FileSystem, paths: Iterable[str]) -> list[str]:
    """Removes files that nobody needs any more; returns those that stay, which take room and do no other harm.

    Some file systems need room to remove a file, and this is done when there is none.
    """
    left = []
    for path in paths:
        try:
            fs.remove(path)
        except DiskError:
            left.append(path)
    return left


def _build_maintenance(
    context: Context, engine: Engine, workers: Sequence[WorkerProcess], wires: _Wires
) -> Maintenance:
    return Maintenance(
        engine,
        workers,
        context.metrics,
        wires.flushed,
        context.fail,
        context.timeline.record,
        context.space.notice,
        idle_s=context.settings.idle_merge_ms / 1000,
        room_bytes=context.space.room_bytes,
    )


def _build_driver(
    context: Context,
    core: RaftNode,
    log: LogStore,
    machine: StateMachine,
    engine: Engine,
    transport: Transport,
    prefetcher: Prefetcher,
    on_event: Callable[[Event], None],
    wires: _Wires,
) -> Driver:
    settings = context.settings
    return Driver(
        core,
        log,
        machine,
        engine,
        transport,
        context.metrics,
        tick_ms=settings.tick_ms,
        proposal_timeout_ms=settings.proposal_timeout_ms,
        shard=settings.shard_id,
        shards=settings.initial_shards,
        on_event=on_event,
        on_applied=wires.applied,
        on_snapshots_wanted=wires.snapshots_wanted,
        on_failure=context.fail,
        load=prefetcher.load,
        disk_full=lambda: context.space.low,
        taken_when_full=lambda command: not context.space.full and frees_space(command),
        traces=context.traces,
        lease_clock=LeaseClock(settings.tick_ms).now if settings.leader_lease_enabled else None,
    )
