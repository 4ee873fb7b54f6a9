"""Bounds the log lines of libraries, whose number a stranger may choose.

gRPC has a traceback for each call whose message is none, before anybody has asked who calls. Our own lines are bounded
where they are written. Must not know what a line says. Invariants:

1. Each library has so many lines a second, whoever makes it write.
2. The next line of a library says how many of its lines were left out.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, MutableMapping
from typing import Any

from doug_stream.limits import Bucket

LINES_BURST = 100
LINES_PER_S = 1.0


class BoundedLines(logging.Filter):
    """Lets so many lines of each logger through; for the handler of the loggers of libraries."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Begins without any line. ``clock`` gives seconds that never go back."""
        super().__init__()
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets: dict[str, Bucket] = {}
        self._left_out: dict[str, int] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a line is written."""
        name = record.name
        with self._lock:
            if not self._buckets.setdefault(name, Bucket(LINES_BURST, LINES_PER_S)).take(self._clock()):
                self._left_out[name] = self._left_out.get(name, 0) + 1
                return False
            record.left_out = self._left_out.pop(name, 0)
        return True


def add_left_out(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Adds how many lines were left out before a library's line; a processor of structlog."""
    left_out = getattr(event.get("_record"), "left_out", 0)
    return {**event, "left_out": left_out} if left_out else event
