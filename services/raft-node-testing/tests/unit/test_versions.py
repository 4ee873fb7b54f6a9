"""The test of registers with revisions: what it lets through, and one history for each thing that it forbids."""

from __future__ import annotations

import math
from typing import Any

import pytest

from raft_testing.versions import Access, check_versions


def put(call: float, returned: float, revision: int, value: str, expected: int | None = None) -> Access:
    return Access("k", "put", call, returned, "ok", revision, value, expected)


def get(call: float, returned: float, revision: int, value: str | None) -> Access:
    return Access("k", "get", call, returned, "ok", revision, value)


def lost(call: float, value: str, expected: int | None = None) -> Access:
    return Access("k", "put", call, math.inf, "unknown", 0, value, expected)


def failed(call: float, returned: float, met: int, expected: int) -> Access:
    return Access("k", "put", call, returned, "failed", met, "never", expected)


@pytest.mark.parametrize(
    "history",
    [
        [],
        [get(0, 1, 0, None), put(2, 3, 7, "a", 0), get(4, 5, 7, "a"), failed(6, 7, 7, 3)],
        [put(0, 9, 7, "a"), put(0, 9, 9, "b", 7), get(1, 2, 7, "a"), get(3, 4, 9, "b")],
        [put(0, 1, 7, "a"), lost(2, "b", 7), get(5, 6, 9, "b"), put(7, 8, 11, "c", 9)],
        [put(0, 1, 7, "a"), lost(2, "b", 7), get(5, 6, 7, "a")],
        [put(0, 1, 7, "a"), lost(2, "b", 7), lost(2, "c", 7), put(7, 8, 11, "d", 9), get(9, 10, 11, "d")],
    ],
)
def test_what_is_linearizable_passes(history: list[Access]) -> None:
    assert check_versions(history) == []


@pytest.mark.parametrize(
    ("history", "what"),
    [
        ([put(0, 1, 7, "a"), put(2, 3, 7, "b")], "two writes"),
        ([put(0, 1, 7, "a"), get(2, 3, 7, "b")], "was written 'a' and read 'b'"),
        ([put(0, 1, 7, "a"), put(2, 3, 8, "b", 7), put(4, 5, 9, "c", 7)], "an update is lost"),
        ([put(0, 1, 7, "a", 0), put(0, 1, 8, "b", 0)], "an update is lost"),
        ([put(0, 1, 7, "a"), failed(2, 3, 7, 7)], "met just that"),
        ([put(0, 1, 7, "a"), get(2, 3, 8, "b")], "nobody wrote the revision 8"),
        ([put(0, 1, 7, "a"), lost(2, "b", 3), get(4, 5, 8, "b")], "nobody wrote the revision 8"),
        ([put(0, 1, 7, "a"), get(2, 3, 0, None)], "had been seen before"),
        ([put(0, 1, 8, "a"), put(2, 3, 7, "b")], "had been seen before"),
        ([put(0, 9, 7, "a"), get(1, 2, 7, "a"), get(3, 4, 0, None)], "had been seen before"),
        ([lost(5, "a"), get(1, 2, 7, "a"), get(9, 10, 0, None)], "had been seen before"),
    ],
)
def test_what_is_not_is_told(history: Any, what: str) -> None:
    (problem, *_) = check_versions(history)
    assert what in problem
