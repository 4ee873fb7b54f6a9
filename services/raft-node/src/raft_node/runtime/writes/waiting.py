"""Writes that wait for one turn of the event loop: which are taken, which are refused at once, and why.

Must not know the core: the driver says whether this node takes writes, and proposes what was taken. Invariants:

1. What is refused is certainly not applied.
2. What waits is bounded in number and bytes.
3. On a full disk only what frees space is taken (docs/adr/0003-full-disks.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from doug_wire.pipe import Status
from raft_node.observability.metrics import Metrics
from raft_node.runtime.writes.proposals import Submission

SUBMISSIONS_WAITING_MAX = 20_000
SUBMISSION_BYTES_WAITING_MAX = 32 << 20


class WaitingWrites:
    """The writes of one node that wait."""

    def __init__(
        self,
        metrics: Metrics,
        stalled: Callable[[], bool],
        disk_full: Callable[[], bool],
        taken_when_full: Callable[[bytes], bool],
    ) -> None:
        """Nothing waits yet.

        Args:
            metrics: The metrics in which refusals are counted.
            stalled: Tells whether the engine can apply nothing now.
            disk_full: Tells whether writes are refused for want of space.
            taken_when_full: Tells whether a command is taken on a full disk, because it frees space.
        """
        self._metrics = metrics
        self._stalled = stalled
        self._disk_full = disk_full
        self._taken_when_full = taken_when_full
        self._waiting = list[Submission]()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def take(self, submissions: Sequence[Submission]) -> bool:
        """Takes writes or refuses them; returns whether any was taken."""
        if self._disk_full():
            submissions = self._those_that_free(submissions)
        size = sum([len(submission.command) for submission in submissions])
        full = (
            len(self._waiting) + len(submissions) > SUBMISSIONS_WAITING_MAX
            or self._bytes + size > SUBMISSION_BYTES_WAITING_MAX
        )
        # A stalled engine applies nothing: a queue here would only hide that from clients.
        if full or self._stalled():
            self.refuse(submissions, Status.OVERLOADED, "overloaded")
            return False
        self._waiting.extend(submissions)
        self._bytes += size
        return bool(submissions)

    def add(self, submission: Submission) -> None:
        """Takes a write of the node itself, which is never refused."""
        self._waiting.append(submission)

    def pop(self) -> list[Submission]:
        """Removes and returns all writes that wait."""
        waiting, self._waiting, self._bytes = self._waiting, [], 0
        return waiting

    def has_room_for(self, command: bytes) -> bool:
        """Whether there is room for a command of the node itself."""
        return not self._stalled() and (not self._disk_full() or self._taken_when_full(command))

    def refuse(self, submissions: Sequence[Submission], status: Status, reason: str) -> None:
        """Answers writes that are not applied.

        Args:
            submissions: The writes.
            status: The answer.
            reason: The reason under which they are counted.
        """
        self._metrics.proposals_failed.labels(self._metrics.shard, reason).inc(len(submissions))
        for submission in submissions:
            submission.sink.resolve(submission.record_id, status, 0)

    def _those_that_free(self, submissions: Sequence[Submission]) -> list[Submission]:
        taken, refused = list[Submission](), list[Submission]()
        for submission in submissions:
            (taken if self._taken_when_full(submission.command) else refused).append(submission)
        self.refuse(refused, Status.DISK_FULL, "disk_full")
        return taken
