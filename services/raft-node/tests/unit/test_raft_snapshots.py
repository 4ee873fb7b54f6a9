"""Snapshots and a log whose beginning goes, as far as the core has to do with them."""

from __future__ import annotations

import pytest

from raft_node.entry import EntryKind, encode
from raft_node.raft.config import RaftConfig
from raft_node.raft.configuration import encode_configuration
from raft_node.raft.leader import Leader
from raft_node.raft.log import RaftLog
from raft_node.raft.membership import with_learner
from raft_node.raft.messages import AppendEntries, AppendEntriesResponse, Heartbeat, HeartbeatResponse, Message
from raft_node.raft.progress import ProgressState
from raft_node.raft.types import Configuration, HardState, Role
from raft_testing.lockstep import Lockstep, MemoryLog, Peer, commands, log_of, members

A, B, C, D, E = members(5)
THREE = Configuration((A, B, C))


def behind() -> tuple[Lockstep, Peer]:
    """A shard whose leader a has dropped what c is lacking; c was just named."""
    shard = Lockstep(3, config=RaftConfig(cache_bytes_max=1))
    peer = shard.elect("a")
    shard.tick(6)
    shard.cut("c")
    for _ in range(10):
        peer.node.propose(commands(1), 0)
        shard.tick(1)
    peer.log.compact(8)
    shard.heal()
    shard.tick(30)
    return shard, peer


def leading(peer: Peer) -> Leader:
    assert peer.node.leadership is not None
    return peer.node.leadership


def appends(messages: list[Message]) -> list[tuple[int, int]]:
    return [(m.prev_log_index, len(m.entries)) for m in messages if isinstance(m, AppendEntries)]


class TestLeader:
    def test_a_peer_behind_the_log_is_named_once(self) -> None:
        shard, peer = behind()
        assert peer.snapshots_wanted == [C] and leading(peer).progress[C].state is ProgressState.SNAPSHOT
        shard.tick(60)
        assert peer.snapshots_wanted == [C] and shard["c"].node.leader == A

    def test_after_the_snapshot_the_peer_goes_on_from_there(self) -> None:
        shard, peer = behind()
        assert shard["c"].restore(9, 1, THREE)
        peer.node.snapshot_sent(C, 9)
        assert appends(peer.pump()) == [(9, 0)]
        shard.tick(20)
        assert shard["c"].node.commit_index == 11 and [e.index for e in shard["c"].log.stored] == [10, 11]
        assert [e.index for e in shard["c"].committed] == [10, 11]

    def test_a_snapshot_of_the_whole_log_is_confirmed_without_a_new_entry(self) -> None:
        """Otherwise a learner of an idle shard would never be known to have caught up."""
        shard, peer = behind()
        joined = shard.join(D)
        shard.change(peer, with_learner(THREE, D))
        last = peer.node.last_index
        assert joined.restore(last, 1, with_learner(THREE, D))
        peer.node.snapshot_sent(D, last)
        assert appends(peer.pump()) == [(last, 0)]
        # That one is lost; it is asked again.
        shard.tick(30)
        assert leading(peer).progress[D].match_index == last and leading(peer).caught_up(D)

    def test_a_snapshot_that_failed_is_wanted_again_once_the_peer_is_heard(self) -> None:
        _, peer = behind()
        peer.node.snapshot_failed(C)
        peer.pump()
        assert peer.snapshots_wanted == [C]
        peer.step(HeartbeatResponse(C, A, 1, 0, 1))
        assert peer.snapshots_wanted == [C, C]

    def test_a_snapshot_that_is_too_old_meanwhile_is_wanted_again(self) -> None:
        _, peer = behind()
        peer.log.compact(10)
        peer.node.snapshot_sent(C, 9)
        peer.pump()
        assert peer.snapshots_wanted == [C, C]

    def test_what_is_said_of_others_changes_nothing(self) -> None:
        shard, peer = behind()
        before = leading(peer).progress[B].next_index
        for node in (B, E):
            peer.node.snapshot_sent(node, 3)
            peer.node.snapshot_failed(node)
        shard["b"].node.snapshot_sent(C, 9)
        shard["b"].node.snapshot_failed(C)
        assert leading(peer).progress[B].next_index == before
        assert leading(peer).progress[B].state is ProgressState.REPLICATE and peer.snapshots_wanted == [C]

    def test_an_older_answer_does_not_end_the_wait_unless_the_log_reaches_back_that_far(self) -> None:
        _, peer = behind()
        peer.step(AppendEntriesResponse(C, A, 1, True, 4, 0, 0, 0))
        assert leading(peer).progress[C].state is ProgressState.SNAPSHOT
        assert appends(peer.step(AppendEntriesResponse(C, A, 1, True, 8, 0, 0, 0))) == [(8, 0)]

    def test_a_new_learner_of_a_log_whose_beginning_is_gone_gets_a_snapshot(self) -> None:
        shard, peer = behind()
        joined = shard.join(D)
        shard.change(peer, with_learner(THREE, D))
        assert peer.snapshots_wanted == [C, D]
        joined.restore(11, 1, THREE)
        peer.node.snapshot_sent(D, 11)
        shard.tick(20)
        assert joined.node.configuration == with_learner(THREE, D) and leading(peer).caught_up(D)

    def test_a_node_that_comes_back_is_named_though_it_was_denied_one_while_it_left(self) -> None:
        """Its progress must begin anew: what leaves is never named, and so would never get past this state."""
        shard, peer = behind()
        peer.node.snapshot_failed(C)
        shard.change(peer, Configuration((A, B)))
        assert leading(peer).progress[C].state is ProgressState.SNAPSHOT and peer.snapshots_wanted == [C]
        shard.change(peer, Configuration((A, B), (C,)))
        shard.tick(40)
        assert peer.snapshots_wanted == [C, C]

    def test_no_snapshot_for_a_node_that_was_removed(self) -> None:
        shard, peer = behind()
        peer.node.snapshot_failed(C)
        shard.cut("c")
        shard.change(peer, Configuration((A, B)))
        shard.heal()
        shard.tick(40)
        assert peer.snapshots_wanted == [C]

    def test_a_prefix_may_go_while_entries_are_under_way(self) -> None:
        shard = Lockstep(3, config=RaftConfig(cache_bytes_max=1))
        peer = shard.elect("a")
        for _ in range(10):
            peer.node.propose(commands(2), 0)
            shard.deliver()
            if peer.log.last_index > peer.log.first_index:
                peer.log.compact(peer.node.applied_index)
            peer.node.validate()
        shard.tick(10)
        assert {x.node.commit_index for x in shard.peers.values()} == {21} and peer.log.first_index == 22
        peer.node.propose(commands(1), 0)
        shard.tick(10)
        assert {x.node.applied_index for x in shard.peers.values()} == {22}


class TestFollower:
    def test_a_snapshot_takes_the_place_of_the_log(self) -> None:
        peer = Peer(A, THREE, log=log_of(1, 1))
        four = Configuration((A, B, C), (D,))
        assert peer.restore(7, 2, four)
        node = peer.node
        assert (node.commit_index, node.applied_index, node.last_index, node.term) == (7, 7, 7, 2)
        assert node.configuration == four == node.applied_configuration and node.configuration_index == 0
        peer.pump()
        assert peer.hard_state.term == 2 and peer.event_names()[-2:] == ["restored", "configuration_adopted"]
        new = encode(8, 3, EntryKind.NOOP, 8)
        assert peer.step(AppendEntries(B, A, 3, 7, 2, 8, [new])) == [AppendEntriesResponse(A, B, 3, True, 8, 0, 0, 0)]
        assert peer.log.stored == [new] and peer.committed == [new]
        peer.restart(7)
        assert peer.node.last_index == 8 and peer.node.log.term(7) == 2

    @pytest.mark.parametrize("index", [0, 1, 2])
    def test_a_snapshot_that_brings_nothing_new_is_refused(self, index: int) -> None:
        peer = Peer(A, THREE, log=log_of(1, 1, 1), hard_state=HardState(1, None, 2))
        peer.pump()
        assert not peer.node.restore(index, 1, Configuration((A,)))
        assert peer.node.configuration == THREE and peer.node.last_index == 3 and peer.node.applied_index == 2

    def test_a_leader_takes_none(self) -> None:
        shard = Lockstep(3)
        peer = shard.elect("a")
        assert not peer.node.restore(9, 9, THREE) and peer.plays(Role.LEADER)

    def test_a_candidate_gives_up_its_campaign(self) -> None:
        peer = Peer(A, THREE, log=log_of(1))
        peer.tick_to_deadline()
        assert peer.plays(Role.PRE_CANDIDATE) and peer.restore(4, 1, THREE)
        assert peer.plays(Role.FOLLOWER)

    def test_entries_behind_it_stay_when_index_and_term_match(self) -> None:
        peer = Peer(A, THREE, log=log_of(1, 1, 2, 2, 2))
        assert peer.restore(3, 2, THREE)
        assert peer.node.last_index == 5 and [e.index for e in peer.log.stored] == [4, 5]
        assert peer.step(AppendEntries(B, A, 2, 5, 2, 5, ())) == [AppendEntriesResponse(A, B, 2, True, 5, 0, 0, 0)]
        assert [e.index for e in peer.committed] == [4, 5]

    def test_entries_behind_it_go_when_they_do_not_match(self) -> None:
        peer = Peer(A, THREE, log=log_of(1, 1, 2, 2, 2))
        assert peer.restore(3, 1, THREE)
        assert peer.node.last_index == 3 and peer.log.stored == []
        new = encode(4, 3, EntryKind.NOOP, 9)
        peer.step(AppendEntries(B, A, 3, 3, 1, 3, [new]))
        assert peer.log.stored == [new]

    def test_changes_behind_it_stay_with_their_entries(self) -> None:
        change = encode(3, 1, EntryKind.CONFIGURATION, 3, encode_configuration(with_learner(THREE, D)))
        for term, learners, index in ((1, (D,), 3), (2, (), 0)):
            peer = Peer(A, THREE, log=[*log_of(1, 1), change], hard_state=HardState(2))
            assert peer.node.configuration_index == 3
            assert peer.restore(2, term, THREE)
            assert peer.node.configuration.learners == learners and peer.node.configuration_index == index

    def test_a_write_under_way_ends_as_if_it_had_not_been(self) -> None:
        peer = Peer(A, THREE)
        peer.step(AppendEntries(B, A, 1, 0, 0, 0, log_of(1, 1, 1)), persist=False)
        assert peer.write is not None and peer.restore(2, 2, THREE)
        assert peer.node.log.stable_index == 2 and peer.log.stored == []
        new = encode(3, 2, EntryKind.NOOP, 9)
        peer.step(AppendEntries(C, A, 2, 2, 2, 3, [new]))
        assert peer.log.stored == [new] and peer.committed == [new]

    def test_a_write_under_way_that_holds_the_snapshots_last_entry_stays(self) -> None:
        peer = Peer(A, THREE)
        peer.step(AppendEntries(B, A, 1, 0, 0, 0, log_of(1, 1, 1)), persist=False)
        assert peer.restore(2, 1, THREE)
        assert peer.node.last_index == peer.node.log.stable_index == 3 and [e.index for e in peer.log.stored] == [3]
        assert [m.match_index for m in peer.pump() if isinstance(m, AppendEntriesResponse)] == [3]

    def test_entries_in_memory_behind_the_snapshot_are_still_written(self) -> None:
        peer = Peer(A, THREE)
        peer.step(AppendEntries(B, A, 1, 0, 0, 0, log_of(1)), persist=False)
        peer.step(AppendEntries(B, A, 1, 1, 1, 0, log_of(1, 1, 1, 1)[1:]), persist=False)
        assert peer.restore(3, 1, THREE)
        assert peer.log.stored == [] and peer.node.last_index == 4
        peer.pump()
        assert [e.index for e in peer.log.stored] == [4]

    def test_entries_that_no_write_has_taken_yet_are_written_from_the_snapshot_on(self) -> None:
        peer = Peer(A, THREE, log=log_of(1))
        peer.node.step(AppendEntries(B, A, 1, 1, 1, 0, log_of(1, 1, 1, 1)[1:]))
        assert peer.restore(3, 1, THREE) and peer.log.stored == []
        peer.pump()
        assert [e.index for e in peer.log.stored] == [4]

    def test_the_store_may_take_its_time_to_follow(self) -> None:
        peer = Peer(A, THREE, log=log_of(1, 1))
        assert peer.node.restore(7, 2, THREE)
        assert peer.node.log.first_index == 8 and peer.node.log.term(7) == 2
        answers = peer.step(
            AppendEntries(B, A, 2, 7, 1, 7, ()), AppendEntries(B, A, 2, 7, 2, 7, ()), Heartbeat(B, A, 2, 7, 0),
            persist=False,
        )  # fmt: skip
        peer.node.validate()
        assert [m.last_log_index for m in answers if isinstance(m, HeartbeatResponse)] == [7]

    def test_no_answer_rests_on_a_snapshot_before_it_is_in_force(self) -> None:
        """A crash between the core's consent and the driver's switch would take back what such an answer promised."""
        peer = Peer(A, THREE, log=log_of(1, 1), hard_state=HardState(2))
        assert peer.node.restore(7, 2, THREE)
        peer.node.step(AppendEntries(B, A, 2, 7, 2, 7, ()))
        ready = peer.node.ready(writer_idle=False)
        assert ready is not None and not ready.messages and ready.write is None
        peer.log.reset(7, 2)
        assert peer.pump() == [AppendEntriesResponse(A, B, 2, True, 7, 0, 0, 0)]

    def test_what_an_older_leader_left_behind_it_goes_with_the_next_write(self) -> None:
        peer = Peer(A, THREE, log=log_of(1, 1, 1, 1, 1, 1))
        # While the new term is written, this log loses its end, which the stored one still has.
        peer.step(Heartbeat(B, A, 2, 0, 0), persist=False)
        peer.step(AppendEntries(B, A, 2, 2, 1, 0, log_of(1, 1, 2)[2:]), persist=False)
        assert peer.node.last_index == 3 and peer.restore(4, 1, THREE)
        assert [e.index for e in peer.log.stored] == [5, 6] and peer.node.last_index == 4
        peer.step(Heartbeat(C, A, 3, 4, 0))
        assert peer.hard_state.term == 3
        new = encode(5, 3, EntryKind.NOOP, 9)
        peer.step(AppendEntries(C, A, 3, 4, 1, 5, [new]))
        assert peer.log.stored == [new] and peer.committed[-1] == new

    def test_what_was_handed_out_before_is_void(self) -> None:
        peer = Peer(A, THREE)
        peer.step(AppendEntries(B, A, 1, 0, 0, 1, log_of(1)), persist=False)
        peer.persist()
        peer.pump(apply=False)
        assert peer.restore(5, 1, THREE)
        with pytest.raises(AssertionError):
            peer.node.applied(1)
        peer.step(AppendEntries(B, A, 1, 5, 1, 6, [encode(6, 1, EntryKind.NOOP, 6)]))
        assert [e.index for e in peer.committed] == [6]

    def test_log_time_goes_on_from_the_snapshots(self) -> None:
        peer = Peer(A, Configuration((A,)))
        assert peer.node.restore(5, 1, Configuration((A,)), timestamp_us=70)
        peer.log.reset(5, 1)
        peer.tick_to_deadline()
        peer.pump()
        peer.node.propose(commands(1), 30)
        peer.pump()
        assert [e.timestamp_us for e in peer.log.stored] == [70, 70]

    def test_a_log_that_begins_behind_the_state_goes_on_with_its_time(self) -> None:
        log = RaftLog(MemoryLog((), first_index=6, previous_term=1), 5, 5, 1000, timestamp_us=70)
        assert log.last_timestamp_us == 70 and log.last_index == 5

    def test_a_crash_before_the_snapshots_term_is_durable(self) -> None:
        peer = Peer(A, THREE)
        assert peer.restore(5, 3, THREE)
        peer.restart(5)
        assert peer.hard_state.term == 0 and (peer.node.term, peer.node.voted_for) == (3, None)
        peer.pump()
        assert peer.hard_state.term == 3

    def test_a_node_learns_from_a_snapshot_that_it_was_removed(self) -> None:
        peer = Peer(A, THREE)
        assert peer.restore(9, 1, Configuration((B, C)))
        peer.pump()
        assert peer.plays(Role.LEARNER) and "removed" in peer.event_names()

    def test_appends_from_before_the_snapshot_are_answered_from_what_is_committed(self) -> None:
        peer = Peer(A, THREE)
        peer.restore(9, 1, THREE)
        assert peer.step(AppendEntries(B, A, 1, 0, 0, 0, log_of(1, 1))) == [
            AppendEntriesResponse(A, B, 1, True, 9, 0, 0, 0)
        ]
        assert peer.log.stored == []

    def test_a_follower_that_was_far_behind_answers_heartbeats_all_along(self) -> None:
        peer = Peer(A, THREE)
        peer.restore(9, 1, THREE)
        assert HeartbeatResponse(A, B, 1, 0, 9) in peer.step(Heartbeat(B, A, 1, 0, 0))


class TestSlowestHealthyMatch:
    def test_only_a_leader_knows(self) -> None:
        shard = Lockstep(3)
        peer = shard.elect("a")
        shard.tick(6)
        assert peer.node.slowest_healthy_match == 1
        assert shard["b"].node.slowest_healthy_match is None

    def test_a_peer_that_is_not_heard_or_waits_for_a_snapshot_holds_nothing(self) -> None:
        shard, peer = behind()
        leader = leading(peer)
        leader.progress[C].match_index = 1
        assert leader.progress[C].state is ProgressState.SNAPSHOT
        assert peer.node.slowest_healthy_match == leader.progress[B].match_index == 11
        leader.progress[C].snapshot_failed()
        assert peer.node.slowest_healthy_match == 1
        shard.cut("c")
        shard.tick(40)
        assert peer.node.slowest_healthy_match == 11
