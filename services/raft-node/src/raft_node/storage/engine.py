"""The LSM tree: memtables in front of SSTables, for one keyspace of opaque bytes.

Two threads use an engine. The event loop calls everything that is not marked as blocking; it never waits for the disk.
One background thread at a time runs the pieces marked as blocking: ``ChangeWrite.run``, ``load_block``,
``prepare_install``, ``Adoption.run``. A worker does the tasks. The way of a write: ``write`` -> memtable and change
queue -> ``take_changes`` -> rotation -> ``next_task`` (flush) -> worker -> ``prepare_install`` -> ``finish_install``. A
snapshot is made by ``rotate``, the flush that follows, and ``checkpoint``; one of another node is taken over by
``adopt``. The engine must not know what keys mean, nor processes, threads or clocks.

Invariants:
1. The tables of the version are the state after ``flushed_index``; with the memtables, after ``applied_index``.
2. Memtables are flushed in their order, and each is dropped only when its table is in the durable manifest.
3. A file is removed only once the durable manifest does not refer to it.
4. At most one flush and one compaction are under way, or one adoption and neither; results are put in place one at a
   time, each upon the tables that the one before it left. A flush adds above all tables, a compaction replaces tables
   by what they hold, so either may end first.
5. The state never goes back to an earlier entry.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, cast

from raft_node.storage.changes.history import History, Limits
from raft_node.storage.changes.segments import ChangeSegment, ChangeWrite
from raft_node.storage.changes.span import NO_SPAN, Span
from raft_node.storage.files import FileSystem
from raft_node.storage.memtable import Batch, Memtable, Writes
from raft_node.storage.merges.compaction import pending_bytes, record_bytes
from raft_node.storage.merges.planning import Planner
from raft_node.storage.merges.results import Prepared, Results
from raft_node.storage.merges.tasks import TMP, FlushTask, Task, TaskResult, tmp_directory
from raft_node.storage.options import EngineOptions
from raft_node.storage.snapshots.checkpoint import Adoption, Checkpoint, CheckpointWrite, StaleCheckpointError
from raft_node.storage.stats import EngineStats
from raft_node.storage.tables import reads
from raft_node.storage.tables.cache import BlockCache
from raft_node.storage.tables.iterators import live
from raft_node.storage.tables.manifest import Manifest, recover, remove_orphans
from raft_node.storage.tables.open_files import OpenFiles
from raft_node.storage.tables.reads import BlockNeeded, LoadedBlock
from raft_node.storage.tables.sstable import Table, open_table
from raft_node.storage.tables.version import Version
from raft_node.storage.tables.view import HeldView, View

__all__ = ["BlockNeeded", "Engine", "EngineStats", "LoadedBlock", "Prepared"]


class _Generation(NamedTuple):
    """A memtable and the change segment beside it."""

    memtable: Memtable
    changes: ChangeSegment


class Engine:
    """The storage engine of one node: see the module. Open it with ``Engine.open``.

    Attributes:
        written_bytes: How many bytes were written since it was opened, with the bookkeeping of memtables.
        history: The changes that are still held, in memory and in kept segments.
    """

    def __init__(
        self,
        fs: FileSystem,
        directory: str,
        options: EngineOptions,
        start_id: str,
        view: View,
        manifest: Manifest,
        open_files: OpenFiles,
    ) -> None:
        self._fs = fs
        self._directory = directory
        self._options = options
        self._start_id = start_id
        self._view = view
        self._manifest = manifest
        self._open_files = open_files
        self._results = Results(fs, directory, start_id, manifest, open_files)
        self._cache = BlockCache(options.block_cache_bytes)
        self._immutables: list[_Generation] = []
        self._immutables_max = options.immutables_max
        self._replay_until = 0
        self._change_number = 0
        self.history = History(fs, directory, Limits(options.history_bytes_max, options.history_age_us))
        self._active = self._new_generation(view.version.flushed_index, view.version.flushed_term)
        self._memory: tuple[dict[bytes, bytes | None], ...] = (self._active.memtable.entries,)
        self._change_write: ChangeWrite | None = None
        self._planner = Planner(options, start_id)
        self._keep_as = ""  # The name under which the segment of the flush under way is kept.
        self._adoption: Adoption | None = None
        self._garbage: list[str] = []
        self.written_bytes = 0
        self._flushes = self._flushed_bytes = 0
        self._compactions = self._compacted_read_bytes = self._compacted_written_bytes = 0

    @classmethod
    def open(cls, fs: FileSystem, directory: str, options: EngineOptions, start_id: str) -> Engine:
        """Opens the store in a directory, or creates one when the directory is empty. Blocking.

        No file is changed before all were checked. Then a new manifest begins, and every file that it does not refer to
        is removed: tables that were never installed, change segments (the log has their writes), old ``tmp/``.

        Args:
            fs: The file system of the directory.
            directory: The data directory. Requires: no other process uses it.
            options: The options of the engine, which may differ from those of earlier starts.
            start_id: A name that no earlier start has used.

        Raises:
            CorruptionError: The manifest or a table is damaged or missing; no file was changed.
        """
        recovered = recover(fs, directory)
        version = Version.empty() if recovered is None else recovered.version
        open_files = OpenFiles(fs, options.open_tables_max)
        tables = {meta.number: open_table(fs, directory, meta, open_files) for meta in version.tables()}
        fs.make_directory(directory)
        number = 1 if recovered is None else recovered.number + 1
        manifest = Manifest(fs, directory, number, options.manifest_bytes, version)
        remove_orphans(fs, directory, version, number)
        fs.remove_tree(f"{directory}/{TMP}")
        fs.make_directory(tmp_directory(directory, start_id))
        return cls(fs, directory, options, start_id, View(version, tables), manifest, open_files)

    # Writes.

    @property
    def applied_index(self) -> int:
        """The last log entry that reads can see."""
        return self._active.memtable.applied_index

    @property
    def applied_term(self) -> int:
        """The term of that last entry."""
        return self._active.memtable.applied_term

    @property
    def flushed_index(self) -> int:
        """The last log entry in the SSTables; the log up to it need not be replayed."""
        return self._view.version.flushed_index

    @property
    def flushed_term(self) -> int:
        """The term of that last entry."""
        return self._view.version.flushed_term

    @property
    def stalled(self) -> bool:
        """Whether flushes or compactions are so far behind that nothing more should be proposed."""
        return (
            len(self._immutables) >= self._immutables_max
            or len(self._view.version.levels[0]) >= self._options.l0_tables_max
        )

    def begin_replay(self, index: int) -> None:
        """Notes that the log is replayed up to an entry: until its flushes are done, more memtables may wait."""
        if index > self.applied_index:
            self._replay_until = index
            self._immutables_max = self._options.replay_immutables_max

    def begin_history(self, mark: int) -> None:
        """Takes the number of the last change in the tables; called once after ``open`` or ``finish_adoption``."""
        self._garbage += self.history.begin(mark)

    def give_up_history(self) -> None:
        """Drops the kept segments, because one of them cannot be read."""
        self._garbage += self.history.drop_kept()

    def write(self, batch: Batch, applied_index: int, applied_term: int, span: Span = NO_SPAN) -> None:
        """Applies the writes of the log up to an entry; ``span`` names the changes in them.

        Requires: the batch does not change afterwards; the index is greater than that of the last write; no adoption
        is under way.
        """
        assert self._adoption is None, "a checkpoint is about to take the place of what is written"
        memtable, changes = self._active
        assert applied_index > memtable.applied_index, (applied_index, memtable.applied_index)
        before, writes = memtable.size_bytes, Writes.of(batch)
        memtable.write(writes, applied_index, applied_term)
        size_bytes = memtable.size_bytes - before
        self.written_bytes += size_bytes
        changes.add(writes, applied_index, applied_term, size_bytes, span)
        self.history.add(writes, span)
        if memtable.size_bytes >= self._options.memtable_bytes:
            self.rotate()

    def rotate(self) -> None:
        """Begins a new memtable, so that the old one can be flushed; does nothing while the memtable is empty."""
        memtable, changes = self._active
        previous = self._immutables[-1].memtable.applied_index if self._immutables else self.flushed_index
        if memtable.applied_index == previous:
            return
        memtable.freeze()
        changes.seal()
        self._immutables.append(self._active)
        self._active = self._new_generation(memtable.applied_index, memtable.applied_term)
        self.history.rotate()
        self._arrange_memory()

    @property
    def hides_much(self) -> bool:
        """Whether the deletes in the memtable hide so much of the tables that a flush is worth it before it is full.

        That is a tenth of all tables, and not less than ``hidden_bytes_min``: a merge then frees a tenth of what it
        writes, at least.
        """
        version = self._view.version
        hidden = self._active.memtable.deletes * record_bytes(version)
        if hidden < self._options.hidden_bytes_min:
            return False
        return hidden * self._options.idle_merge_ratio >= sum(table.size_bytes for table in version.tables())

    @property
    def changes_due(self) -> bool:
        """Whether ``take_changes`` has a piece to write; cheap enough to ask after every write."""
        if self._change_write is not None:
            return False
        return self._active.changes.due or any(generation.changes.due for generation in self._immutables)

    def take_changes(self) -> ChangeWrite | None:
        """The next piece of a change segment to be written, or None while one is under way or nothing waits.

        Call ``run`` of it on a background thread, then ``changes_done`` here.
        """
        if self._change_write is not None:
            return None
        for generation in (*self._immutables, self._active):
            self._change_write = generation.changes.take()
            if self._change_write is not None:
                break
        return self._change_write

    def changes_done(self, change_write: ChangeWrite) -> None:
        """Notes that the piece which ``take_changes`` gave was written."""
        assert change_write is self._change_write
        change_write.done()
        self._change_write = None
        if all(generation.changes is not change_write.segment for generation in (*self._immutables, self._active)):
            self._abandon(change_write.segment)

    # Reads.

    def get(self, key: bytes) -> bytes | BlockNeeded | None:
        """The value of a key, None when it has none, or ``BlockNeeded`` when the disk must be asked first."""
        for entries in self._memory:
            if key in entries:
                return entries[key]
        return reads.find(key, self._view.runs, self._cache)

    def multi_get(self, keys: Sequence[bytes]) -> list[bytes | BlockNeeded | None]:
        """The results of ``get`` for many keys, all as of this call.

        For keys on disk, ``load_blocks`` reads the blocks of all of them at once; then ``resume`` each.
        """
        return reads.find_many(keys, self._memory, self._view.runs, self._cache)

    @staticmethod
    def load_block(needed: BlockNeeded) -> LoadedBlock:
        """Reads the block that a read needs. Blocking; on any thread.

        Raises:
            CorruptionError: The block is damaged.
        """
        return LoadedBlock(needed, needed.table.read_block(needed.position))

    @staticmethod
    def load_blocks(needed: Sequence[BlockNeeded]) -> list[LoadedBlock]:
        """Reads the blocks that many reads need, in their order. Blocking; on any thread.

        Each block is read once, and none that came into the cache meanwhile.

        Raises:
            CorruptionError: A block is damaged.
        """
        return reads.load(needed)

    def cache_block(self, loaded: LoadedBlock) -> None:
        """Keeps a loaded block for later reads."""
        self._cache.put(loaded.needed.table.cached, loaded.needed.position, loaded.block)

    def resume(self, loaded: LoadedBlock) -> bytes | BlockNeeded | None:
        """Goes on with the read that needed a block, as of the moment when the read began; keeps the block as well."""
        self.cache_block(loaded)
        return reads.go_on(loaded.needed, loaded.block, self._cache)

    def get_blocking(self, key: bytes) -> bytes | None:
        """The value of a key, None when it has none. Blocking."""
        value = self.get(key)
        while isinstance(value, BlockNeeded):
            value = self.resume(self.load_block(value))
        return value

    def multi_get_blocking(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values of the keys, None for a key without one. Blocking; reads each block that it needs once."""
        found = self.multi_get(keys)
        while waiting := [place for place, value in enumerate(found) if isinstance(value, BlockNeeded)]:
            needed = [value for value in found if isinstance(value, BlockNeeded)]
            for place, loaded in zip(waiting, self.load_blocks(needed), strict=True):
                found[place] = self.resume(loaded)
        return cast("list[bytes | None]", found)

    def scan(self, start: bytes, end: bytes | None, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        """The records with ``start <= key < end``, in key order, as of this call.

        The call does not block; reading from the iterator does, on any one thread. It keeps two blocks per sorted run
        at most, and holds on to the tables it reads until it is dropped.
        """
        return live(self.hold().columns(start, end, reverse), reverse=reverse)

    def hold(self) -> HeldView:
        """The records as of this call, held for a reader on another thread."""
        memtables = [self._active.memtable, *(generation.memtable for generation in reversed(self._immutables))]
        return HeldView([memtable.snapshot() for memtable in memtables if memtable.entries], self._view)

    def tables(self) -> list[Table]:
        """The tables in use; they can be read for as long as a reader refers to them."""
        return list(self._view.tables.values())

    # Tasks.

    def next_task(self, *, idle: bool = False) -> Task | None:
        """The next flush or compaction for a worker; None if none is due that may begin now.

        It ends with ``finish_install`` or ``task_failed``. Flushes come first: writes wait for them. With ``idle``
        compactions are due, too, that only make reads faster. While a task is under way, only one of the other kind is
        given; who has one worker asks when no task is under way.
        """
        if self._adoption is not None:
            return None
        if self._planner.flush is None and self._immutables and self._immutables[0].changes.complete:
            memtable, changes = self._immutables[0]
            self._keep_as = self.history.to_keep()
            return self._planner.begin_flush(
                changes.name, changes.size_bytes, memtable.applied_index, memtable.applied_term
            )
        return self._planner.begin_compaction(self._view.version, idle=idle)

    def task_failed(self, task: Task) -> None:
        """Notes that the worker did not finish the task; ``next_task`` gives it, or a more urgent one, again."""
        self._planner.end(task)

    def prepare_install(self, task: Task, result: TaskResult) -> Prepared:
        """Makes the outcome of a task durable. Blocking, on one background thread; touches nothing that reads use.

        Requires: the outcome of no other task waits for ``finish_install``, upon whose tables this one must build.

        Raises:
            CorruptionError: An output file is not what the worker said, or does not fit.
            DiskError: The disk failed.
        """
        assert task.task_id == result.task_id
        self._planner.begin_install(task)
        garbage, self._garbage = self._garbage, []
        for name in garbage:
            self._fs.remove(f"{self._directory}/{name}")
        return self._results.install(task, result, self._view, self._keep_as)

    def finish_install(self, prepared: Prepared) -> None:
        """Makes the outcome of a task visible."""
        self._planner.end_install(prepared.task)
        before, self._view = self._view, prepared.view
        if isinstance(prepared.task, FlushTask):
            del self._immutables[0]
            self._garbage += self.history.flushed(prepared.task.change_bytes)
            self._arrange_memory()
            self._flushes += 1
            if self.applied_index >= self._replay_until and len(self._immutables) < self._options.immutables_max:
                self._immutables_max = self._options.immutables_max
            self._flushed_bytes += prepared.result.written_bytes
        else:
            self._compactions += 1
            self._compacted_read_bytes += prepared.result.read_bytes
            self._compacted_written_bytes += prepared.result.written_bytes
            self._cache.drop_tables([before.tables[number].cached for number in prepared.removed])

    # Snapshots.

    def checkpoint(self, path: str) -> CheckpointWrite:
        """Begins a checkpoint of the state as of ``flushed_index``; its ``run``, which blocks, makes it in a directory.

        To have it include the writes up to now, ``rotate`` first, and wait until ``flushed_index`` is there.
        """
        return CheckpointWrite(self._fs, self._directory, path, self._view)

    def adopt(self, checkpoint: Checkpoint) -> Adoption | None:
        """Begins to take over the state of another node; None while a task is under way: then ask again after it.

        Call its ``run`` on the background thread, then ``finish_adoption`` here. Until then reads see the old state,
        and nothing may be written. If ``run`` fails, the node must stop.

        Args:
            checkpoint: The checkpoint, as ``verify_checkpoint`` returned it.

        Raises:
            StaleCheckpointError: This engine has applied as much, or more. Nothing was changed.
        """
        if checkpoint.applied_index <= self.applied_index:
            raise StaleCheckpointError(checkpoint.applied_index, self.applied_index)
        assert self._adoption is None, "an adoption is under way"
        if self._planner.busy:
            return None
        self._adoption = Adoption(self._fs, self._directory, checkpoint, self._view, self._manifest, self._open_files)
        return self._adoption

    def finish_adoption(self, adoption: Adoption) -> None:
        """Makes the adopted state visible. The memtables are dropped, for the state includes their writes."""
        assert adoption is self._adoption and adoption.view is not None, "the adoption was not run"
        self._adoption = None
        self._cache.drop_tables([table.cached for table in self.tables()])
        abandoned = [*self._immutables, self._active]
        self._view = adoption.view
        self._immutables = []
        self._active = self._new_generation(self.flushed_index, self.flushed_term)
        self.history.reset()
        self._arrange_memory()
        for generation in abandoned:
            # Another thread may just be writing to a segment; ``changes_done`` then handles it.
            if self._change_write is None or self._change_write.segment is not generation.changes:
                self._abandon(generation.changes)

    def _abandon(self, changes: ChangeSegment) -> None:
        """Closes a change segment whose memtable will not be flushed; the next background step removes it."""
        changes.close()
        self._garbage.append(changes.name)

    def stats(self) -> EngineStats:
        """The figures of the engine for metrics."""
        version = self._view.version
        return EngineStats(
            level_tables=tuple(map(len, version.levels)),
            level_bytes=tuple(map(version.level_bytes, range(len(version.levels)))),
            memtable_bytes=self._active.memtable.size_bytes,
            immutables=len(self._immutables),
            immutable_bytes=sum(generation.memtable.size_bytes for generation in self._immutables),
            cache_bytes=self._cache.used_bytes,
            cache_hits=self._cache.hits,
            cache_misses=self._cache.misses,
            filter_negatives=self._cache.filter_negatives,
            filter_false_positives=self._cache.filter_false_positives,
            flushes=self._flushes,
            flushed_bytes=self._flushed_bytes,
            compactions=self._compactions,
            compacted_read_bytes=self._compacted_read_bytes,
            compacted_written_bytes=self._compacted_written_bytes,
            pending_bytes=pending_bytes(version, self._options),
            table_memory_bytes=sum(table.memory_bytes for table in self._view.tables.values()),
            open_tables=len(self._open_files),
            table_opens=self._open_files.opens,
        )

    def close(self) -> None:
        """Closes all files; writes that are not flushed are in the log. Requires: no work of it is under way."""
        self._manifest.close()
        for generation in (*self._immutables, self._active):
            generation.changes.close()
        for table in self._view.tables.values():
            table.close()

    def _new_generation(self, applied_index: int, applied_term: int) -> _Generation:
        self._change_number += 1
        changes = ChangeSegment(self._fs, self._directory, self._change_number, durable=self.history.keeps)
        return _Generation(Memtable(applied_index, applied_term), changes)

    def _arrange_memory(self) -> None:
        """Lists the memtables for ``get``, newest first."""
        self._memory = tuple(generation.memtable.entries for generation in (self._active, *reversed(self._immutables)))
