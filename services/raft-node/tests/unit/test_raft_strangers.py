"""Whose messages are heard: members, and strangers only as far as a node that missed changes needs it."""

from __future__ import annotations

from raft_node.entry import Entry, EntryKind, encode
from raft_node.raft.configuration import encode_configuration
from raft_node.raft.membership import with_learner, with_voter, without
from raft_node.raft.messages import (
    AppendEntries,
    AppendEntriesResponse,
    Heartbeat,
    HeartbeatResponse,
    ReadIndexResponse,
    RequestVote,
    RequestVoteResponse,
    TimeoutNow,
)
from raft_node.raft.types import Configuration, Role
from raft_node.raft.validity import TERMS_AHEAD_MAX
from raft_testing.lockstep import Lockstep, Peer, log_of, members

A, B, C, D, E = members(5)
THREE = Configuration((A, B, C))
FIVE = Configuration((A, B, C, D, E))


def steady(count: int = 3) -> tuple[Lockstep, Peer]:
    """A shard whose leader a has committed its first entry everywhere."""
    shard = Lockstep(count)
    peer = shard.elect("a")
    shard.tick(6)
    return shard, peer


def change_entry(index: int, term: int, configuration: Configuration) -> Entry:
    return encode(index, term, EntryKind.CONFIGURATION, index, encode_configuration(configuration))


HB = Heartbeat(B, A, 1, 0, 0)


class TestStrangers:
    """Nodes of a configuration that this node has still to learn of (the thesis, 4.1)."""

    def test_a_node_that_missed_every_change_is_brought_back_by_a_leader_that_it_does_not_know(self) -> None:
        shard, leader = steady()
        shard.passes = lambda m: C not in (m.sender, m.receiver)
        for node, former in ((D, B), (E, A)):
            shard.join(node)
            shard.change(leader, with_learner(leader.node.configuration, node))
            shard.change(leader, with_voter(leader.node.configuration, node))
            if node == D:
                leader.node.transfer_leadership(D)
                shard.tick(6)
                leader = shard["d"]
            shard.change(leader, without(leader.node.configuration, former))
        assert shard.leaders() == ["d"] and shard["d"].node.configuration == Configuration((C, D, E))
        assert shard["c"].node.configuration == THREE
        shard.cut("a", "b")
        shard.tick(100)
        assert shard["c"].log.stored == shard["d"].log.stored and shard["c"].node.leader == D
        assert shard["c"].node.configuration == Configuration((C, D, E))

    def test_it_votes_for_such_a_node_when_it_is_needed(self) -> None:
        late = Peer(C, THREE, log=log_of(1))
        entries = [*log_of(1), change_entry(2, 1, Configuration((C, D, E)))]
        shard = Lockstep(3)
        shard.peers = {
            "c": late,
            "d": Peer(D, THREE, log=entries, seed=2),
        }
        shard.tick(100)
        assert shard.leaders() == ["d"] and late.node.configuration == Configuration((C, D, E))

    def test_a_lost_first_append_to_a_node_that_knows_nothing_is_made_up_for(self) -> None:
        late = Peer(C, THREE, log=log_of(1))
        entries = [*log_of(1), change_entry(2, 1, Configuration((C, D, E)))]
        shard = Lockstep(3)
        shard.peers = {"c": late, "d": Peer(D, THREE, log=entries, seed=2), "e": Peer(E, THREE, log=entries, seed=3)}
        shard.passes = lambda m: C not in (m.sender, m.receiver)
        leader = shard.elect("d")
        leader.node.peer_unreachable(C)
        shard.passes = lambda m: m.sender != C
        shard.tick(5)
        assert late.terms == [1] and late.node.ignored_messages > 0
        shard.heal()
        shard.tick(40)
        assert late.node.leader == D and late.log.stored == leader.log.stored

    def test_a_candidate_that_did_not_ask_first_is_not_heard(self) -> None:
        peer = Peer(A, THREE, log=log_of(1))
        assert peer.step(RequestVote(D, A, 2, 1, 1, False)) == []
        assert peer.step(RequestVote(D, A, 2, 1, 0, True)) == [RequestVoteResponse(A, D, 1, False, True)]
        assert peer.step(RequestVote(D, A, 2, 1, 1, False)) == [], "it was refused"
        assert peer.step(RequestVote(D, A, 2, 1, 1, True)) == [RequestVoteResponse(A, D, 2, True, True)]
        assert peer.step(RequestVote(E, A, 2, 1, 1, False)) == [], "another one"
        assert peer.step(RequestVote(D, A, 2, 1, 1, False)) == [RequestVoteResponse(A, D, 2, True, False)]

    def test_one_that_asks_while_the_leader_is_heard_is_not_heard(self) -> None:
        peer = Peer(A, THREE, log=log_of(1))
        peer.step(HB)
        assert peer.step(RequestVote(D, A, 2, 9, 1, True), RequestVote(D, A, 2, 9, 1, False)) == []
        assert peer.step(RequestVote(D, A, 2, 9, 1, False, True)) == [] and peer.node.term == 1

    def test_what_they_answer_counts_for_nothing(self) -> None:
        peer = Peer(A, THREE, log=log_of(1))
        peer.tick_to_deadline()
        peer.pump()
        peer.step(RequestVoteResponse(D, A, 2, True, True), RequestVoteResponse(E, A, 2, True, True))
        assert peer.plays(Role.PRE_CANDIDATE)
        for answer in (
            RequestVoteResponse(D, A, 9, False, True),
            HeartbeatResponse(D, A, 9, 0, 1),
            AppendEntriesResponse(D, A, 9, False, 0, 0, 0, 0),
        ):
            peer.step(answer)
        assert peer.node.term == 1 and peer.node.ignored_messages == 5

    def test_the_heartbeats_of_a_leader_that_sent_entries_are_heard(self) -> None:
        peer = Peer(A, THREE, log=log_of(1))
        assert peer.step(Heartbeat(D, A, 2, 1, 0)) == []
        peer.step(AppendEntries(D, A, 2, 1, 1, 0, ()))
        assert peer.node.leader == D
        assert peer.step(Heartbeat(D, A, 2, 1, 0)) == [HeartbeatResponse(A, D, 2, 0, 1)]


class TestWhatCannotBe:
    """Terms and indexes that no correct node can have come to; whoever sends them is a member by name."""

    def test_a_term_that_no_number_of_elections_explains_is_never_taken_over(self) -> None:
        shard, leader = steady()
        term = leader.node.term
        far = term + TERMS_AHEAD_MAX + 1
        for message in (
            RequestVote(B, A, far, 9, term, False, True),
            RequestVote(B, A, (1 << 63) - 2, 9, term, False, True),
            RequestVoteResponse(B, A, far, False, False),
            AppendEntries(B, A, far, 0, 0, 0, ()),
            AppendEntriesResponse(B, A, far, True, 0, 0, 0, 0),
            Heartbeat(B, A, far, 0, 0),
            HeartbeatResponse(B, A, far, 0, 0),
            TimeoutNow(B, A, far),
            ReadIndexResponse(B, A, far, 1, 1),
        ):
            shard["a"].step(message)
            assert leader.node.term == term and leader.plays(Role.LEADER), message
            assert shard["a"].hard_state.term == term
        shard.tick(40)
        assert shard.leaders() == ["a"]

    def test_who_was_away_for_as_many_elections_as_there_can_be_is_heard(self) -> None:
        shard, leader = steady()
        far = leader.node.term + TERMS_AHEAD_MAX
        last, last_term = leader.node.last_index, leader.node.log.term(leader.node.last_index)
        shard["a"].step(RequestVote(B, A, far, last, last_term, False, True))
        assert shard["a"].node.term == far

    def test_a_commit_index_beyond_the_log_is_neither_stored_nor_shown(self) -> None:
        shard, leader = steady()
        follower = shard["b"]
        before = follower.node.commit_index
        follower.step(Heartbeat(A, B, leader.node.term, 1 << 50, 0))
        assert (follower.node.commit_index, follower.node.leader_commit_index) == (before, before)
        follower.restart()
        shard.tick(40)
        assert follower.node.commit_index == leader.node.commit_index == before
