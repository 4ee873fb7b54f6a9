"""Calls that last of services that are not ours, health and reflection: few at a time, for they ask nobody who calls.

gRPC takes a whole message of each stream of requests into memory, and keeps a task for each watch. What is called once
and answered has its request read like any other (``raft_node.rpc.requests``). Must not know what the services do.

Invariants: (1) what is refused holds nothing, and a call that has ended holds nothing; (2) no caller has all of them.

Source: docs/operations.md, Limits of clients.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

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
    calls = _Calls(ASKING_MAX if handler.request_streaming else WATCHING_MAX, caller_of)

    async def asked(requests: Any, context: Context) -> None:
        async with calls.one(context):
            try:
                async with asyncio.timeout(ASKING_S):
                    async for answer in serves(requests, context):
                        await context.write(answer)
            except TimeoutError:
                await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, f"such a call lasts for {ASKING_S:g} s at most")

    async def watched(request: Any, context: Context) -> None:
        async with calls.one(context):
            await serves(request, context)

    if handler.request_streaming:
        return grpc.stream_stream_rpc_method_handler(asked, *codecs)
    return grpc.unary_stream_rpc_method_handler(watched, *codecs)


class _Calls:
    """The calls of one method that go on."""

    def __init__(self, most: int, caller_of: Callable[[Context], str]) -> None:
        self._most, self._of_one = most, max(1, int(PART * most))
        self._caller_of = caller_of
        self._callers: Counter[str] = Counter()

    @asynccontextmanager
    async def one(self, context: Context) -> AsyncIterator[None]:
        """Counts a call while the block runs; aborts it if there are too many, or its caller has too many."""
        caller = self._caller_of(context)
        full = self._callers.total() >= self._most
        if full or self._callers[caller] >= self._of_one:
            who, most = ("there are", self._most) if full else ("one caller has", self._of_one)
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"OVERLOADED: {who} {most} such calls at a time at most",
                (("doug-code", "OVERLOADED"),),
            )
        self._callers[caller] += 1
        try:
            yield
        finally:
            self._callers[caller] -= 1
            if not self._callers[caller]:
                del self._callers[caller]
