"""The witness of the machine: what it takes off is what stood still, once, and it ends with what began it."""

from __future__ import annotations

import threading
import time
from itertools import count
from pathlib import Path

import pytest
from bench import witness
from bench.witness import Stall, Witness, stalled_s


def test_a_stall_counts_within_the_time_that_is_judged() -> None:
    stalls = [Stall(1.0, 2.0), Stall(5.0, 6.5)]
    assert stalled_s(stalls, 0.0, 10.0) == 2.5
    assert stalled_s(stalls, 1.5, 5.5) == 1.0
    assert stalled_s(stalls, 2.0, 5.0) == 0.0


def test_stalls_of_disk_and_processor_at_once_count_once() -> None:
    assert stalled_s([Stall(1.0, 3.0), Stall(2.0, 4.0), Stall(2.5, 2.6)], 0.0, 10.0) == 3.0


def test_only_a_step_that_took_long_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter([0.0, 0.01, 1.0, 1.5, 2.0, 2.01])
    steps, stopped = count(1), threading.Event()
    monkeypatch.setattr(witness, "EVERY_S", 0)
    monkeypatch.setattr(time, "monotonic", lambda: next(moments))

    def step() -> None:
        if next(steps) == 3:
            stopped.set()

    told: list[Stall] = []
    witness.watch(step, told.append, stopped)
    assert told == [Stall(1.0, 1.5)]


def test_it_watches_until_the_block_ends(tmp_path: Path) -> None:
    with Witness(tmp_path) as watched:
        pass
    assert watched.told().startswith(f"the machine stood still {len(watched.stalls)} times")
    assert watched._process is not None and watched._process.returncode == 0
