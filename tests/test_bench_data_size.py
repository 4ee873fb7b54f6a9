"""The benchmark by the amount of data: it writes every key once, and reads what it wrote."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench.data_size import HEAD, STEP, key_of, measure, row, value_of


@pytest.mark.parametrize("keys", [1, 100, 100_000])
def test_every_key_is_written_once_whatever_their_number(keys: int) -> None:
    assert {place * STEP % keys for place in range(keys)} == set(range(keys))


def test_values_differ_and_follow_from_the_number_alone() -> None:
    assert len({value_of(number) for number in range(1000)}) == 1000
    assert value_of(7) == value_of(7) and len(value_of(4_999_999)) == len(value_of(0)) == 100
    assert key_of(12) == b"0000000000000012"


@pytest.mark.seconds
def test_a_run_tells_all_figures_of_its_table(tmp_path: Path) -> None:
    found = measure(tmp_path, 2000, 0.05)
    assert found["gets"] > 0 and found["disk_mb"] > 0
    line = row({"keys": 2000, "memory_mb": 0.0, **found})
    assert line.count("|") == HEAD.splitlines()[1].count("|")
