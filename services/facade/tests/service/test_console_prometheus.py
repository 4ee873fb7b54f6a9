"""The console's graphs from a Prometheus: what it is asked, how often, and what is shown when it does not answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs

import orjson
import pytest
from pydantic import ValidationError

from facade.console import prometheus
from facade.console.history import FACADE, SHARD
from facade.console.prometheus import ASKED_AT_ONCE, BLOCK, QUERIES, PrometheusHistory, columns_of, expression
from facade.settings import Settings

MakeFacade = Callable[..., Awaitable[Any]]
NOW_S = 1_800_000_000.0
END_S = int(NOW_S)


def series(figure: str, value: str, shard: str | None = None, at_s: int = END_S) -> dict[str, Any]:
    labels = {"figure": figure} | ({} if shard is None else {"shard": shard})
    return {"metric": labels, "values": [[at_s, value]]}


def matrix(*found: dict[str, Any]) -> bytes:
    return json.dumps({"status": "success", "data": {"resultType": "matrix", "result": found}}).encode()


GOOD = matrix(series("requests", "12.5"), series("term", "7", "0"), series("p99_ms", "NaN"))


class FakePrometheus:
    """A server that answers every request in the same way."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, list[str]]]] = []
        self.head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
        self.body = GOOD
        self.let_go = asyncio.Event()
        self.let_go.set()
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        (length,) = (line.split(":")[1] for line in head.splitlines() if line.lower().startswith("content-length"))
        form = parse_qs((await reader.readexactly(int(length))).decode())
        self.asked.append((head.splitlines()[0], form))
        await self.let_go.wait()
        writer.write(self.head + b"connection: close\r\ncontent-length: %d\r\n\r\n" % len(self.body) + self.body)
        writer.close()


@pytest.fixture
async def served() -> AsyncIterator[FakePrometheus]:
    fake = FakePrometheus()
    server = await asyncio.start_server(fake.serve, "127.0.0.1", 0)
    fake.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/prom"
    yield fake
    server.close()
    await server.wait_closed()


@pytest.fixture
async def history(served: FakePrometheus) -> PrometheusHistory:
    return PrometheusHistory(served.url, now_s=lambda: NOW_S)


async def test_the_graphs_come_from_prometheus(make_facade: MakeFacade, served: FakePrometheus) -> None:
    facade = await make_facade(shards=2, nodes=1, console_prometheus=served.url)
    answer = (await facade.http.get("/v1/console/history?shards=0,1,9")).json()
    assert (answer["source"], answer["prometheus"], answer["step_s"]) == ("prometheus", True, 15)
    assert len(answer["times"]) == len(answer["facade"]["requests"]) == 241
    assert {line for line, _ in served.asked} == {"POST /prom/api/v1/query_range HTTP/1.1"}
    queries = [form["query"][0] for _, form in served.asked]
    of_shards, of_facades = sorted(queries, key=lambda query: "shard=~" not in query)
    assert 'shard=~"0|1|2|3|4|5|6|7"' in of_shards, "a block of shards, and nothing else that a browser said"
    assert "shard" not in of_facades


async def test_the_same_shape_as_the_hour_that_the_facade_keeps(
    history: PrometheusHistory, make_facade: MakeFacade
) -> None:
    facade = await make_facade(nodes=1)
    collector = facade.application.console.collector
    await collector.look()
    own, told = collector.history.document([0]), json.loads(orjson.dumps(await history.document([0])))
    assert told.keys() == own.keys()
    assert told["facade"].keys() == own["facade"].keys() and told["shards"]["0"].keys() == own["shards"]["0"].keys()
    assert own["source"] == "facade"
    assert (told["times"][-1], told["facade"]["requests"][-1], told["shards"]["0"]["term"][-1]) == (END_S, 12.5, 7.0)
    assert told["facade"]["p99_ms"][-1] is None and told["facade"]["requests"][0] is None


async def test_it_is_asked_once_however_many_look(history: PrometheusHistory, served: FakePrometheus) -> None:
    served.let_go.clear()
    waiting = [asyncio.create_task(history.document(shards)) for shards in ([0, 1], [1, 0], [0, 1, 1]) * 30]
    while len(served.asked) < 2:
        await asyncio.sleep(0)
    served.let_go.set()
    assert all(told is not None for told in await asyncio.gather(*waiting))
    assert await history.document([1, 0]) is not None
    assert len(served.asked) == 2, "for the facades, and for a block of shards"
    await history.document([BLOCK - 1])
    assert len(served.asked) == 2
    await history.document([BLOCK])
    assert len(served.asked) == 3, "other shards are another question"


async def test_whatever_sets_of_shards_are_looked_at_each_block_is_asked_for_once(
    history: PrometheusHistory, served: FakePrometheus
) -> None:
    sets = [[first, first + step, 39] for first in range(32) for step in (1, 3, 7)]
    told = await asyncio.gather(*(history.document(each) for each in sets))
    assert all(each is not None for each in told)
    queries = [form["query"][0] for _, form in served.asked]
    assert len(queries) == len(set(queries)) == 1 + 40 / BLOCK


async def test_a_slow_prometheus_is_asked_a_little_at_a_time(
    history: PrometheusHistory, served: FakePrometheus
) -> None:
    served.let_go.clear()
    waiting = asyncio.create_task(history.document(range(0, 64 * BLOCK, BLOCK)))
    while len(served.asked) < ASKED_AT_ONCE:
        await asyncio.sleep(0)
    for _ in range(100):
        await asyncio.sleep(0)
    assert len(served.asked) == ASKED_AT_ONCE
    served.let_go.set()
    assert await waiting is not None


async def test_a_step_later_it_is_asked_again(served: FakePrometheus) -> None:
    now_s = NOW_S
    history = PrometheusHistory(served.url, now_s=lambda: now_s)
    assert await history.document([0]) is not None
    now_s += prometheus.STEP_S
    told = await history.document([0])
    assert told is not None and told["times"][-1] == END_S + prometheus.STEP_S
    assert len(served.asked) == 4


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (b"HTTP/1.1 500 Oh\r\n", GOOD),
        (b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\n", b""),
        (b"HTTP/1.1 200 OK\r\n", b"<html>"),
        (b"HTTP/1.1 200 OK\r\n", b"[]"),
        (b"HTTP/1.1 200 OK\r\n", b'{"status": "error", "error": "bad_data"}'),
        (b"HTTP/1.1 200 OK\r\n", matrix(series("other", "1"))),
        (b"HTTP/1.1 200 OK\r\n", matrix(series("term", "1"))),
        (b"HTTP/1.1 200 OK\r\n", matrix(series("term", "x", "0"))),
        (b"HTTP/1.1 200 OK\r\n", b'{"status": "success", "data": {"result": [' + b" " * 4096),
        (b"nonsense\r\n", b""),
    ],
)
async def test_without_a_good_answer_the_facade_shows_its_own_hour(
    make_facade: MakeFacade, served: FakePrometheus, monkeypatch: pytest.MonkeyPatch, head: bytes, body: bytes
) -> None:
    monkeypatch.setattr(prometheus, "ANSWER_BYTES_MAX", 4096)
    served.head, served.body = head, body
    facade = await make_facade(nodes=1, console_prometheus=served.url)
    await facade.application.console.collector.look()
    for _ in range(3):
        answer = (await facade.http.get("/v1/console/history?shards=0")).json()
        assert (answer["source"], answer["prometheus"], len(answer["times"])) == ("facade", True, 1)
    assert len(served.asked) <= 2, "it is left alone for a while"


async def test_one_that_is_away_or_silent_costs_nobody_more_than_a_moment(
    served: FakePrometheus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prometheus, "ANSWER_S", 0.05)
    served.let_go.clear()
    assert await PrometheusHistory(served.url).document([0]) is None
    served.let_go.set()
    away = PrometheusHistory("http://127.0.0.1:1")
    assert await away.document([0]) is None
    monkeypatch.setattr(prometheus, "AWAY_S", 0.0)
    back = PrometheusHistory(served.url)
    served.body = b"[]"
    assert await back.document([0]) is None
    served.body = GOOD
    assert await back.document([0]) is not None


def test_every_figure_is_asked_for_and_the_settings_choose_the_cluster() -> None:
    assert set(QUERIES) == {*FACADE, *SHARD}
    for match in ("", 'namespace="a", job=~"b.*"'):
        of_shards, of_facades = expression((0, 12), match), expression((), match)
        for text in (of_shards, of_facades):
            assert "$" not in text and "%" not in text and ",," not in text
        assert (of_shards.count("label_replace("), of_facades.count("label_replace(")) == (len(SHARD), len(FACADE))
        assert of_shards.count('shard=~"0|12"') >= len(SHARD)
        assert "shard=~" not in of_facades
    assert expression((0,), 'namespace="a"').count('namespace="a"') >= len(SHARD)
    assert expression((), 'namespace="a"').count('namespace="a"') >= len(FACADE)


def test_times_that_were_not_asked_for_are_left_out() -> None:
    facade, shards = columns_of(
        json.loads(matrix(series("requests", "1", at_s=5), series("up", "3", "2", 20))), [10, 20]
    )
    assert facade["requests"] == [None, None]
    assert shards["2"]["up"] == [None, 3.0] and shards["2"]["term"] == [None, None]


@pytest.mark.parametrize("url", ["prometheus:9090", "file:///etc/passwd", "http://a/?x=1", "http://a b", "http://a/#x"])
def test_an_address_that_makes_no_sense_is_refused(url: str) -> None:
    with pytest.raises(ValidationError):
        Settings(nodes={0: {"n": "127.0.0.1:1"}}, console_prometheus=url)


@pytest.mark.parametrize("match", ['a="b"} or up{x="y"', "a=b", 'a="b",', '"', 'a="\\"', 'a="b"\n'])
def test_matchers_cannot_leave_their_braces(match: str) -> None:
    with pytest.raises(ValidationError):
        Settings(nodes={0: {"n": "127.0.0.1:1"}}, console_prometheus_match=match)


@pytest.mark.parametrize("match", ["", 'namespace="dougdb"', 'namespace="a", job=~"b|c",pod!~"x.*"'])
def test_matchers_as_prometheus_writes_them(match: str) -> None:
    assert Settings(nodes={0: {"n": "127.0.0.1:1"}}, console_prometheus_match=match).console_prometheus_match == match
