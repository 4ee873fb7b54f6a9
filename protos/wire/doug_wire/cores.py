"""Core dumps: there are none of servers, since their memory holds values, tokens and keys.

Only the soft limit is lowered: who needs a dump raises it for one process (``prlimit --core=unlimited --pid PID``).
Source: core(5), setrlimit(2).
"""

from __future__ import annotations

import sys


def disable() -> None:
    """Has this process, and those that it starts, leave no core dump."""
    if sys.platform == "win32":
        return
    import resource  # noqa: PLC0415  # It does not exist on Windows.

    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
