"""Makes files with data or logs readable by their owner alone, whatever umask the program was started with."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

UMASK = 0o077


@contextlib.contextmanager
def private_files() -> Iterator[None]:
    """Within the block, this process and its children make files and directories that only their owner can read."""
    before = os.umask(UMASK)
    try:
        yield
    finally:
        os.umask(before)
