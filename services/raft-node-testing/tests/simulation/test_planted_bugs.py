"""The simulator must be able to fail: each core here has one known bug, and some tens of seeds must find it."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

import pytest

from raft_node.entry import Entry
from raft_node.raft import voter as voter_module
from raft_node.raft.messages import AppendEntries, Message
from raft_node.raft.node import RaftNode
from raft_node.raft.outbox import Outbox
from raft_node.raft.read_index import ReadIndexRounds, ReadRound
from raft_node.raft.ready import Ready
from raft_node.raft.types import HardState, NodeId, Write
from raft_testing.simulation import run_seed

SEEDS = range(1, 121)


class ForgetsVotes(RaftNode):
    """The vote never reaches the disk (as in the original that this system replaces)."""

    def _take_write(self, *arguments: object) -> Write | None:
        write = super()._take_write(*arguments)
        if write is None or write.hard_state is None:
            return write
        return write._replace(hard_state=write.hard_state._replace(voted_for=None))


class ForgetsItsTerm(RaftNode):
    """The term on disk stays what it was."""

    def _take_write(self, *arguments: object) -> Write | None:
        write = super()._take_write(*arguments)
        if write is None or write.hard_state is None:
            return write
        return write._replace(hard_state=HardState(1, None, write.hard_state.commit_index))


class ImpatientOutbox(Outbox):
    def send_when_durable(self, message: Message) -> None:
        self.send(message)


class AnswersBeforeTheSync(RaftNode):
    """Votes and acknowledgements leave before what they promise is on disk."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        impatient = ImpatientOutbox()
        impatient.change = self._outbox.change
        self._outbox = impatient


class CountsOldTerms(RaftNode):
    """The leader commits entries of older terms by counting (figure 8 of the paper)."""

    def _become_leader(self) -> None:
        super()._become_leader()
        assert self._leader is not None
        self._leader._term_start_index = 1


class CountsItsOwnUnsyncedEntries(RaftNode):
    """The leader counts itself before its own fsync."""

    def ready(self, *arguments: bool, **named: bool) -> Ready | None:
        if self._leader is not None:
            log = self._log
            stable, log.stable_index = log.stable_index, log.last_index
            self._leader.advance_commit()
            log.stable_index = stable
        return super().ready(*arguments, **named)


class TruncatesAlways(RaftNode):
    """A follower drops all that lies behind any AppendEntries, conflict or not."""

    def _append_entries(self, message: AppendEntries) -> None:
        log = self._log
        end = message.prev_log_index + len(message.entries)
        if message.term == self._term and log.commit_index <= end < log.last_index and self._leader is None:
            log._truncate(end + 1)
            self._outbox.change += 1
        super()._append_entries(message)


class NeverTruncates(RaftNode):
    """A follower takes entries only where it has none, and keeps its own where they conflict."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        log = self._log

        def merge(entries: Sequence[Entry]) -> bool:
            new = [entry for entry in entries if entry.index > log.last_index]
            if new:
                log.append(new)
            return bool(new)

        log.merge = merge  # type: ignore[method-assign]


class SkipsTheConsistencyCheck(RaftNode):
    """A follower does not compare the term of the entry before the new ones."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        log = self._log
        log.matches = lambda index, term: index <= log.last_index  # type: ignore[method-assign]


class TrustsTheCommitIndex(RaftNode):
    """A follower commits what lies behind the entries that the leader sent, though it may be another leader's."""

    def _append_entries(self, message: AppendEntries) -> None:
        super()._append_entries(message)
        if message.term == self._term:
            self._log.commit_to(min(message.commit_index, self._log.last_index))


class ReadsWithoutAQuorum(RaftNode):
    """The leader serves reads without asking anybody."""

    def _become_leader(self) -> None:
        super()._become_leader()
        assert self._leader is not None
        self._leader.reads = ConfirmedByNobody(self._last_read_token)


class ConfirmedByNobody(ReadIndexRounds):
    def take_confirmed(self, voters: Collection[NodeId]) -> ReadRound | None:
        if self.current is None:
            return None
        return super().take_confirmed([self.current_leader])

    @property
    def current_leader(self) -> NodeId:
        assert self.current is not None
        return next(iter(self.current.acknowledged))


class ReadsBeforeItsOwnEntry(RaftNode):
    """A new leader serves reads before an entry of its own term is committed."""

    def ready(self, *arguments: bool, **named: bool) -> Ready | None:
        leader = self._leader
        if leader is None:
            return super().ready(*arguments, **named)
        start, leader._term_start_index = leader._term_start_index, 1
        try:
            return super().ready(*arguments, **named)
        finally:
            leader._term_start_index = start


class RepeatsReadTokens(RaftNode):
    """Every read round has the same token, so a late answer to an earlier one confirms it."""

    def _become_leader(self) -> None:
        super()._become_leader()
        assert self._leader is not None
        self._leader.reads = OneToken(0)


class OneToken(ReadIndexRounds):
    def begin(self, commit_index: int, leader: NodeId) -> None:
        self._token = 0
        super().begin(commit_index, leader)


class VotesForAnybody(RaftNode):
    """A voter does not compare logs."""


class SkipsThePreVote(RaftNode):
    """A node campaigns without having asked who would vote for it."""

    def _become_pre_candidate(self) -> None:
        self._become_candidate()


class ForgetsItsLeader(RaftNode):
    """A follower votes for whoever asks, though it has just heard its leader."""

    def _protects_leader(self) -> bool:
        return self._leader is not None


class LeadsForEver(RaftNode):
    """A leader that nobody answers stays one."""

    def _become_leader(self) -> None:
        super()._become_leader()
        assert self._leader is not None
        self._leader.lost_quorum = lambda now: False  # type: ignore[method-assign]


class AppliesWhatItMayLose(RaftNode):
    """Entries are handed out before this node's own disk has them."""

    def _take_committed(self) -> Sequence[Entry]:
        log = self._log
        stable, log.stable_index = log.stable_index, log.commit_index
        try:
            return super()._take_committed()
        finally:
            log.stable_index = stable


WRONG_LOG = "configuration_in_force|commit_durable|log_matching|state_machine_safety|leader_completeness"
PLANTED = {
    ForgetsVotes: "one_vote_a_term|vote_durable",
    ForgetsItsTerm: "vote_durable|acknowledgement_durable|term_never_shrinks",
    AnswersBeforeTheSync: "vote_durable|acknowledgement_durable",
    CountsOldTerms: "commit_rule|read_index_fresh|one_change_at_a_time",
    CountsItsOwnUnsyncedEntries: "commit_durable",
    TruncatesAlways: "only cut where other entries|committed_never_shrinks|commit_durable|configuration_in_force",
    NeverTruncates: WRONG_LOG,
    SkipsTheConsistencyCheck: WRONG_LOG,
    TrustsTheCommitIndex: "state_machine_safety",
    ReadsWithoutAQuorum: "read_index_fresh|not linearizable",
    ReadsBeforeItsOwnEntry: "read_index_fresh|not linearizable",
    RepeatsReadTokens: "read_index_fresh|not linearizable",
    SkipsThePreVote: "asked_first",
    ForgetsItsLeader: "leader_protected",
    LeadsForEver: "quorum_heard",
    AppliesWhatItMayLose: "applied_durable",
    VotesForAnybody: "committed_never_shrinks|leader_completeness|state_machine_safety",
}


@pytest.mark.simulation
@pytest.mark.parametrize("core", PLANTED, ids=lambda core: core.__name__)
def test_a_planted_bug_is_found(core: type[RaftNode], monkeypatch: pytest.MonkeyPatch) -> None:
    if core is VotesForAnybody:
        monkeypatch.setattr(voter_module, "up_to_date", lambda *_: True)
    for seed in SEEDS:
        result = run_seed(seed, core=core)
        if result.failure:
            print(f"seed {seed}: {result.failure}")
            assert re.search(PLANTED[core], result.failure)
            return
    pytest.fail(f"{len(SEEDS)} seeds did not find it")
