"""HTTP/1.1 for tests and benchmarks: an asynchronous client on one connection, and a raw exchange for odd requests.

It must not know DougDB. It never retries, never follows redirects, never reads proxy variables, and sends a request
target exactly as it is given, because other clients would correct or refuse most requests that are tested with it.

Invariants:
    1. One request is under way on a connection at a time.
    2. A request that timed out or was cut off closes its connection, so that its late answer is not taken for another.

Reference: RFC 9112.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import io
import json
import socket
import ssl
from typing import Any, NamedTuple, cast

import httptools


class HttpError(Exception):
    """The exchange broke off: refused, reset, cut off or not understood. It is not known what the server did."""


class HttpTimeoutError(HttpError):
    """No whole answer came in time."""


class Response(NamedTuple):
    """A whole answer. The names in ``headers`` are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class Secure(NamedTuple):
    """The TLS settings of an exchange: the context with the trusted authorities, and the server's required name."""

    context: ssl.SSLContext
    name: str


def request_bytes(method: str, target: str, body: bytes = b"", headers: dict[str, str] | None = None) -> bytes:
    """The bytes of a request.

    Args:
        method: The method; a body length is always sent with PUT and POST.
        target: The request target, already percent-encoded; sent as it is, in Latin-1.
        body: The body.
        headers: Further headers.
    """
    lines = [f"{method} {target} HTTP/1.1", "host: localhost"]
    if body or method in ("PUT", "POST"):
        lines.append(f"content-length: {len(body)}")
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


class _Exchange(asyncio.Protocol):
    """Feeds what arrives to the parser and completes the waiting request."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting: asyncio.Future[Response] | None = None
        self._bodiless = False
        self._reset()

    def _reset(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []

    def begin(self, data: bytes, bodiless: bool) -> asyncio.Future[Response]:
        assert self._waiting is None, "a request is already under way on this connection"
        assert self.transport is not None
        self._bodiless = bodiless
        self._waiting = asyncio.get_running_loop().create_future()
        self.transport.write(data)
        return self._waiting

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's has the methods, not the base class.

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(HttpError(f"not an HTTP answer: {error}"))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        if self._bodiless:  # The parser does not know that the method is HEAD, and would wait for a body.
            self._finish()

    def on_body(self, data: bytes) -> None:
        self._body.append(data)

    def on_message_complete(self) -> None:
        if not self._bodiless:
            self._finish()

    def _finish(self) -> None:
        response = Response(self._parser.get_status_code(), self._headers, b"".join(self._body))
        if response.headers.get("connection", "").lower() == "close" and self.transport is not None:
            self.transport.close()
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(response)
        self._waiting = None
        self._reset()

    def _fail(self, error: HttpError) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(error)
        self._waiting = None
        if self.transport is not None:
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(HttpError(f"the connection was closed: {exc or 'end of stream'}"))
        self.transport = None
        if not self.closed.done():
            self.closed.set_result(None)


class Client:
    """One keep-alive connection; it is opened when needed and again after an error."""

    def __init__(self, host: str, port: int, timeout_s: float = 30.0) -> None:
        self._address = (host, port)
        self._timeout_s = timeout_s
        self._exchange: _Exchange | None = None

    async def request(
        self,
        method: str,
        target: str,
        body: bytes = b"",
        headers: dict[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> Response:
        """Sends one request and waits for its whole answer.

        Raises:
            HttpTimeoutError: The answer did not come in time.
            HttpError: The exchange broke off.
        """
        limit_s = self._timeout_s if timeout_s is None else timeout_s
        try:
            async with asyncio.timeout(limit_s):
                exchange = await self._connected()
                return await exchange.begin(request_bytes(method, target, body, headers), method == "HEAD")
        except TimeoutError as error:
            await self.close()
            raise HttpTimeoutError(f"{method} {target[:80]}: no answer within {limit_s} s") from error
        except OSError as error:
            raise HttpError(f"{method} {target[:80]}: {error}") from error
        except asyncio.CancelledError:
            await self.close()
            raise

    async def _connected(self) -> _Exchange:
        exchange = self._exchange
        if exchange is None or exchange.transport is None or exchange.transport.is_closing():
            loop = asyncio.get_running_loop()
            _, exchange = await loop.create_connection(_Exchange, *self._address)
            self._exchange = exchange
        return exchange

    async def close(self) -> None:
        """Closes the connection; the next request opens another."""
        exchange, self._exchange = self._exchange, None
        if exchange is not None and exchange.transport is not None:
            exchange.transport.abort()
            await exchange.closed

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def fetch(
    port: int,
    method: str,
    target: str,
    body: bytes = b"",
    headers: dict[str, str] | None = None,
    *,
    host: str = "127.0.0.1",
    timeout_s: float = 10.0,
    secure: Secure | None = None,
) -> Response:
    """One blocking exchange on a connection of its own; over TLS with ``secure``.

    Raises:
        HttpTimeoutError: The answer did not come in time.
        HttpError: The exchange broke off.
    """
    data = request_bytes(method, target, body, {"connection": "close", **(headers or {})})
    return exchange_raw(port, data, host=host, timeout_s=timeout_s, bodiless=method == "HEAD", secure=secure)


def exchange_raw(
    port: int,
    data: bytes,
    *,
    host: str = "127.0.0.1",
    timeout_s: float = 10.0,
    bodiless: bool = False,
    secure: Secure | None = None,
) -> Response:
    """Sends bytes as they are and reads one answer, which may come before the server has read them all.

    Raises:
        HttpTimeoutError: The answer did not come in time.
        HttpError: The exchange broke off before a whole answer, or the server's certificate was refused.
    """
    try:
        with contextlib.ExitStack() as stack:
            connection = stack.enter_context(socket.create_connection((host, port), timeout=timeout_s))
            if secure is not None:
                wrapped = secure.context.wrap_socket(connection, server_hostname=secure.name or None)
                connection = stack.enter_context(wrapped)
            # A server that refuses early may close while the request is still being sent; its answer counts.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.sendall(data)
            answer = http.client.HTTPResponse(connection, method="HEAD" if bodiless else "GET")
            with answer:
                answer.begin()
                body = answer.read()
                return Response(answer.status, {name.lower(): value for name, value in answer.getheaders()}, body)
    except TimeoutError as error:
        raise HttpTimeoutError(f"no whole answer within {timeout_s} s to {data[:80]!r}") from error
    except (OSError, http.client.HTTPException, io.UnsupportedOperation) as error:
        raise HttpError(f"{type(error).__name__}: {error} after {data[:80]!r}") from error
