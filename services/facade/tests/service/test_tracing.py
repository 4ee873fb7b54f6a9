"""Requests as spans: whose trace they belong to, what they say, and what they never do."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import httpx
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased

from doug.v1 import doug_pb2
from doug_wire.pipe import Status
from doug_wire.trace_context import TraceContext, decode_traces
from doug_wire.tracing import Tracing
from facade.app.tracing import TracedApplication
from facade.client.tracing import OperationTracing

pytestmark = pytest.mark.seconds

MakeFacade = Callable[..., Awaitable[Any]]

TRACE, CALLER = 0xABC, 0xDEF
SAMPLED = {"traceparent": f"00-{TRACE:032x}-{CALLER:016x}-01"}
UNSAMPLED = {"traceparent": f"00-{TRACE:032x}-{CALLER:016x}-00"}


class Traced:
    """A facade whose spans the test reads."""

    def __init__(self, facade: Any, exporter: InMemorySpanExporter, tracing: Tracing, ratio: float) -> None:
        self.facade = facade
        self.exporter = exporter
        self.tracing = tracing
        self.drawn = 0.5
        self.http = httpx.AsyncClient(
            transport=httpx.ASGITransport(TracedApplication(facade.application, tracing, ratio, self.draw)),
            base_url="http://facade",
            timeout=30.0,
        )

    def draw(self) -> float:
        return self.drawn

    @property
    def spans(self) -> Sequence[ReadableSpan]:
        return self.exporter.get_finished_spans()

    def span(self, name: str) -> ReadableSpan:
        (found,) = [span for span in self.spans if span.name == name]
        return found


async def traced(make_facade: MakeFacade, ratio: float = 0.0, **settings: Any) -> Traced:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(ParentBased(ALWAYS_ON), shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing = Tracing(provider, "test", "0")
    facade = await make_facade(tracing=OperationTracing(tracing), **settings)
    return Traced(facade, exporter, tracing, ratio)


def said(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


async def test_a_request_belongs_to_its_callers_trace_and_its_operation_to_the_request(make_facade: MakeFacade) -> None:
    rig = await traced(make_facade)
    answer = await rig.http.put("/v1/kv/secret-key?consistency=linearizable", content=b"secret-value", headers=SAMPLED)
    assert answer.status_code == 200
    assert answer.headers["doug-trace-id"] == f"{TRACE:032x}"
    request, call = rig.span("PUT /v1/kv/{key}"), rig.span("doug write")
    assert request.context is not None and request.parent is not None and call.parent is not None
    assert (request.context.trace_id, request.parent.span_id) == (TRACE, CALLER)
    assert call.parent.span_id == request.context.span_id
    assert said(request) == {
        "http.request.method": "PUT",
        "http.response.status_code": 200,
        "http.route": "/v1/kv/{key}",
        "url.scheme": "http",
        "dougdb.shard": 0,
        "dougdb.node": "shard-0-0",
        "dougdb.consistency": "linearizable",
    }
    assert said(call)["dougdb.tries"] == 0
    assert not any("secret" in span.to_json() for span in rig.spans)


async def test_the_node_is_told_the_span_of_the_operation_and_of_no_other(make_facade: MakeFacade) -> None:
    rig = await traced(make_facade)
    quiet = [rig.http.put(f"/v1/kv/{number}", content=b"v") for number in range(5)]
    await asyncio.gather(*quiet, rig.http.put("/v1/kv/told", content=b"v", headers=SAMPLED))
    told = [
        context for blob in rig.facade.cluster.shards[0].nodes[0].traces for context in decode_traces(blob).values()
    ]
    context = rig.span("doug write").context
    assert context is not None
    assert told == [TraceContext(context.trace_id, context.span_id)]


@pytest.mark.parametrize(
    "headers",
    [
        UNSAMPLED,
        {},
        {"traceparent": "nonsense"},
        {"traceparent": SAMPLED["traceparent"] + "-extra"},
        [("traceparent", SAMPLED["traceparent"]), ("traceparent", SAMPLED["traceparent"])],
        {"tracestate": "a=b"},
    ],
)
async def test_what_is_not_sampled_or_cannot_be_read_leaves_no_trace(make_facade: MakeFacade, headers: Any) -> None:
    rig = await traced(make_facade)
    answer = await rig.http.put("/v1/kv/k", content=b"v", headers=headers)
    assert (answer.status_code, "doug-trace-id" in answer.headers) == (200, False)
    assert not rig.spans
    assert rig.facade.cluster.shards[0].nodes[0].traces == [b""]


async def test_without_a_caller_the_ratio_decides_but_not_for_probes(make_facade: MakeFacade) -> None:
    rig = await traced(make_facade, ratio=0.25)
    rig.drawn = 0.25
    await rig.http.get("/v1/kv/k")
    assert not rig.spans
    rig.drawn = 0.24
    await rig.http.get("/v1/kv/k")
    await rig.http.get("/readyz")
    await rig.http.get("/metrics")
    assert {span.name for span in rig.spans} == {"GET /v1/kv/{key}", "doug read"}
    await rig.http.get("/readyz", headers=SAMPLED)
    assert rig.span("GET /readyz")
    await rig.http.get("/v1/kv/k", headers=UNSAMPLED)
    assert len([span for span in rig.spans if span.name == "doug read"]) == 1, "the caller's decision goes first"


async def test_the_state_of_the_callers_vendors_stays_with_the_spans(make_facade: MakeFacade) -> None:
    rig = await traced(make_facade)
    await rig.http.get("/v1/kv/k", headers=[*SAMPLED.items(), ("tracestate", "a=1"), ("tracestate", "b=2")])
    context = rig.span("GET /v1/kv/{key}").context
    assert context is not None
    assert context.trace_state.to_header() == "a=1,b=2"
    await rig.http.get("/v1/version", headers=[*SAMPLED.items(), ("tracestate", "\x00 not a state")])
    assert rig.span("GET /v1/version")


async def test_tries_are_told_with_their_reasons(make_facade: MakeFacade) -> None:
    rig = await traced(make_facade)
    rig.facade.cluster.shards[0].nodes[0].script.extend([Status.OVERLOADED, Status.NOT_APPLIED])
    assert (await rig.http.put("/v1/kv/k", content=b"v", headers=SAMPLED)).status_code == 200
    call = rig.span("doug write")
    assert [event.name for event in call.events] == ["sent", "sent back", "sent", "sent back", "sent"]
    reasons = [(event.attributes or {}).get("dougdb.reason") for event in call.events]
    assert reasons == [None, "overloaded", None, "superseded", None]
    assert said(call)["dougdb.tries"] == 2


async def test_a_problem_is_told_with_its_code_and_outcome(make_facade: MakeFacade) -> None:
    rig = await traced(make_facade, request_timeout_ms=60_000)
    rig.facade.cluster.shards[0].nodes[0].script.append(Status.UNKNOWN)
    assert (await rig.http.put("/v1/kv/k", content=b"v", headers=SAMPLED)).status_code == 504
    request, call = rig.span("PUT /v1/kv/{key}"), rig.span("doug write")
    told = said(request)
    assert (told["dougdb.code"], told["dougdb.outcome"]) == ("outcome_unknown", "unknown")
    assert not request.status.is_ok and not call.status.is_ok
    assert said(call)["error.type"] == "outcome_unknown"


async def test_a_request_that_is_wrong_is_not_a_failure_of_ours(make_facade: MakeFacade) -> None:
    rig = await traced(make_facade)
    assert (await rig.http.get("/v1/kv/missing", headers=SAMPLED)).status_code == 404
    assert (await rig.http.get("/v1/nowhere/secret-key", headers=SAMPLED)).status_code == 404
    missing, unmatched = rig.span("GET /v1/kv/{key}"), rig.span("GET unmatched")
    for span, code in ((missing, "not_found"), (unmatched, "unknown_route")):
        assert span.status.is_unset
        assert said(span)["dougdb.code"] == code
    assert not any("secret" in span.to_json() for span in rig.spans)


async def test_without_tracing_a_batch_is_not_a_byte_longer(make_facade: MakeFacade) -> None:
    facade = await make_facade(server_timing_enabled=False)
    node = facade.cluster.shards[0].nodes[0]
    await facade.http.put("/v1/kv/k", content=b"v", headers=SAMPLED)
    (batch,) = node.raw
    bare = doug_pb2.Batch(batch_id=batch.batch_id, kind=batch.kind, shard=batch.shard, records=batch.records)
    assert batch.SerializeToString() == bare.SerializeToString()


async def test_where_the_sdk_is_disabled_requests_are_served_as_ever(
    make_facade: MakeFacade, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    rig = await traced(make_facade, ratio=1.0)
    for headers in ({}, SAMPLED):
        answer = await rig.http.put("/v1/kv/k", content=b"v", headers=headers)
        assert (answer.status_code, "doug-trace-id" in answer.headers) == (200, False)
    assert not rig.spans
    assert rig.facade.cluster.shards[0].nodes[0].traces == [b"", b""]


async def test_an_answer_that_is_cut_off_is_still_a_span(make_facade: MakeFacade) -> None:
    rig = await traced(make_facade)

    async def cut_off(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-type", b"application/problem+json")]
        await send({"type": "http.response.start", "status": 503, "headers": headers})
        await send({"type": "http.response.body", "body": b'{"code":', "more_body": True})

    application: Any = cut_off
    scope = {
        "type": "http",
        "method": "GET",
        "scheme": "http",
        "raw_path": b"/v1/kv/k",
        "headers": [(b"traceparent", SAMPLED["traceparent"].encode())],
    }
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError("nothing is read")

    await TracedApplication(application, rig.tracing, 0.0)(scope, receive, send)
    assert len(sent) == 2
    assert said(rig.span("GET /v1/kv/{key}"))["error.type"] == "problem"
