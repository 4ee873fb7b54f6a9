"""Watches of the client: what is asked for, and where they go on when a stream breaks off."""

from __future__ import annotations

import contextlib
import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from dougdb import (
    AsyncDougClient,
    DougClient,
    HistoryGoneError,
    InvalidArgumentError,
    RejectedError,
    UnavailableError,
    Value,
    WaitTimeoutError,
)
from dougdb.blocking.ranges import lines_of
from dougdb.blocking.runtime import Pace
from dougdb.cli import app
from dougdb.commands import common
from dougdb.watches import Change, change_of_line

URL = "http://127.0.0.1:26000"
RUNNER = CliRunner()


class FakePace(Pace):
    """A clock that waiting moves on."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def now(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


@pytest.fixture
def client(store: Any) -> DougClient:
    return DougClient(URL, transport=httpx.MockTransport(store.handle), pace=FakePace())


def line(event: str, place: str, key: str = "", **data: Any) -> bytes:
    """A line of a stream."""
    if event == "progress":
        data = {"revisions": {"0": place}}
    elif key:
        data = {"key": key, "revision": place or "1", "shard": 0, **data}
    told = {"id": f"w1-{place}"} if place else {}
    return json.dumps({"event": event, **told, "data": data}).encode() + b"\n"


def put(place: str, key: str, value: str = "") -> bytes:
    return line("put", place, key, value=value, encoding="utf-8", content_type="a/b", expires_at=None)


def refused(status: int, code: str) -> httpx.Response:
    return httpx.Response(status, json={"code": code}, headers={"Content-Type": "application/problem+json"})


def test_it_goes_on_behind_the_last_event_that_was_told(store: Any, client: DougClient) -> None:
    store.script = [
        httpx.Response(200, content=line("progress", "5") + put("6", "u/1", "ann") + put("7", "u/2")[:30]),
        httpx.ConnectError("restarting"),
        refused(503, "starting"),
        httpx.Response(200, content=put("7", "u/2") + line("delete", "8", "u/1") + line("progress", "9")),
        httpx.Response(200, content=line("expire", "10", "u/2")),
    ]
    with contextlib.closing(client.watch(prefix="u/")) as changes:
        found = [next(changes) for _ in range(4)]
    assert [(each.kind, each.text, each.revision) for each in found] == [
        ("put", "u/1", "6"),
        ("put", "u/2", "7"),
        ("delete", "u/1", "8"),
        ("expire", "u/2", "10"),
    ]
    assert (found[0].data, found[0].content_type, found[0].shard) == (b"ann", "a/b", "0")
    asked = [request.url.params["from"] for request in store.requests]
    assert asked == ["now", "w1-6", "w1-6", "w1-6", "w1-9"]


def test_what_is_asked_for(store: Any, client: DougClient) -> None:
    store.script = [httpx.Response(200, content=put("", "k") + line("progress", "5")) for _ in range(2)]
    changes = client.watch(key=b"\xff", begin="start", kinds=["delete", "put"], values=False, progress=True)
    assert [(next(changes).kind, next(changes).id)] == [("put", "w1-5")]
    changes.close()
    next(client.watch(start="a", end="b", begin="w1-3"))
    sent = [dict(request.url.params) for request in store.requests]
    assert sent[0] == {"key64": "_w", "from": "start", "events": "put,delete", "values": "false"}
    assert sent[1] == {"start": "a", "end": "b", "from": "w1-3"}
    mistakes: list[dict[str, Any]] = [{"key": "k", "prefix": "p"}, {"kinds": ["jump"]}, {"kinds": []}]
    for wrong in mistakes:
        with pytest.raises(InvalidArgumentError):
            next(client.watch(**wrong))


def test_history_that_is_gone_is_told(store: Any, client: DougClient) -> None:
    store.script = [refused(410, "history_gone")]
    with pytest.raises(HistoryGoneError):
        next(client.watch(begin="w1-1"))
    store.script = [httpx.Response(200, content=line("resync", "", shard=0, oldest="17"))]
    with pytest.raises(HistoryGoneError, match="behind its revision 17"):
        next(client.watch(begin="w1-1"))


@pytest.mark.parametrize(("status", "code"), [(403, "forbidden"), (401, "unauthenticated")])
def test_a_client_that_loses_its_right_is_told_why(store: Any, client: DougClient, status: int, code: str) -> None:
    problem: dict[str, Any] = {"status": status, "code": code, "detail": "no right to it", "outcome": "not_applied"}
    store.script = [httpx.Response(200, content=put("1", "a") + line("refused", "", **problem))]
    changes = client.watch()
    assert next(changes).text == "a"
    with pytest.raises(RejectedError, match="no right to it") as failed:
        next(changes)
    assert (failed.value.status, failed.value.code) == (status, code)


def test_progress_without_an_id_is_told_and_nothing_is_gone_on_behind_it() -> None:
    """So it is while what was there at the beginning is of several moments, since its scan broke off."""
    line = b'{"event":"progress","data":{"revisions":{"0":"7"}}}'
    assert change_of_line(line) == Change("progress", "")


def test_nothing_for_longer_than_the_deadline_is_told(store: Any, client: DougClient) -> None:
    store.script = [httpx.ConnectError("gone") for _ in range(1000)]
    with pytest.raises(UnavailableError):
        next(client.watch())


def test_a_caller_that_takes_its_time_is_no_silence_of_the_store(store: Any) -> None:
    """The facade drops a client that reads too slowly; the watch goes on all the same."""
    pace = FakePace()
    client = DougClient(URL, transport=httpx.MockTransport(store.handle), pace=pace)
    store.script = [httpx.Response(200, content=put(place, "k")) for place in ("6", "7")]
    with contextlib.closing(client.watch()) as changes:
        assert next(changes).id == "w1-6"
        pace.now_s += 3600
        assert next(changes).id == "w1-7"
    entry = {"key": "a", "value": "", "revision": "7", "content_type": "a/b", "expires_at": None}
    store.script = [
        httpx.Response(200, content=json.dumps(entry).encode() + b"\n"),
        httpx.Response(200, content=json.dumps({**entry, "key": "b"}).encode() + b'\n{"complete": true}\n'),
    ]
    entries = client.scan()
    assert next(entries).key == b"a"
    pace.now_s += 3600
    assert [each.key for each in entries] == [b"b"]


def test_waiting_for_a_value(store: Any, client: DougClient) -> None:
    def is_done(value: Value | None) -> bool:
        return value is not None and value.data == b"done"

    watched = httpx.Response(200, content=line("progress", "5") + put("6", "k") + put("7", "k"))
    store.script = [watched, refused(404, "not_found"), httpx.Response(200, content=b"begun")]
    store.values[b"k"] = (b"done", "a/b")
    value = client.wait_for("k", is_done)
    assert value is not None
    assert value.data == b"done"
    store.script = [httpx.Response(200, content=line("progress", "5")), refused(404, "not_found")]
    assert client.wait_for("k", lambda value: value is None) is None
    # A minute of nothing else than progress.
    store.script = []
    for _ in range(200):
        store.script += [httpx.Response(200, content=line("progress", "5")), httpx.Response(200, content=b"begun")]
    with pytest.raises(WaitTimeoutError, match="k did not become"):
        client.wait_for("k", is_done, timeout_s=5)


@pytest.mark.parametrize("timeout_s", [0.5, 3.0, 7.0, 12.0])
def test_waiting_ends_in_its_time_although_progress_is_told_meanwhile(timeout_s: float) -> None:
    pace = FakePace()

    class Progress(httpx.SyncByteStream):
        """Tells progress at once, and again every five seconds."""

        def __init__(self, read_s: float) -> None:
            self._read_s = read_s

        def __iter__(self) -> Iterator[bytes]:
            while True:
                yield line("progress", "5")
                pace.now_s += min(5.0, self._read_s)
                if self._read_s < 5.0:
                    raise httpx.ReadTimeout("silence")

    def handle(request: httpx.Request) -> httpx.Response:
        if request.url.path != "/v1/watch":
            return refused(404, "not_found")
        return httpx.Response(200, stream=Progress(request.extensions["timeout"]["read"]))

    client = DougClient(URL, transport=httpx.MockTransport(handle), pace=pace)
    with pytest.raises(WaitTimeoutError):
        client.wait_for("k", lambda value: value is not None, timeout_s=timeout_s)
    assert timeout_s <= pace.now_s - 100.0 < timeout_s + 1.0


async def test_the_client_for_asyncio_does_the_same(store: Any) -> None:
    store.script = [httpx.Response(200, content=line("progress", "5") + put("6", "k", "v"))]
    async with AsyncDougClient(URL, transport=httpx.MockTransport(store.handle)) as client:
        async with contextlib.aclosing(client.watch()) as changes:
            assert (await anext(changes)).data == b"v"
        store.script = [httpx.Response(200, content=line("progress", "5")), httpx.Response(200, content=b"done")]
        value = await client.wait_for("k", lambda value: value is not None)
    assert value is not None


def test_dougctl_prints_changes_or_runs_a_command(store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transport = httpx.MockTransport(store.handle)
    monkeypatch.setattr(common, "DougClient", lambda url, **options: DougClient(url, **options, transport=transport))
    content = put("6", "u/\x1b1", "ann") + line("delete", "7", "u/2") + put("8", "u/3", "x" * 70)
    store.script = [httpx.Response(200, content=content) for _ in range(3)]
    result = RUNNER.invoke(app, ["watch", "u/", "--count", "3"])
    assert result.stdout == f"put\tu/\\x1b1\tann\ndelete\tu/2\nput\tu/3\t{'x' * 60} ... (70 bytes)\n"
    result = RUNNER.invoke(app, ["watch", "u/", "--count", "2", "--json"])
    documents = [json.loads(text) for text in result.stdout.splitlines()]
    assert (documents[0]["event"], documents[0]["value"], documents[1]["id"]) == ("put", "ann", "w1-7")
    out = tmp_path / "out"
    shell = f'echo "$DOUGDB_EVENT $DOUGDB_KEY $DOUGDB_REVISION $(cat)" >> {out}; test "$DOUGDB_EVENT" = put'
    result = RUNNER.invoke(app, ["watch", "u/", "--count", "2", "--exec", shell])
    assert result.exit_code == 0
    assert out.read_text() == "put u/\x1b1 6 ann\ndelete u/2 7 \n"
    assert "ended with 1 for u/2" in result.stderr
    store.script = [httpx.Response(200, content=content), refused(410, "history_gone")]
    result = RUNNER.invoke(app, ["watch", "u/"])
    assert (result.exit_code, "--from 'w1-8'" in result.stderr) == (1, True)
    store.script = [httpx.Response(200, content=content)]
    result = RUNNER.invoke(app, ["watch", "--prefix", "u/", "--count", "1"])
    assert (result.exit_code, store.requests[-1].url.params["prefix"]) == (0, "u/")
    assert RUNNER.invoke(app, ["watch", "u/", "--prefix", "u/"]).exit_code == 2
    assert RUNNER.invoke(app, ["watch", "--prefix", "u/", "--key", "k"]).exit_code == 2
    assert RUNNER.invoke(app, ["watch", "u/", "--key", "k"]).exit_code == 2
    assert RUNNER.invoke(app, ["watch", "--events", "jump"]).exit_code == 2


def test_a_long_line_in_small_pieces_is_not_copied_with_each_of_them() -> None:
    size, pieces, held = 1 << 20, 64, list[int]()

    def arriving() -> Iterator[bytes]:
        for _ in range(pieces):
            held.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.reset_peak()
            yield b"v" * (size // pieces)
        yield b"\n\nlast\nnot whole"

    tracemalloc.start()
    try:
        lines = list(lines_of(arriving()))
    finally:
        tracemalloc.stop()
    assert [len(line) for line in lines] == [size, 4]
    assert max(held) < 1.5 * size
