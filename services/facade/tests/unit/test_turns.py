"""Shares of a shard: who is let in, who waits, who is refused; counted, not timed."""

from __future__ import annotations

import contextlib
from collections import Counter, deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facade.app.quotas import Quotas
from facade.client.modes import Kind
from facade.client.operation import Load, Operation
from facade.client.turns import REMEMBERED, REMEMBERED_EACH, RESERVE, SHARE_MIN, Turns
from facade.errors import TooManyRequestsError
from facade.settings import Settings

ITEMS_MAX, BYTES_MAX, WINDOW, SIZE = 1000, 100_000, 100, 10


class Future:
    """A future that needs no event loop."""

    over = False

    def done(self) -> bool:
        return self.over


class Shard:
    """A shard that does one operation after the other, in the order in which they reach it."""

    def __init__(self, window: int = WINDOW, bytes_limit: int = 0) -> None:
        self.load = Load(Turns(window, ITEMS_MAX, BYTES_MAX, bytes_limit))
        self.queue: deque[Operation] = deque()
        self.refused: Counter[str] = Counter()
        self.asked: Counter[str] = Counter()
        self.done: Counter[str] = Counter()

    @property
    def turns(self) -> Turns:
        assert self.load.turns is not None
        return self.load.turns

    def ask(self, name: str, size: int = SIZE, *, late: bool = False) -> Operation | None:
        load = self.load
        operation = Operation(0, Kind.WRITE, 0, load, b"", b"x" * size, 0.0, Future(), True)  # type: ignore[arg-type]
        try:
            operation.client = self.turns.admit(name, load.items, size, load.size, late=late)
        except TooManyRequestsError:
            self.refused[name] += 1
            return None
        if self.turns.enter(operation.client, operation):
            self.queue.append(operation)
        load.items += 1
        load.size += size
        self.asked[name] += 1
        return operation

    def end(self, operation: Operation) -> None:
        client = operation.client
        assert client is not None
        self.load.items -= 1
        self.load.size -= len(operation.record)
        operation.future.over = True  # type: ignore[attr-defined]
        operation.client = None
        self.done[client.name] += 1
        self.queue += self.turns.leave(client, operation, len(operation.record))

    def work(self) -> None:
        if self.queue:
            self.end(self.queue.popleft())


def test_who_is_alone_waits_for_nobody_and_may_have_all_of_the_room() -> None:
    shard = Shard()
    for _ in range(2 * ITEMS_MAX):
        shard.ask("greedy")
    assert len(shard.queue) == ITEMS_MAX and shard.turns.waiting == 0
    assert shard.refused["greedy"] == ITEMS_MAX
    assert shard.ask("polite") is not None, "and needs no turn, since the share is free"
    assert len(shard.queue) == ITEMS_MAX + 1
    assert not shard.ask("greedy"), "who is not alone any more holds more than their part"


def test_who_is_alone_may_have_all_of_the_bytes() -> None:
    shard = Shard()
    assert all(shard.ask("alone", BYTES_MAX // 10) for _ in range(10))
    assert not shard.ask("alone", SIZE)
    assert shard.ask("polite", BYTES_MAX // 10)


def test_one_that_offers_ten_times_what_can_be_done_leaves_a_polite_one_its_share() -> None:
    """It offers half of what can be done, and gets all of that; in the order of coming it would get a twentieth."""
    shard = Shard()
    for step in range(6_000):
        for _ in range(10):
            shard.ask("greedy")
        if step % 2:
            shard.ask("polite")
        shard.work()
    assert not shard.refused["polite"]
    assert shard.done["polite"] > 0.9 * 3_000
    assert shard.refused["greedy"] > 0 and shard.load.items <= (1 + RESERVE) * ITEMS_MAX


def test_who_waits_for_answers_before_asking_again_gets_half_of_a_half() -> None:
    shard = Shard()
    polite = greedy = 0
    for _ in range(4000):
        while greedy - shard.done["greedy"] < 600 and shard.ask("greedy"):
            greedy += 1
        while polite - shard.done["polite"] < WINDOW // 2 and shard.ask("polite"):
            polite += 1
        shard.work()
    assert shard.done["polite"] > shard.done["greedy"] / 3


@pytest.mark.parametrize(("polite", "least"), [(4, 4 / 68), (16, 16 / 80), (32, 1 / 3), (64, 1 / 3)])
def test_who_has_few_operations_under_way_is_served_as_often_as_others_beside(polite: int, least: float) -> None:
    """Each batch takes what is in the window, and the next one what came meanwhile."""
    shard = Shard(window=256)
    for round_number in range(60):
        if round_number == 20:
            shard.asked -= shard.done
            shard.done.clear()
        while shard.asked["polite"] - shard.done["polite"] < polite:
            shard.ask("polite")
        while shard.asked["greedy"] - shard.done["greedy"] < 900 and shard.ask("greedy"):
            pass
        for _ in range(len(shard.queue)):
            shard.work()
    assert shard.done["polite"] / shard.done.total() > 0.95 * least


@pytest.mark.parametrize(("had", "most"), [(8, 64), (15, 64), (16, 32), (20, 32)])
def test_who_has_had_many_is_left_more_room_while_it_asks_again(had: int, most: int) -> None:
    """Its operations go to several shards, so that it has few of them in one of these from time to time."""
    shard = Shard(window=256)
    polite = [shard.ask("polite") for _ in range(had)]
    for operation in polite[4:]:
        assert operation is not None
        shard.queue.remove(operation)
        shard.end(operation)
    for _ in range(900):
        shard.ask("greedy")
    assert len(shard.queue) == 4 + most


def test_who_is_alone_again_has_the_whole_window_after_a_while() -> None:
    shard = Shard(window=256)
    for _ in range(100):
        shard.ask("greedy")
    polite = shard.ask("polite")
    for _ in range(100):
        shard.ask("greedy")
    assert shard.turns.waiting == 100, "it has a hundred of them beside one already"
    assert polite is not None
    shard.queue.remove(polite)
    shard.end(polite)
    assert shard.turns.waiting == 100, "the other one may ask again"
    for _ in range(REMEMBERED_EACH - 1):
        shard.ask("greedy")
        shard.work()
    assert shard.turns.waiting > 0
    shard.ask("greedy")
    shard.work()
    assert shard.turns.waiting == 0 and not shard.turns._answered


@pytest.mark.parametrize("most", [1, 2, 100])
def test_who_asks_for_little_keeps_others_at_small_batches_for_little(most: int) -> None:
    """One request in a thousand of the others' had these in small batches all the time."""
    shard = Shard(window=256)
    for _ in range(400):
        shard.ask("greedy")
    for _ in range(most):
        shard.ask("little")
    for _ in range(100):
        shard.ask("greedy")
    while "little" in shard.turns._clients:
        shard.work()
    ended = shard.turns._ended
    while shard.turns._answered:
        shard.ask("greedy")
        shard.work()
    assert shard.turns._ended - ended == min(REMEMBERED, REMEMBERED_EACH * most)


def test_two_who_ask_again_and_again_do_not_make_each_other_wait() -> None:
    shard = Shard(window=256)
    for _ in range(50):
        for name in "ab":
            for _ in range(128):
                shard.ask(name)
        while shard.queue:
            shard.work()
    assert shard.turns.waited == 0


@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 2)), max_size=200))
def test_few_are_remembered_and_each_once(steps: list[tuple[int, int]]) -> None:
    shard = Shard(window=4)
    for name, works in steps:
        shard.ask(str(name))
        for _ in range(works):
            shard.work()
        turns = shard.turns
        assert len(turns._answered) <= 2 * REMEMBERED and turns._answered.keys().isdisjoint(turns._clients)
        assert turns._most == sum(client.most for client in turns._clients.values())
        assert turns._inside_answered == sum(most for _, most in turns._answered.values())


def test_lines_are_served_in_turn_and_those_that_are_over_are_left_out() -> None:
    shard = Shard(window=2)
    for _ in range(SHARE_MIN):
        shard.ask("a"), shard.ask("b"), shard.ask("c")
    waiting = [shard.ask(name) for name in "aabbcc"]
    assert shard.turns.waiting == 6
    given_up = waiting[2]
    assert given_up is not None
    shard.end(given_up)
    while shard.queue:
        shard.work()
    assert shard.done == {"a": SHARE_MIN + 2, "b": SHARE_MIN + 2, "c": SHARE_MIN + 2}
    assert shard.turns.waiting == 0 and not shard.turns._clients and not shard.turns._waiting


def test_bytes_have_parts_too_and_one_operation_always_fits() -> None:
    shard = Shard()
    assert shard.ask("greedy", BYTES_MAX // 2)
    assert shard.ask("polite", BYTES_MAX // 8)
    assert not shard.ask("greedy", SIZE), "half is taken, and it holds half"
    assert shard.ask("polite", BYTES_MAX // 8)
    limited = Shard(bytes_limit=100)
    assert limited.ask("one", 1000) and not limited.ask("one", 1)
    assert limited.ask("two", 60) and not limited.ask("two", 60)


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 3)), max_size=300), st.integers(1, 40))
def test_nobody_waits_for_ever_and_nothing_is_kept(steps: list[tuple[str, int]], window: int) -> None:
    shard = Shard(window)
    asked: list[Operation | None] = []
    for name, works in steps:
        asked.append(shard.ask(name))
        for _ in range(works):
            shard.work()
    waiting = [operation for operation in asked if operation is not None]
    if waiting and waiting[-1].client is not None:
        if waiting[-1] in shard.queue:
            shard.queue.remove(waiting[-1])
        shard.end(waiting[-1])
    while shard.queue:
        shard.work()
    assert sum(shard.done.values()) == len(waiting)
    assert (shard.load.items, shard.load.size, shard.turns.waiting, shard.turns._inside) == (0, 0, 0, 0)
    assert not shard.turns._clients and not shard.turns._waiting


def test_an_address_has_so_many_connections() -> None:
    quotas = Quotas(Settings(nodes={0: {"n": "127.0.0.1:1"}}, address_connections_max=2))
    assert [quotas.connect("a"), quotas.connect("a"), quotas.connect("a"), quotas.connect("b")] == [1, 1, 0, 1]
    quotas.disconnect("a")
    quotas.disconnect("a")
    assert quotas.connect("a") and quotas.refused_connections == 1
    for address in "aab":
        quotas.disconnect(address)
    assert not quotas._connections


def test_whoever_has_used_up_its_rate_takes_nothing_from_others_at_its_address() -> None:
    quotas = Quotas(
        Settings(nodes={0: {"n": "127.0.0.1:1"}}, client_requests_per_s=2, address_requests_per_s=6), lambda: 1000.0
    )

    def taken(principal: str, count: int) -> int:
        let_in = 0
        for _ in range(count):
            with contextlib.suppress(TooManyRequestsError):
                quotas.take(principal, "192.0.2.1")
                let_in += 1
        return let_in

    assert [taken("token:greedy", 9), taken("token:polite", 3)] == [2, 2]


def test_while_answers_are_late_nobody_holds_more_than_their_part() -> None:
    shard = Shard()
    for _ in range(30):
        assert shard.ask("greedy")
    assert not shard.ask("greedy", late=True), "alone it holds all that is under way"
    assert [bool(shard.ask("polite", late=True)) for _ in range(20)] == [True] * 20
    assert not shard.ask("greedy", late=True)
    for _ in range(30):
        shard.ask("polite", late=True)
    assert shard.refused["polite"], "nor may who came later"
    assert shard.ask("greedy"), "until answers come in time again"
