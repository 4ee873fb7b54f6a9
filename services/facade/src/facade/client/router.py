"""The client side of a whole DougDB: puts its parts together, and is what routes ask.

``directory`` knows who owns a key, ``registry`` owns the operations, ``upkeep`` keeps streams, leaders and the map,
``cluster_status`` tells how the nodes are. Here is the way of an operation, which waits for nothing. Must not know
HTTP.

Source: ARCHITECTURE.md, The way of a write.
"""

from __future__ import annotations

from doug_wire import command, pipe
from doug_wire.auth.grants import Verb
from doug_wire.command import Command, Condition
from doug_wire.partition_map import PartitionMap
from facade.client.access import Caller, check, check_any, check_write, current, sender
from facade.client.channels import Channels
from facade.client.directory import Directory
from facade.client.metrics import Metrics
from facade.client.modes import SESSION, Kind, ReadMode
from facade.client.operation import Operation
from facade.client.operators.cluster_status import ClusterStatus
from facade.client.registry import Registry
from facade.client.requests import token_of, with_token
from facade.client.scan import Scans
from facade.client.sessions import Session
from facade.client.shard import Shard
from facade.client.tracing import OperationTracing
from facade.client.upkeep import Upkeep
from facade.client.watches.feeds import Feeds
from facade.discovery.static import targets_of
from facade.settings import Settings


class Router:
    """Sends every operation to the shard that owns its key.

    Attributes:
        directory: Knows the shards, and which of them owns a key.
        registry: Owns all operations that are not over.
        cluster: Tells how the nodes are.
        scans: Begins scans.
        guarded: Whether the rights of the sender are checked.
        feeds: The changes of the shards that somebody watches.
        upkeep: Keeps streams, leaders, members and the map while it runs.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        channels: Channels | None = None,
        tracing: OperationTracing | None = None,
    ) -> None:
        """Builds the shards. Plaintext without ``channels``, no spans without ``tracing``. Requires: a running loop."""
        self.guarded = settings.guarded
        self.directory = Directory(settings, metrics, channels or Channels())
        self.registry = Registry(self.directory, settings, metrics, tracing)
        self.cluster = ClusterStatus(self.directory.shards)
        self.scans = Scans(self.directory, guarded=self.guarded)
        self.feeds = Feeds(self.directory, settings.watch_ring_bytes, settings.watch_catch_ups_max)
        self.upkeep = Upkeep(self.directory, self.registry, self.feeds, metrics)
        if settings.discovery == "static":
            self.upkeep.update(targets_of(settings.nodes))

    @property
    def map(self) -> PartitionMap | None:
        """The partition map; None until it was loaded."""
        return self.directory.map

    @property
    def shards(self) -> dict[int, Shard]:
        """The shards by number, as discovery finds them."""
        return self.directory.shards

    @property
    def ready(self) -> bool:
        """Whether the map was loaded and every shard has had a leader; once true, always true."""
        return self.directory.ready

    def write(
        self,
        opcode: int,
        key: bytes,
        content_type: bytes = b"",
        value: bytes = b"",
        condition: Condition | None = None,
        ttl: int = 0,
        content_encoding: bytes = b"",
        idempotency_key: str = "",
        deadline_s: float = 0.0,
        *,
        repeatable: bool = False,
        caller: Caller | None = None,
        client: str = "",
    ) -> Operation:
        """Admits a write.

        Args:
            opcode: The opcode of the command; the parts of a command are those of ``doug_wire.command.Command``.
            key: The key that says which shard the write belongs to.
            content_type: The content type of the value.
            value: The value, or what the opcode has in its place.
            condition: The condition under which the write is applied; None for none.
            ttl: The time to live in milliseconds, as commands have it.
            content_encoding: The content encoding of the value.
            idempotency_key: The key that makes the write happen once, however often it is sent; the facade then repeats
                it.
            deadline_s: When the write must be answered, on the loop's clock; 0 for the usual time from now on.
            repeatable: Whether the write may be sent twice without an idempotency key of its own.
            caller: The sender, whose rights count; None for the sender of the request that is being served.
            client: The client whose share it takes; empty for the sender of the request that is being served.

        Raises:
            NotAppliedError: The map is not loaded, or too much is waiting.
            UnauthenticatedError: The request's sender is not known.
            ForbiddenError: The sender has not the right.
        """
        if self.guarded:
            check_write(caller or current.get(), opcode, key, value)
        shard, epoch = self.directory.locate(key)
        operation_id = self.registry.next_id()
        token = None
        if idempotency_key:
            bare = Command(opcode, key, content_type, value, 0, condition, ttl, None, content_encoding)
            token = with_token(bare, self.identity(caller), idempotency_key).token
        encoded = command.encode(opcode, key, content_type, value, epoch, condition, ttl, token, content_encoding)
        record = pipe.encode_write(operation_id, command.checksum(encoded), encoded)
        return self.registry.admit(
            shard,
            operation_id,
            Kind.WRITE,
            key,
            record,
            deadline_s,
            repeatable=repeatable or token is not None,
            client=client or sender.get(),
        )

    def identity(self, caller: Caller | None = None) -> str:
        """The owner of the idempotency keys; empty while all clients share them."""
        return (caller or current.get()).identity if self.guarded else ""

    def read(
        self,
        key: bytes,
        mode: ReadMode,
        deadline_s: float = 0.0,
        session: Session | None = None,
        bound_ms: int = 0,
        caller: Caller | None = None,
        client: str = "",
    ) -> Operation:
        """Admits a read.

        Args:
            key: The key that is read.
            mode: The consistency of the read.
            deadline_s: When the read must be answered, on the loop's clock; 0 for the usual time from now on.
            session: What the client's session token says. Requires: the map is as new as the token, see
                ``Upkeep.catch_up``.
            bound_ms: How old the answer to a bounded read may be.
            caller: The sender, whose rights count; None for the sender of the request that is being served.
            client: The client whose share it takes; empty for the sender of the request that is being served.

        Raises:
            NotAppliedError: The map is not loaded, or too much is waiting.
            UnauthenticatedError: The request's sender is not known.
            ForbiddenError: The sender has not the right.
        """
        if self.guarded:
            check(caller or current.get(), Verb.READ, key)
        shard, epoch = self.directory.locate(key)
        operation_id = self.registry.next_id()
        kind, min_index = mode.kind, 0
        if mode is SESSION:
            demand = 0 if session is None else session.demand(shard.id)
            if demand is None:
                kind = Kind.READ_LINEARIZABLE
            elif demand:
                min_index = demand
            else:
                kind = Kind.READ_LOCAL
        record = pipe.encode_read(operation_id, epoch, key, min_index, b"", bound_ms)
        operation = self.registry.admit(
            shard, operation_id, kind, key, record, deadline_s, repeatable=True, client=client or sender.get()
        )
        operation.session = session
        operation.bound_ms = bound_ms
        return operation

    def read_token(self, key: bytes, idempotency_key: str) -> Operation:
        """Asks for the outcome of a write of a key with an idempotency key; raises what ``write`` does.

        A caller may ask that may read or write the key, and is told of its own writes alone.
        """
        if self.guarded:
            check_any(current.get(), (Verb.WRITE, Verb.READ), key)
        shard, epoch = self.directory.locate(key)
        operation_id = self.registry.next_id()
        record = pipe.encode_read(operation_id, epoch, key, token=token_of(self.identity(), idempotency_key))
        return self.registry.admit(
            shard, operation_id, Kind.READ_LINEARIZABLE, key, record, 0.0, repeatable=True, client=sender.get()
        )

    def shard_of(self, key: bytes) -> int | None:
        """The number of the shard that owns a key; None while the map is not loaded."""
        return None if self.map is None else self.map.owner(key)[0]

    def check_room(self, key: bytes, size: int) -> None:
        """Refuses a write before its body is read that would be refused afterwards.

        Raises:
            NotAppliedError: The map is not loaded, or too much is waiting.
        """
        shard, _ = self.directory.locate(key, counted=False)
        self.registry.check_room(shard, size)
