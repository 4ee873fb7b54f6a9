"""What ``make bench-overload`` calls beyond its limits."""

from __future__ import annotations

from array import array
from typing import Any

import pytest
from bench.load import LoadResult
from bench.overload import beyond, by_second, recovered_s

GOOD: dict[str, Any] = {
    "before": {"operations_per_s": 1000, "errors": {}},
    "during": {"operations_per_s": 1100, "errors": {"429": 7, "503": 9}},
    "after": {"operations_per_s": 900, "errors": {}},
    "probes": {"answers": {"/livez 200": 3}, "longest_ms": 4.0},
    "recovered_s": 2,
    "growth_mb": {"facade 1": 30.0, "node 2": -3.0},
    "terms_changed": {},
}
CROWD = {"crowd": {"kinds": {"200": 100, "429 too_many_requests": 900}, "with_retry_after": 900}}


def test_refusals_that_say_so_are_within_the_limits() -> None:
    assert not beyond(GOOD)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"during": {"operations_per_s": 5, "errors": {"504": 1, "timeout": 2}}}, "['504', 'timeout']"),
        ({"probes": {"answers": {"/livez 200": 3, "/readyz no answer": 1}}}, "/readyz no answer"),
        ({"during": CROWD | {"errors": {"429 too_many_requests": 900, "gave up": 11}}}, "11 requests were not"),
        ({"during": CROWD | {"errors": {"429 too_many_requests": 901}}}, "of 901 refusals 900 said"),
        ({"during": CROWD | {"errors": {"504 deadline_exceeded": 1, "429 x": 900}}}, "504 deadline_exceeded"),
        (
            {"during": GOOD["during"] | {"polite": {"served_per_s": 240, "share_per_s": 500}}},
            "a polite client kept 0.48",
        ),
        ({"recovered_s": 6}, "full speed was back after 6 s"),
        ({"recovered_s": None}, "full speed was back after None s"),
        ({"after": {"operations_per_s": 900, "errors": {"503": 1}}}, "errors before or after"),
        ({"growth_mb": {"node 2": 300.0}}, "grew by 300.0 MB"),
        ({"terms_changed": {"shard-0-1": 3}}, "terms changed"),
    ],
)
def test_whatever_else_comes_of_it_is_named(changed: dict[str, Any], words: str) -> None:
    (found,) = beyond(GOOD | changed)
    assert words in found


def test_answers_are_counted_by_whole_second() -> None:
    result = LoadResult(seconds=2.5, answered_ns=array("q", [0, 999_999_999, 1_000_000_000, 2_400_000_000]))
    assert by_second(result) == [2, 1]


@pytest.mark.parametrize(
    ("after", "seconds"),
    [
        ([95, 95, 95, 20], 0),
        ([10, 95, 95, 95], 1),
        ([95, 10, 95, 95, 95], 2),
        ([80, 80, 80, 80], None),
        ([], None),
    ],
)
def test_full_speed_is_back_once_three_seconds_in_a_row_have_it(after: list[int], seconds: int | None) -> None:
    empty_memtables = [900, 900, 900]
    assert recovered_s([*empty_memtables, 100, 100, 100], after) == seconds
