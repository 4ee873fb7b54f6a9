"""The timeline in a real browser: zoom, filters, facts and export, over events that a fake answer tells."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from integration.browser.conftest import Served, Tab, served_over_fakes

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(240)]

Happened = tuple[float, str, dict[str, Any]]
OPEN: tuple[Happened, ...] = (
    (600, "became_leader", {}),
    (300, "vote_given", {"candidate": "shard-0-1"}),
    (200, "slow_disk", {"longer_than_ms": 100}),
)
"""What a node did: so many seconds ago, what, and details."""
BOX = "(each) => { const {x, y, width, height} = each.getBoundingClientRect(); return [x, y, width, height]; }"


def events(*happened: Happened) -> dict[str, Any]:
    """What the facade would tell of them, all of them at the first node."""
    now_us = time.time_ns() // 1000
    return {
        "shard": 0,
        "cursor": "0000000a-3",
        "whole": True,
        "unreachable": [],
        "cut": False,
        "events": [
            {
                "node": "shard-0-0",
                "start_id": "s",
                "sequence": number,
                "time_us": now_us - round(ago_s * 1e6),
                "at_us": now_us - round(ago_s * 1e6),
                "monotonic_us": number,
                "term": 3,
                "name": name,
                "details": details,
                "count": 1,
                "last_time_us": now_us - round(ago_s * 1e6),
            }
            for number, (ago_s, name, details) in enumerate(happened)
        ],
    }


@pytest.fixture
def shown(open_tab: Callable[..., Tab], unguarded: Served) -> Callable[..., Tab]:
    """Opens the timeline of one shard, with these events."""

    def show(*happened: Happened, cut: bool = False, **options: Any) -> Tab:
        told = events(*(happened or OPEN)) | {"cut": cut}
        tab = open_tab(unguarded, **options)

        def answer(route: Any) -> None:
            # What was told once is not told again.
            new = told if route.request.url.endswith("after=") else told | {"whole": False, "events": []}
            route.fulfill(json={"shards": [new]})

        tab.page.route("**/v1/console/events?*", answer)
        tab.show("#/timeline?shard=0")
        tab.page.wait_for_selector("tbody tr >> nth=0")
        return tab

    return show


def named(page: Any) -> list[str]:
    """The events of the table, the newest first."""
    return [text.split()[-1] for text in page.locator("tbody tr td:nth-child(4)").all_inner_texts()]


def test_the_buttons_zoom_and_move_the_time_that_is_shown(shown: Callable[..., Tab]) -> None:
    tab = shown()
    page = tab.page
    assert named(page) == ["slow_disk", "vote_given", "became_leader"]
    page.wait_for_selector("h2:has-text('3 events in 15 min')")
    # The middle half of the last quarter of an hour: from 11 min 15 s to 3 min 45 s ago.
    page.click("button[aria-label='Zoom in']")
    page.wait_for_selector("h2:has-text('2 events in 7 min 30 s')")
    assert named(page) == ["vote_given", "became_leader"]
    assert page.locator(".axis .mark").count() == 2
    page.click("button[aria-label='Later']")
    page.wait_for_selector("h2:has-text('2 events in 7 min 30 s')")
    assert named(page) == ["slow_disk", "vote_given"]
    page.click("button[aria-label='Earlier']")
    page.click("button[aria-label='Zoom out']")
    page.wait_for_selector("h2:has-text('3 events in 15 min')")
    page.click("button:text-is('Now')")
    page.wait_for_selector("button:text-is('Now'):disabled")
    page.select_option("label:has-text('Last') select", "60")
    page.wait_for_selector("h2:has-text('0 events in 1 min')")
    page.wait_for_selector("text=Nothing happened in this time.")
    assert tab.complaints == []


def test_the_wheel_zooms_around_the_pointer_if_a_key_is_held(shown: Callable[..., Tab]) -> None:
    page = shown().page
    page.hover(".axis .mark.election")
    page.mouse.wheel(0, -100)
    page.wait_for_selector("button:text-is('Now'):disabled")
    page.keyboard.down("Shift")
    for _ in range(6):
        page.mouse.wheel(0, -100)
    page.keyboard.up("Shift")
    page.wait_for_selector("h2:has-text('1 event in')")
    assert named(page) == ["vote_given"], "what the pointer is at stays in sight"


def test_a_wheel_that_is_said_to_turn_sideways_zooms_out_and_in(shown: Callable[..., Tab]) -> None:
    page = shown().page
    turn = """(each, deltaX) => each.dispatchEvent(
        new WheelEvent('wheel', {deltaX, shiftKey: true, clientX: 700, bubbles: true, cancelable: true}))"""
    page.wait_for_selector("h2:has-text('in 15 min')")
    page.eval_on_selector(".axis", turn, 100)
    page.wait_for_selector("h2:has-text('in 22 min 30 s')")
    page.eval_on_selector(".axis", turn, -100)
    page.wait_for_selector("h2:has-text('in 15 min')")


def test_kinds_and_words_leave_events_out_of_all_that_is_shown_and_exported(shown: Callable[..., Tab]) -> None:
    tab = shown()
    page = tab.page
    page.uncheck("label:has-text('Leaders') input")
    page.wait_for_selector("h2:has-text('2 events in')")
    assert named(page) == ["slow_disk", "vote_given"]
    assert page.locator(".axis .mark").count() == 2
    page.fill("label:has-text('Contains') input", "candidate=shard-0-1")
    page.wait_for_selector("h2:has-text('1 event in')")
    with page.expect_download() as told:
        page.click("button:text-is('Export as JSON')")
    exported = json.loads(Path(told.value.path()).read_text())
    assert told.value.suggested_filename == "shard-0-events.json"
    assert [event["name"] for event in exported["events"]] == ["vote_given"]
    assert exported["events"][0]["details"] == {"candidate": "shard-0-1"}
    page.fill("label:has-text('Contains') input", "")
    page.check("label:has-text('Leaders') input")
    page.wait_for_selector("h2:has-text('3 events in')")
    assert tab.complaints == []


def test_a_click_shows_the_facts_of_an_event(shown: Callable[..., Tab]) -> None:
    page = shown().page
    page.click(".axis .mark.election")
    page.wait_for_selector("h2:text-is('Facts')")
    facts = page.inner_text(".card:has(h2:text-is('Facts')) dl")
    assert "vote_given" in facts
    assert "shard-0-1" in facts
    page.click(".card:has(h2:text-is('Facts')) button:text-is('Close')")
    page.wait_for_selector("h2:text-is('Facts')", state="detached")
    page.click("tbody tr:has-text('slow_disk') button")
    page.wait_for_selector(".card:has(h2:text-is('Facts')) >> text=longer_than_ms")


def test_the_star_of_a_leader_is_not_below_the_votes_that_it_got(shown: Callable[..., Tab]) -> None:
    others: list[Happened] = [(20.0, name, {}) for name in ("follows", "vote_given", "slow_disk", "vote_refused")]
    page = shown((20, "became_leader", {}), *others).page
    page.wait_for_selector(".axis .mark >> nth=4")
    x, y, width, height = page.eval_on_selector(".axis .mark.leader", BOX)
    page.mouse.click(x + width / 2, y + height / 2)
    page.wait_for_selector(".card:has(h2:text-is('Facts')) >> text=became_leader")
    signs = page.locator(".axis .mark.leader text").all_text_contents()
    assert signs == ["\N{WHITE STAR}", "\N{BLACK STAR}"], "who follows is no leader"


def test_a_cluster_that_began_just_now_is_no_point_at_the_end_of_a_long_nothing(shown: Callable[..., Tab]) -> None:
    page = shown((20, "process_started", {}), (5, "became_leader", {})).page
    page.wait_for_selector("h2:has-text('2 events in 1 min')")


def test_that_older_events_are_left_out_is_told_where_they_would_be(shown: Callable[..., Tab]) -> None:
    page = shown(cut=True).page
    page.wait_for_selector("text=/There were more events before .*: the newest alone are told/")
    page.select_option("label:has-text('Last') select", "60")
    page.wait_for_selector("h2:has-text('0 events in 1 min')")
    assert page.locator("text=There were more events before").count() == 0
    page = shown().page
    page.wait_for_selector("h2:has-text('3 events in 15 min')")
    assert page.locator("text=There were more events before").count() == 0


@pytest.mark.parametrize("width", [360, 1280, 3840])
def test_the_axis_fits_the_screen_and_its_text_can_be_read(shown: Callable[..., Tab], width: int) -> None:
    page = shown(viewport={"width": width, "height": 900}).page
    page.wait_for_selector(".axis .mark >> nth=2")
    left, _, wide, _ = page.eval_on_selector(".axis", BOX)
    assert 0 <= left < left + wide <= width
    texts = page.locator(".axis text.time")
    assert texts.count() >= 2
    sizes = [each[3] for each in page.eval_on_selector_all(".axis text.time", f"(all) => all.map({BOX})")]
    body = page.evaluate("parseFloat(getComputedStyle(document.body).fontSize)")
    assert all(0.7 * body < size < 1.7 * body for size in sizes), (sizes, body)


@pytest.fixture(scope="module")
def eventful(chromium_path: str) -> Iterator[Served]:
    """A facade over fake nodes that tell of events: at one time, repeated, out of order, with large numbers."""
    with served_over_fakes("--events") as served:
        yield served


def of_dougctl(served: Served, *options: str) -> list[dict[str, Any]]:
    """The events that ``dougctl timeline`` shows."""
    command = [sys.executable, "-m", "dougdb", "--url", served.url, "timeline", "--since", "1h", "--json", *options]
    told = subprocess.run(command, check=True, capture_output=True, timeout=60).stdout
    shown: list[dict[str, Any]] = json.loads(told)["events"]
    return shown


def as_dougctl(event: dict[str, Any]) -> dict[str, Any]:
    """An event of the console's export as ``dougctl`` shows it, without numbers as text and places on an axis."""
    details = {
        name: int(value) if isinstance(value, str) and value.isdigit() else value
        for name, value in event["details"].items()
    }
    shown = {name: value for name, value in event.items() if name != "at_us"}
    return {"shard": int(event["node"].split("-")[1]), **shown, "details": details}


@pytest.mark.parametrize(("place", "options"), [("#/timeline", ()), ("#/timeline?shard=0", ("--shard", "0"))])
def test_each_event_is_what_dougctl_timeline_shows_and_in_the_same_order(
    open_tab: Callable[..., Tab], eventful: Served, place: str, options: tuple[str, ...]
) -> None:
    wanted = of_dougctl(eventful, *options)
    assert len(wanted) == (6 if options else 8)
    tab = open_tab(eventful)
    page = tab.show(place)
    page.select_option("label:has-text('Last') select", "3600")
    page.wait_for_selector(f"h2:has-text('{len(wanted)} events in 1 h')")
    with page.expect_download() as told:
        page.click("button:text-is('Export as JSON')")
    exported = json.loads(Path(told.value.path()).read_text())["events"]
    assert [as_dougctl(event) for event in exported] == wanted
    rows = [row.locator("td").all_inner_texts() for row in page.locator("tbody tr").all()]
    assert [(node, term, what.split()[1]) for _, node, term, what, _ in reversed(rows)] == [
        (event["node"], str(event["term"]), event["name"]) for event in wanted
    ]
    for (*_, facts), event in zip(reversed(rows), wanted, strict=True):
        assert all(f"{name}=" in facts for name in event["details"])
    assert page.locator(".axis .mark").count() == len(wanted)
    tab.check()


def test_the_facts_of_an_event_go_with_its_shard(open_tab: Callable[..., Tab], eventful: Served) -> None:
    page = open_tab(eventful).show("#/timeline?shard=0")
    page.click("tbody tr:has-text('slow_disk') button")
    page.wait_for_selector("h2:text-is('Facts')")
    page.select_option("label:has-text('Shard') select", "1")
    page.wait_for_selector("h2:has-text('Shard 1:')")
    page.wait_for_selector("h2:text-is('Facts')", state="detached")
