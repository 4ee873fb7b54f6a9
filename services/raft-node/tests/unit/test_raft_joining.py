"""A node that starts with nothing: it waits to be admitted, and only what a leader sends makes it a member."""

from __future__ import annotations

import pytest

from raft_node.entry import EntryKind, encode
from raft_node.raft.configuration import ConfigurationError, decode_configuration, encode_configuration
from raft_node.raft.membership import with_learner, with_voter, without
from raft_node.raft.messages import (
    AppendEntries,
    AppendEntriesResponse,
    Heartbeat,
    RequestVote,
    RequestVoteResponse,
)
from raft_node.raft.types import NO_MEMBERS, Configuration, HardState, NodeId, Role
from raft_testing.lockstep import Lockstep, Peer, commands, leading, log_of, members

A, B, C, D = members(4)
THREE = Configuration((A, B, C))


def with_first_entry() -> Lockstep:
    """A shard of three whose log begins as a real one does: with its first configuration."""
    first = encode(1, 1, EntryKind.CONFIGURATION, 1, encode_configuration(THREE))
    shard = Lockstep(3, logs=[[first], [first], [first]], term=1)
    shard.elect("a")
    shard.tick(6)
    return shard


class TestAddresses:
    """Addresses travel with the configuration."""

    FOUR = with_learner(THREE, D, "10.0.0.4:7000")

    def test_golden_bytes(self) -> None:
        configuration = Configuration((NodeId("a", 7),), (NodeId("b", 8),), (("b", "h:1"),))
        golden = bytes.fromhex("02 0100 0100 0700000000000000 0100 61 0000 0800000000000000 0100 62 0300 683a31")
        assert encode_configuration(configuration) == golden
        assert decode_configuration(golden) == configuration

    def test_they_stay_with_their_member(self) -> None:
        assert self.FOUR.addresses == (("d", "10.0.0.4:7000"),)
        voter = with_voter(self.FOUR, D)
        assert voter == Configuration((A, B, C, D), (), (("d", "10.0.0.4:7000"),))
        assert without(voter, A).addresses == voter.addresses
        assert without(voter, D) == THREE

    def test_without_any_the_first_format_is_written(self) -> None:
        assert encode_configuration(THREE)[0] == 1
        assert encode_configuration(self.FOUR)[0] == 2

    def test_anything_else_is_refused(self) -> None:
        data = encode_configuration(self.FOUR)
        for bad in (*[data[:n] for n in range(len(data))], data + b"\0", b"\x03" + data[1:]):
            with pytest.raises(ConfigurationError):
                decode_configuration(bad)
        with pytest.raises(ConfigurationError, match="without an address"):
            decode_configuration(bytes.fromhex("02 0100 0000 0700000000000000 0100 61 0000"))
        for addresses in ((("x", "h:1"),), (("b", "h:1"), ("a", "h:2")), (("a", ""),), (("a", "h" * 1025),)):
            with pytest.raises(ConfigurationError):
                encode_configuration(Configuration((A, B), (), addresses))


class TestJoining:
    """A start without a log and without members."""

    def test_it_never_campaigns(self) -> None:
        peer = Peer(D, NO_MEMBERS)
        for _ in range(50):
            peer.tick_to_deadline()
            assert peer.pump() == []
        assert peer.plays(Role.LEARNER) and peer.node.term == 0

    def test_it_gives_no_vote_to_whoever_did_not_ask_first(self) -> None:
        peer = Peer(D, NO_MEMBERS)
        assert peer.step(RequestVote(A, D, 5, 9, 4, False), RequestVote(A, D, 5, 9, 4, False, True)) == []
        assert peer.node.term == 0 and peer.node.voted_for is None

    def test_its_votes_count_for_nobody(self) -> None:
        peer = Peer(A, THREE, log=log_of(1))
        peer.tick_to_deadline()
        peer.pump()
        peer.step(RequestVoteResponse(D, A, 2, True, True))
        assert peer.plays(Role.PRE_CANDIDATE)

    def test_heartbeats_alone_do_not_bind_it(self) -> None:
        peer = Peer(D, NO_MEMBERS)
        assert peer.step(Heartbeat(A, D, 3, 1, 0)) == [] and peer.node.leader is None

    def test_nobody_can_propose_to_have_no_members(self) -> None:
        with pytest.raises(ConfigurationError):
            encode_configuration(NO_MEMBERS)
        assert NO_MEMBERS.voters == ()

    def test_the_leader_that_admits_it_sends_the_log(self) -> None:
        shard = with_first_entry()
        peer = shard["a"]
        joiner = shard.join(D)
        joiner.configuration = NO_MEMBERS
        joiner.restart()
        shard.tick(40)
        assert joiner.node.last_index == 0
        shard.change(peer, with_learner(peer.node.configuration, D, "h:4"))
        shard.tick(40)
        assert joiner.log.stored == peer.log.stored and joiner.node.leader == A
        assert joiner.node.configuration == Configuration((A, B, C), (D,), (("d", "h:4"),))
        assert "removed" not in joiner.event_names(), "the configurations before its own do not speak of it"
        assert leading(peer).caught_up(D)
        shard.change(peer, with_voter(peer.node.configuration, D))
        assert joiner.plays(Role.FOLLOWER)

    def test_a_crash_on_the_way_changes_nothing(self) -> None:
        shard = with_first_entry()
        peer = shard["a"]
        joiner = shard.join(D)
        joiner.configuration = NO_MEMBERS
        joiner.restart()
        shard.change(peer, with_learner(peer.node.configuration, D))
        joiner.restart()
        shard.tick(60)
        assert joiner.log.stored == peer.log.stored and joiner.plays(Role.LEARNER)

    def test_who_was_a_member_is_told_that_it_was_removed(self) -> None:
        shard = with_first_entry()
        peer = shard["a"]
        shard.change(peer, Configuration((A, B)))
        shard.tick(20)
        assert shard["c"].event_names().count("removed") == 1 and shard["c"].plays(Role.LEARNER)
        assert not shard["c"].node.is_member and shard["b"].node.is_member

    def test_a_removal_that_comes_with_its_commit_is_told_all_the_same(self) -> None:
        removal = encode(2, 1, EntryKind.CONFIGURATION, 2, encode_configuration(Configuration((A, B))))
        peer = Peer(C, THREE, log=log_of(1))
        (answer,) = peer.step(AppendEntries(A, C, 1, 1, 1, 2, (removal,)))
        assert isinstance(answer, AppendEntriesResponse) and answer.match_index == 2
        names = peer.event_names()
        assert (names.count("configuration_committed"), names.count("removed")) == (1, 1)
        assert peer.plays(Role.LEARNER) and peer.hard_state.commit_index == 2
        peer.restart()
        peer.tick_to_deadline()
        assert peer.pump() == [], "it still knows after a restart"


class TestLostLog:
    """A disk that went back in time under the same incarnation: a restored copy, an emptied volume."""

    def test_a_leader_that_counts_on_more_than_there_is_gives_it_away(self) -> None:
        shard = with_first_entry()
        victim = shard["b"]
        acknowledged = victim.node.last_index
        assert leading(shard["a"]).progress[B].match_index == acknowledged
        del victim.log.stored[1:]
        victim.hard_state = HardState(1)
        victim.restart()
        shard.tick(10)
        lost = [event for event in victim.events if event.name == "log_lost"]
        assert lost and lost[0].fields == {"acknowledged": acknowledged, "last_index": 1}

    def test_a_log_that_merely_lags_does_not(self) -> None:
        shard = with_first_entry()
        shard.passes = lambda m: B not in (m.sender, m.receiver)
        for _ in range(5):
            shard["a"].node.propose(commands(1), 0)
            shard.tick(10)
        shard.heal()
        shard["b"].restart()
        shard.tick(60)
        assert shard["b"].log.stored == shard["a"].log.stored
        assert "log_lost" not in shard["b"].event_names()
