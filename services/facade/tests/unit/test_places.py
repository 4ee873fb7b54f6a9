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


async def hold_soon(places: Places, client: str, order: list[str], gate: asyncio.Event, address: str = "") -> None:
    sender.set(client)
    peer.set(address)
    async with places.one_soon(60):
        order.append(client)
        await gate.wait()


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_what_takes_a_moment_waits_and_clients_take_turns() -> None:
    places, order, gate = Places("scans", 4), list[str](), asyncio.Event()
    greedy = [asyncio.create_task(hold_soon(places, "a", order, gate)) for _ in range(10)]
    await settled()
    assert (order, places.taken) == (["a"] * 3, 3), "of one client no more go at a time than if they did not wait"
    polite = [asyncio.create_task(hold_soon(places, client, order, gate)) for client in "bbc"]
    await settled()
    assert order == ["a", "a", "a", "b"]
    with pytest.raises(NotAppliedError):
        ask(places, "d")
    gate.set()
    await asyncio.gather(*greedy, *polite)
    assert sorted(order) == ["a"] * 10 + ["b", "b", "c"]
    assert (places.taken, places._clients, places._addresses, places._waiting, places.refused) == (0, {}, {}, {}, 0)


async def test_the_first_of_each_client_comes_before_the_second_of_another() -> None:
    places, order = Places("scans", 2, of_client=2), list[str]()
    held = ask(places, "x"), ask(places, "x")
    over = asyncio.Event()
    over.set()
    waiting = [asyncio.create_task(hold_soon(places, client, order, over)) for client in "aaabbc"]
    await settled()
    assert order == []
    held[0].close()
    await asyncio.gather(*waiting)
    assert "".join(order) == "abcaba"
    held[1].close()
    assert (places.taken, places._waiting) == (0, {})


async def test_who_waits_for_too_long_is_refused_as_who_does_not_wait() -> None:
    places = Places("scans", 2, of_client=1)
    held = ask(places, "a")
    sender.set("a")
    with pytest.raises(TooManyRequestsError):
        async with places.one_soon(0.001):
            raise AssertionError
    held_too = ask(places, "b")
    sender.set("c")
    with pytest.raises(NotAppliedError) as full:
        async with places.one_soon(0.001):
            raise AssertionError
    assert (full.value.status, places.refused, places._waiting) == (503, 1, {})
    held.close()
    held_too.close()
    assert places.taken == 0


@pytest.mark.parametrize("given_before", [False, True])
async def test_who_leaves_while_waiting_holds_nothing(given_before: bool) -> None:
    """Also who was given a place at the same moment: it goes to the next one."""
    places, order, gate = Places("scans", 1), list[str](), asyncio.Event()
    held = ask(places, "x")
    leaving = asyncio.create_task(hold_soon(places, "a", order, gate))
    staying = asyncio.create_task(hold_soon(places, "b", order, gate))
    await settled()
    if given_before:
        held.close()
        leaving.cancel()
    else:
        leaving.cancel()
        held.close()
    await settled()
    assert (order, leaving.cancelled(), places.taken) == (["b"], True, 1)
    gate.set()
    await staying
    assert (places.taken, places._clients, places._addresses, places._waiting) == (0, {}, {}, {})


class Counted(asyncio.Future[None]):
    """A future that counts with how many others it is compared."""

    compared = 0
    __hash__ = asyncio.Future.__hash__

    def __eq__(self, other: object) -> bool:
        Counted.compared += 1
        return self is other


async def test_whoever_goes_away_is_found_at_once_however_many_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each was looked for among all others: thousands of pages that nobody waited for any more held up everybody."""
    places, order, gate, loop = Places("scans", 1), list[str](), asyncio.Event(), asyncio.get_running_loop()
    held = ask(places, "x")
    monkeypatch.setattr(loop, "create_future", lambda: Counted(loop=loop))
    waiting = [asyncio.create_task(hold_soon(places, "a", order, gate)) for _ in range(300)]
    await settled()
    Counted.compared = 0
    for task in reversed(waiting):
        task.cancel()
    await settled()
    assert Counted.compared < 300
    held.close()
    assert (order, places.taken, places._waiting) == ([], 0, {})


async def test_one_who_ends_may_make_room_for_several() -> None:
    """One of the same client, and one of the same address: both waited for that alone."""
    places, order = Places("scans", 4, of_client=1, of_address=1), list[str]()
    first, gate = asyncio.Event(), asyncio.Event()
    tasks = [asyncio.create_task(hold_soon(places, "a", order, first, "x"))]
    await settled()
    for client, address in ("ay", "bx"):
        tasks.append(asyncio.create_task(hold_soon(places, client, order, gate, address)))
    await settled()
    assert order == ["a"]
    first.set()
    await settled()
    assert (order, places.taken) == (["a", "a", "b"], 2)
    gate.set()
    await asyncio.gather(*tasks)


async def test_an_address_with_too_many_keeps_its_client_from_no_place_at_another_one() -> None:
    """A principal that waits from two addresses waited behind the first one's limit."""
    places, order, gate = Places("scans", 4, of_address=1), list[str](), asyncio.Event()
    held = ask(places, "x", "crowded"), ask(places, "y", "free")
    waiting = [
        asyncio.create_task(hold_soon(places, "a", order, gate, address)) for address in ("crowded", "crowded", "free")
    ]
    await settled()
    assert order == []
    held[1].close()
    await settled()
    assert (order, places.taken, waiting[2].done()) == (["a"], 2, False)
    gate.set()
    await waiting[2]
    assert not waiting[0].done()
    held[0].close()
    await asyncio.gather(*waiting)
    assert (places.taken, places._clients, places._addresses, places._waiting) == (0, {}, {}, {})


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xy"), st.sampled_from("wle")), max_size=60))
async def test_whoever_may_have_a_place_does_not_wait(steps: list[tuple[str, str, str]]) -> None:
    """Whatever waits, leaves and ends: no limit is exceeded, and no place is free that a waiting one may have."""
    places, order = Places("scans", 4, of_client=2, of_address=3), list[str]()
    tasks: list[tuple[asyncio.Task[None], asyncio.Event]] = []
    for client, address, step in steps:
        if step == "w":
            gate = asyncio.Event()
            tasks.append((asyncio.create_task(hold_soon(places, client, order, gate, address)), gate))
        elif tasks and step == "l":
            tasks.pop(0)[0].cancel()
        elif tasks:
            tasks.pop()[1].set()
        await settled()
        assert places.taken <= 4
        assert all(count <= 2 for count in places._clients.values())
        assert all(count <= 3 for count in places._addresses.values())
        for waiting, queues in places._waiting.items():
            assert all(places._refusal(waiting, each) is not None for each in queues)
    for _, gate in tasks:
        gate.set()
    await asyncio.gather(*(task for task, _ in tasks))
    assert (places.taken, places._clients, places._addresses, places._waiting) == (0, {}, {}, {})


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
