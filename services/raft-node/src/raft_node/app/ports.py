"""The ports of a node: Raft for the other nodes, Doug and Admin for clients and operators, HTTP for probes and scrapes.

They are open before the log is read; until the parts are attached, the services answer that the node is starting.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from doug.v1 import admin_pb2, admin_pb2_grpc, doug_pb2, doug_pb2_grpc, raft_pb2, raft_pb2_grpc
from doug_wire import descriptors
from doug_wire.auth.issuer import Issuer
from raft_node.app.admin import AdminServer
from raft_node.app.context import Context
from raft_node.app.descriptors import connections_max, shares
from raft_node.app.operator import Operator
from raft_node.app.readiness import Readiness
from raft_node.observability.logs import get_logger
from raft_node.raft.types import NodeId
from raft_node.rpc.admin_service import AdminService
from raft_node.rpc.channels import CONNECTIONS, SERVER_OPTIONS
from raft_node.rpc.doug.callers import Callers
from raft_node.rpc.doug.guest_limits import GuestLimits
from raft_node.rpc.doug.guest_room import parts_of
from raft_node.rpc.doug.guests import Guests
from raft_node.rpc.doug.service import DougService
from raft_node.rpc.hot_streams import HEARTBEAT, PIPE, READ_INDEX, REPLICATE, SCAN, Behaviour, HotStream
from raft_node.rpc.interceptor import Admit, CountingInterceptor
from raft_node.rpc.listener import Listener
from raft_node.rpc.raft.service import RaftService
from raft_node.rpc.requests import Requests
from raft_node.runtime.members.identity import Identity

if TYPE_CHECKING:
    from doug_wire.auth.bearers import Bearers

GRACE_S = 1.0
_PEER_GRACE_S = 0.1  # Raft loses messages without harm.

_log = get_logger()


@dataclass(frozen=True, slots=True)
class Ports:
    """The open gRPC ports and their services.

    Attributes:
        raft: The service that other nodes call.
        doug: The service that clients call.
        clients: The port of Doug and Admin.
        bearers: Judges JWTs, once somebody runs it; None where none count.
    """

    raft: RaftService
    doug: DougService
    clients: Listener
    bearers: Bearers | None


async def open_ports(
    stack: contextlib.AsyncExitStack,
    context: Context,
    identity: Identity,
    operator: Operator,
    readiness: Readiness,
    admin: AdminServer,
) -> Ports:
    """Opens all ports; the stack closes them.

    Raises:
        SettingsError: A port is taken.
    """
    settings = context.settings
    raft_service = RaftService(
        NodeId(identity.name, identity.incarnation), settings.shard_id, context.metrics, context.traces
    )
    raft_service.cluster_id = identity.cluster_id.encode()
    doug_service = DougService(context.metrics, context.traces)
    await readiness.begin()
    admin_task = asyncio.create_task(admin.run())
    # An interceptor remembers the methods of its server, so each server has one of its own.
    bearers = _bearers(settings.issuer)
    guests = Guests(operator.auth_here, is_copy=settings.shard_id != 0, modes=settings.auth_modes, bearers=bearers)
    callers = _callers(context, guests)
    admit = callers.admit if settings.guarded else None
    requests, counting = _interceptors(context, admit)
    connections = shares(descriptors.raise_limit())[:2]
    peers, clients = (
        grpc.aio.server(interceptors=(each,), options=[*SERVER_OPTIONS, (CONNECTIONS, most)])
        for each, most in zip(counting, connections, strict=True)
    )
    raft_pb2_grpc.add_RaftServicer_to_server(raft_service, peers)
    doug_pb2_grpc.add_DougServicer_to_server(doug_service, clients)
    admin_pb2_grpc.add_AdminServicer_to_server(
        AdminService(settings.node_id, settings.shard_id, operator, context.timeline.events, guests.told), clients
    )
    own = {
        peers: (raft_pb2.DESCRIPTOR.services_by_name["Raft"].full_name,),
        clients: (
            doug_pb2.DESCRIPTOR.services_by_name["Doug"].full_name,
            admin_pb2.DESCRIPTOR.services_by_name["Admin"].full_name,
        ),
    }
    for server, names in own.items():
        health_pb2_grpc.add_HealthServicer_to_server(readiness.servicer, server)
        reflection.enable_server_reflection((*names, health.SERVICE_NAME, reflection.SERVICE_NAME), server)

    certificates = context.security.certificates
    raft_streams: dict[HotStream, Behaviour] = {
        REPLICATE: raft_service.Replicate,
        HEARTBEAT: raft_service.Heartbeat,
        READ_INDEX: raft_service.ReadIndex,
    }
    peer_most, client_most = map(connections_max, connections)
    peer_port = Listener(peers, raft_streams, counting[0], certificates, peer_most)
    raft_service.caller_of = requests[0].caller_of = peer_port.caller
    client_streams: dict[HotStream, Behaviour] = {PIPE: doug_service.Pipe, SCAN: doug_service.Scan}
    known = settings.trusted_names if settings.guarded else None
    client_port = Listener(clients, client_streams, counting[1], certificates, client_most, known)
    callers.caller_of = requests[1].caller_of = client_port.caller

    async def close_ports() -> None:
        admin.stop()
        await asyncio.gather(peer_port.stop(_PEER_GRACE_S), client_port.stop(GRACE_S), admin_task)

    stack.push_async_callback(close_ports)
    await peer_port.open(settings.peer_listen, "peer")
    await client_port.open(settings.client_listen, "client")
    return Ports(raft_service, doug_service, client_port, bearers)


def _bearers(issuer: Issuer) -> Bearers | None:
    """What judges the JWTs of an issuer; None if none is named."""
    if not issuer.is_named:
        return None
    from doug_wire.auth.bearers import Bearers  # noqa: PLC0415  # Its library costs memory, which others need not pay.

    return Bearers(issuer, _log)


def _interceptors(context: Context, admit: Admit | None) -> tuple[list[Requests], list[CountingInterceptor]]:
    """What reads the requests of calls, and what stands in front of the methods: of peers, and of clients."""
    requests = [Requests(context.settings.trusted_names) for _ in range(2)]
    counting = [
        CountingInterceptor(context.metrics, context.fail, *each) for each in zip((None, admit), requests, strict=True)
    ]
    return requests, counting


def _callers(context: Context, guests: Guests) -> Callers:
    """Who may call Doug and Admin, and how much of it."""
    settings, metrics = context.settings, context.metrics
    limits = GuestLimits(
        settings.client_requests_per_s,
        settings.address_requests_per_s,
        parts_of(settings.scans_max, settings.watches_max),
        _log.warning,
        lambda limit: metrics.calls_limited[limit].inc(),
    )
    return Callers(settings.trusted_names, _log.warning, guests=guests, limits=limits, facades=settings.facade_names)
