"""Spans of the sampled records of one Pipe stream. Without tracing, ``raft_node.rpc.doug.records`` has none.

Invariant: a record's span ends with its answer, or with the stream.
"""

from __future__ import annotations

from doug.v1 import doug_pb2 as pb
from doug_wire.pipe import ReadRecord
from doug_wire.trace_context import decode_traces
from raft_node.observability.tracing import NodeTraces, RequestTrace, WriteTrace
from raft_node.runtime.writes.proposals import Submission

SPANS_MAX = 4096
"""The most sampled records of one stream without an answer that have a span; further ones have none."""


class TracedSubmission(Submission):
    """A write that is sampled."""

    _trace: WriteTrace

    @classmethod
    def of(cls, submission: Submission, trace: WriteTrace) -> TracedSubmission:
        """The same write, with its trace."""
        made = cls(*submission)
        made._trace = trace
        return made

    @property
    def trace(self) -> WriteTrace:
        """See ``Submission``."""
        return self._trace


class RecordSpans:
    """Makes spans of the sampled records of one stream, as its ``RecordObserver``."""

    def __init__(self, traces: NodeTraces) -> None:
        """Begins without spans."""
        self._traces = traces
        self._spans: dict[int, RequestTrace] = {}

    def arrived(self, batch: pb.Batch) -> None:
        """Begins the spans of those records of a batch that are sampled."""
        if not batch.traces:
            return
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

    def submitted(self, submissions: list[Submission]) -> list[Submission]:
        """Gives sampled writes their spans on the way."""
        return [self._traced(submission) for submission in submissions] if self._spans else submissions

    def _traced(self, submission: Submission) -> Submission:
        trace = self._spans.get(submission.record_id)
        return TracedSubmission.of(submission, trace) if isinstance(trace, WriteTrace) else submission

    def confirmed(self, records: list[ReadRecord]) -> None:
        """Ends the part of the spans in which a quorum was asked."""
        for record in records if self._spans else ():
            trace = self._spans.get(record.id)
            if trace is not None:
                trace.finish()

    def answered(self, record_id: int, status: int) -> None:
        """Ends the span of a record."""
        self._end(record_id, status)

    def ended(self) -> None:
        """Ends all spans, without an outcome."""
        spans, self._spans = self._spans, {}
        for trace in spans.values():
            trace.end(None)

    def _end(self, record_id: int, status: int | None) -> None:
        if self._spans:
            trace = self._spans.pop(record_id, None)
            if trace is not None:
                trace.end(status)
