"""Planted bugs in the promises of replicas for reads: sessions, bounds, and the proofs of these."""

from __future__ import annotations

from raft_testing.mutants.mutant import Mutant

MUTANTS = (
    Mutant(
        "M93",
        "that a leader was asked is taken for a proof: staleness from mere contact",
        (10, 11),
        "runtime/reads/rounds.py",
        "        self._asked[context] = _Asked(callbacks, self._now_s(), stamp_s)\n",
        "        self._asked[context] = _Asked(callbacks, self._now_s(), stamp_s)\n        self.proven_s = stamp_s\n",
        "unit/test_pending_reads.py::"
        "test_a_confirmed_round_proves_what_was_acknowledged_before_it_was_asked_for_once_its_index_is_applied",
    ),
    Mutant(
        "M94",
        "a proof counts from when its round's index was applied, not from before it was asked for",
        (10,),
        "runtime/reads/rounds.py",
        "            self.proven_s = max(self.proven_s, confirmed.stamp_s)\n",
        "            self.proven_s = max(self.proven_s, self._proof_clock())\n",
        "unit/test_pending_reads.py::"
        "test_a_confirmed_round_proves_what_was_acknowledged_before_it_was_asked_for_once_its_index_is_applied",
    ),
    Mutant(
        "M95",
        "a session is served by a replica that lacks the last entry that it has seen",
        (13,),
        "runtime/reads/freshness.py",
        "        if min_index > self._reads.applied_index:\n",
        "        if min_index > self._reads.applied_index + 1:\n",
        "unit/test_pipe_session.py::test_a_read_of_a_session_waits_until_its_index_is_applied",
    ),
    Mutant(
        "M96",
        "a bounded read is served by a proof that is as old as when a new one should be there",
        (10,),
        "runtime/reads/freshness.py",
        "        return age_s <= bound_s\n",
        "        return AHEAD * age_s <= bound_s\n",
        "unit/test_pipe_session.py::test_a_bounded_read_is_served_only_by_a_proof_that_is_young_enough",
    ),
    Mutant(
        "M97",
        "a session's token does not say which partition map it was made by: token without epoch",
        (13,),
        "client/sessions.py",
        "        _put_varint(epoch, session.epoch)\n",
        "        _put_varint(epoch, 0)\n",
        "unit/test_sessions.py::test_a_token_keeps_the_newest_map",
        "facade",
        by_seeds=False,
    ),
    Mutant(
        "M103",
        "a facade takes the answer of a replica that proved nothing for a bounded read",
        (10,),
        "client/operation.py",
        "        if staleness_ms is None:\n            return False\n",
        "        if staleness_ms is None:\n            return True\n",
        "service/test_freshness.py::test_who_proves_nothing_serves_nothing_within_a_bound",
        "facade",
        by_seeds=False,
    ),
    Mutant(
        "M104",
        "a session of after a recovery is served by a node of before it, which has as many entries of a lost log",
        (13,),
        "client/sessions.py",
        "        return session is not None and generation < session.indexes.get(shard, 0) >> _INDEX_BITS\n",
        "        return False\n",
        "service/test_freshness.py::test_a_node_of_before_a_recovery_serves_no_session_of_after_it",
        "facade",
        by_seeds=False,
    ),
)
