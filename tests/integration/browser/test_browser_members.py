"""What the buttons for members ask the facade to do, and not before that is confirmed; over fake nodes and answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pytest
from integration.browser.conftest import Served, Tab

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(240)]

MEMBERS = {
    "members": [
        {
            "name": name,
            "incarnation": "9007199254740993",
            "role": "voter",
            "leader": name == "shard-0-0",
            "address": "127.0.0.1:1",
            "client_address": None,
            "match_index": 7,
            "lag": 0,
            "state": "replicate",
            "healthy": True,
        }
        for name in ("shard-0-0", "shard-0-1")
    ],
    "changing": False,
}


@pytest.fixture
def asked(open_tab: Callable[..., Tab], unguarded: Served) -> tuple[Tab, list[tuple[str, str, Any]]]:
    """A shard's page, and what it asked to have done."""
    wishes: list[tuple[str, str, Any]] = []

    def answer(route: Any) -> None:
        body = json.loads(route.request.post_data) if route.request.post_data else None
        place = urlsplit(route.request.url)
        wishes.append((route.request.method, f"{place.path}?{place.query}".rstrip("?"), body))
        route.fulfill(json={"leader": "shard-0-1", "term": 4})

    tab = open_tab(unguarded)
    tab.page.route("**/v1/console/members?*", lambda route: route.fulfill(json=MEMBERS))
    tab.page.route("**/v1/shards/0/**", answer)
    tab.show("#/shard/0")
    return tab, wishes


def test_a_member_is_removed_once_its_name_was_typed(asked: tuple[Tab, list[tuple[str, str, Any]]]) -> None:
    tab, wishes = asked
    page = tab.page
    page.click("tr:has-text('shard-0-1') button:has-text('Remove')")
    page.wait_for_selector("dialog button:text-is('Remove'):disabled")
    page.fill("dialog input:not([type])", "shard-0-0")
    page.wait_for_selector("dialog button:text-is('Remove'):disabled")
    page.keyboard.press("Enter")
    assert wishes == []
    page.check("dialog input[type=checkbox]")
    page.fill("dialog input:not([type])", "shard-0-1")
    page.click("dialog button:text-is('Remove')")
    page.wait_for_selector("dialog", state="detached")
    assert wishes == [("DELETE", "/v1/shards/0/members/shard-0-1?force=true", None)]
    assert tab.complaints == []


def test_members_are_added_replaced_and_made_leaders(asked: tuple[Tab, list[tuple[str, str, Any]]]) -> None:
    tab, wishes = asked
    page = tab.page
    page.click("button:text-is('Add a member')")
    page.fill("dialog label:has-text('Name') input", "shard-0-9")
    page.fill("dialog label:has-text('Raft address') input", "127.0.0.1:9")
    page.fill("dialog label:has-text('Incarnation') input", "9007199254740995")
    page.click("dialog button:text-is('Add')")
    page.wait_for_selector("dialog", state="detached")
    page.click("tr:has-text('shard-0-1') button:has-text('Replace')")
    page.fill("dialog label:has-text('to confirm') input", "shard-0-1")
    page.click("dialog button:text-is('Replace')")
    page.wait_for_selector("dialog", state="detached")
    page.click("tr:has-text('shard-0-1') button:has-text('Make leader')")
    page.click("dialog button:text-is('Move leadership')")
    page.wait_for_selector("dialog", state="detached")
    added = {"name": "shard-0-9", "address": "127.0.0.1:9", "incarnation": "9007199254740995"}
    assert wishes == [
        ("POST", "/v1/shards/0/members", added),
        ("POST", "/v1/shards/0/members/shard-0-1/replace", {}),
        ("POST", "/v1/shards/0/leader", {"to": "shard-0-1"}),
    ]
    assert tab.complaints == []


def test_a_backup_is_downloaded_once_that_is_confirmed(asked: tuple[Tab, list[tuple[str, str, Any]]]) -> None:
    tab, _ = asked
    page = tab.page
    page.route("**/v1/shards/0/backup", lambda route: route.fulfill(body=b"tar", content_type="application/x-tar"))
    backups: list[str] = []
    page.on("request", lambda request: backups.append(request.url) if request.url.endswith("/backup") else None)
    page.click("button:text-is('Download a backup')")
    page.wait_for_selector("dialog code >> text=dougctl backup create")
    assert backups == []
    with page.expect_download() as downloaded:
        page.click("dialog :text-is('Download')")
    assert downloaded.value.suggested_filename == "shard-0.tar"
    assert tab.complaints == []
