"""Slips of the hand and late answers, in a real browser: nothing typed is lost, and nothing shown as what it is not."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import pytest
from integration.browser.conftest import Served, Tab

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(240)]

PUT = "async ([key, body]) => (await fetch(`/v1/kv/${encodeURIComponent(key)}`, {method: 'PUT', body})).status"
DELETE = "async (key) => (await fetch(`/v1/kv/${encodeURIComponent(key)}`, {method: 'DELETE'})).status"


@pytest.fixture
def opened(open_tab: Callable[..., Tab], unguarded: Served) -> Tab:
    """A tab of a console for everybody."""
    return open_tab(unguarded)


def test_a_dialog_stays_when_no_file_is_chosen_in_it(opened: Tab) -> None:
    page = opened.show("#/keys")
    page.click("button:text-is('New key')")
    page.fill("dialog label:has-text('Key') input", "slips/named")
    # As the browser tells of a choice of files that was given up.
    page.dispatch_event("dialog input[type=file]", "cancel", {"bubbles": True})
    assert page.input_value("dialog label:has-text('Key') input") == "slips/named"
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog", state="detached")
    opened.check()


def test_what_was_typed_is_there_again_though_the_key_went_meanwhile(opened: Tab) -> None:
    page = opened.show("#/keys")
    assert page.evaluate(PUT, ["slips/gone", "as it was"]) == 200
    page.goto(f"{opened.cluster.url}/ui/#/keys?key=slips%2Fgone")
    page.click("button:text-is('Edit')")
    page.fill(".editor textarea", "what took an hour")
    page.click("nav a:text-is('Slots')")
    page.wait_for_selector("h1:text-is('Slots')")
    assert page.evaluate(DELETE, "slips/gone") in (200, 204)
    page.go_back()
    page.wait_for_selector(".one >> text=There is no such key.")
    page.click("button:text-is('Go on with what you typed')")
    assert page.input_value(".editor textarea") == "what took an hour"
    page.click("button:text-is('Save')")
    page.wait_for_selector(".conflict >> text=It is not there any more.")
    page.click("button:text-is('Save mine over it')")
    page.wait_for_selector(".one pre >> text=what took an hour")
    opened.check("404 /v1/kv/slips%2Fgone", "412 /v1/kv/slips%2Fgone")


def test_keys_of_before_are_not_shown_under_another_prefix(opened: Tab) -> None:
    page = opened.show("#/keys")
    assert page.evaluate(PUT, ["slips-before/one", "1"]) == 200
    page.goto(f"{opened.cluster.url}/ui/#/keys?prefix=slips-before%2F")
    page.wait_for_selector(".leaf .name:text-is('one')")
    page.route("**/v1/kv?*prefix=slips-after*", lambda route: route.abort())
    page.fill("form input[type=search]", "slips-after/")
    page.click("button:text-is('Find')")
    page.wait_for_selector(".list >> text=The facade gave no answer.")
    assert page.locator(".list .leaf").count() == 0


def test_an_answer_that_comes_late_is_not_shown_as_that_of_another_request(opened: Tab) -> None:
    page = opened.show("#/try")
    held = threading.Event()
    routes: list[Any] = []

    def hold(route: Any) -> None:
        routes.append(route)
        held.set()

    page.route("**/v1/kv/try/hello?consistency=linearizable", hold)
    step = page.locator(".card:has(button:text-is('Eventual'))")
    step.locator("button:text-is('Eventual')").click()
    step.locator(".answer").wait_for()
    step.locator("button:text-is('Linearizable')").click()
    step.locator("text=Waiting for the answer").wait_for()
    assert step.locator(".answer").count() == 0, "what the request before was answered is no answer to this one"
    step.locator("button:text-is('Eventual')").click()
    step.locator(".answer").wait_for()
    with page.expect_response("**/v1/kv/try/hello?consistency=linearizable"):
        routes[0].fulfill(status=503, body=json.dumps({"status": 503}), content_type="application/json")
    page.wait_for_timeout(200)
    assert "503" not in step.locator(".answer").inner_text()


@pytest.mark.parametrize(("button", "span"), [("Zoom in", "10 ms"), ("Zoom out", "7 d")])
def test_whoever_zooms_on_and_on_comes_to_an_end_and_back(opened: Tab, button: str, span: str) -> None:
    page = opened.show("#/timeline?shard=0")
    for _ in range(45):
        page.click(f"button[aria-label='{button}']")
    page.wait_for_selector(f"h2:has-text('in {span}')")
    assert "NaN" not in page.locator("svg.axis").inner_html()
    page.click(f"button[aria-label='{'Zoom out' if button == 'Zoom in' else 'Zoom in'}']")
    page.wait_for_selector(f"h2:has-text('in {span}')", state="detached")
    opened.check()


def test_the_slot_of_a_key_is_found_by_the_name_that_is_shown(opened: Tab) -> None:
    page = opened.show("#/slots")
    for typed, key64 in (("b64:_w", "_w"), ("a\\u200bb", "YeKAi2I")):
        page.fill("label:has-text('Slot of key') input", typed)
        with page.expect_request("**/v1/console/locate?*") as asked:
            page.click("button:text-is('Find')")
        assert asked.value.url.endswith(f"key64={key64}")
