"""The console while nodes die, are cut off, stand still or elect a leader, in a real browser over real processes."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bench.cluster import Cluster, paused, wait_for
from bench.http11 import HttpError
from integration.browser.looking import VIEWS, look, tour

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture(scope="module", autouse=True)
def values(values_of_every_kind: None) -> None:
    """What every view of a tour shows, whichever tests ran before."""


def test_leadership_is_moved_and_told(tab: Callable[..., Any], cluster: Cluster) -> None:
    opened = tab()
    page = opened.show("#/shard/0")
    page.click("button:has-text('Make leader') >> nth=0")
    chosen = page.inner_text("dialog h2").removeprefix("Move leadership to ").rstrip("?")
    page.click("dialog button:text-is('Move leadership')")
    page.wait_for_selector(f".note >> text={chosen} leads shard 0")
    wait_for(lambda: leads(cluster) == chosen, 60.0, "it leads; what the facade says may be half a second old")
    opened.check()


def leads(cluster: Cluster) -> str:
    """Who leads shard 0, as the facade says; empty for nobody. On a busy machine it need not be whom a page shows."""
    leader = cluster.leader("0")
    return "" if leader is None else leader.id


@pytest.fixture
def stopped(cluster: Cluster) -> Iterator[Callable[[str], None]]:
    """Stops nodes, so that they are there and do not answer; lets them go on behind the test."""
    found = []

    def stop(name: str) -> None:
        process = cluster.member(name)
        process.send_signal(signal.SIGSTOP)
        found.append(process)

    yield stop
    for process in found:
        process.send_signal(signal.SIGCONT)
    cluster.await_leader("0", 30.0)


def test_a_killed_leader_is_seen(tab: Callable[..., Any], cluster: Cluster, pictures: Path) -> None:
    leader = cluster.await_leader("0").id
    opened = tab()
    page = opened.show("")
    page.wait_for_selector("text=live")
    cluster.kill(leader)
    page.wait_for_selector(".note >> text=/Shard 0: (?!nobody).* leads in term/")
    look(page, pictures, "leader-killed")
    page = opened.show("#/timeline?shard=0")
    page.wait_for_selector("table >> text=became_leader >> nth=0")
    tour(opened, pictures, "leader-killed")
    wait_for(lambda: all(view.role in ("leader", "follower") for view in cluster.views()), 60.0, "all are back")
    assert opened.complaints == []
    assert {failure.split()[0] for failure in opened.failures} <= {"503", "504"}


def test_every_view_is_shown_while_a_node_is_down(
    tab: Callable[..., Any], cluster: Cluster, stopped: Callable[[str], None], pictures: Path
) -> None:
    leader = cluster.await_leader("0").id
    stopped(next(view.id for view in cluster.shard_views("0") if view.id != leader))
    opened = tab()
    page = opened.show("")
    page.wait_for_selector(".badge >> text=2 of 3 nodes")
    page.wait_for_selector(".ailment >> text=/Reads and writes go on. No answer: shard-0-/")
    tour(opened, pictures, "node-down")
    page = opened.show("#/timeline")
    page.wait_for_selector("text=No answer, so that their newest events are missing")
    opened.check()


def test_nodes_are_killed_and_paused_by_buttons(tab: Callable[..., Any], cluster: Cluster, pictures: Path) -> None:
    opened = tab()
    page = opened.show("#/try")
    page.click("button:has-text('Kill the leader, ')")
    before = told_node(page, "is killed")
    page.wait_for_selector(".note >> text=/Shard 0: (?!nobody).* leads in term/")
    look(page, pictures, "try-killed")
    wait_for(lambda: all(view.role in ("leader", "follower") for view in cluster.views()), 60.0, "all are back")
    follower = next(view.id for view in cluster.shard_views("0") if view.role == "follower" and view.id != before)
    row = page.locator(f".faults tr:has-text('{follower}')")
    row.locator("button:has-text('Pause')").click()
    page.wait_for_selector(f".faults tr:has-text('{follower}') >> .unreachable")
    row.locator("button:has-text('Go on')").click()
    page.wait_for_selector(f".faults tr:has-text('{follower}') >> :is(.follower, .leader)")
    wait_for(lambda: all(view.role in ("leader", "follower") for view in cluster.views()), 60.0, "all are back")
    opened.check()


def told_node(page: Any, what: str) -> str:
    """The node of which is told that this was done to it."""
    return str(page.wait_for_selector(f".note >> text={what}").inner_text().split()[0])


def is_stored(cluster: Cluster, key: str) -> bool:
    """Whether a write is acknowledged now: somebody may just be elected."""
    try:
        return cluster.request("PUT", f"/v1/kv/{key}", b"v").status == 200
    except HttpError:
        return False


def test_a_leader_is_cut_off_and_a_disk_made_slow_by_buttons(
    tab: Callable[..., Any], cluster: Cluster, pictures: Path
) -> None:
    wait_for(lambda: is_stored(cluster, "before"), 60.0, "a leader takes writes")
    opened = tab()
    page = opened.show("#/try")
    page.click("button:has-text('Cut the leader off')")
    before = told_node(page, "is cut off from the other nodes")
    row = f".faults tr:has-text('{before}')"
    page.wait_for_selector(f"{row} >> :is(.pre-candidate, .follower)")
    page.wait_for_selector(".faults tbody .leader")
    look(page, pictures, "try-cut-off")
    wait_for(lambda: leads(cluster) not in ("", before), 60.0, "another node leads; who is cut off cannot")
    wait_for(lambda: is_stored(cluster, "during"), 60.0, "the others take writes")
    page.locator(row).locator("button:has-text('Go on')").click()
    page.wait_for_selector(f"{row} >> .follower")
    page.click('button:has-text("Slow the leader\'s disk")')
    page.wait_for_selector(".note >> text=waits 0.4 s longer for its disk")
    wait_for(lambda: is_stored(cluster, "slow"), 60.0, "a slow disk takes writes")
    page = opened.show("#/timeline?shard=0")
    for event in ("fault_began", "fault_ended", "slow_disk"):
        page.wait_for_selector(f"table >> text={event} >> nth=0")
    look(page, pictures, "timeline-faults")
    page = opened.show("#/try")
    for name in (name for name in cluster.node_ids if name.startswith("shard-0-")):
        page.locator(f".faults tr:has-text('{name}') button:has-text('Go on')").click()
        page.wait_for_selector(f".note >> text={name} goes on without faults.")
    wait_for(lambda: all(view.role in ("leader", "follower") for view in cluster.views()), 60.0, "all are back")
    opened.check()


def test_graphs_lead_to_runbooks_and_say_where_they_come_from(tab: Callable[..., Any], pictures: Path) -> None:
    opened = tab()
    page = opened.show("#/graphs")
    page.wait_for_selector("h2:text-is('This facade')")
    page.click("a:text-is('DougDBFsyncSlow')")
    page.wait_for_selector("h1:has-text('DougDBFsyncSlow')")
    page.click("a:text-is('Runbooks')")
    page.wait_for_selector("a:text-is('DougDBNoLeader')")
    assert page.locator(".runbooks li").count() > 20

    def from_prometheus(route: Any) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, json=answer.json() | {"source": source, "prometheus": True})

    page.route("**/v1/console/history?*", from_prometheus)
    source = "prometheus"
    opened.show("#/graphs").wait_for_selector("h2:text-is('All facades')")
    look(page, pictures, "graphs-prometheus")
    source = "facade"
    page.wait_for_selector("text=Prometheus does not answer.")
    look(page, pictures, "graphs-prometheus-away")
    opened.check()


def keys_of(events: list[dict[str, Any]]) -> set[tuple[str, str, int, str]]:
    return {(event["node"], event["start_id"], event["sequence"], event["name"]) for event in events}


def told_events(cluster: Cluster) -> set[tuple[str, str, int, str]]:
    """The events that ``dougctl timeline`` is told."""
    answers = [cluster.request("GET", f"/v1/shards/{shard}/events?limit=2000") for shard in (0, 1)]
    return set().union(*(keys_of(answer.json()["events"]) for answer in answers))


def test_the_timeline_is_of_all_nodes_or_of_one_shard(tab: Callable[..., Any], cluster: Cluster) -> None:
    opened = tab()
    page = opened.show("#/timeline")
    page.select_option("label:has-text('Last') select", "86400")
    page.wait_for_selector("table >> text=became_leader >> nth=0")
    assert page.locator(".axis .lane-name").count() == len(cluster.node_ids)
    # What comes while it is looked at may be missing.
    before = told_events(cluster)
    counted = "() => parseInt(document.querySelector('h2').textContent.replace('\\u2009', '').match(/: ([0-9]+) /)[1])"
    page.wait_for_function(f"() => ({counted})() >= {len(before)}")
    with page.expect_download() as told:
        page.click("button:text-is('Export as JSON')")
    exported = json.loads(Path(told.value.path()).read_text())
    assert {event["node"] for event in exported["events"]} == set(cluster.node_ids)
    after = told_events(cluster)
    # The facade remembers what nodes did before they were started anew, if somebody looked then.
    starts = {key[:2] for key in after}
    assert before <= keys_of(exported["events"]), "the same as dougctl timeline"
    assert {key for key in keys_of(exported["events"]) if key[:2] in starts} <= after, "and nothing that is not there"
    page.dispatch_event(".axis .mark >> nth=0", "click")
    page.wait_for_selector("h2:text-is('Facts')")
    page.select_option("label:has-text('Shard') select", "1")
    page.wait_for_selector("h2:has-text('Shard 1:')")
    page.wait_for_selector("code >> text=dougctl timeline --shard 1")
    opened.check()


def test_a_shard_without_a_quorum_is_seen(
    tab: Callable[..., Any], cluster: Cluster, stopped: Callable[[str], None], pictures: Path
) -> None:
    opened = tab()
    page = opened.show("#/shard/0")
    page.wait_for_selector("text=healthy")
    for name in ("shard-0-0", "shard-0-1"):
        stopped(name)
    page.wait_for_selector(".figures >> text=no quorum")
    page.wait_for_selector(".ailment >> text=1 of 3 nodes answer, and 2 are needed")
    page.wait_for_selector(".card:has(h2:text-is('Members')) >> text=Nobody leads this shard")
    assert page.locator("text=The facade gave no answer").count() == 0, "the stream shows that it does"
    look(page, pictures, "no-quorum-at-once")
    page = opened.show("#/keys")
    page.wait_for_selector(".trouble >> text=/503|504/")
    tour(opened, pictures, "no-quorum")
    assert opened.complaints == []
    assert {failure.split()[0] for failure in opened.failures} <= {"503", "504"}


def test_a_facade_that_was_started_anew_is_found_again_by_every_view(
    tab: Callable[..., Any], cluster: Cluster, pictures: Path
) -> None:
    opened = {}
    for name, place in VIEWS.items():
        opened[name] = tab()
        opened[name].show(place).wait_for_selector(".connection.live")
    # It stands still first, so that every view has the time to see that it is away.
    with paused([cluster.member("facade")]):
        for name, each in opened.items():
            each.page.wait_for_selector(".connection.lost")
            each.page.wait_for_selector("text=What is shown is what was known last.")
            look(each.page, pictures, f"facade-away-{name}")
        cluster.kill("facade")
    for name, each in opened.items():
        each.page.wait_for_selector(".connection.live")
        for told in ("There is no connection to the facade", "The facade gave no answer"):
            each.page.wait_for_selector(f"text={told}", state="detached")
        look(each.page, pictures, f"facade-back-{name}")
        assert {host for host in each.hosts if host} == {cluster.url.removeprefix("http://")}


def test_nobody_is_asked_while_nobody_looks(tab: Callable[..., Any], cluster: Cluster) -> None:
    opened = tab()
    page = opened.show("")
    page.wait_for_selector(".connection.live")

    def watchers() -> int:
        return int(json.loads(cluster.request("GET", "/v1/console/state").body)["facade"]["consoles"])

    wait_for(lambda: watchers() == 1, 60.0, "the console looks")
    hide = "Object.defineProperty(document, 'hidden', {value: %s, configurable: true});"
    page.evaluate(hide % "true" + "document.dispatchEvent(new Event('visibilitychange'))")
    wait_for(lambda: watchers() == 0, 60.0, "the console looks no more")
    page.evaluate(hide % "false" + "document.dispatchEvent(new Event('visibilitychange'))")
    wait_for(lambda: watchers() == 1, 60.0, "the console looks again")
    opened.check()
