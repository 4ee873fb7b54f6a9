"""What keeps a facade's knowledge of its shards up to date: streams, leaders, members and the partition map.

These are the tasks beside the operations; the way of an operation is ``facade.client.router``. Must not know HTTP, or
what an operation is.

Source: ARCHITECTURE.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from doug.v1 import doug_pb2
from facade.client.directory import Directory
from facade.client.leader_search import LeaderSearch
from facade.client.metrics import Metrics
from facade.client.node import Node
from facade.client.operators.cluster_status import learn_members
from facade.client.operators.leader_calls import call_leader
from facade.client.registry import Registry
from facade.client.session import Session as NodeSession
from facade.client.sessions import Session
from facade.client.shard import Shard
from facade.client.watches.feeds import Feeds
from facade.discovery.targets import Targets
from facade.errors import NotAppliedError

MEMBERS_REFRESH_S = 5.0
MAP_REFRESH_S = 30.0
MAP_TIMEOUT_S = 1.0
MAP_RETRY_MIN_S = 0.05
MAP_RETRY_MAX_S = 1.0
PIECE_SHARDS = 64
"""After the figures of so many shards, everything else has its turn."""


def _nothing() -> None:
    """Does nothing: stands for a callback that was not set."""


class Upkeep:
    """Keeps streams to all nodes, and knows leaders, members and the map.

    Attributes:
        on_unreachable: Called when a node does not answer, so that discovery looks whether it has moved.
    """

    def __init__(self, directory: Directory, registry: Registry, feeds: Feeds, metrics: Metrics) -> None:
        """Starts nothing before ``run``.

        Args:
            directory: The shards and the map that are kept up to date.
            registry: The owner of the operations, which is told of answers and of newer maps.
            feeds: The changes that are watched, which a newer map may end.
            metrics: The metrics whose gauges are set when somebody reads them.
        """
        self._directory = directory
        self._registry = registry
        self._feeds = feeds
        self._metrics = metrics
        self._group: asyncio.TaskGroup | None = None
        self.on_unreachable: Callable[[], None] = _nothing

    async def run(self) -> None:
        """Runs everything; ends only by cancellation."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                for shard in self._directory.shards.values():
                    self._start_shard(group, shard)
                group.create_task(self._keep_map())
        finally:
            self._group = None
            await self._feeds.close()

    def update(self, targets: Targets) -> None:
        """Takes over the nodes that discovery names for some shards, all nodes of each."""
        for shard in self._directory.update(targets):
            if self._group is not None:
                self._start_shard(self._group, shard)

    def _start_shard(self, group: asyncio.TaskGroup, shard: Shard) -> None:
        group.create_task(LeaderSearch(shard).run())
        group.create_task(self._keep_sessions(group, shard))
        group.create_task(self._keep_members(shard))
        group.create_task(self._tell_unreachable(shard))

    async def _keep_sessions(self, group: asyncio.TaskGroup, shard: Shard) -> None:
        """Keeps a session for every node of a shard, and ends those of nodes that are gone."""
        sessions: dict[Node, asyncio.Task[None]] = {}
        while True:
            shard.changed.clear()
            nodes = tuple(shard.nodes.values())
            for node in [node for node in sessions if node not in nodes]:
                sessions.pop(node).cancel()
            # In their order, which does not depend on where they lie in memory: so a run by seed can be repeated.
            for node in nodes:
                if node not in sessions:
                    sessions[node] = group.create_task(NodeSession(shard, node, self._registry).run())
            await shard.changed.wait()

    @staticmethod
    async def _keep_members(shard: Shard) -> None:
        """Asks the leader now and then who the members are: some may have come or gone since the settings were made."""
        while True:
            await asyncio.sleep(MEMBERS_REFRESH_S)
            await learn_members(shard)

    async def _tell_unreachable(self, shard: Shard) -> None:
        while True:
            await shard.unreachable.wait()
            shard.unreachable.clear()
            self.on_unreachable()

    # The map.

    async def _keep_map(self) -> None:
        """Loads the map again and again, and each time sends the operations that waited for a newer one."""
        delay_s = MAP_RETRY_MIN_S
        stale = self._directory.stale
        while True:
            stale.clear()
            if await self.load_map():
                delay_s = MAP_RETRY_MIN_S
                # In the same turn of the loop as the map: no id may name the new cluster with positions of the old one.
                self._feeds.look_at_cluster()
                self._registry.send_stranded()
                await asyncio.sleep(MAP_RETRY_MIN_S)  # A moving slot is asked for at most twenty times a second.
                try:
                    async with asyncio.timeout(MAP_REFRESH_S):
                        await stale.wait()
                except TimeoutError:
                    continue
            else:
                await asyncio.sleep(delay_s)
                delay_s = min(MAP_RETRY_MAX_S, delay_s * 2)

    async def load_map(self) -> bool:
        """Asks shard 0's leader for the map; returns whether the map is now at least as new as that leader's."""
        shard = self._directory.shards.get(0)
        if shard is None:
            return False
        answer = await call_leader(shard, lambda leader: leader.partitions(MAP_TIMEOUT_S))
        return isinstance(answer, doug_pb2.PartitionsResponse) and self._directory.take_map(answer)

    async def catch_up(self, session: Session | None) -> None:
        """Waits until the partition map is as new as the one by which a session token was made.

        Raises:
            NotAppliedError: No such map could be loaded in the time that a request may take.
        """
        directory = self._directory
        if session is None or session.epoch <= directory.sessions.epoch:
            return
        try:
            async with asyncio.timeout(self._registry.timeout_s):
                while session.epoch > directory.sessions.epoch:
                    directory.stale.set()
                    await asyncio.sleep(MAP_RETRY_MIN_S)
        except TimeoutError:
            raise NotAppliedError(
                "not_fresh_enough", "The session knows a newer partition map than could be loaded in time."
            ) from None

    # The metrics.

    async def sample_metrics(self) -> None:
        """Sets the gauges that are only worth setting when Prometheus reads them."""
        for number, shard in enumerate(tuple(self._directory.shards.values()), 1):
            self._metrics.shard(shard.id, shard.state(self._registry.load(shard.id)))
            if number % PIECE_SHARDS == 0:
                await asyncio.sleep(0)
        self._registry.sample_turns()
        age_s = self._directory.map_age_s()
        if age_s is not None:
            self._metrics.map_age(age_s)
