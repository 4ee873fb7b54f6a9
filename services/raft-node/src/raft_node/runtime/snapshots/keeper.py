"""The snapshots that this node holds for others: checkpoints of its own state, shared by all who need one.

A snapshot is made of hard links when somebody needs one, below the ``tmp`` directory of this start, so that nothing of
it outlives the process for long. It stays for a while after its last use: whoever lost the connection in the middle
gets the rest of the same one. Only the event loop touches this; what blocks runs on a thread.

Invariants:
1. A snapshot is never older than the log's first entry was when it was given out, so that the log continues it.
2. Nothing of a snapshot changes; its files go when nobody uses it any more.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import xxhash

from raft_node.errors import CorruptionError, DiskError, NoSpaceError
from raft_node.kv.keyspace import CONFIGURATION_KEY, STATE_KEY, State
from raft_node.storage.files import FileSystem
from raft_node.storage.snapshots.checkpoint import (
    CHECKPOINT,
    Checkpoint,
    CheckpointFile,
    CheckpointWrite,
    read_checkpoint,
)
from raft_node.storage.snapshots.incoming import SnapshotHeader

LINGER_S = 60.0
"""How long a snapshot is kept that nobody uses."""


class StateFacts(NamedTuple):
    """The facts in a checkpoint's keyspace that a log behind it needs.

    Attributes:
        configuration: The encoded members.
        timestamp_us: The log time of the checkpoint's last entry.
    """

    configuration: bytes
    timestamp_us: int


def facts_of(fs: FileSystem, checkpoint: Checkpoint) -> StateFacts:
    """Reads a checkpoint's facts. Blocking.

    Raises:
        CorruptionError: The checkpoint is damaged, or holds no state of a shard.
    """
    configuration, state = read_checkpoint(fs, checkpoint, (CONFIGURATION_KEY, STATE_KEY))
    if configuration is None or state is None:
        raise CorruptionError(f"{checkpoint.path}/{CHECKPOINT}", 0, "it holds no state of a shard")
    return StateFacts(configuration, State.decode(state).clock_us)


@dataclass(slots=True)
class HeldSnapshot:
    """A snapshot that can be sent.

    Attributes:
        header: The parts of the snapshot.
        path: The directory of its files.
        users: How many users it has.
        unused_since_s: When the last user released it.
    """

    header: SnapshotHeader
    path: str
    users: int = 0
    unused_since_s: float = 0.0


class CheckpointSource(Protocol):
    """The engine as this module sees it."""

    @property
    def flushed_index(self) -> int:
        """The last entry in the SSTables."""

    def checkpoint(self, path: str) -> CheckpointWrite:
        """Makes a checkpoint of the state as of ``flushed_index``."""


class Snapshots:
    """All snapshots of one node."""

    def __init__(
        self,
        fs: FileSystem,
        engine: CheckpointSource,
        directory: str,
        threads: Executor,
        now_s: Callable[[], float],
        on_made: Callable[[float, int], None] = lambda duration_s, size_bytes: None,
    ) -> None:
        """Begins without a snapshot.

        Args:
            fs: The file system of the engine.
            engine: The engine from whose files snapshots are made.
            directory: The directory of the snapshots, on the same file system; the engine's next start removes it.
            threads: Runs blocking work.
            now_s: A monotonic clock.
            on_made: Told how long making a snapshot has taken, and its size.
        """
        self._fs = fs
        self._engine = engine
        self._directory = directory
        self._threads = threads
        self._now_s = now_s
        self._on_made = on_made
        self._held: list[HeldSnapshot] = []
        self._pins: list[int] = []
        self._making = asyncio.Lock()

    @property
    def indexes(self) -> Sequence[int]:
        """The last entries of all snapshots that are held or being made: the log behind them is of use."""
        return [*self._pins, *(held.header.last_index for held in self._held)]

    async def acquire(self, first_index: int) -> HeldSnapshot:
        """Takes into use a snapshot that a log beginning with ``first_index`` continues; ``release`` ends the use.

        Raises:
            CorruptionError: This node's own tables are damaged; the node must stop.
            NoSpaceError: There is no room for the snapshot; the files made so far are removed.
            DiskError: The disk failed; the node must stop.
        """
        async with self._making:
            found = self._newest()
            if found is None or found.header.last_index + 1 < first_index:
                # The log is never dropped beyond what is flushed, so this one is new enough.
                found = await self._make()
            found.users += 1
            return found

    def release(self, snapshot: HeldSnapshot) -> None:
        """Ends one use of a snapshot."""
        snapshot.users -= 1
        snapshot.unused_since_s = self._now_s()

    async def tidy(self, *, linger_s: float = LINGER_S) -> None:
        """Removes the snapshots that were unused for long; called now and then."""
        until_s = self._now_s() - linger_s
        old = [held for held in self._held if held.users == 0 and held.unused_since_s <= until_s]
        for held in old:
            self._held.remove(held)
            await asyncio.get_running_loop().run_in_executor(self._threads, self._fs.remove_tree, held.path)

    def _newest(self) -> HeldSnapshot | None:
        return max(self._held, key=lambda held: held.header.last_index, default=None)

    async def _make(self) -> HeldSnapshot:
        snapshot_id = secrets.token_hex(16)
        path = f"{self._directory}/snapshot-{snapshot_id}"
        self._pins.append(self._engine.flushed_index)
        started_s = self._now_s()
        try:
            write = self._engine.checkpoint(path)
            loop = asyncio.get_running_loop()
            header = await loop.run_in_executor(self._threads, self._run, write, path, snapshot_id)
        finally:
            self._pins.pop()
        self._on_made(self._now_s() - started_s, header.size_bytes)
        held = HeldSnapshot(header, path)
        self._held.append(held)
        return held

    def _run(self, write: CheckpointWrite, path: str, snapshot_id: str) -> SnapshotHeader:
        try:
            checkpoint = write.run()
        except DiskError as error:
            if not error.no_space:
                raise
            self._fs.remove_tree(path)
            raise NoSpaceError(path) from error
        facts = facts_of(self._fs, checkpoint)
        content = self._fs.read_file(f"{checkpoint.path}/{CHECKPOINT}")
        listing = CheckpointFile(CHECKPOINT, len(content), xxhash.xxh3_64_intdigest(content))
        return SnapshotHeader(
            snapshot_id,
            checkpoint.applied_index,
            checkpoint.applied_term,
            facts.configuration,
            facts.timestamp_us,
            (listing, *checkpoint.files),
        )
