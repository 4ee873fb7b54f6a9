"""Spans through OpenTelemetry's SDK: parents and links, an end in time, and a refusal where it is not installed."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator, Sequence

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from doug_wire.trace_context import TraceContext
from doug_wire.tracing import Tracing, TracingUnavailableError, open_tracing

CALLER = TraceContext(0xA, 0xB, state="vendor=1")


class Rig:
    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracing = Tracing(provider, "test", "0")

    def ended(self) -> Sequence[ReadableSpan]:
        return self.exporter.get_finished_spans()


def test_the_first_parent_is_the_parent_and_the_others_are_links() -> None:
    rig = Rig()
    others = (TraceContext(0xC, 0xD), TraceContext(0xE, 0xF))
    span = rig.tracing.start("batch", "server", (CALLER, *others), {"items": 3}, remote=True)
    assert span.recording
    assert span.context.trace_id == CALLER.trace_id
    span.event("sent", {"node": "a"})
    span.end()
    (ended,) = rig.ended()
    assert ended.parent is not None
    assert (ended.parent.span_id, ended.parent.is_remote) == (0xB, True)
    assert [(link.context.trace_id, link.context.span_id) for link in ended.links] == [(0xC, 0xD), (0xE, 0xF)]
    assert ended.context is not None
    assert ended.context.trace_state.to_header() == "vendor=1"
    assert [event.name for event in ended.events] == ["sent"]
    assert dict(ended.attributes or {}) == {"items": 3}


def test_without_a_parent_a_trace_begins_whatever_else_is_current() -> None:
    rig = Rig()
    with rig.tracing._tracer.start_as_current_span("of a library"):
        rig.tracing.start("own", "internal").end()
    assert rig.ended()[0].parent is None


def test_a_caller_that_does_not_sample_is_obeyed() -> None:
    rig = Rig()
    span = rig.tracing.start("quiet", "server", (CALLER._replace(sampled=False),))
    span.end()
    assert not span.recording
    assert not rig.ended()


def test_a_failure_is_told_in_one_word() -> None:
    rig = Rig()
    span = rig.tracing.start("write", "client")
    span.fail("no_leader")
    span.end()
    (ended,) = rig.ended()
    assert (ended.status.is_ok, ended.status.description) == (False, "no_leader")
    assert dict(ended.attributes or {}) == {"error.type": "no_leader"}


class Hanging(SpanExporter):
    """A collector that takes a batch and never answers."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.released = threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.begun.set()
        self.released.wait(30)
        return SpanExportResult.FAILURE


@pytest.fixture
def hanging() -> Iterator[Hanging]:
    exporter = Hanging()
    yield exporter
    exporter.released.set()


@pytest.mark.seconds
def test_a_collector_that_hangs_holds_up_neither_spans_nor_the_stop(hanging: Hanging) -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    processor = BatchSpanProcessor(hanging, max_queue_size=16, max_export_batch_size=4, schedule_delay_millis=5)
    provider.add_span_processor(processor)
    tracing = Tracing(provider, "test", "0")
    tracing.start("first", "internal").end()
    assert hanging.begun.wait(60)
    for _ in range(1000):
        tracing.start("more", "internal").end()
    assert len(processor._batch_processor._queue) <= 16
    begun_s = time.monotonic()
    tracing.close(timeout_s=0.2)
    assert time.monotonic() - begun_s < 25, "the exporter hangs for 30 s"


def test_without_the_packages_it_is_refused_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(TracingUnavailableError, match=r"install facade\[tracing\]"):
        open_tracing("dougdb-facade", "f", "0", endpoint="", roots=True, attributes={})
