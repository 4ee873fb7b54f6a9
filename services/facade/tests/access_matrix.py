"""The requests of every route of keys in every form, and clients with the rights that a test names."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from typing import Any

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
KEYED: dict[tuple[str, str], list[Wanted]] = {
    (KEY_ROUTE, "GET"): [("GET", "/v1/kv/{p}a", None, "read")],
    (KEY_ROUTE, "HEAD"): [("HEAD", "/v1/kv/{p}a", None, "read")],
    (KEY_ROUTE, "PUT"): [("PUT", "/v1/kv/{p}a", b"v", "write")],
    (KEY_ROUTE, "DELETE"): [("DELETE", "/v1/kv/{p}a", None, "write")],
    (KEY_ROUTE, "POST"): [
        ("POST", "/v1/kv/{p}n:increment", {"by": 1}, "write"),
        ("POST", "/v1/kv/{p}a:touch?ttl=30s", None, "write"),
    ],
    (RANGE_ROUTE, "GET"): [
        ("GET", "/v1/kv?prefix={p}", None, "read"),
        ("GET", "/v1/kv?start={p}a&end={p}b", None, "read"),
        ("GET", "/v1/kv?prefix={p}&delimiter=/", None, "read"),
        ("GET", "/v1/kv?prefix={p}&count_only=true", None, "read"),
        ("GET", "/v1/kv?prefix={p}&reverse=true&keys_only=true&limit=1", None, "read"),
        ("GET", "/v1/kv?key64={p64}", None, "read"),
    ],
    (RANGE_ROUTE, "HEAD"): [
        ("HEAD", "/v1/kv?key64={p64}", None, "read"),
        ("HEAD", "/v1/kv?prefix={p}", None, "read"),
    ],
    (RANGE_ROUTE, "PUT"): [("PUT", "/v1/kv?key64={p64}", b"v", "write")],
    (RANGE_ROUTE, "POST"): [("POST", "/v1/kv:increment?key64={p64n}", {"by": 1}, "write")],
    (RANGE_ROUTE, "DELETE"): [
        ("DELETE", "/v1/kv?key64={p64}", None, "write"),
        ("DELETE", "/v1/kv?prefix={p}", None, "write"),
        ("DELETE", "/v1/kv?prefix={p}&dry_run=true", None, "read"),
        ("DELETE", "/v1/kv?start={p}a&end={p}b", None, "write"),
    ],
    ("/v1/batch", "POST"): [
        ("POST", "/v1/batch", {"operations": [operation(op, "{p}n")]}, right) for op, right in OPERATIONS.items()
    ],
    ("/v1/txn", "POST"): [
        ("POST", "/v1/txn", {"compare": [{"key": "{p}a", "exists": True}]}, "read"),
        *(
            ("POST", "/v1/txn", {branch: [operation(op, "{p}n")]}, right)
            for op, right in OPERATIONS.items()
            for branch in ("success", "failure")
        ),
    ],
    ("/v1/watch", "GET"): [
        ("GET", "/v1/watch?prefix={p}", None, "watch"),
        ("GET", "/v1/watch?key={p}a&from=start", None, "watch"),
        ("GET", "/v1/watch?start={p}a&end={p}b", None, "watch"),
    ],
    ("/v1/watch", "HEAD"): [("HEAD", "/v1/watch?prefix={p}", None, "watch")],
    ("/v1/ops/{key}", "GET"): [("GET", "/v1/ops/some-key?for={p}a", None, "write")],
    ("/v1/ops/{key}", "HEAD"): [("HEAD", "/v1/ops/some-key?for={p}a", None, "write")],
}


def prefixed(wanted: Any, prefix: str) -> Any:
    """The request with a prefix in its place."""
    if isinstance(wanted, str):
        for name, key in (("{p64n}", prefix + "n"), ("{p64}", prefix + "a")):
            wanted = wanted.replace(name, urlsafe_b64encode(key.encode()).decode().rstrip("="))
        return wanted.replace("{p}", prefix)
    if isinstance(wanted, dict):
        return {name: prefixed(value, prefix) for name, value in wanted.items()}
    return [prefixed(each, prefix) for each in wanted] if isinstance(wanted, (list, tuple)) else wanted


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


def outcome_of(answer: httpx.Response) -> int:
    """The status, or that of the only operation of a batch."""
    results = answer.json().get("results") if answer.request.url.path == "/v1/batch" else None
    return int(results[0]["status"]) if results else answer.status_code
