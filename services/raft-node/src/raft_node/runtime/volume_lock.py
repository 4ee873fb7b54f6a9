"""The lock of a node's volumes: two processes on one volume would destroy it.

The lock is the kernel's, on a file in each directory, so that it ends with the process that holds it.
"""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Generator
from pathlib import Path

from raft_node.errors import DiskError, IdentityError


@contextlib.contextmanager
def locked(*directories: str) -> Generator[None, None, None]:
    """Holds the lock of each directory.

    Raises:
        IdentityError: Another process holds one of them.
        DiskError: It cannot be opened for writing.
    """
    held = []
    try:
        for directory in directories:
            try:
                lock = (Path(directory) / "LOCK").open("ab")
            except OSError as error:
                raise DiskError(f"{directory}/LOCK", "open", error) from error
            held.append(lock)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise IdentityError(f"{directory} is in use by another process") from error
        yield
    finally:
        for lock in held:
            lock.close()
