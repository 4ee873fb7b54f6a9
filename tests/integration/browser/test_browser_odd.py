"""Keys that look like others or are no text, values that say something twice, and answers that do not come; all of it
in a real browser."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import pytest
from bench.cluster import Cluster
from integration.browser.conftest import Served, Tab, put, sign_in

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(240)]

NAMES = (
    "odd/a\u200bb",
    "odd/a\u061cb",
    "odd/a\u00a0b",
    "odd/a\\u200bb",
    "odd/line\nend",
    "odd/\U000e0041",
    "odd/ab",
    "odd/\u00e9",
    "odd/e\u0301",
)
SHOWN = (
    r"a\u200bb",
    r"a\u061cb",
    r"a\u00a0b",
    r"a\u005cu200bb",
    r"line\u000aend",
    r"\u{e0041}",
    "ab",
    "\u00e9",
    r"e\u0301",
)
MODULE = "(name) => document.querySelector('script[type=module]').src.replace(/app\\.js$/, name)"
BYTES = base64.urlsafe_b64encode(b"\xff\xfeodd").decode().rstrip("=")


def module(page: Any, name: str) -> str:
    """The address of a module of the console."""
    return str(page.evaluate(MODULE, name))


def test_no_two_keys_look_the_same_and_each_is_found_as_it_is_shown(tab: Callable[..., Tab], cluster: Cluster) -> None:
    for name in NAMES:
        put(cluster, name, name.encode())
    opened = tab(permissions=["clipboard-read", "clipboard-write"])
    page = opened.show("#/keys?prefix=odd%2F")
    page.wait_for_selector(".leaf .name >> nth=8")
    assert sorted(page.locator(".leaf .name").all_inner_texts()) == sorted(SHOWN)
    for text in SHOWN:
        page.fill("form input[type=search]", f"odd/{text}")
        with page.expect_response(lambda response: "/v1/kv?" in response.url):
            page.click("button:text-is('Find')")
        page.wait_for_selector(".leaf .name:text-is('(the prefix itself)')")
        assert page.locator(".leaf .name").count() == 1
    page.goto(f"{cluster.url}/ui/#/keys?key=odd%2Fa%E2%80%8Bb")
    page.wait_for_selector(".one pre")
    page.click("button:text-is('Copy key')")
    page.wait_for_selector("button:text-is('Copied')")
    assert page.evaluate("navigator.clipboard.readText()") == NAMES[0], "the key itself, and not how it is shown"
    opened.check()


def test_keys_that_are_no_text_are_found_made_and_renamed(tab: Callable[..., Tab], cluster: Cluster) -> None:
    opened = tab()
    page = opened.show("#/keys")
    page.click("button:text-is('New key')")
    page.fill("dialog label:has-text('Key') input", f"b64:{BYTES}")
    page.wait_for_selector("dialog >> text=this key has 5 bytes")
    page.fill("dialog textarea", "of bytes")
    page.click("dialog button:text-is('Create')")
    page.wait_for_selector(".one pre >> text=of bytes")
    assert cluster.request("GET", f"/v1/kv?key64={BYTES}").body == b"of bytes"
    page.fill("form input[type=search]", "b64:_w")
    page.click("button:text-is('Find')")
    page.click(f".leaf:has-text('b64:{BYTES}')")
    page.click("button:text-is('Rename')")
    page.fill("dialog label:has-text('New key') input", r"odd/re\u200bnamed")
    page.click("dialog button:text-is('Rename')")
    page.wait_for_selector(r".one h2:has-text('odd/re\\u200bnamed')")
    assert cluster.request("GET", "/v1/kv/odd%2Fre%E2%80%8Bnamed").body == b"of bytes"
    assert cluster.request("GET", f"/v1/kv?key64={BYTES}").status == 404
    assert opened.complaints == []


def test_a_name_that_is_there_twice_is_shown_twice_and_told(tab: Callable[..., Tab], cluster: Cluster) -> None:
    put(cluster, "twice", b'{"b": 1, "2": {"c": [{"x": 10000000000000000001, "x": 2}]}, "1": 3}', "application/json")
    opened = tab()
    page = opened.show("#/keys?key=twice")
    page.wait_for_selector("text=An object has a name more than once: x.")
    for _ in range(2):
        page.locator(".json details:not([open]) > summary").first.click()
    page.wait_for_selector(".json .flag >> nth=1")
    lines = page.locator(".json").inner_text()
    assert lines.index("b:") < lines.index("2:") < lines.index("1:"), "in the order in which they stand there"
    page.click("button:text-is('Edit')")
    page.wait_for_selector(".editor >> text=An object has a name more than once: x.")
    page.click("button:text-is('Format')")
    assert page.input_value(".editor textarea").count('"x":') == 2
    opened.check()


def test_json_with_a_very_long_text_and_very_deep_is_shown(tab: Callable[..., Tab], cluster: Cluster) -> None:
    opened = tab()
    page = opened.show("#/keys")
    found = page.evaluate(
        """async (address) => {
            const {jsonOf, pretty} = await import(address);
            const long = jsonOf('["' + 'x\\\\"'.repeat(9e6) + '"]');
            const deep = jsonOf('['.repeat(5000) + ']'.repeat(5000));
            return [long.items[0].text.length, deep.kind, pretty('{"a":[1,{}]}'), jsonOf('[1,]') === undefined];
        }""",
        module(page, "lib/json.js"),
    )
    assert found == [27_000_002, "array", '{\n  "a": [\n    1,\n    {}\n  ]\n}', True]


def drop_answers(page: Any, method: str, path: str, times: int = 1) -> list[str]:
    """Lets requests through, and loses their answers; returns the keys that make them happen once."""
    keys: list[str] = []

    def lose(route: Any) -> None:
        if route.request.method != method:
            route.fallback()
            return
        keys.append(route.request.headers["idempotency-key"])
        if len(keys) > times:
            route.fallback()
            return
        route.fetch()
        route.abort()

    page.route(path, lose)
    return keys


def test_what_nobody_knows_the_outcome_of_is_done_once_when_it_is_tried_again(
    tab: Callable[..., Tab], cluster: Cluster
) -> None:
    opened = tab()
    page = opened.show("#/keys")
    keys = drop_answers(page, "PUT", "**/v1/kv/once*")
    page.click("button:text-is('New key')")
    page.fill("dialog label:has-text('Key') input", "once")
    page.fill("dialog textarea", "made")
    page.click("dialog button:text-is('Create')")
    page.wait_for_selector("dialog >> text=The facade gave no answer. It may have been applied all the same.")
    page.click("dialog button:text-is('Create')")
    page.wait_for_selector(".one pre >> text=made")
    assert len(keys) == 2 and len(set(keys)) == 1
    gone = drop_answers(page, "DELETE", "**/v1/kv/once*")
    page.click(".one button:text-is('Delete')")
    page.click("dialog button:text-is('Delete')")
    page.wait_for_selector("dialog >> text=The facade gave no answer. It may have been applied all the same.")
    page.click("dialog button:text-is('Delete')")
    page.wait_for_selector(".note >> text=once is deleted.")
    assert len(gone) == 2 and len(set(gone)) == 1
    assert opened.complaints == []


def test_another_file_of_the_same_name_is_another_request(
    tab: Callable[..., Tab], cluster: Cluster, tmp_path: Any
) -> None:
    put(cluster, "file", b"0")
    opened = tab()
    page = opened.show("#/keys?key=file")
    keys = drop_answers(page, "PUT", "**/v1/kv/file*", times=2)
    page.click("button:text-is('Edit')")
    for body in (b"one", b"two"):
        page.set_input_files(".editor input[type=file]", {"name": "f", "mimeType": "text/plain", "buffer": body})
        page.click("button:text-is('Save')")
        page.wait_for_selector(f".trouble, .conflict >> nth={0}")
        page.wait_for_selector("button:text-is('Save'):not([disabled]), .conflict")
    assert len(keys) == 2 and len(set(keys)) == 2, "else the answer to the first one would be told of the second"


def test_graphs_are_drawn_once_what_draws_them_can_be_loaded(open_tab: Callable[..., Tab], unguarded: Served) -> None:
    opened = open_tab(unguarded)
    lost: list[str] = []

    def lose(route: Any) -> None:
        lost.append(route.request.url)
        route.abort() if len(lost) == 1 else route.fallback()

    opened.page.route("**/uplot-*.js", lose)
    page = opened.show("#/graphs")
    page.wait_for_selector("text=What draws could not be loaded")
    page.wait_for_selector(".chart canvas")
    page.wait_for_selector("text=What draws could not be loaded", state="detached")
    assert len(lost) == 2


@pytest.mark.parametrize(
    ("roles", "health"),
    [
        (("follower", "unreachable", "unreachable", "learner"), "no quorum"),
        (("follower", "follower", "unreachable", "learner"), "no leader"),
        (("follower", "follower", "unreachable", "gone learner"), "no leader"),
        (("follower", "unreachable", "gone learner"), "no quorum"),
        (("leader", "follower", "follower", "gone learner"), "3 of 4 nodes"),
    ],
)
def test_a_learner_is_no_part_of_a_quorum(
    open_tab: Callable[..., Tab], unguarded: Served, roles: tuple[str, ...], health: str
) -> None:
    page = open_tab(unguarded).show("#/try")
    nodes = [
        {"id": f"n{at}", "role": "unreachable", "learner": True}
        if role == "gone learner"
        else {"id": f"n{at}", "role": role}
        for at, role in enumerate(roles)
    ]
    told = page.evaluate(
        "async ([address, nodes]) => (await import(address)).healthOf({id: 0, nodes})",
        [module(page, "views/cluster.js"), nodes],
    )
    assert told["text"] == health


def test_a_right_that_comes_back_is_found_again(open_tab: Callable[..., Tab], unguarded: Served) -> None:
    opened = open_tab(unguarded)
    asked: list[str] = []

    def answer(route: Any) -> None:
        asked.append(route.request.url)
        if len(asked) == 1:
            route.fulfill(status=403, json={"status": 403, "code": "forbidden", "detail": "It is refused."})
        else:
            route.fallback()

    opened.page.route("**/v1/console/stream", answer)
    opened.page.goto(f"{unguarded.url}/ui/")
    opened.page.wait_for_selector(".connection.live")
    opened.page.wait_for_selector("h1:text-is('Cluster')")
    assert len(asked) == 2


def test_what_was_typed_outlives_the_session_and_goes_with_whoever_typed_it(
    open_tab: Callable[..., Tab], guarded: Served
) -> None:
    opened = open_tab(guarded)
    page = sign_in(opened, guarded.tokens["writer"], "#/keys")
    page.click("button:text-is('New key')")
    page.fill("dialog label:has-text('Key') input", "typed")
    page.fill("dialog textarea", "first")
    page.click("dialog button:text-is('Create')")
    page.wait_for_selector(".one pre >> text=first")
    page.click("button:text-is('Edit')")
    page.fill(".editor textarea", "much work")
    opened.context.clear_cookies()
    page.click("button:text-is('Save')")
    page.fill("dialog input[type=password]", guarded.tokens["writer"])
    page.click("dialog button:text-is('Sign in')")
    page.wait_for_selector("dialog", state="detached")
    assert page.input_value(".editor textarea") == "much work"
    page.click("button:text-is('Save')")
    page.wait_for_selector(".one pre >> text=much work")
    page.click("button:text-is('Edit')")
    page.fill(".editor textarea", "a secret")
    page.click("button:text-is('Sign out')")
    page.wait_for_selector(".editor", state="detached")
    page.fill("dialog input[type=password]", guarded.tokens["admin"])
    page.click("dialog button:text-is('Sign in')")
    page.wait_for_selector(".one pre >> text=much work")
    page.click("button:text-is('Edit')")
    assert page.input_value(".editor textarea") == "much work"
    assert opened.complaints == []


def test_what_was_typed_for_a_new_key_is_there_again_after_the_dialog_was_closed(
    tab: Callable[..., Tab], cluster: Cluster
) -> None:
    opened = tab()
    page = opened.show("#/keys")
    page.click("button:text-is('New key')")
    page.fill("dialog label:has-text('Key') input", "closed")
    page.fill("dialog textarea", "much work")
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog", state="detached")
    page.click("button:text-is('New key')")
    page.wait_for_selector("dialog >> text=What you typed before is here again.")
    page.click("dialog button:text-is('Create')")
    page.wait_for_selector(".one pre >> text=much work")
    page.click("button:text-is('New key')")
    assert page.input_value("dialog textarea") == ""
    page.fill("dialog textarea", "not meant")
    page.keyboard.press("Escape")
    page.click("button:text-is('New key')")
    page.click("dialog button:text-is('Begin anew')")
    assert page.input_value("dialog textarea") == ""
    opened.check()


def test_whoever_leaves_a_key_while_it_is_saved_is_told_and_stays_where_they_are(
    tab: Callable[..., Tab], cluster: Cluster
) -> None:
    put(cluster, "slow/one", b"first")
    put(cluster, "slow/two", b"other")
    opened = tab()
    waiting: list[Any] = []
    opened.page.route(
        "**/v1/kv/slow*", lambda route: waiting.append(route) if route.request.method == "PUT" else route.fallback()
    )
    page = opened.show("#/keys?prefix=slow%2F&key=slow%2Fone")
    for end, told in (
        ("abort", "slow/one may not be saved: The facade gave no answer. It may have been applied all the same."),
        ("continue_", "slow/one is saved"),
    ):
        page.click("button:text-is('Edit')")
        if end == "abort":
            page.fill(".editor textarea", "much work")
        assert page.input_value(".editor textarea") == "much work", "it was kept when saving failed"
        page.click("button:text-is('Save')")
        page.wait_for_selector(".editor textarea[readonly]")
        page.click(".leaf:has-text('two')")
        page.wait_for_selector(".one pre >> text=other")
        getattr(waiting.pop(), end)()
        page.wait_for_selector(f".note >> text={told}")
        assert "key=slow%2Ftwo" in page.url
        page.click(".leaf:has-text('one')")
        page.wait_for_selector(".one h2:has-text('slow/one')")
    page.wait_for_selector(".one pre >> text=much work")
    page.click("button:text-is('Edit')")
    assert page.locator("text=What you typed before is here again").count() == 0
    assert opened.complaints == []


def test_a_key_is_made_once_though_the_facade_is_started_anew_meanwhile(
    tab: Callable[..., Tab], cluster: Cluster
) -> None:
    opened = tab()
    page = opened.show("#/keys")
    keys = drop_answers(page, "PUT", "**/v1/kv/anew*")
    page.click("button:text-is('New key')")
    page.fill("dialog label:has-text('Key') input", "anew")
    page.fill("dialog textarea", "made once")
    page.click("dialog button:text-is('Create')")
    page.wait_for_selector("dialog >> text=The facade gave no answer. It may have been applied all the same.")
    cluster.kill("facade")
    page.wait_for_selector(".connection.lost")
    page.wait_for_selector(".connection.live")
    page.click("dialog button:text-is('Create')")
    page.wait_for_selector(".one pre >> text=made once")
    assert len(keys) >= 2 and len(set(keys)) == 1
    assert opened.complaints == []


def test_a_file_that_is_no_utf_8_is_not_imported_as_something_else(tab: Callable[..., Tab], cluster: Cluster) -> None:
    opened = tab()
    page = opened.show("#/keys?prefix=import%2F")
    line = '{"key": "import/a", "value": "\u00e9", "encoding": "utf-8"}\n'
    for encoding, told in (("latin-1", "The file is no UTF-8"), ("utf-8-sig", "1 key imported")):
        page.select_option("select[aria-label='Do with all of these']", "import")
        page.set_input_files(
            "dialog input[type=file]", {"name": "f.ndjson", "mimeType": "", "buffer": line.encode(encoding)}
        )
        page.click("dialog button:text-is('Import')")
        page.wait_for_selector(f"text={told}")
        if encoding == "latin-1":
            page.click("dialog button:text-is('Cancel')")
    assert cluster.request("GET", "/v1/kv/import/a").body == "\u00e9".encode()
    opened.check()


def test_whoever_signs_in_again_in_one_tab_is_asked_in_no_other(open_tab: Callable[..., Tab], guarded: Served) -> None:
    opened = open_tab(guarded)
    first = sign_in(opened, guarded.tokens["writer"], "#/keys")
    second = opened.context.new_page()
    second.goto(f"{guarded.url}/ui/#/keys")
    second.wait_for_selector("button:text-is('Sign out')")
    opened.context.clear_cookies()
    # Sent to the button itself: whoever asks first, the page or this, the question may lie above it by then.
    second.dispatch_event("button:text-is('Refresh')", "click")
    for page in (first, second):
        page.wait_for_selector("button:text-is('Sign out')", state="detached")
    first.wait_for_selector("dialog input[type=password]")
    second.fill("dialog input[type=password]", guarded.tokens["writer"])
    second.click("dialog button:text-is('Sign in')")
    for page in (first, second):
        page.wait_for_selector("button:text-is('Sign out')")
        page.wait_for_selector("dialog", state="detached")
