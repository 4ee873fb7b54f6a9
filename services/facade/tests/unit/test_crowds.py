"""The turns of connections: a crowd of them leaves the others their part of each turn of the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from connection_under_test import GET, SETTINGS, Connection

from facade.app.crowds import ALONE_MAX, BEGUN_MAX, FEW, LONG, URGENT_MAX, Crowd, Crowds
from facade.app.front import Front
from facade.app.hot import HotLane
from facade.app.progress import SMALL_BYTES
from facade.client.metrics import Metrics
from facade.errors import NotAppliedError

CROWD, POLITE, OTHER = "10.0.0.1", "10.0.0.2", "10.0.0.3"
LONG_MAX = BEGUN_MAX // LONG
"""How many requests of the long way a crowd begins in a turn: all those of these tests go that way."""


class Loop:
    """The turns of an event loop, which the test has pass."""

    def __init__(self) -> None:
        self._soon: list[Callable[[], None]] = []

    def call_soon(self, callback: Callable[[], None]) -> None:
        self._soon.append(callback)

    def turn(self) -> None:
        soon, self._soon = self._soon, []
        for callback in soon:
            callback()

    @property
    def idle(self) -> bool:
        return not self._soon


class Asker:
    """A connection that asks again and again."""

    def __init__(self) -> None:
        self.turns = 0

    def take_turn(self) -> None:
        self.turns += 1


def test_a_crowd_begins_so_much_in_a_turn_and_the_rest_later_in_order() -> None:
    loop = Loop()
    crowd = Crowd(loop.call_soon, (CROWD, POLITE))
    askers = [Asker() for _ in range(2 * BEGUN_MAX + 10)]
    assert [crowd.take(each, GET) for each in askers] == [True] * BEGUN_MAX + [False] * (BEGUN_MAX + 10)
    loop.turn()
    assert [each.turns for each in askers] == [0] * BEGUN_MAX + [1] * BEGUN_MAX + [0] * 10
    late = Asker()
    assert not crowd.take(late, GET), "others wait already"
    loop.turn()
    assert (askers[-1].turns, late.turns) == (1, 1)
    loop.turn()
    assert loop.idle, "nothing is left to do"
    assert crowd.take(late, GET)


def test_alone_it_begins_more() -> None:
    loop = Loop()
    crowd = Crowd(loop.call_soon, (CROWD,))
    assert [crowd.take(Asker(), GET) for _ in range(ALONE_MAX + 1)] == [True] * ALONE_MAX + [False]


def test_what_goes_the_long_way_counts_for_more() -> None:
    loop = Loop()
    crowd = Crowd(loop.call_soon, (CROWD, POLITE))
    for _ in range(LONG_MAX):
        assert crowd.take(Asker(), GET)
        crowd.went_long()
    assert not crowd.take(Asker(), GET)


@pytest.mark.parametrize("asked", ["GET /livez", "GET /readyz?a=b", "GET /v1/cluster", "DELETE /v1/auth/tokens/a"])
def test_some_probes_and_operators_go_before(asked: str) -> None:
    loop = Loop()
    crowd = Crowd(loop.call_soon, (CROWD, POLITE))
    for _ in range(BEGUN_MAX + 1):
        crowd.take(Asker(), GET)
    data = asked.encode() + b" HTTP/1.1\r\n"
    assert [crowd.take(Asker(), data) for _ in range(URGENT_MAX + 1)] == [True] * URGENT_MAX + [False]


@pytest.mark.parametrize(
    "data", [b"", b"GET", b"GET ", b"GET /livez", b"\xff /livez HTTP/1.1", b"GET /\xff H", b"GET /v1/kv/livez HTTP/1.1"]
)
def test_nothing_else_does(data: bytes) -> None:
    loop = Loop()
    crowd = Crowd(loop.call_soon, (CROWD, POLITE))
    for _ in range(BEGUN_MAX):
        crowd.take(Asker(), GET)
    assert crowd.take(Asker(), data) == (data == b"GET /livez")


def test_only_many_connections_are_a_crowd_and_nothing_is_kept_of_them() -> None:
    crowds = Crowds()
    loop = Loop()
    seen = [crowds.enter(CROWD, loop.call_soon).is_large for _ in range(FEW + 1)]
    assert seen == [False] * FEW + [True]
    assert not crowds.enter(POLITE, loop.call_soon).is_large
    crowds.leave(CROWD)
    assert not crowds.enter(POLITE, loop.call_soon).is_large
    for _ in range(FEW):
        crowds.leave(CROWD)
    assert crowds.enter(CROWD, loop.call_soon).connections == 1


def crowded(count: int = FEW + 1) -> tuple[Front, list[Connection]]:
    """A facade, and a crowd of connections to it beside another network, that have not asked yet."""
    front = Front(SETTINGS, Metrics())
    front.crowds.enter(OTHER, lambda callback: None)
    return front, [Connection(front, CROWD) for _ in range(count)]


async def answered(crowd: list[Connection]) -> None:
    """Waits until all that a crowd has asked is answered."""
    async with asyncio.timeout(60):
        while any(each.protocol._current is not None or each.protocol._waits for each in crowd):
            await crowd[0].settle()


async def test_a_crowd_leaves_others_each_turn_and_all_are_answered() -> None:
    front, crowd = crowded()
    polite = Connection(front, POLITE)
    for each in crowd:
        each.protocol.data_received(GET)
    polite.protocol.data_received(GET)
    assert sum(each.protocol._current is not None for each in crowd) == LONG_MAX
    assert polite.protocol._current is not None, "whoever is no crowd waits for nobody"
    await polite.settle()
    assert polite.statuses == [200]
    await answered(crowd)
    assert all(each.statuses == [200] for each in crowd)
    assert not front.crowds.enter(POLITE, lambda callback: None).waiting


async def test_a_connection_that_asks_for_much_at_once_has_one_turn_for_each() -> None:
    _, crowd = crowded()
    for each in crowd:
        each.protocol.data_received(3 * GET)
    await answered(crowd)
    assert all(each.statuses == [200, 200, 200] for each in crowd)


async def test_who_waits_for_a_turn_is_neither_late_nor_idle() -> None:
    _, crowd = crowded()
    for each in crowd[:-1]:
        each.protocol.data_received(GET)
    last = crowd[-1]
    last.protocol.data_received(GET[:10])
    now_s = last.protocol.loop.time() + 1000
    last.protocol.check_time(now_s, 1.0)
    assert not last.transport.closed
    last.protocol.data_received(GET[10:])
    assert not last.transport.reading, "what waits is bounded"
    await answered(crowd)
    assert last.statuses == [200]
    assert last.transport.reading


async def test_of_what_goes_the_long_way_fewer_connections_begin_no_more_than_a_crowd_of_the_short_one() -> None:
    """250 connections that sent many such requests at once had everybody else wait for all of them in each turn."""
    front, few = crowded(BEGUN_MAX + 50)
    polite = Connection(front, POLITE)
    for _ in range(2):
        for each in few:
            each.protocol.data_received(3 * GET)
    assert sum(each.protocol._current is not None for each in few) == BEGUN_MAX
    few[-1].protocol.data_received(GET)
    polite.protocol.data_received(GET)
    assert polite.protocol._current is not None
    most = 0
    async with asyncio.timeout(60):
        while any(len(each.seen) < 6 for each in few):
            begun = sum(len(each.begun) for each in few)
            await asyncio.sleep(0)
            most = max(most, sum(len(each.begun) for each in few) - begun)
    assert most <= BEGUN_MAX
    alone = Front(SETTINGS, Metrics())
    crowd = [Connection(alone, CROWD) for _ in range(BEGUN_MAX + 50)]
    for each in crowd:
        each.protocol.data_received(GET)
    assert all(each.protocol._current is not None for each in crowd)
    await answered(few + crowd)


async def test_who_leaves_while_waiting_is_not_served() -> None:
    front, crowd = crowded()
    for each in crowd:
        each.protocol.data_received(GET)
    gone = crowd[-1]
    gone.protocol.connection_lost(None)
    await answered(crowd)
    assert gone.begun == []
    assert front.arriving.held == 0


async def test_a_stop_serves_what_waits() -> None:
    _, crowd = crowded()
    for each in crowd:
        each.protocol.data_received(GET)
    crowd[-1].protocol.shutdown()
    await crowd[-1].settle()
    assert crowd[-1].statuses == [200], "at once"
    assert crowd[-1].transport.closed
    await answered(crowd)


async def test_large_beginnings_that_wait_have_a_bound() -> None:
    front, crowd = crowded()
    for each in crowd[:LONG_MAX]:
        each.protocol.data_received(GET)
    large = b"PUT /a HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % SMALL_BYTES + bytes(SMALL_BYTES)
    front.arriving.limit = 3 * len(large)
    waiting = crowd[LONG_MAX : LONG_MAX + 3]
    for each in waiting:
        each.protocol.data_received(large)
    assert front.arriving.held == 3 * len(large)
    one_more = crowd[-1]
    one_more.protocol.data_received(large)
    assert one_more.statuses == [503]
    assert not one_more.begun, "it was others' turn: whoever fills the room does not go before them"
    await answered(crowd)
    assert [each.statuses for each in waiting] == [[200], [200], [200]]
    assert not one_more.begun
    assert front.arriving.held == 0


async def test_a_probe_that_comes_in_pieces_goes_before_too() -> None:
    _, crowd = crowded(FEW + 100)
    for each in crowd[1:]:
        each.protocol.data_received(GET)
    probe = crowd[0]
    probe.protocol.data_received(b"GET /liv")
    assert probe.protocol._waits
    probe.protocol.data_received(b"ez HTTP/1.1\r\nHost: h\r\n\r\n")
    assert probe.protocol._current is not None
    await probe.settle()
    assert probe.statuses == [200] and any(each.protocol._waits for each in crowd)
    await answered(crowd)
    assert all(each.statuses == [200] for each in crowd)


async def test_a_body_that_arrives_waits_for_no_turn() -> None:
    _, crowd = crowded()
    first = crowd[0]
    first.protocol.data_received(b"PUT /a HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nab")
    for each in crowd[1:]:
        each.protocol.data_received(GET)
    first.protocol.data_received(b"cd")
    await first.settle()
    assert first.seen == [("PUT", b"/a", b"abcd")]
    await answered(crowd)


async def test_a_request_behind_the_end_of_a_body_waits_for_its_turn_too() -> None:
    _, crowd = crowded()
    for each in crowd:
        each.protocol.data_received(b"PUT /unread HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\na")
    await answered(crowd)
    for each in crowd:
        each.protocol.data_received(b"b" + GET)
    assert sum(each.protocol._current is not None for each in crowd) == LONG_MAX
    await answered(crowd)
    assert all(each.statuses == [200, 200] for each in crowd)


class Busy:
    """A router that has no room."""

    def read(self, *_arguments: Any, **_options: Any) -> Any:
        raise NotAppliedError("overloaded", "There is no room.")

    write = read


def busy_lane(front: Front) -> HotLane:
    router: Any = Busy()
    return HotLane(router, Metrics(), front)


async def send_all_but_a_byte() -> tuple[Front, list[Connection]]:
    """A crowd whose puts lack the last byte of their bodies."""
    front, crowd = crowded()
    lane = busy_lane(front)
    for each in crowd:
        each.protocol._lane = lane
        each.protocol.data_received(b"PUT /v1/kv/a HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\na")
    await answered(crowd)
    return front, crowd


@pytest.mark.pure
async def test_what_is_parsed_behind_a_request_counts_though_it_begins_later() -> None:
    front, crowd = crowded()
    lane = busy_lane(front)
    for each in crowd:
        each.protocol._lane = lane
        each.protocol.data_received(GET * BEGUN_MAX)
    assert sum(each.protocol._current is not None for each in crowd) == BEGUN_MAX // 2
    assert sum(len(each.protocol._later) for each in crowd) == BEGUN_MAX // 2


@pytest.mark.pure
async def test_bodies_that_end_together_begin_in_turn() -> None:
    front, crowd = await send_all_but_a_byte()
    for each in crowd:
        each.protocol.data_received(b"b")
    assert sum(each.protocol._current is not None for each in crowd) == BEGUN_MAX
    assert front.arriving.held == 2 * (len(crowd) - BEGUN_MAX), "what waits is counted"
    await answered(crowd)
    assert all(each.statuses == [503] for each in crowd)
    assert front.arriving.held == 0


@pytest.mark.pure
async def test_who_began_behind_others_is_not_idle_and_nothing_is_answered_before_it() -> None:
    """A request that had waited for its turn behind two others counted as none: the next one was answered before it."""
    front, few = crowded(BEGUN_MAX + 50)
    last = few[-1]
    last.protocol._lane = busy_lane(front)
    await last.send(GET)
    gate = last.hold("/long")
    heads = [b"GET /%b HTTP/1.1\r\nHost: h\r\n\r\n" % path for path in (b"a", b"b", b"long")]
    last.protocol.data_received(b"".join(heads))
    async with asyncio.timeout(60):
        while "/long" not in last.begun:
            for each in few[:-1]:
                each.protocol.data_received(GET)
            await asyncio.sleep(0)
    last.protocol.check_time(last.protocol.loop.time() + 1000, 75.0)
    assert not last.transport.closed, "its request is under way"
    await last.send(GET)
    assert last.statuses == [503, 200, 200]
    gate.set()
    await answered(few)
    assert last.statuses == [503, 200, 200, 200, 503]


@pytest.mark.pure
async def test_what_is_wrong_behind_a_request_that_waits_for_its_turn_is_told_behind_its_answer() -> None:
    """The client of a request in order was told that it was not, and that in the place of its answer."""
    front, crowd = await send_all_but_a_byte()
    for each in crowd:
        each.protocol.data_received(b"bNONSENSE\r\n\r\n")
    await answered(crowd)
    assert all(each.statuses == [503, 400] for each in crowd)
    assert all(each.transport.ended for each in crowd)
    assert front.arriving.held == 0


@pytest.mark.pure
async def test_a_body_of_the_short_way_that_broke_off_is_told_behind_a_long_request() -> None:
    """It was moved to the application meanwhile, which waited for the rest for ever, and the client for the answer."""
    front = Front(SETTINGS, Metrics())
    connection = Connection(front)
    connection.protocol._lane = busy_lane(front)
    front.arriving.limit = 100
    gate = connection.hold("/long")
    await connection.send(b"GET /long HTTP/1.1\r\nHost: h\r\n\r\n")
    await connection.send(b"PUT /v1/kv/a HTTP/1.1\r\nHost: h\r\nContent-Length: 2000\r\n\r\na", bytes(200))
    assert front.arriving.held == 0, "what was dropped holds no room"
    connection.protocol.check_time(connection.protocol.loop.time() + 1, 75.0)
    gate.set()
    await connection.settle()
    assert connection.statuses == [200, 503]
    assert connection.transport.ended


@pytest.mark.parametrize(
    "begun", [b"PUT /unread HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\n", b"GET /a HTTP/1.1\r\nX: "]
)
async def test_a_probe_takes_nobody_along_that_waits_before_it(begun: bytes) -> None:
    """16 requests of the long way more began in each turn, each with a probe, or what looks like one, behind it."""
    front, crowd = crowded(4 * BEGUN_MAX + LONG_MAX)
    for each in crowd:
        each.protocol.data_received(begun)
        await each.settle()
    for each in crowd:
        each.protocol.data_received(
            b"b" + GET if begun.startswith(b"PUT") else b"GET /livez HTTP/1.1\r\nHost: h\r\n\r\n"
        )
    under_way = sum(each.protocol._current is not None for each in crowd)
    for each in crowd:
        each.protocol.data_received(b"GET /livez HTTP/1.1\r\nHost: h\r\n\r\n")
    assert sum(each.protocol._current is not None for each in crowd) == under_way
    assert under_way <= BEGUN_MAX
    await answered(crowd)
    assert front.arriving.held == 0


async def test_a_head_that_comes_in_pieces_has_its_time_in_a_crowd_too() -> None:
    front, crowd = crowded()
    slow = crowd[-1].protocol
    slow.data_received(GET[:5])
    await answered([crowd[-1]])
    began_s = slow.loop.time() - 2 * front.head_timeout_s
    slow.head_since_s = began_s
    for each in crowd[:-1]:
        each.protocol.data_received(GET)
    slow.data_received(GET[5:6])
    assert slow in front.crowds._of[CROWD].waiting, "it is others' turn"
    await answered(crowd)
    assert slow.head_since_s is not None
    assert slow.head_since_s < began_s + front.head_timeout_s, "a piece that waited for its turn is no new head"
    slow.check_time(slow.loop.time(), 60)
    assert crowd[-1].statuses == [408]
