"""Three storage engines behind one interface, for ``bench.storage``: ours, RocksDB (rocksdict) and LevelDB (plyvel).

Ours is driven as a node drives it: each batch is appended to the write-ahead log and then written to the engine, change
segments and installs run on background threads, flushes and compactions in the helper process. All have the same
Bloom filters and a block cache of the same size; each has its own fast compression (lz4, lz4, snappy).

It must not choose the measurements, nor measure time.
"""

from __future__ import annotations

import importlib
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import psutil

from raft_node.entry import EntryKind, encode
from raft_node.runtime.disk.worker_process import WorkerProcess
from raft_node.storage.changes.segments import encode_frame
from raft_node.storage.engine import Engine, EngineStats
from raft_node.storage.files import OsFileSystem, WritableFile
from raft_node.storage.merges.tasks import CompactionTask, Task
from raft_node.storage.options import EngineOptions, WalOptions
from raft_node.storage.wal.log import Wal, WalHardState

Pairs = Sequence[tuple[bytes, bytes]]
BLOOM_BITS = 10
LOG_KEEP_BYTES = 64 << 20


class Store(Protocol):
    """An open engine in a directory of its own."""

    def write(self, batch: Pairs, sync: bool) -> None:
        """Writes a batch, atomically; durable on return when ``sync``."""

    def drain(self) -> None:
        """Waits until all memtables are in tables."""

    def settle(self) -> None:
        """Waits until no compaction is due."""

    def idle(self) -> None:
        """Waits until the store has done all work that it does by itself while little is written."""

    def get(self, key: bytes) -> bytes | None:
        """The value of a key."""

    def multi_get(self, keys: list[bytes]) -> list[bytes | None]:
        """The values of keys."""

    def scan(self, start: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        """The records from ``start`` on, or all backwards."""

    def compacted(self) -> tuple[float, int, int]:
        """The seconds of all compactions, and the bytes read and written by them; zeros if the engine does not tell."""

    def close(self) -> None:
        """Closes it."""


class _UnsyncedFile:
    """A file whose sync does nothing."""

    def __init__(self, file: WritableFile) -> None:
        self._file = file
        self.path = file.path
        self.write_at = file.write_at
        self.close = file.close

    def sync_data(self) -> None:
        """Does nothing."""


class UnsyncedFileSystem(OsFileSystem):
    """Files for a log that need not survive a power cut, or only after an ``os.sync``."""

    def create(self, path: str) -> WritableFile:
        return _UnsyncedFile(super().create(path))

    def open_for_write(self, path: str) -> WritableFile:
        return _UnsyncedFile(super().open_for_write(path))


class _Given(NamedTuple):
    """A task that a helper process has, and when it got it."""

    task: Task
    began_s: float


class DougStore:
    """Our engine with its log and its helper processes."""

    def __init__(
        self, directory: Path, cache_bytes: int, sync: bool, compression: str = "lz4", helpers: int = 1
    ) -> None:
        data = str(directory / "data")
        options = EngineOptions(block_cache_bytes=cache_bytes, compression=compression)
        # The start of the helper processes is no part of opening: a node begins to serve without them.
        self._workers = [WorkerProcess(data) for _ in range(helpers)]
        self._wal = Wal.open(
            OsFileSystem() if sync else UnsyncedFileSystem(),
            str(directory / "wal"),
            WalOptions(),
            clock_s=time.perf_counter,
        )
        self._engine = Engine.open(OsFileSystem(), data, options, f"{time.time_ns():x}")
        self._threads = ThreadPoolExecutor(2 + helpers)
        self._pending: dict[str, Future[Any]] = {}
        self._change: Any = None
        self._compacting_s = 0.0
        self._tasks: list[_Given | None] = [None] * helpers
        self._installing: int | None = None
        self._drop: Any = None
        self._idle = False
        if self._wal.last_index == 0:
            self._wal.publish(self._wal.append(WalHardState(1, "", 0, 0), None, []))

    def write(self, batch: Pairs, sync: bool) -> None:
        while self._engine.stalled:
            self._wait()
        index = self._wal.last_index + 1
        # One entry holds the batch, as one record of the log does in the other engines.
        entry = encode(index, 1, EntryKind.COMMAND, 0, b"".join(encode_frame(batch, index, 1)))
        self._wal.publish(self._wal.append(None, None, [entry]))
        self._engine.write(batch, index, 1)
        self._pump()

    def drain(self) -> None:
        self._engine.rotate()
        while self._engine.flushed_index < self._engine.applied_index:
            self._wait()

    def settle(self) -> None:
        self._pump()
        while self._pending:
            self._wait()

    def idle(self) -> None:
        self._idle = True
        self.settle()
        self._idle = False

    def get(self, key: bytes) -> bytes | None:
        return self._engine.get_blocking(key)

    def multi_get(self, keys: list[bytes]) -> list[bytes | None]:
        return self._engine.multi_get_blocking(keys)

    def scan(self, start: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        return self._engine.scan(start, None, reverse=reverse)

    def stats(self) -> EngineStats:
        """The statistics of the engine."""
        return self._engine.stats()

    def compacted(self) -> tuple[float, int, int]:
        stats = self._engine.stats()
        return self._compacting_s, stats.compacted_read_bytes, stats.compacted_written_bytes

    def close(self) -> None:
        wait(list(self._pending.values()))
        for worker in self._workers:
            worker.close()
        self._threads.shutdown()
        self._wal.close()
        self._engine.close()

    def _wait(self) -> None:
        self._pump()
        if self._pending:
            wait(list(self._pending.values()), return_when=FIRST_COMPLETED)
            self._pump()

    def _done(self, name: str) -> Any:
        """The result of the background work of this name if it has just ended; None otherwise."""
        future = self._pending.get(name)
        if future is None or not future.done():
            return None
        del self._pending[name]
        future.result()
        return future

    def _pump(self) -> None:
        """Takes the results of background work, and begins more of it; never waits."""
        engine, wal, pending = self._engine, self._wal, self._pending
        if self._done("change"):
            engine.changes_done(self._change)
        if "change" not in pending and engine.changes_due:
            self._change = engine.take_changes()
            pending["change"] = self._threads.submit(self._change.run)
        self._pump_tasks()
        self._done("segment")
        if wal.wants_segment and "segment" not in pending:
            pending["segment"] = self._threads.submit(wal.prepare_next_segment)
        if self._done("drop"):
            wal.drop_done(self._drop)
        if wal.wants_drop and "drop" not in pending:
            self._drop = wal.take_drop()
            pending["drop"] = self._threads.submit(self._drop.run)

    def _pump_tasks(self) -> None:
        engine, wal, pending = self._engine, self._wal, self._pending
        if done := self._done("install"):
            assert self._installing is not None
            engine.finish_install(done.result())
            self._tasks[self._installing] = None
            self._installing = None
            wal.drop_prefix(min(engine.flushed_index + 1, wal.first_index_within(LOG_KEEP_BYTES)))
        for place, given in enumerate(self._tasks):
            # One is put in place at a time; the other one's result waits.
            if given is not None and self._installing is None and (done := self._done(f"task {place}")):
                if isinstance(given.task, CompactionTask):
                    self._compacting_s += time.perf_counter() - given.began_s
                self._installing = place
                pending["install"] = self._threads.submit(engine.prepare_install, given.task, done.result())
        for place, worker in enumerate(self._workers):
            if self._tasks[place] is None and (task := engine.next_task(idle=self._idle)) is not None:
                self._tasks[place] = _Given(task, time.perf_counter())
                pending[f"task {place}"] = self._threads.submit(worker.run, task)


class RocksStore:
    """RocksDB by rocksdict, with its defaults except for those that the module names."""

    def __init__(self, directory: Path, cache_bytes: int) -> None:
        rocksdict = importlib.import_module("rocksdict")
        options = rocksdict.Options(raw_mode=True)
        options.create_if_missing(True)
        options.set_compression_type(rocksdict.DBCompressionType.lz4())
        table = rocksdict.BlockBasedOptions()
        table.set_bloom_filter(BLOOM_BITS, False)
        table.set_block_cache(rocksdict.Cache(cache_bytes))
        options.set_block_based_table_factory(table)
        self._batch = rocksdict.WriteBatch
        self._unsynced, self._synced = rocksdict.WriteOptions(), rocksdict.WriteOptions()
        self._synced.sync = True
        # Unless the column family is named, a store that exists is opened with the options that lie beside it.
        self._db = rocksdict.Rdict(str(directory), options, column_families={"default": options})
        capacity = self._db.property_int_value("rocksdb.block-cache-capacity")
        assert capacity == cache_bytes, f"RocksDB has a cache of {capacity} bytes"
        self.get = self._db.get
        self.multi_get = self._db.get

    def write(self, batch: Pairs, sync: bool) -> None:
        changes = self._batch(raw_mode=True)
        put = changes.put
        for key, value in batch:
            put(key, value)
        self._db.write(changes, self._synced if sync else self._unsynced)

    def drain(self) -> None:
        self._db.flush(True)

    def settle(self) -> None:
        quiet = 0
        while quiet < 3:
            busy = sum(
                self._db.property_int_value(f"rocksdb.{name}") or 0
                for name in ("compaction-pending", "num-running-compactions", "num-running-flushes")
            )
            quiet = 0 if busy else quiet + 1
            time.sleep(0.02)

    def idle(self) -> None:
        """Does nothing: with its defaults RocksDB merges after writes, not after time."""

    def scan(self, start: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        if reverse:
            return self._db.items(backwards=True)  # type: ignore[no-any-return]
        return self._db.items(from_key=start) if start else self._db.items()  # type: ignore[no-any-return]

    def compacted(self) -> tuple[float, int, int]:
        return 0.0, 0, 0

    def close(self) -> None:
        self._db.close()


class LevelStore:
    """LevelDB by plyvel, with its defaults except for those that the module names."""

    def __init__(self, directory: Path, cache_bytes: int) -> None:
        plyvel = importlib.import_module("plyvel")
        self._db = plyvel.DB(
            str(directory), create_if_missing=True, lru_cache_size=cache_bytes, bloom_filter_bits=BLOOM_BITS
        )
        self.get = self._db.get

    def write(self, batch: Pairs, sync: bool) -> None:
        with self._db.write_batch(sync=sync) as changes:
            put = changes.put
            for key, value in batch:
                put(key, value)

    def drain(self) -> None:
        """Does nothing, since LevelDB has no call for it: at most one buffer of 4 MiB is in memory."""

    def settle(self) -> None:
        """Waits until the process has taken no CPU for a while, since LevelDB has no call for it."""
        process = psutil.Process()
        before, quiet = sum(process.cpu_times()[:2]), 0
        while quiet < 5:
            time.sleep(0.05)
            now = sum(process.cpu_times()[:2])
            quiet = quiet + 1 if now - before < 0.015 else 0
            before = now

    def idle(self) -> None:
        """Does nothing."""

    def multi_get(self, keys: list[bytes]) -> list[bytes | None]:
        return [self.get(key) for key in keys]

    def scan(self, start: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        return self._db.iterator(start=start or None, reverse=reverse)  # type: ignore[no-any-return]

    def compacted(self) -> tuple[float, int, int]:
        return 0.0, 0, 0

    def close(self) -> None:
        self._db.close()


ENGINES = ("dougdb", "rocksdict", "plyvel")


def open_store(
    engine: str, directory: Path, cache_bytes: int, *, sync: bool = False, compression: str = "lz4", helpers: int = 1
) -> Any:
    """Opens a store; a ``Store``, whichever engine it is."""
    directory.mkdir(parents=True, exist_ok=True)
    if engine == "dougdb":
        return DougStore(directory, cache_bytes, sync, compression, helpers)
    return RocksStore(directory, cache_bytes) if engine == "rocksdict" else LevelStore(directory, cache_bytes)


def disk_bytes(directory: Path) -> int:
    """The bytes of a store's tables, without logs and change segments."""
    kept = {".sst", ".ldb"}
    return sum(path.stat().st_size for path in directory.rglob("*") if path.suffix in kept)


def remove(directory: Path) -> None:
    """Removes a store."""
    shutil.rmtree(directory, ignore_errors=True)
