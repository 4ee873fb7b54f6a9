"""Two processes on one volume would destroy it, whatever is removed there meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest

from raft_node.errors import IdentityError
from raft_node.runtime.disk.volume_lock import locked


def test_a_volume_is_in_use_also_when_its_lock_file_was_removed(tmp_path: Path) -> None:
    wal, data = tmp_path / "wal", tmp_path / "data"
    wal.mkdir()
    data.mkdir()
    with locked(str(wal), str(data)):
        (wal / "LOCK").unlink()
        (data / "LOCK").unlink()
        for directories in ((wal, data), (data,), (wal,)):
            with pytest.raises(IdentityError, match="in use"), locked(*map(str, directories)):
                raise AssertionError("both would write there")
    with locked(str(wal), str(data)):
        assert (wal / "LOCK").exists()
