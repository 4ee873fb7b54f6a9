"""*Try it* in a real browser: each step sends what it says, and shows what was answered."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bench.cluster import Cluster
from integration.browser.conftest import Served, Tab, get
from integration.browser.looking import look

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(240)]


def step(page: Any, title: str) -> Any:
    return page.locator(f".card:has(h2:has-text('{title}'))")


def press(page: Any, title: str, label: str, status: int) -> str:
    """Presses a button of a step, and waits for its answer: the headers and the body."""
    card = step(page, title)
    with page.expect_response(lambda response: "/v1/kv/try/" in response.url) as answered:
        card.locator(f"button:text-is('{label}')").click()
    assert answered.value.status == status
    card.locator(f".answer .badge:text-is('{status}')").wait_for()
    return str(card.locator(".answer pre").inner_text())


def test_a_key_is_put_and_read_at_each_consistency(tab: Callable[..., Any], cluster: Cluster, pictures: Path) -> None:
    opened = tab()
    page = opened.show("#/try")
    put = press(page, "Put a key", "Put", 200)
    revision = re.search(r'etag: "(\d+)"', put)
    assert revision is not None
    assert get(cluster, "try/hello") == (200, b"world")
    title = "Read what is new enough"
    for label, used in (
        ("Linearizable", "linearizable"),
        ("At most 2 s old", "bounded"),
        ("In my session", "session"),
    ):
        answer = press(page, title, label, 200)
        assert f"doug-consistency-used: {used}" in answer
        assert re.search(r"doug-served-by: shard-\d-\d", answer)
        assert f'etag: "{revision[1]}"' in answer, "it sees what was put before"
        assert answer.endswith("world")
    assert "doug-session: " in step(page, title).locator(".command code").inner_text()
    # An eventual read may be older than what was put: of a node that has not heard of it.
    with page.expect_response(lambda response: "consistency=eventual" in response.url) as answered:
        step(page, title).locator("button:text-is('Eventual')").click()
    assert answered.value.status in (200, 404)
    step(page, title).locator(".answer >> text=doug-consistency-used: eventual").wait_for()
    assert "consistency=eventual" in step(page, title).locator(".command code").inner_text()
    look(page, pictures, "try-read")
    opened.check("404 /v1/kv/try/hello")


def test_a_condition_holds_once_and_a_key_counts_once(tab: Callable[..., Any]) -> None:
    opened = tab()
    page = opened.show("#/try")
    press(page, "Change only", "Create, if it is not there", 200)
    again = press(page, "Change only", "Create, if it is not there", 412)
    assert '"code":"precondition_failed"' in again.replace(" ", "")
    first = press(page, "Count, exactly once", "Increment with a key", 200)
    second = press(page, "Count, exactly once", "Increment with a key", 200)
    assert "idempotency-replayed" not in first
    assert "idempotency-replayed: true" in second
    assert first.splitlines()[-1] == second.splitlines()[-1]
    third = press(page, "Count, exactly once", "Increment", 200)
    assert third.splitlines()[-1] != second.splitlines()[-1]
    assert {failure.split()[0] for failure in opened.failures} == {"412"}
    assert opened.complaints == []


def test_a_lock_is_taken_renewed_and_released(tab: Callable[..., Any], cluster: Cluster, pictures: Path) -> None:
    opened = tab()
    page = opened.show("#/try")
    assert "doug-expires-at: " in press(page, "Hold a lock", "Take it for 15 s", 200)
    press(page, "Hold a lock", "Take it for 15 s", 412)
    assert "doug-expires-at: " in press(page, "Hold a lock", "Renew it", 200)
    look(page, pictures, "try-lock")
    press(page, "Hold a lock", "Release it", 204)
    assert get(cluster, "try/lock")[0] == 404
    press(page, "Hold a lock", "Renew it", 404)
    press(page, "Hold a lock", "Take it for 15 s", 200)
    press(page, "Hold a lock", "Release it", 204)
    assert {failure.split()[0] for failure in opened.failures} == {"404", "412"}
    assert opened.complaints == []


def test_a_watch_tells_what_the_other_steps_do(tab: Callable[..., Any], pictures: Path) -> None:
    opened = tab()
    page = opened.show("#/try")
    watching = step(page, "Watch")
    with page.expect_response(lambda response: "/v1/watch?" in response.url):
        watching.locator("button:text-is('Watch try/')").click()
    watching.locator("text=Watching: changes of these keys are shown as they happen.").wait_for()
    press(page, "Put a key", "Put", 200)
    watching.locator("li:has-text('try/hello') .badge:text-is('put')").wait_for()
    press(page, "Hold a lock", "Take it for 15 s", 200)
    press(page, "Hold a lock", "Release it", 204)
    watching.locator("li:has-text('try/lock') .badge:text-is('delete')").wait_for()
    look(page, pictures, "try-watch")
    watching.locator("button:text-is('Stop watching')").click()
    watching.locator(".changes").wait_for(state="detached")
    opened.check()


def test_what_is_done_to_nodes_is_offered_where_it_can_be_done_and_each_press_counts(
    open_tab: Callable[..., Tab], unguarded: Served
) -> None:
    opened = open_tab(unguarded)
    page = opened.show("#/try")
    page.wait_for_selector("text=Move leadership of")
    assert page.locator("button:has-text('Kill')").count() == 0
    assert page.locator("code:has-text('kill -9')").count() == 0
    wishes: list[tuple[str, str]] = []

    def note(route: Any) -> None:
        wish = route.request.post_data_json
        wishes.append((wish["node"], wish["do"]))
        route.fulfill(status=204)

    def with_faults(route: Any) -> None:
        state = page.request.get(f"{unguarded.url}/v1/console/state").json()
        state["facade"]["faults"] = True
        route.fulfill(status=200, content_type="text/event-stream", body=f"event: state\ndata: {json.dumps(state)}\n\n")

    page.route("**/v1/console/faults", note)
    page.route("**/v1/console/stream", with_faults)
    page = opened.show("#/try")
    page.reload()
    page.wait_for_selector(".faults button:has-text('Kill the leader')")
    for label in ("Kill", "Pause", "Cut off", "Slow disk", "Go on"):
        assert page.get_attribute(f".faults tbody button:has-text('{label}') >> nth=0", "title"), label
    # As fast as somebody's fingers: the second one before the first one was answered.
    page.eval_on_selector_all(".faults td button:last-child", "(all) => all.forEach((each) => each.click())")
    page.wait_for_selector(".note >> text=shard-0-1 goes on without faults.")
    assert wishes == [("shard-0-0", "resume"), ("shard-0-1", "resume")]
    assert opened.complaints == []
