"""The parts of the core by themselves: settings, configuration codec, quorum, progress, read rounds, outbox, log."""

from __future__ import annotations

import pytest

from raft_node.errors import SettingsError
from raft_node.raft.config import RaftConfig
from raft_node.raft.configuration import ConfigurationError, decode_configuration, encode_configuration
from raft_node.raft.election import Election
from raft_node.raft.log import RaftLog
from raft_node.raft.messages import Heartbeat
from raft_node.raft.outbox import Outbox
from raft_node.raft.progress import Progress, ProgressState
from raft_node.raft.quorum import is_quorum, majority, quorum_value, vote_outcome
from raft_node.raft.read_index import ReadIndexRounds
from raft_node.raft.types import Configuration, NodeId, ReadState
from raft_testing.lockstep import MemoryLog, log_of, members

A, B, C, D, E = members(5)

GOLDEN = bytes.fromhex("01 0100 0100 0700000000000000 0100 61 0100000000000080 0200 c3a4".replace(" ", ""))


class TestConfig:
    def test_the_defaults_fit(self) -> None:
        config = RaftConfig()
        assert (config.election_timeout_ticks, config.election_timeout_ticks_max, config.heartbeat_ticks) == (15, 30, 5)
        assert config.inflight_appends_max == 1

    def test_contradictions_are_refused(self) -> None:
        for config in (
            {"heartbeat_ticks": 15},
            {"heartbeat_ticks": 0},
            {"election_timeout_ticks": 30},
            {"inflight_appends_max": 0},
            {"cache_bytes_max": 0},
            {"reads_waiting_max": -1},
        ):
            with pytest.raises(SettingsError):
                RaftConfig(**config)


class TestConfiguration:
    def test_golden_bytes(self) -> None:
        configuration = Configuration((NodeId("a", 7),), (NodeId("ä", (1 << 63) + 1),))
        assert encode_configuration(configuration) == GOLDEN
        assert decode_configuration(GOLDEN) == configuration

    def test_anything_else_is_refused(self) -> None:
        for bad in (
            *[GOLDEN[:n] for n in range(len(GOLDEN))],
            GOLDEN + b"\0",
            b"\x03" + GOLDEN[1:],
            GOLDEN[:-1] + b"\xff",
            b"\x01\0\0\0\0",
        ):
            with pytest.raises(ConfigurationError):
                decode_configuration(bad)

    def test_a_name_is_unique_and_not_empty(self) -> None:
        for bad in (
            Configuration((A, NodeId("a", 9))),
            Configuration((A,), (A,)),
            Configuration((NodeId("", 1),)),
            Configuration((), (A,)),
        ):
            with pytest.raises(ConfigurationError):
                encode_configuration(bad)


class TestQuorum:
    def test_majority(self) -> None:
        assert [majority(n) for n in range(1, 8)] == [1, 2, 2, 3, 3, 4, 4]

    def test_the_value_that_a_majority_has_reached(self) -> None:
        assert quorum_value([4]) == 4
        assert quorum_value([9, 4]) == 4
        assert quorum_value([9, 4, 7]) == 7
        assert quorum_value([9, 4, 7, 8]) == 7
        assert quorum_value([1, 2, 3, 4, 5]) == 3

    def test_votes(self) -> None:
        voters = (A, B, C, D)
        assert vote_outcome(voters, {A: True, B: True}) is None
        assert vote_outcome(voters, {A: True, B: True, E: True}) is None
        assert vote_outcome(voters, {A: True, B: True, C: True}) is True
        assert vote_outcome(voters, {A: True, B: False, C: False}) is False

    def test_the_first_vote_of_a_voter_counts(self) -> None:
        election = Election(2, False, (A, B, C))
        election.record(A, False)
        election.record(A, True)
        election.record(B, True)
        assert election.outcome is None

    def test_is_quorum(self) -> None:
        assert is_quorum((A, B, C), {A, B, E}) and not is_quorum((A, B, C), {A, D, E})


class TestProgress:
    def probe(self, next_index: int = 11, match_index: int = 0) -> Progress:
        return Progress(next_index=next_index, heard_tick=0, sent_tick=0, heartbeat_tick=0, match_index=match_index)

    def test_a_probe_sends_one_and_waits(self) -> None:
        peer = self.probe()
        assert peer.window_open(8, 1000)
        peer.sent(10, 0, 1)
        assert not peer.window_open(8, 1000) and peer.next_index == 11

    def test_match_never_goes_back(self) -> None:
        peer = self.probe()
        assert peer.accepted(10) and peer.state is ProgressState.REPLICATE
        for index in (3, 10, 0):
            assert not peer.accepted(index)
        assert (peer.match_index, peer.next_index) == (10, 11)

    def test_a_refusal_moves_a_probe_back_but_never_below_what_matches(self) -> None:
        peer = self.probe(next_index=11, match_index=4)
        peer.rejected(7, 6)
        assert peer.next_index == 11, "that answers an older probe"
        peer.rejected(10, 30)
        assert (peer.next_index, peer.cautious) == (10, True)
        peer.rejected(9, 2)
        assert (peer.next_index, peer.cautious) == (5, False)
        peer.rejected(9, 2)
        assert peer.next_index == 5

    def test_an_old_answer_does_not_end_a_probe(self) -> None:
        peer = self.probe(next_index=11, match_index=4)
        peer.sent(10, 0, 1)
        assert not peer.accepted(4)
        assert peer.state is ProgressState.PROBE and peer.inflights

    def test_nothing_is_sent_to_a_peer_that_needs_a_snapshot(self) -> None:
        peer = self.probe()
        peer.needs_snapshot()
        peer.lost()
        assert peer.state is ProgressState.SNAPSHOT and not peer.window_open(8, 1000)
        peer.rejected(10, 3)
        assert peer.next_index == 11


class TestReadIndexRounds:
    def test_one_round_at_a_time_with_a_token_of_its_own(self) -> None:
        rounds = ReadIndexRounds(41)
        rounds.waiting = [1, 2]
        rounds.begin(7, A)
        assert rounds.token == 42 and rounds.waiting == []
        rounds.waiting.append(3)
        with pytest.raises(AssertionError):
            rounds.begin(8, A)
        rounds.acknowledge(B, 41)
        assert rounds.take_confirmed((A, B, C)) is None
        rounds.acknowledge(B, 42)
        confirmed = rounds.take_confirmed((A, B, C))
        assert confirmed is not None and confirmed.read_states == [ReadState(1, 7), ReadState(2, 7)]
        assert rounds.take_confirmed((A, B, C)) is None and rounds.token == 0
        rounds.acknowledge(B, 42)
        rounds.begin(8, A)
        assert (rounds.token, rounds.last_token) == (43, 43)
        rounds.waiting.append(4)
        assert rounds.drop() == [3, 4] and rounds.drop() == []


class TestOutbox:
    def test_messages_wait_for_the_change_that_they_rest_on(self) -> None:
        first, second = Heartbeat(A, B, 1, 0, 0), Heartbeat(A, B, 2, 0, 0)
        outbox = Outbox()
        outbox.send_when_durable(first)
        assert outbox.messages == [first]
        outbox.change = 1
        outbox.send_when_durable(first)
        outbox.send_when_durable(first)
        outbox.change = 2
        outbox.send_when_durable(second)
        assert outbox.messages == [first]
        assert outbox.persisted(1) == [first]
        assert outbox.persisted(2) == [second]
        with pytest.raises(AssertionError):
            outbox.hold(first)
        with pytest.raises(AssertionError):
            outbox.persisted(2)


class TestRaftLog:
    def log(self, *terms: int, cache_bytes_max: int = 1 << 20) -> RaftLog:
        return RaftLog(MemoryLog(log_of(*terms)), 0, 0, cache_bytes_max)

    def test_an_empty_log(self) -> None:
        log = self.log()
        assert (log.first_index, log.last_index, log.last_term, log.last_timestamp_us) == (1, 0, 0, 0)
        assert log.matches(0, 0) and not log.matches(1, 0)
        assert log.entries(1, 1, 10) == []

    def test_a_log_whose_beginning_is_gone(self) -> None:
        log = RaftLog(MemoryLog(log_of(1, 1, 2, 2)[2:], 3, 1), 0, 2, 1000)
        assert (log.first_index, log.commit_index, log.last_timestamp_us) == (3, 2, 4)
        assert log.matches(2, 1) and not log.matches(1, 1)
        assert log.last_index_of_term_at_most(4, 1) == 2 and log.last_index_of_term_at_most(1, 9) == 1

    def test_a_state_that_does_not_meet_its_log(self) -> None:
        with pytest.raises(AssertionError):
            RaftLog(MemoryLog(log_of(1)), 0, 2, 1000)

    def test_stored_and_new_entries_read_as_one(self) -> None:
        log = self.log(1, 1)
        log.append(log_of(1, 1, 2, 2)[2:])
        assert [log.term(i) for i in range(5)] == [0, 1, 1, 2, 2]
        assert [e.index for e in log.entries(1, 5, 1 << 20)] == [1, 2]
        assert [e.index for e in log.entries(3, 5, 1 << 20)] == [3, 4]
        assert [e.index for e in log.entries(3, 5, 1)] == [3]
        with pytest.raises(AssertionError):
            log.append(log_of(1))

    def test_terms_are_found_by_halving(self) -> None:
        log = self.log(1, 1, 3, 3, 3, 6)
        assert [log.last_index_of_term_at_most(6, t) for t in range(8)] == [0, 2, 2, 5, 5, 5, 6, 6]
        assert [log.last_index_of_term_at_most(i, 3) for i in range(9)] == [0, 1, 2, 3, 4, 5, 5, 5, 5]

    def test_one_write_at_a_time(self) -> None:
        log = self.log(1)
        log.append(log_of(1, 1)[1:])
        assert log.begin_write() == (None, log_of(1, 1)[1:])
        with pytest.raises(AssertionError):
            log.begin_write()
        log.end_write()
        with pytest.raises(AssertionError):
            log.end_write()
        assert log.stable_index == 2

    def test_what_is_not_applied_is_evicted_only_when_it_is_too_much(self) -> None:
        log = self.log(1, cache_bytes_max=10_000)
        log.append(log_of(*[1] * 31)[1:])
        log.begin_write()
        log.commit_to(31)
        log.end_write()
        assert log.unapplied_bytes == 30 * 48 and len(log.entries(2, 32, 1 << 20)) == 30
        log.append(log_of(*[1] * 61)[31:])
        log.begin_write()
        log.commit_to(61)
        log.end_write()
        assert log.unapplied_bytes < 60 * 48
        log.validate()

    def test_what_is_not_durable_is_never_evicted(self) -> None:
        log = self.log(1, cache_bytes_max=1000)
        log.append(log_of(*[1] * 31)[1:])
        log.commit_to(31)
        log.applied_to(1)
        assert len(log.entries(2, 32, 1 << 20)) == 30
