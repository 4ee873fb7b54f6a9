"""Crash images of short workloads: a sample of ``make crash-images``, and planted faults that they must find."""

from __future__ import annotations

import random
import re

import pytest

from raft_node.errors import FatalError
from raft_testing import crash_images, crash_images_main
from raft_testing.crash_images import ImageError, workloads
from raft_testing.files import MemoryFileSystem, _Writable
from raft_testing.inodes import Loss

SAMPLE = 60


@pytest.mark.parametrize("workload", list(workloads(2)), ids=",".join)
def test_all_workloads_of_two(workload: crash_images.Workload) -> None:
    assert crash_images.run(workload, failures=True) > 0


def test_a_sample_of_the_longer_ones() -> None:
    """The whole set is ``make crash-images``."""
    longer = [workload for workload in workloads(4) if len(workload) > 2]
    for workload in random.Random(20).sample(longer, SAMPLE):
        crash_images.run(workload, failures=len(workload) == 3)


def test_the_disk_is_copied_in_both_worlds() -> None:
    fs = MemoryFileSystem()
    fs.make_directory("/d")
    file = fs.create("/d/a")
    file.write_at(0, [b"one"])
    file.sync_data()
    fs.sync_directory("/d")
    file.write_at(0, [b"two"])
    fs.rename("/d/a", "/d/b")
    copy = fs.copy()
    file.write_at(0, [b"six"])
    assert copy.files() == {"/d/b": b"two"}
    copy.crash_as(Loss.DROPPED, random.Random(1))
    assert copy.files() == {"/d/a": b"one"}
    assert fs.files() == {"/d/b": b"six"}
    assert not fs.is_settled
    assert copy.is_settled


def skip_syncs(monkeypatch: pytest.MonkeyPatch, pattern: str) -> None:
    """Planted: files of that name are not synced, and nobody is told."""
    sync = _Writable.sync_data

    def sync_data(self: _Writable) -> None:
        if not re.search(pattern, self.path):
            sync(self)

    monkeypatch.setattr(_Writable, "sync_data", sync_data)


def skip_directory_syncs(monkeypatch: pytest.MonkeyPatch, pattern: str) -> None:
    """Planted: names in that directory are not synced."""
    sync = MemoryFileSystem.sync_directory

    def sync_directory(self: MemoryFileSystem, path: str) -> None:
        if not re.search(pattern, path):
            sync(self, path)

    monkeypatch.setattr(MemoryFileSystem, "sync_directory", sync_directory)


def found_by(operations: int) -> str:
    """What the images of the short workloads say."""
    for workload in workloads(operations):
        try:
            crash_images.run(workload, failures=False)
        except (ImageError, FatalError) as error:
            return str(error)
    return ""


@pytest.mark.parametrize("files", [r"\.wal$", r"\.sst", "MANIFEST", r"CURRENT"])
def test_a_sync_that_is_left_out_is_found(monkeypatch: pytest.MonkeyPatch, files: str) -> None:
    skip_syncs(monkeypatch, files)
    assert found_by(2)


@pytest.mark.parametrize("directory", ["/wal$", "/data$"])
def test_a_directory_sync_that_is_left_out_is_found(monkeypatch: pytest.MonkeyPatch, directory: str) -> None:
    skip_directory_syncs(monkeypatch, directory)
    assert found_by(3)


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert crash_images_main.main(["--only", "put,flush"]) == 0
    assert "1 workloads hold" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        crash_images_main.main(["--only", "put,sing"])
    assert "unknown operation sing" in capsys.readouterr().err
