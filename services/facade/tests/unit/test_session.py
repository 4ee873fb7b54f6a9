"""A stream that ends is opened again, and nothing of what ended it stays."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from doug_stream.codes import StatusCode
from doug_stream.errors import CallError
from facade.client import session
from facade.client.session import Session

TIMES = 20


class FakeStreams:
    """A node, its shard and the registry, as far as a session knows them: every stream ends at once."""

    id = "n"

    def __init__(self) -> None:
        self.errors: list[BaseException] = []
        self.enough = asyncio.Event()

    async def wanted(self) -> None:
        pass

    async def open_pipe(self) -> FakeStreams:
        return self

    async def read(self) -> Any:
        if len(self.errors) >= TIMES:
            self.enough.set()
        await asyncio.sleep(0)
        error = CallError(StatusCode.UNAVAILABLE, "the node has gone")
        self.errors.append(error)
        raise error

    async def idle(self) -> None:
        await asyncio.Event().wait()

    async def close(self) -> None:
        pass

    def nothing(self, *arguments: Any) -> Any:
        return None

    def node_down(self, *arguments: Any) -> list[Any]:
        return []

    node_up = next_batch = cancel = lost = settle = nothing


def depth_of(error: BaseException) -> int:
    depth = 0
    while error.__context__ is not None:
        error, depth = error.__context__, depth + 1
    return depth


async def test_a_stream_that_ends_again_and_again_keeps_none_of_the_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    """In native code an error that a coroutine has caught would stay the context of the next one, without end."""
    monkeypatch.setattr(session, "REOPEN_S", 0)
    streams: Any = FakeStreams()
    running = asyncio.create_task(Session(streams, streams, streams).run())
    async with asyncio.timeout(60):
        await streams.enough.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert max(map(depth_of, streams.errors)) == 0
