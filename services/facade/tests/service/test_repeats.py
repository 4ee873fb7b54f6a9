"""Requests that repeat the head of an earlier one are answered as if the parser had read them, and nothing else is."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any

from facade_under_test import comparable
from hypothesis import example, given
from hypothesis import strategies as st

from facade.app.plain import HEAD_BYTES_MAX, HEADS_MAX, KnownHeads, PlainHead, proof_of

MakeFacade = Callable[..., Awaitable[Any]]

GET = b"GET /v1/kv/%b HTTP/1.1\r\nHost: localhost\r\nUser-Agent: u\r\n\r\n"
PUT = b"PUT /v1/kv/%b HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\n%b"
LAST = b"HEAD /v1/kv/end HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


class Connection:
    """A client that sends what it is told to and reads one answer after the other."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self.writer = reader, writer

    @classmethod
    async def open(cls, port: int) -> Connection:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def ask(self, data: bytes) -> bytes:
        self.writer.write(data)
        async with asyncio.timeout(60):
            head = await self._reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head)
            assert length is not None
            return head + await self._reader.readexactly(int(length[1]))

    async def rest(self) -> bytes:
        async with asyncio.timeout(60):
            return await self._reader.read()


def found(facade: Any) -> list[bool]:
    """What became of every look at the known heads."""
    lane, looks = facade.application.hot, []
    again = lane.again

    def look(*arguments: Any) -> Any:
        request = again(*arguments)
        looks.append(request is not None)
        return request

    lane.again = look
    return looks


async def test_a_repeated_head_is_not_parsed_again(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=1)
    looks = found(facade)
    one = await Connection.open(await facade.listen())
    answers = [await one.ask(PUT % (b"k%d" % number, b"v%02d" % number)) for number in range(4)]
    answers += [await one.ask(GET % b"k%d" % number) for number in range(4)]
    assert [answer[:12] for answer in answers] == [b"HTTP/1.1 200"] * 8
    assert [answer[-3:] for answer in answers[4:]] == [b"v00", b"v01", b"v02", b"v03"]
    # The first request of a connection, and the first with a head, are parsed.
    assert looks == [False, True, True, False, True, True, True]
    other = await Connection.open(facade._servers[0][0].sockets[0].getsockname()[1])
    assert (await other.ask(GET % b"none"))[:12] == b"HTTP/1.1 404"
    assert (await other.ask(GET % b"k1?consistency=eventual"))[-3:] == b"v01"
    assert looks[-1:] == [True], "heads are known to all connections"
    for connection in (one, other):
        connection.writer.close()


NEARLY = [
    GET % b"k HTTP/1.1\r\nX: ",
    GET % b"k" + b"x",
    GET % b"a b",
    GET % b"k#x",
    GET % "\u00e9".encode(),
    GET % b"k?consistency=strong",
    GET % (b"k" * 1025),
    GET % b"%zz",
    b"G" + GET % b"k",
    (GET % b"k").replace(b"1.1", b"1.0"),
    (GET % b"k").replace(b"GET", b"PUT"),
    (GET % b"k").replace(b"\r\n\r\n", b"\r\nOrigin: https://a.example\r\n\r\n"),
    (GET % b"k").replace(b"u\r\n\r\n", b"u\n\n"),
    (PUT % (b"k", b"abc")).replace(b"PUT", b"GET"),
    (PUT % (b"k", b"abc")).replace(b": 3", b": 03"),
    (PUT % (b"k", b"abc")).replace(b": 3", b": 3\r\nTransfer-Encoding: chunked"),
    PUT % (b"k", b"abc") + b"PUT",
    PUT % (b"k", b"ab"),
    PUT % (b"k", b"abc") * 2,
    PUT % (b"k", b"abc") + GET % b"k",
    GET % b"k" + PUT % (b"k", b"abc"),
]


async def test_what_nearly_repeats_one_is_answered_as_without_any(make_facade: MakeFacade) -> None:
    """Once where the heads are known, once where none is ever kept; each time behind requests that were answered."""
    facade = await make_facade(nodes=1)
    ports = [await facade.listen(), await facade.listen(hot=False)]
    store = facade.cluster.shards[0].store
    looks = found(facade)
    for data in NEARLY:
        answers, stored = [], []
        for port in ports:
            store.data.clear()
            store.revision = 0
            one = await Connection.open(port)
            for _ in range(2):
                await one.ask(PUT % (b"k", b"old"))
                await one.ask(GET % b"k")
            before = len(looks)
            one.writer.write(data)
            one.writer.write(LAST)
            answers.append(comparable(await one.rest()))
            stored.append({key: value.value for key, value in store.data.items()})
            assert not any(looks[before:]), data
            one.writer.close()
        assert answers[0] == answers[1], data
        assert stored[0] == stored[1], data
    assert sum(looks) >= 2 * len(NEARLY) - 2, "the requests before were not found"


async def test_a_request_in_two_pieces_is_parsed(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=1)
    looks = found(facade)
    one = await Connection.open(await facade.listen())
    for _ in range(3):
        await one.ask(PUT % (b"k", b"abc"))
    assert looks == [False, True]
    data = PUT % (b"k", b"xyz")
    for cut in range(1, len(data)):
        one.writer.write(data[:cut])
        await one.writer.drain()
        await asyncio.sleep(0)
        assert (await one.ask(data[cut:]))[:12] == b"HTTP/1.1 200"
        assert (await one.ask(GET % b"k"))[-3:] == b"xyz"
    one.writer.close()


async def test_a_body_is_never_taken_for_a_request(make_facade: MakeFacade) -> None:
    """Its head came with an earlier request, which is answered by now: whatever it looks like, it is a body."""
    facade = await make_facade(nodes=1)
    looks = found(facade)
    one = await Connection.open(await facade.listen())
    for _ in range(2):
        await one.ask(PUT % (b"mine", b"abc"))
    assert looks == [False]
    body = PUT % (b"another", b"bad")
    upload = PUT.replace(b"Length: 3", b"Length: %d" % len(body)) % (b"upload", b"")
    assert (await one.ask(GET % b"mine" + upload))[-3:] == b"abc"
    known = dict(facade.application.hot._known._heads)
    assert (await one.ask(body))[:12] == b"HTTP/1.1 200"
    assert (await one.ask(GET % b"upload")).endswith(b"\r\n\r\n" + body)
    assert b"another" not in facade.cluster.shards[0].store.data
    # Nor does anybody learn a head from it.
    assert (await one.ask(GET % b"mine" + upload))[-3:] == b"abc"
    one.writer.write(b"x" + body[1:] + PUT % (b"mine", b"def"))
    assert (await one.ask(b""))[:12] == (await one.ask(b""))[:12] == b"HTTP/1.1 200"
    assert all(head.length in (0, 3) for head in facade.application.hot._known._heads.values())
    assert known.keys() <= facade.application.hot._known._heads.keys()
    one.writer.close()


HEAD = PlainHead(False, 0, None, b"", b"", None, None, False)


def test_what_is_kept_is_bounded() -> None:
    known = KnownHeads()
    for number in range(2 * HEADS_MAX + 10):
        known.learn(GET.replace(b": u", b": %d" % number) % b"k", HEAD, 2)
    assert len(known._heads) <= HEADS_MAX
    known.learn(GET.replace(b": u", b": " + b"u" * HEAD_BYTES_MAX) % b"k", HEAD, 2)
    assert all(len(raw) <= HEAD_BYTES_MAX + 4 for raw in known._heads)


def test_a_head_that_was_read_otherwise_is_not_kept() -> None:
    """What the parser took for one line, or for a body, must not be cut in another way here."""
    known = KnownHeads()
    known.learn(GET % b"k", HEAD, 1)
    known.learn(GET % b"k", HEAD, 3)
    known.learn((GET % b"k").replace(b": u", b": u\n"), HEAD, 2)
    known.learn(GET % b"k" + b"x", HEAD, 2)
    known.learn(GET % b"k", HEAD._replace(once=True), 2)
    known.learn(GET % b"k", HEAD._replace(proof=proof_of(b"Bearer of somebody")), 2)
    assert not known._heads


def test_where_heads_may_hold_tokens_no_token_is_kept() -> None:
    token = b"Bearer doug_0123456789abcdef_secret"
    data = (GET % b"k").replace(b"\r\n\r\n", b"\r\nAuthorization:  %b \r\n\r\n" % token)
    head = HEAD._replace(proof=proof_of(token))
    known = KnownHeads(secret=True)
    known.learn(data, head, 3)
    assert known.find(data) == (head, b"/v1/kv/k", b"")
    assert known.find(data.replace(b"secret", b"Secret")) is None
    assert b"secret" not in repr(known._heads).encode()
    known.learn(data.replace(b"Authorization", b"X-Another"), head, 3)
    known.learn(data, HEAD, 3)
    assert known.find(data) == (head, b"/v1/kv/k", b""), "what was read otherwise is not kept"
    assert len(known._heads) == 1


@given(st.binary(max_size=40), st.integers(0, 80), st.integers(0, 20))
@example(b"", 5, 0)
def test_a_request_that_is_found_differs_in_its_target_alone(put_in: bytes, at: int, taken_out: int) -> None:
    known = KnownHeads()
    whole = GET % b"some-key"
    known.learn(whole, HEAD, 2)
    at = min(at, len(whole))
    data = whole[:at] + put_in + whole[at + taken_out :]
    got = known.find(data)
    if got is None:
        return
    head, target, body = got
    assert (head, body) == (HEAD, b"")
    assert data == GET.replace(b"/v1/kv/%b", target) and re.fullmatch(rb'/v1/kv/[!-"$-~]+', target)
