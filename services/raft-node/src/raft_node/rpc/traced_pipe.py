"""A Pipe stream whose sampled records have spans. Without tracing, ``raft_node.rpc.pipe`` serves alone.

Invariant: a record's span ends with its answer, or with the stream.
"""

from __future__ import annotations

from typing import Any

import grpc.aio

from doug.v1 import doug_pb2 as pb
from doug_wire.pipe import ReadRecord, Status
from doug_wire.trace_context import decode_traces
from raft_node.kv.keyspace import StoredValue
from raft_node.kv.operations.work import Details
from raft_node.observability.metrics import Metrics
from raft_node.observability.tracing import NodeTraces, RequestTrace, WriteTrace
from raft_node.rpc.pipe import PipeSession
from raft_node.rpc.shard import Shard
from raft_node.runtime.proposals import Submission, TracedSubmission

SPANS_MAX = 4096
"""Sampled records of one stream without an answer; further ones have no span."""


class TracedPipeSession(PipeSession):
    """Serves one stream."""

    def __init__(
        self, shard: Shard, context: grpc.aio.ServicerContext[Any, Any], metrics: Metrics, traces: NodeTraces
    ) -> None:
        """Builds it; ``run`` serves until the stream ends."""
        super().__init__(shard, context, metrics)
        self._traces = traces
        self._spans: dict[int, RequestTrace] = {}

    async def run(self) -> None:
        """See ``PipeSession``."""
        try:
            await super().run()
        finally:
            spans, self._spans = self._spans, {}
            for trace in spans.values():
                trace.end(None)

    def resolve(self, record_id: int, status: int, revision: int, details: Details | None = None) -> None:
        """See ``Sink``."""
        self._end(record_id, status)
        super().resolve(record_id, status, revision, details)

    def _take(self, batch: pb.Batch) -> None:
        if batch.traces:
            self._begin(batch)
        super()._take(batch)

    def _begin(self, batch: pb.Batch) -> None:
        for record_id, parent in decode_traces(batch.traces).items():
            self._end(record_id, None)
            if len(self._spans) >= SPANS_MAX:
                return
            if batch.kind == pb.BATCH_KIND_WRITE:
                self._spans[record_id] = self._traces.write(parent)
                continue
            trace = self._spans[record_id] = self._traces.read(parent)
            if batch.kind == pb.BATCH_KIND_READ_LINEARIZABLE:
                trace.begin("raft read_index")

    def _submit(self, submissions: list[Submission]) -> None:
        if self._spans:
            submissions = [self._traced(submission) for submission in submissions]
        super()._submit(submissions)

    def _traced(self, submission: Submission) -> Submission:
        trace = self._spans.get(submission.record_id)
        return TracedSubmission.of(submission, trace) if isinstance(trace, WriteTrace) else submission

    def _serve(self, records: list[ReadRecord], confirmed: bool, *, linearizable: bool = True) -> None:
        if self._spans:
            for record in records:
                trace = self._spans.get(record.id)
                if trace is not None:
                    trace.finish()
        super()._serve(records, confirmed, linearizable=linearizable)

    def _answer(self, record: ReadRecord, found: StoredValue | Status | None) -> None:
        if isinstance(found, StoredValue):
            self._end(record.id, Status.OK)
        super()._answer(record, found)

    def _end(self, record_id: int, status: int | None) -> None:
        if self._spans:
            trace = self._spans.pop(record_id, None)
            if trace is not None:
                trace.end(status)
