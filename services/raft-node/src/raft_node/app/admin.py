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

import h11
import uvicorn
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from uvicorn.protocols.http.h11_impl import H11Protocol

from doug_wire.listening import Listening
from raft_node.errors import SettingsError
from raft_node.settings import parse_address

HEAD_S = 10.0
"""The time after which a connection ends that has sent no whole request, or not taken the answer to its last one."""
HEAD_BYTES_MAX, HEAD_LINES_MAX = 8 << 10, 64
"""The longest head of a request. This port shares its event loop with Raft."""

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


class _Heads(h11.Connection):
    """Reads requests, of which none has a body: nobody has a reason to send one here, and to read one takes long."""

    def next_event(self) -> Any:
        """See ``h11.Connection``; a request with a body is malformed here."""
        event = super().next_event()
        if isinstance(event, h11.Request) and any(
            name == b"transfer-encoding" or (name == b"content-length" and value != b"0")
            for name, value in event.headers
        ):
            raise h11.RemoteProtocolError("a request with a body")
        return event


class _Bounded(H11Protocol):
    """A connection that ends when it asks nothing for too long, or too much, or when a new one needs its place."""

    connections_max = 64
    _since_s = 0.0
    _asked: object = None
    _lines = 0

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.conn = _Heads(h11.SERVER, HEAD_BYTES_MAX)

    def data_received(self, data: bytes) -> None:
        """Takes bytes, unless they are more than any probe or scrape sends: a line takes as long as a short request."""
        self._lines += data.count(b"\n")
        if len(data) > HEAD_BYTES_MAX or self._lines > HEAD_LINES_MAX:
            self.transport.abort()
        else:
            super().data_received(data)

    def on_response_complete(self) -> None:
        """Begins to count the lines of the next request."""
        self._lines = 0
        super().on_response_complete()

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
        self._made: bytes | None = None
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
            ws="none",
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
            return 200, self._metrics(), CONTENT_TYPE_LATEST
        if path == "/livez":
            return 200, b"ok\n", text
        if path == "/startupz":
            return (200, b"ok\n", text) if self._started() else (503, b"starting\n", text)
        if path == "/readyz":
            reason = self._ready()
            return (503, f"{reason}\n".encode(), text) if reason else (200, b"ok\n", text)
        return 404, b"not found\n", text

    def _metrics(self) -> bytes:
        """All metrics. They are made once in a turn of the event loop, however many ask: it takes some milliseconds."""
        if self._made is None:
            self._made = generate_latest(self._registry)
            asyncio.get_running_loop().call_soon(self._forget)
        return self._made

    def _forget(self) -> None:
        self._made = None
