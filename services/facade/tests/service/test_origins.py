"""Requests that web pages have sent: docs/api.md, Browsers."""

from __future__ import annotations

import itertools
import re
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from facade.app.hot import PLAIN_KNOWN

MakeFacade = Callable[..., Awaitable[Any]]

UNSAFE = [
    *(("PUT", "/v1/kv/k"), ("DELETE", "/v1/kv/k"), ("POST", "/v1/kv/k"), ("POST", "/v1/nothing")),
    *(("POST", "/v1/shards/0/leader"), ("POST", "/v1/shards/0/members"), ("DELETE", "/v1/shards/0/members/n")),
    *(("POST", "/v1/shards/0/members/n/replace"), ("PATCH", "/v1/cluster"), ("TRACE", "/livez")),
]
FOREIGN: list[dict[str, str]] = [
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site", "origin": "http://facade:99"},
    {"sec-fetch-site": "cross-site", "origin": "http://facade"},
    {"sec-fetch-site": "nonsense"},
    {"origin": "https://evil.example"},
    {"origin": "null"},
    {"origin": ""},
    {"origin": "http://facade:81"},
    {"origin": "http://facade.evil.example"},
    {"origin": "https://evil.example", "content-type": "application/json"},
]
OWN: list[dict[str, str]] = [
    {},
    {"sec-fetch-site": "same-origin", "origin": "http://facade"},
    {"sec-fetch-site": "none"},
    {"origin": "http://facade"},
    {"origin": "http://FACADE:80"},
    {"origin": "https://facade:443"},
]


def page(facade: Any) -> httpx.AsyncClient:
    """A client that says nothing of itself."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(facade.application), base_url="http://facade")


async def test_no_foreign_page_changes_anything(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=1)
    async with page(facade) as http:
        for method, target in UNSAFE:
            for headers in FOREIGN:
                answer = await http.request(method, target, headers=headers, content=b'{"name": "n", "address": "h:1"}')
                assert (answer.status_code, answer.json()["code"]) == (403, "cross_origin"), (method, target, headers)
                assert answer.json()["outcome"] == "not_applied"
                assert "access-control-allow-origin" not in answer.headers
        leader = facade.cluster.shards[0].nodes[0]
        assert (facade.cluster.shards[0].revision, leader.transfers, leader.member_calls) == (0, [], [])
        for headers in OWN:
            assert (await http.put("/v1/kv/k", headers=headers, content=b"v")).status_code == 200, headers
        for headers in FOREIGN:
            assert (await http.get("/v1/kv/k", headers=headers)).status_code == 200, "no page can read it"


RUN = (
    "script",
    "style",
    "worker",
    "sharedworker",
    "serviceworker",
    "audioworklet",
    "object",
    "embed",
    "iframe",
    "frame",
)
SHOWN = ("document", "empty", "image", "audio", "video", "font", "track")
USED = ["/v1/kv/k", "/v1/kv?key64=aw", "/v1/kv?prefix=", "/v1/console/state", "/v1/watch"]


@pytest.mark.parametrize("target", USED)
async def test_no_page_runs_or_embeds_what_is_stored(make_facade: MakeFacade, target: str) -> None:
    facade = await make_facade(nodes=1)
    async with page(facade) as http:
        for method, use in itertools.product(("GET", "HEAD"), (*RUN, "SCRIPT ")):
            own = {"sec-fetch-site": "same-origin", "sec-fetch-dest": use}
            answer = await http.request(method, target, headers=own)
            assert answer.status_code == 403, (method, use)
            assert method == "HEAD" or answer.json()["code"] == "not_for_pages"


async def test_pages_show_and_fetch_what_is_stored_and_run_the_consoles_files(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=1)
    async with page(facade) as http:
        await http.put("/v1/kv/k", content=b"v")
        for use in SHOWN:
            assert (await http.get("/v1/kv/k", headers={"sec-fetch-dest": use})).status_code == 200, use
        (script,) = re.findall(r'src="(/ui/[^"]+app.js)"', (await http.get("/ui/")).text)
        assert (await http.get(script, headers={"sec-fetch-dest": "script"})).status_code == 200


def test_the_short_way_leaves_what_browsers_say_of_themselves_to_the_long_one() -> None:
    """It would not look at it; and looking costs plain requests nothing."""
    assert not any(name.startswith(b"sec-") or name == b"origin" for name in PLAIN_KNOWN)


@pytest.mark.parametrize("target", ["/v1/shards/0/leader", "/v1/shards/0/members", "/v1/shards/0/members/n/replace"])
async def test_what_a_form_of_an_old_browser_could_send_needs_a_sign(make_facade: MakeFacade, target: str) -> None:
    facade = await make_facade(nodes=1)
    content = b'{"name": "n", "address": "h:1"}'
    async with page(facade) as http:
        for headers in ({}, {"content-type": "text/plain"}, {"content-type": "application/x-www-form-urlencoded"}):
            answer = await http.post(target, headers=headers, content=content)
            assert (answer.status_code, answer.json()["code"]) == (403, "cross_origin")
            assert "Content-Type: application/json" in answer.json()["detail"]
        for headers in ({"content-type": "Application/JSON; charset=utf-8"}, {"doug-client": "me"}):
            assert (await http.post(target, headers=headers, content=content)).status_code != 403


async def test_pages_of_named_origins_may_read_and_write(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=1, cors_origins=("https://app.example.com",))
    named = {"origin": "https://app.example.com", "sec-fetch-site": "cross-site"}
    async with page(facade) as http:
        asked = named | {"access-control-request-method": "PUT", "access-control-request-headers": "if-match"}
        answer = await http.options("/v1/kv/k", headers=asked)
        assert answer.status_code == 204
        assert answer.headers["access-control-allow-origin"] == "https://app.example.com"
        assert "PUT" in answer.headers["access-control-allow-methods"]
        assert answer.headers["access-control-allow-headers"] == "if-match"
        for target in ("/v1/kv/k", "/v1/kv/none", "/livez"):
            answer = await http.put("/v1/kv/k", headers=named, content=b"v")
            assert answer.status_code == 200
            answer = await http.get(target, headers=named)
            assert answer.headers["access-control-allow-origin"] == "https://app.example.com"
            assert "etag" in answer.headers["access-control-expose-headers"]
            assert "origin" in answer.headers["vary"]
        other = {"origin": "https://evil.example", "access-control-request-method": "PUT"}
        answer = await http.options("/v1/kv/k", headers=other)
        assert "access-control-allow-origin" not in answer.headers
        assert (await http.put("/v1/kv/k", headers=other, content=b"v")).status_code == 403


async def test_nothing_is_shared_by_default(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=1)
    asked = {"origin": "https://app.example.com", "access-control-request-method": "PUT"}
    async with page(facade) as http:
        answer = await http.options("/v1/kv/k", headers=asked)
        assert not [name for name in answer.headers if name.startswith("access-control")]


async def test_a_stored_page_has_no_rights(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=1)
    for content_type in ("text/html", "image/svg+xml"):
        await facade.http.put("/v1/kv/k", content=b"<script>1</script>", headers={"content-type": content_type})
        answer = await facade.http.get("/v1/kv/k")
        assert answer.headers["content-security-policy"] == "sandbox; default-src 'none'"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert answer.headers["content-disposition"] == "attachment"
