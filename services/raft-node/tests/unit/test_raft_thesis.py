"""The thesis, section by section: the name of a class is the section that it holds us to."""

from __future__ import annotations

import pytest

from raft_node.entry import Entry
from raft_node.raft.messages import (
    AppendEntries,
    AppendEntriesResponse,
    Heartbeat,
    HeartbeatResponse,
    Message,
    RequestVoteResponse,
)
from raft_node.raft.types import Configuration, HardState, NodeId, Role
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


class TestThesis96PreVote:
    """The thesis, 9.6."""

    def test_a_pre_vote_changes_nothing_at_its_receiver(self) -> None:
        peer = follower(1)
        left = peer.node.ticks_to_deadline()
        for sender in (B, C):
            assert peer.step(vote(sender, 2, 1, 1, True)) == [RequestVoteResponse(A, sender, 2, True, True)]
        assert (peer.node.term, peer.node.voted_for, peer.node.ticks_to_deadline()) == (1, None, left)

    def test_a_pre_vote_for_no_newer_term_is_refused_and_tells_the_term(self) -> None:
        peer = follower(1, term=4)
        assert peer.step(vote(B, 4, 1, 1, True)) == [RequestVoteResponse(A, B, 4, False, True)]
        assert peer.step(vote(B, 2, 1, 1, True)) == [RequestVoteResponse(A, B, 4, False, True)]

    def test_an_isolated_node_keeps_its_term_and_disturbs_nobody_on_return(self) -> None:
        shard = Lockstep(5)
        shard.elect("a")
        shard.cut("e")
        shard.tick(300)
        assert shard["e"].node.term == 1 and shard["e"].plays(Role.PRE_CANDIDATE)
        shard.heal()
        shard.tick(100)
        assert shard.leaders() == ["a"] and {p.node.term for p in shard.peers.values()} == {1}
        assert shard["e"].node.leader == A

    def test_a_candidate_that_gets_no_votes_asks_again_in_the_same_term(self) -> None:
        peer = follower()
        peer.tick_to_deadline()
        peer.step(*[RequestVoteResponse(x, A, 1, True, True) for x in (B, C)])
        for _ in range(5):
            peer.tick_to_deadline()
            assert peer.plays(Role.PRE_CANDIDATE) and peer.node.term == 1

    def test_answers_to_another_kind_of_vote_do_not_count(self) -> None:
        peer = follower()
        peer.tick_to_deadline()
        peer.step(*[RequestVoteResponse(x, A, 1, True, True) for x in (B, C)])
        peer.step(*[RequestVoteResponse(x, A, 2, True, True) for x in (B, C, D, E)])
        peer.step(*[RequestVoteResponse(x, A, 1, True, True) for x in (B, C, D, E)])
        assert peer.plays(Role.CANDIDATE)

    def test_a_grant_for_another_term_does_not_count(self) -> None:
        peer = follower(term=3)
        peer.tick_to_deadline()
        peer.step(*[RequestVoteResponse(x, A, 3, True, True) for x in (B, C, D, E)])
        assert peer.plays(Role.PRE_CANDIDATE)

    @pytest.mark.parametrize("logs", [[], [log_of(1, 1, 1), log_of(1, 1), log_of(1)]])
    def test_a_leader_is_found_after_the_old_one_is_gone(self, logs: list[list[Entry]]) -> None:
        shard = Lockstep(5, logs=logs, term=1)
        shard.elect("a")
        shard.cut("a")
        shard.tick(200)
        assert not shard["a"].plays(Role.LEADER)
        assert len(shard.leaders()) == 1

    def test_a_node_of_a_newer_term_is_brought_back_by_a_new_election(self) -> None:
        shard = Lockstep(3)
        shard.elect("a")
        shard["c"].hard_state = HardState(7)
        shard["c"].restart()
        shard.tick(150)
        assert len(shard.leaders()) == 1
        assert {p.node.term for p in shard.peers.values()} == {shard[shard.leaders()[0]].node.term}
        assert shard["c"].node.term >= 8


class TestThesis423Stickiness:
    """The thesis, 4.2.3."""

    @pytest.mark.parametrize("pre_vote", [True, False])
    def test_votes_are_ignored_while_the_leader_was_just_heard(self, pre_vote: bool) -> None:
        peer = follower(1)
        peer.step(Heartbeat(B, A, 1, 0, 0))
        peer.node.tick(14)
        assert peer.step(vote(C, 2, 9, 1, pre_vote)) == [] and peer.node.term == 1
        if peer.node.ticks_to_deadline() > 1:
            peer.node.tick()
            assert given(peer.step(vote(C, 2, 9, 1, pre_vote)))

    def test_a_leader_ignores_votes(self) -> None:
        peer = leader_of(follower(1))
        assert not [m for m in peer.step(vote(C, 9, 9, 8)) if isinstance(m, RequestVoteResponse)]
        assert peer.plays(Role.LEADER)

    def test_a_transfer_is_let_through(self) -> None:
        peer = follower(1)
        peer.step(Heartbeat(B, A, 1, 0, 0))
        assert peer.step(vote(C, 2, 1, 1, transfer=True)) == [RequestVoteResponse(A, C, 2, True, False)]

    def test_a_restarted_node_protects_nobody(self) -> None:
        peer = follower(1)
        peer.step(Heartbeat(B, A, 1, 0, 0))
        peer.restart()
        assert given(peer.step(vote(C, 2, 1, 1)))

    def test_partial_links_leave_one_steady_leader(self) -> None:
        shard = Lockstep(5)
        shard.passes = lambda m: {m.sender.name, m.receiver.name} in (
            {"a", "b"}, {"a", "c"}, {"b", "c"}, {"d", "b"}, {"e", "c"},
        )  # fmt: skip
        shard.tick(300)
        (leader,) = shard.leaders()
        term = shard[leader].node.term
        shard.tick(600)
        assert shard.leaders() == [leader] and shard[leader].node.term == term


class TestThesis62CheckQuorum:
    """The thesis, 6.2."""

    def test_a_leader_that_hears_no_quorum_steps_down_within_a_timeout(self) -> None:
        shard = Lockstep(5)
        peer = shard.elect("a")
        shard.cut("a", "b")
        shard.tick(29)
        assert peer.plays(Role.LEADER)
        shard.tick()
        assert not peer.plays(Role.LEADER) and peer.node.leader is None
        assert "lost_quorum" in peer.event_names() and "lost_leadership" in peer.event_names()

    def test_a_leader_that_is_heard_but_hears_nothing_steps_down(self) -> None:
        shard = Lockstep(5)
        shard.elect("a")
        shard.passes = lambda m: m.receiver.name != "a"
        shard.tick(31)
        assert not shard["a"].plays(Role.LEADER)
        shard.tick(100)
        assert len(shard.leaders()) == 1 and shard["b"].node.term <= 3

    def test_a_follower_that_cannot_answer_raises_no_term(self) -> None:
        shard = Lockstep(5)
        shard.elect("a")
        shard.passes = lambda m: m.sender.name != "e" and m.receiver.name != "e"
        shard.tick(100)
        shard.passes = lambda m: m.sender.name != "e"
        shard.tick(200)
        assert shard.leaders() == ["a"] and {p.node.term for p in shard.peers.values()} == {1}

    def test_a_leader_with_a_quorum_stays(self) -> None:
        shard = Lockstep(5)
        shard.elect("a")
        shard.cut("d", "e")
        shard.tick(300)
        assert shard.leaders() == ["a"] and shard["a"].node.term == 1

    def test_a_wake_up_is_due_when_the_quorum_would_be_lost(self) -> None:
        peer = leader_of(follower())
        for _ in range(20):
            peer.tick_to_deadline()
            peer.pump()
            if not peer.plays(Role.LEADER):
                break
        assert peer.plays(Role.FOLLOWER)


class TestThesis64ReadIndex:
    """The thesis, 6.4."""

    def test_a_new_leader_waits_for_an_entry_of_its_own_term(self) -> None:
        shard = Lockstep(3, logs=[log_of(1, 1)] * 3, term=1)
        shard.passes = lambda m: not isinstance(m, AppendEntriesResponse)
        peer = shard.elect("a")
        peer.node.read_index(1)
        shard.tick(3)
        assert peer.read_states == [] and leading(peer).reads.waiting == [1]
        shard.heal()
        shard.tick(10)
        assert [(s.context, s.read_index) for s in peer.read_states] == [(1, 3)]

    def test_a_read_needs_a_quorum_round_that_began_after_it(self) -> None:
        peer = leader_of(follower())
        peer.step(*[AppendEntriesResponse(x, A, 1, True, 1, 0, 0, 0) for x in (B, C)])
        peer.node.read_index(1)
        first = [m for m in peer.pump() if isinstance(m, Heartbeat)]
        assert len(first) == 4 and len({m.read_token for m in first}) == 1
        peer.node.read_index(2)
        assert peer.pump() == []
        old = first[0].read_token
        peer.step(HeartbeatResponse(B, A, 1, old, 1), HeartbeatResponse(B, A, 1, old, 1))
        assert peer.read_states == []
        second = peer.step(HeartbeatResponse(C, A, 1, old, 1))
        assert [s.context for s in peer.read_states] == [1]
        new = {m.read_token for m in second if isinstance(m, Heartbeat)}
        assert len(new) == 1 and old not in new
        peer.step(HeartbeatResponse(D, A, 1, old, 1), HeartbeatResponse(E, A, 1, old, 1))
        peer.step(HeartbeatResponse(D, A, 1, 0, 1), HeartbeatResponse(E, A, 1, 0, 1))
        assert [s.context for s in peer.read_states] == [1]
        peer.step(*[HeartbeatResponse(x, A, 1, new.copy().pop(), 1) for x in (D, E)])
        assert [s.context for s in peer.read_states] == [1, 2]

    def test_tokens_are_not_used_again_by_a_later_leadership(self) -> None:
        shard = Lockstep(3)
        tokens: list[tuple[NodeId, int, int]] = []

        def note(message: Message) -> bool:
            if isinstance(message, Heartbeat):
                tokens.append((message.sender, message.term, message.read_token))
            return True

        shard.passes = note
        for name in "aba":
            shard.elect(name).node.read_index(1)
            shard.deliver()
        of_a = {(term, token) for sender, term, token in tokens if sender == A and token}
        assert [token for _, token in sorted(of_a)] == [1, 2]

    def test_a_round_whose_heartbeats_were_lost_asks_again(self) -> None:
        shard = Lockstep(3)
        peer = shard.elect("a")
        shard.passes = lambda m: not isinstance(m, Heartbeat)
        peer.node.read_index(1)
        shard.deliver()
        shard.heal()
        peer.node.propose(commands(1), 0)
        shard.tick(5)
        assert [s.context for s in peer.read_states] == [1]

    def test_a_busy_leader_asks_again_although_appends_count_as_heartbeats(self) -> None:
        shard = Lockstep(3)
        peer = shard.elect("a")
        shard.passes = lambda m: not isinstance(m, Heartbeat)
        peer.node.read_index(1)
        shard.deliver()
        shard.heal()
        for _ in range(6):
            peer.node.propose(commands(1), 0)
            shard.tick()
        assert [s.context for s in peer.read_states] == [1]

    def test_reads_are_dropped_with_the_leadership(self) -> None:
        shard = Lockstep(3)
        peer = shard.elect("a")
        shard.cut("a")
        peer.node.read_index(1)
        shard.deliver()
        peer.node.read_index(2)
        shard.tick(40)
        assert peer.reads_dropped == [1, 2] and peer.read_states == []

    def test_a_single_voter_reads_by_itself(self) -> None:
        shard = Lockstep(1)
        peer = shard.elect("a")
        peer.node.read_index(5)
        shard.deliver()
        assert [(s.context, s.read_index) for s in peer.read_states] == [(5, 1)]

    def test_learners_confirm_nothing(self) -> None:
        peer = Peer(A, Configuration((A, B, C), (D, E)))
        peer.tick_to_deadline()
        peer.pump()
        peer.step(RequestVoteResponse(D, A, 1, True, True), RequestVoteResponse(E, A, 1, True, True))
        assert peer.plays(Role.PRE_CANDIDATE)
        peer.step(RequestVoteResponse(B, A, 1, True, True))
        peer.step(RequestVoteResponse(B, A, 1, True, False))
        peer.step(*[AppendEntriesResponse(x, A, 1, True, 1, 0, 0, 0) for x in (D, E)])
        assert peer.node.commit_index == 0
        peer.step(AppendEntriesResponse(B, A, 1, True, 1, 0, 0, 0))
        assert peer.node.commit_index == 1
        peer.node.read_index(1)
        peer.pump()
        peer.step(*[HeartbeatResponse(x, A, 1, 1, 1) for x in (D, E)])
        assert peer.read_states == []
        peer.step(HeartbeatResponse(B, A, 1, 1, 1))
        assert len(peer.read_states) == 1


class TestThesis1021ParallelWrite:
    """The thesis, 10.2.1."""

    def test_entries_leave_before_they_are_durable_here(self) -> None:
        peer = leader_of(follower())
        peer.step(*[AppendEntriesResponse(x, A, 1, True, 1, 0, 0, 0) for x in (B, C, D, E)])
        peer.node.propose(commands(3), 0)
        sent = peer.pump(persist=False)
        assert [len(m.entries) for m in sent if isinstance(m, AppendEntries)] == [3] * 4 and peer.write is not None

    def test_the_leader_counts_itself_only_once_its_write_is_durable(self) -> None:
        peer = leader_of(follower())
        peer.step(*[AppendEntriesResponse(x, A, 1, True, 1, 0, 0, 0) for x in (B, C)])
        peer.node.propose(commands(1), 0)
        peer.pump(persist=False)
        peer.step(*[AppendEntriesResponse(x, A, 1, True, 2, 0, 0, 0) for x in (B, C)], persist=False)
        assert peer.node.commit_index == 1
        peer.pump()
        assert peer.node.commit_index == 2

    def test_a_quorum_of_followers_commits_without_the_leaders_disk(self) -> None:
        peer = leader_of(follower())
        peer.step(*[AppendEntriesResponse(x, A, 1, True, 1, 0, 0, 0) for x in (B, C, D)])
        peer.node.propose(commands(1), 0)
        peer.pump(persist=False)
        peer.step(*[AppendEntriesResponse(x, A, 1, True, 2, 0, 0, 0) for x in (B, C, D)], persist=False)
        assert peer.node.commit_index == 2 and peer.committed[-1].index == 1
        peer.pump()
        assert peer.committed[-1].index == 2
