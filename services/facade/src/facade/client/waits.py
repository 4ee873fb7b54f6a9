"""Whether a shard's leader answers late for want of capacity, so that more requests would only wait longer.

A queue that is bounded in number alone is as long as its bound while more is asked for than can be done. Then everybody
is answered late, or has given up before. So the time is bounded, too: once the answers of a kind have all been late for
as long as a request may wait, further ones are to be refused.

Even the youngest request of each message counts, for a queue that empties between two bursts harms nobody. Must not
know queues or clients. Times come in from outside.

Source: K. Nichols, V. Jacobson, Controlling queue delay, 2012: a standing queue is one whose least delay stays large.
"""

from __future__ import annotations

from collections.abc import Sequence

from doug_wire.pipe import ResultRecord
from facade.client.modes import LEADER_KINDS, Kind
from facade.client.operation import Operation

MANY = 1024
"""Below so many requests under way nobody is refused: values of a mebibyte may wait long for each other."""


class Waits:
    """How long the requests of one shard have waited for their answers of late."""

    __slots__ = ("_heard_s", "_since_s", "_wait_max_s")

    def __init__(self, wait_max_s: float) -> None:
        """Nothing was answered yet; ``wait_max_s`` is how long requests may wait, 0 for any time."""
        self._wait_max_s = wait_max_s
        self._since_s: list[float | None] = [None] * (max(Kind) + 1)
        self._heard_s = [0.0] * (max(Kind) + 1)

    def heard(self, answers: Sequence[tuple[Operation, ResultRecord]], now_s: float) -> None:
        """Notes the answers of a message, oldest request first."""
        if not answers or not self._wait_max_s:
            return
        youngest = answers[-1][0]
        kind = youngest.kind
        self._heard_s[kind] = now_s
        if now_s - youngest.queued_s < self._wait_max_s:
            self._since_s[kind] = None
        elif self._since_s[kind] is None:
            self._since_s[kind] = now_s

    def forget(self) -> None:
        """Begins anew: another leader answers, and what waited for it says nothing about its capacity."""
        self._since_s = [None] * len(self._since_s)

    def are_long(self, kind: Kind, now_s: float) -> bool:
        """Whether all answers have been late for so long that further requests are to be refused."""
        since_s = self._since_s[kind]
        if since_s is None or kind not in LEADER_KINDS:  # Of others there may be a replica that answers sooner.
            return False
        return now_s - since_s >= self._wait_max_s and now_s - self._heard_s[kind] < 2 * self._wait_max_s
