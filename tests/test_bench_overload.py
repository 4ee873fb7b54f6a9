"""What ``make bench-overload`` calls beyond its limits."""

from __future__ import annotations

from typing import Any

import pytest
from bench.overload import beyond

GOOD: dict[str, Any] = {
    "before": {"operations_per_s": 1000, "errors": {}},
    "during": {"operations_per_s": 1100, "errors": {"429": 7, "503": 9}},
    "after": {"operations_per_s": 900, "errors": {}},
    "growth_mb": {"facade 1": 30.0, "node 2": -3.0},
    "terms_changed": {},
}


def test_refusals_that_say_so_are_within_the_limits() -> None:
    assert not beyond(GOOD)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"during": {"operations_per_s": 5, "errors": {"504": 1, "timeout": 2}}}, "['504', 'timeout']"),
        ({"after": {"operations_per_s": 400, "errors": {}}}, "only 40%"),
        ({"after": {"operations_per_s": 900, "errors": {"503": 1}}}, "errors before or after"),
        ({"growth_mb": {"node 2": 300.0}}, "grew by 300.0 MB"),
        ({"terms_changed": {"shard-0-1": 3}}, "terms changed"),
    ],
)
def test_whatever_else_comes_of_it_is_named(changed: dict[str, Any], words: str) -> None:
    (found,) = beyond(GOOD | changed)
    assert words in found
