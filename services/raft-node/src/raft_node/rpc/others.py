"""Calls that last of services that are not ours, health and reflection: few at a time, for they ask nobody who calls.

gRPC takes a whole message of each stream of requests into memory, and keeps a task for each watch. What is called once
and answered has its request read like any other (``raft_node.rpc.requests``). Must not know what the services do.

Invariants: (1) what is refused holds nothing, and a call that has ended holds nothing; (2) no caller has all of them.

Source: docs/operations.md, Limits of clients.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, TypeAlias

import grpc
import grpc.aio

ASKING_MAX = 4
"""How many streams of requests there may be of a method: of tools that look at what a port serves."""
ASKING_S = 60.0
"""How long such a stream may last."""
WATCHING_MAX = 256
"""How many streams of answers there may be of a method."""
PART = 3 / 4
"""The part of them that one caller may have."""

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Context = grpc.aio.ServicerContext[Any, Any]


class _TooManyError(Exception):
    """There are as many calls as there may be; the message says of whom."""


class _GoingOn:
    """Counts the calls of a method that go on."""

    def __init__(self, most: int) -> None:
        """Begins with none of ``most``."""
        self._most, self._of_one = most, max(1, int(PART * most))
        self._calls = 0
        self._callers: dict[str, int] = {}

    @contextmanager
    def one(self, caller: str) -> Iterator[None]:
        """Counts a call of a caller for the time of the block.

        Raises:
            _TooManyError: There may be no more of them.
        """
        own = self._callers.get(caller, 0)
        if self._calls >= self._most:
            raise _TooManyError(f"there are {self._most} such calls at a time at most")
        if own >= self._of_one:
            raise _TooManyError(f"one caller has {self._of_one} such calls at a time at most")
        self._calls, self._callers[caller] = self._calls + 1, own + 1
        try:
            yield
        finally:
            self._calls -= 1
            self._callers[caller] -= 1
            if not self._callers[caller]:
                del self._callers[caller]


def few(handler: Handler, caller_of: Callable[[Context], str]) -> Handler:
    """The same method, so many of whose calls go on at a time; one that is called once and answered as it is.

    Args:
        handler: The method.
        caller_of: Tells whose a call is.
    """
    if not handler.response_streaming:
        return handler
    codecs = (handler.request_deserializer, handler.response_serializer)
    serves: Any = handler.stream_stream if handler.request_streaming else handler.unary_stream
    going_on = _GoingOn(ASKING_MAX if handler.request_streaming else WATCHING_MAX)

    async def asked(requests: Any, context: Context) -> None:
        try:
            with going_on.one(caller_of(context)):
                async with asyncio.timeout(ASKING_S):
                    async for answer in serves(requests, context):
                        await context.write(answer)
        except _TooManyError as error:
            await _refuse(context, error)
        except TimeoutError:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, f"such a call lasts for {ASKING_S:g} s at most")

    async def watched(request: Any, context: Context) -> None:
        try:
            with going_on.one(caller_of(context)):
                await serves(request, context)
        except _TooManyError as error:
            await _refuse(context, error)

    if handler.request_streaming:
        return grpc.stream_stream_rpc_method_handler(asked, *codecs)
    return grpc.unary_stream_rpc_method_handler(watched, *codecs)


async def _refuse(context: Context, error: _TooManyError) -> NoReturn:
    await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"OVERLOADED: {error}", (("doug-code", "OVERLOADED"),))
