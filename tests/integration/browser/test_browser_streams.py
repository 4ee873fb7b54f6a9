"""The console's streams when they break, are refused or say nothing; over fake nodes and answers."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from integration.browser.conftest import Served, Tab
from integration.browser.looking import VIEWS_THAT_ASK

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(240)]

PROGRESS = 'event: progress\nid: w1-a\ndata: {"revisions": {}}\n\n'


def refuse(route: Any, status: int, code: str) -> None:
    route.fulfill(status=status, json={"status": status, "code": code, "detail": "It is refused."})


def watch(tab: Tab) -> Any:
    """Opens the keys, and has them watched."""
    page = tab.show("#/keys")
    page.check("label:has-text('live') input")
    return page


def test_a_facade_that_does_not_answer_is_told_also_where_a_stream_begins(
    open_tab: Callable[..., Tab], unguarded: Served
) -> None:
    opened = open_tab(unguarded)
    opened.page.route("**/v1/console/stream", lambda route: None)
    opened.page.goto(f"{unguarded.url}/ui/")
    opened.page.wait_for_selector(".connection.lost")


def test_a_facade_that_refuses_the_stream_is_not_told_as_one_that_does_not_answer(
    open_tab: Callable[..., Tab], unguarded: Served
) -> None:
    opened = open_tab(unguarded)
    opened.page.route("**/v1/console/stream", lambda route: refuse(route, 503, "overloaded"))
    opened.page.goto(f"{unguarded.url}/ui/")
    opened.page.wait_for_selector(".trouble >> text=It is refused.")
    assert opened.page.locator("text=There is no connection").count() == 0


def test_a_watch_that_goes_on_is_not_told_as_refused_and_what_it_missed_is_asked_for(
    open_tab: Callable[..., Tab], unguarded: Served
) -> None:
    opened = open_tab(unguarded)
    answers = 0
    lists: list[str] = []

    def answer(route: Any) -> None:
        nonlocal answers
        answers += 1
        if answers == 1:
            refuse(route, 503, "no_leader")
        else:
            route.fulfill(status=200, content_type="text/event-stream", body=PROGRESS)

    opened.page.route("**/v1/watch?*", answer)
    opened.page.on("request", lambda request: lists.append(request.url) if "/v1/kv?" in request.url else None)
    page = watch(opened)
    page.wait_for_selector(".changes .trouble >> text=503 no_leader")
    before = len(lists)
    page.wait_for_selector(".changes .trouble", state="detached")
    with page.expect_request(lambda request: "/v1/kv?" in request.url):
        pass
    assert len(lists) > before


def test_a_watch_that_is_refused_is_asked_for_less_and_less_often(
    open_tab: Callable[..., Tab], unguarded: Served
) -> None:
    opened = open_tab(unguarded)
    asked_s: list[float] = []

    def answer(route: Any) -> None:
        asked_s.append(time.monotonic())
        refuse(route, 403, "forbidden")

    opened.page.route("**/v1/watch?*", answer)
    page = watch(opened)
    page.wait_for_selector(".changes .trouble >> text=403 forbidden")
    while len(asked_s) < 4:
        page.wait_for_timeout(100)
    assert asked_s[3] - asked_s[0] > 5.0, "after one, two and four seconds"


@pytest.mark.parametrize(("place", "asked_for"), VIEWS_THAT_ASK)
def test_nothing_piles_up_while_a_facade_does_not_answer(
    open_tab: Callable[..., Tab], unguarded: Served, place: str, asked_for: str
) -> None:
    opened = open_tab(unguarded)
    asked: list[str] = []
    opened.page.on("request", lambda request: asked.append(request.url) if asked_for in request.url else None)
    opened.page.route(f"**{asked_for}**", lambda route: None)
    page = opened.show(place)
    page.wait_for_timeout(11_000)
    assert len(asked) == 1
