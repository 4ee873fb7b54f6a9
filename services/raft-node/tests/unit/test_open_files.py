"""However many tables there are, few of their files are open, and each read finds its bytes."""

from __future__ import annotations

import os
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from raft_node.errors import CorruptionError
from raft_node.storage.engine import BlockNeeded, Engine
from raft_node.storage.files import OsFileSystem, ReadableFile
from raft_node.storage.tables.open_files import OpenFiles, SharedFile
from raft_testing.engines import TINY_OPTIONS, settle
from raft_testing.files import MemoryFileSystem

D = "/data"


class CountingFileSystem(MemoryFileSystem):
    """Counts the files that are open for reading."""

    def __init__(self) -> None:
        super().__init__()
        self.open = 0
        self.open_most = 0

    def open_for_read(self, path: str) -> ReadableFile:  # type: ignore[override]
        file = super().open_for_read(path)
        self.open += 1
        self.open_most = max(self.open_most, self.open)
        real, closed = file.close, [False]

        def close() -> None:
            if not closed[0]:
                closed[0] = True
                self.open -= 1
            real()

        file.close = close  # type: ignore[method-assign]
        return file


def a_disk(count: int) -> CountingFileSystem:
    fs = CountingFileSystem()
    fs.make_directory(D)
    for number in range(count):
        fs.put(f"{D}/{number}", b"file %d" % number)
    return fs


def shared(fs: MemoryFileSystem, files: OpenFiles, number: int) -> SharedFile:
    file = SharedFile(fs.open_for_read(f"{D}/{number}"), files)
    file.share()
    return file


def test_the_files_used_last_stay_open() -> None:
    fs = a_disk(10)
    files = OpenFiles(fs, 3)
    all_of_them = [shared(fs, files, number) for number in range(10)]
    assert (fs.open, len(files), files.opens) == (3, 3, 0)
    for number in (0, 1, 0, 1, 0, 2, 0):
        assert all_of_them[number].read_at(5, 9) == b"%d" % number
    assert files.opens == 3
    assert fs.open == 3 and fs.open_most == 4
    for file in all_of_them:
        file.close()
    assert fs.open == 0


def test_a_pinned_file_is_read_on_after_its_name_is_gone() -> None:
    fs = a_disk(4)
    files = OpenFiles(fs, 1)
    one, other = shared(fs, files, 0), shared(fs, files, 1)
    one.pin()
    one.pin()
    fs.remove(f"{D}/0")
    for _ in range(2):
        assert one.read_at(0, 9) == b"file 0" and other.read_at(0, 9) == b"file 1"
    fs.remove(f"{D}/1")
    shared(fs, files, 2)
    with pytest.raises(CorruptionError, match="missing"):
        other.read_at(0, 9)
    with pytest.raises(CorruptionError, match="missing"):
        other.pin()
    one.close()
    assert fs.open == 1


def test_a_file_that_is_pinned_and_removed_while_a_read_opens_it_is_read() -> None:
    fs = a_disk(2)
    files = OpenFiles(fs, 1)
    one = shared(fs, files, 0)
    shared(fs, files, 1)
    real = files.take

    def take(path: str) -> ReadableFile:
        if files.take is take:
            files.take = real  # type: ignore[method-assign]
            one.pin()
            fs.remove(path)
        return real(path)

    files.take = take  # type: ignore[method-assign]
    assert one.read_at(0, 9) == b"file 0"


def test_a_file_that_is_pinned_during_a_read_is_open_once() -> None:
    fs = a_disk(1)
    files = OpenFiles(fs, 4)
    one = shared(fs, files, 0)
    real = files.take

    def take(path: str) -> ReadableFile:
        file = real(path)
        if files.take is take:
            files.take = real  # type: ignore[method-assign]
            one.pin()
        return file

    files.take = take  # type: ignore[method-assign]
    one.read_at(0, 1)
    assert (fs.open, len(files)) == (1, 0)
    one.close()
    assert fs.open == 0


def test_a_file_that_a_read_gives_back_while_it_is_pinned_is_open_once() -> None:
    fs = a_disk(1)
    files = OpenFiles(fs, 4)
    one = shared(fs, files, 0)
    real = files.take

    def take(path: str) -> ReadableFile:
        file = real(path)
        files.give(fs.open_for_read(path))
        return file

    files.take = take  # type: ignore[method-assign]
    one.pin()
    assert (fs.open, len(files)) == (1, 0)


def test_two_readers_of_one_file_leave_one_open() -> None:
    fs = a_disk(1)
    files = OpenFiles(fs, 4)
    one, other = files.take(f"{D}/0"), files.take(f"{D}/0")
    files.give(one)
    files.give(other)
    assert (fs.open, len(files)) == (1, 1)


def test_many_threads(tmp_path: Path) -> None:
    fs = OsFileSystem()
    paths = [f"{tmp_path}/{number}" for number in range(12)]
    for number, path in enumerate(paths):
        file = fs.create(path)
        file.write_at(0, [b"%02d" % number * 100])
        file.close()
    files = OpenFiles(fs, 3)
    all_of_them = [SharedFile(fs.open_for_read(path), files) for path in paths]
    for shared_file in all_of_them:
        shared_file.share()
    wrong: list[int] = []

    def read(seed: int) -> None:
        for step in range(2000):
            number = (seed * 7 + step * 5) % len(paths)
            if all_of_them[number].read_at(2 * step % 100, 2) != b"%02d" % number:
                wrong.append(number)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not wrong and len(files) <= 3
    for shared_file in all_of_them:
        shared_file.close()


def test_an_engine_with_many_tables_keeps_few_files_open() -> None:
    fs = CountingFileSystem()
    options = replace(TINY_OPTIONS, open_tables_max=2, block_cache_bytes=0)
    engine = Engine.open(fs, D, options, "s1")
    for index in range(1, 400):
        engine.write([(b"key%03d" % (index % 150), b"%d" % index * 9)], index, 1)
        settle(engine, fs, D)
    expected = {b"key%03d" % (index % 150): b"%d" % index * 9 for index in range(1, 400)}
    stats = engine.stats()
    assert sum(stats.level_tables) > 5
    assert stats.open_tables == fs.open == 2
    # A read that was begun before a compaction still finds its block, although the file was not open.
    waiting = {key: found for key in expected if isinstance(found := engine.get(key), BlockNeeded)}
    scan = engine.scan(b"", None)
    for index in range(400, 500):
        engine.write([(b"key%03d" % (index % 150), b"later" * 9)], index, 1)
        settle(engine, fs, D)
    assert dict(scan) == expected
    for key, needed in waiting.items():
        value = engine.resume(Engine.load_block(needed))
        while isinstance(value, BlockNeeded):
            value = engine.resume(Engine.load_block(value))
        assert value == expected[key]
    assert engine.stats().table_opens > 10
    # ``found`` is what the last step of the comprehension has left.
    del scan, waiting, needed, value, found
    assert engine.stats().open_tables == fs.open == 2
    engine.close()
    assert fs.open == 0


def test_memory_of_indexes_and_filters_is_counted() -> None:
    fs = MemoryFileSystem()
    engine = Engine.open(fs, D, TINY_OPTIONS, "s1")
    assert engine.stats().table_memory_bytes == 0
    for index in range(1, 200):
        engine.write([(b"key%03d" % index, bytes(50))], index, 1)
    engine.rotate()
    settle(engine, fs, D)
    tables = engine._view.tables.values()
    keys = sum(len(key) for table in tables for key in table.last_keys)
    assert engine.stats().table_memory_bytes > keys + 199 * 10 // 8


def test_no_descriptor_is_left_on_a_real_disk(tmp_path: Path) -> None:
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("there is no /proc to count descriptors in")
    before = len(os.listdir("/proc/self/fd"))
    fs, directory = OsFileSystem(), f"{tmp_path}/d"
    engine = Engine.open(fs, directory, replace(TINY_OPTIONS, open_tables_max=2), "s1")
    for index in range(1, 200):
        engine.write([(b"key%03d" % (index % 90), bytes(50))], index, 1)
        settle(engine, fs, directory)
    assert sum(engine.stats().level_tables) > 3
    # Two tables and the manifest.
    assert len(os.listdir("/proc/self/fd")) - before <= 4
    engine.close()
    assert len(os.listdir("/proc/self/fd")) == before
