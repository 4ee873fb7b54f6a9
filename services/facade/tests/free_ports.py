"""Loopback ports for what the tests start: another one each time, and none that somebody has.

Several runs may go on at once, in other working trees or side by side in this one. Each begins at a place of its own in
a range below the ports that systems give away, and passes over what is taken. The workers of one run share no port: one
that is free here would be taken there, before it is bound.
"""

from __future__ import annotations

import itertools
import os
import socket

FIRST, END = 27_000, 32_000
_STRIDE = 211
"""Processes with neighbouring numbers begin far from each other; it has no factor in common with the range."""

_WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_END = FIRST + (END - FIRST) // _WORKERS * _WORKERS
_ports = itertools.count(os.getpid() * _STRIDE // _WORKERS * _WORKERS + _WORKER, _WORKERS)


def free_port() -> int:
    """A port that can be bound now, on every host of the loopback."""
    for _ in range(FIRST, _END):
        port = FIRST + next(_ports) % (_END - FIRST)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("0.0.0.0", port))
            except OSError:
                continue
        return port
    raise AssertionError(f"no port is free from {FIRST} to {END}")
