"""Applies committed entries to the keyspace, the same way on every replica.

Invariants:
1. What an entry does depends on the entries before it and on nothing else.
2. The effects of an entry and the applied index become visible, and later durable, together.
3. A command for a slot that is not owned, or at another epoch, changes nothing but the applied index.
4. What a comparison of hashes finds changes no state: it is told, and nothing else.
5. An entry that this version does not know stops the node: skipping it would let replicas differ.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

from doug_wire import command as commands
from doug_wire.command import Opcode
from doug_wire.pipe import Status
from doug_wire.slots import slot_of
from raft_node.entry import HEADER_BYTES, Entry, EntryKind
from raft_node.errors import CorruptionError
from raft_node.kv import partitions
from raft_node.kv.keyspace import (
    CONFIGURATION_KEY,
    PARTITION_MAP_KEY,
    SLOTS_KEY,
    STATE_HASH_KEY,
    STATE_KEY,
    USER_PREFIX,
    VALUE_FORMAT,
    VALUE_HEADER,
    State,
)
from raft_node.kv.partitions import PartitionMap
from raft_node.kv.state_hash import Divergence, Mark, Standing, chained, marked

_COMMAND: struct.Struct = commands.HEADER
_COMMAND_START = HEADER_BYTES + _COMMAND.size
# Plain numbers: a member of an enumeration takes twice as long to compare.
_COMMAND_KIND = int(EntryKind.COMMAND)
_PUT, _DELETE, _CREATE_SHARD = int(Opcode.PUT), int(Opcode.DELETE), int(Opcode.CREATE_SHARD)


class Store(Protocol):
    """What the state machine asks of the storage engine."""

    @property
    def applied_index(self) -> int:
        """The last entry whose effects are in the store."""

    def write(self, batch: Sequence[tuple[bytes, bytes | None]], applied_index: int, applied_term: int) -> None:
        """Makes the changes and the applied index visible together."""


class BlockingStore(Store, Protocol):
    """A store that may be waited for: what starts have, and nothing that the event loop runs."""

    def get_blocking(self, key: bytes) -> bytes | None:
        """Reads a key, from disk if need be."""


StoredState = Mapping[bytes, bytes | None]
"""What a state machine takes up: the values of ``STATE_KEYS``, None for those that are not there."""

STATE_KEYS = (STATE_KEY, STATE_HASH_KEY, SLOTS_KEY, PARTITION_MAP_KEY)


def read_state(store: BlockingStore) -> StoredState:
    """Reads what a state machine takes up. Blocking."""
    return {key: store.get_blocking(key) for key in STATE_KEYS}


class Outcome(NamedTuple):
    """What applying one entry did: a ``doug_wire.pipe.Status`` and the revision that it was given."""

    status: int
    revision: int


_APPLIED_NOTHING = Outcome(Status.OK, 0)
_WRONG_SHARD = Outcome(Status.WRONG_SHARD, 0)


class StateMachine:
    """The replicated state of one shard.

    Attributes:
        clock_us: The log time: the timestamp of the last applied entry, in microseconds since the epoch.
        revision: The last revision given to a write.
        mark: The hash as of the last STATE_HASH entry.
        divergences: Where this replica was found to differ from its leaders; whoever tells of them empties it.
    """

    def __init__(self, store: Store, stored: StoredState) -> None:
        """Takes up the state that the store holds, which was read before: nothing here waits for a disk."""
        self._store = store
        state = stored[STATE_KEY]
        self.clock_us, self.revision = State.decode(state) if state is not None else State()
        self._epochs: list[int] = []
        self.divergences: list[Divergence] = []
        standing = stored[STATE_HASH_KEY]
        # None before the first mark: until then nothing is hashed.
        self._hash: int | None = None
        self.mark = Mark()
        if standing is not None:
            self._hash, self.mark = Standing.decode(standing)
        slots, whole = stored[SLOTS_KEY], stored[PARTITION_MAP_KEY]
        if slots is not None:
            self._load_slots(slots)
        self._partition_map = None if whole is None else PartitionMap.decode(whole)

    @classmethod
    def open(cls, store: BlockingStore) -> StateMachine:
        """Takes up the state that the store holds. Blocking."""
        return cls(store, read_state(store))

    @property
    def created(self) -> bool:
        """Whether this shard knows which slots it owns; false only until its first leader has told."""
        return bool(self._epochs)

    @property
    def epochs(self) -> Sequence[int]:
        """By slot, the epoch at which this shard owns it, 0 for the others. What it gives never changes."""
        return self._epochs

    def owns(self, slot: int, epoch: int) -> bool:
        """Whether a request for a slot, at the epoch that its sender knows (0: unknown), is for this shard."""
        owned = self._epochs[slot] if self._epochs else 0
        return owned != 0 and epoch in (0, owned)

    def partition_map(self) -> PartitionMap | None:
        """The map of the whole cluster; None in shards that do not hold it."""
        return self._partition_map

    def apply(self, entries: Sequence[Entry]) -> list[Outcome]:
        """Applies entries that follow each other and the applied index.

        Args:
            entries: Committed entries, at least one.

        Returns:
            What became of each.

        Raises:
            CorruptionError: An entry is of a kind, or carries a command, that this version does not know.
        """
        assert entries[0].index == self._store.applied_index + 1, "entries are applied in order, each once"
        batch: list[tuple[bytes, bytes | None]] = []
        outcomes: list[Outcome] = []
        hashed = 0
        remaining = iter(entries)
        while (entry := self._apply_commands(remaining, batch, outcomes)) is not None:
            kind = entry.kind
            if kind == EntryKind.CONFIGURATION:
                batch.append((CONFIGURATION_KEY, entry.command))
            elif kind == EntryKind.STATE_HASH:
                self._compare(entry, batch[hashed:])
                hashed = len(batch)
            elif kind not in (EntryKind.NOOP, EntryKind.CLOCK):
                raise CorruptionError("log", entry.index, f"entry {entry.index} is of the unknown kind {kind}")
            outcomes.append(_APPLIED_NOTHING)
        last = entries[-1]
        self.clock_us = max(self.clock_us, last.timestamp_us)
        if self._hash is not None:
            self._hash = chained(self._hash, batch[hashed:] if hashed else batch)
            batch.append((STATE_HASH_KEY, Standing(self._hash, self.mark).encode()))
        batch.append((STATE_KEY, State(self.clock_us, self.revision).encode()))
        self._store.write(batch, last.index, last.term)
        return outcomes

    def _apply_commands(
        self, remaining: Iterator[Entry], batch: list[tuple[bytes, bytes | None]], outcomes: list[Outcome]
    ) -> Entry | None:
        """Applies the commands up to an entry of another kind, which it gives."""
        # Five replicas do this for every write, and a start for the whole log: hence no look-up by name within.
        unpack, pack, slot, new = _COMMAND.unpack_from, VALUE_HEADER.pack, slot_of, tuple.__new__
        applied, write, cls, ok, prefix = outcomes.append, batch.append, Outcome, Status.OK, USER_PREFIX
        revision, epochs, value_format, start = self.revision, self._epochs, VALUE_FORMAT, _COMMAND_START
        for entry in remaining:
            _, _, kind, _, data = entry
            if kind != _COMMAND_KIND:
                break
            if len(data) < start:
                raise _unknown(entry, "a command that is shorter than its header")
            opcode, flags, key_bytes, type_bytes, value_bytes, epoch = unpack(data, HEADER_BYTES)
            key_end = start + key_bytes
            if flags or key_end + type_bytes + value_bytes != len(data):
                raise _unknown(entry, f"a command of other lengths, or with the unknown flags {flags:#x}")
            key = data[start:key_end]
            if opcode == _CREATE_SHARD:
                applied(self._create_shard(entry, data[key_end + type_bytes :], batch))
                epochs = self._epochs
                continue
            owned = epochs[slot(key)] if epochs else 0
            if not owned or (epoch and epoch != owned):
                applied(_WRONG_SHARD)
                continue
            if opcode == _PUT:
                revision += 1
                write((prefix + key, pack(value_format, 0, type_bytes, revision) + data[key_end:]))
            elif opcode == _DELETE:
                revision += 1
                write((prefix + key, None))
            else:
                raise _unknown(entry, f"the opcode {opcode}")
            applied(new(cls, (ok, revision)))
        else:
            entry = None
        self.revision = revision
        return entry

    def _compare(self, entry: Entry, effects: Sequence[tuple[bytes, bytes | None]]) -> None:
        """Compares this replica's last mark with the leader's, and sets the next one."""
        try:
            leader = Mark.decode(entry.command)
        except ValueError as error:
            raise CorruptionError("log", entry.index, f"entry {entry.index} is {error}") from error
        # Two leaders in a row may each have marked; the second one then speaks of a mark that is past.
        if leader.at and leader.at == self.mark.at and leader.value != self.mark.value:
            self.divergences.append(Divergence(leader.at, self.mark.value, leader.value))
        value = 0 if self._hash is None else chained(self._hash, effects)
        self._hash = marked(value, entry.index, State(0, self.revision).encode())
        self.mark = Mark(entry.index, self._hash)

    def _create_shard(self, entry: Entry, value: bytes, batch: list[tuple[bytes, bytes | None]]) -> Outcome:
        if self.created:
            # Two leaders in a row may both have proposed it; only the first one counts.
            return _APPLIED_NOTHING
        try:
            shard, shards = partitions.decode_create_shard(value)
        except ValueError as error:
            raise _unknown(entry, f"a new shard: {error}") from error
        first_map = partitions.initial_map(shards)
        self._epochs = partitions.owned_epochs(first_map.ranges, shard)
        own = PartitionMap(first_map.epoch, tuple(slots for slots in first_map.ranges if slots.shard == shard))
        batch.append((SLOTS_KEY, own.encode()))
        if shard == 0:
            batch.append((PARTITION_MAP_KEY, first_map.encode()))
            self._partition_map = first_map
        return _APPLIED_NOTHING

    def _load_slots(self, data: bytes) -> None:
        own = PartitionMap.decode(data)
        self._epochs = partitions.owned_epochs(own.ranges, own.ranges[0].shard)


def _unknown(entry: Entry, what: str) -> CorruptionError:
    return CorruptionError("log", entry.index, f"entry {entry.index} holds {what}")
