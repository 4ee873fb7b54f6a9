"""One Pipe stream: batches of records in, results out, in any order and number.

Results gather while the last message is being written, and leave together: the stream clocks itself. What the sender
has under way is bounded by its own windows, and what waits to be sent by ``raft_node.rpc.doug.records``: beyond its
bound no more batches are read, and HTTP/2's flow control holds the sender back.
"""

from __future__ import annotations

import asyncio
from collections import deque
from itertools import islice
from time import perf_counter
from typing import Any

import grpc
import grpc.aio

from doug_wire.pipe import PipeError, ReadRecord
from raft_node.observability.metrics import Metrics
from raft_node.rpc.doug.records import RecordObserver, Records, Waiting
from raft_node.rpc.doug.replica import Replica
from raft_node.rpc.raft.streams import BROKEN

_HOP_READS_MAX = 256
"""The number of reads that go to a thread together, so that the event loop does not answer too many at once."""


class PipeSession:
    """Serves one stream.

    Attributes:
        records: The records that came in on it, and their answers.
    """

    def __init__(
        self,
        replica: Replica,
        context: grpc.aio.ServicerContext[Any, Any],
        metrics: Metrics,
        observer: RecordObserver | None = None,
    ) -> None:
        """Builds it; ``run`` serves until the stream ends.

        Args:
            replica: The replica that serves the stream.
            context: The stream.
            metrics: The metrics in which messages are counted.
            observer: Is told of each record; None, as mostly, costs nothing.
        """
        self.records = Records(replica, self._load, observer)
        self._reader = replica.reader
        self._context = context
        self._loads: set[asyncio.Task[None]] = set()
        self._received = metrics.received("Doug", "Pipe")
        self._sent = metrics.sent("Doug", "Pipe")

    async def run(self) -> None:
        """Serves until the client ends the stream or it breaks."""
        records = self.records
        writer = asyncio.create_task(self._write())
        try:
            while (batch := await self._context.read()) is not grpc.aio.EOF:
                self._received.inc()
                records.take(batch)
                if not records.drained.is_set():
                    await records.drained.wait()
        except PipeError as error:
            await self._context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except BROKEN:
            return
        finally:
            records.close()
            for task in (writer, *self._loads):
                task.cancel()
            await asyncio.gather(writer, *self._loads, return_exceptions=True)

    def tell_leader(self) -> None:
        """Sends a message even without a result, so that a node that was deposed says who leads now."""
        self.records.filled.set()

    def _load(self, later: deque[ReadRecord], waiting: deque[Waiting], linearizable: bool) -> None:
        task = asyncio.create_task(self._answer_later(later, waiting, linearizable))
        self._loads.add(task)
        task.add_done_callback(self._loads.discard)

    async def _answer_later(self, later: deque[ReadRecord], waiting: deque[Waiting], linearizable: bool) -> None:
        """Answers reads that need the disk, and those that came while too many answers waited."""
        records = self.records
        while later or waiting:
            if not records.drained.is_set():
                # Begun again when the client has taken its answers: until then no view keeps old tables.
                later.extendleft(record for record, _, _ in waiting)
                waiting.clear()
                await records.drained.wait()
            waiting.extend(records.answer_now(later, linearizable))
            if waiting:
                needed = [block for _, block, _ in islice(waiting, _HOP_READS_MAX)]
                started_s = perf_counter()
                found = await self._reader.load_first(needed)
                records.loaded(waiting, found, linearizable, perf_counter() - started_s)

    async def _write(self) -> None:
        records = self.records
        try:
            while True:
                await records.filled.wait()
                message = records.gather()
                await self._context.write(message)
                self._sent.inc()
                records.sent()
        except BROKEN:
            # The reading side sees the same break.
            records.drained.set()
