"""Places for what lasts: who is let in, who is refused, and that nothing is kept."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facade.client.access import peer, sender
from facade.client.places import Bytes, Places, Queue
from facade.errors import NotAppliedError, TooManyRequestsError


def ask(places: Places, client: str, address: str = "") -> ExitStack:
    sender.set(client)
    peer.set(address)
    stack = ExitStack()
    stack.enter_context(places.one())
    return stack


def test_one_client_has_three_quarters_unless_another_number_is_given() -> None:
    places = Places("scans", 8)
    held = [ask(places, "a") for _ in range(6)]
    with pytest.raises(TooManyRequestsError) as refused:
        ask(places, "a")
    assert refused.value.status == 429 and refused.value.headers
    held += [ask(places, "b") for _ in range(2)]
    with pytest.raises(NotAppliedError) as none_left:
        ask(places, "b")
    assert none_left.value.status == 503
    held.pop().close()
    ask(places, "c").close()
    assert (places.taken, places.refused) == (7, 1)
    only = Places("scans", 1)
    ask(only, "a").close()
    one = Places("scans", 8, of_client=1)
    held.append(ask(one, "a"))
    with pytest.raises(TooManyRequestsError):
        ask(one, "a")


def test_an_address_has_a_number_of_its_own_and_whoever_is_refused_holds_nothing() -> None:
    places = Places("scans", 8, of_address=1)
    held = ask(places, "a", "10.0.0.1")
    with pytest.raises(TooManyRequestsError):
        ask(places, "b", "10.0.0.1")
    ask(places, "b", "10.0.0.2").close()
    held.close()
    assert (places.taken, places._clients, places._addresses) == (0, {}, {})


async def test_a_queue_lets_others_in_before_the_rest_of_one_client() -> None:
    queue, order, gate = Queue(4), list[str](), asyncio.Event()

    async def hold(client: str) -> None:
        sender.set(client)
        async with queue.one():
            order.append(client)
            await gate.wait()

    greedy = [asyncio.create_task(hold("a")) for _ in range(10)]
    for _ in range(5):
        await asyncio.sleep(0)
    assert (order, queue.taken) == (["a"] * 3, 3)
    others = [asyncio.create_task(hold(client)) for client in "bc"]
    for _ in range(5):
        await asyncio.sleep(0)
    assert order == ["a", "a", "a", "b"]
    greedy[-1].cancel()
    gate.set()
    await asyncio.gather(*greedy, *others, return_exceptions=True)
    assert sorted(order) == ["a"] * 9 + ["b", "c"]
    assert (queue.taken, queue._clients, queue._waiting) == (0, {}, {})


def test_a_client_holds_a_part_of_the_bytes_but_always_one_request() -> None:
    held = Bytes("batches", 64, of_one=16)
    for _ in range(3):
        held.take("a", 16)
    with pytest.raises(TooManyRequestsError):
        held.take("a", 1)
    held.take("b", 16)
    with pytest.raises(NotAppliedError) as none_left:
        held.take("c", 1)
    assert none_left.value.status == 503
    for client, size in (("a", 48), ("b", 16)):
        held.give_back(client, size)
    assert (held.held, held.refused, held._clients) == (0, 1, {})
    small = Bytes("batches", 2, of_one=16)
    small.take("a", 16)
    with pytest.raises(TooManyRequestsError):
        small.take("a", 1)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xy"), st.booleans()), max_size=60))
def test_no_limit_is_exceeded_and_nothing_is_kept(steps: list[tuple[str, str, bool]]) -> None:
    places = Places("scans", 6, of_client=3, of_address=4)
    held: list[tuple[str, str, ExitStack]] = []
    for client, address, lets_go in steps:
        if lets_go and held:
            held.pop(0)[2].close()
        try:
            held.append((client, address, ask(places, client, address)))
        except NotAppliedError:
            clients, addresses = Counter(each[0] for each in held), Counter(each[1] for each in held)
            assert len(held) == 6 or clients[client] == 3 or addresses[address] == 4
        assert places.taken == len(held) <= 6
    for _, _, stack in held:
        stack.close()
    assert (places.taken, places._clients, places._addresses) == (0, {}, {})
