"""Planted bugs in leader leases."""

from __future__ import annotations

from raft_testing.mutants.mutant import Mutant

MUTANTS = (
    Mutant(
        "M63",
        "a lease is judged by ticks alone, which stand still while the process is paused",
        (12, 13),
        "raft/lease.py",
        "            and now.clock - began.clock < self._duration\n",
        "",
        "unit/test_raft_lease.py::TestClocks::test_a_paused_leader_finds_its_lease_expired",
    ),
)
