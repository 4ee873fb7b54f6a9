"""Planted bugs between the log and the state: applying, snapshots, and the log behind them."""

from __future__ import annotations

from raft_testing.mutants.mutant import Mutant

MUTANTS = (
    Mutant(
        "M27",
        "entries are applied before this node's own log is sure to keep them",
        (22, 24),
        "raft/handout.py",
        "        end = min(log.commit_index, log.stable_index)\n",
        "        end = log.commit_index\n",
        "unit/test_raft_durability.py::test_entries_are_handed_out_only_when_durable_here",
    ),
    Mutant(
        "M28",
        "after a restart, what was committed counts as applied, whatever the stored state includes",
        (22,),
        "raft/log.py",
        "        self.applied_index = applied_index\n        self.commit_index = max(",
        "        self.applied_index = max(applied_index, min(commit_index, last))\n        self.commit_index = max(",
        "unit/test_raft_durability.py::test_the_commit_index_rides_along_with_a_write_and_is_found_again",
    ),
    Mutant(
        "M29",
        "the applied index of a flush is one entry beyond its own data",
        (22,),
        "storage/merges/results.py",
        "            flushed_index, flushed_term = task.applied_index, task.applied_term\n",
        "            flushed_index, flushed_term = task.applied_index + 1, task.applied_term\n",
        "unit/test_engine.py::test_after_a_restart_the_tables_are_the_state_up_to_the_flushed_index",
    ),
    Mutant(
        "M30",
        "a snapshot that is older than what is committed is taken over",
        (25,),
        "raft/node.py",
        "        if state.leadership is not None or index <= state.log.commit_index:\n",
        "        if state.leadership is not None:\n",
        "unit/test_raft_snapshots.py::TestFollower::test_a_snapshot_that_brings_nothing_new_is_refused",
    ),
    Mutant(
        "M31",
        "entries behind a snapshot stay in the log although the one at its end has another term",
        (25,),
        "raft/log.py",
        "        keeps = self.matches(index, term)\n",
        "        keeps = index <= self.last_index\n",
        "unit/test_raft_snapshots.py::TestFollower::test_entries_behind_it_go_when_they_do_not_match",
    ),
    Mutant(
        "M32",
        "entries behind a snapshot stay in the write-ahead log although the one at its end has another term",
        (25, 27),
        "storage/wal/log.py",
        "        if index <= self._terms.last_index and self._terms.term(index) == term:\n",
        "        if index <= self._terms.last_index:\n",
        "unit/test_wal_compaction.py::test_a_suffix_of_another_term_is_discarded",
    ),
    Mutant(
        "M33",
        "an engine takes over a checkpoint that is older than what it has applied",
        (25,),
        "storage/engine.py",
        "        if checkpoint.applied_index <= self.applied_index:\n",
        "        if checkpoint.applied_index <= self.flushed_index:\n",
        "unit/test_checkpoint.py::test_a_store_never_goes_back",
    ),
    Mutant(
        "M34",
        "the files of a snapshot are not compared with their hashes",
        (26,),
        "storage/snapshots/checkpoint.py",
        "            if hash_of(file) != expected.xxh3:\n",
        "            if hash_of(file) == -1:\n",
        "unit/test_checkpoint.py::test_a_table_in_the_place_of_another_of_the_same_size_is_found",
    ),
    Mutant(
        "M35",
        "the log is dropped one segment further than the state on disk reaches",
        (27, 26),
        "storage/wal/index.py",
        "            if segment.can_begin and segment.previous_index < first_index:\n                return segment\n"
        "        return self.segments[0]\n",
        "            if segment.can_begin and segment.previous_index < first_index:\n"
        "                return self.segments[min(self.segments.index(segment) + 1, len(self.segments) - 1)]\n"
        "        return self.segments[0]\n",
        "unit/test_wal_compaction.py::test_whole_segments_go_and_the_rest_is_there_after_a_reopen",
    ),
)
