"""Five hundred seeds of whole shards under faults, in two processes."""

from __future__ import annotations

import pytest

from raft_testing.__main__ import effects, run_seeds
from raft_testing.simulation import Options, missing_effects

SEEDS = range(1, 501)
OPTIONS = Options(nodes=5, operations=300, faults=10)
FEW = range(1, 25)


@pytest.mark.simulation
def test_some_seeds_hold() -> None:
    failed = [result for result in run_seeds(FEW, OPTIONS, processes=1) if result.failure]
    assert not failed, "\n".join(f"{result.failure}\n    replay: {result.replay}" for result in failed)


@pytest.mark.slow
@pytest.mark.simulation
@pytest.mark.timeout(1800)
def test_every_seed_holds_and_every_fault_makes_a_difference() -> None:
    results = list(run_seeds(SEEDS, OPTIONS, processes=2))
    failed = [f"{result.failure}\n    replay: {result.replay}" for result in results if result.failure]
    assert not failed, "\n".join(failed)
    print(effects(results))
    assert len(results) == len(SEEDS)
    assert min(result.operations for result in results) >= 300
    assert min(result.faults for result in results) >= 10
    # A run in which hardly anything succeeds proves little.
    assert sum(result.succeeded for result in results) > 0.75 * sum(result.operations for result in results)
    assert {result.log for result in results} == {"MemoryLog", "WalLog"}
    assert {result.store for result in results} == {"MemoryStore", "EngineStore"}
    assert missing_effects(results) == []


@pytest.mark.simulation
@pytest.mark.parametrize("nodes", [1, 3, 4])
def test_other_sizes_hold_too(nodes: int) -> None:
    for seed in range(1, 6):
        result = run_seeds([seed], Options(nodes=nodes, operations=200, faults=5), processes=1)
        (only,) = result
        assert not only.failure, f"{only.failure}\n    replay: {only.replay}"
