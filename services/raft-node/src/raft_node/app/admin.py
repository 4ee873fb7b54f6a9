"""The node's HTTP port, HTTPS with TLS: /metrics for Prometheus, /livez, /readyz and /startupz for probes.

Liveness is about this process alone, never about leaders, quorums or peers: restarting a node cannot mend those.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import ssl
from collections.abc import Callable, Generator
from typing import Any

import uvicorn
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from uvicorn.protocols.http.h11_impl import H11Protocol

from doug_wire.listening import Listening
from raft_node.errors import SettingsError
from raft_node.settings import parse_address

HEAD_S = 10.0
"""The time after which a connection ends that has sent no whole request, or not taken the answer to its last one."""

Scope = dict[str, Any]
Send = Callable[[dict[str, Any]], Any]


class _Server(uvicorn.Server):
    """uvicorn without signal handlers of its own: the node has them.

    Attributes:
        connections_max: How many connections there may be.
        stopping: Set when the server is to end.
    """

    connections_max: int
    stopping: asyncio.Event
    _listening: Listening

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listens by ``Listening``, as uvicorn does not."""
        factory: Callable[..., Any] = self.config.http_protocol_class
        make = functools.partial(factory, config=self.config, server_state=self.server_state, app_state={})
        self._listening = Listening(make, self.config.ssl, lambda: self.connections_max, HEAD_S, self._free)
        self.servers = await self._listening.start(sockets or (), self.config.backlog)
        self.started = True

    def _free(self) -> int:
        """How many more connections there may be before each new one has a silent one end."""
        return self.connections_max - len(self.server_state.connections)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Lets nobody in any more, then as uvicorn does."""
        for server in self.servers:
            server.close()
        await self._listening.stop()
        await super().shutdown(sockets)

    async def main_loop(self) -> None:
        """Waits for the end of the server. uvicorn's own loop wakes up ten times a second, which a quiet node feels."""
        await self.on_tick(0)
        while not self.should_exit:
            await self.stopping.wait()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


class _Bounded(H11Protocol):
    """A connection that ends when it asks nothing for too long, or when a new one needs its place."""

    connections_max = 64
    _since_s = 0.0
    _asked: object = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Takes the connection; if there are too many, the one ends that has been silent for longest.

        Else silent strangers could have a probe refused, and a healthy node restarted.
        """
        super().connection_made(transport)
        self._since_s = self.loop.time()
        if len(self.connections) > self.connections_max:
            silent = [each for each in self.connections if isinstance(each, _Bounded) and each.is_silent]
            # One that has made room already is there until the loop turns: of a crowd, each needs room of its own.
            silent = [each for each in silent if not each.transport.is_closing()]
            min(silent, key=lambda each: each._since_s, default=self).transport.abort()
        self.loop.call_later(HEAD_S, self._check)

    @property
    def is_silent(self) -> bool:
        """Whether no request of it is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def _check(self) -> None:
        if self not in self.connections:
            return
        if self.transport.is_closing() or self.cycle is self._asked:
            # It has asked nothing since the last check, or does not take its answer: a close would wait for that.
            self.transport.abort()
            return
        self._asked = self.cycle
        self.loop.call_later(HEAD_S, self._check)


class AdminServer:
    """Serves the admin HTTP port of one node."""

    def __init__(
        self,
        listen: str,
        registry: CollectorRegistry,
        ready: Callable[[], str],
        started: Callable[[], bool],
        https: ssl.SSLContext | None = None,
        connections_max: int = 64,
    ) -> None:
        """Binds the port.

        Args:
            listen: ``host:port``.
            registry: The metrics that /metrics shows.
            ready: Gives the reason why the node is not ready; empty if it is ready.
            started: Tells whether the log has been read and the Raft loop runs.
            https: The TLS context for HTTPS; None for HTTP.
            connections_max: How many connections there may be at a time.

        Raises:
            SettingsError: The port is taken.
        """
        self._registry = registry
        self._ready = ready
        self._started = started
        host, port = parse_address(listen)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((host, port))
        except OSError as error:
            raise SettingsError(f"cannot listen on {listen} (admin): {error.strerror}") from error
        protocol = type("Bounded", (_Bounded,), {"connections_max": connections_max})
        config = uvicorn.Config(
            self._app,
            http=protocol,
            interface="asgi3",
            lifespan="off",
            proxy_headers=False,
            date_header=False,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=1,
            ssl_context_factory=None if https is None else lambda config, default: https,
        )
        self._server = _Server(config)
        self._server.connections_max = connections_max
        self._server.stopping = asyncio.Event()

    async def run(self) -> None:
        """Serves until ``stop``."""
        await self._server.serve(sockets=[self._socket])

    def stop(self) -> None:
        """Has ``run`` end."""
        self._server.should_exit = True
        self._server.stopping.set()

    async def _app(self, scope: Scope, receive: object, send: Send) -> None:
        assert scope["type"] == "http"
        status, body, content_type = self._respond(scope["path"])
        headers = [(b"content-type", content_type.encode()), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    def _respond(self, path: str) -> tuple[int, bytes, str]:
        text = "text/plain; charset=utf-8"
        if path == "/metrics":
            return 200, generate_latest(self._registry), CONTENT_TYPE_LATEST
        if path == "/livez":
            return 200, b"ok\n", text
        if path == "/startupz":
            return (200, b"ok\n", text) if self._started() else (503, b"starting\n", text)
        if path == "/readyz":
            reason = self._ready()
            return (503, f"{reason}\n".encode(), text) if reason else (200, b"ok\n", text)
        return 404, b"not found\n", text
