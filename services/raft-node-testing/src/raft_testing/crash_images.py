"""Runs every short workload on a node's storage, crashes it at every boundary of its I/O, and opens it again.

A workload is a sequence of operations on log and engine together, as a node carries them out. For the last operation
of each workload, the disk is copied before every call that changes or syncs something, and once it is done; each copy
loses data as in a crash, by each rule of ``Loss``, and the rest is opened as a node opens it. Shorter workloads
cover the boundaries of the operations before the last. (Small and exhaustive finds more than large and random: B3,
OSDI'18.)

Invariants of the contents of an image:
1. It holds every write that was acknowledged before the operation, and of the operation all or nothing.
2. A deleted key, or an entry that was cut off the log, never comes back.
3. Reads of single keys and scans agree; log and SSTables join without a gap.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import product
from typing import NamedTuple

import xxhash

from doug_wire import command
from doug_wire.command import Opcode
from raft_node import entry
from raft_node.entry import Entry, EntryKind
from raft_node.errors import DiskError, FatalError
from raft_node.kv import partitions
from raft_node.kv.keyspace import USER_PREFIX, decode_value
from raft_node.kv.state_machine import StateMachine
from raft_node.raft.configuration import encode_configuration
from raft_node.raft.types import Configuration, NodeId
from raft_node.storage.engine import Engine
from raft_node.storage.merges.tasks import FlushTask, tmp_directory
from raft_node.storage.merges.worker import run_task
from raft_node.storage.options import EngineOptions
from raft_node.storage.snapshots.checkpoint import verify_checkpoint
from raft_node.storage.wal.log import Wal, WalHardState, WalOptions
from raft_testing.files import MemoryFileSystem
from raft_testing.inodes import Loss

WAL, DATA = "/n/wal", "/n/data"
KEY, OTHER_KEY = b"a", b"b"
OPTIONS = EngineOptions(
    block_bytes=600,
    compression="none",
    table_bytes=2_000,
    l0_tables_trigger=3,
    l0_tables_max=6,
    l0_inputs_max=3,
    merge_bytes_max=4_000,
    level_base_bytes=1_000,
    level_multiplier=2,
    manifest_bytes=400,
)
_VALUE_BYTES = 700
"""The size of a value. A few values fill a segment of the log, so that many workloads begin the next one."""
_ATTEMPTS = {Loss.RANDOM: 6, Loss.TORN_BYTE: 6, Loss.TORN_512: 4, Loss.TORN_4096: 3}
"""How often a rule with several outcomes is tried; equal outcomes count once."""
_GO_ON_EVERY = 8
"""Every how many images one is also written to, and opened once more."""

State = dict[bytes, bytes]


class ImageError(AssertionError):
    """The contents of an image are not allowed."""


class Replica:
    """One node's log and engine, opened and used as a node does, on one thread and without Raft.

    It is a shard of one node: every durable entry of its log is committed.
    """

    def __init__(self, fs: MemoryFileSystem, start_id: str) -> None:
        """Opens log and engine and replays the log.

        Raises:
            FatalError: One of them cannot be opened.
        """
        self._fs = fs
        self._tmp = tmp_directory(DATA, start_id)
        self.wal = Wal.open(fs, WAL, WalOptions(segment_bytes=4096))
        self.engine = Engine.open(fs, DATA, OPTIONS, start_id)
        self.machine = StateMachine.open(self.engine)
        self._snapshots = 0
        self._written = 0
        if not self.wal.first_index - 1 <= self.engine.applied_index <= self.wal.last_index:
            raise ImageError(
                f"the engine ends with entry {self.engine.applied_index}, and the log holds "
                f"[{self.wal.first_index}, {self.wal.last_index}]"
            )
        self._replay()

    @property
    def state(self) -> State:
        """All users' keys with their values, by a scan; they are compared with reads of single keys."""
        found = dict(self.engine.scan(USER_PREFIX, b"\x02"))
        for key in (KEY, OTHER_KEY):
            if self.engine.get_blocking(USER_PREFIX + key) != found.get(USER_PREFIX + key):
                raise ImageError(f"a read of {key!r} and a scan disagree")
        return {key[1:]: decode_value(value).value for key, value in found.items()}

    def close(self) -> None:
        """Closes all files."""
        self.engine.close()
        self.wal.close()

    def value(self, label: str) -> bytes:
        """A value that was never written before."""
        self._written += 1
        name = f"{label}-{self._written}-".encode()
        return name.ljust(_VALUE_BYTES, b".")

    # The operations of a workload.

    def create(self) -> None:
        """Starts the shard for the first time, and writes a value that is flushed and one that is in the log alone."""
        member = Configuration((NodeId("shard-0-0", 7),))
        self._append([self._entry(EntryKind.CONFIGURATION, encode_configuration(member))])
        create = command.encode(Opcode.CREATE_SHARD, b"", value=partitions.encode_create_shard(0, 1))
        self._append([self._entry(EntryKind.COMMAND, create)])
        self.put(KEY, b"first")
        self.put(OTHER_KEY, b"first")
        self.flush()
        self.put(OTHER_KEY, b"second")

    def put(self, key: bytes, value: bytes) -> None:
        """Writes a key."""
        self._append([self._entry(EntryKind.COMMAND, command.encode(Opcode.PUT, key, value=value))])

    def delete(self, key: bytes) -> None:
        """Deletes a key."""
        self._append([self._entry(EntryKind.COMMAND, command.encode(Opcode.DELETE, key))])

    def flush(self) -> None:
        """Flushes all applied entries to SSTables."""
        self.engine.rotate()
        while (change_write := self.engine.take_changes()) is not None:
            change_write.run()
            self.engine.changes_done(change_write)
        self._run_tasks(lambda: bool(self.engine.stats().immutables), idle=False)

    def compact(self) -> None:
        """Runs all merges that are due, and then the idle merges."""
        for idle in (False, True):
            self._run_tasks(lambda: True, idle=idle)

    def snapshot(self) -> None:
        """Makes a checkpoint of the SSTables, and reads it back."""
        self._snapshots += 1
        path = f"{self._tmp}/snapshot-{self._snapshots}"
        self.engine.checkpoint(path).run()
        verify_checkpoint(self._fs, path)

    def drop_prefix(self) -> None:
        """Drops the log entries that are in SSTables, by beginning new segments."""
        self.wal.drop_prefix(self.engine.flushed_index + 1)
        newest = self.wal.segment_count
        for _ in range(8):
            if self.wal.wants_segment:
                self.wal.prepare_next_segment()
            if self.wal.segment_count > newest:
                break
            self._append([self._entry(EntryKind.NOOP, b"+" * _VALUE_BYTES)])
        if self.wal.wants_drop:
            drop = self.wal.take_drop()
            drop.run()
            self.wal.drop_done(drop)

    def replace_suffix(self, ghost: bytes, value: bytes) -> None:
        """Replaces an entry that was never applied by one of a newer leader."""
        index, term = self.wal.last_index + 1, self.wal.hard_state.term
        old = entry.encode(index, term, EntryKind.COMMAND, index, command.encode(Opcode.PUT, KEY, value=ghost))
        self.wal.publish(self.wal.append(None, None, [old]))
        new = entry.encode(index, term + 1, EntryKind.COMMAND, index, command.encode(Opcode.PUT, KEY, value=value))
        self.wal.publish(self.wal.append(WalHardState(term + 1, "", 0, index), index, [new]))
        self.machine.apply([new])

    def _entry(self, kind: EntryKind, data: bytes) -> Entry:
        index = self.wal.last_index + 1
        return entry.encode(index, max(1, self.wal.hard_state.term), kind, index, data)

    def _append(self, entries: list[Entry]) -> None:
        state = None if self.wal.hard_state.term else WalHardState(1, "", 0, 0)
        self.wal.publish(self.wal.append(state, None, entries))
        self.machine.apply(entries)

    def _replay(self) -> None:
        position = self.engine.applied_index + 1
        while position <= self.wal.last_index:
            entries = self.wal.entries(position, self.wal.last_index + 1, 1 << 20)
            self.machine.apply(entries)
            position = entries[-1].index + 1

    def _run_tasks(self, wanted: Callable[[], bool], *, idle: bool) -> None:
        while wanted() and (task := self.engine.next_task(idle=idle)) is not None:
            result = run_task(self._fs, DATA, task)
            self.engine.finish_install(self.engine.prepare_install(task, result))
            assert isinstance(task, FlushTask) or not self.engine.stats().immutables, "a flush comes first"


class Model:
    """The state that a user expects.

    Attributes:
        state: The keys and values of all acknowledged writes.
        allowed: The states that may be found while an operation is under way.
    """

    def __init__(self, state: State) -> None:
        self.state = dict(state)
        self.allowed = [self.state]

    def begin(self, *may_become: State) -> None:
        """Begins an operation that may lead to any of these states."""
        self.allowed = [self.state, *may_become]

    def end(self, state: State) -> None:
        """Ends the operation: it was acknowledged."""
        self.state = state
        self.allowed = [state]


Step = Callable[[Replica, Model], None]


def _put(replica: Replica, model: Model) -> None:
    value = replica.value("put")
    after = model.state | {KEY: value}
    model.begin(after)
    replica.put(KEY, value)
    model.end(after)


def _delete(replica: Replica, model: Model) -> None:
    after = {key: value for key, value in model.state.items() if key != KEY}
    model.begin(after)
    replica.delete(KEY)
    model.end(after)


def _replace_suffix(replica: Replica, model: Model) -> None:
    ghost, value = replica.value("ghost"), replica.value("replaced")
    after = model.state | {KEY: value}
    model.begin(model.state | {KEY: ghost}, after)
    replica.replace_suffix(ghost, value)
    model.end(after)


def _keeping(operation: Callable[[Replica], None]) -> Step:
    """Wraps an operation that does not change the state as users see it."""

    def step(replica: Replica, model: Model) -> None:
        model.begin()
        operation(replica)
        model.end(model.state)

    return step


STEPS: dict[str, Step] = {
    "put": _put,
    "delete": _delete,
    "flush": _keeping(Replica.flush),
    "compact": _keeping(Replica.compact),
    "snapshot": _keeping(Replica.snapshot),
    "drop-prefix": _keeping(Replica.drop_prefix),
    "replace-suffix": _replace_suffix,
}

Workload = tuple[str, ...]


class Image(NamedTuple):
    """One disk after a crash, to be opened.

    Attributes:
        workload: The operations.
        boundary: The call of the last operation before which the crash came, from 0.
        loss: The rule by which the crash lost data.
        fs: The disk.
        allowed: The states that the disk may hold.
    """

    workload: Workload
    boundary: int
    loss: Loss
    fs: MemoryFileSystem
    allowed: list[State]

    def __str__(self) -> str:
        return f"{','.join(self.workload)} boundary {self.boundary} loss {self.loss.value}"


def workloads(operations_max: int) -> Iterator[Workload]:
    """All sequences of at most ``operations_max`` operations, the short ones first."""
    for length in range(1, operations_max + 1):
        yield from product(STEPS, repeat=length)


class Prefix:
    """A store after the first operations of a workload, from which the last operation starts."""

    def __init__(self, workload: Workload) -> None:
        fs = MemoryFileSystem()
        self.replica = Replica(fs, "s1")
        self.replica.create()
        self.fs = fs
        self.model = Model(self.replica.state)
        for name in workload:
            STEPS[name](self.replica, self.model)


def images(workload: Workload) -> Iterator[Image]:
    """All different disks that a crash during the last operation of a workload, or right after it, can leave."""
    prefix = Prefix(workload[:-1])
    fs, model = prefix.fs, prefix.model
    copies: list[tuple[MemoryFileSystem, list[State]]] = []
    # The list of allowed states grows when the operation begins, so the list itself is kept, not a copy.
    fs.before_operation = lambda: copies.append((fs.copy(), list(model.allowed)))
    STEPS[workload[-1]](prefix.replica, model)
    fs.before_operation = None
    copies.append((fs.copy(), list(model.allowed)))
    seen: set[int] = set()
    for boundary, (copy, allowed) in enumerate(copies):
        for loss in (Loss.KEPT,) if copy.is_settled else Loss:
            for attempt in range(_ATTEMPTS.get(loss, 1)):
                image = copy.copy()
                image.crash_as(loss, rng_of(workload, boundary, loss, attempt))
                digest = _digest(image)
                if digest not in seen:
                    seen.add(digest)
                    yield Image(workload, boundary, loss, image, allowed)


def failing_calls(workload: Workload) -> Iterator[Image]:
    """The disks after the n-th call of the last operation failed, for every n, and the node stopped."""
    for number in range(1, 1 << 20):
        prefix = Prefix(workload[:-1])
        prefix.fs.fail_at(number, for_ever=False)
        try:
            STEPS[workload[-1]](prefix.replica, prefix.model)
            stopped = False
        except DiskError:
            stopped = True
        reached = prefix.fs.has_failed
        for loss in (Loss.DROPPED, Loss.KEPT):
            image = prefix.fs.copy()
            image.crash_as(loss, rng_of(workload, number, loss))
            yield Image(workload, number, loss, image, prefix.model.allowed)
        if not reached:
            return
        if not stopped:
            raise ImageError(f"{','.join(workload)}: call {number} failed, and nobody noticed")


def check(image: Image, *, go_on: bool) -> None:
    """Opens an image and checks its contents.

    Args:
        image: The disk after the crash. It is changed.
        go_on: Whether to write, flush and open it once more.

    Raises:
        ImageError: The contents are not allowed, or the image cannot be opened.
    """
    try:
        replica = Replica(image.fs, "s2")
        found = replica.state
        if found not in image.allowed:
            raise ImageError(f"it holds {_short(found)}, and not one of {[_short(state) for state in image.allowed]}")
        if go_on:
            replica.put(KEY, b"afterwards")
            replica.flush()
            replica.compact()
            replica.close()
            replica = Replica(image.fs, "s3")
            if replica.state != found | {KEY: b"afterwards"}:
                raise ImageError(f"after a write it holds {_short(replica.state)}")
        replica.close()
    except (FatalError, AssertionError, FileNotFoundError) as error:
        raise ImageError(f"{image}: {error}") from error


def run(workload: Workload, *, failures: bool) -> int:
    """Checks all images of a workload; returns how many there were.

    Raises:
        ImageError: See ``check``.
    """
    count = 0
    for image in images(workload):
        check(image, go_on=count % _GO_ON_EVERY == 0)
        count += 1
    if failures:
        for image in failing_calls(workload):
            check(image, go_on=False)
            count += 1
    return count


def rng_of(workload: Workload, boundary: int, loss: Loss, attempt: int = 0) -> random.Random:
    """The random generator of an image; the same image always gets the same one."""
    return random.Random(f"{','.join(workload)} {boundary} {loss.value} {attempt}")  # noqa: S311 - it tears writes


def _digest(fs: MemoryFileSystem) -> int:
    state = xxhash.xxh3_64()
    for path, content in fs.files().items():
        state.update(f"{path} {len(content)} ".encode())
        state.update(content)
    return state.intdigest()


def _short(state: State) -> dict[str, str]:
    return {key.decode(): value.rstrip(b".").decode() for key, value in state.items()}
