"""What pages that are not the facade's can do with it, in a real browser: nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from bench.cluster import Cluster
from integration.browser.foreign_site import ForeignSite

pytestmark = [pytest.mark.integration, pytest.mark.seconds, pytest.mark.slow]

EVIL = "evil.example"


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    context = browser.new_context(accept_downloads=True)
    yield context.new_page()
    context.close()


def put(cluster: Cluster, key: str, body: bytes, content_type: str) -> None:
    assert cluster.request("PUT", f"/v1/kv/{key}", body, {"content-type": content_type}).status == 200


def members(cluster: Cluster) -> set[str]:
    document = json.loads(cluster.request("GET", "/v1/shards/0/members").body)
    return {member["name"] for member in document["members"]}


@pytest.mark.parametrize("method", ["form", "fetch"])
def test_a_foreign_page_takes_nothing_and_changes_nothing(
    page: Any, cluster: Cluster, foreign: tuple[type[ForeignSite], str], method: str
) -> None:
    site, address = foreign
    put(cluster, "kept", b"secret", "text/plain")
    before = members(cluster)
    target = f"{cluster.url}/v1/shards/0/members"
    document = json.dumps({"name": "taker", "address": "127.0.0.1:1", "incarnation": "7"})
    if method == "form":
        # The body of a text/plain form can be made to be JSON.
        name, value = document[:-1] + ', "x": "', '"}'
        site.page = (
            f"<form method=post enctype=text/plain action='{target}'><input name='{name}' value='{value}'></form>"
            "<script>document.forms[0].submit()</script>"
        )
        with page.expect_response(lambda response: response.url == target) as answered:
            page.goto(address)
        assert answered.value.status == 403
        assert answered.value.json()["code"] == "cross_origin"
    else:
        site.page = "<p>a page</p>"
        page.goto(address)
        attack = """async ([base, document]) => {
            const tried = async (path, options) => {
                try { return (await (await fetch(base + path, options)).text()) || 'opaque'; }
                catch (error) { return error.name; }
            };
            return [
                await tried('/v1/shards/0/members', {method: 'POST', mode: 'no-cors', body: document}),
                await tried('/v1/kv/kept', {method: 'POST', mode: 'no-cors', body: 'x'}),
                await tried('/v1/kv/kept', {method: 'PUT', body: 'x'}),
                await tried('/v1/kv/kept', {method: 'DELETE'}),
                await tried('/v1/kv?prefix=', {method: 'DELETE'}),
                await tried('/v1/kv/kept', {}),
                await tried('/v1/console/state', {}),
                await tried('/v1/console/stream', {}),
            ];
        }"""
        found = page.evaluate(attack, [cluster.url, document])
        assert set(found) <= {"TypeError", "opaque"}
        assert found[-3:] == ["TypeError"] * 3
    answer = cluster.request("GET", "/v1/kv/kept")
    assert (answer.status, answer.body) == (200, b"secret")
    assert members(cluster) == before


def test_a_page_whose_name_leads_to_the_facade_gets_nothing(launch: Callable[..., Any], cluster: Cluster) -> None:
    put(cluster, "kept", b"secret", "text/plain")
    rebound = launch(f"--host-resolver-rules=MAP {EVIL} 127.0.0.1").new_page()
    base = f"http://{EVIL}:{urlsplit(cluster.url).port}"
    for path in ("/v1/kv/kept", "/ui/", "/v1/cluster", "/v1/console/state"):
        answer = rebound.goto(base + path)
        assert (answer.status, answer.json()["code"]) == (421, "unknown_host"), path
        assert "secret" not in rebound.content()
    # What runs at the origin of that page is as far as it gets.
    tried = "fetch('/v1/kv/kept', {method: 'PUT', body: 'x'}).then((answer) => answer.status)"
    assert rebound.evaluate(tried) == 421
    assert cluster.request("GET", "/v1/kv/kept").body == b"secret"


@pytest.mark.parametrize("content_type", ["text/html", "image/svg+xml", "application/xhtml+xml", "text/xml"])
def test_a_stored_page_runs_no_script(page: Any, cluster: Cluster, content_type: str) -> None:
    script = "fetch('/v1/kv/ran', {method: 'PUT', body: 'x'})"
    if content_type == "text/html":
        body = f'<script>{script}</script><img src=x onerror="{script}">'
    elif content_type == "application/xhtml+xml":
        body = f'<html xmlns="http://www.w3.org/1999/xhtml"><body><script>{script}</script></body></html>'
    else:
        body = f'<svg xmlns="http://www.w3.org/2000/svg" onload="{script}"><script>{script}</script></svg>'
    put(cluster, "active", body.encode(), content_type)
    page.goto(f"{cluster.url}/docs")
    with page.expect_download() as downloaded:
        page.evaluate("location.href = '/v1/kv/active'")
    assert downloaded.value.url.endswith("/v1/kv/active")
    # Nor where the browser is made to show it in a frame, as an object, or in the console.
    page.evaluate("""async () => {
        const frame = document.createElement('iframe');
        frame.src = '/v1/kv/active';
        document.body.append(frame);
        await new Promise((resolve) => setTimeout(resolve, 300));
    }""")
    page.goto(f"{cluster.url}/ui/#/keys?key=active")
    page.wait_for_selector("text=Revision")
    page.click("button:text-is('Image')")
    page.click("button:text-is('Text')")
    page.wait_for_selector("pre.value")
    assert cluster.request("GET", "/v1/kv/ran").status == 404


AS_PARTS = """async (base) => {
    const value = (name) => `${base}/v1/kv/${name}`;
    const added = (tag, fields) => new Promise((resolve) => {
        const made = Object.assign(document.createElement(tag), fields);
        made.onload = () => resolve(`${tag} loaded`);
        made.onerror = () => resolve(`${tag} refused`);
        document.body.append(made);
    });
    const worker = (make) => new Promise((resolve) => {
        const made = make();
        made.onmessage = made.port ? null : () => resolve('worker ran');
        made.onerror = () => resolve('worker refused');
    });
    return [
        await added('script', {src: value('evil.js')}),
        await added('script', {src: value('evil.js'), type: 'module'}),
        await import(value('evil.js')).then(() => 'imported', () => 'import refused'),
        await worker(() => new Worker(value('evil.js'))),
        await worker(() => new SharedWorker(value('evil.js'))),
        await navigator.serviceWorker.register(value('evil.js')).then(() => 'registered', () => 'registration refused'),
        await added('link', {rel: 'stylesheet', href: value('evil.css')}),
        await added('img', {src: value('kept.svg')}),
        globalThis.ran ?? 'nothing ran',
    ];
}"""
SQUARE = b'<svg xmlns="http://www.w3.org/2000/svg" width="1" height="1"/>'


def test_the_consoles_own_page_runs_nothing_that_is_stored(page: Any, cluster: Cluster) -> None:
    """Its policy allows what is of its origin, and values are: whoever got one line of markup in could run them."""
    put(cluster, "evil.js", b"globalThis.ran = 'it ran'; globalThis.postMessage?.('ran');", "text/javascript")
    put(cluster, "evil.css", b"body { display: none; }", "text/css")
    put(cluster, "kept.svg", SQUARE, "image/svg+xml")
    page.goto(f"{cluster.url}/ui/")
    page.wait_for_selector("h1")
    answers: list[int] = []
    page.on("response", lambda response: answers.extend([response.status] if "/evil." in response.url else []))
    assert page.evaluate(AS_PARTS, cluster.url) == [
        *("script refused", "script refused", "import refused", "worker refused", "worker refused"),
        *("registration refused", "link refused", "img loaded", "nothing ran"),
    ]
    assert answers and set(answers) == {403}
    # As a page of its own, and by fetch, a value is there as ever.
    assert page.evaluate("fetch('/v1/kv/evil.js').then((answer) => answer.status)") == 200
    assert cluster.request("GET", "/v1/kv/evil.js").status == 200
