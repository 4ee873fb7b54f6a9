"""The manifest: an edit is durable or absent after any crash, and damage is found."""

from __future__ import annotations

import random

import pytest

from raft_node.errors import CorruptionError, DiskError
from raft_node.storage.tables.manifest import Manifest, encode_current, manifest_name, recover
from raft_node.storage.tables.version import TableMeta, Version, VersionEdit
from raft_testing.files import MemoryFileSystem

DIRECTORY = "/data"
MANIFEST = f"{DIRECTORY}/{manifest_name(1)}"


def a_disk() -> MemoryFileSystem:
    fs = MemoryFileSystem()
    fs.make_directory(DIRECTORY)
    return fs


def versions(count: int) -> list[tuple[VersionEdit, Version]]:
    """A history: flushes, and now and then a table that moves down."""
    version, history = Version.empty(), []
    for step in range(1, count + 1):
        table = TableMeta(step, 1000 + step, 10, 1, b"k%03d" % step, b"k%03d\xff" % step)
        added: tuple[tuple[int, TableMeta], ...] = ((0, table),)
        removed: tuple[int, ...] = ()
        if step % 3 == 0:
            removed = (step - 1,)
            added += ((1, version.levels[0][0]),)
        edit = VersionEdit(removed, added, step * 10, 1, step + 1)
        version = version.apply(edit)
        history.append((edit, version))
    return history


def recovered(fs: MemoryFileSystem) -> Version | None:
    found = recover(fs, DIRECTORY)
    return None if found is None else found.version


def test_what_was_appended_is_recovered() -> None:
    fs = a_disk()
    manifest = Manifest(fs, DIRECTORY, 1, 1 << 20, Version.empty())
    assert recovered(fs) == Version.empty()
    for edit, version in versions(20):
        manifest.append(edit, version)
        assert recovered(fs) == version
    manifest.close()
    assert manifest.number == 1


def test_it_is_written_anew_when_it_is_long() -> None:
    fs = a_disk()
    manifest = Manifest(fs, DIRECTORY, 1, 500, Version.empty())
    for edit, version in versions(30):
        manifest.append(edit, version)
        assert recovered(fs) == version
    assert manifest.number > 3
    assert fs.list_directory(DIRECTORY) == ["CURRENT", manifest_name(manifest.number)]


def test_an_edit_is_durable_once_append_returns() -> None:
    for seed in range(20):
        fs = a_disk()
        manifest = Manifest(fs, DIRECTORY, 1, 300, Version.empty())
        for edit, version in versions(seed):
            manifest.append(edit, version)
        fs.crash(random.Random(seed))
        assert recovered(fs) == (versions(seed)[-1][1] if seed else Version.empty())


def test_a_crash_at_any_step_leaves_the_version_before_or_after() -> None:
    history = versions(6)
    steps = 0
    for seed in range(6):
        step = 0
        while True:
            step += 1
            fs = a_disk()
            fs.fail_at(step)
            done: list[Version | None] = [None]
            begun: Version | None = Version.empty()
            try:
                manifest = Manifest(fs, DIRECTORY, 1, 150, Version.empty())
                done.append(Version.empty())
                for edit, begun in history:
                    manifest.append(edit, begun)
                    done.append(begun)
            except DiskError:
                fs.crash(random.Random(seed * 1000 + step))
                assert recovered(fs) in (done[-1], begun), (seed, step)
                # A new start begins a new manifest, whatever the crash has left.
                found = recover(fs, DIRECTORY)
                number, version = (0, Version.empty()) if found is None else (found.number, found.version)
                Manifest(fs, DIRECTORY, number + 1, 150, version)
                fs.crash(random.Random(step))
                assert recovered(fs) == version
                steps += 1
                continue
            break
    assert steps > 150


@pytest.mark.seconds
def test_every_flipped_bit_is_found_or_harmless() -> None:
    fs = a_disk()
    manifest = Manifest(fs, DIRECTORY, 1, 1 << 20, Version.empty())
    for edit, version in versions(3):
        manifest.append(edit, version)
    content = fs.read_file(MANIFEST)
    expected = recovered(fs)
    found = 0
    for bit in range(8 * len(content)):
        fs.flip_bit(MANIFEST, bit)
        before = fs.files()
        try:
            assert recovered(fs) == expected
        except CorruptionError as error:
            assert error.path == MANIFEST and 0 <= error.offset <= bit // 8
            found += 1
        assert fs.files() == before
        fs.put(MANIFEST, content)
    # Harmless is the last seal alone.
    assert 8 * len(content) - found == 8 * 17


def test_every_flipped_bit_of_current_is_found() -> None:
    fs = a_disk()
    Manifest(fs, DIRECTORY, 1, 100, Version.empty())
    Manifest(fs, DIRECTORY, 3, 100, Version.empty())
    path = f"{DIRECTORY}/CURRENT"
    content = fs.read_file(path)
    assert content == encode_current(3)
    for bit in range(8 * len(content)):
        fs.flip_bit(path, bit)
        with pytest.raises(CorruptionError):
            recover(fs, DIRECTORY)
        fs.put(path, content)


def test_an_edit_cut_off_anywhere_before_its_seal_is_ignored() -> None:
    fs = a_disk()
    manifest = Manifest(fs, DIRECTORY, 1, 1 << 20, Version.empty())
    history = versions(2)
    manifest.append(*history[0])
    start = len(fs.read_file(MANIFEST))
    manifest.append(*history[1])
    content = fs.read_file(MANIFEST)
    edit_end = len(content) - 17
    for size in range(start, len(content)):
        for tail in (b"", bytes(40)):
            fs.put(MANIFEST, content[:size] + tail)
            found = recover(fs, DIRECTORY)
            assert found is not None
            assert found.version == history[size >= edit_end][1]
            assert found.ignored_bytes == (size + len(tail) - (edit_end if size >= edit_end else start))


def test_the_first_record_can_not_be_torn() -> None:
    fs = a_disk()
    Manifest(fs, DIRECTORY, 1, 1 << 20, versions(3)[-1][1])
    content = fs.read_file(MANIFEST)
    for size in range(len(content) - 17):
        fs.put(MANIFEST, content[:size])
        with pytest.raises(CorruptionError):
            recover(fs, DIRECTORY)


def test_a_directory_without_a_store() -> None:
    fs = a_disk()
    assert recover(fs, DIRECTORY) is None
    assert recover(fs, "/nowhere") is None
    # A creation that was interrupted before CURRENT.
    fs.put(MANIFEST, b"half a manif")
    assert recover(fs, DIRECTORY) is None


@pytest.mark.parametrize("name", ["000001.sst", "MANIFEST-000002"])
def test_a_store_without_current_is_damage(name: str) -> None:
    fs = a_disk()
    fs.put(f"{DIRECTORY}/{name}", b"")
    with pytest.raises(CorruptionError, match=name):
        recover(fs, DIRECTORY)


def test_a_missing_manifest_is_damage() -> None:
    fs = a_disk()
    fs.put(f"{DIRECTORY}/CURRENT", encode_current(7))
    with pytest.raises(CorruptionError, match="missing"):
        recover(fs, DIRECTORY)
