"""The log's lines about messages that are refused: whoever can send one must not be able to fill a disk with them.

Must not know messages. Invariant: however many there are, and whatever they say, lines and their length are bounded.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from doug_stream.limits import Bucket

LINES_BURST = 100
LINES_PER_S = 1.0
REASON_CHARACTERS_MAX = 1024


class Refusals:
    """Tells the log why messages were refused; of the same reason again and again, once."""

    def __init__(self, warn: Callable[..., object], clock: Callable[[], float] = time.monotonic) -> None:
        """Begins without any.

        Args:
            warn: Writes a line.
            clock: Gives seconds that never go back.
        """
        self._warn = warn
        self._clock = clock
        self._lines = Bucket(LINES_BURST, LINES_PER_S)
        self._last = ""
        self._left_out = 0

    def tell(self, reason: str) -> None:
        """Tells that a message was refused."""
        reason = reason[:REASON_CHARACTERS_MAX]
        if reason == self._last:
            return
        if not self._lines.take(self._clock()):
            self._left_out += 1
            return
        self._last, left_out, self._left_out = reason, self._left_out, 0
        self._warn("raft.message_refused", reason=reason, **({"left_out": left_out} if left_out else {}))
