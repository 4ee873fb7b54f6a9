"""Bodies with limits: facade.routes.body."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from facade.errors import BadRequestError
from facade.routes import body
from facade.routes.batch import BatchApp


def receiver(messages: Iterable[dict[str, Any]]) -> body.Receive:
    left = iter(messages)

    async def receive() -> dict[str, Any]:
        message = next(left, None)
        if message is None:
            await asyncio.Event().wait()
            raise AssertionError
        return message

    return receive


def chunk(data: bytes, *, more: bool) -> dict[str, Any]:
    return {"type": "http.request", "body": data, "more_body": more}


async def test_reads_all_chunks() -> None:
    assert await body.read(receiver([chunk(b"all", more=False)]), 3, 1) == b"all"
    assert (
        await body.read(receiver([chunk(b"a", more=True), chunk(b"", more=True), chunk(b"b", more=False)]), 3, 1)
        == b"ab"
    )
    assert await body.read(receiver([{"type": "http.request"}]), 3, 1) == b""


async def test_counts_while_streaming_and_stops_reading() -> None:
    taken = 0

    async def receive() -> dict[str, Any]:
        nonlocal taken
        taken += 1
        return chunk(b"xx", more=True)

    with pytest.raises(BadRequestError) as caught:
        await body.read(receive, 5, 1)
    assert (caught.value.status, caught.value.code, taken) == (413, "value_too_large", 3)
    with pytest.raises(BadRequestError):
        await body.read(receiver([chunk(b"xxx", more=True), chunk(b"xxx", more=False)]), 5, 1)


async def test_a_body_that_does_not_come_is_408() -> None:
    with pytest.raises(BadRequestError) as caught:
        await body.read(receiver([chunk(b"x", more=True)]), 5, 0.001)
    assert (caught.value.status, caught.value.code) == (408, "body_timeout")
    assert (b"connection", b"close") in caught.value.headers


async def test_a_client_that_goes_away() -> None:
    for messages in ([], [chunk(b"x", more=True)]):
        with pytest.raises(body.DisconnectedError):
            await body.read(receiver([*messages, {"type": "http.disconnect"}]), 5, 1)


def test_json_is_read_strictly() -> None:
    assert body.parse_json(b'{"by": 1}') == {"by": 1}
    for bad in (b"", b"{", b"NaN", b'{"a": Infinity}', b'"\xff"', b"1 2", b'"\\ud800"', b"[" * 200_000, b"'a'"):
        with pytest.raises(BadRequestError) as caught:
            body.parse_json(bad)
        assert (caught.value.status, caught.value.code) == (400, "bad_json")


def test_an_endless_body_ends_the_connection() -> None:
    assert body.too_large(5, 6).headers == ()
    assert body.too_large(5, 1 << 40).headers == ((b"connection", b"close"),)


async def test_a_long_line_in_small_pieces_is_not_copied_with_each_of_them() -> None:
    """A client that sent a mebibyte in thousands of pieces had a facade copy gigabytes."""
    size, pieces = 1 << 20, 64
    held: list[int] = []

    async def receive() -> dict[str, Any]:
        if len(held) == pieces:
            return chunk(b'"}\n', more=False)
        held.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.reset_peak()
        begin = b'{"op":"put","key":"k","value":"' if len(held) == 1 else b""
        return chunk(begin + b"v" * (size // pieces), more=True)

    tracemalloc.start()
    try:
        app = cast("BatchApp", SimpleNamespace(_body_timeout_s=1.0))
        (group,) = [group async for group in BatchApp._groups(app, receive)]
    finally:
        tracemalloc.stop()
    (part,) = group
    assert not isinstance(part.wanted, BadRequestError)
    assert len(cast("Any", part.wanted).value) == size
    assert max(held) < 1.5 * size
