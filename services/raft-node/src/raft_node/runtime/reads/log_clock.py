"""Moves the log clock on for reads that must not see what has expired by the leader's clock, but not yet by the log's.

A key has expired once the log says so, and not before (docs/api.md, Expiry). A leader that serves a read when the
deadline of what it found has passed by its own clock puts a CLOCK entry into the log and answers when that is applied:
so that no later read, here or elsewhere, sees the key again, and none sees it after its time.

Invariants:
1. One entry is under way at a time, for all reads that wait when it is proposed.
2. Each read is told once whether the clock was moved.
3. A member that does not lead is told no read index while something may be due that the log does not say has expired.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from doug_wire.pipe import Status
from raft_node.kv.operations.work import Details
from raft_node.raft.messages import Message, ReadIndexRequest

ClockCallback = Callable[[bool], None]
"""Called with True once the log clock has come to the time of the question, with False if it cannot be moved."""


class LogClock:
    """The reads that wait for the log clock of one node. Also the ``Sink`` of its entries."""

    def __init__(self, propose: Callable[[LogClock], bool]) -> None:
        """Begins without reads; ``propose`` puts a CLOCK entry into the log, and returns whether it could."""
        self._propose = propose
        self._waiting: list[ClockCallback] = []
        self._asked: list[ClockCallback] = []

    def move(self, callback: ClockCallback) -> None:
        """Has the log clock moved up to now."""
        self._waiting.append(callback)
        self._ask()

    def resolve(self, record_id: int, status: int, revision: int, details: Details | None = None) -> None:
        """See ``Sink``: takes the outcome of a CLOCK entry."""
        del record_id, revision, details
        asked, self._asked = self._asked, []
        for callback in asked:
            callback(status == Status.OK)
        self._ask()

    def _ask(self) -> None:
        if self._asked or not self._waiting:
            return
        self._asked, self._waiting = self._waiting, []
        if not self._propose(self):
            asked, self._asked = self._asked, []
            for callback in asked:
                callback(False)


class TimedRequests:
    """Requests for a read index that wait until the log says what this leader's clock says.

    The nodes that ask do not lead, and so judge what has expired by the log alone.
    """

    def __init__(self, clock: LogClock, may_be_due: Callable[[], bool], wake: Callable[[], None]) -> None:
        """Begins without requests.

        Args:
            clock: Moves the log clock on.
            may_be_due: Tells whether a value may have expired by this node's clock, and not by the log's.
            wake: Called when requests are ready to be taken.
        """
        self._clock = clock
        self._may_be_due = may_be_due
        self._wake = wake
        self._timed: list[Message] = []

    def __bool__(self) -> bool:
        """Whether requests are ready to be taken."""
        return bool(self._timed)

    def take(self, inbox: Sequence[Message]) -> list[Message]:
        """The messages that the core may have now: the inbox but for requests that must wait, and those that did."""
        taken, self._timed = self._timed, []
        for message in inbox:
            if type(message) is ReadIndexRequest and self._may_be_due():
                self._clock.move(partial(self._moved, message))
            else:
                taken.append(message)
        return taken

    def _moved(self, request: ReadIndexRequest, moved: bool) -> None:
        # Clients send reads again for which the clock could not be moved, perhaps to another node.
        if moved:
            self._timed.append(request)
            self._wake()
