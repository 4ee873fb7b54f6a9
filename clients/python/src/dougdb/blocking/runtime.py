"""The parts in which the blocking client differs from the one for asyncio: transport, waiting, background work."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any, BinaryIO, TypeVar, cast

import httpx

from dougdb.answers import hide_encoding
from dougdb.checks import is_loopback, proxy_of
from dougdb.security import verify

T = TypeVar("T")

Transport = httpx.BaseTransport
HttpClient = httpx.Client
Mutex = threading.Lock
Stream = Generator[T, None, None]
Body = BinaryIO


class _AsStored(httpx.BaseTransport):
    """Keeps httpx from undoing the content encoding of values."""

    def __init__(self, inner: httpx.BaseTransport) -> None:
        self._inner = inner

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Sends a request."""
        response = self._inner.handle_request(request)
        hide_encoding(response.headers)
        return response

    def close(self) -> None:
        """Closes the connections."""
        self._inner.close()


def http_client(
    url: str,
    *,
    timeout_s: float,
    ca_file: str | None,
    in_flight: int,
    headers: Mapping[str, str],
    transport: Transport | None,
) -> HttpClient:
    """An HTTP client with at most ``in_flight`` connections, which sends the headers with every request."""
    limits = httpx.Limits(max_connections=in_flight, max_keepalive_connections=in_flight)
    inner = transport or httpx.HTTPTransport(verify=verify(url, ca_file), limits=limits, proxy=proxy_of(url))
    return httpx.Client(
        timeout=timeout_s,
        transport=_AsStored(inner),
        trust_env=not is_loopback(url),
        headers={"Accept-Encoding": "identity", **headers},
    )


class _Pieces(io.RawIOBase):
    """The pieces of a body as a file that can be read once, from its beginning to its end."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            try:
                self._rest = next(self._pieces)
            except StopIteration:
                return 0
        size = min(len(buffer), len(self._rest))
        buffer[:size], self._rest = self._rest[:size], self._rest[size:]
        return size


def as_body(pieces: Iterator[bytes]) -> Body:
    """The body of an answer for the caller: a file."""
    return cast(BinaryIO, io.BufferedReader(_Pieces(pieces), 1 << 16))


class Background:
    """Work that is done while the caller does something else, in a thread of its own."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._ends = threading.Event()

    def start(self, work: Callable[[], None]) -> None:
        """Begins the work."""
        self._thread = threading.Thread(target=work, daemon=True, name="dougdb-background")
        self._thread.start()

    def wait(self, seconds: float) -> bool:
        """Waits for some seconds, and returns whether the work is to end; called by the work itself."""
        return self._ends.wait(seconds)

    def stop(self) -> None:
        """Asks the work to end, and waits until it has ended."""
        self._ends.set()
        if self._thread is not None:
            self._thread.join()

    def interrupt(self) -> None:
        """Does nothing: a thread cannot stop another one."""

    def was_interrupted(self) -> bool:
        """False: ``interrupt`` does nothing here."""
        return False


class Pace:
    """The clock of a client, and its ways to wait."""

    def now(self) -> float:
        """The time in seconds, by a clock that only goes forward."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Waits for some seconds."""
        time.sleep(seconds)

    def background(self) -> Background:
        """A new ``Background``."""
        return Background()
