"""The windows of one link, without a stream: facade.client.link."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator

import pytest

from doug_wire import pipe
from facade.client.link import GATHER_BYTES, GATHER_TIMES, Link, OpenBatch
from facade.client.modes import Kind
from facade.client.operation import Load, Operation


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop that never runs: futures need one."""
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def make(loop: asyncio.AbstractEventLoop, number: int, kind: Kind = Kind.WRITE, size: int = 10) -> Operation:
    record = b"%03d" % number + b"x" * (size - 3)
    return Operation(number, kind, 0, Load(), b"k", record, 5.0, loop.create_future(), False)


def test_one_batch_takes_all_that_wait_in_order(loop: asyncio.AbstractEventLoop) -> None:
    link, queue = Link(1, 100), deque(make(loop, number) for number in range(5))
    records = b"".join(operation.record for operation in queue)
    cut = link.cut(Kind.WRITE, queue, 0.0)
    assert cut is not None
    assert (cut.items, cut.records, len(queue)) == (5, records, 0)
    assert not link.has_room(Kind.WRITE)


def test_kinds_have_windows_of_their_own(loop: asyncio.AbstractEventLoop) -> None:
    link = Link(1, 100)
    assert link.cut(Kind.WRITE, deque([make(loop, 1)]), 0.0)
    assert not link.has_room(Kind.WRITE)
    assert link.has_room(Kind.READ_LINEARIZABLE)
    assert link.has_room(Kind.READ_LOCAL)


def test_a_batch_closes_when_all_its_items_are_answered(loop: asyncio.AbstractEventLoop) -> None:
    link = Link(1, 100)
    link.cut(Kind.WRITE, deque([make(loop, 1), make(loop, 2)]), 0.0)
    first = link.take(1)
    assert first is not None
    assert first.batch is None
    assert not link.has_room(Kind.WRITE)
    assert link.take(2) is not None
    assert link.has_room(Kind.WRITE)
    assert link.take(2) is None, "an answer counts once"


def test_a_batch_closes_when_it_is_old_but_its_items_stay_counted(loop: asyncio.AbstractEventLoop) -> None:
    link = Link(1, 3)
    link.cut(Kind.WRITE, deque([make(loop, 1), make(loop, 2)]), 0.0)
    assert not link.close_aged(0.049)
    assert link.close_aged(0.050)
    assert link.has_room(Kind.WRITE)
    queue = deque([make(loop, 3), make(loop, 4)])
    cut = link.cut(Kind.WRITE, queue, 0.05)
    assert cut is not None
    assert (cut.items, len(queue)) == (1, 1), "three items may be unanswered"
    link.close_aged(1.0)
    assert not link.has_room(Kind.WRITE), "items_max holds even with an open window"
    link.take(1)
    assert link.has_room(Kind.WRITE)


def test_a_window_of_two_holds_two_batches(loop: asyncio.AbstractEventLoop) -> None:
    link = Link(2, 100)
    link.cut(Kind.WRITE, deque([make(loop, 1)]), 0.0)
    assert link.has_room(Kind.WRITE)
    link.cut(Kind.WRITE, deque([make(loop, 2)]), 0.0)
    assert not link.has_room(Kind.WRITE)


def test_a_batch_holds_a_mebibyte_or_one_record(loop: asyncio.AbstractEventLoop) -> None:
    half = pipe.BATCH_BYTES_MAX // 2
    queue = deque([make(loop, 1, size=half), make(loop, 2, size=half), make(loop, 3)])
    cut = Link(1, 100).cut(Kind.WRITE, queue, 0.0)
    assert cut is not None
    assert (cut.items, len(cut.records)) == (2, pipe.BATCH_BYTES_MAX)
    queue = deque([make(loop, 1, size=pipe.BATCH_BYTES_MAX + 50), make(loop, 2)])
    cut = Link(1, 100).cut(Kind.WRITE, queue, 0.0)
    assert cut is not None
    assert (cut.items, len(queue)) == (1, 1)


def test_operations_that_are_over_fall_out(loop: asyncio.AbstractEventLoop) -> None:
    link, gone, left = Link(1, 100), make(loop, 1), make(loop, 2)
    gone.future.cancel()
    queue = deque([gone, left])
    cut = link.cut(Kind.WRITE, queue, 0.0)
    assert cut is not None
    assert (cut.items, list(link.in_flight)) == (1, [2])
    left.future.cancel()
    assert Link(1, 100).cut(Kind.WRITE, deque([gone, left]), 0.0) is None


def test_silence_counts_only_while_an_answer_is_owed(loop: asyncio.AbstractEventLoop) -> None:
    link = Link(1, 100)
    assert link.silent_s(9.0) == 0
    link.cut(Kind.WRITE, deque([make(loop, 1)]), 10.0)
    assert link.silent_s(10.4) == pytest.approx(0.4)
    link.last_heard_s = 10.3
    assert link.silent_s(10.4) == pytest.approx(0.1)
    link.take(1)
    assert link.silent_s(99.0) == 0


def test_reset_hands_back_what_was_in_flight(loop: asyncio.AbstractEventLoop) -> None:
    link = Link(1, 100)
    link.cut(Kind.WRITE, deque([make(loop, 1), make(loop, 2)]), 0.0)
    link.cut(Kind.READ_LOCAL, deque([make(loop, 3, Kind.READ_LOCAL)]), 0.0)
    lost = link.reset(1.0)
    assert [operation.id for operation in lost] == [1, 2, 3]
    assert all(operation.batch is None for operation in lost)
    assert all(link.has_room(kind) for kind in Kind)
    assert link.silent_s(9.0) == 0


def answered(link: Link, loop: asyncio.AbstractEventLoop, items: int, size: int = 10) -> OpenBatch:
    """A batch of writes of which all were answered."""
    operations = [make(loop, number, size=size) for number in range(1, items + 1)]
    assert link.cut(Kind.WRITE, deque(operations), 0.0) is not None
    link.finished.clear()
    for operation in operations:
        link.take(operation.id)
    return link.finished[0]


def test_a_batch_waits_for_those_who_were_answered_before_it(loop: asyncio.AbstractEventLoop) -> None:
    link = Link(1, 100, gather_s=0.0004)
    assert not link.gathers_until_s(Kind.WRITE, 1, 5.0), "nobody was answered yet"
    link.gather(answered(link, loop, 3), 3, 5.0)
    assert link.gathers_until_s(Kind.WRITE, 1, 5.0) == pytest.approx(5.0004)
    assert link.gathers_until_s(Kind.WRITE, 2, 5.0003) == pytest.approx(5.0004), "small batches wait no longer"
    assert not link.gathers_until_s(Kind.WRITE, 3, 5.0), "all of them are back"
    assert not link.gathers_until_s(Kind.WRITE, 2, 5.0005), "one stays away: the others wait no longer"
    assert not link.gathers_until_s(Kind.READ_LINEARIZABLE, 1, 5.0), "kinds do not wait for each other"


def test_behind_a_large_batch_the_next_one_waits_as_long_as_items_come(loop: asyncio.AbstractEventLoop) -> None:
    link = Link(1, 100, gather_s=0.001)
    link.gather(answered(link, loop, 4, GATHER_BYTES), 4, 5.0)
    assert link.gathers_until_s(Kind.WRITE, 1, 5.0009) == pytest.approx(5.0019)
    assert link.gathers_until_s(Kind.WRITE, 1, 5.0010) == pytest.approx(5.0019), "nothing has come since"
    assert link.gathers_until_s(Kind.WRITE, 2, 5.0018) == pytest.approx(5.0028)
    assert not link.gathers_until_s(Kind.WRITE, 2, 5.0029), "nothing has come for so long"
    assert link.gathers_until_s(Kind.WRITE, 3, 5.0045) == pytest.approx(5.005), "no longer than its bytes allow"
    link.gather(answered(link, loop, 4, 9 * GATHER_BYTES), 4, 6.0)
    assert link.gathers_until_s(Kind.WRITE, 3, 6.0075) == pytest.approx(6.0 + GATHER_TIMES * 0.001)


def test_a_batch_waits_for_all_of_the_one_before_it_however_many_messages_answered_it(
    loop: asyncio.AbstractEventLoop,
) -> None:
    link = Link(1, 100, gather_s=0.001)
    link.gather(answered(link, loop, 8), 3, 5.0)
    assert link.gathers_until_s(Kind.WRITE, 7, 5.0)
    assert not link.gathers_until_s(Kind.WRITE, 8, 5.0)


def test_a_batch_that_was_cut_leaves_nobody_waiting(loop: asyncio.AbstractEventLoop) -> None:
    link = Link(2, 100, gather_s=0.0004)
    link.gather(answered(link, loop, 3), 3, 5.0)
    link.cut(Kind.WRITE, deque([make(loop, 1)]), 5.0)
    assert not link.gathers_until_s(Kind.WRITE, 1, 5.0)
    link.reset(5.0)
    link.gather(answered(link, loop, 3), 3, 5.0)
    link.reset(5.0)
    assert not link.gathers_until_s(Kind.WRITE, 1, 5.0)
