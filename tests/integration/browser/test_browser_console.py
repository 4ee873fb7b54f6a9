"""The console in a real browser, in front of real processes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bench.cluster import Cluster
from integration.browser.conftest import get, put
from integration.browser.looking import SETTLED_MS, SIZES, VIEWS, look, serious, tour

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(240)]


LOADS = 5
CHANGES = 7
JSON = {"content-type": "application/json"}
NOTE_WHEN_DRAWN = """
    const observer = new MutationObserver(() => {
        const rows = document.querySelectorAll('main table.nodes tbody tr');
        if (rows.length < 6 || !document.querySelector('main .badge.good')) return;
        observer.disconnect();
        // Behind the next picture of the page, since the navigation began.
        requestAnimationFrame(() => setTimeout(() => { window.drawnMs = performance.now(); }));
    });
    observer.observe(document, {subtree: true, childList: true});
"""
LOADED = """['navigation', 'resource'].flatMap((type) => performance.getEntriesByType(type)).map((each) =>
    [new URL(each.name).pathname.replace(/^\\/ui\\/[^/]+\\//, ''), each.decodedBodySize, each.transferSize])"""
"""Name, size, and size as it was sent of all that a page has loaded."""
NOTE_LEADERS = """() => {
    window.leaders = [];
    const look = () => {
        const name = document.querySelector('[aria-label="Nodes of shard 0"] tr.leader th')?.textContent.trim();
        if (name && window.leaders.at(-1)?.[0] !== name) window.leaders.push([name, Date.now()]);
    };
    new MutationObserver(look).observe(document.body, {subtree: true, childList: true, attributes: true});
    look();
}"""


@pytest.fixture(scope="module", autouse=True)
def values(values_of_every_kind: None) -> None:
    """Keys of every kind."""


@pytest.fixture(scope="module")
def full(chromium_path: str, new_cluster: Callable[..., Cluster]) -> Cluster:
    """A node that is to leave more room than any disk has."""
    return new_cluster(shards=1, nodes=1, environment={"DOUGDB_RESERVE_BYTES": str(1 << 40)}).start()


@pytest.mark.parametrize(
    ("width", "scheme"),
    [
        (360, "dark"),
        (1280, "light"),
        (360, "light"),
        (1280, "dark"),
        (3840, "light"),
        (3840, "dark"),
    ],
)
def test_every_view_is_shown_and_can_be_read_by_everybody(tab: Callable[..., Any], width: int, scheme: str) -> None:
    opened = tab(viewport={"width": width, "height": dict(SIZES)[width]}, color_scheme=scheme)
    for name, place in VIEWS.items():
        page = opened.show(place)
        page.wait_for_timeout(SETTLED_MS)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, f"{name} is wider than the screen"
        assert serious(page) == [], name
    opened.check()


def test_the_first_view_is_small_and_there_within_a_second(tab: Callable[..., Any]) -> None:
    drawn_ms = []
    for _ in range(LOADS):
        opened = tab()
        opened.page.add_init_script(NOTE_WHEN_DRAWN)
        page = opened.show("")
        page.wait_for_function("window.drawnMs !== undefined")
        drawn_ms.append(page.evaluate("window.drawnMs"))
        loaded = page.evaluate(LOADED)
        assert {"/ui/", "app.css", "js/app.js", "js/views/cluster.js"} <= {name for name, _, _ in loaded}
        assert sum(size for _, size, _ in loaded) < 300_000, loaded
        assert sum(sent for _, _, sent in loaded) < 60_000, "and what is sent is packed"
        assert [name for name, _, _ in loaded if "uplot" in name or name == "js/views/keys.js"] == []
        opened.check()
        opened.context.close()
    assert min(drawn_ms) < 1000, f"of {LOADS} loads without a cache: {drawn_ms}"


def test_a_change_of_leader_is_in_the_page_within_a_second(tab: Callable[..., Any], cluster: Cluster) -> None:
    opened = tab()
    page = opened.show("")
    page.wait_for_selector(".connection.live")
    cluster.await_leader("0")
    page.evaluate(NOTE_LEADERS)
    late_ms = []
    for _ in range(CHANGES):
        before = cluster.await_leader("0").id
        follower = next(view.id for view in cluster.shard_views("0") if view.id != before)
        answer = cluster.request("POST", "/v1/shards/0/leader", json.dumps({"to": follower}).encode(), JSON)
        assert answer.status == 200, answer.body
        page.wait_for_function("(name) => window.leaders.at(-1)[0] === name", arg=follower)
        seen_us = 1000 * page.evaluate("window.leaders.at(-1)[1]")
        told = json.loads(cluster.request("GET", "/v1/shards/0/events").body)["events"]
        led_us = [each["time_us"] for each in told if (each["node"], each["name"]) == (follower, "became_leader")]
        late_ms.append((seen_us - max(led_us)) / 1000)
    # Not the best of them: who looks every three seconds is on time by chance.
    assert sorted(late_ms)[CHANGES // 2] < 1000, late_ms
    opened.check()


def test_nothing_is_run_but_what_the_facade_serves(tab: Callable[..., Any]) -> None:
    opened = tab()
    page = opened.show("")
    page.wait_for_selector("text=healthy")
    # A line within the page, a line that was built from text, and a file from elsewhere: none of them runs.
    page.evaluate("""() => {
        const script = document.createElement('script');
        script.textContent = 'window.ran = 1';
        document.head.append(script);
        setTimeout('window.ran = 2');
        const other = document.createElement('script');
        other.src = 'data:text/javascript,window.ran=3';
        document.head.append(other);
    }""")
    page.wait_for_timeout(SETTLED_MS)
    assert page.evaluate("window.ran") is None
    assert len(opened.complaints) >= 2, "and the browser says so"


def test_all_is_done_by_keyboard_alone(tab: Callable[..., Any]) -> None:
    opened = tab()
    page = opened.show("")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page = opened.show("#/slots")
    page.focus("svg.grid")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    page.wait_for_selector("text=Slot 32")
    box = page.locator("svg.grid").bounding_box()
    side = min(box["width"], box["height"])
    page.mouse.click(box["x"] + (box["width"] - side) / 2 + side * 1.5 / 32, box["y"] + side / 64)
    page.wait_for_selector("text='Slot 1'")
    opened.check()


def press_until(page: Any, text: str, key: str = "Tab") -> None:
    """Presses a key until what has the focus says this text."""
    focused = "(({ariaLabel, textContent}) => [ariaLabel ?? '', textContent.trim()])(document.activeElement)"
    for _ in range(120):
        if text in page.evaluate(focused):
            return
        page.keyboard.press(key)
    raise AssertionError(f"the keyboard does not lead to {text!r}")


def test_a_key_is_made_changed_and_deleted_by_keyboard_alone(tab: Callable[..., Any], cluster: Cluster) -> None:
    opened = tab()
    page = opened.show("")
    page.wait_for_selector("text=healthy")
    press_until(page, "Keys")
    page.keyboard.press("Enter")
    page.wait_for_selector("button:text-is('New key')")
    press_until(page, "New key")
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog[open]")
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog", state="detached")
    assert page.evaluate("document.activeElement.textContent") == "New key", "one is back where one was"
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog[open]")
    assert page.evaluate("document.activeElement.closest('dialog') !== null")
    page.keyboard.type("typed/key")
    page.keyboard.press("Tab")
    page.keyboard.type("typed value")
    press_until(page, "Create")
    page.keyboard.press("Enter")
    page.wait_for_selector(".one pre >> text=typed value")
    assert get(cluster, "typed/key") == (200, b"typed value")
    press_until(page, "Edit")
    page.keyboard.press("Enter")
    page.wait_for_selector(".editor textarea")
    press_until(page, "Cancel")
    page.keyboard.press("Enter")
    press_until(page, "Delete")
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog[open]")
    press_until(page, "Delete")
    page.keyboard.press("Enter")
    page.wait_for_selector("text=Choose a key to see its value.")
    assert get(cluster, "typed/key")[0] == 404
    opened.check()


def test_every_dialog_can_be_read_by_everybody(tab: Callable[..., Any], cluster: Cluster, pictures: Path) -> None:
    put(cluster, "dialogs/one", b"v")
    cluster.await_leader("0")
    opened = tab(viewport={"width": 360, "height": 740})
    places: dict[str, tuple[str, str]] = {
        "new": ("#/keys", "button:text-is('New key')"),
        "rename": ("#/keys?key=dialogs%2Fone", "button:text-is('Rename')"),
        "delete": ("#/keys?key=dialogs%2Fone", "button:text-is('Delete')"),
        **{what: ("#/keys?prefix=dialogs%2F", what) for what in ("count", "export", "import", "delete-all")},
        "leader": ("#/shard/0", "button:has-text('Make leader') >> nth=0"),
        "replace": ("#/shard/0", "button:has-text('Replace') >> nth=0"),
        "remove": ("#/shard/0", "button:has-text('Remove') >> nth=0"),
        "add": ("#/shard/0", "button:text-is('Add a member')"),
        "backup": ("#/shard/0", "button:text-is('Download a backup')"),
    }
    for name, (place, opener) in places.items():
        page = opened.show(place)
        if "(" in opener:
            page.click(opener)
        else:
            page.select_option("select[aria-label='Do with all of these']", opener.removesuffix("-all"))
        page.wait_for_selector("dialog[open]")
        page.wait_for_timeout(SETTLED_MS)
        look(page, pictures, f"dialog-{name}")
        page.keyboard.press("Escape")
        page.wait_for_selector("dialog", state="detached")
    opened.check()


def test_full_disks_are_seen_and_what_they_refuse_is_told(
    open_tab: Callable[..., Any], full: Cluster, pictures: Path
) -> None:
    opened = open_tab(full)
    page = opened.show("")
    page.wait_for_selector(".badge >> text=disk full")
    page.wait_for_selector(".flag >> text=disk full")
    page.wait_for_selector(".ailment >> text=The disk of shard-0-0 is full: writes are refused, reads go on.")
    page.click(".ailment >> text=What to do")
    page.wait_for_selector("h1:has-text('DougDBDiskLow')")
    tour(opened, pictures, "full-disk")
    page = opened.show("#/keys")
    page.wait_for_selector("text=There are no keys yet.")
    look(page, pictures, "no-keys")
    page.click("button:text-is('New key')")
    page.fill("dialog label:has-text('Key') input >> nth=0", "no/room")
    page.click("dialog button:text-is('Create')")
    page.wait_for_selector("dialog .trouble >> text=507 disk_full")
    look(page, pictures, "full-disk-refuses")
    assert opened.complaints == []
    assert {failure.split()[0] for failure in opened.failures} == {"404", "507"}
