"""Links to the console, which anybody can make, and colours that change while one looks; over fake nodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pytest
from bench.cluster import wait_for
from integration.browser.conftest import Served, Tab

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(240)]

DARK_INK = """() => {
    const canvas = document.querySelector('.uplot canvas');
    const height = Math.round(canvas.height / 6);
    const {data} = canvas.getContext('2d').getImageData(0, canvas.height - height, canvas.width, height);
    let found = 0;
    for (let at = 0; at < data.length; at += 4) if (data[at + 3] > 200 && data[at] < 64) found++;
    return found;
}"""
"""How many pixels of the times below a graph are dark."""


@pytest.mark.parametrize(
    ("place", "shown"),
    [
        ("#/%E0%A4", "Cluster"),
        ("#/nowhere/%", "Cluster"),
        ("#/shard/%E0", "Shard"),
        ("#/runbook/__proto__", "Runbooks"),
        ("#/graphs?from=none", "Graphs"),
        ("#/keys?prefix=b64:%26all%3Dtrue", "Keys"),
    ],
)
def test_a_link_that_is_none_shows_a_view_all_the_same(
    open_tab: Callable[..., Tab], unguarded: Served, place: str, shown: str
) -> None:
    opened = open_tab(unguarded)
    opened.show(place).wait_for_selector(f"h1 >> text={shown}")
    assert opened.complaints == []


def test_a_link_adds_nothing_to_what_is_asked(open_tab: Callable[..., Tab], unguarded: Served) -> None:
    opened = open_tab(unguarded)
    asked: list[Any] = []
    opened.page.on("request", lambda request: asked.append(urlsplit(request.url)))
    page = opened.show("#/keys?prefix=b64:AA%26limit=1&consistency=eventual%26limit=2&key=b64:AA%26prefix64=")
    page.wait_for_selector(".gone")
    assert page.input_value("label:has-text('Read') select") == "linearizable"
    (value,) = (each for each in asked if each.path.startswith("/v1/kv/"))
    assert (value.path, value.query) == ("/v1/kv/b64%3AAA%26prefix64%3D", "")
    for listed in (each for each in asked if each.path == "/v1/kv"):
        assert listed.query.count("limit=") == 1
        assert "prefix=b64%3AAA%26limit%3D1&" in listed.query


def test_the_line_of_curl_asks_for_the_same_key(open_tab: Callable[..., Tab], unguarded: Served) -> None:
    opened = open_tab(unguarded)
    for key, path in (("a%2F..%2Fb", "/v1/kv/a%2F..%2Fb"), ("a%2Fb", "/v1/kv/a/b"), ("it%27s", "/v1/kv/it'\\''s'")):
        page = opened.show(f"#/keys?key={key}")
        page.wait_for_selector(".gone")
        assert page.inner_text(".one .command code").endswith(path)


def test_axes_can_be_read_when_the_colours_change(open_tab: Callable[..., Tab], unguarded: Served) -> None:
    opened = open_tab(unguarded, color_scheme="light")
    page = opened.show("#/graphs")
    page.wait_for_selector(".uplot canvas")
    wait_for(lambda: page.evaluate(DARK_INK) > 0, 60.0, "the axes are dark on a light page")
    page.emulate_media(color_scheme="dark")
    wait_for(lambda: page.evaluate(DARK_INK) == 0, 60.0, "the axes are light on a dark page")
    page.click("button[title^='Colours: auto']")
    wait_for(lambda: page.evaluate(DARK_INK) > 0, 60.0, "the axes are dark again")
