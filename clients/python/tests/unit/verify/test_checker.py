"""The checker of histories: known cases, both algorithms against brute force, the smallest failing one, pictures."""

from __future__ import annotations

import itertools
import os
import random
import time
from collections.abc import Sequence
from math import inf

import pytest

from dougdb.verify import (
    ABSENT,
    Cas,
    Compare,
    Delete,
    Get,
    Increment,
    Outcome,
    Put,
    Recorded,
    Txn,
    check,
    smallest,
    svg_of,
    text_of,
)
from dougdb.verify.checker import objects_of
from dougdb.verify.frontier import broken_at
from dougdb.verify.history import Request
from dougdb.verify.model import EMPTY, State, steps
from dougdb.verify.search import is_linearizable

HISTORIES = int(os.environ.get("CHECKER_HISTORIES", "3000"))
"""Enough to find every planted defect below; docs/verify.md has the command for 100,000."""
OPERATIONS = int(os.environ.get("CHECKER_OPERATIONS", "20000"))


def brute_force(history: Sequence[Recorded]) -> bool:
    """Whether any order of any subset that has all answered requests explains the history."""
    answered = [each for each in history if each.outcome is not None]
    unknown = [each for each in history if each.outcome is None]
    for size in range(len(unknown) + 1):
        for extra in itertools.combinations(unknown, size):
            for order in itertools.permutations([*answered, *extra]):
                if _in_time(order) and _explains(order, EMPTY):
                    return True
    return False


def _in_time(order: Sequence[Recorded]) -> bool:
    return all(
        not (later.outcome is not None and later.ended < earlier.began)
        for place, earlier in enumerate(order)
        for later in order[place + 1 :]
    )


def _explains(order: Sequence[Recorded], state: State) -> bool:
    if not order:
        return True
    return any(_explains(order[1:], after) for after in steps(state, order[0].request, order[0].outcome))


def random_history(random_: random.Random) -> list[Recorded]:
    """A small history that may be good: outcomes are those of some true order, sometimes changed."""
    count = random_.randint(1, 5)
    state: State = EMPTY
    made: list[Recorded] = []
    times = sorted(random_.sample(range(100), count))
    for revision, moment in enumerate(times, 1):
        key = random_.choice("ab" if random_.random() < 0.3 else "a")
        request = _random_request(random_, key, revision - 1)
        outcome = _outcome_of(state, request, revision)
        state = next(steps(state, request, outcome))
        if random_.random() < 0.15:
            outcome = Outcome(
                ok=not outcome.ok if isinstance(request, Cas | Txn) and random_.random() < 0.5 else outcome.ok,
                value=random_.choice([None, "0", "1", "2"]) if outcome.value is not None else outcome.value,
                revision=random_.choice([outcome.revision, 1, 2]),
                results=outcome.results,
            )
        began, ended = moment - random_.randint(0, 30), moment + random_.randint(0, 30)
        known = random_.random() > 0.15
        made.append(Recorded(len(made), request, began, ended if known else inf, outcome if known else None))
    return made


def _random_request(random_: random.Random, key: str, revision: int) -> Request:
    value = random_.choice(["0", "1", "2"])
    kind = random_.randrange(7)
    if kind < 2:
        return Get(key)
    if kind == 2:
        return Put(key, value)
    if kind == 3:
        return Delete(key)
    if kind == 4:
        return Cas(key, random_.choice([ABSENT, max(1, revision)]), value)
    if kind == 5:
        return Increment(key, 1)
    return Txn((Compare("a", random_.choice([None, "1"])),), (Put("b", value), Get("a")), (Get("b"),))


def _outcome_of(state: State, request: Request, revision: int) -> Outcome:
    if isinstance(request, Txn):
        held = all(
            next((each[1] for each in state if each[0] == compare.key), None) == compare.value
            for compare in request.compares
        )
        results = []
        for part in request.success if held else request.failure:
            found = _outcome_of(state, part, revision)
            state = next(steps(state, part, found))
            results.append(found)
        return Outcome(ok=held, results=tuple(results))
    entry = next((each for each in state if each[0] == request.key), None)
    if isinstance(request, Get):
        return Outcome() if entry is None else Outcome(value=entry[1], revision=entry[2])
    if isinstance(request, Cas):
        known = ABSENT if entry is None else entry[2]
        return Outcome(revision=revision) if known == request.revision else Outcome(ok=False, revision=known)
    if isinstance(request, Increment):
        return Outcome(value=str((0 if entry is None else int(entry[1])) + request.by), revision=revision)
    return Outcome(revision=revision if isinstance(request, Put) else None)


@pytest.mark.parametrize("seed", range(10))
def test_both_algorithms_agree_with_brute_force(seed: int) -> None:
    random_ = random.Random(seed)
    good = 0
    for _ in range(HISTORIES // 10):
        history = random_history(random_)
        expected = brute_force(history)
        good += expected
        assert (broken_at(history) is None) is expected, text_of(history)
        assert is_linearizable(history) is expected, text_of(history)
        verdict = check(history)
        assert verdict.good is expected
        if not expected:
            less = smallest(verdict.failing)
            assert not brute_force(less), text_of(less)
            assert len(less) <= len(verdict.failing)
    assert 0 < good < HISTORIES // 10, "histories of both kinds are needed"


def read(began: float, ended: float, value: str | None, revision: int | None = None) -> Recorded:
    return Recorded(9, Get("k"), began, ended, Outcome(value=value, revision=revision))


def test_a_stale_read_is_found_and_cut_down_to_what_shows_it() -> None:
    history = [
        Recorded(number, Put("k", str(number)), 10 * number, 10 * number + 5, Outcome(revision=number + 1))
        for number in range(50)
    ]
    history += [read(10 * number + 6, 10 * number + 8, str(number), number + 1) for number in range(50)]
    history.append(read(300, 305, "20", 21))
    history += [Recorded(3, Put(f"other{number}", "v"), number, number + 1, Outcome()) for number in range(20)]
    verdict = check(history)
    assert not verdict.good
    less = smallest(verdict.failing)
    assert len(less) <= 4, text_of(less)
    assert any(each.began == 300 for each in less)


def test_a_write_without_an_answer_may_have_happened_or_not_but_not_both() -> None:
    first = Recorded(1, Put("k", "1"), 0, 1, Outcome(revision=1))
    lost = Recorded(2, Put("k", "2"), 2)
    assert check([first, lost, read(3, 4, "1")]).good
    assert check([first, lost, read(3, 4, "2"), read(5, 6, "2")]).good
    assert check([first, lost, read(3, 4, "1"), read(5, 6, "2")]).good
    assert not check([first, lost, read(3, 4, "2"), read(5, 6, "1")]).good
    assert not check([first, lost, read(0.5, 1.5, "2")]).good, "it had not begun"


def test_an_increment_that_happens_twice_is_found() -> None:
    history = [Recorded(1, Increment("k", 1), 0, 1, Outcome(value="1")), Recorded(2, Increment("k", 1), 2, 3)]
    assert check([*history, read(4, 5, "2")]).good
    assert not check([*history, read(4, 5, "3")]).good


def test_a_conditional_write_that_holds_twice_is_found() -> None:
    history = [
        Recorded(1, Put("k", "a"), 0, 1, Outcome(revision=1)),
        Recorded(2, Cas("k", 1, "b"), 2, 5, Outcome(revision=2)),
    ]
    assert check([*history, Recorded(3, Cas("k", 1, "c"), 2, 5, Outcome(ok=False, revision=2))]).good
    assert not check([*history, Recorded(3, Cas("k", 1, "c"), 2, 5, Outcome(revision=3))]).good


def test_the_keys_of_a_transaction_are_one_object_and_it_is_all_or_nothing() -> None:
    both = Txn((), (Put("a", "1"), Put("b", "1")))
    done = Recorded(1, both, 0, 1, Outcome(results=(Outcome(), Outcome())))
    assert len(objects_of([done, Recorded(2, Get("c"), 0, 1, Outcome())])) == 2

    def reads(began: float, key: str, value: str | None) -> Recorded:
        return Recorded(2, Get(key), began, began + 1, Outcome(value=value))

    lost = Recorded(1, both, 0)
    assert check([lost, reads(2, "a", "1"), reads(4, "b", "1")]).good
    assert not check([lost, reads(2, "a", "1"), reads(4, "b", None)]).good, "half of it"
    assert not check([done, reads(2, "b", None)]).good


def test_a_revision_that_belongs_to_another_value_is_found() -> None:
    history = [
        Recorded(1, Put("k", "a"), 0, 1, Outcome(revision=1)),
        Recorded(1, Put("k", "b"), 2, 3, Outcome(revision=2)),
    ]
    assert not check([*history, read(4, 5, "b", 1)]).good


def test_many_requests_are_judged_in_seconds() -> None:
    random_, history = random.Random(7), []
    for key in range(40):
        value, revision, moment = "", 0, 0.0
        for number in range(OPERATIONS // 40):
            moment += random_.random()
            if number % 2:
                history.append(
                    Recorded(number % 8, Get(str(key)), moment - 1, moment + 1, Outcome(value=value, revision=revision))
                )
            else:
                value, revision = str(number), revision + 1
                history.append(
                    Recorded(number % 8, Put(str(key), value), moment - 1, moment + 1, Outcome(revision=revision))
                )
    started_s = time.process_time()
    verdict = check(history)
    assert verdict.good and verdict.checked == OPERATIONS
    took_s = time.process_time() - started_s
    print(f"{OPERATIONS} requests judged in {took_s:.2f} s of CPU")
    assert took_s < OPERATIONS / 1000, "a twentieth of that; this is for what grows without bounds"


def test_pictures_show_every_request() -> None:
    history = [
        Recorded(1, Put("k", "<1>"), 0, 10, Outcome(revision=1)),
        Recorded(2, Get("k"), 5, 8, Outcome()),
        Recorded(3, Put("k", "2"), 6),
    ]
    text = text_of(history)
    assert len(text.splitlines()) == 3
    assert "put k=<1> -> ok@1" in text and "get k -> none" in text and "put k=2 -> ?" in text
    svg = svg_of(history, "a & b")
    assert svg.startswith("<svg") and "a &amp; b" in svg and "&lt;1&gt;" in svg and svg.count("<rect") == 6
