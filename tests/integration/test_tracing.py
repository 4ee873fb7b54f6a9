"""Traces over real processes: one trace from the caller over the facade and the leader to the followers' disks.

A collector of OTLP over HTTP runs in the test; what it gets is what any collector would get.
"""

from __future__ import annotations

import http.server
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import pytest
from bench.cluster import Cluster, wait_for
from bench.http11 import Response
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

pytestmark = [pytest.mark.integration, pytest.mark.slow]

CALLER = "b7ad6b7169203331"
EXPORT_EVERY_MS = 100
WAIT_S = 60.0
SECRETS = (b"secret-key", b"secret-value")


class Seen(NamedTuple):
    """A span as a collector gets it."""

    name: str
    service: str
    instance: str
    trace_id: str
    span_id: str
    parent: str
    attributes: Mapping[str, Any]
    links: tuple[str, ...]
    events: tuple[str, ...]
    failed: bool


class Collector:
    """Takes spans on a port of its own."""

    def __init__(self) -> None:
        self.spans: list[Seen] = []
        self.bodies: list[bytes] = []
        collector = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                collector.take(body)
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *arguments: object) -> None:
                """Says nothing."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def take(self, body: bytes) -> None:
        self.bodies.append(body)
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            of = {pair.key: pair.value.string_value for pair in resource.resource.attributes}
            for scope in resource.scope_spans:
                for span in scope.spans:
                    attributes = {
                        pair.key: getattr(pair.value, pair.value.WhichOneof("value") or "string_value")
                        for pair in span.attributes
                    }
                    self.spans.append(
                        Seen(
                            span.name,
                            of["service.name"],
                            of["service.instance.id"],
                            span.trace_id.hex(),
                            span.span_id.hex(),
                            span.parent_span_id.hex(),
                            attributes,
                            tuple(link.span_id.hex() for link in span.links),
                            tuple(event.name for event in span.events),
                            span.status.code == span.status.STATUS_CODE_ERROR,
                        )
                    )

    def of(self, trace_id: str) -> list[Seen]:
        return [span for span in list(self.spans) if span.trace_id == trace_id]

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.close()


@pytest.fixture(scope="module")
def cluster(new_cluster: Callable[..., Cluster], collector: Collector) -> Cluster:
    environment = {
        "DOUGDB_TRACING_ENABLED": "true",
        "DOUGDB_TRACING_SAMPLE_RATIO": "0",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_BSP_SCHEDULE_DELAY": str(EXPORT_EVERY_MS),
    }
    return new_cluster(shards=1, nodes=5, environment=environment).start()


def traced(cluster: Cluster, number: int, method: str, target: str, body: bytes = b"", flags: str = "01") -> Response:
    headers = {"traceparent": f"00-{trace_id_of(number)}-{CALLER}-{flags}"}
    return cluster.request(method, target, body, headers=headers)


def trace_id_of(number: int) -> str:
    return f"{number:032x}"


def only(spans: list[Seen], name: str) -> Seen:
    found = [span for span in spans if span.name == name]
    assert len(found) == 1, (name, spans)
    return found[0]


def test_a_write_is_one_trace_from_the_caller_to_the_disks_of_the_followers(
    cluster: Cluster, collector: Collector
) -> None:
    answer = traced(cluster, 1, "PUT", "/v1/kv/secret-key", b"secret-value")
    assert answer.status == 200
    assert answer.headers["doug-trace-id"] == trace_id_of(1)
    spans = wait_for(lambda: whole_write(collector.of(trace_id_of(1))), WAIT_S, "a whole trace")
    request, call = (
        only(spans, "PUT /v1/kv/{key}"),
        next(s for s in spans if s.service == "dougdb-facade" and s.parent != CALLER),
    )
    assert (request.parent, request.service, request.failed) == (CALLER, "dougdb-facade", False)
    assert request.attributes["http.response.status_code"] == 200
    assert request.attributes["dougdb.shard"] == 0
    assert (call.name, call.parent, call.events) == ("doug write", request.span_id, ("sent",))
    write = next(span for span in spans if span.name == "doug write" and span.service == "dougdb-raft-node")
    leader = write.instance
    assert write.parent == call.span_id
    assert write.events == ("proposed", "committed", "applied")
    assert write.attributes["dougdb.status"] == "OK"
    replicate = only(spans, "raft replicate")
    assert (replicate.parent, replicate.instance) == (write.span_id, leader)
    appends = [span for span in spans if span.name == "raft append"]
    assert {span.parent for span in appends} == {replicate.span_id}
    followers = {span.instance for span in appends}
    assert len(followers) == len(appends)
    assert leader not in followers
    parents = {span.instance: span.span_id for span in appends} | {leader: replicate.span_id}
    for sync in (span for span in spans if span.name == "wal append"):
        assert sync.parent == parents[sync.instance]
    for secret in SECRETS:
        assert not any(secret in body for body in collector.bodies), "a key or a value was exported"


def names(spans: list[Seen]) -> set[str]:
    return {span.name for span in spans}


def whole_write(spans: list[Seen]) -> list[Seen] | None:
    """The spans of a write, once every process has sent its own: each sends them when it likes."""
    facade = names([span for span in spans if span.service == "dougdb-facade"])
    leaders = {span.instance for span in spans if span.name == "raft replicate"}
    writers = {span.instance for span in spans if span.name == "doug write" and span.service == "dougdb-raft-node"}
    appends = {span.instance for span in spans if span.name == "raft append"}
    syncs = {span.instance for span in spans if span.name == "wal append"}
    sent = facade >= {"PUT /v1/kv/{key}", "doug write"} and leaders and leaders == writers
    return spans if sent and len(appends) >= 2 and syncs == appends | leaders else None


def test_reads_have_spans_with_the_round_that_confirms_them(cluster: Cluster, collector: Collector) -> None:
    traced(cluster, 2, "PUT", "/v1/kv/read", b"v")
    assert traced(cluster, 3, "GET", "/v1/kv/read").body == b"v"
    assert traced(cluster, 4, "GET", "/v1/kv/read?consistency=eventual").status in (200, 404)
    linearizable = wait_for(lambda: whole_read(collector.of(trace_id_of(3))), WAIT_S, "the trace of a read")
    reading = next(span for span in linearizable if span.name == "doug read" and span.service == "dougdb-raft-node")
    assert only(linearizable, "raft read_index").parent == reading.span_id
    eventual = wait_for(lambda: whole_read(collector.of(trace_id_of(4))), WAIT_S, "the trace of an eventual read")
    assert "raft read_index" not in names(eventual)
    assert only(eventual, "GET /v1/kv/{key}").attributes["dougdb.consistency"] == "eventual"


def whole_read(spans: list[Seen]) -> list[Seen] | None:
    """The same of a read."""
    read = {span.service for span in spans if span.name.startswith("doug read")}
    return spans if read == {"dougdb-facade", "dougdb-raft-node"} and "GET /v1/kv/{key}" in names(spans) else None


def test_what_the_caller_does_not_sample_is_not_traced(cluster: Cluster, collector: Collector) -> None:
    unsampled = traced(cluster, 5, "PUT", "/v1/kv/quiet", b"v", flags="00")
    malformed = cluster.request("PUT", "/v1/kv/quiet", b"v", headers={"traceparent": "00-xyz-1-01"})
    alone = cluster.request("PUT", "/v1/kv/quiet", b"v")
    for answer in (unsampled, malformed, alone):
        assert answer.status == 200
        assert "doug-trace-id" not in answer.headers
    before = {span.trace_id for span in list(collector.spans)}
    traced(cluster, 6, "GET", "/v1/kv/quiet")
    wait_for(lambda: whole_read(collector.of(trace_id_of(6))), WAIT_S, "the next trace")
    assert {span.trace_id for span in list(collector.spans)} - before <= {trace_id_of(number) for number in range(1, 7)}


def test_a_collector_that_is_away_holds_nothing_up(cluster: Cluster, collector: Collector) -> None:
    """The last test: what was traced is lost, requests are served, and the stop is not delayed by it."""
    collector.server.shutdown()
    collector.server.server_close()
    for number in range(100, 200):
        assert traced(cluster, number, "PUT", f"/v1/kv/away/{number}", b"v").status == 200
    assert cluster.stop() == 0
