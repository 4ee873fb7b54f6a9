"""What the console says is so: of places that do not exist, of what is kept, of what one may do, and only once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from integration.browser.conftest import Served, Tab, sign_in
from integration.browser.looking import VIEWS_THAT_ASK
from integration.browser.test_browser_members import MEMBERS

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(240)]

MODULE = "(name) => document.querySelector('script[type=module]').src.replace(/app\\.js$/, name)"
PUT = """async ([key, body, headers]) =>
    (await fetch(`/v1/kv/${encodeURIComponent(key)}`, {method: 'PUT', body, headers})).status"""
MODULES_OF_A_SHARD = ("views/cluster", "views/shard", "lib/preact")
DRAFT = "([{keepDraft}, name]) => keepDraft(`edit ${name}`, {name})"


@pytest.fixture
def opened(open_tab: Callable[..., Tab], unguarded: Served) -> Tab:
    """A tab of a console for everybody."""
    return open_tab(unguarded)


def test_a_key_with_a_question_mark_is_found_by_a_link_that_somebody_wrote(opened: Tab) -> None:
    page = opened.show("#/keys")
    assert page.evaluate(PUT, ["q/a?b", "asked", {}]) == 200
    page.goto(f"{opened.cluster.url}/ui/#/keys?key=q/a?b")
    page.wait_for_selector(".one h2 >> text=q/a?b")
    page.wait_for_selector(".one pre >> text=asked")
    opened.check()


def test_a_node_that_waits_is_not_counted_as_up(opened: Tab) -> None:
    state = opened.show("#/keys").evaluate("async () => (await fetch('/v1/console/state')).json()")
    state["shards"][0]["nodes"][0]["role"] = "waiting"
    nodes = sum(len(shard["nodes"]) for shard in state["shards"])
    text = opened.page.evaluate(
        """async ([view, preact, state]) => {
            const [{ClusterView}, {html, render}] = [await import(view), await import(preact)];
            const into = document.createElement('div');
            render(html`<${ClusterView} state=${state} />`, into);
            return into.querySelector('.figures').textContent;
        }""",
        [opened.page.evaluate(MODULE, "views/cluster.js"), opened.page.evaluate(MODULE, "lib/preact.js"), state],
    )
    assert f"Nodes up{nodes - 1} of {nodes}" in text


def test_what_no_node_tells_is_no_figure(opened: Tab) -> None:
    state = opened.show("#/keys").evaluate("async () => (await fetch('/v1/console/state')).json()")
    for node in state["shards"][0]["nodes"]:
        node.update(role="unreachable", term=None, commit=None, applied=None)
    text = opened.page.evaluate(
        """async ([cluster, shard, preact, state]) => {
            const modules = await Promise.all([cluster, shard, preact].map((each) => import(each)));
            const [{ClusterView}, {ShardView}, {html, render}] = modules;
            const into = document.createElement('div');
            render(html`<${ClusterView} state=${state} />
                <${ShardView} state=${state} place=${{parts: ["0"]}} lost=${false} />`, into);
            return into.textContent;
        }""",
        [
            *(opened.page.evaluate(MODULE, f"{name}.js") for name in ("views/cluster", "views/shard", "lib/preact")),
            state,
        ],
    )
    assert "term \u2013" in text and "commit \u2013" in text
    assert "Term\u2013" in text and "Commit\u2013" in text


def test_the_lines_of_dougctl_quote_the_names_of_members(opened: Tab) -> None:
    name = "a b;'c"
    members = [MEMBERS["members"][0], {**MEMBERS["members"][1], "name": name}]  # type: ignore[index]
    opened.page.route("**/v1/console/members?*", lambda route: route.fulfill(json={**MEMBERS, "members": members}))
    page = opened.show("#/shard/0")
    quoted = "'a b;'\\''c'"
    for button, line in (
        ("Remove", f"dougctl members remove {quoted} --shard 0"),
        ("Replace", f"dougctl members replace {quoted} --shard 0"),
        ("Make leader", f"dougctl leader transfer --shard 0 --to {quoted}"),
    ):
        page.click(f'tr:has-text("{name}") button:has-text("{button}")')
        assert page.locator("dialog code").last.inner_text() == line
        page.click("dialog button:text-is('Cancel')")


def test_the_keys_of_a_slot_are_asked_for_again_after_a_failure(opened: Tab) -> None:
    page = opened.show("#/slots")
    assert page.evaluate(PUT, ["slot/again", "v", {}]) == 200
    page.route("**/v1/kv?slot=*", lambda route: route.abort())
    page.fill("label:has-text('Slot of key') input", "slot/again")
    page.click("button:text-is('Find')")
    page.wait_for_selector(".trouble >> text=The facade gave no answer.")
    page.unroute("**/v1/kv?slot=*")
    page.click(".trouble button:text-is('Try again')")
    page.wait_for_selector(".slot-keys >> text=slot/again")


def test_that_a_value_is_being_read_is_said_until_it_is_there(opened: Tab) -> None:
    held: list[Any] = []

    def hold(route: Any) -> None:
        held.append(route)

    opened.page.route("**/v1/kv/told%2Fslow", hold)
    page = opened.show("#/keys?key=told%2Fslow")
    page.wait_for_selector(".one >> text=Reading…")
    held[0].fulfill(body=b"at last", content_type="text/plain")
    page.wait_for_selector(".one pre >> text=at last")
    assert page.locator(".one >> text=Reading…").count() == 0


def test_why_a_value_cannot_be_edited_is_what_is_so(opened: Tab) -> None:
    page = opened.show("#/keys")
    pack = """async () => {
        const packed = new Blob(['x'.repeat(2 << 20)]).stream().pipeThrough(new CompressionStream('gzip'));
        const kept = [['packed', await new Response(packed).blob(), {'content-encoding': 'gzip'}],
            ['bytes', new Uint8Array([255, 254]), {}]];
        for (const [name, body, headers] of kept) await fetch(`/v1/kv/told%2F${name}`, {method: 'PUT', body, headers});
    }"""
    page.evaluate(pack)
    page.route("**/v1/kv/told%2Flarge", lambda route: route.fulfill(body=b"x" * ((1 << 20) + 1)))
    for name, told in (
        ("packed", "This value is stored packed (gzip), and cannot be edited here"),
        ("bytes", "This value is no text, and cannot be edited here"),
        ("large", "This value has more than 1.0 MiB, and cannot be edited here"),
    ):
        page.goto(f"{opened.cluster.url}/ui/#/keys?key=told%2F{name}")
        page.wait_for_selector(f".one h2:has-text('told/{name}')")
        page.click("button:text-is('Edit')")
        page.wait_for_selector(f".editor >> text={told}")
        page.click(".editor button:text-is('Cancel')")


def test_a_timeline_of_a_shard_that_is_not_there_says_so(opened: Tab) -> None:
    page = opened.show("#/timeline?shard=abc")
    page.wait_for_selector("text=There is no shard abc.")
    assert "NaN" not in page.inner_text("main")
    page.click("a:text-is('To the timeline')")
    page.wait_for_selector("h2:has-text('All shards:')")
    opened.check()


def test_whose_draft_is_dropped_is_told(opened: Tab) -> None:
    page = opened.show("#/keys")
    drafts = page.evaluate_handle("(address) => import(address)", page.evaluate(MODULE, "lib/drafts.js"))
    for number in range(20):
        page.evaluate(DRAFT, [drafts, f"typed/{number}"])
    assert page.locator(".note").count() == 0
    page.evaluate(DRAFT, [drafts, "typed/more"])
    page.wait_for_selector(".note.bad >> text=What you typed for typed/0 and did not save is kept no longer")


@pytest.mark.parametrize(("role", "may"), [("reader", False), ("writer", True)])
def test_only_who_may_make_a_key_is_told_how(
    open_tab: Callable[..., Tab], guarded: Served, role: str, may: bool
) -> None:
    page = sign_in(open_tab(guarded), guarded.tokens[role], "#/keys")
    page.wait_for_selector("text=There are no keys yet.")
    page.wait_for_selector(f"button:has-text('New key'):{'enabled' if may else 'disabled'}")
    assert page.locator("text=makes one").count() == int(may)


@pytest.mark.parametrize("place", ["#/timeline?shard=0", "#/slots", "#/graphs", "#/shard/0"])
def test_that_the_facade_is_away_is_said_once(opened: Tab, place: str) -> None:
    page = opened.show(place)
    page.wait_for_selector(".connection.live")
    page.wait_for_selector(".card >> nth=0")
    page.route("**/v1/console/*", lambda route: route.abort())
    # The stream that is open cannot be broken off from here: another one is begun as when the page is shown again.
    page.evaluate(
        """() => {
            for (const hidden of [true, false]) {
                Object.defineProperty(document, 'hidden', {value: hidden, configurable: true});
                document.dispatchEvent(new Event('visibilitychange'));
            }
        }"""
    )
    with page.expect_event("requestfailed", lambda request: "/v1/console/stream" not in request.url):
        page.wait_for_selector(".connection.lost")
    page.wait_for_timeout(100)
    assert page.locator("text=There is no connection to the facade").count() == 1
    assert page.locator("text=The facade gave no answer").count() == 0
    page.unroute("**/v1/console/*")
    page.wait_for_selector(".connection.live")


@pytest.mark.parametrize(("place", "asked_for"), VIEWS_THAT_ASK)
def test_a_facade_that_tells_states_is_not_told_to_be_away_while_an_answer_takes_long(
    opened: Tab, place: str, asked_for: str
) -> None:
    opened.page.clock.install()
    opened.page.route(f"**{asked_for}**", lambda route: None)
    with opened.page.expect_request(f"**{asked_for}**"):
        page = opened.show(place)
    page.clock.fast_forward(20_000)
    page.wait_for_selector(".connection.live")
    page.wait_for_selector(".trouble >> text=The facade gave no answer within 20 s. It is asked again.")
    assert page.locator(".trouble").count() == 1
    assert "does not answer" not in page.inner_text("main")
