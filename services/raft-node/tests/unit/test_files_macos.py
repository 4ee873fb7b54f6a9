"""On macOS fsync only reaches the drive's cache, and there is no fdatasync: every sync is an F_FULLFSYNC."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from raft_node.storage import files

F_FULLFSYNC = 51


class FakeFcntl(ModuleType):
    """Counts the calls that this machine does not have."""

    F_FULLFSYNC = F_FULLFSYNC

    def __init__(self) -> None:
        super().__init__("fcntl")
        self.calls: list[int] = []

    def fcntl(self, descriptor: int, command: int) -> int:
        os.fstat(descriptor)
        self.calls.append(command)
        return 0


@pytest.fixture
def macos(monkeypatch: pytest.MonkeyPatch) -> tuple[Any, FakeFcntl]:
    """The module of the disk as macOS would import it."""
    fake = FakeFcntl()
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setitem(sys.modules, "fcntl", fake)
    monkeypatch.delattr(os, "fdatasync")
    spec = importlib.util.spec_from_file_location("files_on_macos", files.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module, fake


def test_every_sync_reaches_the_platter(macos: tuple[Any, FakeFcntl], tmp_path: Path) -> None:
    module, fake = macos
    fs = module.OsFileSystem()
    file = fs.create(str(tmp_path / "f"))
    file.write_at(0, [b"durable"])
    assert fake.calls == []
    file.sync_data()
    assert fake.calls == [F_FULLFSYNC]
    file.close()
    fs.sync_directory(str(tmp_path))
    assert fake.calls == [F_FULLFSYNC] * 2
    assert (tmp_path / "f").read_bytes() == b"durable"
