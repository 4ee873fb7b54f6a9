"""Who may do what, over HTTP: every route with every right, alone, in batches, in transactions and as ranges.

The matrix is made of what the facade serves: a route without a rule, or a rule without a request here, fails.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from access_matrix import BOOTSTRAP, JSON, KEYED, Clients, asked, guarded, operation, outcome_of, prefixed, start
from facade_under_test import Facade
from starlette.routing import Route

from doug_wire.auth.document import BUILT_IN, EMPTY
from doug_wire.auth.grants import Grant, Verb
from facade.app.rules import RULES, Need, Rule, Rules
from facade.routes.ranges import cursor as cursors
from facade.routes.raw import RawApp

Make = Callable[..., Awaitable[Facade]]


@pytest.fixture
def bootstrap(tmp_path: Path) -> str:
    path = tmp_path / "bootstrap.token"
    path.write_text(BOOTSTRAP + "\n")
    return str(path)


@pytest.fixture(params=["asgi", "sockets"])
async def clients(make_facade: Make, bootstrap: str, tmp_path: Path, request: pytest.FixtureRequest) -> Clients:
    facade = await make_facade(**guarded(Path(bootstrap), tmp_path / "audit.jsonl"))
    if request.param == "sockets":
        await facade.use_sockets()
    return await start(facade)


def served(facade: Facade) -> Iterator[tuple[str, str]]:
    """Every route and method that the facade serves."""
    for raw, app in facade.application._exact.items():
        assert isinstance(app, RawApp)
        for method in app.methods:
            yield raw.decode(), method
    if facade.application.console is not None:
        yield from (("/", "GET"), ("/ui/", "GET"), ("/ui/app.css", "GET"), ("/v1/console/stream", "GET"))
        for what in facade.application.console._data._whats:
            yield f"/v1/console/{what.decode()}", "GET"
    application = facade.application._rest
    for path, methods in application.openapi()["paths"].items():
        for method in methods:
            if method != "parameters":
                yield path, method.upper()
    for route in application.routes:
        if isinstance(route, Route):
            for method in route.methods or ():
                yield route.path, method


async def test_every_route_has_a_rule_and_every_rule_a_request(make_facade: Make) -> None:
    facade = await make_facade(nodes=1)
    rules = Rules()
    for path, method in served(facade):
        raw = path.replace("{key}", "k").replace("{shard}", "0").replace("{name}", "n").replace("{what}", "state")
        assert rules.find(method, raw.encode(), raw) is not None, f"{method} {path} has no rule in facade.app.rules"
    keyed = {(rule.route, method) for rule in RULES if rule.need is Need.KEYS for method in rule.methods}
    assert keyed == KEYED.keys(), "every keyed route has requests in the matrix"


@pytest.mark.parametrize("clients", ["sockets"], indirect=True)
async def test_strangers_get_401_and_the_probes(clients: Clients) -> None:
    for path, method in sorted(set(served(clients.facade))):
        rule = Rules().find(method, path.encode(), path)
        assert rule is not None
        raw = path.replace("{shard}", "0")
        answer = await clients.send(None, method, raw, None, **JSON)
        if rule.need is Need.OPEN:
            assert answer.status_code in (200, 301, 307, 308, 404), path
            continue
        assert answer.status_code == 401, (method, path, answer.text)
        assert answer.headers["www-authenticate"].startswith("Bearer")
    for wrong in ("x", "doug_0123456789abcdef_" + "a" * 43, "a.b.c", BOOTSTRAP[:-1], BOOTSTRAP + "b"):
        for method, raw in (("GET", "/v1/kv/a"), ("PUT", "/v1/kv/a"), ("GET", "/metrics")):
            assert (await clients.send(wrong, method, raw)).status_code == 401, wrong
    for header in ("", "Bearer", "Basic " + BOOTSTRAP, BOOTSTRAP, f"Bearer {BOOTSTRAP} {BOOTSTRAP}"):
        answer = await clients.facade.http.get("/v1/kv/a", headers={"authorization": header})
        assert answer.status_code == 401, header


@pytest.mark.parametrize("clients", ["sockets"], indirect=True)
async def test_keys_need_a_right_for_each_of_them(clients: Clients) -> None:
    facade = clients.facade
    mine, others = "app/", "secret/"
    nothing = await clients.token("metrics")
    elsewhere = await clients.token("read:ap0", "write:ap0", "watch:ap0", "read:application/", "metrics")
    for (route, _), requests in KEYED.items():
        for wanted in requests:
            method, path, body, right = prefixed(wanted, mine)
            allowed = await clients.token(f"{right}:{mine}")
            other_right = await clients.token(f"{'read' if right == 'write' else 'write'}:{mine}")
            if right != "watch":  # It does not end by itself; see below.
                answer = await clients.send(allowed, method, path, body)
                assert outcome_of(answer) not in (401, 403), (wanted, answer.text)
            before = asked(facade)
            for token in (nothing, elsewhere, other_right):
                if route == "/v1/ops/{key}" and token == other_right:
                    continue  # Whoever may read a key may ask, too.
                assert outcome_of(await clients.send(token, method, path, body)) == 403, wanted
            outside = prefixed(wanted, others)
            assert outcome_of(await clients.send(allowed, *outside[:3])) == 403, outside
            assert asked(facade) == before, f"{wanted}: nothing that is refused reaches a node"


@pytest.mark.parametrize("clients", ["asgi"], indirect=True)
async def test_every_other_route_needs_its_right(clients: Clients) -> None:
    for rule in RULES:
        if isinstance(rule.need, Need):
            continue
        for method in sorted(rule.methods):
            path = rule.route.replace("{shard}", "0").replace("{name}", "n").replace("{what}", "state")
            everything_else = [str(Grant(verb)) for verb in Verb if verb not in rule.need]
            answer = await clients.send(
                await clients.token(*everything_else), method, path, {} if method != "GET" else None
            )
            assert answer.status_code == 403, (method, path, answer.text)
            for verb in rule.need:
                answer = await clients.send(
                    await clients.token(verb.value), method, path, [] if method != "GET" else None
                )
                assert answer.status_code not in (401, 403), (method, path, verb)


@pytest.mark.parametrize("clients", ["asgi"], indirect=True)
@pytest.mark.parametrize("role", sorted(BUILT_IN))
async def test_each_role_may_do_what_it_says_and_nothing_else(clients: Clients, role: str) -> None:
    token, verbs = await clients.token(roles=(role,)), {grant.verb for grant in BUILT_IN[role]}
    for (route, _), requests in KEYED.items():
        for wanted in requests:
            method, path, body, right = prefixed(wanted, "app/")
            allowed = Verb(right) in verbs or (route == "/v1/ops/{key}" and Verb.READ in verbs)
            if right == "watch" and allowed:
                continue  # It does not end by itself.
            status = outcome_of(await clients.send(token, method, path, body))
            assert (status in (401, 403)) is not allowed, (role, wanted, status)
    for rule in RULES:
        if isinstance(rule.need, Need):
            continue
        for method in sorted(rule.methods):
            path = rule.route.replace("{shard}", "0").replace("{name}", "n").replace("{what}", "state")
            status = (await clients.send(token, method, path, [] if method != "GET" else None)).status_code
            assert (status in (401, 403)) is verbs.isdisjoint(rule.need), (role, method, path, status)


@pytest.mark.parametrize("clients", ["asgi"], indirect=True)
async def test_how_often_slots_are_asked_for_is_not_for_everybody(clients: Clients) -> None:
    """Who knows a key knows its slot, and would see when others use it."""
    for allow, status in (("read:config/", 403), ("metrics", 200), ("admin:members", 200)):
        token = await clients.token(allow)
        assert (await clients.send(token, "GET", "/v1/partitions")).status_code == 200
        assert (await clients.send(token, "GET", "/v1/partitions?counts=true")).status_code == status, allow


@pytest.mark.parametrize("clients", ["asgi"], indirect=True)
async def test_the_right_to_make_backups_is_all_that_a_backup_needs(clients: Clients) -> None:
    """It asks which shards there are, by the map and by the list, and then for each of them."""
    token = await clients.token("admin:backup")
    for path in ("/v1/partitions", "/v1/cluster"):
        assert (await clients.send(token, "GET", path)).status_code == 200, path
    for path in ("/metrics", "/v1/partitions?counts=true", "/v1/shards/0/events", "/v1/shards/0/members", "/v1/kv/a"):
        assert (await clients.send(token, "GET", path)).status_code == 403, path


@pytest.mark.parametrize("clients", ["asgi"], indirect=True)
async def test_what_has_no_rule_is_served_to_nobody(clients: Clients) -> None:
    for method, path, status in (
        ("GET", "/nothing", 404),
        ("GET", "/v1/kv2", 404),
        ("PATCH", "/v1/kv/a", 405),
        ("POST", "/v1/cluster", 405),
        ("GET", "/v1/auth", 404),
    ):
        assert (await clients.send(BOOTSTRAP, method, path)).status_code == status, path
        assert (await clients.send(None, method, path)).status_code == 401, path
    assert (await clients.send(await clients.token("read:*"), "GET", "/v1%2Fcluster")).status_code in (403, 404)


@pytest.mark.parametrize("clients", ["asgi"], indirect=True)
@pytest.mark.parametrize(("right", "method"), [("read", "GET"), ("write", "DELETE")])
async def test_no_bound_and_no_cursor_leads_over_the_border_of_a_grant(
    clients: Clients, right: str, method: str
) -> None:
    """Cursors are not secret and not signed: whoever makes one up names a range as any other request does."""
    for key in ("config.", "config/a", "config0", "zzz"):
        await clients.send(BOOTSTRAP, "PUT", f"/v1/kv/{key}", b"v")
    token = await clients.token(f"{right}:config/")
    for query in (
        "start=config/",
        "start=config/&end=config0%00",
        "start=config/&end=config1",
        "start=config.&end=config0",
        "start=config/z&end=z",
        "start64=Y29uZmln&end64=Y29uZmlnMA",
        "prefix=config",
        "prefix=con",
        "end=config0",
    ):
        answer = await clients.send(token, method, f"/v1/kv?{query}")
        assert answer.status_code == 403, (query, answer.text)
    cluster, within = clients.facade.router.directory.cluster_id, (b"config/", b"config0")
    more = (b"0", b"", b"config/") if method == "GET" else ()
    scope = cursors.scope_of(b"read" if method == "GET" else b"delete", cluster, *within, *more)
    path = "/v1/kv?prefix=config/&cursor="
    for bound in (b"config0", b"zzz", b"config/b", b"", b"config.", b"config", b"a"):
        answer = await clients.send(token, method, path + cursors.encode(bound, scope))
        assert answer.status_code == 200
        assert [each["key"] for each in answer.json().get("items", [])] in ([], ["config/a"]), bound
    if method == "GET":
        back = cursors.scope_of(b"read", cluster, *within, b"1", b"", b"config/")
        for bound in (b"zzz", b"config0\0", b"", b"a"):
            answer = await clients.send(token, method, f"{path}{cursors.encode(bound, back)}&reverse=true")
            assert answer.status_code == 200
            assert [each["key"] for each in answer.json()["items"]] in ([], ["config/a"]), bound
    left = {key for shard in clients.facade.cluster.shards for key in shard.store.data}
    assert left == {b"config.", b"config0", b"zzz"} | ({b"config/a"} if method == "GET" else set())


def test_a_route_of_another_method_has_no_rule() -> None:
    rules = Rules((Rule("/a", frozenset({"GET"}), Need.KNOWN),))
    assert rules.find("GET", b"/a", "/a") is not None
    assert rules.find("POST", b"/a", "/a") is None
    assert rules.find("GET", b"/a/", "/a/") is None


async def test_a_batch_is_refused_item_by_item_and_a_transaction_as_a_whole(clients: Clients) -> None:
    token = await clients.token("read:config/", "write:app/")
    operations = [
        operation("get", "config/a"),
        operation("get", "app/a"),
        operation("put", "app/a"),
        operation("put", "config/a"),
    ]
    answer = await clients.send(token, "POST", "/v1/batch", {"operations": operations})
    assert [each["status"] for each in answer.json()["results"]] == [404, 403, 200, 403]
    refused = answer.json()["results"][1]
    assert (refused["code"], refused["outcome"]) == ("forbidden", "not_applied")
    lines = b"\n".join(json.dumps(each).encode() for each in operations)
    answer = await clients.facade.http.post(
        "/v1/batch",
        content=lines,
        headers={"authorization": f"Bearer {token}", "content-type": "application/x-ndjson"},
    )
    assert [json.loads(line)["status"] for line in answer.text.splitlines()] == [404, 403, 200, 403]
    both = {"success": [operation("put", "app/{t}"), operation("put", "config/{t}")]}
    assert (await clients.send(token, "POST", "/v1/txn", both)).status_code == 403
    assert all(b"{t}" not in key for shard in clients.facade.cluster.shards for key in shard.data)


async def test_a_revoked_token_ends_by_itself(clients: Clients) -> None:
    facade = clients.facade
    token = await clients.token("read:*", "write:*")
    for number in range(30):
        assert (await clients.send(token, "PUT", f"/v1/kv/k{number:02}", b"v")).status_code == 200
    state = facade.state
    assert state is not None
    name = next(iter(state.document.tokens))
    # As another facade does it: this one sees it by looking.
    shard = facade.cluster.shards[0]
    shard.auth = (shard.auth[0] + 1, state.document.without_token(name).encode())
    async with asyncio.timeout(60):
        while (await clients.send(token, "GET", "/v1/kv/k00")).status_code != 401:
            await asyncio.sleep(0.02)
    assert (await clients.send(token, "PUT", "/v1/kv/k00", b"v")).status_code == 401


@pytest.mark.parametrize("clients", ["sockets"], indirect=True)
async def test_a_backup_under_way_ends_with_its_token(clients: Clients) -> None:
    facade = clients.facade
    token = await clients.token("admin:backup")
    node = facade.cluster.shards[0].nodes[0]
    for each in facade.cluster.shards[0].nodes:
        each.files = {"CHECKPOINT": b"c" * 700, "000001.sst": b"s" * (48 << 20)}
    state = facade.state
    assert state is not None and node.backups == 0
    headers = {"authorization": f"Bearer {token}"}
    with pytest.raises(httpx.RemoteProtocolError):
        async with facade.http.stream("GET", "/v1/shards/0/backup", headers=headers) as answer:
            assert answer.status_code == 200
            pieces = answer.aiter_raw()
            await anext(pieces)
            await state.change(lambda document: document.without_token(next(iter(document.tokens))))
            async for _ in pieces:
                pass


async def test_who_is_not_known_is_told_nothing_of_nodes(make_facade: Make, bootstrap: str) -> None:
    facade = await make_facade(nodes=1, ready=False, led=False, auth_mode="token", auth_bootstrap_file=bootstrap)
    answer = await facade.http.get("/readyz")
    assert (answer.status_code, answer.json()["detail"]) == (503, "The facade is not ready yet.")


@pytest.mark.parametrize("clients", ["sockets"], indirect=True)
async def test_a_stream_under_way_ends_with_its_token(clients: Clients) -> None:
    facade = clients.facade
    token = await clients.token("read:*", "write:*")
    for number in range(400):
        facade.cluster.shards[0].data.clear() if not number else None
        await clients.send(token, "PUT", f"/v1/kv/k{number:03}", b"v" * 20_000)
    headers = {"authorization": f"Bearer {token}", "accept": "application/x-ndjson"}
    async with facade.http.stream("GET", "/v1/kv", headers=headers) as answer:
        lines = answer.aiter_lines()
        await anext(lines)
        state = facade.state
        assert state is not None
        await state.change(lambda document: document.without_token(next(iter(document.tokens))))
        last = ""
        async for line in lines:
            last = line
    trailer = json.loads(last)
    assert not trailer["complete"]
    assert trailer["error"]["code"] == "unauthenticated"


async def revoke(facade: Facade) -> None:
    """As another facade does it: this one sees it by looking."""
    assert facade.state is not None
    document = facade.state.document
    shard = facade.cluster.shards[0]
    shard.auth = (shard.auth[0] + 1, document.without_token(next(iter(document.tokens))).encode())


@pytest.mark.parametrize("clients", ["sockets"], indirect=True)
async def test_a_long_poll_ends_with_its_token(clients: Clients) -> None:
    facade = clients.facade
    token = await clients.token("read:*")
    waiting = asyncio.create_task(clients.send(token, "GET", "/v1/kv/k?wait=60s&after=0"))
    await facade.until(lambda: bool(facade.application.audience._waits), "it waits")
    await revoke(facade)
    async with asyncio.timeout(60):
        assert (await waiting).status_code == 401


@pytest.mark.parametrize("clients", ["sockets"], indirect=True)
@pytest.mark.parametrize(("path", "right"), [("/v1/watch", "watch:*"), ("/v1/console/stream", "metrics")])
async def test_a_watch_ends_with_its_token_though_nothing_happens(clients: Clients, path: str, right: str) -> None:
    facade = clients.facade
    token = await clients.token(right)
    headers = {"authorization": f"Bearer {token}", "accept": "text/event-stream"}
    async with facade.http.stream("GET", path, headers=headers) as answer:
        assert answer.status_code == 200
        pieces = answer.aiter_bytes()
        told = await anext(pieces)
        if facade.application.console is not None:
            facade.application.console.collector._tell = lambda: None  # type: ignore[method-assign]
        await revoke(facade)
        async with asyncio.timeout(60):
            async for piece in pieces:
                told += piece
    assert path != "/v1/watch" or b"event: refused" in told
    assert (await clients.send(token, "GET", path)).status_code == 401


async def test_while_shard_0_is_away_the_last_good_state_counts_for_a_while(make_facade: Make, bootstrap: str) -> None:
    facade = await make_facade(
        nodes=1, auth_mode="token", auth_bootstrap_file=bootstrap, auth_poll_ms=50, auth_stale_ms=4000
    )
    clients, state = Clients(facade), facade.state
    assert state is not None
    await facade.until(lambda: state.age_s() is not None, "the users are known")
    token = await clients.token("read:*")
    assert (await clients.send(token, "GET", "/v1/version")).status_code == 200
    facade.cluster.shards[0].nodes[0].member_code = "UNAVAILABLE"
    assert (await clients.send(token, "GET", "/v1/version")).status_code == 200
    async with asyncio.timeout(60):
        while (answer := await clients.send(token, "GET", "/v1/version")).status_code == 200:
            await asyncio.sleep(0.05)
    assert answer.status_code == 503
    assert answer.json()["code"] == "auth_unavailable"
    assert (await clients.send(BOOTSTRAP, "GET", "/v1/version")).status_code == 200, "the way in when all else fails"
    facade.cluster.shards[0].nodes[0].member_code = ""
    async with asyncio.timeout(60):
        while (await clients.send(token, "GET", "/v1/version")).status_code != 200:
            await asyncio.sleep(0.05)


async def test_identities_have_idempotency_keys_of_their_own(clients: Clients) -> None:
    one, two = await clients.token("write:*"), await clients.token("write:*", "read:x")
    for token, value in ((one, b"1"), (two, b"2")):
        answer = await clients.send(token, "PUT", "/v1/kv/k", value, **{"idempotency-key": "same"})
        assert answer.status_code == 200, "another request with the same key is another client's"
        assert "idempotency-replayed" not in answer.headers
    again = await clients.send(one, "PUT", "/v1/kv/k", b"1", **{"idempotency-key": "same"})
    assert again.headers["idempotency-replayed"] == "true"
    assert (await clients.send(two, "GET", "/v1/ops/other?for=k")).json()["state"] == "unknown"
    # What was replayed once is refused to whoever may not write any more.
    state = clients.facade.state
    assert state is not None
    name = next(name for name, record in state.document.tokens.items() if record.held.allow == (Grant(Verb.WRITE),))
    await state.change(lambda document: document.without_token(name))
    assert (await clients.send(one, "PUT", "/v1/kv/k", b"1", **{"idempotency-key": "same"})).status_code == 401


@pytest.mark.parametrize("clients", ["asgi"], indirect=True)
async def test_tokens_roles_and_users_are_made_over_http(clients: Clients) -> None:
    first = await clients.send(BOOTSTRAP, "POST", "/v1/auth/init")
    assert first.status_code == 201
    admin = first.json()["token"]
    assert (await clients.send(BOOTSTRAP, "POST", "/v1/auth/init")).json()["code"] == "already_initialised"
    wanted = {"name": "app", "allow": ["read:config/", "write:app/"], "ttl": "1h"}
    made = await clients.send(admin, "POST", "/v1/auth/tokens", wanted)
    assert made.status_code == 201
    token = made.json()["token"]
    assert (await clients.send(admin, "POST", "/v1/auth/tokens", wanted)).status_code == 409
    refused: tuple[Any, ...] = (
        {"name": "b"}, {"name": "b", "allow": ["all"]}, {"name": "b", "roles": ["none"]}, {"name": "b", "ttl": "1y"},
        {"name": "b c", "allow": ["metrics"]}, {"name": "b", "allow": ["metrics"], "more": 1}, [],
    )  # fmt: skip
    for bad in refused:
        assert (await clients.send(admin, "POST", "/v1/auth/tokens", bad)).status_code in (400, 404), bad
    (shown,) = [
        each for each in (await clients.send(admin, "GET", "/v1/auth/tokens")).json()["tokens"] if each["name"] == "app"
    ]
    assert shown["allow"] == ["read:config/", "write:app/"]
    assert shown["expires_at"] is not None
    assert token not in json.dumps(shown)
    whoami = (await clients.send(token, "GET", "/v1/auth/whoami")).json()
    assert (whoami["principal"], whoami["allow"]) == ("token:app", ["read:config/", "write:app/"])
    for query, allowed in (("verb=read&key=config/a", True), ("verb=read&key=app/a", False),
                           ("verb=read&prefix=config/", True), ("verb=read&prefix=con", False),
                           ("verb=metrics", False)):  # fmt: skip
        assert (await clients.send(token, "GET", f"/v1/auth/can-i?{query}")).json()["allowed"] is allowed, query
    for query in ("verb=read", "verb=read&key=a&prefix=b", "verb=metrics&key=a", "verb=all", "verb=read&key=a&x=1"):
        assert (await clients.send(token, "GET", f"/v1/auth/can-i?{query}")).status_code == 400, query
    await clients.send(admin, "PUT", "/v1/auth/roles/ops", {"allow": ["metrics"]})
    assert (await clients.send(admin, "PUT", "/v1/auth/roles/admin", {"allow": []})).status_code == 409
    given = await clients.send(admin, "POST", "/v1/auth/users", {"principal": "token:app", "role": "ops"})
    assert given.json()["users"] == [{"principal": "token:app", "roles": ["ops"]}]
    assert (await clients.send(token, "GET", "/metrics")).status_code == 200
    taken = await clients.send(admin, "DELETE", "/v1/auth/users?principal=token:app&role=ops")
    assert taken.json()["users"] == []
    assert (await clients.send(token, "GET", "/metrics")).status_code == 403
    assert (await clients.send(admin, "DELETE", "/v1/auth/tokens/app")).status_code == 200
    assert (await clients.send(token, "GET", "/v1/auth/whoami")).status_code == 401
    assert (await clients.send(admin, "DELETE", "/v1/auth/tokens/app")).status_code == 404


@pytest.mark.parametrize("clients", ["sockets"], indirect=True)
async def test_the_audit_log_tells_who_and_what_and_no_secret(clients: Clients, tmp_path: Path) -> None:
    token = await clients.token("read:config/")
    await clients.send(token, "PUT", "/v1/kv/secret/a", b"the-value", **{"x-request-id": "mine"})
    await clients.send("wrong", "GET", "/v1/kv/a")
    made = await clients.send(BOOTSTRAP, "POST", "/v1/auth/tokens", {"name": "new", "allow": ["metrics"]})
    text = (tmp_path / "audit.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    (refused,) = [line for line in lines if line["outcome"] == "forbidden"]
    assert refused["principal"] == "token:t0"
    assert (refused["verb"], refused["key"], refused["request_id"]) == ("write", "secret/a", "mine")
    assert refused["address"] == "127.0.0.1"
    assert any(line["outcome"] == "unauthenticated" for line in lines)
    assert [(line["name"], line["may"]) for line in lines if line["event"] == "auth"][-1] == ("new", ["metrics"])
    for secret in ("the-value", token, made.json()["token"], BOOTSTRAP, "wrong"):
        assert secret not in text
    assert (tmp_path / "audit.jsonl").stat().st_mode & 0o777 == 0o600


async def test_the_audit_log_tells_what_a_token_could_do_that_is_gone(clients: Clients, tmp_path: Path) -> None:
    await clients.send(BOOTSTRAP, "PUT", "/v1/auth/roles/ops", {"allow": ["metrics", "read:a/"]})
    await clients.send(BOOTSTRAP, "POST", "/v1/auth/tokens", {"name": "new", "allow": ["write:b/"], "roles": ["ops"]})
    await clients.send(BOOTSTRAP, "DELETE", "/v1/auth/tokens/new")
    lines = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    told = [(line["action"], line["name"], line.get("may")) for line in lines if line["event"] == "auth"]
    assert told == [
        ("role set", "ops", ["metrics", "read:a/"]),
        ("token created", "new", ["write:b/", "role ops"]),
        ("token revoked", "new", None),
    ]


@pytest.mark.parametrize("clients", ["asgi"], indirect=True)
async def test_nodes_are_told_for_whom_members_are_changed_and_leadership_is_moved(clients: Clients) -> None:
    token = await clients.token("admin:members")
    forged = {"x-request-id": "mine", "doug-principal": "token:other"}
    node = clients.facade.cluster.shards[0].nodes[0]
    await clients.send(token, "DELETE", "/v1/shards/0/members/n", None, **forged)
    await clients.send(token, "POST", "/v1/shards/0/leader", {"to": node.id}, **forged)
    assert {(told.principal, told.request_id) for told in node.behalves} == {("token:t0", "mine")}
    assert len(node.behalves) == 2


@pytest.mark.parametrize("clients", ["sockets"], indirect=True)
async def test_the_audit_log_tells_of_foreign_pages_and_names(clients: Clients, tmp_path: Path) -> None:
    foreign = {"origin": "https://evil.example", "x-request-id": "theirs"}
    members = await clients.send(BOOTSTRAP, "POST", "/v1/shards/0/members", {}, **foreign)
    faults = await clients.send(BOOTSTRAP, "POST", "/v1/console/faults", {}, **foreign)
    rebound = await clients.send(BOOTSTRAP, "GET", "/v1/kv/a", None, host="evil.example")
    assert [answer.status_code for answer in (members, faults, rebound)] == [403, 403, 421]
    lines = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    told = [(line["event"], line["path"], line["outcome"], line["method"], line["address"]) for line in lines]
    assert told == [
        ("refused", "/v1/shards/0/members", "cross_origin", "POST", "127.0.0.1"),
        ("refused", "/v1/console/faults", "cross_origin", "POST", "127.0.0.1"),
        ("refused", "/v1/kv/a", "unknown_host", "GET", "127.0.0.1"),
    ]
    assert [line["request_id"] for line in lines][:2] == ["theirs"] * 2
    assert BOOTSTRAP not in json.dumps(lines)


async def test_faults_of_the_console_are_in_the_audit_log_as_all_that_operators_do(
    clients: Clients, tmp_path: Path
) -> None:
    answer = await clients.send(BOOTSTRAP, "POST", "/v1/console/faults", {"node": "n", "do": "kill"})
    lines = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    told = [(line["path"], line["outcome"]) for line in lines if line["event"] == "admin"]
    assert told == [("/v1/console/faults", str(answer.status_code))]


async def test_another_bootstrap_token_takes_the_place_of_the_old_one(clients: Clients, bootstrap: str) -> None:
    assert (await clients.send(BOOTSTRAP, "GET", "/metrics")).status_code == 200
    new = "another-" + "n" * 32
    Path(bootstrap).write_text(new)
    async with asyncio.timeout(60):
        while (await clients.send(new, "GET", "/metrics")).status_code != 200:
            await asyncio.sleep(0.02)
    assert (await clients.send(BOOTSTRAP, "GET", "/metrics")).status_code == 401
    Path(bootstrap).unlink()
    async with asyncio.timeout(60):
        while (await clients.send(new, "GET", "/metrics")).status_code != 401:
            await asyncio.sleep(0.02)


async def test_without_a_mode_nobody_says_who_they_are(make_facade: Make) -> None:
    clients = Clients(await make_facade(nodes=1))
    found = (await clients.send(None, "GET", "/v1/auth/whoami")).json()
    assert (found["principal"], found["mode"]) == ("", ["none"])
    assert (await clients.send(None, "GET", "/v1/auth/can-i?verb=admin:auth")).json()["allowed"]
    answer = await clients.send(None, "POST", "/v1/auth/tokens", {"name": "a", "allow": ["metrics"]})
    assert (answer.status_code, answer.json()["code"]) == (409, "auth_disabled")
    assert EMPTY.tokens == {}
