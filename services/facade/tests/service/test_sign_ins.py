"""A browser that signs in: the session that it gets, what it may do with it, and what ends it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from facade_under_test import Facade
from structlog.testing import capture_logs

from doug_wire.auth import tokens
from doug_wire.auth.document import Held, TokenRecord
from doug_wire.auth.grants import parse_grant

Make = Callable[..., Awaitable[Facade]]
BOOTSTRAP = "bootstrap-" + "b" * 32
OWN = {"sec-fetch-site": "same-origin"}
CROSS_ORIGIN = (403, "cross_origin")


class Browser:
    """What a page of the console keeps: the cookie, which it cannot read, and its word."""

    def __init__(self, facade: Facade, cookie: str, csrf: str) -> None:
        self.facade = facade
        self.cookie = cookie
        self.csrf = csrf

    @property
    def shown(self) -> dict[str, str]:
        return {"cookie": self.cookie, "doug-csrf": self.csrf, **OWN}

    async def send(self, method: str, path: str, *, content: bytes | None = None, **changes: Any) -> httpx.Response:
        """Sends a request as the console does; ``changes`` replace headers, and None leaves one out."""
        changed = self.shown | {name.replace("_", "-"): value for name, value in changes.items()}
        headers = {name: value for name, value in changed.items() if value is not None}
        return await self.facade.http.request(method, path, content=content, headers=headers)


async def give_token(facade: Facade, name: str, *allow: str) -> str:
    made = tokens.mint()
    record = TokenRecord(made.id, made.salt, made.digest, Held(tuple(sorted(map(parse_grant, allow)))), 1)
    assert facade.state is not None
    await facade.state.change(lambda document: document.with_token(name, record))
    return made.text


async def sign_in(facade: Facade, token: str) -> Browser:
    answer = await facade.http.post("/v1/auth/session", headers={"authorization": f"Bearer {token}", **OWN})
    assert answer.status_code == 201, answer.text
    told, cookie = answer.json(), answer.headers["set-cookie"]
    facade.http.cookies.clear()
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert answer.headers["cache-control"] == "no-store"
    assert token not in answer.text + cookie
    return Browser(facade, cookie.split(";")[0], told["csrf"])


@pytest.fixture
async def facade(make_facade: Make, tmp_path: Path) -> Facade:
    (tmp_path / "bootstrap.token").write_text(BOOTSTRAP)
    made = await make_facade(
        nodes=1,
        auth_mode="token",
        auth_bootstrap_file=str(tmp_path / "bootstrap.token"),
        auth_poll_ms=50,
        audit_file=str(tmp_path / "audit.jsonl"),
        cors_origins="https://friend.example",
    )
    state = made.state
    assert state is not None
    await made.until(lambda: state.age_s() is not None, "the users are known")
    await made.use_sockets()
    return made


async def test_a_session_has_the_rights_of_its_token(facade: Facade) -> None:
    browser = await sign_in(facade, await give_token(facade, "app", "read:*", "write:app/"))
    assert (await browser.send("GET", "/v1/auth/whoami")).json()["principal"] == "token:app"
    assert (await browser.send("PUT", "/v1/kv/app/a", content=b"v")).status_code == 200
    assert (await browser.send("GET", "/v1/kv/app/a")).content == b"v"
    refused = await browser.send("PUT", "/v1/kv/other", content=b"v")
    assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
    assert (await browser.send("GET", "/v1/console/state")).status_code == 403
    # Who shows a token beside is whoever the token is for.
    other = await give_token(facade, "other", "metrics")
    answer = await browser.send("GET", "/v1/auth/whoami", authorization=f"Bearer {other}")
    assert answer.json()["principal"] == "token:other"
    assert (await browser.send("GET", "/v1/auth/whoami", authorization="Bearer wrong")).status_code == 401


async def test_a_cookie_without_its_word_does_nothing(facade: Facade) -> None:
    browser = await sign_in(facade, BOOTSTRAP)
    await browser.send("PUT", "/v1/kv/a", content=b"kept")
    for method, path in (
        ("PUT", "/v1/kv/a"),
        ("DELETE", "/v1/kv/a"),
        ("POST", "/v1/batch"),
        ("POST", "/v1/auth/tokens"),
        ("DELETE", "/v1/auth/session"),
        ("GET", "/v1/kv/a"),
        ("GET", "/v1/watch?prefix="),
        ("GET", "/v1/console/stream"),
    ):
        for word in (None, "", "wrong"):
            answer = await browser.send(method, path, doug_csrf=word)
            assert (answer.status_code, answer.json()["code"]) == (403, "csrf"), (method, path, word)
    # Its word without the cookie is nothing at all, and what is open to strangers stays so.
    assert (await browser.send("GET", "/v1/kv/a", cookie=None)).status_code == 401
    assert (await browser.send("GET", "/livez", doug_csrf=None)).status_code == 200
    assert (await browser.send("GET", "/ui/", doug_csrf=None)).status_code == 200
    assert (await browser.send("GET", "/v1/kv/a")).content == b"kept"


async def test_no_page_of_another_origin_uses_a_session_whatever_it_knows(facade: Facade) -> None:
    browser = await sign_in(facade, BOOTSTRAP)
    pages: list[dict[str, Any]] = [
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
        {"sec_fetch_site": "none"},
        {"sec_fetch_site": None, "origin": "http://localhost:1"},
        {"sec_fetch_site": None, "origin": "null"},
        {"sec_fetch_site": "cross-site", "origin": "https://friend.example"},
    ]
    requests = (("GET", "/v1/kv/a"), ("PUT", "/v1/kv/a"), ("GET", "/v1/watch"), ("GET", "/v1/console/state"))
    for foreign in pages:
        for method, path in requests:
            answer = await browser.send(method, path, **foreign)
            assert (answer.status_code, answer.json()["code"]) == CROSS_ORIGIN, (method, path, foreign)
            assert "access-control-allow-credentials" not in answer.headers
    assert (await browser.send("GET", "/v1/kv/a")).status_code == 404


async def test_signing_out_ends_the_session_and_its_streams(facade: Facade) -> None:
    browser, other = await sign_in(facade, BOOTSTRAP), await sign_in(facade, BOOTSTRAP)
    console = facade.application.console
    assert console is not None
    await console.collector.look()
    async with facade.http.stream("GET", "/v1/console/stream", headers=browser.shown) as stream:
        chunks = stream.aiter_bytes()
        await anext(chunks)
        answer = await browser.send("DELETE", "/v1/auth/session")
        assert (answer.status_code, answer.headers["set-cookie"].split("; ")[-1]) == (204, "Max-Age=0")
        await console.collector.look()
        async with asyncio.timeout(60):
            async for _ in chunks:
                await console.collector.look()
    assert (await browser.send("GET", "/v1/auth/whoami")).status_code == 401
    assert (await other.send("GET", "/v1/auth/whoami")).status_code == 200
    facade.http.cookies.clear()
    again = await facade.http.delete("/v1/auth/session", headers={"authorization": f"Bearer {BOOTSTRAP}"})
    assert (again.status_code, again.json()["code"]) == (400, "bad_auth")


async def test_a_revoked_token_ends_its_sessions(facade: Facade) -> None:
    browser = await sign_in(facade, await give_token(facade, "app", "read:*"))
    assert (await browser.send("GET", "/v1/kv/a")).status_code == 404
    state, shard = facade.state, facade.cluster.shards[0]
    assert state is not None
    # As another facade does it: this one sees it by looking.
    shard.auth = (shard.auth[0] + 1, state.document.without_token("app").encode())
    async with asyncio.timeout(60):
        while (await browser.send("GET", "/v1/kv/a")).status_code != 401:
            await asyncio.sleep(0.02)


async def test_another_bootstrap_token_ends_the_sessions_of_the_one_before(facade: Facade, tmp_path: Path) -> None:
    browser = await sign_in(facade, BOOTSTRAP)
    (tmp_path / "bootstrap.token").write_text(BOOTSTRAP + "-another")
    assert facade.gate is not None
    facade.gate._bootstrap.refresh()
    assert (await browser.send("GET", "/v1/auth/whoami")).status_code == 401


async def test_a_session_is_begun_with_a_token_alone(facade: Facade) -> None:
    browser = await sign_in(facade, BOOTSTRAP)
    answer = await browser.send("POST", "/v1/auth/session")
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_auth")
    assert (await facade.http.post("/v1/auth/session")).status_code == 401
    foreign = {"authorization": f"Bearer {BOOTSTRAP}", "sec-fetch-site": "cross-site"}
    assert (await facade.http.post("/v1/auth/session", headers=foreign)).status_code == 403


async def test_over_tls_the_cookie_is_the_hosts_alone(facade: Facade) -> None:
    # A proxy that ends TLS leaves what the browser says of its page.
    port = facade.http.base_url.port
    headers = {"authorization": f"Bearer {BOOTSTRAP}", "origin": f"https://localhost:{port}", **OWN}
    answer = await facade.http.post("/v1/auth/session", headers=headers)
    assert answer.headers["set-cookie"].startswith("__Host-dougdb-session=")
    assert answer.headers["set-cookie"].endswith("; Secure")


async def test_nothing_of_a_session_is_logged(facade: Facade, tmp_path: Path) -> None:
    with capture_logs() as logs:
        browser = await sign_in(facade, BOOTSTRAP)
        await browser.send("GET", "/v1/kv/a", doug_csrf="wrong")
        await browser.send("GET", "/v1/kv/a", cookie=browser.cookie + "x")
        await browser.send("DELETE", "/v1/auth/session")
    audit = (tmp_path / "audit.jsonl").read_text()
    told = [json.loads(line) for line in audit.splitlines()]
    assert [line["action"] for line in told if line["event"] == "session"] == ["signed in", "signed out"]
    assert [line["outcome"] for line in told if line["event"] == "refused"] == ["unauthenticated"] * 2
    secret = browser.cookie.split("=", 1)[1]
    for kept in (BOOTSTRAP, secret, secret.split(".")[1], browser.csrf):
        assert kept not in audit + repr(logs)


async def test_where_nobody_has_to_say_who_they_are_there_are_no_sessions(make_facade: Make) -> None:
    open_to_all = await make_facade(nodes=1)
    for method in ("POST", "DELETE"):
        answer = await open_to_all.http.request(method, "/v1/auth/session", headers={"doug-client": "console"})
        assert (answer.status_code, answer.json()["code"]) == (409, "auth_disabled")
