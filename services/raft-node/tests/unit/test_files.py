"""The disk of this machine and the disk in memory keep the same promises; the one in memory loses what it may lose."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from raft_node.errors import DiskError
from raft_node.storage import files
from raft_node.storage.files import FileSystem, OsFileSystem
from raft_testing.files import MemoryFileSystem


@pytest.fixture(params=["os", "memory"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[FileSystem, str]:
    root = f"{tmp_path}/root"
    fs: FileSystem = OsFileSystem() if request.param == "os" else MemoryFileSystem()
    fs.make_directory(root)
    return fs, root


def test_write_and_read(disk: tuple[FileSystem, str]) -> None:
    fs, root = disk
    file = fs.create(f"{root}/a")
    file.write_at(0, [b"hello", b"", b" ", b"world"])
    file.write_at(10, [b"D!"])
    file.sync_data()
    file.close()
    file.close()
    assert file.path == f"{root}/a"
    assert fs.read_file(f"{root}/a") == b"hello worlD!"
    reader = fs.open_for_read(f"{root}/a")
    assert (reader.size, reader.path) == (12, f"{root}/a")
    assert reader.read_at(6, 5) == b"worlD"
    assert reader.read_at(6, 500) == b"worlD!"
    assert reader.read_at(600, 5) == b""
    reader.close()
    reader.close()


def test_a_write_beyond_the_end_leaves_zeros(disk: tuple[FileSystem, str]) -> None:
    fs, root = disk
    file = fs.create(f"{root}/a")
    file.write_at(3, [b"x"])
    file.close()
    assert fs.read_file(f"{root}/a") == b"\0\0\0x"


def test_many_parts(disk: tuple[FileSystem, str]) -> None:
    fs, root = disk
    parts = [b"%d," % number for number in range(5000)]
    file = fs.create(f"{root}/a")
    file.write_at(2, parts)
    file.close()
    assert fs.read_file(f"{root}/a") == b"\0\0" + b"".join(parts)


def test_create_empties_and_open_for_write_does_not(disk: tuple[FileSystem, str]) -> None:
    fs, root = disk
    for content in (b"first content", b"second"):
        file = fs.create(f"{root}/a")
        file.write_at(0, [content])
        file.close()
    assert fs.read_file(f"{root}/a") == b"second"
    file = fs.open_for_write(f"{root}/a")
    file.write_at(0, [b"S"])
    file.close()
    assert fs.read_file(f"{root}/a") == b"Second"


def test_names(disk: tuple[FileSystem, str]) -> None:
    fs, root = disk
    for name in ("b", "a"):
        file = fs.create(f"{root}/{name}")
        file.write_at(0, [name.encode()])
        file.close()
    fs.make_directory(f"{root}/d/e")
    fs.make_directory(f"{root}/d/e")
    assert fs.list_directory(root) == ["a", "b", "d"]
    assert fs.exists(f"{root}/a")
    assert fs.exists(f"{root}/d/e")
    assert not fs.exists(f"{root}/c")
    fs.rename(f"{root}/a", f"{root}/b")
    assert fs.list_directory(root) == ["b", "d"]
    fs.link(f"{root}/b", f"{root}/d/c")
    fs.remove(f"{root}/b")
    fs.remove(f"{root}/b")
    assert fs.read_file(f"{root}/d/c") == b"a"
    fs.sync_directory(root)
    fs.remove_tree(f"{root}/d")
    fs.remove_tree(f"{root}/d")
    assert fs.list_directory(root) == []
    assert fs.list_directory(f"{root}/none") == []


def test_a_missing_file_is_file_not_found(disk: tuple[FileSystem, str]) -> None:
    fs, root = disk
    calls: list[Callable[[], object]] = [
        lambda: fs.open_for_read(f"{root}/none"),
        lambda: fs.open_for_write(f"{root}/none"),
        lambda: fs.read_file(f"{root}/none"),
        lambda: fs.rename(f"{root}/none", f"{root}/x"),
        lambda: fs.link(f"{root}/none", f"{root}/x"),
        lambda: fs.create(f"{root}/none/x"),
        lambda: fs.sync_directory(f"{root}/none"),
    ]
    for call in calls:
        with pytest.raises(FileNotFoundError):
            call()


def test_a_link_to_a_name_that_is_taken_fails(disk: tuple[FileSystem, str]) -> None:
    fs, root = disk
    for name in "ab":
        fs.create(f"{root}/{name}").close()
    with pytest.raises(DiskError) as raised:
        fs.link(f"{root}/a", f"{root}/b")
    assert raised.value.errno == errno.EEXIST


def test_modes_are_private(tmp_path: Path) -> None:
    fs = OsFileSystem()
    fs.make_directory(f"{tmp_path}/x/y")
    fs.create(f"{tmp_path}/x/y/z").close()
    for name, mode in (("x", 0o700), ("x/y", 0o700), ("x/y/z", 0o600)):
        assert (tmp_path / name).stat().st_mode & 0o777 == mode


def test_a_directory_in_the_way_of_a_file_is_a_disk_error(tmp_path: Path) -> None:
    fs = OsFileSystem()
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "directory" / "x").mkdir(parents=True)
    calls: list[Callable[[], object]] = [
        lambda: fs.make_directory(f"{tmp_path}/file/x"),
        lambda: fs.create(f"{tmp_path}/directory"),
        lambda: fs.remove(f"{tmp_path}/directory"),
        lambda: fs.rename(f"{tmp_path}/file", f"{tmp_path}/directory"),
        lambda: fs.list_directory(f"{tmp_path}/file"),
    ]
    for call in calls:
        with pytest.raises(DiskError):
            call()


def test_remove_tree_follows_no_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_bytes(b"")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "link").symlink_to(outside)
    OsFileSystem().remove_tree(f"{tmp_path}/tree")
    assert (outside / "kept").exists()
    assert not (tmp_path / "tree").exists()


@pytest.mark.parametrize(("times", "code"), [(1, errno.ENOTEMPTY), (1, errno.EEXIST), (2, errno.ENOTEMPTY)])
def test_remove_tree_tries_once_more_when_somebody_put_a_file_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int, code: int
) -> None:
    # The helper process of a node that was killed may finish a table while the next start removes its directory.
    root = f"{tmp_path}/root"
    fs = OsFileSystem()
    fs.make_directory(f"{root}/a/b")
    real, left = os.rmdir, [times]

    def rmdir(path: str) -> None:
        if path.endswith("/b") and left[0]:
            left[0] -= 1
            raise OSError(code, os.strerror(code), path)
        real(path)

    monkeypatch.setattr(os, "rmdir", rmdir)
    if times == 1:
        fs.remove_tree(root)
    else:
        with pytest.raises(DiskError, match="remove tree"):
            fs.remove_tree(root)
    assert fs.exists(root) == (times > 1)


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite, pwritev = os.pwrite, os.pwritev
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: pwrite(fd, bytes(data)[:3], offset))
    monkeypatch.setattr(os, "pwritev", lambda fd, parts, offset: pwritev(fd, [b"".join(parts)[:5]], offset))
    fs = OsFileSystem()
    file = fs.create(f"{tmp_path}/a")
    file.write_at(0, [b"0123456789"])
    file.write_at(10, [b"abcd", b"efgh", b"ij"])
    file.close()
    assert fs.read_file(f"{tmp_path}/a") == b"0123456789abcdefghij"


def test_a_failed_sync_is_a_disk_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    file = OsFileSystem().create(f"{tmp_path}/a")
    monkeypatch.setattr(files, "_sync_data", fail)
    with pytest.raises(DiskError) as raised:
        file.sync_data()
    assert (raised.value.path, raised.value.operation, raised.value.errno) == (f"{tmp_path}/a", "sync", errno.EIO)
    file.close()


def crashed(setup: Callable[[MemoryFileSystem], None], seeds: int = 60) -> list[dict[str, bytes]]:
    outcomes = []
    for seed in range(seeds):
        fs = MemoryFileSystem()
        fs.make_directory("/d")
        fs.make_directory("/t")
        setup(fs)
        fs.crash(random.Random(seed))
        outcomes.append(fs.files())
    return outcomes


def test_crash_keeps_what_was_synced() -> None:
    def setup(fs: MemoryFileSystem) -> None:
        file = fs.create("/d/a")
        file.write_at(0, [b"synced"])
        file.sync_data()
        fs.sync_directory("/d")
        file.write_at(6, [b"x" * 2000])

    outcomes = crashed(setup)
    assert all(outcome["/d/a"][:6] == b"synced" for outcome in outcomes)
    kept = {outcome["/d/a"][6:].count(b"x") for outcome in outcomes}
    assert {0, 2000} < kept
    assert any(0 < count < 2000 for count in kept)


def test_crash_may_lose_a_name_that_was_not_synced() -> None:
    def setup(fs: MemoryFileSystem) -> None:
        file = fs.create("/d/a")
        file.write_at(0, [b"synced"])
        file.sync_data()

    assert {tuple(outcome.items()) for outcome in crashed(setup)} == {(), (("/d/a", b"synced"),)}


def test_crash_undoes_a_rename_wholly_or_not_at_all() -> None:
    def setup(fs: MemoryFileSystem) -> None:
        for path, content in (("/d/CURRENT", b"old"), ("/t/new", b"new")):
            file = fs.create(path)
            file.write_at(0, [content])
            file.sync_data()
        fs.sync_directory("/d")
        fs.sync_directory("/t")
        fs.rename("/t/new", "/d/CURRENT")

    outcomes = {tuple(outcome.items()) for outcome in crashed(setup)}
    assert outcomes == {(("/d/CURRENT", b"old"), ("/t/new", b"new")), (("/d/CURRENT", b"new"),)}


def test_syncing_a_directory_takes_the_other_side_of_a_rename_along() -> None:
    def setup(fs: MemoryFileSystem) -> None:
        file = fs.create("/t/new")
        file.write_at(0, [b"new"])
        file.sync_data()
        fs.rename("/t/new", "/d/a")
        fs.sync_directory("/d")
        fs.sync_directory("/t")

    assert {tuple(outcome.items()) for outcome in crashed(setup)} == {(("/d/a", b"new"),)}


def test_removals_may_be_undone_by_a_crash() -> None:
    def setup(fs: MemoryFileSystem) -> None:
        fs.put("/d/a", b"a")
        fs.remove_tree("/d")

    assert {tuple(outcome.items()) for outcome in crashed(setup)} == {(), (("/d/a", b"a"),)}


def test_bytes_of_a_failed_sync_are_never_durable() -> None:
    fs = MemoryFileSystem()
    fs.make_directory("/d")
    file = fs.create("/d/a")
    fs.sync_directory("/d")
    file.write_at(0, [b"lost"])
    fs.fail_next("sync")
    with pytest.raises(DiskError):
        file.sync_data()
    file.sync_data()
    assert fs.read_file("/d/a") == b"lost"
    assert fs.durable("/d/a") == b""
    assert not fs.is_synced("/d/a")


def test_failing_operations() -> None:
    fs = MemoryFileSystem()
    fs.make_directory("/d")
    fs.fail_at(2, for_ever=False)
    file = fs.create("/d/a")
    with pytest.raises(DiskError):
        file.write_at(0, [b"abcd"])
    file.sync_data()
    assert fs.durable("/d/a") is None
    fs.fail_at(1)
    for _ in range(3):
        with pytest.raises(DiskError):
            file.sync_data()
    fs.heal()
    file.sync_data()
    fs.sync_directory("/d")
    assert fs.is_synced("/d/a")
    assert fs.count("sync_directory") == 1


def test_a_file_of_before_the_crash_is_not_usable() -> None:
    fs = MemoryFileSystem()
    fs.make_directory("/d")
    file = fs.create("/d/a")
    fs.crash(random.Random(1))
    with pytest.raises(AssertionError):
        file.write_at(0, [b"x"])
