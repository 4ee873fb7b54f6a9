"""The records of one Pipe stream: what becomes of each write and each read, and the answers that wait to be sent.

The stream itself, and reads that need the disk, are ``raft_node.rpc.doug.pipe``'s: here nothing waits. What waits to be
sent is bounded by ``_RESULT_BYTES_WAITING_MAX``: beyond it ``drained`` is not set, and nothing more is to be taken or
looked up. Transactions and batches wait until there is room for their answers (``raft_node.rpc.doug.answer_room``).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from math import inf
from time import perf_counter
from typing import Protocol

from doug.v1 import doug_pb2 as pb
from doug_wire import command as commands
from doug_wire import pipe
from doug_wire.command import CommandError
from doug_wire.pipe import PipeError, ReadRecord, Status
from doug_wire.slots import slot_of
from doug_wire.validity import validate
from raft_node.errors import UnavailableError
from raft_node.kv.keyspace import StoredValue
from raft_node.kv.operations.work import Details
from raft_node.rpc.doug.answer_room import AnswerRoom, answers_much
from raft_node.rpc.doug.replica import Replica, clock_stands, has_run_out
from raft_node.rpc.doug.timings import StreamTimings
from raft_node.runtime.reads.reader import Found
from raft_node.runtime.writes.proposals import Submission
from raft_node.storage.engine import BlockNeeded

_RESULT_BYTES_WAITING_MAX = 16 << 20

Waiting = tuple[ReadRecord, BlockNeeded, float]
"""A read, the block that it needs, and the stamp of the newest proof when it was looked up."""


class RecordObserver(Protocol):
    """Is told of every record of a stream, on the event loop."""

    def arrived(self, batch: pb.Batch) -> None:
        """Takes a batch that has come in, before any record of it was read."""

    def submitted(self, submissions: list[Submission]) -> list[Submission]:
        """Takes writes that are about to be proposed; returns them in the form to be proposed."""

    def confirmed(self, records: list[ReadRecord]) -> None:
        """Takes reads that are about to be looked up, or refused: it is known now whether they may be served here."""

    def answered(self, record_id: int, status: int) -> None:
        """Takes the answer to a record."""

    def ended(self) -> None:
        """Takes the end of the stream: no answer is heard any more."""


class Records:
    """The records of one stream. Also the ``Sink`` of the writes that came in on it.

    Attributes:
        filled: An event that is set while a message is to be sent.
        drained: An event that is set while so few answers wait that more may be taken and looked up.
    """

    def __init__(
        self,
        replica: Replica,
        load: Callable[[deque[ReadRecord], deque[Waiting], bool], None],
        observer: RecordObserver | None = None,
    ) -> None:
        """Nothing has come yet.

        Args:
            replica: The replica that serves the stream.
            load: Has reads answered that need the disk, and those behind them that were not looked up.
            observer: Is told of each record; None, as mostly, costs nothing.
        """
        self._replica = replica
        self._load = load
        self._observer = observer
        self._results: deque[bytes] = deque()
        self._result_bytes = 0
        self._proven_s = inf  # The stamp of the oldest proof among the local reads that wait to be sent.
        self._closed = False
        self.filled = asyncio.Event()
        self.drained = asyncio.Event()
        self.drained.set()
        self._room = AnswerRoom(self._submit, lambda: self._result_bytes)
        self._timings = StreamTimings(replica.driver.times)

    def close(self) -> None:
        """Ends the stream's part: answers to writes, and to reads that wait for a quorum, are dropped from now on."""
        self._closed = True
        self._room.close()
        if self._observer is not None:
            self._observer.ended()

    def resolve(self, record_id: int, status: int, revision: int, details: Details | None = None) -> None:
        """See ``Sink``."""
        if self._observer is not None:
            self._observer.answered(record_id, status)
        if details is None:
            self._put(pipe.encode_result(record_id, status, revision))
        else:
            self._put(pipe.encode_result(record_id, status, revision, *details))

    def take(self, batch: pb.Batch) -> None:
        """Takes a batch that has come in.

        Raises:
            PipeError: The batch is malformed.
        """
        self._timings.wanted = batch.timed
        if self._observer is not None:
            self._observer.arrived(batch)
        if batch.kind == pb.BATCH_KIND_WRITE:
            self._take_writes(batch)
        elif batch.kind == pb.BATCH_KIND_READ_LINEARIZABLE:
            records = self._take_reads(batch)
            if not records:
                return
            if self._replica.takes_requests or batch.forward:
                self._replica.driver.read(lambda confirmed: self._serve(records, confirmed), forward=batch.forward)
            else:
                self._serve(records, confirmed=False)
        elif batch.kind == pb.BATCH_KIND_READ_LOCAL:
            records = self._take_reads(batch)
            if self._replica.serves_local_reads:
                self._serve(records, confirmed=True, linearizable=False)
            else:
                for record in records:
                    self.resolve(record.id, Status.UNAVAILABLE, 0)
        elif batch.kind == pb.BATCH_KIND_READ_FRESH:
            self._take_fresh_reads(batch)
        else:
            raise PipeError(f"unknown kind of batch {batch.kind}")

    def _take_fresh_reads(self, batch: pb.Batch) -> None:
        """Answers session and bounded reads, each as soon as what it must see is applied, or proven, here."""
        ready = []
        for record in self._take_reads(batch):
            if not self._replica.serves_local_reads:
                self.resolve(record.id, Status.UNAVAILABLE, 0)
            elif self._replica.freshness.serves(record.min_index, record.bound_ms / 1000):
                ready.append(record)
            else:
                self._wait_for(record)
        if ready:
            self._serve(ready, confirmed=True, linearizable=False)

    def _wait_for(self, record: ReadRecord) -> None:
        def settle(fresh: bool) -> None:
            if fresh and self._replica.serves_local_reads:
                self._serve([record], confirmed=True, linearizable=False)
            else:
                self.resolve(record.id, Status.NOT_FRESH, 0)

        self._replica.freshness.wait(record.min_index, record.bound_ms / 1000, settle)

    def _take_writes(self, batch: pb.Batch) -> None:
        machine = self._replica.driver.machine
        submissions: list[Submission] = []
        for record in pipe.decode_writes(batch.records):
            try:
                command = validate(record.command)
            except CommandError:
                self.resolve(record.id, Status.INVALID, 0)
                continue
            if commands.checksum(record.command) != record.crc:
                self.resolve(record.id, Status.INVALID, 0)
            elif not machine.created:
                self.resolve(record.id, Status.NOT_LEADER, 0)
            elif batch.shard != self._replica.number or not machine.owns(slot_of(command.key), command.epoch):
                self.resolve(record.id, Status.WRONG_SHARD, 0)
            else:
                submission = Submission(self, record.id, record.crc, record.command)
                taken = self._room.take(submission, command) if answers_much(command) else submission
                if taken is not None:
                    submissions.append(taken)
        if submissions:
            self._submit(submissions)

    def _submit(self, submissions: list[Submission]) -> None:
        if self._observer is not None:
            submissions = self._observer.submitted(submissions)
        self._replica.driver.submit(submissions)

    def _take_reads(self, batch: pb.Batch) -> list[ReadRecord]:
        records = list(pipe.decode_reads(batch.records))
        if batch.shard == self._replica.number:
            return records
        for record in records:
            self.resolve(record.id, Status.WRONG_SHARD, 0)
        return []

    def _serve(self, records: list[ReadRecord], confirmed: bool, *, linearizable: bool = True) -> None:
        if self._closed:
            return
        if self._observer is not None:
            self._observer.confirmed(records)
        if not confirmed or not self._replica.driver.machine.created:
            status = Status.UNAVAILABLE if confirmed else Status.NOT_LEADER
            for record in records:
                self.resolve(record.id, status, 0)
            return
        later = deque(records)
        started_s = perf_counter()
        if linearizable:
            self._timings.confirmed()
        waiting = self.answer_now(later, linearizable)
        self._timings.looked_up(perf_counter() - started_s)
        if later or waiting:
            self._load(later, waiting, linearizable)

    def answer_now(self, records: deque[ReadRecord], linearizable: bool) -> deque[Waiting]:
        """Answers reads from memory until too many answers wait; returns those that need the disk."""
        waiting = []
        while records and self.drained.is_set():
            record = records.popleft()
            found = self._look_up(record)
            proven_s = inf if linearizable else self._replica.freshness.proven_s
            if isinstance(found, BlockNeeded):
                waiting.append((record, found, proven_s))
            elif linearizable and has_run_out(self._replica, found):
                self._answer_by_clock(record)
            else:
                self._proven_s = min(self._proven_s, proven_s)
                self._answer(record, found)
        # Those of one block lie together, and share it.
        waiting.sort(key=lambda each: each[1].place)
        return deque(waiting)

    def loaded(self, waiting: deque[Waiting], found: Sequence[Found], linearizable: bool, duration_s: float) -> None:
        """Answers the first of the waiting reads; puts those that need another block behind the others."""
        for each in found:
            record, _, proven_s = waiting.popleft()
            if isinstance(each, BlockNeeded):
                waiting.append((record, each, proven_s))
                continue
            # Values that were read before do not become fresher by a later proof.
            self._proven_s = min(self._proven_s, proven_s)
            if isinstance(each, UnavailableError):
                self._answer(record, Status.UNAVAILABLE)
            elif linearizable and has_run_out(self._replica, each):
                self._answer_by_clock(record)
            else:
                self._answer(record, each)
        self._timings.looked_up(duration_s)

    def _answer_by_clock(self, record: ReadRecord) -> None:
        """Answers a read of a value that has expired by this node's clock, once it has by the log's clock, too."""

        def moved(done: bool) -> None:
            if done:
                self._serve([record], confirmed=True)
            else:
                self.resolve(record.id, clock_stands(self._replica), 0)

        self._replica.driver.move_clock(moved)

    def _look_up(self, record: ReadRecord) -> StoredValue | BlockNeeded | Status:
        # Read after the quorum has confirmed, so it is at least as new as the confirmed index.
        driver, reader = self._replica.driver, self._replica.reader
        if not driver.machine.owns(slot_of(record.key), record.epoch):
            return Status.WRONG_SHARD
        if record.min_index > driver.applied_index:
            return Status.NOT_FRESH
        try:
            found = reader.get_token(record.key, record.token) if record.token else reader.get(record.key)
        except UnavailableError:
            return Status.UNAVAILABLE
        return Status.NOT_FOUND if found is None else found

    def _answer(self, record: ReadRecord, found: StoredValue | Status | None) -> None:
        if found is None:
            self.resolve(record.id, Status.NOT_FOUND, 0)
        elif isinstance(found, Status):
            self.resolve(record.id, found, 0)
        else:
            if self._observer is not None:
                self._observer.answered(record.id, Status.OK)
            revision, content_type, value, _, _, content_encoding = found
            self._put(
                pipe.encode_result(
                    record.id, Status.OK, revision, content_type, value, found.expires_at_ms, content_encoding
                )
            )

    def _put(self, result: bytes) -> None:
        if self._closed:
            return
        self._results.append(result)
        self._result_bytes += len(result)
        self.filled.set()
        if self._result_bytes > _RESULT_BYTES_WAITING_MAX:
            self.drained.clear()

    def gather(self) -> pb.BatchResult:
        """Takes results off the queue, up to a message's worth."""
        results = self._results
        taken = [results.popleft()] if results else []
        size = sum(map(len, taken))
        while results and size + len(results[0]) <= pipe.BATCH_BYTES_MAX:
            size += len(results[0])
            taken.append(results.popleft())
        self._result_bytes -= size
        receipt = self._replica.receipt() if self._proven_s == inf else self._replica.receipt(self._proven_s)
        if not results:
            self.filled.clear()
            self._proven_s = inf
        message = pb.BatchResult(results=b"".join(taken), receipt=receipt)
        if not self._replica.is_leader:
            message.leader_id, message.leader_address = self._replica.leader()
        if self._timings.wanted:
            self._timings.put_into(message)
        return message

    def sent(self) -> None:
        """Notes that a message was sent, so that there is room for more answers."""
        if self._result_bytes <= _RESULT_BYTES_WAITING_MAX:
            self.drained.set()
        self._room.go_on()
