"""The lock of a node's volumes: two processes on one volume would destroy it.

The lock is the kernel's, so that it ends with the process that holds it. It is held on the directory itself, which
stays the same whatever is removed in it, and on a file in it, for versions that know only that.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Generator

from raft_node.errors import DiskError, IdentityError


@contextlib.contextmanager
def locked(*directories: str) -> Generator[None, None, None]:
    """Holds the lock of each directory.

    Raises:
        IdentityError: Another process holds one of the locks.
        DiskError: A lock file cannot be opened for writing.
    """
    held: list[int] = []
    try:
        for directory in directories:
            _hold(held, directory, directory, os.O_RDONLY | os.O_DIRECTORY)
            _hold(held, directory, f"{directory}/LOCK", os.O_RDWR | os.O_CREAT)
        yield
    finally:
        for descriptor in held:
            os.close(descriptor)


def _hold(held: list[int], directory: str, path: str, flags: int) -> None:
    try:
        descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise DiskError(path, "open", error) from error
    held.append(descriptor)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise IdentityError(f"{directory} is in use by another process") from error
    except OSError as error:
        # Network file systems lock only files that are open for writing, which a directory never is.
        if path != directory or error.errno not in (errno.EBADF, errno.ENOLCK, errno.EOPNOTSUPP):
            raise DiskError(path, "lock", error) from error
