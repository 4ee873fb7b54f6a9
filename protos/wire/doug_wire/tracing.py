"""Traces, where they are turned on: OpenTelemetry's SDK behind the few calls that the services need.

Nothing of OpenTelemetry is imported before ``open_tracing``; the packages are the extra ``tracing``. No global provider
is set, so that no library begins to trace by itself. Must not know what is traced.

Invariants:
    1. Spans wait in a bounded queue for a thread that exports them. When the collector is away or slow, spans are
       dropped; nobody who is traced ever waits.
    2. ``close`` returns within its time, whatever the collector does.

Source: OpenTelemetry specification, Trace SDK; docs/tracing.md.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from doug_wire.trace_context import TraceContext

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span as OtelSpan
    from opentelemetry.trace import SpanContext

Kind = Literal["internal", "server", "client"]
Value = str | bool | int | float

CLOSE_TIMEOUT_S = 2.0
"""How long a stop waits for the last spans to be taken."""


class TracingUnavailableError(Exception):
    """Tracing is turned on, and the packages that it needs are not installed."""


class Span:
    """The span of an action that takes time. Calls after its end are ignored.

    Attributes:
        context: The context by which other spans refer to it.
        recording: Whether the span is kept at all.
    """

    __slots__ = ("_span", "context", "recording")

    def __init__(self, span: OtelSpan) -> None:
        self._span = span
        self.recording = span.is_recording()
        context = span.get_span_context()
        self.context = TraceContext(context.trace_id, context.span_id, context.trace_flags.sampled)

    def set(self, name: str, value: Value) -> None:
        """Gives the span an attribute."""
        self._span.set_attribute(name, value)

    def rename(self, name: str) -> None:
        """Gives the span another name, one of few."""
        self._span.update_name(name)

    def event(self, name: str, attributes: Mapping[str, Value] | None = None) -> None:
        """Notes an event that happens now."""
        self._span.add_event(name, attributes)

    def fail(self, what: str) -> None:
        """Marks the span as failed; ``what`` is one of few words."""
        from opentelemetry.trace import StatusCode  # noqa: PLC0415  # Whoever made the span has imported it.

        self._span.set_attribute("error.type", what)
        self._span.set_status(StatusCode.ERROR, what)

    def end(self) -> None:
        """Ends the span."""
        self._span.end()


class Tracing:
    """Makes spans."""

    def __init__(self, provider: TracerProvider, scope: str, version: str) -> None:
        """Makes spans of a provider, whose processors send them; ``scope`` and ``version`` name their maker."""
        from opentelemetry import context, trace  # noqa: PLC0415  # See the module's text.

        self._trace = trace
        # Never the current context: a library that traces by itself must not become a parent.
        self._root = context.Context()
        self._provider = provider
        self._tracer = provider.get_tracer(scope, version)
        self._kinds = {
            "internal": trace.SpanKind.INTERNAL,
            "server": trace.SpanKind.SERVER,
            "client": trace.SpanKind.CLIENT,
        }

    def start(
        self,
        name: str,
        kind: Kind,
        parents: Sequence[TraceContext] = (),
        attributes: Mapping[str, Value] | None = None,
        *,
        remote: bool = False,
    ) -> Span:
        """Begins a span now.

        Args:
            name: The name of the span, one of few.
            kind: The side of a call that it is.
            parents: The spans for which it is done: the first is its parent, and it has links to the others.
            attributes: The attributes that are known already.
            remote: Whether the parents are of another process.
        """
        context: Context = self._root
        links = []
        if parents:
            parent = self._trace.NonRecordingSpan(self._context(parents[0], remote))
            context = self._trace.set_span_in_context(parent, self._root)
            links = [self._trace.Link(self._context(other, remote)) for other in parents[1:]]
        return Span(self._tracer.start_span(name, context, self._kinds[kind], attributes, links))

    def _context(self, context: TraceContext, remote: bool) -> SpanContext:
        api = self._trace
        flags = api.TraceFlags(api.TraceFlags.SAMPLED if context.sampled else api.TraceFlags.DEFAULT)
        state = api.TraceState.from_header([context.state]) if context.state else None
        made: SpanContext = api.SpanContext(context.trace_id, context.span_id, remote, flags, state)
        return made

    def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Sends the spans that wait, and gives up after a time. Blocking."""
        # On a thread: the SDK's own limit is half a minute, and an export under way cannot be interrupted.
        closing = threading.Thread(target=self._provider.shutdown, name="tracing-close", daemon=True)
        closing.start()
        closing.join(timeout_s)


def open_tracing(
    service: str, instance: str, version: str, *, endpoint: str, roots: bool, attributes: Mapping[str, Value]
) -> Tracing:
    """Sets tracing up for this process: sampled spans go to a collector by OTLP over HTTP.

    Whoever calls with a trace decides whether it is sampled. The queue is the SDK's: 2048 spans, sent in batches of 512
    at most, every 5 s; ``OTEL_BSP_*`` and ``OTEL_EXPORTER_OTLP_*`` have their standard meaning.

    Args:
        service: ``service.name``.
        instance: ``service.instance.id``.
        version: ``service.version``.
        endpoint: The collector's URL for traces; when empty, ``OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`` or
            ``OTEL_EXPORTER_OTLP_ENDPOINT`` or else port 4318 of this machine.
        roots: Whether spans without a parent are sampled, since their maker has decided that; else none is.
        attributes: Further attributes of every span that say where it comes from.

    Raises:
        TracingUnavailableError: The packages are not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
        from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased  # noqa: PLC0415
    except ImportError as error:
        extra = f"{service.removeprefix('dougdb-')}[tracing]"
        raise TracingUnavailableError(f"tracing needs packages that are missing ({error}): install {extra}") from error
    # Its repetitions are not logged; its giving up is.
    logging.getLogger("opentelemetry.exporter").setLevel(logging.ERROR)
    resource = Resource.create(
        {
            "service.namespace": "dougdb",
            "service.name": service,
            "service.instance.id": instance,
            "service.version": version,
            **attributes,
        }
    )
    # ``close`` shuts it down; it must not be shut down a second time when the interpreter ends.
    provider = TracerProvider(ParentBased(ALWAYS_ON if roots else ALWAYS_OFF), resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint or None)))
    return Tracing(provider, "dougdb", version)
