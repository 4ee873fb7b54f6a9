"""Files that hold data or logs are for their owner alone, whatever the umask of who started the program."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

UMASK = 0o077


@contextlib.contextmanager
def private_files() -> Iterator[None]:
    """Files and directories that are made meanwhile can be read by their owner alone, those of children too."""
    before = os.umask(UMASK)
    try:
        yield
    finally:
        os.umask(before)
