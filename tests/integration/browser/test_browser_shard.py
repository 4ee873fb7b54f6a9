"""The picture of a shard and the table below it: entries flow as fast as they are written, figures are the nodes'."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from bench.cluster import Cluster, NodeView, wait_for
from bench.http11 import HttpError, fetch
from integration.browser.conftest import Served, Tab
from integration.browser.looking import SIZES
from integration.browser.test_browser_large import node, state
from integration.browser.test_browser_members import MEMBERS
from integration.browser.test_browser_told import MODULE

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(240)]

FLOWS = "(all) => all.map((each) => each.getAnimations().map((one) => one.playbackRate)).flat()"
"""How many pieces of the way, of one second each, the entries on each line make in a second."""
NOTE_STEPS = """() => {
    window.steps = [];
    const line = document.querySelector('.ring .flow');
    let before = null;
    const look = () => {
        const [animation] = line.getAnimations();
        const {currentIteration, progress, duration} = animation.effect.getComputedTiming();
        const [now, at] = [document.timeline.currentTime / 1000, currentIteration + progress];
        const rate = (1000 * animation.playbackRate) / duration;
        if (before !== null && now > before.now) window.steps.push([(at - before.at) / (now - before.now), rate]);
        before = {now, at};
        requestAnimationFrame(look);
    };
    requestAnimationFrame(look);
}"""
"""Notes, from picture to picture, how fast the entries of a line went, and how fast they should."""
ENTRIES_S = """() => Number([...document.querySelectorAll('.figures > div')]
    .find((each) => each.textContent.startsWith('Entries/s')).querySelector('dd').textContent.replace('\\u2009', ''))"""
UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
SECONDS = {"s": 1, "min": 60, "h": 3600, "d": 86_400}
SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
LABEL = re.compile(r'(\w+)="([^"]*)"')


class Told:
    """What the facade would tell of a shard of five nodes.

    Attributes:
        rate: How many entries a second are written.
        roles: What the nodes are.
    """

    def __init__(self) -> None:
        self.rate: float | None = 0.0
        self.roles = ["leader", "follower", "follower", "follower", "unreachable"]

    def document(self) -> dict[str, Any]:
        """A state."""
        nodes = [{**node(0, number), "role": role, "commit_rate": self.rate} for number, role in enumerate(self.roles)]
        document: dict[str, Any] = json.loads(state())
        document["facade"]["faults"] = True
        return document | {"shards": [{"id": 0, "nodes": nodes}]}


@pytest.fixture
def told() -> Told:
    """What is told, until a test changes it."""
    return Told()


@pytest.fixture
def shown(open_tab: Callable[..., Tab], unguarded: Served, told: Told) -> Tab:
    """A tab that is told of that shard, again and again."""

    def stream(route: Any) -> None:
        body = f"event: state\ndata: {json.dumps(told.document())}\n\n"
        route.fulfill(status=200, content_type="text/event-stream", body=body)

    tab = open_tab(unguarded)
    tab.page.route("**/v1/console/stream", stream)
    tab.page.route("**/v1/console/members?*", lambda route: route.fulfill(json=MEMBERS))
    return tab


def test_entries_flow_as_fast_as_they_are_written(shown: Tab, told: Told) -> None:
    page = shown.show("#/shard/0")
    rates = []
    for rate in (1.0, 10.0, 100.0, 1000.0, 10_000.0):
        told.rate = rate
        page.wait_for_function(f"() => ({ENTRIES_S})() === {rate}")
        speeds = page.eval_on_selector_all(".ring .flow", FLOWS)
        assert len(speeds) == 3, "to every node that answers, and to no other"
        assert len(set(speeds)) == 1
        rates.append(speeds[0])
    assert rates == sorted(set(rates)), "more entries are seen to be more"
    assert 0.3 < rates[0] < 1 < rates[3] < 3 < rates[-1] < 5, "slow enough to be seen, and fast enough to be a stream"
    for none in (0.0, None):
        told.rate = none
        page.wait_for_selector(".ring .flow", state="detached")
        assert page.locator(".ring .link").count() == 4
        told.rate = 5.0
        page.wait_for_selector(".ring .flow")
    assert shown.complaints == []


def test_entries_do_not_jump_when_there_are_more_of_them(shown: Tab, told: Told) -> None:
    told.rate = 1.0
    page = shown.show("#/shard/0")
    page.wait_for_selector(".ring .flow")
    page.evaluate(NOTE_STEPS)
    for rate in (40.0, 2.0, 900.0, 3.0):
        told.rate = rate
        page.wait_for_function(f"() => ({ENTRIES_S})() === {rate}")
    steps = page.evaluate("window.steps")
    fastest = max(rate for _, rate in steps)
    assert len({rate for _, rate in steps}) >= 4, "it goes at the speed of each rate"
    assert [step for step, _ in steps if not 0 <= step <= 1.1 * fastest] == [], "never back, and no leap ahead"


def test_who_wants_no_motion_sees_no_entries_flow(shown: Tab, told: Told) -> None:
    told.rate = 100.0
    shown.page.emulate_media(reduced_motion="reduce")
    page = shown.show("#/shard/0")
    page.wait_for_selector(".ring .flow >> nth=0", state="attached")
    assert page.eval_on_selector_all(".ring .flow", FLOWS) == []
    assert shown.complaints == []


def test_who_leads_now_is_told_and_no_longer_who_did(shown: Tab, told: Told) -> None:
    page = shown.show("#/shard/0")
    for roles, text in (
        (["follower", "follower", "candidate"], "Shard 0: nobody leads. shard-0-0 led in term 3."),
        (["follower", "leader", "follower"], "Shard 0: shard-0-1 leads in term 3."),
        (["follower", "follower", "leader"], "Shard 0: shard-0-2 leads in term 3."),
    ):
        told.roles = roles
        page.wait_for_selector(f".note >> text={text}")
        assert page.locator(".note").count() == 1


@pytest.mark.parametrize(("width", "height"), SIZES[:2])
def test_what_is_told_covers_no_button_that_one_cannot_move_away(shown: Tab, width: int, height: int) -> None:
    page = shown.page
    page.set_viewport_size({"width": width, "height": height})
    for place, button in (("#/shard/0", "Remove"), ("#/try", "Go on")):
        shown.show(place)
        last = page.locator(f"main button:has-text('{button}')").last
        last.scroll_into_view_if_needed()
        page.evaluate(
            """async (ui) => {
                scrollTo(0, document.documentElement.scrollHeight);
                const {note} = await import(ui);
                for (const shard of [1, 2]) {
                    const told = `Shard ${shard}: nobody leads. shard-${shard}-0 led in term 7.`;
                    note(told, "bad", `leader of shard ${shard}`);
                }
            }""",
            page.evaluate(MODULE, "lib/ui.js"),
        )
        page.wait_for_selector(".note >> text=Shard 2:")
        bottom = last.evaluate("(each) => each.getBoundingClientRect().bottom")
        (above,) = page.eval_on_selector_all(".notes", "(all) => all.map((each) => each.getBoundingClientRect().top)")
        assert bottom < above, (place, bottom, above)


def test_who_is_a_member_is_not_asked_in_vain_while_nobody_leads(shown: Tab, told: Told) -> None:
    refused = {"status": 503, "code": "no_leader", "detail": "The shard has no leader that could be asked."}
    answers: dict[str, Any] = {"status": 503, "json": refused}
    shown.page.route("**/v1/console/members?*", lambda route: route.fulfill(**answers))
    told.roles = ["candidate", "follower", "follower"]
    page = shown.show("#/shard/0")
    card = page.locator(".card:has(h2:text-is('Members'))")
    card.locator("text=Nobody leads this shard, and a leader alone knows its members. They are shown once").wait_for()
    assert card.locator(".trouble").count() == 0
    assert card.locator("text=Asking the leader").count() == 0
    answers = {"json": MEMBERS}
    card.locator("text=These were the members when they were told last.").wait_for()
    assert card.locator("tbody tr").count() == 2
    told.roles = ["leader", "follower", "follower"]
    card.locator("text=Nobody leads this shard").wait_for(state="detached")


class Metrics:
    """What a node tells of itself at ``/metrics``."""

    def __init__(self, view: NodeView) -> None:
        text = fetch(view.admin_port, "GET", "/metrics").body.decode()
        self._samples = [(name, dict(LABEL.findall(labels)), value) for name, labels, value in SAMPLE.findall(text)]

    def __call__(self, name: str, **labels: str) -> float:
        """The sum of the samples of this name with these labels."""
        found = [float(value) for each, has, value in self._samples if each == name and labels.items() <= has.items()]
        assert found, (name, labels)
        return sum(found)

    def label(self, name: str, label: str) -> str:
        """A label of the one sample of this name."""
        (found,) = (has for each, has, _ in self._samples if each == name)
        return str(found[label])


def cells(page: Any, name: str) -> dict[str, str]:
    """A node's line in the table, by the heads of the columns."""
    told: dict[str, str] = page.evaluate(
        """(name) => {
            const row = [...document.querySelectorAll('table.nodes tbody tr')]
                .find((each) => each.querySelector('th').textContent.trim() === name);
            const heads = row.closest('table').querySelectorAll('thead th');
            return Object.fromEntries([...row.children].map((each, at) => [heads[at].textContent, each.textContent]));
        }""",
        name,
    )
    return {head: text.strip() for head, text in told.items()}


def number(text: str) -> float:
    """A figure as it is shown: a count, bytes, milliseconds, or a time in seconds."""
    parts = text.replace("\u2009", "").split()
    if len(parts) == 1:
        return float(parts[0])
    if parts[1] == "ms":
        return float(parts[0]) / 1000
    if parts[1] in UNITS:
        return float(parts[0]) * UNITS[parts[1]]
    return sum(float(value) * SECONDS[unit] for value, unit in zip(parts[::2], parts[1::2], strict=True))


def disagreements(page: Any, view: NodeView) -> list[str]:
    """What the table says otherwise than the node itself; a figure has as many digits as are shown of it."""
    metrics, shown = Metrics(view), cells(page, view.id)
    told = {
        "Term": (metrics("dougdb_raft_term"), 0.0),
        "Commit": (metrics("dougdb_raft_commit_index"), 0.0),
        "Applied": (metrics("dougdb_raft_applied_index"), 0.0),
        "Data": (metrics("dougdb_wal_size_bytes") + metrics("dougdb_sstable_bytes"), 0.06),
        "Memory": (metrics("process_resident_memory_bytes"), 0.06),
        # A node counts from when it has read its settings, and not from the start of its process.
        "Up for": (time.time() - metrics("process_start_time_seconds"), 0.25),
        # The mean of all syncs, as long as there was none between two looks.
        "fsync": (
            metrics("dougdb_wal_fsync_duration_seconds_sum") / metrics("dougdb_wal_fsync_duration_seconds_count"),
            0.06,
        ),
    }
    used = [
        1 - metrics("dougdb_disk_free_bytes", volume=volume) / metrics("dougdb_disk_total_bytes", volume=volume)
        for volume in ("wal", "data")
    ]
    wrong = [
        f"{view.id}: {name} is {shown[name]}, and not {value}"
        for name, (value, share) in told.items()
        if abs(number(shown[name]) - value) > share * value
    ]
    if abs(int(shown["Disk"].split()[0]) - 100 * max(used)) > 1:
        wrong.append(f"{view.id}: Disk is {shown['Disk']}, and not {max(used)}")
    if shown["Version"] != metrics.label("dougdb_build_info", "version"):
        wrong.append(f"{view.id}: Version is {shown['Version']}")
    if shown["Role"].split()[-1] != view.role:
        wrong.append(f"{view.id}: Role is {shown['Role']}")
    return wrong


def test_the_figures_of_each_node_are_those_of_its_own_metrics(tab: Callable[..., Tab], cluster: Cluster) -> None:
    opened = tab()
    page = opened.show("#/shard/0")
    page.wait_for_selector("table.nodes tbody tr >> nth=2")
    left: list[str] = []

    def agree() -> bool:
        """Whether all agree at one moment: memory moves, and whoever has just started syncs its log."""
        left[:] = [each for view in cluster.shard_views("0") for each in disagreements(page, view)]
        return not left

    for _ in range(120):
        if agree():
            break
        page.wait_for_timeout(250)
    assert left == []
    opened.check()


def test_the_way_to_each_node_and_back_takes_as_long_as_its_leader_measured(
    tab: Callable[..., Tab], cluster: Cluster
) -> None:
    leader = cluster.await_leader("0")
    followers = [view.id for view in cluster.shard_views("0") if view.id != leader.id]
    opened = tab()
    page = opened.show("#/shard/0")
    page.wait_for_selector("table.nodes tbody tr >> nth=2")

    def trips(peer: str) -> tuple[float, float]:
        metrics = Metrics(leader)
        name = "dougdb_raft_peer_rtt_seconds"
        return metrics(f"{name}_sum", peer=peer), metrics(f"{name}_count", peer=peer)

    before = {name: trips(name) for name in followers}
    shown: dict[str, list[float]] = {name: [] for name in followers}
    for _ in range(16):
        page.wait_for_timeout(500)
        for name in followers:
            shown[name].append(number(cells(page, name)["Round trip"]))
    for name in followers:
        (seconds, count), (seconds_before, count_before) = trips(name), before[name]
        assert count > count_before
        mean = (seconds - seconds_before) / (count - count_before)
        assert mean / 3 < sum(shown[name]) / len(shown[name]) < 3 * mean, (name, mean, shown[name])
    assert cells(page, leader.id)["Round trip"] == "\u2013", "a leader has no way to itself"
    opened.check()


def test_entries_flow_while_there_are_writes_and_their_rate_is_that_of_the_nodes(
    tab: Callable[..., Tab], cluster: Cluster
) -> None:
    opened = tab()
    leader = cluster.await_leader("0")
    page = opened.show("#/shard/0")
    page.wait_for_selector(".ring")
    page.wait_for_selector(".ring .flow", state="detached")
    # One key for each shard: which one is whose is told by whoever answers.
    keys = (f"flow/{number}" for number in range(1000))
    key = next(each for each in keys if cluster.request("PUT", f"/v1/kv/{each}", b"").headers["doug-shard"] == "0")
    ended = threading.Event()

    def write() -> None:
        while not ended.is_set():
            with suppress(HttpError, OSError):
                cluster.request("PUT", f"/v1/kv/{key}", b"v")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        page.wait_for_selector(".ring .flow")
        page.wait_for_function(f"() => ({ENTRIES_S})() > 1")
        commit, began_s = Metrics(leader)("dougdb_raft_commit_index"), time.monotonic()
        rates = []
        for _ in range(12):
            page.wait_for_timeout(500)
            rates.append(page.evaluate(ENTRIES_S))
        wrote = (Metrics(leader)("dougdb_raft_commit_index") - commit) / (time.monotonic() - began_s)
    finally:
        ended.set()
        writer.join()
    assert wrote / 2 < sum(rates) / len(rates) < 2 * wrote, (wrote, rates)
    page.wait_for_selector(".ring .flow", state="detached")
    wait_for(lambda: cluster.leader("0") is not None, 60.0, "it leads on")
    opened.check()
