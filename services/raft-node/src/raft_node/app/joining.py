"""How a node that has opened its volumes comes to know its cluster and the members of its shard."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from raft_node.app.bootstrap import FIRST_TERM, Bootstrap
from raft_node.app.context import Context
from raft_node.app.storage import Opened, first_configuration
from raft_node.raft.configuration import decode_configuration
from raft_node.raft.types import NO_MEMBERS, Configuration, HardState, NodeId
from raft_node.rpc.raft.service import RaftService
from raft_node.runtime.log.store import to_wal
from raft_node.runtime.members.identity import Identity, join_cluster


class Joined(NamedTuple):
    """The identity of this node within its cluster, and the members of its shard as of its applied state."""

    identity: Identity
    configuration: Configuration


async def join(
    context: Context, identity: Identity, opened: Opened, service: RaftService, stopping: asyncio.Event
) -> Joined | None:
    """Finds or makes the first configuration at a shard's first start, and has the service tell it to other nodes.

    Returns:
        None when the node was stopped while it waited for the others.
    """
    settings, wal = context.settings, opened.wal
    if wal.last_index == 0:
        me = NodeId(identity.name, identity.incarnation)
        bootstrap = Bootstrap(settings, me, identity.cluster_id, context.security.certificates)
        joining = asyncio.create_task(bootstrap.run())
        stopped = asyncio.create_task(stopping.wait())
        await asyncio.wait((joining, stopped), return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if not joining.done():
            joining.cancel()
            await asyncio.gather(joining, return_exceptions=True)
            return None
        first = joining.result()
        # The cluster's id before the entry: a log with entries always belongs to a known cluster.
        identity = join_cluster(context.fs, settings.wal_dir, settings.data_dir, identity, first.cluster_id)
        if first.entry is not None:
            # Durable before this member tells it to others, and before it votes.
            wal.publish(wal.append(to_wal(HardState(FIRST_TERM, None, 1)), None, [first.entry]))
    service.cluster_id = identity.cluster_id.encode()
    service.first_configuration = await asyncio.to_thread(first_configuration, context.fs, settings.data_dir, wal)
    # The core finds entries that are not applied yet in the log, the first configuration, too.
    stored = opened.configuration
    return Joined(identity, NO_MEMBERS if stored is None else decode_configuration(stored))
