"""Applies committed entries to the keyspace, the same way on every replica.

In three steps. What commands will read is fetched from the store (``raft_node.kv.fetching``); if that needs the disk,
``apply`` ends before the entry and says in ``needed`` what is to be loaded first. Then each command is carried out by a
pure function of the state and of itself (``raft_node.kv.operations``). At last all effects are written at once. A put
and a delete without options read nothing: they are done here, and cost nothing of this; those with a condition alone
are done by ``raft_node.kv.conditional``, and batches of puts by ``raft_node.kv.put_batches``. What reads and stores
much, or takes long, ends a call of ``apply`` early, so that neither memory nor the event loop are taken by a few bytes
of the log.

Invariants:
1. What an entry does depends on the entries before it and on nothing else.
2. The effects of an entry and the applied index become visible, and later durable, together.
3. A command for a slot that is not owned, or at another epoch, changes nothing but the applied index.
4. What a comparison of hashes finds changes no state: it is told, and nothing else.
5. An entry that this version does not know stops the node: skipping it would let replicas differ.
6. Where a call of ``apply`` ends has no effect on what entries do.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Protocol

from doug_wire import command as commands
from doug_wire.command import Opcode
from doug_wire.partition_map import PartitionMap, PartitionMapError
from doug_wire.pipe import Status
from doug_wire.slots import slot_of
from doug_wire.watch import ChangeKind
from raft_node.entry import HEADER_BYTES, Entry, EntryKind
from raft_node.errors import CorruptionError
from raft_node.kv import conditional, put_batches
from raft_node.kv.changes import Removal, encode_removals
from raft_node.kv.conditional import BYTES_MAX, STEPS_MAX, Run
from raft_node.kv.fetching import Fetching, unknown
from raft_node.kv.keyspace import (
    AUTH_KEY,
    CONFIGURATION_KEY,
    LIMITS_KEY,
    PARTITION_MAP_KEY,
    SLOTS_KEY,
    STATE_HASH_KEY,
    STATE_KEY,
    USER_PREFIX,
    VALUE_FORMAT,
    VALUE_HEADER,
    State,
)
from raft_node.kv.operations import access, table, tokens
from raft_node.kv.operations.work import Details, Limits, NotFetchedError, Outcome, Work
from raft_node.kv.operations.work import Mark as Before
from raft_node.kv.ownership import NOTHING, Ownership
from raft_node.kv.partitions import decode_create_shard
from raft_node.kv.state_hash import ChainState, Divergence, Mark, chained, marked
from raft_node.kv.visibility import Visibility
from raft_node.storage.changes.span import Span

if TYPE_CHECKING:
    from raft_node.storage.tables.reads import BlockNeeded

_COMMAND: struct.Struct = commands.HEADER
_COMMAND_START = HEADER_BYTES + _COMMAND.size
_FLAGS = HEADER_BYTES + 1
"""Where the flags of a command lie in its entry."""
# Plain numbers: a member of an enumeration takes twice as long to compare.
_COMMAND_KIND = int(EntryKind.COMMAND)
_PUT, _DELETE, _DELETED = int(Opcode.PUT), int(Opcode.DELETE), int(ChangeKind.DELETE)

REVISIONS_LOST_MAX = 1 << 40
"""The number of revisions that a shard skips when it goes on without what it had acknowledged: those that are lost and
were seen by somebody are not given out again."""

Effects = list[tuple[bytes, bytes | None]]


class Store(Protocol):
    """The storage engine as the state machine sees it."""

    @property
    def applied_index(self) -> int:
        """The last entry whose effects are in the store."""

    def write(
        self, batch: Sequence[tuple[bytes, bytes | None]], applied_index: int, applied_term: int, span: Span
    ) -> None:
        """Makes the changes and the applied index visible together."""

    def multi_get(self, keys: Sequence[bytes]) -> Sequence[bytes | BlockNeeded | None]:
        """Reads keys from memory; for a key on disk returns the block that must be loaded."""


class BlockingStore(Store, Protocol):
    """A store whose disk may be waited for. Starts have one; nothing that runs on the event loop does."""

    def get_blocking(self, key: bytes) -> bytes | None:
        """Reads a key, from disk if need be."""


StoredState = Mapping[bytes, bytes | None]
"""The stored values with which a state machine begins: those of ``STATE_KEYS``, None for a missing one."""

STATE_KEYS = (STATE_KEY, STATE_HASH_KEY, SLOTS_KEY, LIMITS_KEY, PARTITION_MAP_KEY, AUTH_KEY)


def read_state(store: BlockingStore) -> StoredState:
    """Reads the stored values with which a state machine begins. Blocking."""
    return {key: store.get_blocking(key) for key in STATE_KEYS}


_APPLIED_NOTHING = Outcome(Status.OK, 0)
_WRONG_SHARD = Outcome(Status.WRONG_SHARD, 0)


class StateMachine:
    """The replicated state of one shard.

    Attributes:
        clock_us: The log time: the timestamp of the last applied entry, in microseconds since the epoch.
        revision: The last revision given to a write.
        tokens: How many tokens are kept.
        token_bytes: How many bytes the tokens take.
        limits: How many tokens and bytes of tokens may be kept, and for how long.
        generation: How often the shard has gone on without entries that it had acknowledged.
        floor: The revision from which on watches may go on.
        ownership: The slots of this shard.
        auth: The document of users and rights, as this shard holds it.
        mark: The hash as of the last STATE_HASH entry.
        divergences: The differences from its leaders that were found; ``raft_node.runtime.divergence`` empties it.
        next_due_us: No key expires before this log time; 0 at first, before anybody knows. The upkeep of the leader
            sets
            it anew.
        looking: Whether the upkeep looks for expired keys right now; ``next_due_us`` tells only of keys that are
            written
            meanwhile.
    """

    def __init__(self, store: Store, stored: StoredState) -> None:
        """Begins with the stored state, which was read before: nothing here waits for a disk."""
        self._store = store
        state = stored[STATE_KEY]
        counters = State.decode(state) if state is not None else State()
        self.clock_us, self.revision, self.tokens, self.token_bytes, self.generation, self.floor = counters
        self.divergences: list[Divergence] = []
        standing = stored[STATE_HASH_KEY]
        # None before the first mark: until then nothing is hashed.
        self._hash: int | None = None
        self.mark = Mark()
        if standing is not None:
            self._hash, self.mark = ChainState.decode(standing)
        slots, limits = stored[SLOTS_KEY], stored[LIMITS_KEY]
        self.ownership = NOTHING if slots is None else Ownership.decode(slots)
        self.limits = Limits() if limits is None else _stored_limits(limits)
        self._partition_map = _stored_map(stored[PARTITION_MAP_KEY])
        self.auth = access.Stored.decode(stored.get(AUTH_KEY))
        self.next_due_us = 0
        self.looking = False
        self._fetching = Fetching(store)
        self._removals: list[Removal] = []
        self._written_revision = self.revision

    @classmethod
    def open(cls, store: BlockingStore) -> StateMachine:
        """Begins with the state that the store holds. Blocking."""
        return cls(store, read_state(store))

    @property
    def created(self) -> bool:
        """Whether this shard knows which slots it owns; False only until its first leader has told."""
        return self.ownership.known

    def may_be_due(self, now_us: int) -> bool:
        """Whether a key that is still visible may have expired by a clock that shows ``now_us``."""
        return self.clock_us < now_us and (self.looking or self.next_due_us <= now_us)

    @property
    def visibility(self) -> Visibility:
        """The rules of which values count as of the last applied entry."""
        return Visibility(self.clock_us, self.ownership.epochs)

    @property
    def epochs(self) -> Sequence[int]:
        """By slot, the epoch at which this shard owns it, 0 for the others. The returned sequence never changes."""
        return self.ownership.epochs

    def owns(self, slot: int, epoch: int) -> bool:
        """Whether a request for a slot, at the epoch that its sender knows (0: unknown), is for this shard."""
        return self.ownership.owns(slot, epoch)

    def partition_map(self) -> PartitionMap | None:
        """The map of the whole cluster; None in shards that do not hold it."""
        return self._partition_map

    def apply(self, entries: Sequence[Entry]) -> list[Outcome]:
        """Applies entries that follow each other and the applied index, as far as nothing must be loaded for them.

        Args:
            entries: Committed entries, at least one.

        Returns:
            The outcome of each applied entry. If these are fewer than ``entries``, have all of ``needed``, which may
            be nothing, ``loaded``, and apply the rest; nothing else may be applied in between.

        Raises:
            CorruptionError: An entry is of a kind, or carries a command, that this version does not know.
        """
        assert entries[0].index == self._store.applied_index + 1, "entries are applied in order, each once"
        assert not self.needed, "what is needed was not loaded"
        ready = 0
        batch: Effects = []
        outcomes: list[Outcome] = []
        work: Work | None = None
        hashed = results = 0
        remaining, run = iter(entries), Run(batch, self._removals, outcomes)
        left: tuple[Entry, ...] = ()  # What was taken from the iterator, and not applied.
        while (entry := self._apply_plain(chain(left, remaining), batch, outcomes)) is not None:
            left = ()
            if entry.kind == _COMMAND_KIND:
                if work is None:
                    work = self._begin_work(batch)
                elif work.steps + run.steps >= STEPS_MAX or work.bytes + run.bytes + results >= BYTES_MAX:
                    break
                if (outcome := self._put_all(entry, batch)) is not None:
                    results += len(outcome.details.value) if outcome.details is not None else 0
                    outcomes.append(outcome)
                    continue
                if len(outcomes) >= ready:
                    ready = len(outcomes) + self._fetching.fetch(entries[len(outcomes) :], ask=not outcomes)
                if len(outcomes) < ready and entry.data[_FLAGS] == commands.FLAG_CONDITION:
                    rest = self._judge(chain((entry,), remaining), run)
                    if rest is not entry:
                        left = () if rest is None else (rest,)
                        continue
                outcome = self._try(entry, work, ask=not outcomes) if len(outcomes) < ready else None
                if outcome is None:
                    break
                results += len(outcome.details.value) if outcome.details is not None else 0
                outcomes.append(outcome)
                continue
            hashed = self._apply_own(entry, batch, hashed)
            outcomes.append(_APPLIED_NOTHING)
        if outcomes:
            self._write(entries[len(outcomes) - 1], batch, hashed)
        if work is not None:
            self.next_due_us = min(self.next_due_us, work.next_due_us)
        return outcomes

    def loaded(self, found: Sequence[tuple[bytes, bytes | None]]) -> None:
        """Takes the keys and values of all blocks that were ``needed``; then the rest of the entries can be applied."""
        self._fetching.loaded(found)

    @property
    def needed(self) -> Sequence[BlockNeeded]:
        """The blocks that must be loaded before more entries are applied; empty unless ``apply`` has left entries."""
        return self._fetching.needed

    def _write(self, last: Entry, batch: Effects, hashed: int) -> None:
        """Writes the effects of the entries up to the last one."""
        self._fetching.forget()
        self.clock_us = max(self.clock_us, last.timestamp_us)
        if self._hash is not None:
            self._hash = chained(self._hash, batch[hashed:] if hashed else batch)
            batch.append((STATE_HASH_KEY, ChainState(self._hash, self.mark).encode()))
        batch.append((STATE_KEY, self._counters(self.clock_us).encode()))
        notes = encode_removals(self._removals) if self._removals else b""
        span = Span(self._written_revision, self.revision, self.clock_us, notes)
        self._removals, self._written_revision = [], self.revision
        self._store.write(batch, last.index, last.term, span)

    def _counters(self, clock_us: int) -> State:
        return State(clock_us, self.revision, self.tokens, self.token_bytes, self.generation, self.floor)

    def _apply_plain(self, remaining: Iterable[Entry], batch: Effects, outcomes: list[Outcome]) -> Entry | None:
        """Applies puts and deletes without options up to an entry of another kind, which it returns."""
        # Five replicas do this for every write, and a start for the whole log: hence no look-up by name within.
        unpack, pack, slot, new = _COMMAND.unpack_from, VALUE_HEADER.pack, slot_of, tuple.__new__
        applied, write, cls, ok, prefix = outcomes.append, batch.append, Outcome, Status.OK, USER_PREFIX
        revision, epochs, value_format, start = self.revision, self.ownership.epochs, VALUE_FORMAT, _COMMAND_START
        for entry in remaining:
            _, _, kind, _, data = entry
            if kind != _COMMAND_KIND:
                break
            if len(data) < start:
                raise unknown(entry, "a command that is shorter than its header")
            opcode, flags, key_bytes, type_bytes, value_bytes, epoch = unpack(data, HEADER_BYTES)
            if flags or opcode > _DELETE:
                break
            key_end = start + key_bytes
            if key_end + type_bytes + value_bytes != len(data):
                raise unknown(entry, "a command of other lengths")
            key = data[start:key_end]
            owned = epochs[slot(key)]
            if not owned or (epoch and epoch != owned):
                applied(_WRONG_SHARD)
                continue
            if opcode == _PUT:
                revision += 1
                write((prefix + key, pack(value_format, 0, type_bytes, owned, revision) + data[key_end:]))
            elif opcode == _DELETE:
                revision += 1
                self._removals.append(Removal(len(batch), revision, _DELETED))
                write((prefix + key, None))
            else:
                raise unknown(entry, f"the opcode {opcode}")
            applied(new(cls, (ok, revision, None)))
        else:
            entry = None
        self.revision = revision
        return entry

    def _put_all(self, entry: Entry, batch: Effects) -> Outcome | None:
        """Carries an entry out that is a batch of puts without options; None if it is another one."""
        found = put_batches.carry_out(entry.data, self.ownership, self.revision, batch)
        if found is None:
            return None
        results, self.revision = found
        return Outcome(Status.OK, self.revision, Details(value=results))

    def _apply_own(self, entry: Entry, batch: Effects, hashed: int) -> int:
        """Applies an entry of Raft's or the leader's own; returns how many effects a hash has been taken of."""
        kind = entry.kind
        if kind == EntryKind.CONFIGURATION:
            batch.append((CONFIGURATION_KEY, entry.command))
        elif kind == EntryKind.STATE_HASH:
            self._compare(entry, batch[hashed:])
            return len(batch)
        elif kind not in (EntryKind.NOOP, EntryKind.CLOCK):
            raise CorruptionError("log", entry.index, f"entry {entry.index} is of the unknown kind {kind}")
        return hashed

    # Commands that may read.

    def _judge(self, entries: Iterable[Entry], run: Run) -> Entry | None:
        """Applies puts and deletes with a condition alone up to another entry, or one that must be decoded."""
        values = self._fetching.values
        rest, self.revision = conditional.carry_out(entries, run, values, self.epochs, self.revision)
        return rest

    def _begin_work(self, batch: Effects) -> Work:
        work = Work(self.ownership, self.limits, self.revision, self.tokens, self.token_bytes)
        work.effects = batch
        work.removals = self._removals
        work.take(self._fetching.values)
        return work

    def _try(self, entry: Entry, work: Work, *, ask: bool) -> Outcome | None:
        """Carries an entry out; None if blocks must be loaded first."""
        before = Before(len(work.effects), self.revision, self.tokens, self.token_bytes)
        while True:
            try:
                return self._carry_out(entry, work)
            except NotFetchedError as error:
                work.undo_all(before)
                if not self._fetching.fetch_key(error.key, ask=ask):
                    return None

    def _carry_out(self, entry: Entry, work: Work) -> Outcome:
        command = self._fetching.command(entry)
        opcode = command.opcode
        if opcode == Opcode.CREATE_SHARD:
            outcome = self._create_shard(entry, command.value, work.effects)
            work.ownership = self.ownership
            return outcome
        try:
            if opcode == Opcode.SET_LIMITS:
                wanted, clock_us = tokens.decode_limits(command.value), max(self.clock_us, entry.timestamp_us)
                self.limits = work.limits = tokens.changed_limits(self.limits, wanted, clock_us)
                work.write(LIMITS_KEY, tokens.encode_stored_limits(self.limits))
                return _APPLIED_NOTHING
            if opcode == Opcode.RECOVER:
                self.generation, self.revision = self.generation + 1, self.revision + REVISIONS_LOST_MAX
                self.floor = work.revision = self.revision
                return _APPLIED_NOTHING
            if opcode == Opcode.SET_AUTH:
                return self._set_auth(command.value, work)
            if not table.is_known(opcode):
                raise unknown(entry, f"the opcode {opcode}")
            work.begin(max(self.clock_us, entry.timestamp_us))
            work.revision = self.revision
            outcome = table.carry_out(work, command)
        except ValueError as error:
            raise unknown(entry, str(error)) from error
        self.revision, self.tokens, self.token_bytes = work.revision, work.tokens, work.token_bytes
        return outcome

    def _set_auth(self, value: bytes, work: Work) -> Outcome:
        changed = access.change(self.auth, value)
        if changed is None:
            return Outcome(Status.PRECONDITION_FAILED, self.auth.revision)
        self.auth = changed
        work.write(AUTH_KEY, changed.encode())
        return Outcome(Status.OK, changed.revision)

    def _compare(self, entry: Entry, effects: Sequence[tuple[bytes, bytes | None]]) -> None:
        """Compares this replica's last mark with the leader's, and sets the next one."""
        try:
            leader = Mark.decode(entry.command)
        except ValueError as error:
            raise CorruptionError("log", entry.index, f"entry {entry.index} is {error}") from error
        # Two leaders in a row may each have proposed a mark; the second then names a mark that is past.
        if leader.at and leader.at == self.mark.at and leader.value != self.mark.value:
            self.divergences.append(Divergence(leader.at, self.mark.value, leader.value))
        value = 0 if self._hash is None else chained(self._hash, effects)
        self._hash = marked(value, entry.index, self._counters(0).encode())
        self.mark = Mark(entry.index, self._hash)

    def _create_shard(self, entry: Entry, value: bytes, batch: Effects) -> Outcome:
        if self.created:
            # Two leaders in a row may both have proposed this; only the first one counts.
            return _APPLIED_NOTHING
        try:
            shard, shards = decode_create_shard(value)
        except ValueError as error:
            raise unknown(entry, f"a new shard: {error}") from error
        first_map = PartitionMap.first(shards)
        self.ownership = Ownership(first_map.epoch, first_map.of_shard(shard))
        batch.append((SLOTS_KEY, self.ownership.encode()))
        if shard == 0:
            batch.append((PARTITION_MAP_KEY, first_map.encode()))
            self._partition_map = first_map
        return _APPLIED_NOTHING


def _stored_limits(data: bytes) -> Limits:
    try:
        return tokens.decode_stored_limits(data)
    except ValueError as error:
        raise CorruptionError("state", 0, str(error)) from error


def _stored_map(data: bytes | None) -> PartitionMap | None:
    try:
        return PartitionMap.decode(data) if data is not None else None
    except PartitionMapError as error:
        raise CorruptionError("state", 0, str(error)) from error
