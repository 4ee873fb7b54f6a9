"""Planted bugs in linearizable reads."""

from __future__ import annotations

from raft_testing.mutants.mutant import Mutant

MUTANTS = (
    Mutant(
        "M21",
        "reads are served without asking a quorum",
        (11, 12),
        "raft/read_index.py",
        "        if confirmed is None or not is_quorum(voters, confirmed.acknowledged):\n",
        "        if confirmed is None:\n",
        "unit/test_raft_thesis.py::TestThesis64ReadIndex::test_a_read_needs_a_quorum_round_that_began_after_it",
    ),
    Mutant(
        "M22",
        "a new leader serves reads before an entry of its own term is committed",
        (10,),
        "raft/leader.py",
        "        if self.reads.due and self.established:\n",
        "        if self.reads.due:\n",
        "unit/test_raft_thesis.py::TestThesis64ReadIndex::test_a_new_leader_waits_for_an_entry_of_its_own_term",
    ),
    Mutant(
        "M23",
        "every read round has the same token, so that a late answer to an earlier one confirms it",
        (11,),
        "raft/read_index.py",
        "        self._token += 1\n",
        "        self._token = 1\n",
        "unit/test_raft_parts.py::TestReadIndexRounds::test_one_round_at_a_time_with_a_token_of_its_own",
    ),
    Mutant(
        "M24",
        "an answer to any round confirms the one in flight",
        (11,),
        "raft/read_index.py",
        "        if self.current and token == self.current.token:\n",
        "        if self.current and token:\n",
        "unit/test_raft_parts.py::TestReadIndexRounds::test_one_round_at_a_time_with_a_token_of_its_own",
    ),
    Mutant(
        "M25",
        "a read joins a round that began before it came",
        (11,),
        "raft/leader.py",
        "        self.reads.waiting.append(context)\n",
        "        current = self.reads.current\n"
        "        (self.reads.waiting if current is None else current.contexts).append(context)\n",
        "unit/test_raft_thesis.py::TestThesis64ReadIndex::test_a_read_needs_a_quorum_round_that_began_after_it",
    ),
)
