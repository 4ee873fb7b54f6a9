"""The paper, section by section: a class is named after the section that it holds us to (thesis: test_raft_thesis)."""

from __future__ import annotations

import pytest

from raft_node.entry import EntryKind
from raft_node.errors import NotLeaderError
from raft_node.raft.messages import (
    AppendEntries,
    AppendEntriesResponse,
    Heartbeat,
    HeartbeatResponse,
    Message,
    RequestVoteResponse,
)
from raft_node.raft.types import Configuration, Role
from raft_testing.lockstep import (
    Lockstep,
    Peer,
    commands,
    follower,
    given,
    leader_of,
    leading,
    log_of,
    members,
    vote,
)

A, B, C, D, E = members(5)


class TestSection51Terms:
    """The paper, 5.1."""

    def test_a_request_of_an_older_term_is_refused_with_the_own_term(self) -> None:
        peer = follower(1, 3)
        assert peer.step(vote(B, 2, 9, 1)) == [RequestVoteResponse(A, B, 3, False, False)]
        assert peer.step(AppendEntries(B, A, 2, 2, 2, 0, ())) == [AppendEntriesResponse(A, B, 3, False, 0, 2, 0, 0)]
        assert peer.step(Heartbeat(B, A, 2, 0, 7)) == [HeartbeatResponse(A, B, 3, 7, 2)]
        assert peer.node.leader is None

    def test_a_stale_leader_learns_the_term_even_from_a_notice_that_wants_no_answer(self) -> None:
        assert follower(1, 3).step(Heartbeat(B, A, 2, 0, 0, answer=False)) == [HeartbeatResponse(A, B, 3, 0, 2)]

    @pytest.mark.parametrize(
        "answer",
        [
            AppendEntriesResponse(B, A, 9, False, 0, 0, 0, 0),
            HeartbeatResponse(B, A, 9, 0, 0),
            RequestVoteResponse(B, A, 9, False, False),
            RequestVoteResponse(B, A, 9, False, True),
        ],
    )
    def test_a_newer_term_makes_a_leader_a_follower(self, answer: Message) -> None:
        peer = leader_of(follower(1))
        peer.step(answer)
        assert (peer.node.role, peer.node.term, peer.node.leader) == (Role.FOLLOWER, 9, None)
        assert peer.hard_state.term == 9

    def test_answers_of_an_older_term_are_ignored(self) -> None:
        peer = leader_of(follower(1, 1, 2, term=4))
        before = {x: (p.match_index, p.next_index, p.heard_tick) for x, p in leading(peer).progress.items()}
        peer.node.tick()
        peer.step(AppendEntriesResponse(B, A, 4, True, 3, 0, 0, 0), HeartbeatResponse(B, A, 4, 1, 3))
        peer.step(AppendEntriesResponse(C, A, 4, False, 0, 3, 0, 0), RequestVoteResponse(D, A, 4, True, False))
        assert before == {x: (p.match_index, p.next_index, p.heard_tick) for x, p in leading(peer).progress.items()}


class TestSection52Elections:
    """The paper, 5.2."""

    def test_a_node_starts_as_a_follower_and_waits_out_its_timeout(self) -> None:
        peer = follower()
        assert peer.plays(Role.FOLLOWER)
        deadline = peer.node.ticks_to_deadline()
        peer.node.tick(deadline - 1)
        assert peer.pump() == [] and peer.node.ticks_to_deadline() == 1
        peer.node.tick()
        assert peer.plays(Role.PRE_CANDIDATE) and peer.node.term == 0

    def test_heartbeats_and_appends_keep_a_follower_quiet(self) -> None:
        peer = follower(1)
        messages: list[Message] = [Heartbeat(B, A, 1, 0, 0), AppendEntries(B, A, 1, 1, 1, 0, ())]
        for message in messages * 20:
            peer.node.tick(14)
            peer.step(message)
            assert peer.plays(Role.FOLLOWER) and peer.node.leader == B

    def test_the_timeout_is_drawn_anew_each_time_within_its_bounds(self) -> None:
        peer = follower(1)
        drawn = []
        for _ in range(300):
            peer.step(Heartbeat(B, A, 1, 0, 0))
            drawn.append(peer.node.ticks_to_deadline())
        assert set(drawn) == set(range(15, 30))
        timeouts = []
        for _ in range(100):
            timeouts.append(peer.node.ticks_to_deadline())
            peer.tick_to_deadline()
        assert len(set(timeouts)) > 5

    def test_one_vote_a_term_first_come_first_served(self) -> None:
        peer = follower(1)
        assert peer.step(vote(B, 2, 1, 1)) == [RequestVoteResponse(A, B, 2, True, False)]
        assert peer.step(vote(C, 2, 1, 1)) == [RequestVoteResponse(A, C, 2, False, False)]
        assert peer.step(vote(B, 2, 1, 1)) == [RequestVoteResponse(A, B, 2, True, False)]

    def test_a_vote_outlives_a_crash(self) -> None:
        peer = follower(1)
        peer.step(vote(B, 2, 1, 1))
        peer.restart()
        assert peer.step(vote(C, 2, 1, 1)) == [RequestVoteResponse(A, C, 2, False, False)]
        assert peer.step(vote(B, 2, 1, 1)) == [RequestVoteResponse(A, B, 2, True, False)]

    def test_a_given_vote_restarts_the_timer_a_refused_one_does_not(self) -> None:
        peer = follower(5)
        peer.node.tick(10)
        left = peer.node.ticks_to_deadline()
        peer.step(vote(B, 6, 1, 4))
        assert peer.node.ticks_to_deadline() == left and peer.node.term == 6
        peer.step(vote(C, 6, 1, 5))
        assert peer.node.ticks_to_deadline() >= 15

    def test_a_candidate_with_a_majority_leads(self) -> None:
        shard = Lockstep(5)
        shard.cut("a", "b", "c")
        peer = shard.elect("a")
        assert (peer.node.term, peer.node.soft_state.leader) == (1, "a")
        assert {shard[x].node.leader for x in "bc"} == {A}

    def test_a_candidate_without_a_majority_does_not_lead(self) -> None:
        shard = Lockstep(5)
        shard.cut("a", "b")
        shard["a"].tick_to_deadline()
        shard.deliver()
        assert shard["a"].plays(Role.PRE_CANDIDATE) and shard["a"].node.term == 0

    def test_votes_of_a_minority_or_of_one_node_repeated_do_not_elect(self) -> None:
        peer = follower()
        peer.tick_to_deadline()
        peer.step(*[RequestVoteResponse(B, A, 1, True, True)] * 5)
        assert peer.plays(Role.PRE_CANDIDATE)
        peer.step(RequestVoteResponse(C, A, 1, True, True))
        peer.step(*[RequestVoteResponse(B, A, 1, True, False)] * 5)
        assert peer.plays(Role.CANDIDATE)
        peer.step(RequestVoteResponse(C, A, 1, True, False))
        assert peer.plays(Role.LEADER)

    def test_a_majority_of_refusals_ends_a_campaign(self) -> None:
        peer = follower()
        peer.tick_to_deadline()
        peer.step(*[RequestVoteResponse(x, A, 0, False, True) for x in (B, C, D)])
        assert peer.plays(Role.FOLLOWER) and peer.node.term == 0
        peer.tick_to_deadline()
        peer.step(*[RequestVoteResponse(x, A, 1, True, True) for x in (B, C)])
        peer.step(*[RequestVoteResponse(x, A, 1, False, False) for x in (B, C, D)])
        assert peer.plays(Role.FOLLOWER) and peer.node.term == 1

    @pytest.mark.parametrize("message", [Heartbeat(B, A, 1, 0, 0), AppendEntries(B, A, 1, 0, 0, 0, ())])
    def test_a_candidate_follows_the_leader_of_its_term(self, message: Message) -> None:
        peer = follower()
        peer.tick_to_deadline()
        peer.step(*[RequestVoteResponse(x, A, 1, True, True) for x in (B, C)])
        assert peer.plays(Role.CANDIDATE)
        peer.step(message)
        assert (peer.node.role, peer.node.leader, peer.node.term) == (Role.FOLLOWER, B, 1)

    def test_a_split_vote_leads_to_another_election(self) -> None:
        shard = Lockstep(4)
        shard.passes = lambda m: {m.sender.name, m.receiver.name} in ({"a", "b"}, {"c", "d"})
        for name in "ac":
            shard[name].tick_to_deadline()
        shard.deliver()
        assert shard.leaders() == []
        shard.heal()
        shard.tick(200)
        assert len(shard.leaders()) == 1

    def test_a_second_leader_in_a_term_is_not_believed(self) -> None:
        peer = follower(1)
        peer.step(Heartbeat(B, A, 1, 0, 0))
        assert peer.step(Heartbeat(C, A, 1, 1, 0), AppendEntries(C, A, 1, 0, 0, 0, log_of(1))) == []
        assert peer.node.leader == B and peer.node.commit_index == 0
        assert peer.event_names().count("two_leaders") == 2 and peer.node.ignored_messages == 2

    def test_a_leader_does_not_follow_another_of_its_own_term(self) -> None:
        peer = leader_of(follower(1))
        peer.step(AppendEntries(B, A, peer.node.term, 0, 0, 0, log_of(1)))
        assert peer.plays(Role.LEADER)

    def test_a_single_voter_elects_itself_and_commits(self) -> None:
        shard = Lockstep(1)
        peer = shard.elect("a")
        peer.node.propose(commands(2), 5)
        shard.deliver()
        assert peer.node.commit_index == 3

    def test_a_learner_never_campaigns(self) -> None:
        peer = Peer(E, Configuration((A, B, C), (E,)))
        assert peer.plays(Role.LEARNER)
        for _ in range(10):
            peer.tick_to_deadline()
        assert peer.pump() == [] and peer.plays(Role.LEARNER)
        peer.step(Heartbeat(A, E, 1, 0, 0))
        assert peer.plays(Role.LEARNER) and peer.node.leader == A


class TestSection53Replication:
    """The paper, 5.3."""

    def test_an_append_that_fits_is_stored_and_acknowledged(self) -> None:
        peer = follower(1)
        new = log_of(1, 1, 2)[1:]
        answer = peer.step(AppendEntries(B, A, 2, 1, 1, 0, new))
        assert answer == [AppendEntriesResponse(A, B, 2, True, 3, 0, 0, 0)]
        assert peer.log.stored == log_of(1, 1, 2)

    @pytest.mark.parametrize(
        ("prev_index", "prev_term", "hint"),
        [(5, 3, (3, 2)), (4, 1, (2, 1)), (3, 1, (2, 1)), (3, 3, (3, 2)), (2, 2, (2, 1)), (1, 0, (0, 0))],
    )
    def test_an_append_that_does_not_fit_is_refused_with_a_hint(
        self, prev_index: int, prev_term: int, hint: tuple[int, int]
    ) -> None:
        peer = follower(1, 1, 2)
        answer = peer.step(AppendEntries(B, A, 3, prev_index, prev_term, 3, ()))
        assert answer == [AppendEntriesResponse(A, B, 3, False, 0, prev_index, *hint)]
        assert peer.node.commit_index == 0 and peer.terms == [1, 1, 2]

    def test_conflicting_entries_go_and_all_behind_them(self) -> None:
        peer = follower(1, 1, 1, 1, 1)
        peer.step(AppendEntries(B, A, 3, 2, 1, 0, log_of(1, 1, 3)[2:]))
        assert peer.terms == [1, 1, 3] and peer.log.stored == log_of(1, 1, 3)

    def test_a_late_or_repeated_append_cuts_nothing_off(self) -> None:
        peer = follower(1)
        late = AppendEntries(B, A, 2, 1, 1, 0, log_of(1, 2)[1:])
        peer.step(AppendEntries(B, A, 2, 1, 1, 0, log_of(1, 2, 2, 2)[1:]))
        for _ in range(2):
            assert peer.step(late) == [AppendEntriesResponse(A, B, 2, True, 2, 0, 0, 0)]
        assert peer.terms == [1, 2, 2, 2] and len(peer.log.stored) == 4

    def test_an_overlapping_append_adds_only_what_is_new(self) -> None:
        peer = follower(1, 1)
        peer.step(AppendEntries(B, A, 1, 0, 0, 0, log_of(1, 1, 1, 1)))
        assert peer.log.stored == log_of(1, 1, 1, 1)

    def test_an_append_before_the_commit_index_is_answered_from_what_is_committed(self) -> None:
        peer = follower(1, 1, 1)
        peer.step(Heartbeat(B, A, 2, 3, 0))
        answers = peer.step(
            AppendEntries(B, A, 2, 0, 0, 0, log_of(1)),
            AppendEntries(B, A, 2, 1, 1, 3, log_of(1, 1, 1, 2, 2)[1:]),
        )
        assert answers == [
            AppendEntriesResponse(A, B, 2, True, 3, 0, 0, 0),
            AppendEntriesResponse(A, B, 2, True, 5, 0, 0, 0),
        ]
        assert peer.terms == [1, 1, 1, 2, 2]

    def test_the_commit_index_goes_no_further_than_the_last_new_entry(self) -> None:
        peer = follower(1, 1, 1)
        peer.step(AppendEntries(B, A, 2, 1, 1, 3, ()))
        assert peer.node.commit_index == 1
        peer.step(AppendEntries(B, A, 2, 1, 1, 3, log_of(1, 1)[1:]))
        assert peer.node.commit_index == 2
        peer.step(AppendEntries(B, A, 2, 3, 1, 2, ()))
        assert peer.node.commit_index == 2

    def test_a_leader_only_appends(self) -> None:
        peer = leader_of(follower(1, 1))
        for _ in range(3):
            peer.node.propose(commands(1), 0)
        assert peer.terms == [1, 1, 2, 2, 2, 2]

    def test_entries_are_committed_by_a_majority_and_applied_in_order(self) -> None:
        shard = Lockstep(5)
        peer = shard.elect("a")
        shard.cut("a", "b")
        assert peer.node.propose(commands(3), 9) == (2, 1)
        shard.deliver()
        assert peer.node.commit_index == 1
        shard.heal()
        shard.tick(15)
        for name in "abcde":
            assert [e.index for e in shard[name].committed] == [1, 2, 3, 4]
            assert shard[name].committed == peer.committed

    def test_figure_7_a_new_leader_brings_all_logs_in_line(self) -> None:
        leader = (1, 1, 1, 4, 4, 5, 5, 6, 6, 6)
        others = [
            leader[:9],
            leader[:4],
            (*leader, 6),
            (*leader, 7, 7),
            (1, 1, 1, 4, 4, 4, 4),
            (1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3),
        ]
        shard = Lockstep(7, logs=[log_of(*terms) for terms in (leader, *others)], term=7)
        shard.elect("a")
        shard.tick(30)
        for peer in shard.peers.values():
            assert peer.terms == [*leader, 8]
            assert peer.log.stored == shard["a"].log.stored
            assert peer.node.commit_index == 11

    def test_whole_terms_are_skipped_on_the_way_back(self) -> None:
        long = [1] * 50 + [2] * 50 + [3] * 50
        shard = Lockstep(3, logs=[log_of(*[1] * 50, *[4] * 150), log_of(*[1] * 50, *[4] * 150), log_of(*long)], term=5)
        shard.elect("a")
        shard.tick(20)
        assert shard["c"].terms == shard["a"].terms
        assert shard.delivered["AppendEntries"] < 10

    def test_5_5_messages_may_be_repeated(self) -> None:
        shard = Lockstep(3)
        twice: list[Message] = []

        def note(message: Message) -> bool:
            twice.append(message)
            return True

        shard.passes = note
        shard.elect("a").node.propose(commands(4), 1)
        shard.deliver()
        for message in list(twice):
            shard[message.receiver.name].step(message)
        shard.tick(20)
        assert [shard[x].terms for x in "abc"] == [[1] * 5] * 3 and shard.leaders() == ["a"]


class TestSection54Safety:
    """The paper, 5.4."""

    @pytest.mark.parametrize(
        ("index", "term", "granted"),
        [(3, 2, True), (4, 2, True), (1, 3, True), (2, 2, False), (9, 1, False), (0, 0, False)],
    )
    @pytest.mark.parametrize("pre_vote", [True, False])
    def test_5_4_1_only_a_complete_log_gets_a_vote(self, index: int, term: int, granted: bool, pre_vote: bool) -> None:
        assert given(follower(1, 2, 2).step(vote(B, 4, index, term, pre_vote))) is granted

    def test_5_4_2_figure_8_an_older_entry_is_not_committed_by_counting(self) -> None:
        logs = [log_of(1, 2), log_of(1, 2), log_of(1), log_of(1), log_of(1)]
        shard = Lockstep(5, logs=logs, term=3)
        shard.passes = lambda m: not (isinstance(m, AppendEntries) and any(e.term == 4 for e in m.entries))
        peer = shard.elect("a")
        for x in (C, D):
            # They hold the entry of term 2 now, but not the first one of term 4.
            peer.step(AppendEntriesResponse(x, A, 4, True, 2, 0, 0, 0))
        assert peer.node.commit_index == 0
        for x in (C, D):
            peer.step(AppendEntriesResponse(x, A, 4, True, 3, 0, 0, 0))
        assert peer.node.commit_index == 3

    def test_a_committed_entry_that_conflicts_stops_the_node(self) -> None:
        peer = follower(1, 1)
        peer.step(Heartbeat(B, A, 1, 2, 0))
        peer.node.log.commit_index = 1
        peer.step(Heartbeat(B, A, 1, 2, 0))
        with pytest.raises(AssertionError, match="committed entry conflicts"):
            peer.node.log.merge(log_of(1, 2)[1:])


class TestSection8Clients:
    """The paper, 8."""

    def test_a_leader_begins_its_term_with_an_entry(self) -> None:
        peer = leader_of(follower(1))
        peer.pump()
        assert [(e.index, e.term, e.kind) for e in peer.log.stored][1:] == [(2, 2, EntryKind.NOOP)]

    def test_others_name_the_leader(self) -> None:
        shard = Lockstep(3)
        with pytest.raises(NotLeaderError) as unknown:
            shard["b"].node.propose(commands(1), 0)
        assert unknown.value.leader_id == ""
        shard.elect("a")
        with pytest.raises(NotLeaderError) as refused:
            shard["b"].node.propose(commands(1), 0)
        assert refused.value.leader_id == "a"

    def test_log_time_never_goes_back(self) -> None:
        shard = Lockstep(3)
        peer = shard.elect("a")
        for now in (50, 40, 60):
            peer.node.propose(commands(2), now)
        shard.deliver()
        shard.elect("b").node.propose(commands(1), 1)
        shard.deliver()
        assert [e.timestamp_us for e in shard["c"].log.stored] == [0, 50, 50, 50, 50, 60, 60, 60, 60]
