"""The console with 1,000 shards, which a fake API tells of, and 1,000,000 keys: its pages stay small."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from bench.cluster import Cluster
from integration.browser.conftest import Served, Tab
from integration.browser.looking import SETTLED_MS, look

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(240)]

SHARDS = 1000
NODES = 5
KEYS = 1_000_000
TOGETHER = 2000
NODES_MAX = 6000
"""So many nodes of DOM a view has at most; a list of everything would have hundreds of thousands."""


def node(shard: int, number: int) -> dict[str, Any]:
    name = f"shard-{shard}-{number}"
    down = shard % 100 == 7 and number == 4
    if down:
        return {"id": name, "address": "127.0.0.1:1", "admin": None, "role": "unreachable"}
    return {
        "id": name,
        "address": "127.0.0.1:1",
        "admin": None,
        "role": "follower" if number else "leader",
        "term": 3 + shard % 5,
        "commit": 1000 + shard,
        "applied": 1000 + shard,
        "last": 1000 + shard,
        "first": 1,
        "leader": f"shard-{shard}-0",
        "version": "0.1.0",
        "incarnation": "1",
        "voted_for": f"shard-{shard}-0",
        "uptime_ms": 60_000,
        "disks": [],
        "peers": [],
        "commit_rate": 12.5,
    }


def state() -> bytes:
    """What the facade would tell of them."""
    document = {
        "time_us": 1,
        "facade": {
            "id": "facade",
            "version": "0.1.0",
            "uptime_ms": 60_000,
            "ready": True,
            "missing": [],
            "consoles": 1,
        },
        "cluster_id": "c",
        "map": {"epoch": 1, "slots": [[slot, slot, slot] for slot in range(SHARDS)] + [[SHARDS, 1023, 0]]},
        "shards": [{"id": shard, "nodes": [node(shard, number) for number in range(NODES)]} for shard in range(SHARDS)],
    }
    return json.dumps(document).encode()


def page_of_keys(query: dict[str, list[str]]) -> bytes:
    """A page of a million keys, as the facade would tell it."""
    first, limit = int(query.get("cursor", ["0"])[0]), int(query["limit"][0])
    last = min(first + limit, KEYS)
    items = [
        {"key": f"many/{number:07}", "revision": "1", "content_type": "text/plain", "expires_at": None}
        for number in range(first, last)
    ]
    cursor = str(last) if last < KEYS else None
    return json.dumps({"items": items, "prefixes": [], "next_cursor": cursor, "complete": cursor is None}).encode()


@pytest.fixture
def large(open_tab: Callable[..., Tab], unguarded: Served) -> Callable[..., Tab]:
    told = b"event: state\ndata: " + state() + b"\n\n"

    def stream(route: Any) -> None:
        # It ends at once, and the console asks again a little later.
        route.fulfill(status=200, content_type="text/event-stream", body=told)

    def keys(route: Any) -> None:
        query = parse_qs(urlsplit(route.request.url).query)
        route.fulfill(status=200, content_type="application/json", body=page_of_keys(query))

    def open_one(**options: Any) -> Tab:
        tab = open_tab(unguarded, **options)
        tab.page.route("**/v1/console/stream", stream)
        tab.page.route("**/v1/kv?*", keys)
        return tab

    return open_one


def counted(number: int) -> str:
    """A number as the console shows it; a thin space counts as a space."""
    return f"{number:,}".replace(",", " ")


def size_of(page: Any) -> int:
    return int(page.evaluate("document.getElementsByTagName('*').length"))


def test_a_thousand_shards_are_listed_in_pages(large: Callable[..., Tab], pictures: Path) -> None:
    opened = large()
    page = opened.show("")
    page.wait_for_selector(f"text=1 to 60 of {counted(1000)}")
    look(page, pictures, "thousand-shards")
    assert size_of(page) < NODES_MAX
    page.click("button:text-is('Next')")
    page.wait_for_selector(f"text=61 to 120 of {counted(1000)}")
    assert page.locator("tbody tr").count() == 60
    page.fill("input[type=search]", "shard-77-")
    page.wait_for_selector(f"text=1 of {counted(SHARDS)} shards")
    page.fill("input[type=search]", "")
    page.check("label:has-text('in trouble') input")
    page.wait_for_selector(f"text=10 of {counted(SHARDS)} shards")
    page.wait_for_selector("text=4 of 5 nodes")
    assert size_of(page) < NODES_MAX
    for view in ("#/slots", "#/timeline", "#/graphs", "#/shard/777"):
        page = opened.show(view)
        page.wait_for_timeout(SETTLED_MS)
        assert size_of(page) < NODES_MAX, view
        look(page, pictures, f"thousand-shards-{re.sub('[^a-z0-9]+', '-', view).strip('-')}")
    assert opened.complaints == []


def test_a_million_keys_are_browsed_in_a_page_that_stays_small(large: Callable[..., Tab], pictures: Path) -> None:
    opened = large()
    page = opened.show("#/keys?prefix=many%2F")
    page.wait_for_selector("text=Load 200 more behind these 200")
    sizes = []
    for number in range(1, 6):
        page.click("text=Load 200 more")
        page.wait_for_selector(f"text=Load 200 more behind these {counted(200 * (number + 1))}")
        sizes.append(size_of(page))
    assert page.locator(".tree > li .leaf").count() == 600
    assert max(sizes) < NODES_MAX
    assert sizes[-1] <= sizes[1] + 50, "it grows no more"
    page.wait_for_selector("text=0001199")
    look(page, pictures, "million-keys")
    page.click(f"text=Show the 200 before these, of {counted(600)}")
    page.wait_for_selector(f"text=Show the 200 before these, of {counted(400)}")
    page.wait_for_selector("text=0000400")
    assert page.locator(".tree > li .leaf").count() == 600
    page.wait_for_selector(f"text=Load 200 more behind these {counted(1000)}")
    for left in range(200, -1, -200):
        page.click("text=Show the 200 before")
        if left:
            page.wait_for_selector(f"text=Show the 200 before these, of {counted(left)}")
    page.wait_for_selector(".tree >> text=0000000")
    assert page.locator("text=Show the 200 before").count() == 0
    assert opened.complaints == []


@pytest.fixture(scope="module")
def million(chromium_path: str, new_cluster: Callable[..., Cluster]) -> Cluster:
    """A cluster that has as many keys."""
    cluster = new_cluster(shards=2, nodes=1).start()
    for first in range(0, KEYS, TOGETHER):
        lines = b"\n".join(
            b'{"op":"put","key":"many/%07d","value":"v"}' % number for number in range(first, first + TOGETHER)
        )
        answer = cluster.request("POST", "/v1/batch", lines, {"content-type": "application/x-ndjson"})
        assert answer.status == 200
    return cluster


@pytest.mark.timeout(900)  # A million writes come first, on whatever machine.
def test_a_million_keys_of_a_cluster_are_browsed_found_and_counted(
    open_tab: Callable[..., Tab], million: Cluster, pictures: Path
) -> None:
    opened = open_tab(million)
    page = opened.show("#/keys")
    page.click(".tree >> text=many/")
    for shown in (200, 400, 600, 800):
        page.click(f"text=Load 200 more behind these {counted(shown)}")
    page.wait_for_selector(f"text=Load 200 more behind these {counted(1000)}")
    assert size_of(page) < NODES_MAX
    page.fill("input[type=search]", "many/05000")
    page.click("button:text-is('Find')")
    page.wait_for_selector(".tree .leaf .name:text-is('99')")
    assert page.locator(".tree > li .leaf").count() == 100
    page.click(".tree .leaf .name:text-is('42')")
    page.wait_for_selector(".key-name >> text=many/0500042")
    look(page, pictures, "million-keys-of-a-cluster")
    page.fill("input[type=search]", "many/")
    page.click("button:text-is('Find')")
    page.wait_for_selector("text=Load 200 more behind these 200")
    page.select_option("select[aria-label='Do with all of these']", "count")
    page.wait_for_selector(f"dialog >> text={counted(KEYS)} keys")
    opened.check()
