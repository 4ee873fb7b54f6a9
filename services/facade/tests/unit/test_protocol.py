"""One connection: order, refusals and limits, over a transport in memory and applications that the test holds."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from connection_under_test import GET, SETTINGS, Connection

from facade.app import heads
from facade.app.crowds import UNPARSED_BYTES_MAX
from facade.app.front import Front
from facade.app.progress import PIECE_BYTES, PIECES_BURST
from facade.app.protocol import LINGER_S
from facade.app.slices import END_BYTES, SLICE_BYTES
from facade.client.metrics import Metrics


@pytest.fixture
async def connection() -> Connection:
    return Connection()


def put(path: str, body: bytes, *headers: bytes) -> bytes:
    lines = [b"PUT %s HTTP/1.1" % path.encode(), b"Host: h", b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join([*lines, b"", body])


UPGRADES = [
    (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQAAP__"),
    (b"Upgrade: websocket", b"Connection: keep-alive, upgrade"),
    (b"Connection: Upgrade", b"Connection: keep-alive", b"Upgrade: h2c"),
]


@pytest.mark.parametrize("headers", UPGRADES)
async def test_a_request_that_asks_for_another_protocol_keeps_its_body(
    connection: Connection, headers: tuple[bytes, ...]
) -> None:
    data = put("/a", b"after", *headers) + put("/b", b"", *headers) + put("/c", b"next")
    await connection.send(data)
    assert connection.seen == [("PUT", b"/a", b"after"), ("PUT", b"/b", b""), ("PUT", b"/c", b"next")]
    assert connection.statuses == [200, 200, 200]
    assert not connection.transport.closed


@pytest.mark.parametrize("headers", UPGRADES)
async def test_it_keeps_its_body_however_it_is_cut(headers: tuple[bytes, ...]) -> None:
    data = put("/a", b"after", *headers) + put("/c", b"next")
    for cut in range(len(data)):
        connection = Connection()
        await connection.send(data[:cut], data[cut:])
        assert connection.seen == [("PUT", b"/a", b"after"), ("PUT", b"/c", b"next")], cut


async def test_it_keeps_a_chunked_body_and_close(connection: Connection) -> None:
    head = b"POST /a HTTP/1.1\r\nHost: h\r\nConnection: close, Upgrade\r\nUpgrade: h2c\r\n"
    head += b"Transfer-Encoding: chunked\r\n\r\n"
    await connection.send(head, b"3\r\nabc\r\n", b"2\r\nde\r\n0\r\n\r\n")
    assert connection.seen == [("POST", b"/a", b"abcde")]
    assert connection.transport.closed


async def test_nothing_is_tunnelled(connection: Connection) -> None:
    await connection.send(b"CONNECT other:443 HTTP/1.1\r\nHost: other:443\r\n\r\nbytes")
    assert (connection.statuses, connection.begun) == ([405], [])


async def test_what_is_wrong_with_a_later_request_waits_for_the_earlier_ones(connection: Connection) -> None:
    gate = connection.hold("/a")
    await connection.send(put("/a", b"abc") + b"def\r\n\r\n")
    assert connection.transport.written == b"", "nobody knows yet what became of the first one"
    gate.set()
    await connection.settle()
    assert connection.statuses == [200, 400]
    assert connection.seen == [("PUT", b"/a", b"abc")]
    assert connection.transport.ended


async def test_the_later_one_waits_also_when_others_wait_before_it(connection: Connection) -> None:
    gate = connection.hold("/a")
    await connection.send(put("/a", b"1") + put("/b", b"2"), put("/c", b"3"), b"NONSENSE\r\n\r\n")
    assert connection.transport.written == b""
    gate.set()
    await connection.settle()
    assert connection.statuses == [200, 200, 200, 400]


async def test_a_body_that_breaks_off_is_told_once_and_never_handed_over(connection: Connection) -> None:
    await connection.send(b"PUT /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", b"zz\r\n")
    assert (connection.statuses, connection.seen, connection.left) == ([400], [], 1)
    assert connection.transport.ended


async def test_a_body_that_nobody_reads_may_break_off_without_a_second_answer(connection: Connection) -> None:
    gate = connection.hold("/unread")
    head = b"DELETE /unread HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    await connection.send(head + b"zz\r\n")
    assert connection.transport.written == b"", "it is under way, and its outcome is not known"
    gate.set()
    await connection.settle()
    assert connection.statuses == [200]
    assert connection.transport.ended


async def test_a_body_that_breaks_off_behind_its_answer_ends_the_connection(connection: Connection) -> None:
    head = b"PUT /unread HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    await connection.send(head, b"zz\r\n")
    assert connection.statuses == [200]
    assert connection.transport.ended


def chunks(count: int, size: int) -> bytes:
    return b"%x\r\n%b\r\n" % (size, b"x" * size) * count


async def test_a_body_in_the_smallest_chunks_ends_its_connection(connection: Connection) -> None:
    """A quarter of a mebibyte of them took 60 ms of one turn of the loop, for each such connection."""
    head = b"PUT /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    await connection.send(head, chunks(PIECES_BURST, 1))
    assert connection.transport.written == b""
    await connection.send(chunks(PIECES_BURST, 1))
    assert (connection.statuses, connection.seen, connection.left) == ([400], [], 1)
    assert connection.transport.ended


async def test_bodies_in_larger_chunks_and_small_bodies_are_as_many_as_one_likes(connection: Connection) -> None:
    head = b"PUT /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    await connection.send(head, chunks(2 * PIECES_BURST, PIECE_BYTES), b"0\r\n\r\n")
    assert connection.statuses == [200]
    for _ in range(20):
        await connection.send((head + chunks(1, 1) + b"0\r\n\r\n") * (PIECES_BURST // 10))
        while connection.protocol._later or connection.protocol._unparsed:
            await connection.settle()
    assert connection.statuses[-1] == 200 and len(connection.statuses) == 1 + 20 * (PIECES_BURST // 10)


async def test_requests_are_answered_one_after_the_other(connection: Connection) -> None:
    gate = connection.hold("/a")
    await connection.send(put("/a", b"1") + put("/b", b"2") + put("/c", b"3"))
    assert connection.begun == ["/a"]
    assert not connection.transport.reading
    gate.set()
    await connection.settle()
    assert [path for _, path, _ in connection.seen] == [b"/a", b"/b", b"/c"]
    assert connection.transport.reading


async def test_one_request_is_parsed_while_another_is_answered(connection: Connection) -> None:
    """16 KiB of them are hundreds, which took 60 ms and 1.5 MB: 250 connections of a stranger stopped a facade."""
    gate = connection.hold("/v1/kv/a")
    count = 8000
    await connection.send(GET * count)
    assert len(connection.protocol._later) == 1
    for _ in range(1000):
        connection.protocol.data_received(GET * 10)
        if not connection.transport.reading:
            break
    assert len(connection.protocol._unparsed) < len(GET) * count + UNPARSED_BYTES_MAX
    gate.set()
    while len(connection.seen) < count:
        await asyncio.sleep(0)


async def test_few_requests_are_parsed_behind_the_end_of_a_body(connection: Connection) -> None:
    gate = connection.hold("/a")
    await connection.send(put("/a", b"ab")[:-1], b"b" + GET * 8000)
    assert len(connection.protocol._later) <= END_BYTES // len(GET) + 1
    gate.set()
    while len(connection.seen) < 8001:
        await asyncio.sleep(0)


@pytest.mark.parametrize("before", [GET, GET + GET, GET + put("/b", b"b")])
@pytest.mark.parametrize("size", [SLICE_BYTES, 2 * UNPARSED_BYTES_MAX])
async def test_a_long_body_that_came_behind_another_request_is_read_to_its_end(
    connection: Connection, before: bytes, size: int
) -> None:
    body = bytes(size)
    data = before + put("/long", body) + put("/c", b"next")
    await connection.send(data[: len(before) + size // 2], data[len(before) + size // 2 :])
    await connection.settle()
    assert connection.seen[-2:] == [("PUT", b"/long", body), ("PUT", b"/c", b"next")]
    assert connection.transport.reading


async def test_a_head_that_asks_for_another_protocol_is_put_aside_whole(connection: Connection) -> None:
    gate = connection.hold("/a")
    lines = [*UPGRADES[0], *[b"a:b"] * (heads.FIELDS_MAX - 10)]
    lines.append(b"c:" + b"d" * (SLICE_BYTES - 100 - len(put("/long", b"body", *lines))))
    long = put("/long", b"body", *lines)
    assert len(long) < SLICE_BYTES < len(long) + len(lines), "it gets longer than a slice when it is written anew"
    await connection.send(put("/a", b"") + put("/b", b"") + long + put("/c", b"next"))
    gate.set()
    await connection.settle()
    assert [path for _, path, _ in connection.seen] == [b"/a", b"/b", b"/long", b"/c"]
    assert connection.statuses == [200, 200, 200, 200]


async def test_nothing_behind_close_is_answered(connection: Connection) -> None:
    await connection.send(put("/a", b"1", b"Connection: close") + put("/b", b"2"))
    assert [path for _, path, _ in connection.seen] == [b"/a"]
    assert connection.transport.closed


HEADS: list[tuple[bytes, int, bytes]] = [
    (b"GET / HTTP/1.2\r\nHost: h\r\n\r\n", 505, b"bad_version"),
    (b"GET / HTTP/2.0\r\nHost: h\r\n\r\n", 505, b"bad_version"),
    (b"GET / HTTP/0.9\r\nHost: h\r\n\r\n", 505, b"bad_version"),
    (b"GET /\r\n\r\n", 505, b"bad_version"),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, b"bad_version"),
    (b"GET / HTTP/1.1\r\n\r\n", 400, b"bad_host"),
    (b"GET / HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n", 400, b"bad_host"),
    (b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n", 421, b"unknown_host"),
    (b"GET http://evil.example/ HTTP/1.1\r\nHost: h\r\n\r\n", 421, b"unknown_host"),
    (b"GET / HTTP/1.1\r\nHost: \r\n\r\n", 421, b"unknown_host"),
    (b"GET / HTTP/1.0\r\nHost: h\r\nHost: i\r\n\r\n", 400, b"bad_host"),
    (b"PUT / HTTP/1.1\r\nHost: h\r\nExpect: the-best\r\nContent-Length: 1\r\n\r\n", 417, b"bad_expectation"),
    (b"PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip\r\n\r\n", 501, b"not_implemented"),
    (b"PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501, b"not_implemented"),
    (b"PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: identity\r\n\r\n", 501, b"not_implemented"),
    (b"PUT / HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, b"bad_request"),
    (b"GET /" + b"k" * heads.HEAD_BYTES_MAX + b" HTTP/1.1\r\nHost: h\r\n\r\n", 431, b"head_too_large"),
    (b"GET / HTTP/1.1\r\nHost: h\r\n" + b"A:\r\n" * heads.FIELDS_MAX + b"\r\n", 431, b"head_too_large"),
    (b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"x" * 3 * heads.HEAD_BYTES_MAX, 431, b"head_too_large"),
    (
        b"PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"A: b\r\n" * 9000 + b"\r\n",
        431,
        b"head_too_large",
    ),
]


@pytest.mark.parametrize(("data", "status", "code"), HEADS)
async def test_heads_that_are_refused(connection: Connection, data: bytes, status: int, code: bytes) -> None:
    await connection.send(data)
    assert connection.statuses == [status]
    assert b'"code":"' + code + b'"' in connection.transport.written
    assert b"connection: close" in connection.transport.written
    assert connection.transport.written.count(b"\r\ndoug-request-id: ") == 1
    assert not connection.seen


async def test_a_head_of_as_many_headers_as_there_may_be_is_taken(connection: Connection) -> None:
    lines = b"GET / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n" + b"A:\r\n" * (heads.FIELDS_MAX - 2)
    await connection.send(lines + b"\r\n0\r\nA: b\r\n\r\n")
    assert connection.statuses == [200], "and a trailer is no header"


async def test_a_refused_head_keeps_the_name_that_its_client_gave_it(connection: Connection) -> None:
    await connection.send(b"PUT / HTTP/1.1\r\nHost: h\r\nX-Request-Id: mine\r\nExpect: the-best\r\n\r\n")
    assert b"\r\ndoug-request-id: mine\r\n" in connection.transport.written


async def test_a_head_behind_a_long_body_is_counted_by_itself(connection: Connection) -> None:
    first = put("/a", b"x" * 60_000)
    await connection.send(first + b"GET /b HTTP/1.1\r\nHo", b"st: h\r\n\r\n")
    assert connection.statuses == [200, 200]


async def test_a_trailer_is_no_header() -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        seen.extend(scope["headers"])
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    connection = Connection()
    connection._app = app  # type: ignore[method-assign]
    connection.protocol.app = app
    await connection.send(b"PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nIf-Match: 1\r\n\r\n")
    assert connection.statuses == [204]
    assert seen == [(b"host", b"h"), (b"transfer-encoding", b"chunked")]


def later(connection: Connection, seconds: float) -> None:
    connection.protocol.check_time(asyncio.get_running_loop().time() + seconds, 75.0)


async def test_slow_heads_and_idle_connections_are_closed(connection: Connection) -> None:
    later(connection, 9.0)
    assert not connection.transport.closed
    await connection.send(GET)
    later(connection, 74.0)
    assert not connection.transport.closed, "it has asked, and is idle"
    later(connection, 76.0)
    assert connection.transport.closed


@pytest.mark.parametrize("piece", [b"", b"GET / HT"])
async def test_a_head_that_does_not_come_is_408(connection: Connection, piece: bytes) -> None:
    await connection.send(piece)
    later(connection, 11.0)
    assert connection.statuses == [408]


async def test_a_slow_head_is_told_behind_the_answer_before_it(connection: Connection) -> None:
    gate = connection.hold("/a")
    await connection.send(put("/a", b"1") + b"GET /b")
    later(connection, 11.0)
    assert connection.transport.written == b""
    gate.set()
    await connection.settle()
    assert connection.statuses == [200, 408]


async def test_who_waits_for_us_is_not_late(connection: Connection) -> None:
    gate = connection.hold("/a")
    await connection.send(put("/a", b"1") + put("/b", b"1") + b"GET /c")
    later(connection, 11.0)
    gate.set()
    await connection.settle()
    later(connection, 9.0)
    await connection.send(b" HTTP/1.1\r\nHost: h\r\n\r\n")
    assert connection.statuses == [200, 200, 200]


async def test_a_body_that_is_refused_is_not_read_for_ever(connection: Connection) -> None:
    await connection.send(b"PUT /unread HTTP/1.1\r\nHost: h\r\nContent-Length: 99999\r\n\r\nx")
    assert connection.statuses == [200]
    later(connection, 76.0)
    assert connection.transport.closed


async def test_an_ended_connection_is_read_for_a_while(connection: Connection) -> None:
    await connection.send(b"NONSENSE\r\n\r\n", b"more", b"and more")
    assert connection.transport.ended
    assert not connection.transport.closed
    later(connection, LINGER_S + 0.1)
    assert connection.transport.closed


async def test_who_goes_away_is_not_answered(connection: Connection) -> None:
    gate = connection.hold("/a")
    await connection.send(put("/a", b"1"))
    connection.protocol.connection_lost(ConnectionResetError())
    gate.set()
    await connection.settle()
    assert connection.transport.written == b""
    assert not connection.state.connections


async def test_a_stop_waits_for_what_has_come(connection: Connection) -> None:
    gate = connection.hold("/a")
    await connection.send(put("/a", b"1") + put("/b", b"2"))
    connection.protocol.shutdown()
    assert not connection.transport.closed
    gate.set()
    await connection.settle()
    assert connection.statuses == [200, 200]
    assert connection.transport.closed


async def test_a_stop_closes_what_is_idle(connection: Connection) -> None:
    connection.protocol.shutdown()
    assert connection.transport.closed


CHUNKED = b"PUT /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"


async def test_a_body_counts_as_what_has_arrived_of_it() -> None:
    front = Front(SETTINGS, Metrics())
    connections = [Connection(front) for _ in range(200)]
    for connection in connections:
        await connection.send(CHUNKED)
    assert front.arriving.held == 0, "nothing has arrived"
    await connections[0].send(b"5\r\nabcde\r\n")
    assert front.arriving.held == 5
    await connections[0].send(b"0\r\n\r\n")
    assert (front.arriving.held, connections[0].seen) == (0, [("PUT", b"/a", b"abcde")])
    await connections[1].send(b"5\r\nabcde\r\n")
    connections[1].protocol.connection_lost(None)
    await connections[2].send(b"5\r\nabcde\r\n", b"zz\r\n")
    assert front.arriving.held == 0


async def test_bodies_beyond_their_room_are_refused_and_leave_it() -> None:
    front = Front(SETTINGS, Metrics())
    front.arriving.limit = 100
    first, second, third = (Connection(front) for _ in range(3))
    await first.send(CHUNKED, b"50\r\n" + b"x" * 80)
    await second.send(CHUNKED, b"50\r\n" + b"x" * 80)
    assert second.statuses == [503]
    assert b"overloaded" in second.transport.written
    assert front.arriving.held == 80
    await third.send(put("/a", b"x" * 10))
    assert third.statuses == [200]


@pytest.mark.parametrize(("before", "end"), [(GET, b""), (put("/v1/kv/a", b"ab")[:-1], b"b")])
async def test_what_waits_behind_a_request_counts_and_has_a_bound(before: bytes, end: bytes) -> None:
    """A stranger's 10,000 connections had 64 KiB each waiting, and more, which nobody counted."""
    front = Front(SETTINGS, Metrics())
    connections = [Connection(front) for _ in range(4)]
    behind = end + GET * 300
    front.arriving.limit = 3 * len(behind)
    gates = [each.hold("/v1/kv/a") for each in connections]
    for each in connections:
        await each.send(before, behind)
    assert front.arriving.held <= 3 * len(behind)
    assert [each.protocol._last_word is None for each in connections] == [True, True, True, False]
    for gate in gates:
        gate.set()
    async with asyncio.timeout(60):
        while len(connections[0].seen) < 301:
            await asyncio.sleep(0)
    assert connections[-1].statuses[-1] == 503 and connections[-1].transport.ended
    assert front.arriving.held == 0


async def test_one_address_whose_bodies_take_all_room_leaves_a_reserve_to_others() -> None:
    front = Front(SETTINGS, Metrics())
    front.arriving.limit = 100
    greedy, more = (Connection(front, "10.0.0.1") for _ in range(2))
    await greedy.send(CHUNKED, b"64\r\n" + b"x" * 100)
    await more.send(put("/a", b"x" * 10))
    assert more.statuses == [503]
    others = [Connection(front, f"10.0.0.{number}") for number in range(2, 5)]
    await others[0].send(put("/a", b"x" * 10))
    assert others[0].statuses == [200]
    await others[1].send(CHUNKED, b"a\r\n" + b"x" * 10)
    await others[2].send(put("/a", b"x" * 10))
    assert (others[1].statuses, others[2].statuses) == ([], [503]), "all together are bounded"
    for connection in (greedy, others[1]):
        connection.protocol.connection_lost(None)
    assert (front.arriving.held, front.arriving._of) == (0, {})


async def test_a_body_that_trickles_in_is_408() -> None:
    connection = Connection()
    size = SETTINGS.rate_min_bytes * 5 + 100
    await connection.send(CHUNKED, b"%x\r\n" % size + b"x" * size + b"\r\n")
    later(connection, 5.1)
    assert connection.statuses == [], "enough of it came"
    await connection.send(b"1\r\nx\r\n")
    later(connection, 10.5)
    await connection.settle()
    assert connection.statuses == [408]
    assert b"body_timeout" in connection.transport.written


async def test_a_body_that_waits_for_its_turn_is_not_slow(connection: Connection) -> None:
    gate = connection.hold("/b")
    await connection.send(put("/b", b"1") + CHUNKED)
    later(connection, 60.0)
    gate.set()
    await connection.settle()
    later(connection, 4.0)
    await connection.send(b"0\r\n\r\n")
    assert connection.statuses == [200, 200]


def leave_unread(connection: Connection, size: int) -> None:
    connection.transport.waiting = size
    connection.protocol.pause_writing()


async def test_answers_that_nobody_takes_are_cut_off(connection: Connection) -> None:
    await connection.send(GET)
    leave_unread(connection, 70_000)
    later(connection, 29.0)
    assert connection.front.unread.held == 70_000
    connection.transport.waiting = 70_000 - SETTINGS.rate_min_bytes * 31
    later(connection, 30.1)
    assert connection.cut_off == [False], "it takes enough"
    connection.transport.waiting -= 1000
    later(connection, 61.0)
    assert connection.cut_off == [True]
    connection.protocol.connection_lost(ConnectionAbortedError())
    assert connection.front.unread.held == 0


async def test_who_takes_it_in_the_end_is_not_cut_off(connection: Connection) -> None:
    await connection.send(GET)
    leave_unread(connection, 70_000)
    connection.transport.waiting = 0
    connection.protocol.resume_writing()
    assert connection.front.unread.held == 0
    later(connection, 31.0)
    assert not connection.transport.aborted


async def test_a_connection_that_does_not_end_for_its_client_is_cut_off(connection: Connection) -> None:
    await connection.send(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    assert connection.transport.closed
    later(connection, 1.0)
    later(connection, 32.0)
    assert connection.transport.aborted


async def test_large_answers_to_reads_are_refused_while_too_much_is_unread() -> None:
    front = Front(SETTINGS, Metrics())
    slow, other = Connection(front), Connection(front)
    await slow.send(GET)
    leave_unread(slow, front.unread.limit + 1)
    await other.send(GET, b"GET /v1/large HTTP/1.1\r\nHost: h\r\n\r\n")
    assert other.statuses == [200, 503]
    assert len(other.transport.written) < 2000
    assert front.unread.refused == 1
    writer = Connection(front)
    await writer.send(put("/v1/large", b""))
    assert writer.statuses == [200], "a write that was applied is told so"
    slow.protocol.resume_writing()
    reader = Connection(front)
    await reader.send(b"GET /v1/large HTTP/1.1\r\nHost: h\r\n\r\n")
    assert reader.statuses == [200]


async def test_one_address_that_reads_nothing_leaves_a_reserve_to_others() -> None:
    front = Front(SETTINGS, Metrics())
    large = b"GET /v1/large HTTP/1.1\r\nHost: h\r\n\r\n"
    silent, same, other = (Connection(front, f"10.0.0.{number}") for number in (1, 1, 2))
    await silent.send(GET)
    leave_unread(silent, front.unread.limit + 1)
    await same.send(large)
    await other.send(large)
    assert (same.statuses, other.statuses) == ([503], [200])
    more = Connection(front, "10.0.0.3")
    await more.send(GET)
    leave_unread(more, front.unread.limit // 8)
    late = Connection(front, "10.0.0.4")
    await late.send(large)
    assert late.statuses == [503], "all together are bounded"
    for connection in (silent, more):
        connection.protocol.connection_lost(None)
    assert (front.unread.held, front.unread._of) == (0, {})
