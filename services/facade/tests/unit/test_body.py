"""Bodies with limits: facade.routes.body."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any, cast

import orjson
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


@pytest.mark.parametrize("part", [b"{}", b"[]", b"0", b'""', b'{"":[]}', b"[[]]"])
def test_json_of_very_many_parts_is_refused_before_they_take_memory(part: bytes) -> None:
    """Sixteen mebibytes became half a gibibyte, more than a container of a facade may take."""
    parts = (part + b",") * (body.PARTS_MAX // (1 + part.count(b"{") + part.count(b"[")) + 2000)
    tracemalloc.start()
    try:
        with pytest.raises(BadRequestError, match="values and members") as refused:
            body.parse_json(b'{"operations":[' + parts + b"0]}")
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (refused.value.status, refused.value.code) == (413, "body_too_large")
    assert most < 5 * len(parts)


@pytest.mark.parametrize("text", ["[1,{2},", '{\\"a\\":[1,', "\\\\,[", "\\n\n{,"])
def test_what_stands_within_strings_is_no_part(text: str) -> None:
    value = text * (body.PARTS_MAX // 2)
    assert body.parse_json(orjson.dumps({"operations": [{"op": "put", "value": value}]})) == {
        "operations": [{"op": "put", "value": value}]
    }


def test_a_string_without_an_end_makes_no_parts_of_its_own() -> None:
    with pytest.raises(BadRequestError, match=r"not JSON|values and members"):
        body.parse_json(b'["' + b",[{" * body.PARTS_MAX)


class Name(str):
    """A name that counts with how many others it is compared."""

    compared = 0
    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        Name.compared += 1
        return str.__eq__(self, other)


def test_a_name_that_comes_twice_is_found_without_a_look_at_all_pairs() -> None:
    """A body of a mebibyte with one such name took minutes, in which nobody else was served."""
    pairs = [(Name(number), None) for number in [*range(1000), 999]]
    with pytest.raises(BadRequestError, match="names '999' twice"):
        body._check_names([(name, None) for name, _ in pairs])
    assert Name.compared < 2000


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
