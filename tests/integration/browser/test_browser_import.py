"""What the console says of an import or a deletion of many keys: what was done, which lines were left out, and why."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from integration.browser.conftest import Served, Tab
from integration.browser.looking import look

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(240)]

ALL_OF_THESE = "select[aria-label='Do with all of these']"
MODULE = "(name) => document.querySelector('script[type=module]').src.replace(/app\\.js$/, name)"
GET = "async (key) => (await fetch(`/v1/kv/${encodeURIComponent(key)}`)).status"
PUT = "async ([key, body]) => (await fetch(`/v1/kv/${encodeURIComponent(key)}`, {method: 'PUT', body})).status"


def entry(key: str, **members: Any) -> str:
    return json.dumps({"key": key, "value": "v", "encoding": "utf-8", **members})


@pytest.fixture
def opened(open_tab: Callable[..., Tab], unguarded: Served) -> Tab:
    """A tab of a console for everybody."""
    return open_tab(unguarded)


def take_in(page: Any, *lines: str) -> None:
    """Imports a file of these lines."""
    page.select_option(ALL_OF_THESE, "import")
    body = "\n".join(lines).encode()
    page.set_input_files("dialog input[type=file]", {"name": "f.ndjson", "mimeType": "", "buffer": body})
    page.click("dialog button:text-is('Import')")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('{"key": "import/x", "valu": "v"}', 'it has "valu", which no entry has'),
        ('["import/x", "v"]', "it is no JSON object"),
        ('{"key": "import/x", "value": "v"', "it is no JSON"),
        ('{"key": "import/x", "value": 7}', "its value is no text"),
        ('{"key": "import/x"}', "it has no value"),
        ('{"value": "v"}', 'an entry has either "key" or "key64"'),
        ('{"key": 7, "value": "v"}', "its key is no text"),
        ('{"key64": "_", "value": "v"}', "its key64 is no base64url"),
        ('{"key": "import/x", "value": "%", "encoding": "base64"}', "its value is no base64"),
        ('{"key": "import/x", "value": "_-8=", "encoding": "base64"}', "its value is no base64"),
        ('{"key": "import/x", "value": "A===", "encoding": "base64"}', "its value is no base64"),
        (entry("import/x", value="A" * 20_000_000, encoding="base64"), "its value has more than 1 MiB"),
        (entry("import/x", value="\u00e9" * (1 << 19) + "a"), "its value has more than 1 MiB"),
        ('{"key": "import/x", "value": "\\ud800"}', "half of a surrogate pair is no text"),
        ('{"key": "import/x", "value": "v", "expires_at": "soon"}', "its expires_at is no time"),
        ('{"complete": false, "error": {}}', "it says that the export broke off"),
        ('{"complete": true, "count": 3}', "it counts 3 entries, and 1 are before it"),
        ('{"dougdb_export": 1}', "the export that begins there has no last line"),
    ],
    ids=range(18),
)
def test_a_line_that_is_no_entry_is_named_before_anything_is_written(opened: Tab, line: str, why: str) -> None:
    page = opened.show("#/keys")
    told = page.evaluate(
        "async ([address, text]) => (await import(address)).readLines(text, Date.now())",
        [page.evaluate(MODULE, "lib/imported.js"), "\n".join((entry("import/before"), "", line))],
    )
    assert [(each["line"], each["why"].startswith(why)) for each in told["wrong"]] == [(3, True)]


def test_an_export_of_either_kind_is_taken_whole(opened: Tab) -> None:
    page = opened.show("#/keys")
    lines = [
        '{"dougdb_export": 1, "start": "import/"}',
        entry("import/a", revision="7", content_type="text/plain", expires_at=None),
        '{"key64": "_w", "value": "/+8=", "encoding": "base64", "content_encoding": null}',
        '{"complete": true, "count": 2}',
        entry("import/b", expires_at="2100-01-01T00:00:00Z"),
        '{"complete": true, "count": 1, "revisions": {"0": "9"}}',
        "",
    ]
    told = page.evaluate(
        "async ([address, text]) => (await import(address)).readLines(text, Date.now())",
        [page.evaluate(MODULE, "lib/imported.js"), "\r\n".join(lines)],
    )
    assert (told["wrong"], told["expired"]) == ([], [])
    assert [(each["line"], each["put"].get("key"), each["put"].get("key64")) for each in told["entries"]] == [
        (2, "import/a", None),
        (3, None, "_w"),
        (5, "import/b", None),
    ]


def test_a_file_with_wrong_lines_is_refused_with_their_numbers(opened: Tab, pictures: Path) -> None:
    page = opened.show("#/keys")
    wrong = ['{"key": "import/x", "valu": "v"}', "[1]"] * 4
    take_in(page, entry("import/good"), *wrong)
    told = page.locator("dialog .trouble").inner_text()
    assert told.startswith("Nothing was written: 8 lines are no entries. Line 2: it has "), told
    assert "line 3: it is no JSON object; line 4" in told
    assert "; and 3 more." in told
    look(page, pictures, "import-refused")
    assert page.evaluate(GET, "import/good") == 404
    assert page.locator(".note").count() == 0
    page.click("dialog button:text-is('Cancel')")
    take_in(page, "")
    page.wait_for_selector("dialog .trouble >> text=The file has no entries. Nothing was written.")


def test_lines_that_had_expired_or_were_refused_are_counted_and_named(opened: Tab, pictures: Path) -> None:
    page = opened.show("#/keys")
    expired = entry("import/old", expires_at="2020-01-01T00:00:00Z")
    take_in(page, entry("import/told"), expired, entry("import/told", content_type="text/plain; x=" + 300 * "y"))
    page.wait_for_selector(".note.bad >> text=1 key imported, 1 had expired, 1 refused.")
    page.wait_for_selector("dialog h2:text-is('2 lines were not imported')")
    said = page.locator("dialog p").first.inner_text()
    assert "Line 3: " in said and "line 2: it had expired." in said, said
    look(page, pictures, "import-left-out")
    page.click("dialog button:text-is('Close')")
    page.wait_for_selector("dialog", state="detached")
    assert page.evaluate(GET, "import/told") == 200
    take_in(page, expired)
    page.wait_for_selector(".note.info >> text=0 keys imported, 1 had expired.")
    page.wait_for_selector("dialog h2:text-is('1 line was not imported')")
    page.click("dialog button:text-is('Close')")
    take_in(page, entry("import/told-too"))
    page.wait_for_selector(".note.good >> text=1 key imported.")
    page.wait_for_selector("dialog", state="detached")
    assert opened.complaints == []


@pytest.mark.parametrize("closed", [False, True], ids=["open", "closed"])
def test_an_import_that_stops_half_way_says_what_was_done_and_shows_it(opened: Tab, closed: bool) -> None:
    page = opened.show(f"#/keys?prefix=half{closed}%2F")
    page.wait_for_selector("text=No key begins so.")
    held: list[Any] = []

    def second_fails(route: Any) -> None:
        held.append(route)
        if len(held) == 1:
            route.fallback()
        elif not closed:
            route.abort()

    page.route("**/v1/batch", second_fails)
    take_in(page, *(entry(f"half{closed}/{number:03}") for number in range(501)))
    told = "500 keys imported; then it stopped: The facade gave no answer."
    if closed:
        page.wait_for_selector("dialog >> text=500 of 501 written")
        page.click("dialog button:text-is('Cancel')")
        held[1].abort()
        page.wait_for_selector(f".note.bad >> text={told}")
    else:
        page.wait_for_selector(f"dialog .trouble >> text={told}")
    page.wait_for_selector(".leaf .name:text-is('199')", state="attached")
    assert opened.complaints == []


@pytest.mark.parametrize("closed", [False, True], ids=["open", "closed"])
def test_a_deletion_that_stops_half_way_says_what_was_done_and_shows_it(opened: Tab, closed: bool) -> None:
    prefix = f"gone{closed}/"
    page = opened.show("#/keys")
    for name in ("one", "two"):
        assert page.evaluate(PUT, [prefix + name, "v"]) == 200
    page.goto(f"{opened.cluster.url}/ui/#/keys?prefix={prefix}")
    page.wait_for_selector(".leaf .name:text-is('two')")
    held: list[Any] = []

    def second_fails(route: Any) -> None:
        if route.request.method != "DELETE":
            route.fallback()
            return
        held.append(route)
        if len(held) == 1:
            page.request.delete(f"{opened.cluster.url}/v1/kv/{prefix}one".replace("/one", "%2Fone"))
            route.fulfill(json={"deleted": 1, "next_cursor": "c", "complete": False})
        elif not closed:
            route.abort()

    page.route("**/v1/kv?*", second_fails)
    page.select_option(ALL_OF_THESE, "delete")
    page.fill("dialog label:has-text('to confirm') input", "2")
    page.click("dialog button:text-is('Delete them')")
    told = "1 key deleted; then it stopped: The facade gave no answer."
    if closed:
        page.wait_for_selector("dialog >> text=1 are deleted.")
        page.click("dialog button:text-is('Cancel')")
        held[1].abort()
        page.wait_for_selector(f".note.bad >> text={told}")
    else:
        page.wait_for_selector(f"dialog .trouble >> text={told}")
    page.wait_for_selector(".leaf .name:text-is('one')", state="detached")
    assert page.locator(".leaf .name:text-is('two')").count() == 1
