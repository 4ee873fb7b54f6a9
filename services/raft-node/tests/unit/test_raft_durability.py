"""What must be durable before what leaves (figure 2 of the paper; thesis, 10.2.1)."""

from __future__ import annotations

from raft_node.entry import Entry
from raft_node.raft.messages import (
    AppendEntries,
    AppendEntriesResponse,
    Heartbeat,
    HeartbeatResponse,
    Message,
    RequestVote,
    RequestVoteResponse,
)
from raft_node.raft.types import Configuration, HardState, Role
from raft_testing.lockstep import Lockstep, Peer, commands, log_of, members

A, B, C = members(3)
THREE = Configuration((A, B, C))


def held_until_durable(peer: Peer, *messages: Message) -> list[Message]:
    """Steps; checks that nothing leaves before the write is durable; gives what leaves then."""
    assert peer.step(*messages, persist=False) == []
    assert peer.write is not None
    assert peer.pump(persist=False) == []
    return peer.pump()


def test_a_vote_leaves_when_term_and_vote_are_durable() -> None:
    peer = Peer(A, THREE)
    assert held_until_durable(peer, RequestVote(B, A, 1, 0, 0, False)) == [RequestVoteResponse(A, B, 1, True, False)]
    assert peer.hard_state == HardState(1, B, 0)


def test_a_vote_in_a_term_that_is_durable_already_waits_too() -> None:
    peer = Peer(A, THREE, hard_state=HardState(2))
    assert held_until_durable(peer, RequestVote(B, A, 2, 0, 0, False)) == [RequestVoteResponse(A, B, 2, True, False)]
    assert peer.hard_state == HardState(2, B, 0)


def test_a_crash_before_the_write_takes_the_vote_back_and_nobody_heard_of_it() -> None:
    peer = Peer(A, THREE)
    assert peer.step(RequestVote(B, A, 1, 0, 0, False), persist=False) == []
    peer.restart()
    assert peer.node.term == 0
    assert peer.step(RequestVote(C, A, 1, 0, 0, False)) == [RequestVoteResponse(A, C, 1, True, False)]


def test_an_acknowledgement_leaves_when_its_entries_are_durable() -> None:
    peer = Peer(A, THREE)
    answer = held_until_durable(peer, AppendEntries(B, A, 1, 0, 0, 0, log_of(1, 1)))
    assert answer == [AppendEntriesResponse(A, B, 1, True, 2, 0, 0, 0)]


def test_entries_that_come_during_a_write_wait_for_the_next_one() -> None:
    peer = Peer(A, THREE)
    peer.step(AppendEntries(B, A, 1, 0, 0, 0, log_of(1)), persist=False)
    peer.step(AppendEntries(B, A, 1, 1, 1, 0, log_of(1, 1)[1:]), persist=False)
    peer.step(AppendEntries(B, A, 1, 0, 0, 0, log_of(1)), persist=False)
    first = peer.write
    peer.persist()
    assert peer.pump(persist=False) == [AppendEntriesResponse(A, B, 1, True, 1, 0, 0, 0)]
    assert first is not None and len(first.entries) == 1
    assert peer.write is not None and len(peer.write.entries) == 1
    assert [m.match_index for m in peer.pump() if isinstance(m, AppendEntriesResponse)] == [2, 1]


def test_a_repeated_append_is_not_acknowledged_before_the_first_is_durable() -> None:
    peer = Peer(A, THREE)
    append = AppendEntries(B, A, 1, 0, 0, 0, log_of(1))
    peer.step(append, persist=False)
    assert peer.step(append, append, append, persist=False) == []
    assert len(peer.pump()) == 1, "the same answer once"


def test_nothing_waits_when_everything_is_durable() -> None:
    peer = Peer(A, THREE, log=log_of(1))
    peer.step(Heartbeat(B, A, 1, 0, 0))
    assert len(peer.step(AppendEntries(B, A, 1, 0, 0, 0, log_of(1)), persist=False)) == 1


def test_heartbeats_and_pre_votes_wait_for_no_disk() -> None:
    peer = Peer(A, THREE)
    peer.step(AppendEntries(B, A, 1, 0, 0, 0, log_of(1)), persist=False)
    assert peer.step(Heartbeat(B, A, 1, 0, 9), persist=False) == [HeartbeatResponse(A, B, 1, 9, 1)]
    peer.node.tick(15)
    (answer,) = [m for m in peer.step(RequestVote(C, A, 2, 1, 1, True), persist=False) if m.receiver == C]
    assert answer == RequestVoteResponse(A, C, 2, True, True)


def test_a_candidate_asks_and_counts_itself_once_its_vote_is_durable() -> None:
    peer = Peer(A, Configuration((A, B)))
    peer.tick_to_deadline()
    peer.pump()
    assert peer.step(RequestVoteResponse(B, A, 1, True, True), persist=False) == []
    assert peer.plays(Role.CANDIDATE)
    # The other one's vote is one of two: the own one is still on its way to the disk.
    peer.step(RequestVoteResponse(B, A, 1, True, False), persist=False)
    assert peer.plays(Role.CANDIDATE)
    sent = peer.pump()
    assert peer.plays(Role.LEADER) and peer.hard_state == HardState(1, A, 0)
    assert isinstance(sent[0], RequestVote) and isinstance(sent[-1], AppendEntries)


def test_a_lone_voter_leads_only_when_its_vote_is_durable() -> None:
    peer = Peer(A, Configuration((A,)))
    peer.tick_to_deadline()
    peer.pump(persist=False)
    assert peer.plays(Role.CANDIDATE)
    peer.persist()
    assert peer.plays(Role.LEADER)
    peer.pump(persist=False)
    assert peer.node.commit_index == 0
    peer.pump()
    assert peer.node.commit_index == 1


def test_a_truncation_during_a_write_is_in_the_next_write() -> None:
    peer = Peer(A, THREE, log=log_of(1))
    peer.step(AppendEntries(B, A, 2, 1, 1, 0, log_of(1, 2, 2, 2)[1:]), persist=False)
    peer.step(AppendEntries(C, A, 3, 2, 2, 0, log_of(1, 2, 3)[2:]), persist=False)
    assert peer.terms == [1, 2, 3]
    peer.persist()
    assert [e.term for e in peer.log.stored] == [1, 2, 2, 2] and peer.node.log.stable_index == 2
    answers = peer.pump()
    assert [e.term for e in peer.log.stored] == [1, 2, 3] and peer.node.log.stable_index == 3
    # The old leader's entries are gone, and so is the word for them.
    assert answers == [AppendEntriesResponse(A, C, 3, True, 3, 0, 0, 0)]


def test_a_truncation_below_what_is_in_memory() -> None:
    peer = Peer(A, THREE, log=log_of(1, 1, 2, 2, 2))
    peer.step(AppendEntries(B, A, 3, 2, 1, 0, log_of(1, 1, 3, 3)[2:]), persist=False)
    assert peer.terms == [1, 1, 3, 3] and peer.write is not None and peer.write.truncate_from == 3
    peer.pump()
    assert peer.log.stored == log_of(1, 1, 3, 3)


def test_entries_are_handed_out_only_when_durable_here() -> None:
    peer = Peer(A, THREE)
    peer.step(AppendEntries(B, A, 1, 0, 0, 2, log_of(1, 1)), persist=False)
    assert peer.node.commit_index == 2 and peer.committed == []
    peer.pump()
    assert [e.index for e in peer.committed] == [1, 2]


def test_the_commit_index_rides_along_with_a_write_and_is_found_again() -> None:
    shard = Lockstep(3)
    shard.elect("a").node.propose(commands(1), 0)
    shard.deliver()
    shard["a"].node.propose(commands(1), 0)
    shard.deliver()
    assert shard["b"].hard_state.commit_index == 2
    shard["b"].restart()
    assert shard["b"].node.commit_index == 2
    shard["b"].pump()
    assert [e.index for e in shard["b"].committed] == [1, 2]


def test_a_commit_index_beyond_the_log_is_clipped_at_the_start() -> None:
    peer = Peer(A, THREE, log=log_of(1, 1), hard_state=HardState(1, None, 9))
    assert peer.node.commit_index == 2


def test_no_write_for_a_new_commit_index_alone() -> None:
    peer = Peer(A, THREE, log=log_of(1))
    peer.step(Heartbeat(B, A, 1, 1, 0), persist=False)
    assert peer.node.commit_index == 1 and peer.write is None


def test_only_what_changed_is_written() -> None:
    peer = Peer(A, THREE)
    writes = []
    entries: list[Entry] = log_of(1, 1, 1)
    for i, commit in [(0, 0), (1, 0), (2, 2)]:
        peer.step(AppendEntries(B, A, 1, i, 1 if i else 0, commit, entries[i : i + 1]), persist=False)
        assert peer.write is not None
        writes.append(peer.write)
        peer.pump()
    assert [w.hard_state for w in writes] == [HardState(1, None, 0), None, HardState(1, None, 2)]
    assert [w.sequence for w in writes] == [1, 2, 3]
