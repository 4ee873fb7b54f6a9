"""The spans of a node, where tracing is on: requests at the node that serves them, and appends on every replica.

Contexts travel beside batches and entries, never in the log, and the Raft core does not know of them: entries are found
again by index and term, which name one entry for ever. Must not know gRPC, tasks or disks. Never a key or a value.

The spans of a write: ``doug write`` from its arrival to its answer; in it ``raft replicate`` from its proposal to its
commit; in that ``wal append`` on the leader, and ``raft append`` with a ``wal append`` of its own on each follower.
What serves several sampled requests at once is a child of the first and has links to the others.

Invariants:
    1. Everything kept here is bounded, whatever peers and clients do; what is too old gives way.
    2. Nothing here fails because of what came over the network.

Source: docs/tracing.md.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence

from doug_wire.pipe import Status
from doug_wire.trace_context import TRACES_MAX, TraceContext, encode_traces
from doug_wire.tracing import Kind, Span, Tracing, TracingUnavailableError, Value, open_tracing
from raft_node import __version__
from raft_node.entry import Entry
from raft_node.errors import SettingsError
from raft_node.raft.messages import AppendEntries, AppendEntriesResponse
from raft_node.settings import NodeSettings

ENTRIES_MAX = 256
"""The number of entries whose contexts are kept, the newest ones."""

ENTRY_KEPT_S = 10.0
"""How long an entry's context is kept: a follower that gets it later is catching up, and no request waits for that."""

APPENDS_MAX = 64
"""The most appends of a follower that wait for their sync; a leader has fewer under way."""

PROPOSALS_MAX = 4096
"""The most sampled writes between proposal and answer; more are traced without the times of commit and apply."""

_GOOD = (Status.OK, Status.NOT_FOUND)


def load(settings: NodeSettings) -> NodeTraces | None:
    """Loads the library that makes spans; None while tracing is off.

    Raises:
        SettingsError: Tracing is on, and the packages that it needs are not installed.
    """
    if not settings.tracing_enabled:
        return None
    attributes: dict[str, Value] = {"dougdb.node": settings.node_id, "dougdb.shard": settings.shard_id}
    try:
        # A node begins no trace by itself: its caller decides.
        tracing = open_tracing(
            "dougdb-raft-node",
            settings.node_id,
            __version__,
            endpoint=settings.tracing_endpoint,
            roots=False,
            attributes=attributes,
        )
    except TracingUnavailableError as error:
        raise SettingsError(f"DOUGDB_TRACING_ENABLED: {error}") from error
    return NodeTraces(tracing)


class EntryTraces:
    """The contexts of entries that are on their way, by index and term."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        """``now_s`` is a clock that never goes back."""
        self._now_s = now_s
        # Ascending by index.
        self._contexts: OrderedDict[int, tuple[int, TraceContext, float]] = OrderedDict()

    def __len__(self) -> int:
        """How many contexts are kept."""
        return len(self._contexts)

    def note(self, index: int, term: int, context: TraceContext) -> None:
        """Keeps the context of an entry; drops those of entries that it and later ones have replaced."""
        contexts = self._contexts
        while contexts and next(reversed(contexts)) >= index:
            contexts.popitem()
        contexts[index] = (term, context, self._now_s())
        if len(contexts) > ENTRIES_MAX:
            contexts.popitem(last=False)

    def of(self, entries: Sequence[Entry]) -> list[tuple[int, TraceContext]]:
        """The contexts of entries that follow each other, by index, the newest ``TRACES_MAX`` of them."""
        if not self._contexts or not entries:
            return []
        first, last = entries[0].index, entries[-1].index
        oldest_s = self._now_s() - ENTRY_KEPT_S
        found: list[tuple[int, TraceContext]] = []
        for index in reversed(self._contexts):
            term, context, noted_s = self._contexts[index]
            if index < first or noted_s < oldest_s or len(found) == TRACES_MAX:
                break
            if index <= last and entries[index - first].term == term:
                found.append((index, context))
        return found[::-1]


class RequestTrace:
    """A request at the node that serves it.

    Attributes:
        ended: Whether the request was answered, or its answer is not waited for any more.
    """

    def __init__(self, tracing: Tracing, name: str, parent: TraceContext) -> None:
        """Begins the span of the request."""
        self._tracing = tracing
        self.span = tracing.start(name, "server", (parent,), remote=True)
        self.ended = False
        self._part: Span | None = None

    def begin(self, name: str, attributes: Mapping[str, Value] | None = None) -> Span:
        """Begins the span of a part of the request, which ends with ``finish`` or with the request."""
        self._part = self._tracing.start(name, "internal", (self.span.context,), attributes)
        return self._part

    def finish(self) -> None:
        """Ends the span of the part."""
        if self._part is not None:
            self._part.end()
            self._part = None

    def end(self, status: int | None, failure: str = "client_left") -> None:
        """Ends the span: the request was answered with a status, or not at all because of the failure."""
        if self.ended:
            return
        self.ended = True
        self.finish()
        if status is None:
            self.span.fail(failure)
        else:
            self.span.set("dougdb.status", Status(status).name)
            if status not in _GOOD:
                self.span.fail(Status(status).name)
        self.span.end()


class WriteTrace(RequestTrace):
    """A write, from its arrival to its answer.

    Attributes:
        place: The index and term of its entry, once it is proposed.
    """

    def __init__(self, traces: NodeTraces, parent: TraceContext) -> None:
        """Begins the span of the request."""
        super().__init__(traces.tracing, "doug write", parent)
        self._traces = traces
        self.place: tuple[int, int] | None = None

    def proposed(self, index: int, term: int) -> TraceContext:
        """Notes the entry of the write in this leader's log; returns the context for spans of its replication."""
        self.place = index, term
        attributes: dict[str, Value] = {"dougdb.index": index, "dougdb.term": term}
        self.span.event("proposed", attributes)
        return self.begin("raft replicate", attributes).context

    def end(self, status: int | None, failure: str = "client_left") -> None:
        """See ``RequestTrace``."""
        if self.place is not None:
            self._traces.forget(self)
        super().end(status, failure)


class NodeTraces:
    """All spans of one node.

    Attributes:
        tracing: The library that makes the spans.
        entries: The contexts of entries on their way.
    """

    def __init__(self, tracing: Tracing, now_s: Callable[[], float] = time.monotonic) -> None:
        """Starts without spans."""
        self.tracing = tracing
        self.entries = EntryTraces(now_s)
        self._proposals: dict[int, WriteTrace] = {}
        self._appends: deque[tuple[int, Span]] = deque()

    def close(self) -> None:
        """Sends the spans that wait; see ``Tracing.close``."""
        self.tracing.close()

    # Requests.

    def read(self, parent: TraceContext) -> RequestTrace:
        """Begins the span of a read."""
        return RequestTrace(self.tracing, "doug read", parent)

    def write(self, parent: TraceContext) -> WriteTrace:
        """Begins the span of a write."""
        return WriteTrace(self, parent)

    # Writes of this leader.

    def proposed(self, first_index: int, term: int, traces: Sequence[WriteTrace | None]) -> None:
        """Notes that writes were given the indexes from ``first_index`` on; writes that are not sampled are None."""
        for index, trace in enumerate(traces, first_index):
            if trace is not None and not trace.ended:
                self.entries.note(index, term, trace.proposed(index, term))
                if len(self._proposals) < PROPOSALS_MAX:
                    self._proposals[index] = trace

    def committed(self, entries: Sequence[Entry]) -> None:
        """Notes that entries are on a majority of the disks."""
        for trace in self._of(entries):
            trace.span.event("committed")
            trace.finish()

    def applied(self, entries: Sequence[Entry]) -> None:
        """Notes that entries are applied here."""
        for trace in self._of(entries):
            trace.span.event("applied")

    def _of(self, entries: Sequence[Entry]) -> list[WriteTrace]:
        if not self._proposals:
            return []
        first, last = entries[0].index, entries[-1].index
        found = [trace for index, trace in self._proposals.items() if first <= index <= last]
        return [trace for trace in found if trace.place and entries[trace.place[0] - first].term == trace.place[1]]

    def forget(self, trace: WriteTrace) -> None:
        """Forgets a write that was answered."""
        if trace.place is not None and self._proposals.get(trace.place[0]) is trace:
            del self._proposals[trace.place[0]]

    # Appends.

    def encoded(self, entries: Sequence[Entry]) -> bytes:
        """The encoded contexts that AppendEntries carries beside entries; mostly none."""
        found = self.entries.of(entries)
        return encode_traces(found) if found else b""

    def received(self, message: AppendEntries, contexts: Mapping[int, TraceContext]) -> None:
        """Begins the spans of a follower that got AppendEntries with sampled entries."""
        first = message.prev_log_index + 1
        known = [(index, contexts[index]) for index in sorted(contexts) if 0 <= index - first < len(message.entries)]
        if not known:
            return
        attributes: dict[str, Value] = {
            "dougdb.peer": message.sender.name,
            "dougdb.term": message.term,
            "dougdb.first_index": first,
            "dougdb.entries": len(message.entries),
        }
        span = self._start("raft append", "server", known, attributes, remote=True)
        for index, _ in known:
            self.entries.note(index, message.entries[index - first].term, span.context)
        while self._appends and self._appends[-1][0] >= first:
            # These entries were never acknowledged, and now come again, or others in their place.
            _, stale = self._appends.pop()
            stale.fail("superseded")
            stale.end()
        if len(self._appends) == APPENDS_MAX:
            self._appends.popleft()[1].end()
        self._appends.append((message.prev_log_index + len(message.entries), span))

    def acknowledged(self, message: AppendEntriesResponse) -> None:
        """Ends spans of AppendEntries that a follower answers; on success, all to ``match_index`` is on its disk."""
        while self._appends and (not message.success or self._appends[0][0] <= message.match_index):
            _, span = self._appends.popleft()
            if not message.success:
                span.fail("refused")
            span.end()

    def log_write(self, entries: Sequence[Entry]) -> Span | None:
        """Begins the span of a write to this node's log; the caller ends it once the entries are durable."""
        found = self.entries.of(entries)
        if not found:
            return None
        return self._start("wal append", "internal", found, {"dougdb.entries": len(entries)})

    def _start(
        self,
        name: str,
        kind: Kind,
        found: Sequence[tuple[int, TraceContext]],
        attributes: Mapping[str, Value],
        *,
        remote: bool = False,
    ) -> Span:
        # Entries that came together have one context on a follower; nothing has it as its parent twice.
        parents = list(dict.fromkeys(context for _, context in found))
        return self.tracing.start(name, kind, parents, attributes, remote=remote)
