"""The bounds of what a peer may make this end hold or do.

Without limits, small frames are a weapon: each PING and each SETTINGS wants an answer, each stream that is opened and
reset at once costs a start and an end (CVE-2023-44487), a header block may go on for ever (CVE-2024-27316), a SETTINGS
may have twenty thousand parameters (CVE-2020-11080), content and windows may come a byte at a time (CVE-2019-9511).
Counting by a bucket that fills up with time lets every well-behaved peer through, whatever the age of its connection.

Must not know frames. Times come in from outside.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits of one connection; the defaults suit the calls of this project.

    Attributes:
        window_bytes: How much of one stream may wait here unread, beside one message that is not complete.
        frame_bytes_max: The largest frame that is taken.
        message_bytes_max: The longest message that is taken.
        unfinished_bytes_max: How many bytes of messages that are not complete may wait here, of all streams together.
        unread_bytes_max: How many bytes of a client's messages that nobody has taken may wait here, of all its streams
            together; each message counts for some more than its bytes.
        streams_max: How many calls of the peer run at a time.
        header_bytes_max: The longest header block, both packed and unpacked.
        header_frames_max: In how many frames it may come.
        settings_max: How many parameters a SETTINGS may have.
        control_burst: How many PINGs, SETTINGS and other frames without content, or with little, may come at once,
        control_per_s: and how many each second.
        resets_burst: How many calls may be reset or refused at once,
        resets_per_s: and how many each second.
    """

    window_bytes: int = 4 << 20
    frame_bytes_max: int = 128 << 10
    message_bytes_max: int = 8 << 20
    unfinished_bytes_max: int = 16 << 20
    unread_bytes_max: int = 16 << 20
    streams_max: int = 64
    header_bytes_max: int = 16 << 10
    header_frames_max: int = 16
    settings_max: int = 32
    control_burst: int = 400
    control_per_s: float = 100.0
    resets_burst: int = 100
    resets_per_s: float = 20.0


STRANGERS = Limits(
    window_bytes=64 << 10,
    message_bytes_max=64 << 10,
    unfinished_bytes_max=128 << 10,
    unread_bytes_max=128 << 10,
    streams_max=16,
)
"""What one may ask for of whom nothing is known but that an authority has signed its certificate: enough for requests,
and less than a mebibyte of this end's memory."""


class Bucket:
    """Counts what happens too often: each event takes one token, and tokens come back with time."""

    __slots__ = ("_at_s", "_burst", "_per_s", "_tokens")

    def __init__(self, burst: int, per_s: float) -> None:
        """Starts full."""
        self._burst = float(burst)
        self._per_s = per_s
        self._tokens = float(burst)
        self._at_s: float | None = None

    def take(self, now_s: float, count: int = 1) -> bool:
        """Takes tokens; False when there are too few.

        Args:
            now_s: The time, by any clock that never goes back.
            count: How many.
        """
        if self._at_s is not None:
            self._tokens = min(self._burst, self._tokens + (now_s - self._at_s) * self._per_s)
        self._at_s = now_s
        if self._tokens < count:
            return False
        self._tokens -= count
        return True
