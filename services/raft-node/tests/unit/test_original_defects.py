"""The defects of the project that this one took its idea from, each as a test of the core (or of the messages).

They are numbered as in the list of them. 7 (redirects without an address) and the other half of 9 (one put after the
other) concern the services: see test_doug_service.py beside this, and test_original_defects.py of the facade.
"""

from __future__ import annotations

from raft_node.entry import decode
from raft_node.raft.messages import AppendEntries, AppendEntriesResponse, Heartbeat, RequestVote, RequestVoteResponse
from raft_node.raft.types import Configuration, HardState, Role
from raft_testing.lockstep import Lockstep, Peer, commands, log_of, members

A, B, C = members(3)
THREE = Configuration((A, B, C))


def test_defect_1_a_vote_is_remembered_within_its_term() -> None:
    peer = Peer(A, THREE)
    first = peer.step(RequestVote(B, A, 1, 0, 0, False))
    second = peer.step(RequestVote(C, A, 1, 0, 0, False))
    assert first == [RequestVoteResponse(A, B, 1, True, False)]
    assert second == [RequestVoteResponse(A, C, 1, False, False)]
    assert peer.hard_state == HardState(1, B, 0)


def test_defect_2_a_refused_vote_deposes_nobody() -> None:
    shard = Lockstep(3)
    leader = shard.elect("a")
    for term in (1, 2, 50):
        leader.step(RequestVote(B, A, term, 0, 0, False), RequestVote(B, A, term, 0, 0, True))
        assert leader.plays(Role.LEADER) and leader.node.term == 1
    candidate = Peer(A, THREE, log=log_of(1))
    candidate.tick_to_deadline()
    candidate.step(RequestVoteResponse(B, A, 2, True, True))
    assert candidate.plays(Role.CANDIDATE)
    (answer,) = candidate.step(RequestVote(C, A, 2, 0, 0, False))
    assert isinstance(answer, RequestVoteResponse) and not answer.granted
    assert candidate.plays(Role.CANDIDATE)


def test_defect_3_a_repeated_or_reordered_append_truncates_nothing() -> None:
    peer = Peer(A, THREE)
    entries = log_of(1, 1, 1, 1)
    for part in (entries[:2], entries, entries[:1], entries[:3], []):
        peer.step(AppendEntries(B, A, 1, 0, 0, 0, part))
    assert peer.log.stored == entries
    peer.step(AppendEntries(B, A, 1, 1, 1, 0, entries[1:2]))
    assert peer.log.stored == entries


def test_defect_4_the_first_entry_of_an_empty_log_is_accepted() -> None:
    peer = Peer(A, THREE)
    assert (peer.node.last_index, peer.node.log.last_term) == (0, 0)
    answer = peer.step(AppendEntries(B, A, 1, 0, 0, 0, log_of(1)))
    assert answer == [AppendEntriesResponse(A, B, 1, True, 1, 0, 0, 0)]
    assert peer.log.stored == log_of(1)


def test_defect_5_the_commit_index_stays_within_the_last_new_entry() -> None:
    peer = Peer(A, THREE, log=log_of(1, 1, 1))
    peer.step(AppendEntries(B, A, 1, 0, 0, 99, log_of(1, 1)))
    assert peer.node.commit_index == 2
    peer.step(AppendEntries(B, A, 1, 0, 0, 99, ()))
    assert peer.node.commit_index == 2
    assert [entry.index for entry in peer.committed] == [1, 2]


def test_defect_5_a_heartbeat_beyond_the_log_commits_nothing() -> None:
    peer = Peer(A, THREE, log=log_of(1, 1))
    peer.step(Heartbeat(B, A, 1, 3, 0))
    assert peer.node.commit_index == 0
    peer.step(Heartbeat(B, A, 1, 2, 0))
    assert peer.node.commit_index == 2


def test_defect_6_term_vote_and_log_outlive_a_restart() -> None:
    shard = Lockstep(3)
    shard.elect("a").node.propose(commands(5), 1)
    shard.deliver()
    before = {name: (p.node.term, p.node.voted_for, p.terms) for name, p in shard.peers.items()}
    assert before["a"] == (1, A, [1] * 6)
    for peer in shard.peers.values():
        peer.restart()
    assert before == {name: (p.node.term, p.node.voted_for, p.terms) for name, p in shard.peers.items()}
    shard.elect("b")
    shard.tick(10)
    assert all(len(peer.committed) == 7 for peer in shard.peers.values())


def test_defect_8_an_entry_carries_its_index() -> None:
    shard = Lockstep(3)
    assert shard.elect("a").node.propose(commands(2), 1) == (2, 1)
    shard.deliver()
    stored = shard["c"].log.stored
    assert [(e.index, e.term) for e in stored] == [(1, 1), (2, 1), (3, 1)]
    assert [decode(e.data) for e in stored] == stored


def test_defect_9_proposals_that_come_together_travel_together() -> None:
    shard = Lockstep(5)
    leader = shard.elect("a")
    before = shard.delivered["AppendEntries"]
    leader.node.propose(commands(100), 1)
    shard.deliver()
    assert leader.node.commit_index == 101
    assert shard.delivered["AppendEntries"] - before == 4, "one message for each follower, not one for each put"
