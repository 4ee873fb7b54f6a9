"""Every operation of the client: what it sends, what it makes of the answer, and when it sends it again."""

from __future__ import annotations

import asyncio
import gzip
import inspect
import json
import time
import uuid
from datetime import timedelta
from typing import Any

import httpx
import pytest

import dougdb
from dougdb import (
    AsyncDougClient,
    Compare,
    CounterOverflowError,
    CrossShardError,
    Delete,
    DougClient,
    Get,
    IdempotencyFullError,
    Increment,
    KeyNotFoundError,
    KeyReusedError,
    NotANumberError,
    OutcomeUnknownError,
    PreconditionFailedError,
    Put,
    ServerError,
    Touch,
    UnavailableError,
)
from dougdb.blocking.runtime import Pace
from dougdb.idempotency import new_key

URL = "http://127.0.0.1:26000"
UNAVAILABLE = {"outcome": "not_applied", "code": "no_leader"}


class FakePace(Pace):
    """A clock that waiting moves on."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def now(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


@pytest.fixture
def pace() -> FakePace:
    return FakePace()


@pytest.fixture
def client(store: Any, pace: FakePace) -> DougClient:
    return DougClient(URL, transport=httpx.MockTransport(store.handle), pace=pace)


def value_of_no_kind() -> Any:
    return None


def refused(status: int = 503, **fields: Any) -> httpx.Response:
    return httpx.Response(status, json={**UNAVAILABLE, **fields}, headers={"Content-Type": "application/problem+json"})


# -- operations -----------------------------------------------------------------------------------------------------


def test_conditions_and_expiry_are_sent_as_they_are_meant(store: Any, client: DougClient) -> None:
    first = client.put("seat", b"ann", if_absent=True, ttl=1.5)
    assert (first.revision, store.ttls[b"seat"]) == ("7", "1500ms")
    with pytest.raises(PreconditionFailedError) as failed:
        client.put("seat", b"bob", if_absent=True)
    assert (failed.value.current_revision, failed.value.status, failed.value.outcome) == ("7", 412, "not_applied")
    second = client.put("seat", b"bob", if_revision=first.revision, ttl="keep")
    assert client.touch("seat", timedelta(minutes=1), if_revision=second.revision).revision == "9"
    assert client.get("seat", if_revision=9).revision == "9"
    assert client.get_if_changed("seat", "9") is None
    changed = client.get_if_changed("seat", "8")
    assert changed is not None
    assert changed.data == b"bob"
    with pytest.raises(PreconditionFailedError):
        client.delete("seat", if_revision="8")
    client.delete("seat", if_exists=True)
    with pytest.raises(PreconditionFailedError):
        client.delete("seat", if_exists=True)
    with pytest.raises(KeyNotFoundError):
        client.touch("seat", 1)


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (lambda c: c.put("k", b"", if_absent=True, if_exists=True), ValueError),
        (lambda c: c.put("k", b"", if_revision="seven"), ValueError),
        (lambda c: c.put("k", b"", if_revision=1.5), TypeError),
        (lambda c: c.put("k", b"", ttl=0), ValueError),
        (lambda c: c.put("k", b"", ttl="soon"), ValueError),
        (lambda c: c.put("k", b"", ttl=[]), TypeError),
        (lambda c: c.put("k", b"", idempotency_key=""), ValueError),
        (lambda c: c.touch("k", "keep"), ValueError),
        (lambda c: c.increment("k", 1 << 63), ValueError),
        (lambda c: c.increment("k", "1"), TypeError),
        (lambda c: c.txn(compare=[Compare("k")]), ValueError),
        (lambda c: c.delete_range(), ValueError),
        (lambda c: list(c.scan(prefix="a", start="b")), ValueError),
        (
            lambda c: list(c.scan(limit=0, consistency="eventual", prefix="")) or c.count(prefix="a", end="b"),
            ValueError,
        ),
        (lambda c: c.batch([Put("k", value_of_no_kind())]), TypeError),
        (lambda c: c.lock("l", ttl=0.1), ValueError),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_sent(
    store: Any, client: DougClient, call: Any, kind: type[Exception]
) -> None:
    with pytest.raises(kind):
        call(client)
    assert store.requests == []


def test_counters(client: DougClient, store: Any) -> None:
    assert client.increment("n", 5, initial=37).value == 42
    assert client.increment("n", -2).value == 40
    client.put("word", b"x")
    with pytest.raises(NotANumberError):
        client.increment("word")
    store.script = [refused(409, code="overflow"), refused(422, code="idempotency_key_reused")]
    with pytest.raises(CounterOverflowError):
        client.increment("n")
    with pytest.raises(KeyReusedError):
        client.increment("n", idempotency_key="mine")


def test_a_key_of_any_bytes_goes_by_the_query(client: DougClient, store: Any) -> None:
    client.put(b"\xff\x00", b"v")
    assert client.get(b"\xff\x00").data == b"v"
    assert client.increment(b"\xfe").value == 1
    assert store.requests[-1].url.raw_path == b"/v1/kv:increment?key64=_g"
    assert [entry.key for entry in client.scan()] == [b"\xfe", b"\xff\x00"]
    results = client.batch([Get(b"\xff\x00"), Delete(b"\xfe")])
    assert [each.data for each in results] == [b"v", None]
    assert set(store.values) == {b"\xff\x00"}


def test_a_value_with_a_content_encoding_stays_as_it_is() -> None:
    packed = gzip.compress(b"hello")

    def answer(request: httpx.Request) -> httpx.Response:
        assert request.headers["Accept-Encoding"] == "identity"
        return httpx.Response(200, stream=httpx.ByteStream(packed), headers={"Content-Encoding": "gzip"})

    with DougClient(URL, transport=httpx.MockTransport(answer)) as client:
        value = client.get("k")
    assert (value.data, value.content_encoding) == (packed, "gzip")


def test_batches(client: DougClient, store: Any) -> None:
    results = client.batch(
        [
            Put("a", b"1", ttl=5),
            Increment("a", 2),
            Get("a"),
            Touch("b", "5s"),
            Put("a", b"", if_absent=True),
            Delete("a"),
        ]
    )
    assert [each.status for each in results] == [200, 200, 200, 404, 412, 204]
    assert (results[1].number, results[2].data, results[3].ok) == (3, b"3", False)
    assert isinstance(results[3].error, KeyNotFoundError)
    assert isinstance(results[4].error, PreconditionFailedError)
    sent = json.loads(store.requests[0].content)["operations"]
    assert sent[0] == {
        "op": "put",
        "key": "a",
        "value": "1",
        "content_type": "application/octet-stream",
        "ttl": "5000ms",
    }


def test_a_batch_of_any_size_is_split(client: DougClient, store: Any) -> None:
    results = client.batch(Put(f"k{number}", b"") for number in range(10_001))
    assert len(results) == len(store.values) == 10_001
    assert len(store.requests) == 2
    with pytest.raises(ValueError, match="one request"):
        client.batch([Delete(f"k{number}") for number in range(10_001)], idempotency_key="mine")
    assert len(store.requests) == 2


def test_transactions(client: DougClient, store: Any) -> None:
    client.put("{a}/cents", b"500")
    done = client.txn(
        compare=[Compare("{a}/cents", value=b"500"), Compare("{a}/closed", exists=False)],
        success=[Put("{a}/cents", b"300"), Get("{a}/cents")],
        failure=[Get("{a}/cents")],
    )
    assert (done.succeeded, done.results[1].data) == (True, b"300")
    done = client.txn(compare=[Compare("{a}/cents", value=b"500")], failure=[Get("{a}/cents")])
    assert (done.succeeded, done.results[0].data) == (False, b"300")
    store.script = [refused(422, code="cross_shard", slots=[{"key": "x", "slot": 1, "shard": 0}])]
    with pytest.raises(CrossShardError) as failed:
        client.txn(success=[Put("x", b""), Put("y", b"")])
    assert failed.value.slots[0]["slot"] == 1


def test_what_became_of_a_write(client: DougClient) -> None:
    receipt = client.put("k", b"v", idempotency_key="mine")
    assert client.operation_state("mine", "k").revision == receipt.revision
    assert client.operation_state("other", "k").state == "unknown"
    longest = "m" * 255
    client.batch([Put("k", b"v")], idempotency_key=longest)
    assert client.operation_state(f"{longest}/0", "k").state == "applied"
    with pytest.raises(ValueError, match="1 to 275"):
        client.operation_state("m" * 276, "k")
    assert client.limits()["key_bytes"] == 1024


def test_ranges(client: DougClient, store: Any) -> None:
    for number in range(25):
        client.put(f"user/{number:02}", b"%d" % number)
    client.put("zebra", b"")
    assert [entry.data for entry in client.scan(prefix="user/", limit=2)] == [b"0", b"1"]
    assert list(client.keys(start="user/24")) == [b"user/24", b"zebra"]
    assert next(client.keys(prefix="user/", reverse=True)) == b"user/24"
    pages = list(client.pages(prefix="user/", limit=10))
    assert [len(page.items) for page in pages] == [10, 10, 5]
    assert client.count(prefix="user/") == 25
    assert client.delete_range(prefix="user/", dry_run=True).keys == 25
    assert client.delete_range(prefix="user/", limit=5).complete is False
    assert client.delete_range(prefix="user/").keys == 20
    assert set(store.values) == {b"zebra"}


# -- repeating ------------------------------------------------------------------------------------------------------


def test_a_write_whose_answer_is_lost_happens_once(client: DougClient, store: Any) -> None:
    store.lost = 3
    counted = client.increment("n")
    assert (counted.value, counted.receipt.replayed) == (1, True)
    tokens = {request.headers["Idempotency-Key"] for request in store.requests}
    assert len(store.requests) == 4
    assert len(tokens) == 1
    store.lost = 2
    assert client.batch([Increment("n"), Increment("n")])[1].number == 3
    store.lost = 1
    assert client.txn(success=[Increment("n")]).results[0].number == 4
    assert store.values[b"n"][0] == b"4"


def test_without_a_key_a_write_is_never_sent_again_in_doubt(client: DougClient, store: Any) -> None:
    store.lost = 1
    with pytest.raises(OutcomeUnknownError):
        client.increment("n", idempotency_key=None)
    assert (len(store.requests), store.values[b"n"][0]) == (1, b"1")
    store.script = [refused()]
    assert client.increment("n", idempotency_key=None).value == 2
    store.lost = 1
    careless = DougClient(URL, exactly_once=False, transport=httpx.MockTransport(store.handle))
    with careless, pytest.raises(OutcomeUnknownError):
        careless.put("k", b"v")
    assert "Idempotency-Key" not in store.requests[-1].headers


def test_it_ends_at_the_deadline(client: DougClient, store: Any, pace: FakePace) -> None:
    store.script = [refused() for _ in range(1000)]
    with pytest.raises(UnavailableError):
        client.get("k")
    assert 126 < pace.now_s <= 130
    assert 10 < len(store.requests) < 60


def test_what_may_have_been_applied_is_not_told_as_not_applied(client: DougClient, store: Any) -> None:
    """The first attempt is lost, all later ones are refused: nobody can say that nothing was applied."""
    store.script = [httpx.ReadTimeout("lost"), *(refused() for _ in range(1000))]
    with pytest.raises(OutcomeUnknownError) as failed:
        client.put("k", b"v")
    assert failed.value.outcome == "unknown"
    store.script = [httpx.ReadTimeout("lost"), refused(401, code="unauthorized")]
    with pytest.raises(OutcomeUnknownError):
        client.put("k", b"v")
    # The shard has decided this one, under the key of the first attempt.
    store.script = [httpx.ReadTimeout("lost"), refused(412, code="precondition_failed")]
    with pytest.raises(PreconditionFailedError):
        client.put("k", b"v", if_absent=True)


def test_an_answer_that_nobody_understands_leaves_a_write_unknown(client: DougClient, store: Any) -> None:
    store.script = [httpx.Response(200, text="hello"), httpx.Response(200, text="hello")]
    with pytest.raises(ServerError) as failed:
        client.increment("n")
    assert failed.value.outcome == "unknown"
    with pytest.raises(ServerError) as failed:
        client.count(prefix="n")
    assert failed.value.outcome == "not_applied"


def test_retry_after_is_kept(client: DougClient, store: Any, pace: FakePace) -> None:
    store.script = [httpx.Response(503, json=UNAVAILABLE, headers={"Retry-After": "4"})]
    client.put("k", b"v")
    assert pace.now_s >= 102


def test_where_there_is_no_room_for_keys_a_write_goes_without(client: DougClient, store: Any) -> None:
    full = {"code": "idempotency_full", "retryable": True}
    store.script = [refused(507, **full)]
    client.put("k", b"v")
    assert [("Idempotency-Key" in request.headers) for request in store.requests] == [True, False]
    client.put("k", b"v")
    assert "Idempotency-Key" not in store.requests[-1].headers
    store.script = [refused(507, **full)]
    with pytest.raises(IdempotencyFullError):
        client.put("k", b"v", idempotency_key="mine")


def test_a_machine_whose_clock_is_behind_makes_keys_without_a_time(client: DougClient, store: Any) -> None:
    expired = {"code": "idempotency_expired", "outcome": "unknown"}
    store.script = [refused(409, **expired)]
    client.put("k", b"v")
    keys = [uuid.UUID(request.headers["Idempotency-Key"]) for request in store.requests]
    assert [key.version for key in keys] == [7, 4]
    client.put("k", b"v")
    assert uuid.UUID(store.requests[-1].headers["Idempotency-Key"]).version == 4
    store.script = [refused(409, **expired)]
    with pytest.raises(OutcomeUnknownError):
        client.put("k", b"v", idempotency_key="mine")


def test_a_key_that_may_have_been_used_is_not_replaced(client: DougClient, store: Any) -> None:
    store.script = [httpx.Response(504), refused(409, code="idempotency_expired", outcome="unknown")]
    with pytest.raises(OutcomeUnknownError):
        client.put("k", b"v")
    assert len({request.headers["Idempotency-Key"] for request in store.requests}) == 1


def test_operations_of_a_batch_that_were_refused_are_sent_again(client: DougClient, store: Any) -> None:
    half = {"results": [{"status": 200, "revision": "7"}, {"status": 503, **UNAVAILABLE}]}
    full = {
        "results": [
            {"status": 200, "revision": "7"},
            {"status": 507, "outcome": "not_applied", "code": "idempotency_full"},
        ]
    }
    store.script = [httpx.Response(200, json=half), httpx.Response(200, json=full)]
    results = client.batch([Put("a", b"1"), Put("b", b"2")])
    assert [each.status for each in results] == [200, 200]
    assert [len(json.loads(request.content)["operations"]) for request in store.requests] == [2, 2, 1]
    assert "Idempotency-Key" not in store.requests[-1].headers
    store.script = [httpx.Response(200, json=half) for _ in range(100)]
    results = client.batch([Put("a", b"1"), Put("b", b"2")])
    assert isinstance(results[1].error, UnavailableError)


def test_another_facade_is_asked_when_one_is_gone(store: Any, pace: FakePace) -> None:
    def handle(request: httpx.Request) -> httpx.Response:
        if request.url.port == 26000:
            raise httpx.ConnectError("refused")
        answer: httpx.Response = store.handle(request)
        return answer

    urls = [URL, "http://127.0.0.1:26001"]
    with DougClient(urls, transport=httpx.MockTransport(handle), pace=pace) as client:
        client.put("k", b"v")
        assert client.url == urls[1]
        assert client.get("k").data == b"v"
    assert pace.now_s < 101


def test_a_scan_goes_on_where_its_stream_broke_off(client: DougClient, store: Any) -> None:
    for number in range(6):
        client.put(f"k{number}", b"")
    lines = [json.dumps(store.entry(b"k%d" % number)).encode() + b"\n" for number in range(6)]
    problem = {"status": 503, "code": "no_leader", "detail": "gone"}
    store.script = [
        httpx.Response(200, content=lines[0] + lines[1] + lines[2][:20]),
        refused(),
        httpx.Response(200, content=lines[2] + json.dumps({"complete": False, "error": problem}).encode() + b"\n"),
    ]
    assert [entry.text for entry in client.scan(prefix="k", limit=5)] == ["k0", "k1", "k2", "k3", "k4"]
    asked = [dict(request.url.params) for request in store.requests[-4:]]
    assert asked[1] == {"start": "k1\0", "end": "l", "limit": "3"}
    assert asked[3] == {"start": "k2\0", "end": "l", "limit": "2"}
    store.script = [refused() for _ in range(1000)]
    with pytest.raises(UnavailableError):
        list(client.scan())


def test_lines_end_with_a_line_feed_alone(client: DougClient, store: Any) -> None:
    client.put("k", b"")
    document = {**store.entry(b"k"), "value": "a\u2028b\x85c", "encoding": "utf-8"}
    text = json.dumps(document, ensure_ascii=False) + '\n{"complete": true}\n'
    store.script = [httpx.Response(200, content=text.encode())]
    assert next(client.scan()).data.decode() == "a\u2028b\x85c"


# -- both clients ---------------------------------------------------------------------------------------------------


async def test_the_client_for_asyncio_does_the_same(store: Any) -> None:
    store.lost = 1
    async with AsyncDougClient(URL, transport=httpx.MockTransport(store.handle)) as client:
        assert (await client.increment("n")).value == 1
        assert (await client.batch([Increment("n")]))[0].number == 2
        assert [entry.key async for entry in client.scan()] == [b"n"]
        assert [key async for key in client.keys()] == [b"n"]  # noqa: SIM118
        assert [len(page.items) async for page in client.pages()] == [1]
        assert (await client.delete_range(everything=True)).keys == 1
        await asyncio.gather(*(client.increment("m") for _ in range(20)))
    assert store.values[b"m"][0] == b"20"


def test_both_clients_have_the_same_calls() -> None:
    def calls(kind: type) -> dict[str, list[str]]:
        found = inspect.getmembers(kind, lambda member: callable(member) or isinstance(member, property))
        return {
            name: [] if isinstance(member, property) else list(inspect.signature(member).parameters)
            for name, member in found
            if not name.startswith("_")
        }

    assert calls(DougClient) == calls(AsyncDougClient)
    assert calls(dougdb.Lock) == calls(dougdb.AsyncLock)


def test_idempotency_keys_are_uuids_that_tell_the_time() -> None:
    key = uuid.UUID(new_key())
    assert (key.version, key.variant) == (7, uuid.RFC_4122)
    assert abs((key.int >> 80) / 1000 - time.time()) < 60
    assert len({new_key() for _ in range(1000)}) == 1000
