"""Fixtures of the client's tests: an in-memory store that speaks HTTP, and where the fake children lie."""

from __future__ import annotations

import base64
import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, unquote_to_bytes

import httpx
import pytest

HERE = Path(__file__).parent

# Helpers of several tests, as modules.
if str(HERE) not in sys.path:
    sys.path.insert(0, str(HERE))


class MemoryStore:
    """Answers the routes of keys from a dict, as one shard. ``script`` answers come first, whatever is asked.

    Attributes:
        values: By key, its bytes and content type.
        revisions: By key, its revision.
        ttls: By key, the time to live that it was last given.
        lost: So many requests are carried out, and their answers lost.
    """

    def __init__(self) -> None:
        self.values: dict[bytes, tuple[bytes, str]] = {}
        self.revisions: dict[bytes, int] = {}
        self.ttls: dict[bytes, str] = {}
        self.requests: list[httpx.Request] = []
        self.script: list[httpx.Response | httpx.RequestError] = []
        self.size_max = 1 << 20
        self.lost = 0
        self._revision = 6
        self._decided: dict[str, dict[str, Any]] = {}

    def handle(self, request: httpx.Request) -> httpx.Response:
        """Answers one request."""
        self.requests.append(request)
        if self.script:
            answer = self.script.pop(0)
            if isinstance(answer, httpx.RequestError):
                raise answer
            return answer
        answer = self._answer(request)
        if self.lost:
            self.lost -= 1
            raise httpx.ReadTimeout("the answer was lost")
        return answer

    def _answer(self, request: httpx.Request) -> httpx.Response:
        path = request.url.raw_path.partition(b"?")[0]
        params = request.url.params
        token = request.headers.get("Idempotency-Key", "")
        if path == b"/v1/batch":
            operations = json.loads(request.content)["operations"]
            return httpx.Response(
                200,
                json={"results": [self.once(each, token and f"{token}/{n}") for n, each in enumerate(operations)]},
            )
        if path == b"/v1/txn":
            return self._txn(json.loads(request.content), token)
        if path.startswith(b"/v1/ops/"):
            found = self._decided.get(unquote(path.decode().rpartition("/")[2]), {})
            shown = {"status": found.get("status"), "revision": found.get("revision")}
            return httpx.Response(200, json={"key": "k", "state": "applied" if found else "unknown", **shown})
        if path == b"/v1/limits":
            return httpx.Response(200, json={"key_bytes": 1024})
        if path == b"/v1/kv" and "key64" not in params:
            return self._range(request)
        assert path.startswith(b"/v1/kv"), path
        return self._key(request, path, token)

    def _key(self, request: httpx.Request, path: bytes, token: str) -> httpx.Response:
        action = b""
        if request.method == "POST":
            path, _, action = path.rpartition(b":")
        params = request.url.params
        key = (
            base64.urlsafe_b64decode(params["key64"] + "==")
            if "key64" in params
            else unquote_to_bytes(path.removeprefix(b"/v1/kv/"))
        )
        operation: dict[str, Any] = {"op": {"POST": action.decode()}.get(request.method, request.method.lower())}
        operation |= {"key64": base64.urlsafe_b64encode(key).decode()}
        if request.method == "PUT":
            if len(request.content) > self.size_max:
                return problem(413, code="value_too_large", detail="too large")
            operation |= {"value": base64.b64encode(request.content).decode(), "encoding": "base64"}
            operation |= {"content_type": request.headers["Content-Type"]}
        elif action == b"increment":
            operation |= json.loads(request.content)
        match, unless = request.headers.get("If-Match"), request.headers.get("If-None-Match")
        if match == "*":
            operation["if_exists"] = True
        elif match:
            operation["if_revision"] = match.strip('"')
        if "ttl" in params:
            operation["ttl"] = params["ttl"]
        if unless == "*":
            operation["if_absent"] = True
        elif unless == f'"{self.revisions.get(key)}"':
            return httpx.Response(304)
        result = self.once(operation, token)
        headers = {"Doug-Shard": "1", "Doug-Served-By": "shard-1-2"}
        if result.get("revision") is not None:
            headers["ETag"] = f'"{result["revision"]}"'
        if result.get("replayed"):
            headers["Idempotency-Replayed"] = "true"
        if result["status"] >= 400:
            fields = {name: value for name, value in result.items() if name != "status"}
            return problem(result["status"], **fields)
        if request.method == "GET":
            value, content_type = self.values[key]
            return httpx.Response(200, content=value, headers={**headers, "Content-Type": content_type})
        content = {"value": result["value"]} if "value" in result else {}
        return httpx.Response(result["status"], json=content, headers=headers)

    def once(self, operation: dict[str, Any], token: str = "") -> dict[str, Any]:
        """Carries out an operation, unless it was already under this idempotency key."""
        if token in self._decided:
            return {**self._decided[token], "replayed": True}
        result = self._carry_out(operation)
        if token:
            self._decided[token] = result
        return result

    def _carry_out(self, operation: dict[str, Any]) -> dict[str, Any]:
        key = _bytes(operation, "key")
        now = self.revisions.get(key, 7) if key in self.values else None
        wanted = operation.get("if_revision")
        fails = wanted is not None and str(now) != wanted
        if fails or (operation.get("if_absent") and now) or (operation.get("if_exists") and not now):
            current = None if now is None else str(now)
            return {"status": 412, "code": "precondition_failed", "outcome": "not_applied", "current_revision": current}
        if operation["op"] in ("get", "touch") and now is None:
            return {"status": 404, "code": "not_found", "outcome": "not_applied", "detail": "no such key"}
        if operation["op"] == "get":
            return {"status": 200, **self.entry(key)}
        self._revision += 1
        told: dict[str, Any] = {"status": 200, "revision": str(self._revision)}
        if operation["op"] == "delete":
            self.forget(key)
            return {**told, "status": 204}
        if operation["op"] == "put":
            self.values[key] = (_bytes(operation, "value"), operation.get("content_type", "application/octet-stream"))
        elif operation["op"] == "increment":
            try:
                number = int(self.values[key][0]) if now else int(operation["initial"])
            except ValueError:
                return {"status": 409, "code": "not_a_number", "outcome": "not_applied"}
            told["value"] = str(number + int(operation["by"]))
            self.values[key] = (str(told["value"]).encode(), "text/plain")
        if "ttl" in operation:
            self.ttls[key] = operation["ttl"]
        self.revisions[key] = self._revision
        return told

    def forget(self, key: bytes) -> None:
        """Removes a key, as a delete or its expiry does."""
        self.values.pop(key, None)
        self.revisions.pop(key, None)

    def entry(self, key: bytes) -> dict[str, Any]:
        """A key as documents show it."""
        value, content_type = self.values[key]
        named = {"key64": base64.urlsafe_b64encode(key).decode().rstrip("=")}
        with contextlib.suppress(UnicodeDecodeError):
            named = {"key": key.decode()}
        shown = {"value": base64.b64encode(value).decode(), "encoding": "base64"}
        revision = str(self.revisions.get(key, 7))
        return {**named, **shown, "revision": revision, "content_type": content_type, "expires_at": None}

    def _txn(self, document: dict[str, Any], token: str) -> httpx.Response:
        if token in self._decided:
            return httpx.Response(200, json=self._decided[token])
        holds = all(
            (_bytes(each, "key") in self.values) == each["exists"]
            if "exists" in each
            else self.values.get(_bytes(each, "key"), (None,))[0] == _bytes(each, "value")
            for each in document["compare"]
        )
        results = [self._carry_out(each) for each in document["success" if holds else "failure"]]
        told = {"succeeded": holds, "results": results, "revision": str(self._revision)}
        if token:
            self._decided[token] = told
        return httpx.Response(200, json=told)

    def _range(self, request: httpx.Request) -> httpx.Response:
        params = request.url.params
        start = _bytes(params, "prefix") or _bytes(params, "start")
        ends = _bytes(params, "end")
        prefix = _bytes(params, "prefix")
        keys = [
            key
            for key in sorted(self.values, reverse="reverse" in params)
            if key >= start and (not ends or key < ends) and key.startswith(prefix)
        ]
        if "count_only" in params:
            return httpx.Response(200, json={"count": len(keys)})
        if "cursor" in params:
            keys = keys[int(params["cursor"]) :]
        limit = int(params.get("limit", 1000))
        found, rest = keys[:limit], keys[limit:]
        if request.method == "DELETE":
            dry = "dry_run" in params
            for key in () if dry else found:
                self.forget(key)
            cursor = (str(limit + int(params.get("cursor", 0))) if dry else "0") if rest else None
            return httpx.Response(200, json={"found" if dry else "deleted": len(found), "next_cursor": cursor})
        entries = [self.entry(key) for key in found]
        if "keys_only" in params:
            entries = [{name: e[name] for name in e if name not in ("value", "encoding")} for e in entries]
        if request.headers["Accept"] == "application/x-ndjson":
            lines = [*entries, {"complete": not rest, "next_cursor": None, "count": len(found)}]
            return httpx.Response(200, content=b"".join(json.dumps(line).encode() + b"\n" for line in lines))
        cursor = str(limit + int(params.get("cursor", 0))) if rest else None
        page = {"items": entries, "prefixes": [], "next_cursor": cursor, "revisions": {"1": "7"}}
        return httpx.Response(200, json=page)


def _bytes(document: Any, name: str) -> bytes:
    if f"{name}64" in document:
        return base64.urlsafe_b64decode(document[f"{name}64"] + "==")
    text = str(document.get(name, ""))
    return base64.b64decode(text) if name == "value" and document.get("encoding") == "base64" else text.encode()


def problem(status: int, **fields: Any) -> httpx.Response:
    """A problem document."""
    return httpx.Response(status, json=fields, headers={"Content-Type": "application/problem+json"})


@pytest.fixture
def store() -> MemoryStore:
    """An empty store."""
    return MemoryStore()


@pytest.fixture
def make_problem() -> Callable[..., httpx.Response]:
    """Builds problem documents."""
    return problem


@pytest.fixture
def fakes() -> Path:
    """The directory of the fake children."""
    return HERE / "fakes"


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("DOUGDB_URL", raising=False)
    yield
