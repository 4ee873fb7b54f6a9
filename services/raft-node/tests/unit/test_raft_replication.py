"""The leader's windows, probes, heartbeats, notices and bounds."""

from __future__ import annotations

from collections import Counter

import pytest

from raft_node.entry import HEADER_BYTES
from raft_node.errors import OverloadedError
from raft_node.raft.config import RaftConfig
from raft_node.raft.leader import Leader
from raft_node.raft.messages import (
    AppendEntries,
    AppendEntriesResponse,
    Heartbeat,
    HeartbeatResponse,
    Message,
    RequestVote,
    RequestVoteResponse,
)
from raft_node.raft.progress import Progress, ProgressState
from raft_node.raft.types import Configuration, HardState, NodeId, Role
from raft_testing.lockstep import Lockstep, MemoryLog, Peer, commands, log_of, members

A, B, C, D, E = members(5)


def leading(peer: Peer) -> Leader:
    assert peer.node.leadership is not None
    return peer.node.leadership


def progress(peer: Peer, node: NodeId = B) -> Progress:
    return leading(peer).progress[node]


def to(messages: list[Message], node: NodeId) -> list[Message]:
    return [message for message in messages if message.receiver == node]


def appends(messages: list[Message], node: NodeId = B) -> list[tuple[int, int]]:
    """The AppendEntries to a node: (previous index, count)."""
    return [(m.prev_log_index, len(m.entries)) for m in to(messages, node) if isinstance(m, AppendEntries)]


def acknowledge(peer: Peer, index: int, node: NodeId = B) -> list[Message]:
    return peer.step(AppendEntriesResponse(node, A, peer.node.term, True, index, 0, 0, 0))


def steady(config: RaftConfig | None = None, count: int = 3) -> tuple[Lockstep, Peer]:
    """A shard whose leader a has committed its first entry everywhere."""
    shard = Lockstep(count, config=config)
    peer = shard.elect("a")
    shard.tick(6)
    return shard, peer


class TestWindow:
    def test_what_arrives_meanwhile_is_the_next_batch(self) -> None:
        _, peer = steady()
        peer.node.propose(commands(1), 0)
        assert appends(peer.pump()) == [(1, 1)]
        for _ in range(5):
            peer.node.propose(commands(2), 0)
            assert peer.pump() == []
        assert appends(acknowledge(peer, 2)) == [(2, 10)]
        assert appends(acknowledge(peer, 12)) == []

    def test_a_wider_window_runs_ahead(self) -> None:
        _, peer = steady(RaftConfig(inflight_appends_max=3))
        sent = []
        for _ in range(5):
            peer.node.propose(commands(2), 0)
            sent += appends(peer.pump())
        assert sent == [(1, 2), (3, 2), (5, 2)]
        assert appends(acknowledge(peer, 5)) == [(7, 4)]
        assert len(progress(peer).inflights) == 2

    def test_the_window_is_bounded_in_bytes(self) -> None:
        _, peer = steady(RaftConfig(inflight_appends_max=10, inflight_bytes_max=2500))
        sent = []
        for _ in range(5):
            peer.node.propose(commands(1, size=1000), 0)
            sent += appends(peer.pump())
        assert sent == [(1, 1), (2, 1), (3, 1)]

    def test_an_append_is_bounded_in_bytes_but_carries_one_entry_at_least(self) -> None:
        _, peer = steady(RaftConfig(append_bytes_max=3 * (HEADER_BYTES + 1000)))
        peer.node.propose(commands(5, size=1000), 0)
        assert appends(peer.pump()) == [(1, 3)]
        assert appends(acknowledge(peer, 4)) == [(4, 2)]
        peer.node.propose(commands(2, size=9000), 0)
        assert appends(acknowledge(peer, 6)) == [(6, 1)]

    def test_peers_at_the_same_place_share_the_same_entries(self) -> None:
        _, peer = steady(count=5)
        peer.node.propose(commands(4), 0)
        entries = [m.entries for m in peer.pump() if isinstance(m, AppendEntries)]
        assert len(entries) == 4 and all(e is entries[0] for e in entries)

    def test_a_slow_peer_is_fed_from_the_stored_log(self) -> None:
        shard, peer = steady(RaftConfig(cache_bytes_max=4000, append_bytes_max=2000))
        shard.cut("c")
        for _ in range(30):
            peer.node.propose(commands(3, size=100), 0)
            shard.deliver()
        assert peer.node.log._offset > 50, "old entries have left the memory"
        shard.heal()
        reads = peer.log.reads
        shard.tick(10)
        assert shard["c"].log.stored == peer.log.stored and peer.log.reads > reads


class TestLoss:
    def test_a_lost_append_is_sent_again_after_a_heartbeat_shows_it(self) -> None:
        shard, peer = steady()
        shard.passes = lambda m: not isinstance(m, AppendEntries)
        peer.node.propose(commands(2), 0)
        shard.deliver()
        shard.heal()
        shard.tick(6)
        assert peer.node.commit_index == 3 and shard["b"].terms == [1, 1, 1]
        assert progress(peer).state is ProgressState.REPLICATE

    def test_a_lost_acknowledgement_does_not_jam_the_window(self) -> None:
        shard, peer = steady()
        shard.passes = lambda m: not isinstance(m, AppendEntriesResponse)
        peer.node.propose(commands(2), 0)
        shard.deliver()
        shard.heal()
        shard.tick(21)
        assert peer.node.commit_index == 3
        peer.node.propose(commands(1), 0)
        shard.deliver()
        assert peer.node.commit_index == 4

    def test_an_acknowledgement_that_waits_for_a_disk_is_given_time(self) -> None:
        _, peer = steady()
        peer.node.propose(commands(2), 0)
        peer.pump()
        peer.node.tick(14)
        peer.step(HeartbeatResponse(B, A, 1, 0, 3))
        assert progress(peer).state is ProgressState.REPLICATE
        peer.node.tick(1)
        sent = peer.step(HeartbeatResponse(B, A, 1, 0, 3))
        assert appends(sent) == [(1, 0)] and progress(peer).state is ProgressState.PROBE

    def test_after_a_loss_the_first_append_carries_no_entries(self) -> None:
        _, peer = steady()
        peer.node.propose(commands(50), 0)
        peer.pump()
        peer.node.tick(5)
        assert appends(peer.step(HeartbeatResponse(B, A, 1, 0, 1))) == [(1, 0)]
        assert appends(acknowledge(peer, 1)) == [(1, 50)]

    def test_a_lost_probe_is_repeated_where_it_was(self) -> None:
        logs = [log_of(1, 2, 2, 2, 2), log_of(1, 2, 2, 2, 2), log_of(1, 1, 1)]
        shard = Lockstep(3, logs=logs, term=2)
        peer = shard.elect("a")
        c = progress(peer, C)
        # Set back to where a probe stands in the middle of an unknown log.
        c.match_index, c.next_index, c.state, c.cautious = 0, 4, ProgressState.PROBE, True
        c.inflights.clear()
        sent = peer.pump()
        assert appends(sent, C) == [(3, 0)]
        peer.node.tick(5)
        assert appends(peer.step(HeartbeatResponse(C, A, 3, 0, 3)), C) == [(3, 0)]

    def test_answers_to_older_probes_change_nothing(self) -> None:
        _, peer = steady()
        peer.node.propose(commands(2), 0)
        peer.pump()
        peer.step(AppendEntriesResponse(B, A, 1, False, 0, 0, 0, 0))
        assert progress(peer).state is ProgressState.REPLICATE
        acknowledge(peer, 3)
        acknowledge(peer, 2)
        peer.step(AppendEntriesResponse(B, A, 1, False, 0, 3, 0, 0))
        assert (progress(peer).match_index, progress(peer).next_index) == (3, 4)

    def test_a_refusal_while_replicating_goes_back_to_what_matches(self) -> None:
        _, peer = steady(RaftConfig(inflight_appends_max=4))
        for _ in range(3):
            peer.node.propose(commands(1), 0)
            peer.pump()
        sent = peer.step(AppendEntriesResponse(B, A, 1, False, 0, 3, 1, 1))
        assert appends(sent) == [(1, 3)] and progress(peer).state is ProgressState.PROBE

    def test_an_acknowledgement_beyond_the_log_is_not_believed(self) -> None:
        _, peer = steady()
        for index in (99, 1 << 62):
            acknowledge(peer, index)
        assert peer.node.commit_index == 1 and progress(peer).match_index == 1
        assert peer.node.ignored_messages == 2

    def test_an_unreachable_peer_gets_heartbeats_until_it_answers(self) -> None:
        _, peer = steady()
        peer.node.propose(commands(2), 0)
        assert appends(peer.pump()) == [(1, 2)]
        peer.node.peer_unreachable(B)
        assert not progress(peer).inflights
        for _ in range(3):
            peer.node.propose(commands(1), 0)
            peer.node.tick(5)
            sent = to(peer.step(HeartbeatResponse(C, A, 1, 0, 1)), B)
            assert [type(m) for m in sent] == [Heartbeat]
        assert appends(peer.step(HeartbeatResponse(B, A, 1, 0, 1))) == [(1, 0)]
        assert appends(acknowledge(peer, 1)) == [(1, 5)]

    def test_an_unreachable_stranger_and_a_follower_told_of_it_change_nothing(self) -> None:
        shard, peer = steady()
        peer.node.peer_unreachable(NodeId("z", 1))
        shard["b"].node.peer_unreachable(A)
        shard.tick(5)
        assert shard.leaders() == ["a"]

    def test_a_log_that_does_not_reach_back_says_that_a_snapshot_is_needed(self) -> None:
        peer = Peer(A, Configuration((A, B)), log=log_of(*[1] * 9))
        peer.log = MemoryLog(log_of(*[1] * 9)[5:], first_index=6, previous_term=1)
        peer.restart(applied_index=5)
        peer.tick_to_deadline()
        peer.pump()
        for pre_vote in (True, False):
            peer.step(RequestVoteResponse(B, A, 2, True, pre_vote))
        assert peer.plays(Role.LEADER)
        sent = peer.step(AppendEntriesResponse(B, A, 2, False, 0, 9, 2, 1))
        assert appends(sent) == [] and progress(peer).state is ProgressState.SNAPSHOT
        assert "snapshot_needed" in peer.event_names()
        peer.node.peer_unreachable(B)
        peer.node.tick(5)
        assert [type(m) for m in peer.step(HeartbeatResponse(B, A, 2, 0, 2))] == [Heartbeat]


class TestHeartbeats:
    def test_an_idle_leader_beats_once_an_interval(self) -> None:
        shard, _ = steady(count=5)
        shard.delivered.clear()
        shard.tick(100)
        assert shard.delivered == Counter(Heartbeat=80, HeartbeatResponse=80)

    def test_an_idle_leader_wakes_up_once_an_interval(self) -> None:
        _, peer = steady(count=5)
        for _ in range(4):
            peer.node.propose(commands(1), 0)
            peer.node.tick()
            for x in (B, C, D, E)[: peer.node.last_index - 1]:
                acknowledge(peer, peer.node.last_index, x)
        wake_ups = [0, 0]
        while wake_ups[1] < 50:
            ticks = peer.node.ticks_to_deadline()
            peer.node.tick(ticks)
            wake_ups = [wake_ups[0] + 1, wake_ups[1] + ticks]
            for x in (B, C, D, E):
                peer.step(HeartbeatResponse(x, A, 1, 0, peer.node.last_index))
                acknowledge(peer, peer.node.last_index, x)
        assert wake_ups[0] <= 14

    def test_an_append_counts_as_a_heartbeat(self) -> None:
        shard, peer = steady()
        shard.delivered.clear()
        for _ in range(40):
            peer.node.propose(commands(1), 0)
            shard.tick()
        assert shard.delivered["Heartbeat"] <= 2 and shard.delivered["AppendEntries"] == 80
        assert shard["b"].plays(Role.FOLLOWER)

    def test_a_silent_peer_brings_the_others_no_heartbeats(self) -> None:
        shard, peer = steady()
        shard.cut("c")
        peer.pump()
        for _ in range(4):
            for _ in range(5):
                peer.node.propose(commands(1), 0)
                shard.deliver()
                peer.node.tick()
                beats = [m for m in peer.pump() if isinstance(m, Heartbeat) and m.answer]
                assert to(list(beats), B) == []

    def test_the_commit_index_is_clipped_to_what_is_matched(self) -> None:
        shard, peer = steady(count=5)
        shard.passes = lambda m: m.receiver != E
        peer.node.propose(commands(3), 0)
        shard.deliver()
        assert peer.node.commit_index == 4
        peer.node.tick(5)
        beats = {m.receiver: m.commit_index for m in peer.pump() if isinstance(m, Heartbeat)}
        assert beats[E] == 1 and beats[B] == 4


class TestLeaderCommitIndex:
    def test_a_follower_knows_how_far_its_leader_was_when_it_last_heard(self) -> None:
        shard, peer = steady()
        follower = shard.peers["b"].node
        peer.node.propose(commands(1), 0)
        shard.deliver()
        shard.tick(20)
        assert follower.leader_commit_index == follower.commit_index == peer.node.commit_index
        before = follower.commit_index
        follower.step(AppendEntries(A, B, peer.node.term, before + 5, peer.node.term, before + 9, []))
        assert (follower.leader_commit_index, follower.commit_index) == (before + 9, before), "it lags behind"
        follower.step(Heartbeat(A, B, peer.node.term, before, 0))
        assert follower.leader_commit_index == before + 9, "a heartbeat is clipped and takes nothing back"


class TestCommitNotice:
    def test_while_entries_flow_the_commit_index_rides_with_them(self) -> None:
        shard, peer = steady(count=5)
        shard.delivered.clear()
        for _ in range(100):
            peer.node.propose(commands(16), 0)
            shard.deliver()
        received = sum(shard.delivered.values())
        assert received == 800 and received / 1600 < 0.8
        assert shard["b"].node.commit_index == peer.node.commit_index - 16

    def test_when_it_gets_quiet_a_notice_goes_out_within_a_tick(self) -> None:
        shard, peer = steady(count=5)
        shard.delivered.clear()
        peer.node.propose(commands(1), 0)
        shard.deliver()
        assert shard["e"].node.commit_index == 1 and peer.node.ticks_to_deadline() == 1
        shard.tick()
        assert {p.node.commit_index for p in shard.peers.values()} == {2}
        assert shard.delivered == Counter(AppendEntries=4, AppendEntriesResponse=4, Heartbeat=4)
        shard.delivered.clear()
        assert peer.node.ticks_to_deadline() == 4
        shard.tick(3)
        assert not shard.delivered

    def test_in_a_stream_of_proposals_no_notice_goes_out_and_the_last_index_rides_on_a_heartbeat(self) -> None:
        shard, peer = steady(count=5)
        shard.delivered.clear()
        for _ in range(3):
            peer.node.propose(commands(1), 0)
            shard.deliver()
            shard.tick(2)
        assert shard.delivered["Heartbeat"] == 4, "one notice to each, after the first proposal"
        shard.tick(5)
        assert {p.node.commit_index for p in shard.peers.values()} == {4}

    def test_a_notice_keeps_followers_quiet_but_is_no_heartbeat_for_check_quorum(self) -> None:
        follower = Peer(B, Configuration((A, B, C)))
        assert follower.step(Heartbeat(A, B, 1, 0, 0, answer=False)) == []
        assert follower.node.leader == A and follower.hard_state.term == 1
        shard, peer = steady()
        sent_tick = progress(peer).sent_tick
        peer.node.propose(commands(1), 0)
        shard.deliver()
        assert progress(peer).sent_tick > sent_tick
        sent_tick = progress(peer).sent_tick
        shard.tick()
        assert shard["b"].node.commit_index == 2 and progress(peer).sent_tick == sent_tick

    def test_no_notice_to_a_peer_that_is_about_to_answer(self) -> None:
        _, peer = steady(count=5)
        peer.node.propose(commands(1), 0)
        peer.pump()
        acknowledge(peer, 2, B)
        peer.node.propose(commands(1), 0)
        peer.pump()
        acknowledge(peer, 2, C)
        assert (peer.node.commit_index, progress(peer).told_commit_index) == (2, 1)
        peer.node.tick()
        assert to(peer.pump(), B) == []

    def test_no_notice_to_a_peer_that_has_not_answered(self) -> None:
        shard, peer = steady()
        shard.passes = lambda m: m.sender != C
        peer.node.propose(commands(1), 0)
        shard.deliver()
        peer.node.tick()
        assert [m.receiver for m in peer.pump() if isinstance(m, Heartbeat)] == [B]


class TestBounds:
    def test_proposals_are_refused_while_too_much_is_not_applied(self) -> None:
        _, peer = steady(RaftConfig(uncommitted_bytes_max=5000))
        while peer.node.last_index < 5:
            peer.node.propose(commands(1, size=1000), 0)
        with pytest.raises(OverloadedError):
            peer.node.propose(commands(1, size=1000), 0)
        assert peer.node.last_index == 5
        peer.pump()
        acknowledge(peer, 5)
        peer.node.propose(commands(1, size=1000), 0)

    def test_one_batch_passes_however_large_it_is(self) -> None:
        _, peer = steady(RaftConfig(uncommitted_bytes_max=5000))
        peer.node.propose(commands(1, size=9000), 0)
        with pytest.raises(OverloadedError):
            peer.node.propose(commands(1), 0)

    def test_what_is_committed_but_not_applied_counts_too(self) -> None:
        _, peer = steady(RaftConfig(uncommitted_bytes_max=5000))
        peer.node.propose(commands(4, size=1000), 0)
        peer.pump()
        peer.node.step(AppendEntriesResponse(B, A, 1, True, 5, 0, 0, 0))
        peer.pump(apply=False)
        assert peer.node.commit_index == 5
        with pytest.raises(OverloadedError):
            peer.node.propose(commands(1, size=1000), 0)
        peer.node.applied(5)
        peer.node.propose(commands(1, size=1000), 0)

    def test_committed_entries_come_in_chunks_one_at_a_time(self) -> None:
        shard, peer = steady(RaftConfig(committed_bytes_max=2 * (HEADER_BYTES + 100)))
        shard["b"].pump()
        peer.node.propose(commands(5, size=100), 0)
        peer.pump(apply=False)
        peer.node.step(AppendEntriesResponse(B, A, 1, True, 6, 0, 0, 0))
        peer.committed.clear()
        chunks = []
        for _ in range(3):
            peer.pump(apply=False)
            peer.pump(apply=False)
            chunks.append([e.index for e in peer.committed])
            peer.committed.clear()
            peer.node.applied(chunks[-1][-1])
        assert chunks == [[2, 3], [4, 5], [6]]
        assert peer.node.applied_index == 6

    def test_a_chunk_may_be_applied_in_parts(self) -> None:
        _, peer = steady()
        peer.node.propose(commands(3), 0)
        peer.pump()
        peer.node.step(AppendEntriesResponse(B, A, 1, True, 4, 0, 0, 0))
        peer.pump(apply=False)
        peer.node.applied(3)
        peer.pump(apply=False)
        assert peer.node.applied_index == 3
        peer.node.applied(4)
        with pytest.raises(AssertionError):
            peer.node.applied(5)

    def test_reads_are_refused_while_too_many_wait(self) -> None:
        _, peer = steady(RaftConfig(reads_waiting_max=2))
        for context in (1, 2):
            peer.node.read_index(context)
        with pytest.raises(OverloadedError):
            peer.node.read_index(3)

    def test_memory_holds_no_more_than_its_bound(self) -> None:
        shard, peer = steady(RaftConfig(cache_bytes_max=50_000))
        for _ in range(100):
            peer.node.propose(commands(10, size=200), 0)
            shard.deliver()
        for each in shard.peers.values():
            held = each.node.log._entries
            assert sum(len(e.data) + 300 for e in held) <= 50_000 and len(held) > 20
        assert peer.node.last_index == 1001


class TestStrangers:
    @pytest.mark.parametrize(
        "message",
        [
            RequestVote(NodeId("b", 7), A, 9, 9, 8, False),
            RequestVote(NodeId("z", 101), A, 9, 9, 8, False),
            RequestVote(A, A, 9, 9, 8, False),
            RequestVote(B, NodeId("a", 7), 9, 9, 8, False),
            AppendEntries(B, NodeId("b", 100), 9, 0, 0, 0, log_of(1)),
            Heartbeat(NodeId("b", 102), A, 9, 1, 0),
        ],
    )
    def test_a_message_of_or_for_another_incarnation_changes_nothing(self, message: Message) -> None:
        peer = Peer(A, Configuration((A, B, C)), log=log_of(1))
        assert peer.step(message) == []
        assert (peer.node.term, peer.node.commit_index, peer.node.ignored_messages) == (1, 0, 1)

    @pytest.mark.parametrize(
        "message",
        [
            AppendEntries(B, A, 9, 1, 1, 0, log_of(1, 1, 1)[2:]),
            AppendEntries(B, A, 9, 1, 1, 0, log_of(1, 1, 1)[:2]),
            AppendEntries(B, A, 9, 1, 1, 0, [log_of(1, 1)[1], log_of(1, 1, 1, 1)[3]]),
            AppendEntries(B, A, 9, 1, 1, 0, log_of(1, 10)[1:]),
            AppendEntries(B, A, 9, 1, 3, 0, log_of(1, 2)[1:]),
            AppendEntries(B, A, 9, 1, 10, 0, ()),
            AppendEntries(B, A, 9, -1, 1, 0, ()),
            AppendEntries(B, A, 0, 0, 0, 0, ()),
            Heartbeat(B, A, 0, 0, 0),
            Heartbeat(B, A, 1 << 64, 0, 0),
            Heartbeat(B, A, 9, -1, 0),
            RequestVote(B, A, 9, 1, 9, False),
            RequestVote(B, A, 9, 1 << 64, 1, False),
            RequestVote(B, A, -1, 1, 1, False),
            AppendEntriesResponse(B, A, 9, True, -1, 0, 0, 0),
        ],
    )
    def test_a_message_that_no_correct_node_sends_changes_nothing(self, message: Message) -> None:
        peer = Peer(A, Configuration((A, B, C)), log=log_of(1))
        assert peer.step(message) == []
        assert (peer.node.term, peer.node.leader, peer.terms) == (1, None, [1])
        assert peer.event_names() == ["malformed_message"] and peer.node.ignored_messages == 1

    def test_a_hard_state_behind_the_log_is_a_mistake(self) -> None:
        with pytest.raises(AssertionError, match="ahead of the hard state"):
            Peer(A, Configuration((A, B)), log=log_of(3), hard_state=HardState(2))
