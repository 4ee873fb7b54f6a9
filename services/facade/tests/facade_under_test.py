"""A facade as the tests use it: with its parts at hand, asked without a socket or through one."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from ssl import SSLContext
from typing import Any

import httpx
import uvicorn
from fake_nodes import FakeCluster
from uvicorn.server import ServerState

from facade.app.application import Application
from facade.app.protocol import LimitedProtocol
from facade.app.server import make_gate
from facade.client.metrics import Metrics
from facade.client.router import Router
from facade.settings import Settings

HEAD = re.compile(rb"(HTTP/1\.1 \d{3} [^\r]+\r\n)(.*?\r\n)(\r\n)", re.DOTALL)
VARYING = re.compile(
    rb"(doug-request-id: )\S+|(date: )[^\r]+|(server-timing: )facade;dur=[0-9.]+(?:, route;dur=[0-9.]+)?"
)


def comparable(answer: bytes) -> bytes:
    """Without what differs each time, and the headers in one order."""
    ordered = HEAD.sub(lambda head: head[1] + b"\r\n".join(sorted(head[2].split(b"\r\n"))) + head[3], answer)
    return VARYING.sub(rb"\1\2\3", ordered)


class Facade:
    """A facade in front of a fake cluster; without a socket until it is to listen."""

    def __init__(self, cluster: FakeCluster, router: Router, metrics: Metrics, settings: Settings) -> None:
        self.cluster = cluster
        self.router = router
        self.metrics = metrics
        self.settings = settings
        self.state, self.gate = make_gate(settings, metrics, router)
        self.application = Application(router, metrics, settings, self.state, self.gate)
        self.served: Any = self.application
        """What listens: the application, or what a test puts around it."""
        self._servers: list[tuple[asyncio.Server, ServerState]] = []
        self.http = httpx.AsyncClient(
            transport=httpx.ASGITransport(self.application),
            base_url="http://facade",
            timeout=30.0,
            headers={"doug-client": "tests"},
        )

    async def use_sockets(self) -> None:
        """Has ``http`` ask through a socket, where plain requests take the short way."""
        await self.http.aclose()
        self.http = httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(limits=httpx.Limits(max_connections=None)),
            base_url=f"http://localhost:{await self.listen()}",
            timeout=30.0,
            headers={"doug-client": "tests"},
        )

    async def listen(self, ssl: SSLContext | None = None, *, hot: bool = True) -> int:
        """Serves on a loopback port of the system's choice, as the process does, and returns it."""
        lane = self.application.hot if hot else None
        config = uvicorn.Config(self.served, interface="asgi3", proxy_headers=False, ws="none", log_config=None)
        config.load()
        state, front = ServerState(), self.application.front
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: LimitedProtocol(config, state, {}, front=front, hot=lane), "127.0.0.1", 0, ssl=ssl
        )
        self._servers.append((server, state))
        return int(server.sockets[0].getsockname()[1])

    @property
    def server_state(self) -> ServerState:
        """Of the newest port that is listened on."""
        return self._servers[-1][1]

    async def close(self) -> None:
        await self.http.aclose()
        for server, state in self._servers:
            server.close()
            for connection in tuple(state.connections):
                connection.transport.abort()
            await server.wait_closed()
        if self.application.front.audit is not None:
            self.application.front.audit.close()

    async def until(self, condition: Callable[[], bool], what: str, timeout_s: float = 60.0) -> None:
        async with asyncio.timeout(timeout_s):
            while not condition():
                await asyncio.sleep(0.005)
        assert condition(), what
