"""What a peer may send that costs this end more than it is worth: so much of it at once, and so much each second.

Legitimate peers send little of it: frames without content or with little, heads with very many fields, windows that
grow although nothing was sent, calls that are reset or refused, frames for calls that are over. Each is cheap for the
peer; the dearest take this end a hundred times as long as their bytes take the network, and everything else in the
process waits meanwhile. Must not know frames or streams. Times come in from outside.

Invariant: whatever is counted here ends the connection once it is a flood, and nothing else does.

Source: limits.Limits; CVE-2019-9511, -9512, -9514, -9518; CVE-2023-44487.
"""

from __future__ import annotations

from doug_stream.codes import ErrorCode
from doug_stream.errors import ProtocolError
from doug_stream.limits import Bucket, Limits

FIELDS_FREE = 32
"""The heads of calls have no more fields. Each one beyond counts as a frame with little content: it takes as long."""


class Floods:
    """Counts what one peer sends.

    Attributes:
        now_s: The time, by any clock that never goes back.
    """

    __slots__ = ("_calm", "_control", "now_s")

    def __init__(self, limits: Limits) -> None:
        """Begins with nothing sent."""
        self._control = Bucket(limits.control_burst, limits.control_per_s)
        self._calm = Bucket(limits.resets_burst, limits.resets_per_s)
        self.now_s = 0.0

    def little(self, what: str, count: int = 1) -> None:
        """Counts frames that each cost an answer, or a look, and bring little or nothing.

        Raises:
            ProtocolError: They are too many.
        """
        self._spend(self._control, what, count)

    def fields(self, count: int) -> None:
        """Counts a head with so many fields.

        Raises:
            ProtocolError: There are too many heads with many of them.
        """
        if count > FIELDS_FREE:
            self._spend(self._control, "too many heads with very many fields", count - FIELDS_FREE)

    def refused(self, what: str) -> None:
        """Counts a call, or the frame of one, that is reset, refused or over.

        Raises:
            ProtocolError: They are too many.
        """
        self._spend(self._calm, what, 1)

    def _spend(self, bucket: Bucket, what: str, count: int) -> None:
        if not bucket.take(self.now_s, count):
            raise ProtocolError(ErrorCode.ENHANCE_YOUR_CALM, what)
