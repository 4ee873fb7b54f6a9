"""The times that the steps of one Pipe stream's answers take, told with each message while the facade asks for them.

One figure stands for all answers of a message, so that a single one costs nothing. Must not know records. Invariant:
the figures of a committed batch are told once on a stream, so that a message without writes tells none.

Source: docs/api.md, Server-Timing.
"""

from __future__ import annotations

from doug.v1 import doug_pb2 as pb
from raft_node.runtime.log.commit_times import NodeTimes

_US = 1_000_000
_US_MAX = (1 << 32) - 1


def _us(seconds: float) -> int:
    return min(_US_MAX, int(seconds * _US))


class StreamTimings:
    """The timings of one stream.

    Attributes:
        wanted: Whether the facade asks for timings.
    """

    __slots__ = ("_confirm_s", "_read_s", "_times", "_told", "wanted")

    def __init__(self, times: NodeTimes) -> None:
        self._times = times
        self._told = times.write
        self._confirm_s = self._read_s = 0.0
        self.wanted = False

    def confirmed(self) -> None:
        """Notes that linearizable reads were confirmed; called while they are told so."""
        self._confirm_s = max(self._confirm_s, self._times.confirm_s)

    def looked_up(self, duration_s: float) -> None:
        """Notes how long looking up keys took."""
        self._read_s = max(self._read_s, duration_s)

    def put_into(self, message: pb.BatchResult) -> None:
        """Puts the times since the last message into a message."""
        timings = message.timings
        write = self._times.write
        if write is not self._told and write is not None:
            self._told = write
            timings.append_us, timings.fsync_us = _us(write.append_s), _us(write.fsync_s)
            timings.commit_us, timings.apply_us = _us(write.commit_s), _us(self._times.apply_s)
        if self._read_s:
            timings.confirm_us, timings.read_us = _us(self._confirm_s), _us(self._read_s)
            self._confirm_s = self._read_s = 0.0
