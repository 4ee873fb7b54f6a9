"""Planted bugs in elections, in replication, and in the order of syncs and messages."""

from __future__ import annotations

from raft_testing.mutants.mutant import Mutant

MUTANTS = (
    Mutant(
        "M01",
        "the vote does not reach the disk",
        (1,),
        "raft/handout.py",
        "hard_state = HardState(state.term, state.voted_for, log.commit_index)",
        "hard_state = HardState(state.term, None, log.commit_index)",
        "unit/test_raft_paper.py::TestSection52Elections::test_a_vote_outlives_a_crash",
    ),
    Mutant(
        "M02",
        "a new term does not reach the disk",
        (1, 2),
        "raft/handout.py",
        "hard_state = HardState(state.term, state.voted_for, log.commit_index)",
        "hard_state = self.hard_state._replace(commit_index=log.commit_index)",
        "unit/test_original_defects.py::test_defect_6_term_vote_and_log_outlive_a_restart",
    ),
    Mutant(
        "M03",
        "a node votes for whoever asks, also twice in a term",
        (1,),
        "raft/voter.py",
        "granted = complete and message.term == state.term and state.voted_for in (None, message.sender)",
        "granted = complete and message.term == state.term",
        "unit/test_raft_paper.py::TestSection52Elections::test_one_vote_a_term_first_come_first_served",
    ),
    Mutant(
        "M04",
        "a vote is given to a log that is longer, though its last term is older",
        (1, 4),
        "raft/election.py",
        "return (last_log_term, last_log_index) >= (own_last_term, own_last_index)",
        "return last_log_index >= own_last_index",
        "unit/test_raft_paper.py::TestSection54Safety::test_5_4_1_only_a_complete_log_gets_a_vote",
    ),
    Mutant(
        "M05",
        "a vote leaves before it is durable",
        (1,),
        "raft/voter.py",
        "state.outbox.send_when_durable(RequestVoteResponse(state.id, message.sender, state.term, granted, False))",
        "state.outbox.send(RequestVoteResponse(state.id, message.sender, state.term, granted, False))",
        "unit/test_raft_durability.py::test_a_vote_leaves_when_term_and_vote_are_durable",
    ),
    Mutant(
        "M06",
        "entries are acknowledged before they are durable",
        (3,),
        "raft/follower.py",
        "        state.outbox.send_when_durable(answer)\n",
        "        state.outbox.send(answer)\n",
        "unit/test_raft_durability.py::test_an_acknowledgement_leaves_when_its_entries_are_durable",
    ),
    Mutant(
        "M07",
        "an entry of an older term is committed by counting",
        (4,),
        "raft/leader.py",
        "        if index >= self._term_start_index:\n",
        "        if index > 0:\n",
        "unit/test_raft_paper.py::TestSection54Safety::test_5_4_2_figure_8_an_older_entry_is_not_committed_by_counting",
    ),
    Mutant(
        "M08",
        "the leader counts its own entries before they are durable",
        (3, 24),
        "raft/leader.py",
        "        own = self._log.stable_index\n",
        "        own = self._log.last_index\n",
        "unit/test_raft_thesis.py::TestThesis1021ParallelWrite::"
        "test_the_leader_counts_itself_only_once_its_write_is_durable",
    ),
    Mutant(
        "M09",
        "a late or repeated append cuts off what came after it, without any conflict",
        (5,),
        "raft/log.py",
        "        if new > last:\n            return False\n",
        "        if new > last:\n"
        "            if last < self.last_index:\n"
        "                self._truncate(last + 1)\n"
        "            return False\n",
        "unit/test_raft_paper.py::TestSection53Replication::test_a_late_or_repeated_append_cuts_nothing_off",
    ),
    Mutant(
        "M10",
        "entries that conflict with the leader's stay",
        (5,),
        "raft/log.py",
        "if overlap_end >= first and self.term(overlap_end) != entries[overlap_end - first].term:",
        "if overlap_end < first and last < first:",
        "unit/test_raft_paper.py::TestSection53Replication::test_conflicting_entries_go_and_all_behind_them",
    ),
    Mutant(
        "M11",
        "entries are taken although the one before them has another term",
        (5,),
        "raft/log.py",
        "return self.first_index - 1 <= index <= self.last_index and self.term(index) == term",
        "return self.first_index - 1 <= index <= self.last_index and self.term(index) >= 0",
        "unit/test_raft_paper.py::TestSection53Replication::test_an_append_that_does_not_fit_is_refused_with_a_hint",
    ),
    Mutant(
        "M12",
        "a follower commits beyond the last entry that the leader sent",
        (5,),
        "raft/follower.py",
        "    log.commit_to(min(message.commit_index, last_new))\n",
        "    log.commit_to(min(message.commit_index, log.last_index))\n",
        "unit/test_raft_paper.py::TestSection53Replication::test_the_commit_index_goes_no_further_than_the_last_new_entry",
    ),
    Mutant(
        "M13",
        "a heartbeat's commit index is not clipped to what is known to match",
        (5, 32),
        "raft/leader.py",
        "        commit_index = min(self._log.commit_index, peer.match_index)\n"
        "        peer.told_commit_index = max(peer.told_commit_index, commit_index)\n",
        "        commit_index = self._log.commit_index\n"
        "        peer.told_commit_index = max(peer.told_commit_index, commit_index)\n",
        "unit/test_raft_replication.py::TestHeartbeats::test_the_commit_index_is_clipped_to_what_is_matched",
    ),
    Mutant(
        "M14",
        "an acknowledgement that comes late moves matchIndex back",
        (5,),
        "raft/progress.py",
        "        if news:\n            self.match_index = match_index\n",
        "        self.match_index = match_index\n",
        "unit/test_raft_parts.py::TestProgress::test_match_never_goes_back",
    ),
    Mutant(
        "M15",
        "an acknowledgement of an older term counts",
        (5,),
        "raft/inbox.py",
        "        elif state.leadership is not None and message.term == state.term:\n            if message.match_index",
        "        elif state.leadership is not None:\n            if message.match_index",
        "unit/test_raft_paper.py::TestSection51Terms::test_answers_of_an_older_term_are_ignored",
    ),
    Mutant(
        "M16",
        "a refused append cuts the follower's log, though the refusal may be stale",
        (5,),
        "raft/follower.py",
        "        hint = log.last_index_of_term_at_most(prev, message.prev_log_term)\n",
        "        if log.commit_index < prev <= log.last_index:\n"
        "            log._truncate(prev)\n"
        "        hint = log.last_index_of_term_at_most(prev, message.prev_log_term)\n",
        "unit/test_raft_paper.py::TestSection53Replication::test_an_append_that_does_not_fit_is_refused_with_a_hint",
    ),
    Mutant(
        "M17",
        "a campaign begins without a pre-vote",
        (6, 7, 9),
        "raft/node.py",
        "        elif state.now >= state.election_deadline and state.may_campaign():\n"
        "            self._roles.become_pre_candidate()\n",
        "        elif state.now >= state.election_deadline and state.may_campaign():\n"
        "            self._roles.become_candidate()\n",
        "unit/test_raft_thesis.py::TestThesis96PreVote::"
        "test_an_isolated_node_keeps_its_term_and_disturbs_nobody_on_return",
    ),
    Mutant(
        "M18",
        "a node that hears its leader votes for somebody else",
        (6, 9),
        "raft/voter.py",
        "            if self.protects_leader() and not message.transfer:\n",
        "            if state.leadership is not None and not message.transfer:\n",
        "unit/test_raft_thesis.py::TestThesis423Stickiness::test_votes_are_ignored_while_the_leader_was_just_heard",
    ),
    Mutant(
        "M19",
        "a leader that hears no quorum goes on leading",
        (7, 8),
        "raft/leader.py",
        "        return now - self._quorum_heard_tick(now) >= self._config.election_timeout_ticks_max\n",
        "        return False\n",
        "unit/test_raft_thesis.py::TestThesis62CheckQuorum::"
        "test_a_leader_that_hears_no_quorum_steps_down_within_a_timeout",
    ),
    Mutant(
        "M20",
        "a candidate needs one vote less than a majority",
        (1,),
        "raft/quorum.py",
        "    needed = majority(len(voters))\n",
        "    needed = max(1, majority(len(voters)) - 1)\n",
        "unit/test_raft_paper.py::TestSection52Elections::test_votes_of_a_minority_or_of_one_node_repeated_do_not_elect",
    ),
    Mutant(
        "M114",
        "a watched follower is told the commit index before it has acknowledged the entries up to there",
        (4, 5),
        "raft/leader.py",
        "                if hurried and self._owes_commit_index(peer):\n                    self._notice(node, peer)\n",
        "                if hurried and peer.told_commit_index < self._log.commit_index:\n"
        "                    peer.told_commit_index = index = self._log.commit_index\n"
        "                    self._outbox.send(Heartbeat(self._id, node, self._term, index, 0, answer=False))\n",
        "unit/test_raft_watched.py::test_a_notice_waits_for_the_answer_that_shows_that_its_receiver_has_the_entries",
    ),
)
