"""Checkpoints: what they hold, how damage is found, and how one takes the place of a store, crashes included."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from crc32c import crc32c

from raft_node.errors import CorruptionError, DiskError
from raft_node.storage.engine import BlockNeeded, Engine
from raft_node.storage.files import FileSystem, OsFileSystem
from raft_node.storage.snapshots.checkpoint import (
    Checkpoint,
    StaleCheckpointError,
    decode_checkpoint,
    encode_checkpoint,
    install_checkpoint,
    load_checkpoint,
    verify_checkpoint,
)
from raft_node.storage.tables.manifest import recover
from raft_testing.engines import TINY_OPTIONS, settle, write_changes
from raft_testing.files import MemoryFileSystem

D = "/data"
OTHER = "/other"
PATH = "/data/snapshots/1"
State = dict[bytes, bytes]
OPTIONS = replace(TINY_OPTIONS, l0_tables_trigger=3, memtable_bytes=50_000)


def write(engine: Engine, count: int, value: bytes) -> None:
    """Log entries that write keys in turn; the value tells where they come from."""
    for index in range(engine.applied_index + 1, engine.applied_index + 1 + count):
        key = b"\x01key%03d" % (index % 60)
        engine.write([(key, None if index % 7 == 0 else b"%s-%d" % (value, index * 7919**9))], index, 3)


def flush(engine: Engine, fs: FileSystem, directory: str = D) -> None:
    engine.rotate()
    settle(engine, fs, directory)
    assert engine.flushed_index == engine.applied_index


def contents(engine: Engine) -> State:
    return dict(engine.scan(b"", None))


def a_store(fs: FileSystem, directory: str = D, count: int = 200, value: bytes = b"new") -> Engine:
    """An engine with tables on several levels."""
    engine = Engine.open(fs, directory, OPTIONS, "s1")
    for _ in range(4):
        write(engine, count // 4, value)
        flush(engine, fs, directory)
    return engine


def a_checkpoint(fs: FileSystem, count: int = 200) -> tuple[Checkpoint, State]:
    """A checkpoint of another store on the same disk."""
    engine = a_store(fs, OTHER, count)
    stats = engine.stats()
    assert sum(stats.level_tables) >= 2 and sum(tables > 0 for tables in stats.level_tables) >= 2
    checkpoint = engine.checkpoint(PATH).run()
    state = contents(engine)
    engine.close()
    return checkpoint, state


def opened(fs: FileSystem, directory: str = D) -> Engine:
    return Engine.open(fs, directory, OPTIONS, "s9")


def test_a_checkpoint_is_the_state_at_the_flushed_index_and_stays_so() -> None:
    fs = MemoryFileSystem()
    engine = a_store(fs)
    expected = contents(engine)
    write(engine, 3, b"later")
    checkpoint = engine.checkpoint(PATH).run()
    assert (checkpoint.applied_index, checkpoint.applied_term) == (200, 3)
    assert checkpoint.size_bytes == sum(engine.stats().level_bytes)
    names = {file.name for file in checkpoint.files}
    assert set(fs.list_directory(PATH)) == names | {"CHECKPOINT"}
    # The store goes on, and compacts these tables away.
    for _ in range(3):
        write(engine, 100, b"later")
        flush(engine, fs)
    assert names - set(fs.list_directory(D))
    assert verify_checkpoint(fs, PATH) == load_checkpoint(fs, PATH) == checkpoint
    fs.crash(random.Random(1))
    install_checkpoint(fs, "/fresh", PATH)
    again = opened(fs, "/fresh")
    assert contents(again) == expected
    assert (again.applied_index, again.applied_term) == (200, 3)


def test_nothing_is_copied_and_no_table_is_read_twice_for_its_checksum() -> None:
    fs = MemoryFileSystem()
    engine = a_store(fs)
    fs.operations.clear()
    first = engine.checkpoint(PATH).run()
    names = [operation.name for operation in fs.operations]
    assert names.count("link") == len(first.files) and names.count("write") == 1
    for meta in engine._view.tables.values():
        assert meta._file_xxh3 is not None
    assert engine.checkpoint(f"{D}/snapshots/2").run().files == first.files


def test_the_list_is_the_last_that_is_written() -> None:
    fs = MemoryFileSystem()
    engine = a_store(fs)
    write_of_it = engine.checkpoint(PATH)
    steps = 0
    for step in range(1, 100):
        fs.fail_at(step)
        try:
            write_of_it.run()
        except DiskError:
            if fs.exists(f"{PATH}/CHECKPOINT"):
                # Only the sync of its name failed.
                verify_checkpoint(fs, PATH)
                continue
            with pytest.raises(CorruptionError, match="not finished"):
                load_checkpoint(fs, PATH)
            steps += 1
        else:
            fs.heal()
            break
    assert steps > 5
    assert verify_checkpoint(fs, PATH).applied_index == 200


def test_a_checkpoint_is_durable_once_it_is_made_and_before_that_it_is_none() -> None:
    fs = MemoryFileSystem()
    engine = a_store(fs, count=80)
    before = len(fs.operations)
    engine.checkpoint(PATH).run()
    steps = len(fs.operations) - before
    found = 0
    # The last of all is the sync of the list's name: a crash before it may keep that name, and lose all others.
    for seed, step in enumerate((*range(1, steps), *[steps] * 24, *[steps + 1] * 6)):
        fs = MemoryFileSystem()
        engine = a_store(fs, count=80)
        fs.fail_at(step)
        if step > steps:
            engine.checkpoint(PATH).run()
        else:
            with pytest.raises(DiskError):
                engine.checkpoint(PATH).run()
        fs.crash(random.Random(seed))
        if step > steps or fs.exists(f"{PATH}/CHECKPOINT"):
            assert verify_checkpoint(fs, PATH).applied_index == 80
            found += 1
    assert found >= 10


def test_tables_that_a_compaction_removes_meanwhile_are_copied() -> None:
    fs = MemoryFileSystem()
    engine = a_store(fs)
    expected = contents(engine)
    write_of_it = engine.checkpoint(PATH)
    for _ in range(3):
        write(engine, 100, b"later")
        flush(engine, fs)
    fs.operations.clear()
    write_of_it.run()
    assert fs.count("create") > 1
    fs.crash(random.Random(1))
    verify_checkpoint(fs, PATH)
    install_checkpoint(fs, "/fresh", PATH)
    assert contents(opened(fs, "/fresh")) == expected


def test_an_empty_store_has_a_checkpoint_too() -> None:
    fs = MemoryFileSystem()
    engine = Engine.open(fs, D, OPTIONS, "s1")
    engine.write([], 5, 2)
    flush(engine, fs)
    checkpoint = engine.checkpoint(PATH).run()
    assert (checkpoint.files, checkpoint.applied_index) == ((), 5)
    install_checkpoint(fs, "/fresh", PATH)
    assert opened(fs, "/fresh").applied_term == 2


def resealed(listed: bytes) -> bytes:
    """A list whose checksum fits."""
    return listed[:12] + crc32c(listed[16:]).to_bytes(4, "little") + listed[16:]


def test_a_table_of_another_size_is_found_without_reading_it() -> None:
    fs = MemoryFileSystem()
    checkpoint, _ = a_checkpoint(fs)
    name = f"{PATH}/{checkpoint.files[0].name}"
    fs.put(name, fs.read_file(name)[:-1])
    with pytest.raises(CorruptionError, match="should have"):
        verify_checkpoint(fs, PATH)


def test_every_kind_of_damage_is_found_and_nothing_is_installed() -> None:
    fs = MemoryFileSystem()
    a_store(fs, count=40, value=b"old").close()
    checkpoint, _ = a_checkpoint(fs)
    name = f"{PATH}/{checkpoint.files[0].name}"
    content, listed = fs.read_file(name), fs.read_file(f"{PATH}/CHECKPOINT")
    damages: list[tuple[str, bytes | None]] = [
        (name, content[:-1]),
        (name, content + b"\0"),
        (name, bytes([content[0] ^ 1]) + content[1:]),
        (name, content[:-1] + bytes([content[-1] ^ 128])),
        (name, None),
        (f"{PATH}/CHECKPOINT", None),
        (f"{PATH}/CHECKPOINT", b""),
        (f"{PATH}/CHECKPOINT", listed[:-1]),
        (f"{PATH}/CHECKPOINT", listed + b"\0"),
        (f"{PATH}/CHECKPOINT", resealed(listed[:-8])),
    ]
    before = {path: data for path, data in fs.files().items() if not path.startswith(PATH)}
    for path, damaged in damages:
        if damaged is None:
            fs.remove(path)
        else:
            fs.put(path, damaged)
        for call in (verify_checkpoint, lambda fs, path: install_checkpoint(fs, D, path)):
            with pytest.raises(CorruptionError) as raised:
                call(fs, PATH)
            assert raised.value.path == path
        assert {other: data for other, data in fs.files().items() if not other.startswith(PATH)} == before
        fs.put(path, content if path == name else listed)
    verify_checkpoint(fs, PATH)


def test_a_table_in_the_place_of_another_of_the_same_size_is_found() -> None:
    # Their CRC32C would be equal, for each part of a table ends with its own.
    fs = MemoryFileSystem()
    checkpoint, _ = a_checkpoint(fs)
    content = {file.name: fs.read_file(f"{PATH}/{file.name}") for file in checkpoint.files}
    pairs = [(a, b) for a in content for b in content if a < b and len(content[a]) == len(content[b])]
    assert pairs and any(crc32c(content[a]) == crc32c(content[b]) for a, b in pairs)
    for one, other in pairs:
        fs.put(f"{PATH}/{one}", content[other])
        with pytest.raises(CorruptionError, match="whole file"):
            verify_checkpoint(fs, PATH)
        fs.put(f"{PATH}/{one}", content[one])


def test_every_flipped_bit_of_the_list_is_found() -> None:
    fs = MemoryFileSystem()
    a_checkpoint(fs, 40)
    content = fs.read_file(f"{PATH}/CHECKPOINT")
    for bit in range(8 * len(content)):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CorruptionError):
            decode_checkpoint(PATH, bytes(damaged))


def test_a_list_that_describes_its_tables_wrongly_is_not_installed() -> None:
    # Its checksums fit all the same; the store would not open any more.
    fs = MemoryFileSystem()
    checkpoint, _ = a_checkpoint(fs)
    level, meta = checkpoint.edit.added[0]
    wrong = replace(
        checkpoint.edit, added=((level, replace(meta, entries=meta.entries + 1)), *checkpoint.edit.added[1:])
    )
    fs.put(f"{PATH}/CHECKPOINT", encode_checkpoint(wrong, [file.xxh3 for file in checkpoint.files]))
    verify_checkpoint(fs, PATH)
    a_store(fs, count=40, value=b"old").close()
    before = recover(fs, D)
    with pytest.raises(CorruptionError, match="not the table"):
        install_checkpoint(fs, D, PATH)
    assert recover(fs, D) == before


@pytest.mark.parametrize("count", [200, 240])
def test_a_store_never_goes_back(count: int) -> None:
    fs = MemoryFileSystem()
    a_store(fs, count=count, value=b"old").close()
    a_checkpoint(fs)
    before = fs.files()
    with pytest.raises(StaleCheckpointError) as raised:
        install_checkpoint(fs, D, PATH)
    assert (raised.value.checkpoint_index, raised.value.store_index) == (200, count)
    assert fs.files() == before
    engine = Engine.open(fs, "/third", OPTIONS, "s1")
    write(engine, count, b"old")
    assert engine.flushed_index == 0
    with pytest.raises(StaleCheckpointError):
        engine.adopt(verify_checkpoint(fs, PATH))


@pytest.mark.parametrize("fresh", [False, True])
def test_a_crash_at_any_step_of_an_installation_leaves_the_old_or_the_new_state(fresh: bool) -> None:
    base = MemoryFileSystem()
    old: State = {}
    if not fresh:
        engine = a_store(base, count=40, value=b"old")
        old = contents(engine)
        engine.close()
    _, new = a_checkpoint(base)
    files = base.files()
    seen, step, done = set(), 0, False
    while not done:
        step += 1
        for seed in range(4):
            fs = MemoryFileSystem()
            for directory in (D, OTHER, PATH):
                fs.make_directory(directory)
            for path, content in files.items():
                fs.put(path, content)
            # Received files are not yet durable.
            for path in [path for path in files if path.startswith(PATH) and path.endswith(".sst")]:
                fs.remove(path)
                fs.create(path).write_at(0, [files[path]])
            fs.sync_directory(PATH)
            fs.fail_at(step)
            try:
                install_checkpoint(fs, D, PATH)
                done = True
            except DiskError:
                pass
            fs.heal()
            fs.crash(random.Random(seed))
            engine = opened(fs)
            state = contents(engine)
            assert state == (new if engine.applied_index == 200 else old), (step, seed)
            assert not done or engine.applied_index == 200
            seen.add(engine.applied_index)
            engine.close()
            orphans = {name for name in fs.list_directory(D) if name.endswith(".sst")}
            found = recover(fs, D)
            assert found is not None and len(orphans) == len(found.version.tables())
    assert seen == {0 if fresh else 40, 200}
    assert step > 20


def test_an_installation_that_was_cut_off_can_be_done_again() -> None:
    base = 0
    for step in range(1, 60):
        fs = MemoryFileSystem()
        a_store(fs, count=40, value=b"old").close()
        _, new = a_checkpoint(fs, 80)
        fs.fail_at(step)
        try:
            install_checkpoint(fs, D, PATH)
        except DiskError:
            fs.heal()
            try:
                install_checkpoint(fs, D, PATH)
            except StaleCheckpointError:
                base += 1
            assert contents(opened(fs)) == new
        else:
            break
    assert base > 0


def table_files(fs: FileSystem, directory: str) -> set[str]:
    return {name for name in fs.list_directory(directory) if name.endswith((".sst", ".chg")) or "MANIFEST" in name}


def test_of_the_old_state_nothing_is_left() -> None:
    fs = MemoryFileSystem()
    a_store(fs, count=40, value=b"old").close()
    running = a_store(fs, "/running", count=40, value=b"old")
    fs.put(f"{D}/000077.chg", b"")
    checkpoint, _ = a_checkpoint(fs)
    install_checkpoint(fs, D, PATH)
    adopt(running, checkpoint)
    for directory in (D, "/running"):
        found = recover(fs, directory)
        assert found is not None
        tables = {f"{meta.number:06d}.sst" for meta in found.version.tables()}
        assert table_files(fs, directory) == tables | {f"MANIFEST-{found.number:06d}"}


def adopt(engine: Engine, checkpoint: Checkpoint) -> None:
    adoption = engine.adopt(checkpoint)
    assert adoption is not None
    adoption.run()
    engine.finish_adoption(adoption)


def test_a_running_engine_takes_over_a_checkpoint() -> None:
    fs = MemoryFileSystem()
    engine = a_store(fs, count=40, value=b"old")
    checkpoint, new = a_checkpoint(fs)
    write(engine, 30, b"old")
    engine.rotate()
    write_changes(engine)
    write(engine, 2, b"old")
    old = contents(engine)
    scan, first = engine.scan(b"", None), next(iter(old))
    waiting = engine.get(first)
    adoption = engine.adopt(verify_checkpoint(fs, PATH))
    assert adoption is not None
    # Reads go on while it runs; tasks and writes do not.
    assert contents(engine) == old and engine.next_task() is None
    with pytest.raises(AssertionError, match="take the place"):
        engine.write([], 73, 3)
    adoption.run()
    assert contents(engine) == old and engine.applied_index == 72
    engine.finish_adoption(adoption)
    assert contents(engine) == new
    assert all(engine.get_blocking(key) == value for key, value in new.items())
    assert (engine.applied_index, engine.flushed_index, engine.applied_term) == (200, 200, 3)
    # What was begun before ends on what it began with.
    assert dict(scan) == old
    if isinstance(waiting, BlockNeeded):
        assert engine.resume(Engine.load_block(waiting)) is not None
    write(engine, 100, b"after")
    flush(engine, fs)
    expected = contents(engine)
    assert not [name for name in fs.list_directory(D) if name.endswith(".chg")]
    engine.close()
    fs.crash(random.Random(1))
    assert contents(opened(fs)) == expected
    assert checkpoint.applied_index == 200


def test_a_read_under_way_survives_an_adoption_although_its_files_were_not_open() -> None:
    fs = MemoryFileSystem()
    a_store(fs, value=b"old").close()
    engine = Engine.open(fs, D, replace(OPTIONS, open_tables_max=1), "s2")
    old, scan = contents(engine), engine.scan(b"", None)
    assert sum(engine.stats().level_tables) > engine.stats().open_tables == 1
    checkpoint, new = a_checkpoint(fs, 240)
    adopt(engine, checkpoint)
    assert dict(scan) == old and contents(engine) == new


def test_an_adoption_waits_for_the_task_under_way() -> None:
    fs = MemoryFileSystem()
    engine = a_store(fs, count=40, value=b"old")
    checkpoint, new = a_checkpoint(fs)
    write(engine, 5, b"old")
    engine.rotate()
    write_changes(engine)
    task = engine.next_task()
    assert task is not None and engine.adopt(checkpoint) is None
    engine.task_failed(task)
    adopt(engine, checkpoint)
    assert contents(engine) == new and engine.next_task() is None


def test_a_change_segment_that_is_being_written_is_left_alone_until_it_was() -> None:
    fs = MemoryFileSystem()
    engine = a_store(fs, count=40, value=b"old")
    checkpoint, new = a_checkpoint(fs)
    write(engine, 5, b"old")
    engine.rotate()
    change_write = engine.take_changes()
    assert change_write is not None
    adopt(engine, checkpoint)
    change_write.run()
    engine.changes_done(change_write)
    assert contents(engine) == new
    write(engine, 30, b"after")
    flush(engine, fs)
    assert not [name for name in fs.list_directory(D) if name.endswith(".chg")]


def test_a_change_segment_that_is_open_for_a_write_is_not_closed_under_it() -> None:
    fs = MemoryFileSystem()
    checkpoint, new = a_checkpoint(fs)
    engine = Engine.open(fs, D, replace(OPTIONS, memtable_bytes=1 << 30), "s1")
    engine.write([(b"\x01big", bytes(2 << 20))], 1, 3)
    write_changes(engine)
    engine.write([(b"\x01big", bytes(2 << 20))], 2, 3)
    change_write = engine.take_changes()
    assert change_write is not None
    adopt(engine, checkpoint)
    fs.operations.clear()
    change_write.run()
    # A file that had been closed would be created anew.
    assert fs.count("create") == 0 and fs.count("write") > 0
    engine.changes_done(change_write)
    assert contents(engine) == new


def test_blocks_of_the_old_tables_do_not_answer_for_the_new_ones() -> None:
    fs = MemoryFileSystem()
    engine = a_store(fs, count=40, value=b"old")
    old_tables = engine.tables()
    old_numbers = set(engine._view.tables)
    checkpoint, _ = a_checkpoint(fs)
    for key in contents(engine):
        engine.get_blocking(key)
    assert engine.stats().cache_bytes > 0
    adopt(engine, checkpoint)
    assert not old_numbers & set(engine._view.tables)
    assert all(not any(table.cached.blocks) for table in old_tables)
    assert engine.stats().cache_bytes == 0


def test_a_crash_at_any_step_of_an_adoption_leaves_the_old_or_the_new_state() -> None:
    seen, done, step = set(), False, 0
    while not done:
        step += 1
        fs = MemoryFileSystem()
        engine = a_store(fs, count=40, value=b"old")
        old = contents(engine)
        checkpoint, new = a_checkpoint(fs, 80)
        adoption = engine.adopt(checkpoint)
        assert adoption is not None
        fs.fail_at(step)
        try:
            adoption.run()
            done = True
        except DiskError:
            pass
        fs.heal()
        fs.crash(random.Random(step))
        again = opened(fs)
        assert contents(again) == (new if again.applied_index == 80 else old)
        assert not done or again.applied_index == 80
        seen.add(again.applied_index)
    assert seen == {40, 80} and step > 15


def test_on_a_real_disk(tmp_path: Path) -> None:
    fs = OsFileSystem()
    engine = a_store(fs, f"{tmp_path}/a")
    path = f"{tmp_path}/snapshot"
    checkpoint = engine.checkpoint(path).run()
    expected = contents(engine)
    inodes = [Path(f"{path}/{file.name}").stat().st_nlink for file in checkpoint.files]
    assert set(inodes) == {2}
    engine.close()
    install_checkpoint(fs, f"{tmp_path}/b", path)
    other = opened(fs, f"{tmp_path}/b")
    assert contents(other) == expected
    third = Engine.open(fs, f"{tmp_path}/c", OPTIONS, "s1")
    write(third, 20, b"old")
    adopt(third, verify_checkpoint(fs, path))
    assert contents(third) == expected
    calls: list[Callable[[], None]] = [other.close, third.close]
    for close in calls:
        close()
