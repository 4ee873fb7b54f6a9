"""What ``make bench-conditions`` makes of its figures: ratios round by round, and what is too dear."""

from __future__ import annotations

from typing import Any

import pytest
from bench import conditions
from bench.conditions import KINDS, Found, in_turn


def figures(us: float) -> dict[str, Any]:
    """A load that cost so much, beside what the load generator took."""
    spent = {"facade": us / 2, "leaders": us / 2, "load generator": 99.0}
    return {"operations_per_s": 5000.0, "p50_ms": 7.5, "cpu_us_per_operation": spent}


@pytest.fixture
def found() -> Found:
    """Three rounds of which the second ran on a machine that was twice as slow."""
    dearer = {"plain": 100, "If-Match: *": 120, 'If-Match: "7"': 131, "plain, new keys": 200, "If-None-Match: *": 210}
    return {name: [figures(us), figures(2 * us), figures(us)] for name, us in dearer.items()}


def test_a_condition_is_compared_with_plain_puts_of_its_round(found: Found) -> None:
    assert conditions.ratios(found) == pytest.approx(
        {"If-Match: *": 1.2, 'If-Match: "7"': 1.31, "If-None-Match: *": 1.05}
    )
    found["plain"][0], found["plain"][2] = figures(10), figures(1000)
    assert conditions.ratios(found)["If-Match: *"] == pytest.approx(1.2), "the median, whatever one round says"


def test_what_costs_more_than_the_limit_is_named(found: Found) -> None:
    assert conditions.too_dear(found) == ['If-Match: "7": 1.31 times the CPU of a plain put, more than 1.3']


def test_the_table_has_a_row_for_each_kind(found: Found) -> None:
    head, _, *rows = conditions.rows(found)
    assert head == "| put | per second | p50 ms | CPU us: facade, leaders | together | ratio |"
    assert [row.split(" | ")[0].removeprefix("| ") for row in rows] == [kind.name for kind in KINDS]
    assert rows[0] == "| plain | 5000 | 7.50 | 50, 50 | 100 |  |"
    assert rows[1] == "| If-Match: * | 5000 | 7.50 | 60, 60 | 120 | 1.20 |"


def test_every_round_has_all_kinds_and_begins_with_another_one() -> None:
    rounds = [list(in_turn(number)) for number in range(len(KINDS))]
    assert all(sorted(each) == sorted(KINDS) for each in rounds)
    assert [each[0] for each in rounds] == list(KINDS)
