"""The owners of keys, as far as this facade knows: the partition map as a cache, and the shards from discovery.

Never the authority: each shard checks by itself. Must not know operations or HTTP, and waits for nothing.

Invariant: the map of a cluster never gets older; no shard is ever forgotten.

Source: docs/formats.md, Partition map.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog

from doug.v1 import doug_pb2
from doug_wire.partition_map import PartitionMap, PartitionMapError, SlotRange
from doug_wire.slots import SLOTS, slot_of, slots_of
from facade.client.channels import Channels
from facade.client.metrics import Metrics
from facade.client.sessions import Sessions
from facade.client.shard import Shard
from facade.discovery.targets import Targets
from facade.errors import NotAppliedError
from facade.settings import Settings

log = structlog.get_logger()


class Directory:
    """Knows the shards of the cluster, and which slots each of them owns.

    Attributes:
        map: The partition map; None until it was loaded.
        cluster_id: The cluster's id, as it came with the map; a restored cluster has another one.
        shards: The shards by number.
        sessions: Makes and reads the session tokens of this cluster.
        stale: An event that is set when an answer showed that the map is outdated.
        slot_counts: By slot, how many operations this facade was asked for.
    """

    def __init__(self, settings: Settings, metrics: Metrics, channels: Channels) -> None:
        """Requires: a running loop."""
        self._settings = settings
        self._metrics = metrics
        self._channels = channels
        self._loop = asyncio.get_running_loop()
        self._loaded_s = 0.0
        self._was_ready = False
        self.map: PartitionMap | None = None
        self.cluster_id = b""
        self.sessions = Sessions()
        self.shards: dict[int, Shard] = {}
        self.stale = asyncio.Event()
        self.slot_counts = [0] * SLOTS

    @property
    def ready(self) -> bool:
        """Whether the map was loaded and every shard has had a leader; once true, always true."""
        if not self._was_ready:
            known = self.map is not None and all(part.shard in self.shards for part in self.map.ranges)
            self._was_ready = known and all(shard.ever_led for shard in self.shards.values())
        return self._was_ready

    def missing(self) -> list[str]:
        """The things that must be found out before ``ready`` becomes true, in words."""
        if not self.shards:
            return ["the addresses of all nodes"]
        found = []
        for shard in self.shards.values():
            if not shard.ever_led:
                silent = [f"{node.id} at {node.address}" for node in shard.expected if not node.up or node.suspect]
                nodes = f"no answer from {', '.join(silent)}" if silent else "all nodes answer"
                found.append(f"a leader of shard {shard.id} ({nodes})")
        if self.map is None:
            found.append("the partition map, which shard 0's leader has")
        else:
            unknown = sorted({part.shard for part in self.map.ranges} - self.shards.keys())
            found.extend(f"the addresses of shard {shard}'s nodes" for shard in unknown)
        return found

    def locate(self, key: bytes, *, counted: bool = True) -> tuple[Shard, int]:
        """The shard that owns a key, and the epoch of the key's slot; ``counted``: counts the slot as asked for.

        Raises:
            NotAppliedError: The map is not loaded, or nobody knows where the shard's nodes are.
        """
        if self.map is None:
            self.check_loaded()
        assert self.map is not None
        slot = slot_of(key)
        if counted:
            self.slot_counts[slot] += 1
        shard_id, epoch = self.map.owner_of_slot(slot)
        shard = self.shards.get(shard_id)
        if shard is None:
            raise NotAppliedError("unknown_shard", "It is not known where this shard's nodes are.", shard=shard_id)
        return shard, epoch

    def locate_all(self, keys: Sequence[bytes]) -> list[int] | None:
        """The numbers of the shards that own the keys, in their order; counts their slots as asked for.

        None if ``locate`` would refuse one of them; then none is counted.
        """
        if self.map is None:
            return None
        slots, shards = slots_of(keys), self.map.shards
        found = [shards[slot] for slot in slots]
        if not self.shards.keys() >= set(found):
            return None
        counts = self.slot_counts
        for slot in slots:
            counts[slot] += 1
        return found

    def check_loaded(self) -> None:
        """Refuses an operation while there is no map.

        Raises:
            NotAppliedError: The map is not loaded yet.
        """
        if self.map is None:
            raise NotAppliedError("starting", "The partition map is not loaded yet.")

    def update(self, targets: Targets) -> list[Shard]:
        """Takes over the nodes that discovery names for some shards, all nodes of each; returns the new shards."""
        new = []
        for shard_id, nodes in sorted(targets.items()):
            shard = self.shards.get(shard_id)
            if shard is not None:
                shard.update(nodes)
                continue
            shard = self.shards[shard_id] = Shard(
                shard_id, nodes, self._settings, self._metrics, self._channels, self.sessions
            )
            new.append(shard)
        return new

    def take_map(self, answer: doug_pb2.PartitionsResponse) -> bool:
        """Takes the map of shard 0's leader; returns whether the map is now at least as new as that one."""
        known = answer.cluster_id == self.cluster_id
        if self.map is not None and known and answer.epoch < self.map.epoch:
            return True  # From a leader that was deposed; what we have is newer.
        ranges = [SlotRange(getattr(part, "from"), part.to, part.shard, part.epoch) for part in answer.slots]
        new = self.map is None or not known or answer.epoch > self.map.epoch
        try:
            self.map = PartitionMap(answer.epoch, ranges)
        except PartitionMapError as error:
            log.error("map.malformed", error=str(error))
            return False
        self.cluster_id = answer.cluster_id
        self.sessions.know(answer.cluster_id, answer.epoch)
        self._loaded_s = self._loop.time()
        self._metrics.map_loaded(answer.epoch, new=new)
        return True

    def map_age_s(self) -> float | None:
        """How many seconds ago a leader last gave or confirmed the map; None before it was loaded."""
        return None if self.map is None else self._loop.time() - self._loaded_s
