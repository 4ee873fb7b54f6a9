"""Requests of calls: so many are read at a time, in turn, and each has so much time to come."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import grpc
import grpc.aio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raft_node.rpc import requests as module
from raft_node.rpc.requests import Requests


class AbortedError(Exception):
    """What grpc raises out of ``abort``."""


class Call:
    """A call whose request comes when ``come`` is set."""

    def __init__(self, *names: str, common: str = "", peer: str = "ipv4:192.0.2.1:5", tls: bool = True) -> None:
        self.come = asyncio.Event()
        self.message: Any = "request"
        self.status: grpc.StatusCode | None = None
        self.reads = False
        self._names, self._common, self._peer, self._tls = names, common, peer, tls

    def auth_context(self) -> dict[str, list[bytes]]:
        if not self._tls:
            return {}
        return {
            "transport_security_type": [b"ssl"],
            "x509_subject_alternative_name": [name.encode() for name in self._names],
            "x509_common_name": [self._common.encode()],
        }

    def peer(self) -> str:
        return self._peer

    async def read(self) -> Any:
        self.reads = True
        await self.come.wait()
        return self.message

    async def abort(self, status: grpc.StatusCode, details: str, metadata: object) -> None:
        self.status = status
        raise AbortedError(details)


def begin(requests: Requests, *calls: Any) -> list[asyncio.Task[Any]]:
    return [asyncio.create_task(requests.read(call)) for call in calls]


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_one_caller_leaves_places_to_others_whose_turn_it_is() -> None:
    requests = Requests(["dougdb-facade"], places=4, of_one=2)
    slow = [Call(common="slow", peer=f"ipv4:192.0.2.{number}:5") for number in range(6)]
    other, third, fourth = Call(common="other"), Call(common="third"), Call(common="fourth")
    tasks = begin(requests, *slow, other, third, fourth)
    await settled()
    assert [call.reads for call in (*slow, other, third, fourth)] == [True] * 2 + [False] * 4 + [True, True, False]
    trusted = begin(requests, *(Call("DougDB-facade") for _ in range(9)))
    await settled()
    assert requests.taken == 4, "facades wait for nobody, and take no place"
    other.come.set()
    await settled()
    assert [fourth.reads, slow[2].reads] == [True, False]
    slow[0].come.set()
    await settled()
    assert [call.reads for call in slow[:4]] == [True] * 3 + [False], "and its own turn comes"
    for call in (*slow, third, fourth):
        call.come.set()
    assert await asyncio.gather(*tasks) == ["request"] * 9
    assert (requests.taken, requests._reading, requests._waiting) == (0, {}, {})
    for task in trusted:
        task.cancel()


async def test_a_common_name_makes_nobody_a_facade() -> None:
    requests = Requests(["dougdb-facade"], places=1)
    (task,) = begin(requests, Call(common="dougdb-facade"))
    await settled()
    assert requests.taken == 1
    task.cancel()


async def test_without_certificates_an_address_is_a_caller() -> None:
    requests = Requests(places=9, of_one=1)
    calls = [Call(tls=False, peer=f"ipv6:[2001:db8::{number}]:1") for number in range(2)]
    begun = begin(requests, *calls, Call(tls=False))
    await settled()
    assert (calls[0].reads, calls[1].reads, requests.taken) == (True, False, 2)
    for task in begun:
        task.cancel()


async def test_a_request_that_does_not_come_loses_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "READ_S", 0.001)
    requests = Requests(places=1)
    first = Call(common="slow")
    with pytest.raises(AbortedError, match="did not come within"):
        await requests.read(first)  # type: ignore[arg-type]
    assert (first.status, requests.taken) == (grpc.StatusCode.DEADLINE_EXCEEDED, 0)
    none = Call(common="none")
    none.message = grpc.aio.EOF
    none.come.set()
    with pytest.raises(AbortedError, match="without a request"):
        await requests.read(none)  # type: ignore[arg-type]
    assert (none.status, requests.taken) == (grpc.StatusCode.INVALID_ARGUMENT, 0)


class Counted(asyncio.Future[None]):
    """A future that counts with how many others it is compared."""

    compared = 0
    __hash__ = asyncio.Future.__hash__

    def __eq__(self, other: object) -> bool:
        Counted.compared += 1
        return self is other


async def test_whoever_goes_away_is_found_at_once_however_many_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each was looked for among all others: ten thousand that went away together kept a node busy for seconds."""
    requests, loop = Requests(places=1), asyncio.get_running_loop()
    monkeypatch.setattr(loop, "create_future", lambda: Counted(loop=loop))
    begun = begin(requests, *(Call(common="many") for _ in range(300)))
    await settled()
    Counted.compared = 0
    for task in reversed(begun):
        task.cancel()
    await settled()
    assert (requests.taken, requests._waiting) == (0, {})
    assert Counted.compared < 300


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("nec")), max_size=60))
async def test_whoever_may_be_read_does_not_wait(steps: list[tuple[str, str]]) -> None:
    """Whatever begins, ends and is cancelled: no bound is exceeded, and no place is free for one who waits."""
    requests = Requests(places=4, of_one=2)
    begun: list[tuple[Call, asyncio.Task[Any]]] = []
    for caller, step in steps:
        if step == "n":
            call = Call(common=caller)
            begun.append((call, begin(requests, call)[0]))
        elif begun and step == "c":
            begun.pop(0)[1].cancel()
        elif begun:
            begun.pop()[0].come.set()
        await settled()
        assert requests.taken == sum(requests._reading.values()) <= 4
        assert all(count <= 2 for count in requests._reading.values())
        assert not any(map(requests._may_have, requests._waiting))
    for call, _ in begun:
        call.come.set()
    assert Counter(await asyncio.gather(*(task for _, task in begun)))["request"] == len(begun)
    assert (requests.taken, requests._reading, requests._waiting) == (0, {}, {})
