"""Fixtures of the client's tests: an in-memory store that speaks HTTP, and where the fake children lie."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import unquote_to_bytes

import httpx
import pytest

HERE = Path(__file__).parent


class MemoryStore:
    """Answers the key-value routes from a dict. ``script`` answers come first, whatever is asked."""

    def __init__(self) -> None:
        self.values: dict[bytes, tuple[bytes, str]] = {}
        self.requests: list[httpx.Request] = []
        self.script: list[httpx.Response | httpx.RequestError] = []
        self.size_max = 1 << 20

    def handle(self, request: httpx.Request) -> httpx.Response:
        """Answers one request."""
        self.requests.append(request)
        if self.script:
            answer = self.script.pop(0)
            if isinstance(answer, httpx.RequestError):
                raise answer
            return answer
        path = request.url.raw_path.partition(b"?")[0]
        assert path.startswith(b"/v1/kv/"), path
        key = unquote_to_bytes(path.removeprefix(b"/v1/kv/"))
        headers = {"Doug-Shard": "1", "Doug-Served-By": "shard-1-2"}
        if request.method == "PUT":
            if len(request.content) > self.size_max:
                return problem(413, code="value_too_large", detail="too large")
            self.values[key] = (request.content, request.headers["Content-Type"])
            return httpx.Response(200, headers=headers)
        if request.method == "DELETE":
            self.values.pop(key, None)
            return httpx.Response(204, headers=headers)
        if key not in self.values:
            return problem(404, code="key_not_found", detail="no such key")
        value, content_type = self.values[key]
        return httpx.Response(200, content=value, headers={**headers, "Content-Type": content_type, "ETag": '"7"'})


def problem(status: int, **fields: str) -> httpx.Response:
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
