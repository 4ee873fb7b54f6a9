"""The console where a facade asks who one is: signing in, what is shown to whom, and what other pages can do."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from bench.cluster import Cluster
from integration.browser.conftest import Served, Tab, new_token, put, sign_in
from integration.browser.foreign_site import ForeignSite
from integration.browser.looking import look, tour

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(240)]

ATTACK = """async (base) => {
    const tried = async (path, options) => {
        try { return (await (await fetch(base + path, {credentials: 'include', ...options})).text()) || 'opaque'; }
        catch (error) { return error.name; }
    };
    const streamed = (path) => new Promise((resolve) => {
        const stream = new EventSource(base + path, {withCredentials: true});
        stream.onmessage = () => resolve('message');
        stream.addEventListener('state', () => resolve('state'));
        stream.onerror = () => { stream.close(); resolve('refused'); };
    });
    return [
        await tried('/v1/kv/kept', {method: 'POST', mode: 'no-cors', body: 'x'}),
        await tried('/v1/kv/kept', {method: 'PUT', body: 'x'}),
        await tried('/v1/kv/kept', {method: 'PUT', body: 'x', headers: {'doug-csrf': 'x'}}),
        await tried('/v1/kv/kept', {method: 'DELETE'}),
        await tried('/v1/auth/tokens', {method: 'POST', mode: 'no-cors', body: '{}'}),
        await tried('/v1/auth/session', {method: 'DELETE'}),
        await tried('/v1/kv/kept', {}),
        await tried('/v1/console/state', {}),
        await streamed('/v1/console/stream'),
        await streamed('/v1/watch?from=start'),
    ];
}"""


@pytest.fixture
def open_console(open_tab: Callable[..., Tab], guarded: Served) -> Callable[..., Tab]:
    return functools.partial(open_tab, guarded)


def test_one_signs_in_and_is_shown_what_one_may_do(
    open_console: Callable[..., Tab], guarded: Served, pictures: Path
) -> None:
    tab = open_console()
    page = tab.page
    page.goto(f"{guarded.url}/ui/")
    page.fill("dialog input", "doug_wrong")
    look(page, pictures, "signed-out")
    page.click("dialog button:text-is('Sign in')")
    page.wait_for_selector("dialog .trouble >> text=The token is not known")
    page.fill("dialog input", guarded.tokens["reader"])
    page.click("dialog button:text-is('Sign in')")
    page.wait_for_selector(".who >> text=token:reader")
    page.wait_for_selector(".no-rights >> text=does not have the right")
    look(page, pictures, "reader")
    page.set_viewport_size({"width": 360, "height": 740})
    tops = page.eval_on_selector_all(".top .row > *", "(all) => all.map((each) => each.getBoundingClientRect().bottom)")
    assert max(tops) - min(tops) < 20, "who one is and the way out are one line"
    page.set_viewport_size({"width": 1280, "height": 900})
    for view in ("#/timeline", "#/slots", "#/graphs", "#/shard/0"):
        page.goto(f"{guarded.url}/ui/{view}")
        page.wait_for_selector(".no-rights")
    page.goto(f"{guarded.url}/ui/#/keys")
    page.wait_for_selector("text=/There are no keys yet|Load|kept/")
    make = page.locator("button:has-text('New key')")
    page.wait_for_selector(".tools button:disabled")
    assert make.is_disabled()
    assert "does not have the right write" in make.get_attribute("title")
    look(page, pictures, "reader-keys")
    page.click("button:text-is('Sign out')")
    page.wait_for_selector("dialog input[type=password]")
    assert tab.context.cookies() == []
    assert page.evaluate("Object.keys(localStorage)") == ["dougdb.theme"]
    assert tab.complaints == []
    assert {failure.split()[0] for failure in tab.failures} <= {"401", "403"}


def test_a_session_is_shared_by_tabs_and_no_script_reads_it(open_console: Callable[..., Tab], guarded: Served) -> None:
    tab = open_console()
    token = guarded.tokens["admin"]
    page = sign_in(tab, token)
    page.wait_for_selector(".connection.live")
    page.reload()
    page.wait_for_selector(".connection.live")
    other = tab.context.new_page()
    other.goto(f"{guarded.url}/ui/#/shard/0")
    other.wait_for_selector("button:has-text('Add a member'):enabled")
    other.click("button:has-text('Download a backup')")
    with other.expect_download() as downloaded:
        other.click("dialog button:text-is('Download')")
    other.click("dialog button:text-is('Close')")
    assert downloaded.value.suggested_filename == "shard-0.tar"
    kept = page.evaluate("[document.cookie, JSON.stringify({...localStorage}), JSON.stringify({...sessionStorage})]")
    cookies = tab.context.cookies()
    assert [(each["httpOnly"], each["sameSite"]) for each in cookies] == [(True, "Strict")]
    assert kept[0] == ""
    for secret in (token, token.rsplit("_", 1)[1]):
        assert secret not in "".join(kept) + json.dumps(cookies)
    other.click("button:text-is('Sign out')")
    page.wait_for_selector("dialog input[type=password]")
    assert tab.complaints == []


@pytest.mark.parametrize("site", ["localhost", "127.0.0.1"])
def test_another_page_does_nothing_with_the_session(
    open_console: Callable[..., Tab], guarded: Served, foreign: tuple[type[ForeignSite], str], site: str
) -> None:
    tab = open_console()
    page = sign_in(tab, guarded.tokens["admin"], "#/keys")
    own = "fetch('/v1/kv/kept', {method: '%s', body: %s, headers: {'doug-csrf': localStorage['dougdb.csrf']}})"
    assert page.evaluate(own % ("PUT", "'secret'") + ".then((answer) => answer.status)") == 200
    handler, address = foreign
    handler.page = "<p>a page of somebody else</p>"
    # Another port of the same host is another origin, and yet the browser sends it the facade's cookie.
    other = tab.context.new_page()
    other.goto(address.replace("localhost", site))
    found = other.evaluate(ATTACK, guarded.url)
    assert set(found) <= {"TypeError", "opaque", "refused"}
    assert found[-4:] == ["TypeError", "TypeError", "refused", "refused"]
    handler.page = (
        f"<form method=post enctype=text/plain action='{guarded.url}/v1/auth/tokens'><input name=a value=b></form>"
        "<script>document.forms[0].submit()</script>"
    )
    with other.expect_response(lambda response: response.url.endswith("/v1/auth/tokens")) as answered:
        other.goto(address.replace("localhost", site))
    assert answered.value.status == 403
    if site == "localhost":
        cookie = tab.context.cookies()[0]
        assert any(cookie["value"] in headers for headers in handler.seen), "that is why the cookie is worth nothing"
        # Whoever runs that server has the cookie, and cannot use it.
        answer = tab.context.request.get(f"{guarded.url}/v1/kv/kept", headers={"sec-fetch-site": "same-origin"})
        assert answer.status == 403
    # Nor where it is asked for as a picture, a script, a frame, or by going there.
    for going in (f"{guarded.url}/v1/kv/kept", f"{guarded.url}/v1/cluster"):
        other.goto(address.replace("localhost", site))
        with other.expect_response(lambda response, going=going: response.url == going) as answered:
            other.evaluate("(going) => { location.href = going; }", going)
        assert answered.value.status in (401, 403)
        assert "secret" not in answered.value.text()
    assert page.evaluate(own % ("GET", "undefined") + ".then((answer) => answer.text())") == "secret"


def test_a_revoked_token_ends_the_session_that_is_open(open_console: Callable[..., Tab], guarded: Served) -> None:
    tab = open_console()
    page = sign_in(tab, guarded.tokens["admin"], "#/keys")
    asked = """async ([method, path, body]) => (await fetch(path, {method, body, headers: {
        'doug-csrf': localStorage['dougdb.csrf'], 'content-type': 'application/json'}})).json()"""
    wanted = json.dumps({"name": "guest", "allow": ["read:*", "metrics"]})
    made = page.evaluate(asked, ["POST", "/v1/auth/tokens", wanted])
    guest = open_console()
    shown = sign_in(guest, made["token"])
    shown.wait_for_selector(".connection.live")
    page.evaluate(asked, ["DELETE", "/v1/auth/tokens/guest", None])
    shown.wait_for_selector("dialog input[type=password]")
    shown.wait_for_selector("text=Sign in to see this.")
    assert "401 /v1/console/stream" in guest.failures
    assert guest.complaints == []
    assert {host for host in guest.hosts if host} == {urlsplit(guarded.url).netloc}


def test_every_view_tells_whoever_has_no_rights_so(
    open_tab: Callable[..., Tab], strict: Cluster, pictures: Path
) -> None:
    put(strict, "doc/json", b"[1]", "application/json")
    nobody = open_tab(strict)
    sign_in(nobody, new_token(strict, "nobody", "read:other/"))
    tour(nobody, pictures, "no-rights")
    page = nobody.show("")
    page.wait_for_selector(".no-rights >> text=token:nobody does not have the right")
    page = nobody.show("#/keys?key=doc%2Fjson")
    page.wait_for_selector(".one .trouble >> text=403 forbidden")
    assert page.locator(".note").count() == 0, "it is told where it is missing, and not once more"
    page.click(".readable >> text=other/")
    page.wait_for_selector("text=No key begins so.")
    assert nobody.complaints == []
    assert {failure.split()[0] for failure in nobody.failures} <= {"401", "403"}
    # Whoever may look, and change nothing, sees everything; what they may not do is disabled, and says why.
    reader = open_tab(strict)
    sign_in(reader, new_token(strict, "looker", "read:*", "metrics"))
    page = reader.show("#/shard/0")
    page.wait_for_selector("button:has-text('Add a member'):disabled")
    look(page, pictures, "read-only-shard")
    assert "does not have the right admin:members" in page.locator("button:has-text('Add a member')").get_attribute(
        "title"
    )
    page = reader.show("#/keys?key=doc%2Fjson")
    page.wait_for_selector("button:has-text('Edit'):disabled")
    look(page, pictures, "read-only-keys")
    assert reader.complaints == []
    assert {failure.split()[0] for failure in reader.failures} <= {"401", "403"}
