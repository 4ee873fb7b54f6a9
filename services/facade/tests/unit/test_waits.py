"""When requests wait for too long: only if all answers have been late, for as long as a request may wait."""

from __future__ import annotations

from typing import Any

import pytest

from doug_wire.pipe import ResultRecord, Status
from facade.client.modes import Kind
from facade.client.operation import Load, Operation
from facade.client.waits import Waits

MAX_S = 1.0
RESULT = ResultRecord(0, Status.OK, 1, b"", b"")


def answered(queued_s: float, kind: Kind = Kind.WRITE) -> tuple[Operation, ResultRecord]:
    future: Any = None
    operation = Operation(0, kind, 0, Load(), b"k", b"", 0.0, future, True)
    operation.queued_s = queued_s
    return operation, RESULT


def test_late_answers_count_once_they_have_lasted() -> None:
    waits = Waits(MAX_S)
    for now_s in (10.0, 10.5, 10.9):
        waits.heard([answered(now_s - 2.0)], now_s)
        assert not waits.are_long(Kind.WRITE, now_s), "a burst that is worked off harms nobody"
    waits.heard([answered(9.0)], 11.0)
    assert waits.are_long(Kind.WRITE, 11.0)
    assert not waits.are_long(Kind.READ_LINEARIZABLE, 11.0), "each kind has a window of its own"


def test_one_young_request_is_enough_to_let_others_in() -> None:
    waits = Waits(MAX_S)
    for now_s in (10.0, 11.0):
        waits.heard([answered(now_s - 3.0), answered(now_s - 2.0)], now_s)
    assert waits.are_long(Kind.WRITE, 11.0)
    waits.heard([answered(8.0), answered(10.6)], 11.5)
    assert not waits.are_long(Kind.WRITE, 11.5)


def test_a_new_leader_and_a_long_silence_begin_anew() -> None:
    waits = Waits(MAX_S)
    for now_s in (10.0, 11.0):
        waits.heard([answered(now_s - 2.0)], now_s)
    assert not waits.are_long(Kind.WRITE, 13.0), "nothing was heard for two seconds"
    assert waits.are_long(Kind.WRITE, 12.9)
    waits.forget()
    waits.heard([answered(10.0)], 12.9)
    assert not waits.are_long(Kind.WRITE, 12.9)


@pytest.mark.parametrize(("max_s", "kind"), [(0.0, Kind.WRITE), (MAX_S, Kind.READ_LOCAL)])
def test_it_can_be_off_and_reads_of_replicas_are_left_out(max_s: float, kind: Kind) -> None:
    waits = Waits(max_s)
    for now_s in (10.0, 12.0, 13.0):
        waits.heard([answered(now_s - 5.0, kind)], now_s)
        waits.heard([], now_s)
        assert not waits.are_long(kind, now_s)
