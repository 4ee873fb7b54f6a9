"""HEAD wherever GET is, OPTIONS of every path, and Accept where an answer has one form: as RFC 9110 says."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from facade.app.rules import RULES

MakeFacade = Callable[..., Awaitable[Any]]
GETS = [rule.route for rule in RULES if "GET" in rule.methods]
QUERY = {"/v1/ops/{key}": "?for=k", "/v1/auth/can-i": "?verb=metrics", "/v1/kv": "?prefix=k"}
VARYING = {"date", "doug-request-id", "server-timing", "content-length", "transfer-encoding", "doug-session"}
ENDLESS = ("/v1/watch", "/v1/console/stream")


def filled(route: str) -> str:
    """A path of a route."""
    path = re.sub(r"\{(\w+)\}", lambda name: {"shard": "0", "what": "state"}.get(name[1], "k"), route)
    return path + QUERY.get(route, "")


async def test_head_has_the_status_and_headers_of_get_and_no_body(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=1)
    await facade.use_sockets()
    await facade.http.put("/v1/kv/k", content=b"v")
    for route in GETS:
        head = await facade.http.head(filled(route))
        assert (head.content, head.headers.get("doug-request-id") is not None) == (b"", True), route
        # The connection has nothing left of the answer: the next one is read from its beginning.
        assert (await facade.http.get("/livez")).json() == {"status": "ok"}
        if route in ENDLESS:
            assert head.status_code == 200, route
            continue
        get = await facade.http.get(filled(route))
        assert get.status_code == head.status_code, route
        shown = [{name: value for name, value in each.headers.items() if name not in VARYING} for each in (get, head)]
        assert shown[0] == shown[1], route


async def test_head_of_a_stream_ends_and_gives_its_place_back(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=1, watches_max=1, scans_max=1)
    await facade.use_sockets()
    lines = {"accept": "application/x-ndjson"}
    for number in range(20):
        await facade.http.put(f"/v1/kv/k{number}", content=b"v" * 1000)
    for path in ("/v1/watch?from=start", "/v1/watch", "/v1/kv?prefix=k", "/v1/kv", "/v1/console/stream"):
        for _ in range(5):
            answer = await facade.http.head(path, headers=lines)
            assert (answer.status_code, answer.content) == (200, b""), path
    assert (await facade.http.get("/v1/kv", headers=lines)).text.count("\n") == 21
    assert (await facade.http.head("/v1/watch?from=never")).status_code == 400


async def test_options_tell_the_methods_of_a_path(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=1)
    for path, allow in (
        ("/v1/limits", "GET, HEAD, OPTIONS"),
        ("/v1/kv/k", "DELETE, GET, HEAD, OPTIONS, PUT"),
        ("/v1/kv/k:touch", "DELETE, GET, HEAD, OPTIONS, POST, PUT"),
        ("/v1/kv", "DELETE, GET, HEAD, OPTIONS"),
        ("/v1/kv?key64=YQ", "DELETE, GET, HEAD, OPTIONS, PUT"),
        ("/v1/kv:touch?key64=YQ", "DELETE, GET, HEAD, OPTIONS, POST, PUT"),
        ("/v1/batch", "OPTIONS, POST"),
        ("/v1/shards/0/members", "GET, HEAD, OPTIONS, POST"),
    ):
        answer = await facade.http.request("OPTIONS", path)
        assert (answer.status_code, answer.headers["allow"], answer.content) == (204, allow, b""), path
    assert (await facade.http.request("OPTIONS", "/nothing")).status_code == 404
    assert not facade.cluster.shards[0].data


async def test_options_of_the_whole_server(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=1)
    reader, writer = await asyncio.open_connection("127.0.0.1", await facade.listen())
    writer.write(b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    head, _, body = (await reader.read()).lower().partition(b"\r\n\r\n")
    writer.close()
    assert head.startswith(b"http/1.1 204 ")
    assert b"\r\nallow: delete, get, head, options, post, put" in head
    assert body == b""


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/limits"), ("GET", "/v1/cluster"), ("HEAD", "/v1/partitions"), ("GET", "/v1/version"),
        ("GET", "/v1/shards/0/events"), ("GET", "/v1/shards/0/members"), ("POST", "/v1/shards/0/leader"),
        ("GET", "/v1/ops/k?for=k"), ("GET", "/v1/kv?prefix=k"), ("DELETE", "/v1/kv?prefix=k"), ("GET", "/v1/watch"),
        ("POST", "/v1/watch:progress"),
    ],
)  # fmt: skip
async def test_a_client_that_does_not_take_the_answer_is_refused_before_anything_is_done(
    make_facade: MakeFacade, method: str, path: str
) -> None:
    facade = await make_facade(nodes=1)
    await facade.http.put("/v1/kv/k", content=b"v")
    answer = await facade.http.request(method, path, headers={"accept": "text/html, image/*;q=0.5"})
    assert answer.status_code == 406, answer.text
    assert method == "HEAD" or answer.json()["code"] == "not_acceptable"
    assert facade.cluster.shards[0].data.keys() == {b"k"}


async def test_probes_and_values_are_answered_whatever_the_client_takes(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=1)
    await facade.http.put("/v1/kv/k", content=b"v")
    for path in ("/livez", "/readyz", "/metrics", "/v1/kv/k", "/docs"):
        assert (await facade.http.get(path, headers={"accept": "image/png"})).status_code == 200, path


@pytest.mark.parametrize(
    ("accept", "lines"),
    [
        ("application/x-ndjson", True), ("application/x-ndjson, application/json;q=0.5", True),
        ("application/json, application/x-ndjson", False), ("application/json;q=0.5, application/x-ndjson", True),
        ("application/x-ndjson;q=0.5, application/json", False), ("*/*, application/x-ndjson;q=0", False),
        ("application/x-ndjson;q=0.1, */*", True), ("*/*", False), ("", False),
    ],
)  # fmt: skip
async def test_of_two_forms_the_preferred_one_is_sent(make_facade: MakeFacade, accept: str, lines: bool) -> None:
    facade = await make_facade(nodes=1)
    answer = await facade.http.get("/v1/kv?prefix=k", headers={"accept": accept})
    assert answer.headers["content-type"] == ("application/x-ndjson" if lines else "application/json")
