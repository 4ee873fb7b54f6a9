"""Whole shards by seed: facade, links, own streams and drivers over a network in memory, while everything breaks.

``WHOLE_SEEDS`` is how many seeds the long test runs, and ``WHOLE_FROM`` the first of them.
"""

from __future__ import annotations

import os
from collections import Counter

import pytest
from whole_by_seed import Result, run

from facade.client.registry import Registry
from facade.errors import OutcomeUnknownError

pytestmark = pytest.mark.simulation

FEW = range(1, 7)
FROM, SEEDS = int(os.environ.get("WHOLE_FROM", "1000")), int(os.environ.get("WHOLE_SEEDS", "100"))
PLANTED = range(1, 21)
"""In so many seeds a planted bug has to show."""


def check(result: Result) -> None:
    assert not result.violations and not result.failures, str(result)


def all_of(results: list[Result]) -> tuple[Counter[str], Counter[str], Counter[str]]:
    """Answers, events and faults of some runs together."""
    answers, events, faults = Counter[str](), Counter[str](), Counter[str]()
    for result in results:
        answers += result.answers
        events += result.events
        faults += result.faults
    return answers, events, faults


@pytest.mark.safety
def test_clients_of_whole_shards_see_a_linearizable_history() -> None:
    results = [run(seed) for seed in FEW]
    for result in results:
        check(result)
    answers, events, faults = all_of(results)
    assert set(faults) == {"kill", "cut off", "cut", "break off", "clients"}
    assert events["became_leader"] > 2 * len(results) / 2 and events["lost_quorum"], events
    for seen in ("PUT 200", "GET 200", "PUT 503", "PUT 504", "PUT TimeoutError", "GET ConnectionResetError"):
        assert answers[seen], (seen, answers)
    # Long values went through flow control, at both ends and in both directions.
    assert sum(result.bytes_carried for result in results) > 10_000_000


@pytest.mark.slow
@pytest.mark.safety
@pytest.mark.timeout(1800)
def test_many_seeds() -> None:
    for seed in range(FROM, FROM + SEEDS):
        check(run(seed))


def test_a_seed_gives_the_same_history_again() -> None:
    assert run(3).digest == run(3).digest != run(4).digest


def found_by(seeds: range) -> int:
    """The first seed that shows a violation; -1 if none does."""
    return next((seed for seed in seeds if run(seed).violations), -1)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_facade_that_says_too_much_of_lost_writes_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OutcomeUnknownError, "outcome", "not_applied")
    assert found_by(PLANTED) > 0


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_facade_that_sends_every_write_again_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    admit = Registry.admit

    def admit_repeatable(*arguments: object, **named: object) -> object:
        return admit(*arguments, **{**named, "repeatable": True})  # type: ignore[arg-type]

    monkeypatch.setattr(Registry, "admit", admit_repeatable)
    assert found_by(PLANTED) > 0
