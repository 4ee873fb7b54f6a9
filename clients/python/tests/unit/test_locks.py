"""Locks: who gets one, when it is renewed, and that nobody believes to hold what somebody else may have."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from dougdb import AsyncDougClient, DougClient, Lock, LockLostError, LockTimeoutError
from dougdb.aio import runtime as aio
from dougdb.blocking.runtime import Background, Pace
from dougdb.leases import Lease

URL = "http://127.0.0.1:26000"


class Turns(Background):
    """What is done meanwhile is done when the test says so, in its own thread."""

    def __init__(self, pace: FakePace) -> None:
        super().__init__()
        self._pace = pace
        self._turns = 0
        self.waited: list[float] = []

    def start(self, work: Callable[[], None]) -> None:
        self.work = work

    def wait(self, seconds: float) -> bool:
        if self._turns == 0:
            return True
        self._turns -= 1
        self.waited.append(seconds)
        self._pace.sleep(seconds)
        return False

    def run(self, turns: int = 1) -> None:
        self._turns = turns
        self.work()


class FakePace(Pace):
    """A clock that waiting moves on."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.made: list[Turns] = []
        self.on_sleep: Callable[[], None] = lambda: None

    def now(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds
        self.on_sleep()

    def background(self) -> Background:
        self.made.append(Turns(self))
        return self.made[-1]


@pytest.fixture
def pace() -> FakePace:
    return FakePace()


@pytest.fixture
def client(store: Any, pace: FakePace) -> DougClient:
    return DougClient(URL, transport=httpx.MockTransport(store.handle), pace=pace)


def test_one_holds_it_at_a_time(client: DougClient, store: Any) -> None:
    with client.lock("nightly", owner="ann") as held:
        assert (held.token, held.held, held.left_s) == (7, True, 15.0)
        assert store.ttls[b"locks/nightly"] == "15000ms"
        holder = client.lock_holder("nightly")
        assert holder is not None
        assert (holder.owner, holder.revision) == ("ann", "7")
        with pytest.raises(LockTimeoutError, match="held by ann"):
            client.lock("nightly", wait_s=0).acquire()
    assert b"locks/nightly" not in store.values
    assert client.lock_holder("nightly") is None
    assert held.held is False
    with client.lock("nightly") as later:
        assert later.token > 7


def test_it_waits_until_the_other_one_is_gone(client: DougClient, store: Any, pace: FakePace) -> None:
    client.put("locks/l", b"{}")

    def expire() -> None:
        if pace.now_s > 103:
            store.forget(b"locks/l")

    pace.on_sleep = expire
    with client.lock("l", wait_s=60):
        assert 103 < pace.now_s < 106
    with pytest.raises(LockTimeoutError):
        client.put("locks/l", b"no JSON")
        pace.on_sleep = lambda: None
        client.lock("l", wait_s=5).acquire()


def test_it_is_renewed_three_times_in_its_time(client: DougClient, store: Any, pace: FakePace) -> None:
    with client.lock("l", ttl=9) as held:
        pace.made[-1].run(4)
        assert pace.made[-1].waited == [3.0] * 4
        assert (held.left_s, held.token) == (9.0, 7)
        assert store.revisions[b"locks/l"] == 11
        touched = [request for request in store.requests if b":touch" in request.url.raw_path]
        assert [request.headers["If-Match"] for request in touched] == ['"7"', '"8"', '"9"', '"10"']


def test_a_renewal_whose_answer_is_lost_is_no_lost_lock(client: DougClient, store: Any, pace: FakePace) -> None:
    with client.lock("l", ttl=9) as held:
        store.lost = 2
        pace.made[-1].run(1)
        assert held.held
        assert store.revisions[b"locks/l"] == 8


def test_without_idempotency_keys_the_holder_knows_its_lock_by_its_nonce(store: Any, pace: FakePace) -> None:
    client = DougClient(URL, exactly_once=False, transport=httpx.MockTransport(store.handle), pace=pace)
    store.lost = 1
    with client.lock("l", ttl=9) as held:
        assert held.token == 7
        store.lost = 1
        pace.made[-1].run(2)
        assert held.held
    assert b"locks/l" not in store.values


def test_a_request_that_comes_late_does_not_lengthen_the_lease(store: Any, pace: FakePace) -> None:
    """The first request was given up, and took the lock all the same before the second one was sent."""
    taken_s = 0.0
    late: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        nonlocal taken_s
        if request.method == "PUT" and not store.requests:
            store.requests.append(request)
            late.append(request)
            raise httpx.ReadTimeout("the answer was lost")
        answer: httpx.Response = store.handle(request)
        if late:
            store.handle(late.pop())
            taken_s = pace.now_s
        elif request.method != "GET" and answer.is_success:
            taken_s = pace.now_s
        return answer

    def stand_still() -> None:
        pace.now_s += 3

    pace.on_sleep = stand_still
    client = DougClient(URL, exactly_once=False, transport=httpx.MockTransport(handle), pace=pace)
    with client.lock("l", ttl=9) as held:
        assert held.held
        assert held.left_s <= taken_s + 9 - pace.now_s
        assert held.token == 7


def test_the_end_of_a_lease_is_told_in_time_while_a_renewal_hangs(store: Any, pace: FakePace) -> None:
    told: list[float] = []

    def hang(request: httpx.Request) -> httpx.Response:
        if store.requests:
            pace.now_s += request.extensions["timeout"]["read"]
            raise httpx.ReadTimeout("silence")
        answer: httpx.Response = store.handle(request)
        return answer

    client = DougClient(URL, transport=httpx.MockTransport(hang), pace=pace)
    held = client.lock("l", ttl=9, on_lost=lambda: told.append(pace.now_s))
    held.acquire()
    pace.made[-1].run()
    assert pace.now_s < 116, "a renewal that hangs holds nobody up for long"
    assert len(told) == 1
    pace.now_s = 100.0
    store.requests.clear()
    again = client.lock("other", ttl=9, on_lost=lambda: told.append(pace.now_s))
    again.acquire()
    pace.made[-2].run()
    assert told[1:] == [109.0], "and the end is told while it hangs"


@pytest.mark.parametrize("theft", ["gone", "taken"])
def test_a_lost_lock_is_told(client: DougClient, store: Any, pace: FakePace, theft: str) -> None:
    told: list[str] = []

    def steal() -> Lock:
        held = client.lock("l", ttl=9, on_lost=lambda: told.append("lost"))
        with held:
            store.forget(b"locks/l")
            if theft == "taken":
                client.put("locks/l", b'{"owner": "bob", "nonce": "other"}')
            pace.made[-1].run(1)
            assert not held.held
            with pytest.raises(LockLostError):
                held.check()
        return held

    with pytest.raises(LockLostError, match="while it was held"):
        steal()
    assert told == ["lost"]
    # What is somebody else's is left alone.
    assert (b"locks/l" in store.values) is (theft == "taken")


def test_a_lock_that_cannot_be_renewed_runs_out(client: DougClient, store: Any, pace: FakePace) -> None:
    held = client.lock("l", ttl=9)
    held.acquire()
    store.script = [httpx.Response(503, json={"outcome": "not_applied"}) for _ in range(1000)]
    pace.made[-1].run(5)
    assert not held.held
    assert 109 <= pace.now_s < 112
    store.script = []
    held.release()
    assert b"locks/l" in store.values, "it is left to run out"


def test_one_who_slept_through_the_end_does_not_believe_in_it(client: DougClient, pace: FakePace) -> None:
    with pytest.raises(LockLostError), client.lock("l", ttl=9) as held:
        pace.now_s += 9
        assert not held.held


def test_the_end_of_a_lease_counts_from_before_the_request_was_sent() -> None:
    lease = Lease(10.0, "7", sent_s=100.0)
    assert lease.holds(109.9)
    assert not lease.holds(110.0)
    lease.renewed("8", sent_s=105.0)
    assert (lease.holds(114.9), lease.left_s(112.0), lease.token, lease.revision) == (True, 3.0, 7, "8")
    assert lease.pause_s(114.0) == 1.0
    lease.lose()
    assert (lease.holds(106.0), lease.left_s(106.0)) == (False, 0.0)


def test_elections(client: DougClient) -> None:
    assert client.leader("indexer") is None
    with client.elect("indexer", candidate="10.0.0.1:80") as elected:
        leader = client.leader("indexer")
        assert leader is not None
        assert (leader.owner, elected.held) == ("10.0.0.1:80", True)
        with client.lock("indexer"):
            assert client.leader("indexer") == leader, "a lock of the same name is another thing"


def test_an_error_within_the_block_stays_what_it_is(client: DougClient, store: Any) -> None:
    with pytest.raises(ZeroDivisionError), client.lock("l"):
        raise ZeroDivisionError
    assert b"locks/l" not in store.values


class LoseAtOnce(aio.Background):
    """Does not wait between renewals."""

    async def wait(self, seconds: float) -> bool:
        await asyncio.sleep(0)
        return self._ends.is_set()


class Hasty(aio.Pace):
    """Renews without a pause."""

    def background(self) -> aio.Background:
        return LoseAtOnce()


async def test_in_asyncio_the_block_is_cancelled_when_the_lock_is_lost(store: Any) -> None:
    async with AsyncDougClient(URL, transport=httpx.MockTransport(store.handle), pace=Hasty()) as client:
        with pytest.raises(LockLostError):
            async with client.lock("l"):
                store.forget(b"locks/l")
                await asyncio.Event().wait()
        async with client.lock("l") as held:
            await asyncio.sleep(0)
            assert held.held
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        assert b"locks/l" not in store.values


async def test_who_is_cancelled_from_outside_is_cancelled(store: Any) -> None:
    entered = asyncio.Event()

    async def work(client: AsyncDougClient) -> None:
        async with client.lock("l"):
            entered.set()
            await asyncio.Event().wait()

    async with AsyncDougClient(URL, transport=httpx.MockTransport(store.handle), pace=Hasty()) as client:
        task = asyncio.create_task(work(client))
        await entered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert b"locks/l" not in store.values
