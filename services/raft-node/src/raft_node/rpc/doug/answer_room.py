"""Room for the answers of transactions and batches of one stream, reserved before they are proposed.

A few bytes may ask for a mebibyte: without a bound, the answers of what one connection has under way would fill the
memory of a leader whose client does not read. All other writes answer next to nothing, and pass by here.

Invariants:
1. What is reserved, and what waits to be sent, is ``ANSWER_BYTES_MAX`` at most, or one answer.
2. What finds no room waits in order. What finds no place to wait is refused, and certainly not applied.
3. What still waits when the stream ends is never proposed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from doug_wire import pipe
from doug_wire.command import Command, Opcode
from doug_wire.payload import PLAIN, RESULT_BYTES_MAX, decode_batch, decode_txn
from doug_wire.pipe import Status
from doug_wire.puts import decode_puts
from raft_node.kv.operations.work import Details
from raft_node.runtime.writes.proposals import Sink, Submission

ANSWER_BYTES_MAX = 32 << 20
WAITING_MAX = 2048
WAITING_BYTES_MAX = 8 << 20

_MANY = (Opcode.TXN, Opcode.BATCH)
_RESULT_BYTES = pipe.RESULT.size
_OTHER_BYTES = 512
"""The room for the answer to an operation that gives a number or a time, with a content type."""


def answers_much(command: Command) -> bool:
    """Whether the answer to a command may be large, so that room for it must be reserved."""
    return command.opcode in _MANY


def answer_bytes(command: Command) -> int:
    """The most bytes that the answer to a transaction or a batch may take. Requires: the command is valid."""
    if command.opcode == Opcode.BATCH:
        puts = decode_puts(command.value)
        return _size(decode_batch(command.value)) if puts is None else len(puts.keys) * _RESULT_BYTES
    txn = decode_txn(command.value)
    return max(_size(txn.success), _size(txn.failure))


def _size(operations: tuple[bytes, ...]) -> int:
    size = 0
    for operation in operations:
        if operation[0] == Opcode.GET:
            return RESULT_BYTES_MAX
        size += _RESULT_BYTES if operation[:2] in PLAIN else _OTHER_BYTES
    return min(size, RESULT_BYTES_MAX)


class _Reserved:
    """A sink that gives the room of one answer back once the answer has come."""

    def __init__(self, room: AnswerRoom, sink: Sink, size: int) -> None:
        self._room = room
        self._sink = sink
        self._size = size

    def resolve(self, record_id: int, status: int, revision: int, details: Details | None = None) -> None:
        """See ``Sink``."""
        size, self._size = self._size, 0
        self._room.reserved -= size
        self._sink.resolve(record_id, status, revision, details)
        self._room.go_on()


class AnswerRoom:
    """The room of one stream.

    Attributes:
        reserved: The bytes that are reserved for answers that may come.
    """

    def __init__(self, submit: Callable[[list[Submission]], None], unsent: Callable[[], int]) -> None:
        """Nothing is reserved yet.

        Args:
            submit: Proposes writes that have waited.
            unsent: Tells how many bytes of answers wait to be sent.
        """
        self.reserved = 0
        self._submit = submit
        self._unsent = unsent
        self._waiting: deque[tuple[Submission, int]] = deque()
        self._waiting_bytes = 0
        self._goes_on = False

    def take(self, submission: Submission, command: Command) -> Submission | None:
        """Takes a write; returns it in the form to be proposed, or None if it has to wait or was refused."""
        size = answer_bytes(command)
        if not self._waiting and self._fits(size):
            return self._reserve(submission, size)
        waiting_bytes = self._waiting_bytes + len(submission.command)
        if len(self._waiting) >= WAITING_MAX or waiting_bytes > WAITING_BYTES_MAX:
            submission.sink.resolve(submission.record_id, Status.OVERLOADED, 0)
            return None
        self._waiting.append((submission, size))
        self._waiting_bytes = waiting_bytes
        return None

    def go_on(self) -> None:
        """Proposes the waiting writes for whose answers there is room now; called when answers were sent."""
        if not self._waiting or self._goes_on:
            return
        # A refusal of the proposal comes at once, within this call.
        self._goes_on = True
        try:
            while self._waiting and self._fits(self._waiting[0][1]):
                ready: list[Submission] = []
                while self._waiting and self._fits(self._waiting[0][1]):
                    submission, size = self._waiting.popleft()
                    self._waiting_bytes -= len(submission.command)
                    ready.append(self._reserve(submission, size))
                self._submit(ready)
        finally:
            self._goes_on = False

    def close(self) -> None:
        """Forgets the writes that wait: they are never proposed."""
        self._waiting.clear()
        self._waiting_bytes = 0

    def _fits(self, size: int) -> bool:
        taken = self.reserved + self._unsent()
        return not taken or taken + size <= ANSWER_BYTES_MAX

    def _reserve(self, submission: Submission, size: int) -> Submission:
        self.reserved += size
        return submission._replace(sink=_Reserved(self, submission.sink, size))
