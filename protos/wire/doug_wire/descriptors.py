"""File descriptors: how many this process may have, and how many of them connections may take.

A process that runs out of them can open nothing, not even the connection to a node. So the soft limit is raised to the
hard one, and clients' connections leave a reserve.

Source: getrlimit(2); issue threads of servers that ended with EMFILE.
"""

from __future__ import annotations

import sys
from pathlib import Path

LIMIT_MAX = 1 << 16
"""The highest limit that is set: more is of no use, and some systems take long to close all that might be open."""
RESERVE = 128
"""The descriptors that are kept for connections to nodes, for files, and for the libraries."""
CONNECTIONS_MIN = 8
_OPEN = (Path("/proc/self/fd"), Path("/dev/fd"))


def raise_limit() -> int:
    """Raises the soft limit as far as it may be, and returns it."""
    if sys.platform == "win32":
        return LIMIT_MAX
    import resource  # noqa: PLC0415  # It does not exist on Windows.

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = LIMIT_MAX if hard == resource.RLIM_INFINITY else min(hard, LIMIT_MAX)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError):
            return soft  # macOS has a lower bound of its own.
        return wanted
    return LIMIT_MAX if soft == resource.RLIM_INFINITY else soft


def connections_max(limit: int, wanted: int) -> int:
    """How many connections of clients may be open at a time.

    Args:
        limit: How many descriptors there may be.
        wanted: How many connections are wanted; 0 for as many as there is room for.
    """
    room = max(CONNECTIONS_MIN, limit - min(RESERVE, limit // 2))
    return min(wanted, room) if wanted else room


def open_now() -> int | None:
    """How many descriptors are open; None where the system does not tell."""
    for folder in _OPEN:
        try:
            return sum(1 for _ in folder.iterdir())
        except OSError:
            continue
    return None
