"""What fits: drawings, tables, values and forms on every screen, so that nothing that matters is cut off or hidden."""

from __future__ import annotations

import itertools
import json
import time
from collections import Counter
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from bench.cluster import wait_for
from integration.browser.conftest import Served, Tab
from integration.browser.looking import SIZES
from integration.browser.test_browser_large import node, state
from integration.browser.test_browser_members import MEMBERS
from integration.browser.test_browser_told import MODULE

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(240)]

BOXES = "(all) => all.map((each) => each.getBoundingClientRect()).map((box) => [box.x, box.right, box.y, box.bottom])"
COLOURED = """() => {
    const charts = [...document.querySelectorAll('.chart')];
    const canvas = charts.find((each) => each.textContent.startsWith('From proposing')).querySelector('canvas');
    const {data} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
    let found = 0;
    for (let at = 0; at < data.length; at += 4) if (data[at + 3] > 128 && data[at + 2] > data[at] + 100) found++;
    return found;
}"""
"""How many pixels of a graph have the colour of its first line."""


VOTED = {"leader": "shard-0-0", "candidate": "shard-0-0", "pre-candidate": ""}
"""Whom all have voted for, by what the first node is."""


LINKS_SEEN = """() => {
    const boxes = [...document.querySelectorAll('.ring .node rect')].map((each) => each.getBoundingClientRect());
    const inside = (x, y) => boxes.some((box) => x > box.x && x < box.right && y > box.y && y < box.bottom);
    return [...document.querySelectorAll('.ring .link')].map((link) => {
        const scale = link.getScreenCTM();
        const value = (name) => link[name].baseVal.value;
        const between = (axis, share) => value(`${axis}1`) * (1 - share) + value(`${axis}2`) * share;
        const at = (share) => new DOMPoint(between('x', share), between('y', share)).matrixTransform(scale);
        const [from, to] = [at(0), at(1)];
        const seen = [...Array(200).keys()].map((step) => at(step / 200)).filter(({x, y}) => !inside(x, y)).length;
        return (seen / 200) * Math.hypot(to.x - from.x, to.y - from.y);
    });
}"""
"""How many pixels of each link between nodes are not behind a node."""


AT_THE_EDGE = """() => {
    const canvas = document.querySelector('.chart canvas');
    const {data} = canvas.getContext('2d').getImageData(canvas.width - 2, 0, 2, canvas.height);
    return data.filter((value, at) => at % 4 === 3 && value > 100).length;
}"""
"""How many pixels are drawn where a graph ends on the right."""


HISTORY_STEP_S = 5
DATA = {"log_bytes": 1 << 20, "table_bytes": 2 << 20, "disks": [{"name": "log", "free_bytes": 25, "total_bytes": 100}]}
ENTRY: dict[str, Any] = {"revision": "1", "content_type": "text/plain", "expires_at": None}


@pytest.fixture
def five(open_tab: Callable[..., Tab], unguarded: Served) -> Callable[..., Tab]:
    """Opens tabs in which a shard has five nodes, with these roles."""

    def open_one(*roles: str, **options: Any) -> Tab:
        tab = open_tab(unguarded, **options)

        def stream(route: Any) -> None:
            told = json.loads(state())
            nodes = [
                {**node(0, number), **DATA, "role": role, "term": 7, "voted_for": VOTED[roles[0]]}
                for number, role in enumerate(roles)
            ]
            told["shards"] = [{"id": 0, "nodes": nodes}]
            body = f"event: state\ndata: {json.dumps(told)}\n\n"
            route.fulfill(status=200, content_type="text/event-stream", body=body)

        tab.page.route("**/v1/console/stream", stream)
        tab.page.route("**/v1/console/members?*", lambda route: route.fulfill(json=MEMBERS))
        return tab

    return open_one


def overlap(one: list[float], other: list[float]) -> bool:
    """Whether two boxes have a point in common."""
    return one[0] < other[1] and other[0] < one[1] and one[2] < other[3] and other[2] < one[3]


@pytest.mark.parametrize("nodes", [2, 3, 4, 5, 7])
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_the_nodes_around_a_leader_fit_every_screen(
    five: Callable[..., Tab], width: int, height: int, nodes: int
) -> None:
    roles = ["leader", *["follower"] * (nodes - 2), "unreachable"]
    tab = five(*roles, viewport={"width": width, "height": height})
    page = tab.show("#/shard/0")
    page.wait_for_selector(f".ring .node >> nth={nodes - 1}")
    body = page.evaluate("parseFloat(getComputedStyle(document.body).fontSize)")
    boxes = page.eval_on_selector_all(".ring .node rect", BOXES)
    assert len(boxes) == nodes
    assert all(0 <= left < right <= width for left, right, *_ in boxes), boxes
    assert [pair for pair in itertools.combinations(boxes, 2) if overlap(*pair)] == []
    texts = page.eval_on_selector_all(".ring .node text", BOXES)
    assert all(0.75 * body < bottom - top < 1.6 * body for _, _, top, bottom in texts), (texts, body)
    inside = zip(texts, [box for box in boxes for _ in range(3)], strict=True)
    assert all(box[0] <= text[0] and text[1] <= box[1] for text, box in inside), "no text is wider than its box"
    assert min(page.evaluate(LINKS_SEEN)) > 0.3 * (boxes[0][3] - boxes[0][2]), "what flows on each link is seen"
    assert tab.complaints == []


def test_a_shard_of_one_node_has_no_empty_space_for_five(five: Callable[..., Tab]) -> None:
    page = five("leader").show("#/shard/0")
    page.wait_for_selector(".ring .node")
    assert page.locator(".ring .node").count() == 1
    assert page.eval_on_selector(".ring", "(each) => each.getBoundingClientRect().height") < 150


@pytest.mark.parametrize("width", [360, 1280])
def test_votes_are_drawn_and_a_vote_before_the_vote_is_no_election(five: Callable[..., Tab], width: int) -> None:
    for role, told in (("candidate", "election in term 7"), ("pre-candidate", "pre-votes for term 8")):
        tab = five(role, *["follower"] * 4, viewport={"width": width, "height": 740})
        page = tab.show("#/shard/0")
        page.wait_for_selector(f".ring >> text={told}")
        (words,) = page.eval_on_selector_all(".ring .middle", BOXES)
        boxes = page.eval_on_selector_all(".ring .node rect", BOXES)
        assert not any(overlap(words, box) for box in boxes), "it covers no node"
        assert page.locator(".ring .vote").count() == (4 if role == "candidate" else 0)


def test_whose_row_it_is_stays_in_sight_beside_the_buttons_at_its_end(five: Callable[..., Tab]) -> None:
    page = five("leader", "follower", viewport={"width": 360, "height": 740}).show("#/shard/0")
    page.locator("tr:has-text('shard-0-1') button:has-text('Remove')").scroll_into_view_if_needed()
    page.wait_for_function("document.querySelector('[aria-label=Members]').scrollLeft > 100")
    (row,) = page.eval_on_selector_all("[aria-label=Members] tbody tr:nth-child(2) th", BOXES)
    assert 0 <= row[0] < row[1] < 360


def test_a_line_of_hex_is_a_line_on_a_narrow_screen(open_tab: Callable[..., Tab], unguarded: Served) -> None:
    tab = open_tab(unguarded, viewport={"width": 360, "height": 740})
    tab.page.route("**/v1/kv/bytes", lambda route: route.fulfill(body=bytes(range(256)), content_type="image/x"))
    page = tab.show("#/keys?key=bytes")
    page.click("button:text-is('Hex')")
    page.wait_for_selector("pre >> text=000000f0")
    height, line = page.eval_on_selector(
        "pre.value", "(each) => [each.clientHeight, parseFloat(getComputedStyle(each).lineHeight)]"
    )
    assert height < 18 * line, "sixteen lines, and the space around them"


@pytest.mark.parametrize("width", [360, 900, 1280])
def test_the_fields_of_a_form_are_as_wide_as_what_is_typed_into_them(
    open_tab: Callable[..., Tab], unguarded: Served, width: int
) -> None:
    tab = open_tab(unguarded, viewport={"width": width, "height": 740})
    tab.page.route("**/v1/kv/text", lambda route: route.fulfill(body="text", content_type="text/plain"))
    page = tab.show("#/keys?key=text")
    page.click("button:text-is('Edit')")
    page.wait_for_selector(".editor textarea")
    fields = page.eval_on_selector_all(".editor .fields input", BOXES)
    assert len(fields) == 3
    assert all(right - left > 170 for left, right, *_ in fields), fields
    assert fields[2][1] - fields[2][0] > 250, "with the button, and the name of the file behind it"


def test_figures_are_told_while_nobody_points_at_them_and_one_sample_alone_is_drawn(
    open_tab: Callable[..., Tab], unguarded: Served
) -> None:
    tab = open_tab(unguarded)
    # The last time is one that the axis names.
    now = int(time.time()) // 3600 * 3600
    times = [now - 5 * ago for ago in range(699, -1, -1)]

    def history(route: Any) -> None:
        answer = route.fetch()
        told = answer.json()
        told["times"] = times
        for figures in (told["facade"], *told["shards"].values()):
            figures.update({name: [None] * len(times) for name in figures})
        told["facade"]["requests"] = [12.0] * len(times)
        told["shards"]["0"]["commit_ms"] = [None] * 350 + [40.0] + [None] * 349
        route.fulfill(response=answer, json=told)

    tab.page.route("**/v1/console/history?*", history)
    page = tab.show("#/graphs")
    page.wait_for_selector(".u-legend")
    legend = page.locator(".chart:has-text('Requests of keys a second') .u-series")
    wait_for(lambda: "12" in legend.nth(1).inner_text(), 60.0, "the newest figure is told")
    assert ":" in legend.nth(0).inner_text().removeprefix("at:"), "and when it was"
    told = [each.get_attribute("aria-label") for each in page.locator(".chart [role=img]").all()]
    assert str(told[0]).endswith("now: requests 12, errors (5xx) \N{EN DASH}"), "what nobody knows is not 0"
    assert not [each for each in told if " 0" in str(each).split("; now: ")[1].replace("shard 0", "")], told
    wait_for(lambda: page.evaluate(COLOURED) > 0, 60.0, "a sample between two that are not known is drawn")
    assert page.evaluate(AT_THE_EDGE) == 0, "the last time is not cut off"
    assert tab.complaints == []


@pytest.mark.parametrize(
    ("width", "height"), [(360, 740), (700, 900), (1000, 900), (1280, 900), (1920, 1080), (3840, 2160)]
)
def test_no_place_in_a_row_of_graphs_stays_empty(
    open_tab: Callable[..., Tab], unguarded: Served, width: int, height: int
) -> None:
    page = open_tab(unguarded, viewport={"width": width, "height": height}).show("#/graphs")
    page.wait_for_selector(".charts >> nth=1")
    for group in (".charts.four", ".charts:not(.four)"):
        boxes = page.eval_on_selector_all(f"{group} > div", BOXES)
        assert len(set(Counter(round(top) for _, _, top, _ in boxes).values())) == 1, boxes
        assert all(right - left > 220 for left, right, *_ in boxes), "each can be read"


@pytest.mark.parametrize(
    ("samples", "words"), [(12, r"/^Graphs since \d\d:\d\d$/"), (720, "'Graphs of the last hour'")], ids=["new", "old"]
)
def test_graphs_say_since_when_there_are_figures(
    open_tab: Callable[..., Tab], unguarded: Served, samples: int, words: str
) -> None:
    tab = open_tab(unguarded)

    def history(route: Any) -> None:
        answer = route.fetch()
        told = answer.json()
        now = int(time.time())
        told["times"] = [now - HISTORY_STEP_S * ago for ago in range(samples - 1, -1, -1)]
        for figures in (told["facade"], *told["shards"].values()):
            figures.update({name: [1.0] * samples for name in figures})
        route.fulfill(response=answer, json=told)

    tab.page.route("**/v1/console/history?*", history)
    tab.show("#/graphs").wait_for_selector(f"h1 >> text={words}")
    assert tab.complaints == []


def test_what_colours_mean_is_in_sight_with_all_slots(open_tab: Callable[..., Tab], unguarded: Served) -> None:
    for width, height in SIZES:
        page = open_tab(unguarded, viewport={"width": width, "height": height}).show("#/slots")
        page.wait_for_selector(".grid rect >> nth=1023")
        for part in (".legend", ".grid"):
            ((left, right, top, bottom),) = page.eval_on_selector_all(part, BOXES)
            assert 0 <= left < right <= width, part
            assert 0 <= top < bottom <= height, part


def test_how_full_a_disk_is_and_what_the_node_has_on_it_are_two_figures(five: Callable[..., Tab]) -> None:
    page = five("leader", "follower").show("#/")
    names = page.locator("table.nodes thead th").all_inner_texts()
    row = dict(zip(names, page.locator("table.nodes tbody tr").first.locator("th, td").all_inner_texts(), strict=True))
    assert (row["Data"], row["Disk"].strip()) == ("3.0 MiB", "75 % full")


def test_the_folders_above_a_key_are_open_when_its_value_is_shown(
    open_tab: Callable[..., Tab], unguarded: Served
) -> None:
    tab = open_tab(unguarded)
    pages: dict[str, dict[str, Any]] = {
        "": {"prefixes": ["a/", "b/"], "items": []},
        "a/": {"prefixes": ["a/deep/"], "items": []},
        "a/deep/": {"prefixes": [], "items": [ENTRY | {"key": "a/deep/key"}, ENTRY | {"key": "a/deep/other"}]},
    }

    def listed(route: Any) -> None:
        prefix = parse_qs(urlsplit(route.request.url).query).get("prefix", [""])[0]
        route.fulfill(json=pages[prefix] | {"next_cursor": None})

    tab.page.route("**/v1/kv?*", listed)
    tab.page.route("**/v1/kv/a%2Fdeep*", lambda route: route.fulfill(body="v", content_type="text/plain"))
    page = tab.show("#/keys?key=a%2Fdeep%2Fkey")
    page.wait_for_selector(".tree .leaf[aria-current=true] >> text=key")
    assert page.locator(".folder [aria-expanded=true]").count() == 2
    assert page.locator(".folder [aria-expanded=false] >> text=b/").count() == 1
    page.click(".folder >> text=deep/")
    page.wait_for_selector(".tree .leaf[aria-current=true]", state="detached")
    assert tab.complaints == []


@pytest.mark.parametrize("height", [740, 900, 2160])
def test_a_key_that_was_chosen_is_in_sight_beside_its_value_however_long_the_list_is(
    open_tab: Callable[..., Tab], unguarded: Served, height: int
) -> None:
    tab = open_tab(unguarded, viewport={"width": 1280, "height": height})
    items = [ENTRY | {"key": f"many/{number:03}"} for number in range(200)]
    tab.page.route(
        "**/v1/kv?*", lambda route: route.fulfill(json={"prefixes": [], "items": items, "next_cursor": None})
    )
    tab.page.route("**/v1/kv/many*", lambda route: route.fulfill(body="v", content_type="text/plain"))
    page = tab.show("#/keys?prefix=many%2F&key=many%2F170")
    page.wait_for_selector(".one pre >> text=v")
    for part in (".leaf[aria-current]", ".one", ".list .command"):
        ((_, _, top, bottom),) = page.eval_on_selector_all(part, BOXES)
        assert 0 <= top < bottom <= height, part
    assert page.evaluate("document.documentElement.scrollHeight") <= height


def test_a_dialog_is_in_the_middle_and_begins_where_one_types(five: Callable[..., Tab]) -> None:
    for width, height in SIZES[:2]:
        page = five("leader", "follower", viewport={"width": width, "height": height}).show("#/shard/0")
        for opener, begins in (("Add a member", "INPUT"), ("Download a backup", "BUTTON")):
            page.click(f"button:text-is('{opener}')")
            page.wait_for_selector("dialog[open]")
            ((left, right, top, bottom),) = page.eval_on_selector_all("dialog", BOXES)
            assert abs(left - (width - right)) < 2
            assert abs(top - (height - bottom)) < 2
            focused = page.evaluate("[document.activeElement.tagName, document.activeElement.textContent]")
            assert focused[0] == begins
            assert focused[1] != "Copy"
            page.keyboard.press("Escape")
            page.wait_for_selector("dialog", state="detached")


@pytest.mark.parametrize(("width", "height"), [(360, 740), (1280, 900)])
def test_what_is_told_of_many_changes_leaves_most_of_a_screen_free(
    open_tab: Callable[..., Tab], unguarded: Served, width: int, height: int
) -> None:
    page = open_tab(unguarded, viewport={"width": width, "height": height}).show("#/slots")
    page.evaluate(
        """async (ui) => {
            const {note} = await import(ui);
            for (const shard of [1, 2, 3, 4, 5]) note(`Shard ${shard}: nobody leads. shard-${shard}-0 led in term 7.`);
        }""",
        page.evaluate(MODULE, "lib/ui.js"),
    )
    page.wait_for_selector(".note >> text=Shard 5:")
    boxes = page.eval_on_selector_all(".note", BOXES)
    shown = [bottom - top for _, _, top, bottom in boxes if bottom > top]
    assert len(shown) == (2 if width < 640 else 4), "the newest"
    assert page.locator(".note >> text=Shard 4:").is_visible()
    assert sum(shown) < height / 3
