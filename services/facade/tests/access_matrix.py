"""The requests of every route of keys in every form, and clients with the rights that a test names."""

from __future__ import annotations

import re
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import httpx
from facade_under_test import Facade

from doug_wire.auth import tokens
from doug_wire.auth.document import Held, TokenRecord
from doug_wire.auth.grants import parse_grant
from facade.client.metrics import KEY_ROUTE, RANGE_ROUTE

BOOTSTRAP = "bootstrap-" + "b" * 32
JSON = {"content-type": "application/json"}


def operation(op: str, key: str) -> dict[str, Any]:
    more: dict[str, Any] = {"put": {"value": "v"}, "touch": {"ttl": "30s"}}.get(op, {})
    return {"op": op, "key": key, **more}


OPERATIONS = {"get": "read", "put": "write", "delete": "write", "increment": "write", "touch": "write"}

# Method, path, body, and the right that is needed for the keys below the prefix that stands for {p}.
Wanted = tuple[str, str, Any, str]
RANGES = ("prefix={p}", "prefix64={q}", "start={p}a&end={p}b", "start64={q}a&end64={q}b")
"""The ways to name a range. Here and below ``{q}``, with a letter or none, is the prefix with it, in base64url."""
NAMES = (("key", "{p}n"), ("key64", "{q}n"))
"""The ways in which operations and compares name a key."""


def _operations() -> list[tuple[dict[str, Any], str]]:
    """Every operation with every way to name its key, and the right that it needs."""
    return [
        ({name: key for name, key in operation(op, "").items() if name != "key"} | {named: key}, right)
        for op, right in OPERATIONS.items()
        for named, key in NAMES
    ]


def _watches(method: str) -> list[Wanted]:
    one = ("key={p}a", "key64={q}a", "key={p}a&from=start")
    return [(method, f"/v1/watch?{query}", None, "watch") for query in (*one, *RANGES)]


KEYED: dict[tuple[str, str], list[Wanted]] = {
    (KEY_ROUTE, "GET"): [
        ("GET", "/v1/kv/{p}a", None, "read"),
        ("GET", "/v1/kv/{p}a?wait=10ms&after=0", None, "read"),
    ],
    (KEY_ROUTE, "HEAD"): [("HEAD", "/v1/kv/{p}a", None, "read")],
    (KEY_ROUTE, "PUT"): [("PUT", "/v1/kv/{p}a", b"v", "write")],
    (KEY_ROUTE, "DELETE"): [("DELETE", "/v1/kv/{p}a", None, "write")],
    (KEY_ROUTE, "POST"): [
        ("POST", "/v1/kv/{p}n:increment", {"by": 1}, "write"),
        ("POST", "/v1/kv/{p}a:touch?ttl=30s", None, "write"),
    ],
    (RANGE_ROUTE, "GET"): [
        *(("GET", f"/v1/kv?{query}", None, "read") for query in RANGES),
        ("GET", "/v1/kv?prefix={p}&delimiter=/", None, "read"),
        ("GET", "/v1/kv?prefix={p}&count_only=true", None, "read"),
        ("GET", "/v1/kv?prefix={p}&slot=3", None, "read"),
        ("GET", "/v1/kv?prefix={p}&reverse=true&keys_only=true&limit=1", None, "read"),
        ("GET", "/v1/kv?key64={q}a", None, "read"),
    ],
    (RANGE_ROUTE, "HEAD"): [
        ("HEAD", "/v1/kv?key64={q}a", None, "read"),
        *(("HEAD", f"/v1/kv?{query}", None, "read") for query in RANGES),
    ],
    (RANGE_ROUTE, "PUT"): [("PUT", "/v1/kv?key64={q}a", b"v", "write")],
    (RANGE_ROUTE, "POST"): [
        ("POST", "/v1/kv:increment?key64={q}n", {"by": 1}, "write"),
        ("POST", "/v1/kv:touch?key64={q}n&ttl=30s", None, "write"),
    ],
    (RANGE_ROUTE, "DELETE"): [
        ("DELETE", "/v1/kv?key64={q}a", None, "write"),
        *(("DELETE", f"/v1/kv?{query}", None, "write") for query in RANGES),
        *(("DELETE", f"/v1/kv?{query}&dry_run=true", None, "read") for query in RANGES),
    ],
    ("/v1/batch", "POST"): [("POST", "/v1/batch", {"operations": [each]}, right) for each, right in _operations()],
    ("/v1/txn", "POST"): [
        *(("POST", "/v1/txn", {"compare": [{named: key, "exists": True}]}, "read") for named, key in NAMES),
        *(
            ("POST", "/v1/txn", {branch: [each]}, right)
            for each, right in _operations()
            for branch in ("success", "failure")
        ),
    ],
    ("/v1/watch", "GET"): _watches("GET"),
    ("/v1/watch", "HEAD"): _watches("HEAD"),
    ("/v1/ops/{key}", "GET"): [
        ("GET", f"/v1/ops/some-key?{named}", None, "write") for named in ("for={p}a", "for64={q}a")
    ],
    ("/v1/ops/{key}", "HEAD"): [
        ("HEAD", f"/v1/ops/some-key?{named}", None, "write") for named in ("for={p}a", "for64={q}a")
    ],
}

BEYOND: list[Wanted] = [
    *(
        (method, f"/v1/kv?{query}", None, "read")
        for method in ("GET", "HEAD")
        for query in (
            "",
            "slot=3",
            "delimiter=/",
            "count_only=true",
            "start={p}",
            "start64={q}",
            "end={p}b",
            "reverse=true",
        )
    ),
    ("DELETE", "/v1/kv?all=true", None, "write"),
    ("DELETE", "/v1/kv?all=true&dry_run=true", None, "read"),
    ("DELETE", "/v1/kv?start={p}", None, "write"),
    ("DELETE", "/v1/kv?end={p}b", None, "write"),
    *(
        (method, f"/v1/watch?{query}", None, "watch")
        for method in ("GET", "HEAD")
        for query in ("", "from=start", "start={p}", "start64={q}", "end={p}b")
    ),
]
"""Requests for ranges that begin or end beyond the prefix, most of them because they do not name that end."""

NO_KEY = frozenset(
    {
        "absent", "after", "all", "by", "consistency", "content_encoding", "content_type", "count_only", "cursor",
        "delimiter", "dry_run", "encoding", "events", "exists", "from", "if_absent", "if_exists", "if_revision",
        "initial", "keys_only", "limit", "max_staleness", "op", "reverse", "revision", "slot", "ttl", "value", "values",
        "wait", "Doug-Consistency", "Doug-Session", "Idempotency-Key", "If-Match", "If-None-Match", "Last-Event-ID",
    }
)  # fmt: skip
"""The parameters, headers and members of bodies that name no key. Those that widen a range are in ``BEYOND``; what a
cursor names is judged as a range (``test_no_bound_and_no_cursor_leads_over_the_border_of_a_grant``)."""

ACTION = re.compile(r"(?<=[^/]):(increment|touch)(?=\?|\Z)")


def ways_of(wanted: Wanted) -> set[str]:
    """The ways in which a request names keys: parameters, and members of the body by their paths."""
    _, path, body, _ = wanted
    found = {name for name, _ in parse_qsl(path.partition("?")[2])}
    if isinstance(body, dict):
        for part, listed in body.items():
            found |= {f"{part}.{name}" for each in listed for name in each} if isinstance(listed, list) else set()
    return found - NO_KEY | ({"path"} if path.startswith("/v1/kv/") else set())


def declared_ways(document: dict[str, Any], path: str, operation: dict[str, Any]) -> set[str]:
    """The same for all that an operation of the OpenAPI document may be sent; what is new is taken for a key."""
    parameters = [*document["paths"][path].get("parameters", ()), *operation.get("parameters", ())]
    found = {each["name"] for each in parameters if each["in"] != "path"}
    for content in operation.get("requestBody", {}).get("content", {}).values():
        found |= {".".join(leaf) for leaf in _leaves(document, content["schema"], ()) if leaf[-1] not in NO_KEY}
    return found - NO_KEY | ({"path"} if path.startswith("/v1/kv/") else set())


def _leaves(document: dict[str, Any], schema: dict[str, Any], path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    while "$ref" in schema or "items" in schema:
        schema = schema.get("items") or document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    properties = schema.get("properties")
    if properties is None:
        yield from (path,) if path else ()
        return
    for name, each in properties.items():
        yield from _leaves(document, each, (*path, name))


def prefixed(wanted: Any, prefix: str) -> Any:
    """The request with a prefix in its place."""
    if isinstance(wanted, str):
        wanted = re.sub(r"\{q\}([abn]?)", lambda at: encoded(prefix + at[1]), wanted)
        return wanted.replace("{p}", prefix)
    if isinstance(wanted, dict):
        return {name: prefixed(value, prefix) for name, value in wanted.items()}
    return [prefixed(each, prefix) for each in wanted] if isinstance(wanted, (list, tuple)) else wanted


def encoded(key: str) -> str:
    """A key in base64url."""
    return urlsafe_b64encode(key.encode()).decode().rstrip("=")


class Clients:
    """Clients of one facade, each with the rights that a test names."""

    def __init__(self, facade: Facade) -> None:
        self.facade = facade
        self._tokens: dict[tuple[str, ...], str] = {}

    async def token(self, *allow: str, roles: tuple[str, ...] = ()) -> str:
        """A token with some grants and roles."""
        if (*allow, *roles) not in self._tokens:
            made = tokens.mint()
            held = Held(tuple(parse_grant(text) for text in allow), roles)
            record = TokenRecord(made.id, made.salt, made.digest, held, 1)
            assert self.facade.state is not None
            await self.facade.state.change(lambda document: document.with_token(f"t{len(self._tokens)}", record))
            self._tokens[*allow, *roles] = made.text
        return self._tokens[*allow, *roles]

    async def send(self, token: str | None, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
        """Sends a request."""
        given = dict(headers) | ({} if token is None else {"authorization": f"Bearer {token}"})
        if isinstance(body, bytes):
            return await self.facade.http.request(method, path, content=body, headers=given)
        if body is not None:
            return await self.facade.http.request(method, path, json=body, headers=given)
        return await self.facade.http.request(method, path, headers=given)


def guarded(bootstrap: Path, audit: Path) -> dict[str, Any]:
    """The settings of a facade whose clients have to say who they are, in front of two shards."""
    bootstrap.write_text(BOOTSTRAP + "\n")
    access = {"auth_mode": "token", "auth_bootstrap_file": str(bootstrap), "auth_poll_ms": 50}
    return {"shards": 2, "nodes": 1, "audit_file": str(audit), **access}


async def start(facade: Facade) -> Clients:
    """The clients of such a facade, once it knows its users."""
    state = facade.state
    assert state is not None
    await facade.until(lambda: state.age_s() is not None, "the users are known")
    return Clients(facade)


def asked(facade: Facade) -> int:
    """How much the nodes were asked for."""
    return sum(len(node.batches) + len(node.scans) for shard in facade.cluster.shards for node in shard.nodes)


def outcome_of(answer: httpx.Response) -> int:
    """The status, or that of the only operation of a batch."""
    results = answer.json().get("results") if answer.request.url.path == "/v1/batch" else None
    return int(results[0]["status"]) if results else answer.status_code
