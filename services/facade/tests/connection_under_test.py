"""One connection of a facade: its protocol over a transport in memory, and an application that the test holds."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from facade.app.front import Front
from facade.app.outgoing import HIGH_WATER_BYTES
from facade.app.protocol import LimitedProtocol
from facade.client.metrics import Metrics
from facade.routes.body import DisconnectedError
from facade.settings import Settings

SETTINGS = Settings(nodes={0: {"n": "127.0.0.1:1"}}, allowed_hosts=("h", "*.example.com"))
GET = b"GET /v1/kv/a HTTP/1.1\r\nHost: h\r\n\r\n"


class FakeTransport(asyncio.Transport):
    """Keeps what is written, and says what it was told."""

    def __init__(self, address: str = "127.0.0.1") -> None:
        super().__init__({"socket": None, "peername": (address, 1), "sockname": ("127.0.0.1", 2)})
        self.written = b""
        self.closed = False
        self.ended = False
        self.reading = True
        self.aborted = False
        self.waiting = 0
        """Bytes of what was written that the client has not taken."""

    def write(self, data: Any) -> None:
        assert not self.closed
        self.written += data

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert high == HIGH_WATER_BYTES

    def get_write_buffer_size(self) -> int:
        return self.waiting

    def abort(self) -> None:
        self.aborted = True

    def write_eof(self) -> None:
        self.ended = True

    def can_write_eof(self) -> bool:
        return True

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


class Connection:
    """A connection, and the application behind it: it reads each body, and answers when the test lets it."""

    def __init__(self, front: Front | None = None, address: str = "127.0.0.1") -> None:
        self.front = front or Front(SETTINGS, Metrics())
        self.seen: list[tuple[str, bytes, bytes]] = []
        """Method, path and body of every request that was handed over to its end."""
        self.begun: list[str] = []
        self.left = 0
        """How many clients went away before their bodies were here."""
        self.gates: dict[str, asyncio.Event] = {}
        config = uvicorn.Config(self._app, interface="asgi3", proxy_headers=False, ws="none", log_config=None)
        config.load()
        self.state = ServerState()
        self.transport = FakeTransport(address)
        self.protocol = LimitedProtocol(config, self.state, {}, front=self.front)
        self.protocol.connection_made(self.transport)

    def hold(self, path: str) -> asyncio.Event:
        """Has the answer to a path wait."""
        return self.gates.setdefault(path, asyncio.Event())

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        path = scope["path"]
        self.begun.append(path)
        body, more = b"", not path.startswith("/unread")
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.left += 1
                raise DisconnectedError
            body += message["body"]
            more = message["more_body"]
        if path in self.gates:
            await self.gates[path].wait()
        self.seen.append((scope["method"], scope["raw_path"], body))
        content = b"x" * 100_000 if path == "/v1/large" else b"%s=%s" % (scope["raw_path"], body)
        await send(
            {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(content))]}
        )
        await send({"type": "http.response.body", "body": content})

    async def send(self, *pieces: bytes) -> None:
        """The client sends, piece by piece."""
        for piece in pieces:
            self.protocol.data_received(piece)
            await self.settle()

    async def settle(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)

    @property
    def cut_off(self) -> list[bool]:
        return [self.transport.aborted]

    @property
    def statuses(self) -> list[int]:
        return [int(code) for code in re.findall(rb"HTTP/1\.1 ([0-9]{3}) ", self.transport.written)]
