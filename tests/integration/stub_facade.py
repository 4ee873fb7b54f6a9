"""A stand-in for the facade: a raw ASGI app that keeps values in a dict, for the tests of the load generator.

It gives every key revisions, and puts with a condition are judged by them.

Started as ``python stub_facade.py PORT``. Keys that begin with ``slow`` are answered after 30 s, ``refuse`` with 503,
``close`` by dropping the connection after the answer.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn

VALUES: dict[bytes, bytes] = {}
TAGS: dict[bytes, bytes] = {}


def holds(key: bytes, headers: dict[bytes, bytes]) -> bool:
    """Whether the condition of a put holds."""
    if b"if-none-match" in headers:
        return key not in TAGS
    wanted = headers.get(b"if-match")
    return wanted is None or (key in TAGS and wanted in (b"*", TAGS[key]))


async def app(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    assert scope["type"] == "http"
    key = scope["raw_path"].removeprefix(b"/v1/kv/")
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    status, headers, answer = 200, [], b""
    if key.startswith(b"slow"):
        await asyncio.sleep(30)
    elif key.startswith(b"refuse"):
        status, answer = 503, json.dumps({"outcome": "not_applied"}).encode()
    elif key.startswith(b"close"):
        headers = [(b"connection", b"close")]
    elif scope["method"] == "PUT" and not holds(key, dict(scope["headers"])):
        status = 412
    elif scope["method"] == "PUT":
        VALUES[key] = body
        TAGS[key] = b'"%d"' % (int(TAGS.get(key, b'"0"')[1:-1]) + 1)
        headers = [(b"etag", TAGS[key])]
    elif key in VALUES:
        answer = VALUES[key]
    else:
        status = 404
    headers.append((b"content-length", str(len(answer)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else answer})


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), lifespan="off", access_log=False, log_level="warning")
