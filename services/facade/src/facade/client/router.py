"""The client side of a whole DougDB: admits operations, sends each to its key's shard, and ends it in time.

Must not know HTTP. The partition map is a cache: it is loaded from shard 0's leader, and again whenever a shard says
that it does not own a key.

Invariants:
    1. Every admitted operation is ended exactly once: by an answer, or by its deadline within one tick.
    2. Items and bytes of a shard are bounded; beyond the bound nothing is queued.
    3. An operation that was never proposed ends as NotAppliedError; a write that may have been, as OutcomeUnknownError.

Source: DESIGN 3, 7 and 9; features.md, part 4.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count

import grpc.aio
import structlog

from doug.v1 import admin_pb2
from doug_wire import command, pipe
from doug_wire.command import Opcode
from doug_wire.partition_map import PartitionMap, PartitionMapError, SlotRange
from facade.client.channels import Channels
from facade.client.metrics import Metrics
from facade.client.node import Node
from facade.client.operation import Kind, Operation
from facade.client.shard import Shard
from facade.client.tracing import OperationTracing
from facade.discovery.static import targets_of
from facade.discovery.targets import Targets
from facade.errors import DiskFullError, NotAppliedError, OutcomeUnknownError, ProblemError, ReadTimeoutError
from facade.settings import Settings

TICK_S = 0.025
"""How exact deadlines and ageing windows are; no timer runs while nothing is pending."""

STATUS_TIMEOUT_S = 0.5
EVENTS_TIMEOUT_S = 2.0
MEMBERS_REFRESH_S = 5.0
MAP_TIMEOUT_S = 1.0
MAP_REFRESH_S = 30.0
MAP_RETRY_MIN_S = 0.05
MAP_RETRY_MAX_S = 1.0
REROUTES_MAX = 20

WAITED = {
    "no_leader": "No leader of the shard took the request in time.",
    "overloaded": "The shard's leader had too much waiting and did not take the request in time.",
    "superseded": "Other leaders' entries kept taking the request's place in the log.",
    "unavailable": "No node of the shard could serve the read in time.",
    "wrong_shard": "The key's slot is being moved, and no shard took the request in time.",
}

log = structlog.get_logger()


def _nothing() -> None:
    """Nobody wants to know."""


class Router:
    """Sends every operation to its key's shard.

    Attributes:
        channels: How nodes are connected to.
        map: The partition map; None until it was loaded.
        shards: The shards by number, as discovery finds them.
        on_trouble: Called when a node may be somewhere else by now.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        channels: Channels | None = None,
        tracing: OperationTracing | None = None,
    ) -> None:
        """Builds the shards. Plaintext without ``channels``, no spans without ``tracing``. Requires: a running loop."""
        self.channels = channels or Channels()
        self._settings = settings
        self._metrics = metrics
        self._tracing = tracing
        self._loop = asyncio.get_running_loop()
        self._timeout_s = settings.request_timeout_ms / 1000
        self._items_max = settings.queue_items_max
        self._bytes_max = settings.queue_bytes_max
        self._ids = count(1)
        self._pending: dict[int, Operation] = {}
        self._ticking = False
        self._stranded: list[Operation] = []
        self._refresh = asyncio.Event()
        self._group: asyncio.TaskGroup | None = None
        self._was_ready = False
        self._tasks: dict[Node, asyncio.Task[None]] = {}
        self._map_loaded_s = 0.0
        self.map: PartitionMap | None = None
        self.shards: dict[int, Shard] = {}
        self.on_trouble: Callable[[], None] = _nothing
        if settings.discovery == "static":
            self.update(targets_of(settings.nodes))

    @property
    def ready(self) -> bool:
        """Whether the map was loaded and every shard has had a leader; once true, always true."""
        if not self._was_ready:
            known = self.map is not None and all(part.shard in self.shards for part in self.map.ranges)
            self._was_ready = known and all(shard.ever_led for shard in self.shards.values())
        return self._was_ready

    async def run(self) -> None:
        """Runs everything; ends only by cancellation."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                for shard in self.shards.values():
                    self._start_shard(group, shard)
                group.create_task(self._keep_map())
        finally:
            self._group = None

    def _start_shard(self, group: asyncio.TaskGroup, shard: Shard) -> None:
        group.create_task(shard.search())
        for node in shard.nodes.values():
            self.start_node(node)
        group.create_task(self._keep_members(shard))

    def start_node(self, node: Node) -> None:
        """Runs a node, once ``run`` is running."""
        if self._group is not None:
            task = self._tasks[node] = self._group.create_task(node.run())
            task.add_done_callback(lambda _: self._tasks.pop(node, None))

    def stop_node(self, node: Node) -> None:
        """Ends what ``start_node`` began."""
        task = self._tasks.get(node)
        if task is not None:
            task.cancel()

    # Where the nodes are.

    def update(self, targets: Targets) -> None:
        """Takes what discovery says about some shards, each of them whole. No shard is ever forgotten."""
        for shard_id, nodes in sorted(targets.items()):
            shard = self.shards.get(shard_id)
            if shard is not None:
                shard.update(nodes)
                continue
            shard = self.shards[shard_id] = Shard(shard_id, nodes, self._settings, self._metrics, self)
            if self._group is not None:
                self._start_shard(self._group, shard)

    def trouble(self) -> None:
        """A shard has lost its leader, or a node does not answer: perhaps it is somewhere else by now."""
        self.on_trouble()

    # Operations come in.

    def write(self, opcode: Opcode, key: bytes, content_type: bytes = b"", value: bytes = b"") -> Operation:
        """Admits a write.

        Raises:
            NotAppliedError: The map is not loaded, or too much is waiting.
        """
        shard, epoch = self._locate(key)
        operation_id = next(self._ids)
        encoded = command.encode(opcode, key, content_type, value, epoch)
        record = pipe.encode_write(operation_id, command.checksum(encoded), encoded)
        return self._admit(shard, operation_id, Kind.WRITE, key, record)

    def read(self, key: bytes, kind: Kind) -> Operation:
        """Admits a read.

        Raises:
            NotAppliedError: The map is not loaded, or too much is waiting.
        """
        shard, epoch = self._locate(key)
        operation_id = next(self._ids)
        return self._admit(shard, operation_id, kind, key, pipe.encode_read(operation_id, epoch, key))

    def shard_of(self, key: bytes) -> int | None:
        """The shard of a key, as far as the map is known."""
        return None if self.map is None else self.map.owner(key)[0]

    def check_room(self, key: bytes, size: int) -> None:
        """Refuses early what would be refused once its body is here.

        Raises:
            NotAppliedError: The map is not loaded, or too much is waiting.
        """
        shard, _ = self._locate(key)
        self._check_room(shard, size)

    def _locate(self, key: bytes) -> tuple[Shard, int]:
        if self.map is None:
            raise NotAppliedError("starting", "The partition map is not loaded yet.")
        shard_id, epoch = self.map.owner(key)
        shard = self.shards.get(shard_id)
        if shard is None:
            raise NotAppliedError("unknown_shard", "It is not known where this shard's nodes are.", shard=shard_id)
        return shard, epoch

    def _check_room(self, shard: Shard, size: int) -> None:
        if shard.items >= self._items_max or shard.size + size > self._bytes_max:
            raise NotAppliedError("overloaded", "Too many requests wait for this shard.", shard=shard.id)

    def _admit(self, shard: Shard, operation_id: int, kind: Kind, key: bytes, record: bytes) -> Operation:
        size = len(record)
        self._check_room(shard, size)
        loop = self._loop
        operation = Operation(
            operation_id, kind, shard.id, key, record, loop.time() + self._timeout_s, loop.create_future()
        )
        if self._tracing is not None:
            operation.trace = self._tracing.begin(operation)
        shard.items += 1
        shard.size += size
        self._pending[operation_id] = operation
        if not self._ticking:
            self._ticking = True
            loop.call_later(TICK_S, self._tick)
        shard.submit(operation)
        return operation

    # Operations end.

    def finish(self, operation: Operation, result: pipe.ResultRecord | ProblemError) -> None:
        """The operation is over."""
        if self._pending.pop(operation.id, None) is None:
            return
        shard = self.shards[operation.shard]
        shard.items -= 1
        shard.size -= len(operation.record)
        operation.record = b""
        future = operation.future
        if future.done():
            return  # Whoever waited was cancelled.
        if isinstance(result, ProblemError):
            future.set_exception(result)
        else:
            future.set_result(result)

    def _tick(self) -> None:
        now_s = self._loop.time()
        # All operations have the same time, so that the oldest come first.
        late: list[Operation] = []
        for operation in self._pending.values():
            if operation.deadline_s > now_s:
                break
            late.append(operation)
        for operation in late:
            self._expire(operation)
        for shard in self.shards.values():
            shard.tick(now_s)
        self._ticking = bool(self._pending)
        if self._ticking:
            self._loop.call_later(TICK_S, self._tick)

    def _expire(self, operation: Operation) -> None:
        shard = operation.shard
        if not self.shards[shard].expire(operation):
            if operation.reason == "disk_full":
                self.finish(operation, DiskFullError(shard=shard))
                return
            reason = operation.reason if operation.reason in WAITED else "no_leader"
            if operation.kind is Kind.READ_LOCAL and reason == "no_leader":
                reason = "unavailable"
            self.finish(operation, NotAppliedError(reason, WAITED[reason], shard=shard))
        elif operation.kind is Kind.WRITE:
            detail = "The write was sent to the shard and not answered in time; it may or may not be applied."
            self.finish(operation, OutcomeUnknownError("deadline_exceeded", detail, shard=shard))
        else:
            detail = "The read was sent to the shard and not answered in time."
            self.finish(operation, ReadTimeoutError("deadline_exceeded", detail, shard=shard))

    # The map.

    def reroute(self, operation: Operation) -> None:
        """The key is not that shard's, by its answer: asks for a newer map and tries again."""
        operation.reason = "wrong_shard"
        operation.tries += 1
        self._metrics.retry("wrong_shard")
        if operation.trace is not None:
            operation.trace.sent_back("wrong_shard")
        if operation.tries > REROUTES_MAX:
            self.finish(operation, NotAppliedError("wrong_shard", WAITED["wrong_shard"], shard=operation.shard))
            return
        self._stranded.append(operation)
        self._refresh.set()

    def _send_stranded(self) -> None:
        stranded, self._stranded = self._stranded, []
        for operation in stranded:
            if operation.future.done():
                continue
            try:
                shard, epoch = self._locate(operation.key)
            except NotAppliedError as error:
                self.finish(operation, error)
                continue
            old = self.shards[operation.shard]
            size = len(operation.record)
            old.items, old.size = old.items - 1, old.size - size
            shard.items, shard.size = shard.items + 1, shard.size + size
            operation.shard = shard.id
            operation.set_epoch(epoch)
            shard.submit(operation)

    async def _keep_map(self) -> None:
        delay_s = MAP_RETRY_MIN_S
        while True:
            self._refresh.clear()
            if await self._load_map():
                delay_s = MAP_RETRY_MIN_S
                self._send_stranded()
                await asyncio.sleep(MAP_RETRY_MIN_S)  # A slot on its way is asked for twenty times a second at most.
                await self._wait_for_refresh(MAP_REFRESH_S)
            else:
                await asyncio.sleep(delay_s)
                delay_s = min(MAP_RETRY_MAX_S, delay_s * 2)

    async def _wait_for_refresh(self, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await self._refresh.wait()
        except TimeoutError:
            return

    async def _load_map(self) -> bool:
        shard = self.shards.get(0)
        leader = None if shard is None else shard.leader
        if shard is None or leader is None:
            return False
        try:
            answer = await leader.partitions(MAP_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            metadata = error.trailing_metadata() or ()
            hints = {key: value for key, value in metadata if isinstance(value, str)}
            if hints.get("doug-code") == "NOT_LEADER":
                shard.pointed_elsewhere(leader, hints.get("doug-leader-id", ""), hints.get("doug-leader-address", ""))
            return False
        if self.map is not None and answer.epoch < self.map.epoch:
            return True  # From a leader that was deposed; what we have is newer.
        ranges = [SlotRange(getattr(part, "from"), part.to, part.shard, part.epoch) for part in answer.slots]
        new = self.map is None or answer.epoch > self.map.epoch
        try:
            self.map = PartitionMap(answer.epoch, ranges)
        except PartitionMapError as error:
            log.error("map.malformed", error=str(error))
            return False
        self._map_loaded_s = self._loop.time()
        self._metrics.map_loaded(answer.epoch, new=new)
        return True

    # The members.

    async def _keep_members(self, shard: Shard) -> None:
        """Asks the leader now and then who the members are: some may have come or gone since the settings were made."""
        while True:
            await asyncio.sleep(MEMBERS_REFRESH_S)
            await self._learn_members(shard)

    @staticmethod
    async def _learn_members(shard: Shard) -> None:
        leader = shard.leader
        if leader is None:
            return
        try:
            shard.learn_members(await leader.members(STATUS_TIMEOUT_S))
        except grpc.aio.AioRpcError:
            # It does not lead any more, or cannot be reached: what was known before is kept.
            return

    # What operators ask.

    async def status(self) -> dict[int, list[tuple[Node, admin_pb2.StatusResponse | None]]]:
        """Asks every member for its status, all at once; before a leader told who they are, every listed node."""
        shards = [shard for _, shard in sorted(self.shards.items())]
        asked = [node for shard in shards for node in shard.nodes.values()]
        learning = [self._learn_members(shard) for shard in shards]
        answers, _ = await asyncio.gather(
            asyncio.gather(*(node.status(STATUS_TIMEOUT_S) for node in asked)), asyncio.gather(*learning)
        )
        known = dict(zip(asked, answers, strict=True))
        found = [node for shard in shards for node in shard.nodes.values() if node not in known]
        known.update(zip(found, await asyncio.gather(*(node.status(STATUS_TIMEOUT_S) for node in found)), strict=True))
        return {shard.id: [(node, known[node]) for node in shard.expected if node in known] for shard in shards}

    async def events(
        self, shard_id: int, since_us: int, limit: int
    ) -> list[tuple[Node, admin_pb2.EventsResponse | None]]:
        """Asks every node of a shard for its newest events, all at once. Requires: the shard is known.

        Nodes that were removed are asked too, and missed by nobody when they do not answer.
        """
        shard = self.shards[shard_id]
        nodes = tuple(shard.nodes.values())
        answers = await asyncio.gather(*(node.events(since_us, limit, EVENTS_TIMEOUT_S) for node in nodes))
        return [
            (node, answer)
            for node, answer in zip(nodes, answers, strict=True)
            if answer is not None or shard.members is None or node.id in shard.members
        ]

    def sample_metrics(self) -> None:
        """Sets the gauges that are only worth setting when somebody reads them."""
        for shard in self.shards.values():
            self._metrics.shard(shard.id, shard.state())
        if self.map is not None:
            self._metrics.map_age(self._loop.time() - self._map_loaded_s)
