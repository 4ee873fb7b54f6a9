"""The watch on EndpointSlices, against a small API server that speaks the real protocol over HTTP, faults included."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiohttp import web
from free_ports import free_port
from kubernetes.aio import client as api
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from facade.discovery.kubernetes import KubernetesDiscovery
from facade.discovery.metrics import DiscoveryMetrics
from facade.discovery.static import StaticDiscovery
from facade.discovery.targets import Target, Targets

pytestmark = pytest.mark.seconds

PATH = "/apis/discovery.k8s.io/v1/namespaces/ns/endpointslices"
SELECTOR = "app.kubernetes.io/instance=rel,dougdb.io/shard"


class FakeApi:
    """An API server with one kind of object. Its faults are attributes that a test sets."""

    def __init__(self) -> None:
        self.port = free_port()
        self.objects: dict[str, dict[str, Any]] = {}
        self.log: list[tuple[int, str, dict[str, Any]]] = []
        self.version = 100
        self.oldest = 100
        """Versions before this one are forgotten."""
        self.status: dict[str, int] = {}
        """What ``list`` and ``watch`` are answered with instead."""
        self.mute = False
        """Takes requests and never answers, as behind a half-open connection."""
        self.garbage = b""
        """What a watch says before it ends."""
        self.requests: list[tuple[str, str]] = []
        """The verb and the version of each request."""
        self.watches: set[web.StreamResponse] = set()
        self._changed = asyncio.Condition()
        self._runner: web.AppRunner | None = None
        self._ended = 0

    async def start(self) -> None:
        application = web.Application()
        application.router.add_get(PATH, self._serve)
        self._runner = web.AppRunner(application, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()

    async def stop(self) -> None:
        await self.end_watches()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def put(self, name: str, *pods: tuple[str, str], shard: int = 0) -> None:
        """Creates or changes a slice; each pod is a name and an address."""
        kind = "MODIFIED" if name in self.objects else "ADDED"
        self.version += 1
        labels = {"dougdb.io/shard": str(shard), "kubernetes.io/service-name": f"s{shard}"}
        item = self.objects[name] = {
            "metadata": {"name": name, "namespace": "ns", "labels": labels, "resourceVersion": str(self.version)},
            "addressType": "IPv4",
            "ports": [{"name": "client", "port": 21000, "protocol": "TCP"}],
            "endpoints": [
                {"addresses": [ip], "targetRef": {"kind": "Pod", "name": pod}, "hostname": pod} for pod, ip in pods
            ],
        }
        await self._tell(kind, item)

    async def delete(self, name: str) -> None:
        self.version += 1
        item = self.objects.pop(name)
        item["metadata"]["resourceVersion"] = str(self.version)
        await self._tell("DELETED", item)

    async def bookmark(self) -> None:
        """Tells every watch the newest version, of something that none of them watches."""
        self.version += 50
        await self._tell("BOOKMARK", {"metadata": {"resourceVersion": str(self.version)}})

    async def forget(self) -> None:
        """Forgets all versions but the newest, as etcd's compaction does."""
        self.version += 1
        self.oldest = self.version
        self.log.clear()

    async def end_watches(self) -> None:
        """Ends every watch in order, as after its time."""
        async with self._changed:
            self._ended += 1
            self._changed.notify_all()

    def cut(self) -> None:
        """Breaks every open connection."""
        for response in self.watches:
            request = response._req
            assert request is not None
            assert request.transport is not None
            request.transport.abort()

    async def _tell(self, kind: str, item: dict[str, Any]) -> None:
        async with self._changed:
            self.log.append((self.version, kind, json.loads(json.dumps(item))))
            self._changed.notify_all()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        assert request.query["labelSelector"] == SELECTOR
        verb = "watch" if request.query.get("watch") in ("true", "True") else "list"
        self.requests.append((verb, request.query.get("resourceVersion", "")))
        while self.mute:
            await asyncio.sleep(0.01)
        if verb in self.status:
            return web.json_response({"kind": "Status", "code": self.status[verb]}, status=self.status[verb])
        if verb == "list":
            metadata = {"resourceVersion": str(self.version)}
            return web.json_response({"metadata": metadata, "items": list(self.objects.values())})
        assert request.query["allowWatchBookmarks"] in ("true", "True")
        return await self._watch(request)

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        self.watches.add(response)
        try:
            with contextlib.suppress(TimeoutError, ConnectionError):
                async with asyncio.timeout(float(request.query["timeoutSeconds"])):
                    await self._feed(response, int(request.query["resourceVersion"]))
        finally:
            self.watches.discard(response)
        return response

    async def _feed(self, response: web.StreamResponse, seen: int) -> None:
        ended = self._ended
        if self.garbage:
            await response.write(self.garbage)
            return
        while True:
            if seen < self.oldest:
                gone = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}
                await response.write(json.dumps({"type": "ERROR", "object": gone}).encode() + b"\n")
                return
            for version, kind, item in [entry for entry in self.log if entry[0] > seen]:
                await response.write(json.dumps({"type": kind, "object": item}).encode() + b"\n")
                seen = version
            async with self._changed:
                if self._ended != ended:
                    return
                if not any(entry[0] > seen for entry in self.log):
                    await self._changed.wait()


class Watching:
    """A watch on a fake API server, and all that it published."""

    def __init__(self, server: FakeApi, **options: Any) -> None:
        self.server = server
        self.registry = CollectorRegistry()
        configuration = api.Configuration(host=f"http://127.0.0.1:{server.port}")
        options = {"watch_s": 30, "backoff_s": (0.02, 0.2), **options}
        self.discovery = KubernetesDiscovery(
            configuration, "ns", SELECTOR, "client", DiscoveryMetrics(self.registry), **options
        )
        self.published: list[Targets] = []
        self.known: dict[int, dict[str, str]] = {}
        self.task = asyncio.create_task(self.discovery.run(self._publish))

    def _publish(self, targets: Targets) -> None:
        self.published.append(targets)
        for shard, nodes in targets.items():
            assert nodes, "no shard is ever published without nodes"
            self.known[shard] = {node: target.address for node, target in nodes.items()}

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        try:
            async with asyncio.timeout(60):
                while not condition():
                    assert not self.task.done(), self.task
                    await asyncio.sleep(0.005)
        except TimeoutError:
            pytest.fail(f"{what}; known: {self.known}, requests: {self.server.requests[-5:]}")

    async def until_known(self, expected: dict[int, dict[str, str]]) -> None:
        await self.until(lambda: self.known == expected, f"expected {expected}")

    def figure(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(f"dougdb_discovery_{name}", labels) or 0.0


@pytest.fixture
async def server() -> AsyncIterator[FakeApi]:
    server = FakeApi()
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def watching(server: FakeApi) -> AsyncIterator[Watching]:
    await server.put("a", ("s0-0", "10.0.0.1"), ("s0-1", "10.0.0.2"))
    await server.put("b", ("s0-2", "10.0.0.3"))
    await server.put("c", ("s1-0", "10.0.1.1"), shard=1)
    watch = Watching(server)
    await watch.until_known(FIRST)
    await watch.until(lambda: bool(server.watches), "it watches")
    yield watch
    await _end(watch)


async def _end(watch: Watching) -> None:
    watch.task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watch.task


FIRST = {
    0: {"s0-0": "10.0.0.1:21000", "s0-1": "10.0.0.2:21000", "s0-2": "10.0.0.3:21000"},
    1: {"s1-0": "10.0.1.1:21000"},
}


async def test_lists_once_and_then_watches(watching: Watching) -> None:
    server = watching.server
    assert watching.published[0][0]["s0-0"] == Target("10.0.0.1:21000", "s0-0.s0.ns.svc")
    await server.put("a", ("s0-0", "10.0.0.9"), ("s0-1", "10.0.0.2"))
    await watching.until_known({**FIRST, 0: {**FIRST[0], "s0-0": "10.0.0.9:21000"}})
    await server.put("d", ("s2-0", "10.0.2.1"), shard=2)
    await watching.until(lambda: 2 in watching.known, "a new shard is found")
    await server.delete("b")
    await watching.until(lambda: "s0-2" not in watching.known[0], "what was deleted is gone")
    assert [verb for verb, _ in server.requests] == ["list", "watch"]
    assert watching.figure("events_total", source="kubernetes", type="changed") == 1
    assert watching.figure("events_total", source="kubernetes", type="removed") == 1
    assert watching.figure("relists_total", reason="start") == 1
    assert watching.figure("last_success_timestamp_seconds", source="kubernetes") > 0


async def test_a_watch_that_ends_or_breaks_is_taken_up_from_the_last_version(watching: Watching) -> None:
    server = watching.server
    await server.bookmark()
    newest = str(server.version)
    await server.end_watches()
    await watching.until(lambda: server.requests[-1] == ("watch", newest), "it goes on from the bookmark")
    await watching.until(lambda: bool(server.watches), "it watches again")
    server.cut()
    await watching.until(lambda: len(server.requests) == 4, "it asks again after a broken connection")
    assert server.requests[-1] == ("watch", newest)
    await server.put("b", ("s0-2", "10.0.0.8"))
    await watching.until(lambda: watching.known[0]["s0-2"] == "10.0.0.8:21000", "it hears of changes again")
    assert [verb for verb, _ in server.requests].count("list") == 1


async def test_an_expired_version_leads_to_a_new_list_that_is_compared(watching: Watching) -> None:
    server = watching.server
    server.status["watch"] = 500
    server.cut()
    await watching.until(lambda: len(server.requests) >= 4, "it asks again")
    # Missed by the watch, and never told again: a deletion, a change, and an addition.
    await server.delete("b")
    await server.put("a", ("s0-0", "10.0.0.9"))
    await server.put("d", ("s2-0", "10.0.2.1"), shard=2)
    await server.forget()
    server.status.clear()
    await watching.until_known({0: {"s0-0": "10.0.0.9:21000"}, 1: FIRST[1], 2: {"s2-0": "10.0.2.1:21000"}})
    assert watching.figure("relists_total", reason="expired") == 1
    await watching.until(lambda: server.requests[-1] == ("watch", str(server.version)), "it watches from the new list")


async def test_an_expired_version_may_be_said_by_status_too(watching: Watching) -> None:
    watching.server.status["watch"] = 410
    watching.server.cut()
    await watching.until(lambda: watching.figure("relists_total", reason="expired") >= 2, "it lists, again and again")
    watching.server.status.clear()
    await watching.until(lambda: bool(watching.server.watches), "it recovers")
    assert watching.known == FIRST


async def test_what_was_known_stays_while_the_server_is_away(watching: Watching) -> None:
    server = watching.server
    with capture_logs() as logs:
        await server.stop()
        await watching.until(
            lambda: watching.figure("failures_total", source="kubernetes", reason="unavailable") >= 3, "it tries"
        )
        assert watching.known == FIRST
        await server.start()
        await server.put("b", ("s0-2", "10.0.0.8"))
        await watching.until(lambda: watching.known[0]["s0-2"] == "10.0.0.8:21000", "it goes on afterwards")
    assert [entry["event"] for entry in logs] == ["discovery.failing", "discovery.recovered"], "each told once"


async def test_an_empty_answer_removes_nothing(watching: Watching) -> None:
    server = watching.server
    for name in ("a", "b", "c"):
        await server.delete(name)
    await watching.until(lambda: watching.figure("events_total", source="kubernetes", type="removed") == 4, "it heard")
    await server.forget()
    await server.end_watches()
    await watching.until(lambda: watching.figure("relists_total", reason="expired") == 1, "it listed nothing at all")
    assert watching.known == {0: {"s0-2": "10.0.0.3:21000"}, 1: FIRST[1]}


async def test_a_missing_permission_is_told_once_by_verb_and_the_rest_goes_on(server: FakeApi) -> None:
    await server.put("a", ("s0-0", "10.0.0.1"))
    server.status["list"] = 403
    instead = StaticDiscovery({0: {"s0-0": Target("s0-0.static:21000")}})
    with capture_logs() as logs:
        watch = Watching(server, instead=instead)
        await watch.until_known({0: {"s0-0": "s0-0.static:21000"}})
        await watch.until(lambda: len(server.requests) >= 4, "it tries again")
        server.status = {"watch": 403}
        await watch.until_known({0: {"s0-0": "10.0.0.1:21000"}})
        await watch.until(lambda: len(server.requests) >= 8, "it tries again")
        server.status.clear()
        await watch.until(lambda: bool(server.watches), "it watches once it may")
        await server.bookmark()
        await watch.until(lambda: logs[-1]["event"] == "discovery.recovered", "it says so")
    await _end(watch)
    refused = [entry for entry in logs if entry["event"] == "discovery.forbidden"]
    assert [(entry["verb"], entry["log_level"]) for entry in refused] == [("list", "error"), ("watch", "error")]
    assert refused[0]["resource"] == "endpointslices.discovery.k8s.io"
    assert refused[0]["namespace"] == "ns"


async def test_a_half_open_connection_is_given_up(server: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facade.discovery.kubernetes.READ_MARGIN_S", 0.2)
    await server.put("a", ("s0-0", "10.0.0.1"))
    watch = Watching(server, watch_s=1)
    await watch.until_known({0: {"s0-0": "10.0.0.1:21000"}})
    server.mute = True
    await server.end_watches()
    await watch.until(
        lambda: watch.figure("failures_total", source="kubernetes", reason="unavailable") >= 1, "given up"
    )
    server.mute = False
    await server.put("a", ("s0-0", "10.0.0.2"))
    await watch.until_known({0: {"s0-0": "10.0.0.2:21000"}})
    await _end(watch)


async def test_a_slice_may_be_long(watching: Watching) -> None:
    server = watching.server
    await server.put("b", *((f"s0-{number}", "10.0.0.7") for number in range(2, 3000)))
    await watching.until(lambda: len(watching.known[0]) == 3000, "all of its nodes are known")
    assert [verb for verb, _ in server.requests] == ["list", "watch"]


NONSENSE = (
    b"?\n", b"[]\n", b'{"type": "ADDED"}\n', b'{"type": "ADDED", "object": {}}\n', b'{"type": "A', b"x" * (3 << 20),
)  # fmt: skip


@pytest.mark.parametrize("garbage", NONSENSE)
async def test_nonsense_changes_nothing(watching: Watching, garbage: bytes) -> None:
    server = watching.server
    server.garbage = garbage
    server.cut()
    await watching.until(
        lambda: watching.figure("failures_total", source="kubernetes", reason="unavailable") >= 2, "it noticed"
    )
    assert watching.known == FIRST
    server.garbage = b""
    await server.put("b", ("s0-2", "10.0.0.8"))
    await watching.until(lambda: watching.known[0]["s0-2"] == "10.0.0.8:21000", "it goes on afterwards")


async def test_nobody_is_asked_instead_while_the_server_answers(server: FakeApi) -> None:
    await server.put("a", ("s0-0", "10.0.0.1"))
    watch = Watching(server, instead=StaticDiscovery({0: {"s0-0": Target("s0-0.static:21000")}}))
    await watch.until_known({0: {"s0-0": "10.0.0.1:21000"}})
    await watch.until(lambda: bool(server.watches), "it watches")
    assert len(watch.published) == 1
    await _end(watch)
