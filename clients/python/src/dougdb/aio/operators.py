"""The calls of operators: the cluster, leadership, members, the timeline. None of them is repeated by the client."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import httpx

from dougdb import operating
from dougdb.aio.runtime import Body, as_body
from dougdb.aio.sender import AsyncSender
from dougdb.errors import DougdbError
from dougdb.shapes import ClusterStatus, LeaderMoved, MemberChange, Members, Timeline

BACKUP_TIMEOUT_S = 180.0
"""The longest step of a backup: a node first flushes its memory, and reads all its tables for their checksums."""
EVENTS_MAX = 10_000
"""The most events that one request may ask for."""


class AsyncOperators(AsyncSender):
    """The calls of operators."""

    async def cluster(self, *, vitals: bool = False) -> ClusterStatus:
        """Every shard with its nodes, their roles, terms and indexes.

        Args:
            vitals: Whether to tell also how the nodes and the facade are: clocks, disks, certificates, versions.
        """
        return await self._call(operating.cluster(vitals))

    async def events(self, shard: str | int, *, since_us: int = 0, limit: int = EVENTS_MAX) -> Timeline:
        """The events of a shard's nodes: what they did and why, oldest first.

        Args:
            shard: The shard's id.
            since_us: The time from which on events are wanted, microseconds since the epoch.
            limit: The most events, the newest ones.
        """
        return await self._call(operating.events(shard, since_us, limit))

    async def transfer_leadership(self, shard: str | int, to: str | None = None) -> LeaderMoved:
        """Hands the leadership of a shard over, and waits until another node leads.

        Args:
            shard: The shard's id.
            to: The node that is to lead; None for the most caught-up one.

        Raises:
            RejectedError: Leadership cannot go there: no such shard or node, or the node leads already.
            UnavailableError: The shard has no leader.
            OutcomeUnknownError: No other node was seen to take over in time.
        """
        return await self._call(operating.transfer_leadership(shard, to))

    async def members(self, shard: str | int) -> Members:
        """The members of a shard, as its leader sees them.

        Raises:
            RejectedError: There is no such shard.
            UnavailableError: The shard has no leader.
        """
        return await self._call(operating.members(shard))

    async def add_member(
        self, shard: str | int, name: str, address: str, *, incarnation: str | int | None = None
    ) -> MemberChange:
        """Admits a running node as a learner; it becomes a voter by itself once it has caught up.

        Args:
            shard: The shard's id.
            name: The node's name.
            address: The node's Raft address, host:port.
            incarnation: The incarnation of the node's disk, which is all that is admitted then; None for the one that
                the node at the address says.

        Raises:
            RejectedError: The node cannot be admitted: it is a member, or no node or another one is at the address.
            UnavailableError: The members were certainly not changed: no leader, or another change came first.
            OutcomeUnknownError: The members may have been changed; ``members`` shows it.
        """
        return await self._call(operating.add_member(shard, name, address, incarnation))

    async def remove_member(self, shard: str | int, name: str, *, force: bool = False) -> MemberChange:
        """Removes a member; raises what ``add_member`` does.

        Args:
            shard: The shard's id.
            name: The node's name.
            force: Whether to do it even if the others cannot form a healthy quorum now.
        """
        return await self._call(operating.remove_member(shard, name, force))

    async def replace_member(
        self,
        shard: str | int,
        name: str,
        address: str | None = None,
        *,
        incarnation: str | int | None = None,
        force: bool = False,
    ) -> MemberChange:
        """Admits a node with a wiped or replaced disk in place of its old incarnation; raises what ``add_member`` does.

        Args:
            shard: The shard's id.
            name: The node's name.
            address: The node's Raft address; None for the one that is known.
            incarnation: What ``add_member`` takes, of the new disk.
            force: Whether to do it even if the others cannot form a healthy quorum now.
        """
        return await self._call(operating.replace_member(shard, name, address, incarnation, force))

    @contextlib.asynccontextmanager
    async def backup(self, shard: str | int) -> AsyncIterator[Body]:
        """The state of a shard as a tar archive, with every write that was acknowledged before; read as it comes.

        Reading raises UnavailableError when the connection breaks.

        Raises:
            RejectedError: There is no such shard.
            UnavailableError: No replica can send it now.
        """
        steps = self._http.timeout
        timeout = httpx.Timeout(connect=steps.connect, write=steps.write, pool=steps.pool, read=BACKUP_TIMEOUT_S)
        async with self._stream(operating.backup(shard), timeout) as pieces:
            yield as_body(pieces)

    async def partitions(self, *, counts: bool = False) -> dict[str, Any]:
        """The partition map: which shard owns which slots, and its epoch.

        Args:
            counts: Whether to tell also how often the facade was asked for each slot since its start.
        """
        return await self._call(operating.partitions(counts))

    async def version(self) -> dict[str, Any]:
        """The facade's version."""
        return await self._call(operating.version())

    async def is_ready(self) -> bool:
        """Whether the facade has its map, and every shard has had a leader."""
        try:
            return await self._call(operating.ready())
        except DougdbError:
            return False
