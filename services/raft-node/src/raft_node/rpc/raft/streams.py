"""Both ends of a long-lived stream: a queue that is written by one task, and reading by another.

An outbox is bounded: what is too much is dropped, oldest first, and the core sends it again when it is still wanted.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Generic, Protocol, TypeVar

import grpc
import grpc.aio

from doug_stream.errors import CallError

Sent = TypeVar("Sent")
Received = TypeVar("Received")

_BACKOFF_FIRST_S = 0.02
_BACKOFF_MAX_S = 0.5


class SendQueue(Generic[Sent]):
    """A queue of messages that wait for the network. Only the event loop touches it."""

    def __init__(self, limit: int) -> None:
        """Holds at most ``limit`` messages."""
        self._messages: deque[Sent] = deque()
        self._limit = limit
        self._filled = asyncio.Event()

    def put(self, message: Sent) -> bool:
        """Adds a message; returns False if the oldest one was dropped for it."""
        full = len(self._messages) >= self._limit
        if full:
            self._messages.popleft()
        self._messages.append(message)
        self._filled.set()
        return not full

    def clear(self) -> None:
        """Forgets all messages."""
        self._messages.clear()
        self._filled.clear()

    async def wait(self) -> None:
        """Returns once there is a message."""
        await self._filled.wait()

    async def get(self) -> Sent:
        """The next message."""
        while not self._messages:
            self._filled.clear()
            await self._filled.wait()
        return self._messages.popleft()


class Call(Protocol):
    """A bidirectional call as its client sees it; grpc.aio's own type differs between its versions."""

    async def write(self, request: Any) -> None:
        """Sends one message."""

    async def read(self) -> Any:
        """Receives one message, or ``grpc.aio.EOF``."""

    def cancel(self) -> bool:
        """Ends the call."""


BROKEN = (
    CallError,
    grpc.aio.AioRpcError,
    grpc.aio.UsageError,
    # A message or a status for a call that was cancelled just now: ExecuteBatchError, which has no name of its own.
    grpc.aio.InternalError,
    asyncio.InvalidStateError,
)
"""The exceptions of a broken call that is opened, read or written, on an own stream or on one of gRPC's."""


class ClientStream(Generic[Sent, Received]):
    """A stream to a peer: opened when there is a message to send, and again after it broke.

    Attributes:
        open: Whether a call is under way.
    """

    def __init__(
        self,
        open_call: Callable[[], Awaitable[Call]],
        limit: int,
        on_received: Callable[[Received], None],
        on_sent: Callable[[], None],
        on_broken: Callable[[], None],
        on_leaving: Callable[[Sent], None] | None = None,
        on_unanswered: Callable[[], None] = lambda: None,
    ) -> None:
        """Builds it; ``run`` sets it going.

        Args:
            open_call: Starts the call.
            limit: How many messages may wait.
            on_received: Takes each answer of the peer.
            on_sent: Called for each message that was written.
            on_broken: Called when the messages under way are lost.
            on_leaving: Called with each message before it is written, so before any answer to it.
            on_unanswered: Called when a call has ended before the peer sent anything.
        """
        self.outbox: SendQueue[Sent] = SendQueue(limit)
        self._open_call = open_call
        self._on_received = on_received
        self._on_sent = on_sent
        self._on_broken = on_broken
        self._on_leaving = on_leaving
        self._on_unanswered = on_unanswered
        self.open = False

    async def run(self) -> None:
        """Runs until cancelled."""
        backoff_s = _BACKOFF_FIRST_S
        while True:
            await self.outbox.wait()
            answered = await self._converse()
            # Waiting messages were meant for the broken connection; the core chooses the messages for the next one.
            self.outbox.clear()
            self._on_broken()
            if not answered:
                self._on_unanswered()
            backoff_s = _BACKOFF_FIRST_S if answered else min(2 * backoff_s, _BACKOFF_MAX_S)
            await asyncio.sleep(backoff_s)

    async def _converse(self) -> bool:
        """Runs one call to its end; returns whether the peer ever answered."""
        try:
            call = await self._open_call()
        except BROKEN:
            return False
        self.open = True
        answered = False
        writer = asyncio.create_task(self._write(call))
        try:
            while (message := await call.read()) is not grpc.aio.EOF:
                answered = True
                self._on_received(message)
        except BROKEN:
            pass
        finally:
            writer.cancel()
            call.cancel()
            await asyncio.gather(writer, return_exceptions=True)
            self.open = False
        return answered

    async def _write(self, call: Call) -> None:
        try:
            while True:
                message = await self.outbox.get()
                if self._on_leaving is not None:
                    self._on_leaving(message)
                await call.write(message)
                self._on_sent()
        except BROKEN:
            # The reading side sees the same break and ends the call.
            pass
