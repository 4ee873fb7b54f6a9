"""The spans of operations: what of a sampled request's time is spent between the facade and the nodes.

Only where tracing is on; the hot path asks whether an operation has a trace, and mostly it has none. Must not know
HTTP: the span of a request is begun by ``facade.app.tracing`` and found here as the current one. Never a key or value.

Invariant: an operation's span ends when its future is resolved, whoever does that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextvars import ContextVar
from functools import partial

from doug_wire import pipe
from doug_wire.trace_context import TraceContext, encode_traces
from doug_wire.tracing import Span, Tracing
from facade.client.modes import Kind
from facade.client.operation import Operation, OperationTrace
from facade.errors import ProblemError

current_request: ContextVar[Span | None] = ContextVar("current_request", default=None)
"""The span of the request that this task serves; None if it is not sampled."""

NAMES = {
    Kind.WRITE: "doug write",
    Kind.READ_LINEARIZABLE: "doug read",
    Kind.READ_LOCAL: "doug read local",
    Kind.READ_FRESH: "doug read fresh",
}
CALL = {"rpc.system.name": "grpc", "rpc.method": "doug.v1.Doug/Pipe"}


class SpanTrace:
    """The span of one operation; see ``OperationTrace``."""

    __slots__ = ("_span", "context")

    def __init__(self, span: Span) -> None:
        self._span = span
        self.context: TraceContext = span.context

    def sent(self, node: str, items: int) -> None:
        """See ``OperationTrace``."""
        self._span.event("sent", {"dougdb.node": node, "dougdb.batch_items": items})

    def sent_back(self, reason: str) -> None:
        """See ``OperationTrace``."""
        self._span.event("sent back", {"dougdb.reason": reason})

    def finish(self, operation: Operation, future: asyncio.Future[pipe.ResultRecord]) -> None:
        """Ends the span with the operation's outcome."""
        span = self._span
        span.set("dougdb.shard", operation.shard)
        span.set("dougdb.tries", operation.tries)
        if future.cancelled():
            span.fail("cancelled")
        else:
            error = future.exception()
            if isinstance(error, ProblemError):
                span.fail(error.code)
        span.end()


class OperationTracing:
    """Begins the spans of operations."""

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing

    def begin(self, operation: Operation) -> OperationTrace | None:
        """The trace of a new operation if its request is sampled, else None."""
        request = current_request.get()
        if request is None:
            return None
        span = self._tracing.start(NAMES[operation.kind], "client", (request.context,), CALL)
        trace = SpanTrace(span)
        operation.future.add_done_callback(partial(trace.finish, operation))
        return trace


def contexts_for(traced: Sequence[Operation], node: str, items: int) -> bytes:
    """Notes on the traces that operations go to a node in one batch; encodes their contexts for the node."""
    found = []
    for operation in traced:
        trace = operation.trace
        assert trace is not None
        trace.sent(node, items)
        found.append((operation.id, trace.context))
    return encode_traces(found)
