"""Serves a facade over fake nodes on a loopback port, for tools that send requests from another process.

It prints one line of JSON when it is ready, ``{"url": ..., "tokens": {role: token}}``, and serves until its stdin ends.
With ``--auth`` everybody has to say who they are, and there is a token for each of the built-in roles, and that of the
bootstrap file.

Streams that have no end of their own (watches, the console's states) are ended after a moment, because a tool that
judges whole answers would wait for them until its time is over; with ``--endless`` they go on. Nothing else of the
answers is touched. With ``--events`` the nodes tell of events.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import json
import sys
import tempfile
import time
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import structlog
from access_matrix import BOOTSTRAP
from facade_under_test import Facade
from fake_events import happened
from fake_nodes import FakeCluster

from doug_wire.auth import tokens
from doug_wire.auth.document import BUILT_IN, Document, Held, TokenRecord
from facade.client.metrics import Metrics
from facade.client.router import Router
from facade.errors import ProblemError
from facade.routes import problem
from facade.settings import Settings

STREAM_S = 0.05
ENDLESS = (b"/v1/watch", b"/v1/console/stream")


class Ending:
    """The application, whose endless streams end after a moment as if their client had gone."""

    def __init__(self, application: Any) -> None:
        self._application = application

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serves a request."""
        if scope["type"] != "http" or scope["raw_path"] not in ENDLESS:
            await self._application(scope, receive, send)
            return
        streams, begun = asyncio.Event(), False

        async def receive_or_end() -> Any:
            if not begun:
                return await receive()
            await streams.wait()
            await asyncio.sleep(STREAM_S)
            return {"type": "http.disconnect"}

        async def send_noticed(message: MutableMapping[str, Any]) -> None:
            nonlocal begun
            if message["type"] == "http.response.start" and message["status"] == 200:
                begun = True
                streams.set()
            await send(message)

        await self._application(scope, receive_or_end, send_noticed)
        if begun:
            with contextlib.suppress(RuntimeError):
                await send({"type": "http.response.body", "body": b"", "more_body": False})


class Planted:
    """The application with a fault that has to be found: it answers something else than its document says."""

    def __init__(self, application: Any, fault: str) -> None:
        self._application = application
        self._fault = fault

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serves a request."""
        path, query, fault = scope.get("raw_path", b""), scope.get("query_string", b""), self._fault
        if fault == "open" and path in (b"/v1/limits", b"/v1/cluster"):
            await _tell(send, 200, b"application/json", b"{}")
        elif path.startswith(b"/v1/kv/") and fault == "refused":
            await _tell(send, 415, PROBLEM, _problem("unsupported_media_type", 415))
        elif path.startswith(b"/v1/kv/") and fault == "status":
            await _tell(send, 418, PROBLEM, _problem("teapot", 418))
        elif path.startswith(b"/v1/kv/") and fault == "taken" and query:
            await _tell(send, 204 if scope["method"] == "DELETE" else 200, b"text/plain", b"")
        elif path.startswith(b"/v1/kv/") and fault == "code" and query:
            await _tell(send, 400, PROBLEM, _problem("bad_thing", 400))
        else:
            await self._application(scope, receive, send)


PROBLEM = b"application/problem+json"


def _problem(code: str, status: int) -> bytes:
    return problem.document(ProblemError(code, "It is so.", status=status))


async def _tell(send: Any, status: int, content_type: bytes, content: bytes) -> None:
    headers = [(b"content-type", content_type), (b"content-length", b"%d" % len(content)), (b"doug-request-id", b"1")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})


async def give_tokens(facade: Facade) -> dict[str, str]:
    """Makes a token for each role."""
    given = {"bootstrap": BOOTSTRAP}
    assert facade.state is not None
    for role in BUILT_IN:
        made = tokens.mint()
        record = TokenRecord(made.id, made.salt, made.digest, Held(roles=(role,)), 1)
        await facade.state.change(functools.partial(Document.with_token, name=role, record=record))
        given[role] = made.text
    return given


async def serve(*, auth: bool, fault: str, endless: bool, events: bool, folder: Path) -> None:
    """Serves until stdin ends."""
    cluster = FakeCluster(shards=2, nodes=2)
    for node in (node for shard in cluster.shards for node in shard.nodes):
        node.staleness_ms = 0
        if events:
            node.clock_us = time.time_ns() // 1000
            node.events = happened(node.id, node.clock_us)
    await cluster.start()
    settings: dict[str, Any] = {}
    if auth:
        bootstrap = folder / "bootstrap.token"
        bootstrap.write_text(BOOTSTRAP)
        settings = {
            "auth_mode": "token",
            "auth_bootstrap_file": str(bootstrap),
            "audit_file": str(folder / "audit.jsonl"),
        }
    values, metrics = Settings(nodes=cluster.addresses(), **settings), Metrics()
    router = Router(values, metrics)
    facade = Facade(cluster, router, metrics, values)
    running = [asyncio.create_task(router.upkeep.run())]
    running.append(asyncio.create_task(facade.application.audience.run()))
    assert facade.application.console is not None
    running.append(asyncio.create_task(facade.application.console.collector.run()))
    if facade.gate is not None:
        running.append(asyncio.create_task(facade.gate.run()))
    await facade.until(lambda: router.ready, "the facade became ready")
    told: dict[str, Any] = {"tokens": {}}
    if facade.state is not None:
        state = facade.state
        await facade.until(lambda: state.age_s() is not None, "who may do what is known")
        told["tokens"] = await give_tokens(facade)
    facade.served = facade.application if endless else Ending(facade.application)
    if fault:
        facade.served = Planted(facade.served, fault)
    told["url"] = f"http://localhost:{await facade.listen(hot=not fault)}"
    print(json.dumps(told), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await facade.close()
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    await cluster.stop()


def main() -> None:
    """Reads the arguments."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--auth", action="store_true")
    parser.add_argument("--endless", action="store_true", help="leave streams as they are, for browsers")
    parser.add_argument("--events", action="store_true", help="let the nodes tell of events")
    parser.add_argument("--plant", default="", choices=("", "code", "status", "taken", "refused", "open"))
    arguments = parser.parse_args()
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(40), logger_factory=structlog.PrintLoggerFactory(sys.stderr)
    )
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(
            serve(
                auth=arguments.auth,
                fault=arguments.plant,
                endless=arguments.endless,
                events=arguments.events,
                folder=Path(folder),
            )
        )


if __name__ == "__main__":
    main()
