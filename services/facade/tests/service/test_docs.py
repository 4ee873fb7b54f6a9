"""The page of the API: facade.routes.docs."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from html.parser import HTMLParser
from typing import Any

from facade.routes.docs import page

MakeFacade = Callable[..., Awaitable[Any]]

DOCUMENT = {
    "info": {"title": "T <script>", "version": "1", "description": "<b>"},
    "paths": {
        "/a/{b}": {
            "parameters": [{"name": "b<i>", "in": "path", "required": True, "schema": {"type": "string"}}],
            "get": {
                "summary": "Read & see",
                "responses": {"200": {"description": "<u>", "content": {"x/<y>": {"schema": {"$ref": "#/c/S"}}}}},
            },
        }
    },
    "components": {"schemas": {"S": {"properties": {"f": {"type": "array", "items": {"enum": ["<s>"]}}}}}},
}


class Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.ids: set[str] = set()
        self.links: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            assert name in {"id", "href", "class", "lang", "charset"}, name
            if name == "id":
                self.ids.add(value or "")
            elif name == "href":
                self.links.add(value or "")


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    return reader


def test_whatever_the_document_says_is_text() -> None:
    text = page(DOCUMENT)
    assert not read(text).tags & {"script", "b", "i", "u", "s", "y"}
    for shown in ("T &lt;script&gt; 1", "Read &amp; see", "x/&lt;y&gt;", "&lt;s&gt;", "b&lt;i&gt;"):
        assert shown in text


async def test_the_page_needs_nothing_from_elsewhere(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=1)
    answer = await facade.http.get("/docs")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["content-security-policy"].startswith("default-src 'none'; style-src 'unsafe-inline'")
    found = read(answer.text)
    assert "script" not in found.tags
    assert all(link == "/openapi.json" or link.removeprefix("#") in found.ids for link in found.links), found.links
    assert not re.search(r"https?://|url\(|@import", answer.text)
    document = (await facade.http.get("/openapi.json")).json()
    for path, operations in document["paths"].items():
        assert path in answer.text
        for method in operations.keys() & {"get", "put", "post", "delete"}:
            assert f"{method}-{path}" in found.ids


async def test_errors_are_declared_as_they_are_sent(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=1)
    document = (await facade.http.get("/openapi.json")).json()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            for status, answer in operation.get("responses", {}).items() if method != "parameters" else ():
                if status >= "400":
                    assert list(answer.get("content", ["application/problem+json"])) == ["application/problem+json"], (
                        path, method, status,
                    )  # fmt: skip


async def test_a_shard_has_one_spelling(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=1)
    for shard in ("00", "+0", "-0", "0.0", "0_0", "%200", "0%20", "%D9%A0", "0x0", "1e1", "9" * 5000):
        for method, path in (("GET", "events"), ("GET", "members"), ("GET", "backup"), ("POST", "leader")):
            answer = await facade.http.request(method, f"/v1/shards/{shard}/{path}")
            assert (answer.status_code, answer.json()["code"]) == (400, "bad_request"), (shard, path)
    assert (await facade.http.get("/v1/shards/0/events")).status_code == 200
    assert (await facade.http.get("/v1/shards/10/events")).status_code == 404
