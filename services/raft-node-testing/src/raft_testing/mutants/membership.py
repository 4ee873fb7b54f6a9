"""Planted bugs in changes of the members."""

from __future__ import annotations

from raft_testing.mutants.mutant import Mutant

MUTANTS = (
    Mutant(
        "M36",
        "members are changed before an entry of the leader's own term is committed",
        (28,),
        "raft/node.py",
        "        if not state.leadership.established:\n",
        "        if state.term == 0:\n",
        "unit/test_raft_membership.py::TestWhichChange::"
        "test_nothing_changes_before_an_entry_of_the_own_term_is_committed",
    ),
    Mutant(
        "M37",
        "members are changed while the change before is not committed",
        (28,),
        "raft/node.py",
        "        if state.configurations.index > state.log.commit_index:\n",
        "        if state.configurations.index > state.log.last_index:\n",
        "unit/test_raft_membership.py::TestWhichChange::test_one_change_at_a_time",
    ),
    Mutant(
        "M38",
        "a configuration stays in force although its entry was cut off",
        (29,),
        "raft/follower.py",
        "undone, came = state.configurations.rollback(state.log), state.configurations.append(message.entries)",
        "undone, came = False, state.configurations.append(message.entries)",
        "unit/test_raft_membership.py::TestInForceOnceAppended::"
        "test_an_uncommitted_change_is_undone_when_its_entry_is_cut_off",
    ),
    Mutant(
        "M39",
        "learners count for commits",
        (31,),
        "raft/leader.py",
        "        self._voters = configuration.voters\n",
        "        self._voters = (*configuration.voters, *configuration.learners)\n",
        "unit/test_raft_membership.py::TestLearners::test_a_learner_gets_everything_and_counts_for_nothing",
    ),
    Mutant(
        "M40",
        "a removed voter still counts for commits",
        (30,),
        "raft/leader.py",
        "        self._voters = configuration.voters\n",
        "        kept = [voter for voter in self._voters if voter not in configuration.voters]\n"
        "        self._voters = (*configuration.voters, *kept)\n",
        "unit/test_raft_membership.py::TestInForceOnceAppended::test_a_removed_voter_does_not_count_for_its_removal",
    ),
    Mutant(
        "M41",
        "a leader goes on leading after its own removal is committed",
        (30,),
        "raft/roles.py",
        "                state.outbox.send(TimeoutNow(state.id, successor, state.term))\n"
        "            self.become_follower(state.term, None)\n",
        "                state.outbox.send(TimeoutNow(state.id, successor, state.term))\n",
        "unit/test_raft_membership.py::TestRemoval::test_a_leader_that_removes_itself_leads_until_that_is_committed",
    ),
    Mutant(
        "M42",
        "two voters may be removed in one step",
        (28,),
        "raft/membership.py",
        "        case (0, 1, 0, 0) | (0, 0, 1, 0) | (0, 0, 0, 1):\n",
        "        case (0, 1, 0, 0) | (0, 0, 1, 0) | (0, 0, 0, 1) | (0, 0, 2, 0):\n",
        "unit/test_raft_membership.py::TestWhichChange::test_nothing_else_is_one_step",
    ),
    Mutant(
        "M43",
        "a learner becomes a voter before it has caught up",
        (31,),
        "raft/node.py",
        "        if promoted is not None and not state.leadership.caught_up(promoted):\n",
        "        if promoted is not None and promoted not in state.members:\n",
        "unit/test_raft_membership.py::TestWhichChange::test_a_learner_that_has_not_caught_up_is_not_made_a_voter",
    ),
    Mutant(
        "M44",
        "a node that is no voter campaigns",
        (30, 31),
        "raft/state.py",
        "        if self.id in self.configuration.voters:\n            return True\n",
        "        if self.configuration.voters:\n            return True\n",
        "unit/test_raft_paper.py::TestSection52Elections::test_a_learner_never_campaigns",
    ),
    Mutant(
        "M45",
        "a message for another incarnation of the node is taken",
        (32,),
        "raft/inbox.py",
        "if message.receiver != state.id or message.sender == state.id",
        "if message.receiver.name != state.id.name or message.sender == state.id",
        "unit/test_raft_replication.py::TestStrangers::test_a_message_of_or_for_another_incarnation_changes_nothing",
    ),
)
