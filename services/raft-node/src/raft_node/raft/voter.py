"""The votes of a member: how it answers who asks for one, and what the answers to its own questions come to.

Invariants:

1. One vote a term, durable before its answer leaves.
2. A vote goes only to a log that is at least as complete as the own one.
3. A leader that was heard lately keeps its term, unless it asked for the election itself.

Reference: the paper, 5.2 and 5.4.1; the thesis, 3.10 (TimeoutNow), 4.2.3 and 9.6 (pre-vote).
"""

from __future__ import annotations

from raft_node.raft.election import up_to_date
from raft_node.raft.messages import RequestVote, RequestVoteResponse, TimeoutNow
from raft_node.raft.roles import RoleHolder


class Voter(RoleHolder):
    """A member with its vote."""

    def _request_vote(self, message: RequestVote) -> None:
        """The paper, 5.2 and 5.4.1, with pre-vote (thesis, 9.6)."""
        if message.term > self._term:
            if self._protects_leader() and not message.transfer:
                # A leader that was heard keeps its term: who missed it must not depose it (thesis, 4.2.3).
                self._refused(message, "a leader was heard", self._leader_heard())
                return
            if not message.pre_vote:
                self._become_follower(message.term, None)
        log = self._log
        complete = up_to_date(message.last_log_term, message.last_log_index, log.last_term, log.last_index)
        if message.pre_vote:
            granted = complete and message.term > self._term
        else:
            granted = complete and message.term == self._term and self._voted_for in (None, message.sender)
        if granted:
            self._vote_reports.given(message, self._term, self._now)
        else:
            self._refused(message, *self._objection(message, complete=complete))
        if message.pre_vote:
            if granted and message.sender not in self._members:
                self._introduced = message.sender
            # A grant speaks of the term to come; a refusal tells the own one, so that the sender can catch up.
            term = message.term if granted else self._term
            self._outbox.send(RequestVoteResponse(self._id, message.sender, term, granted, True))
            return
        if granted:
            if self._voted_for is None:
                self._voted_for = message.sender
                self._outbox.change += 1
            self._restart_election_timer()
        self._outbox.send_when_durable(RequestVoteResponse(self._id, message.sender, self._term, granted, False))

    def _objection(self, message: RequestVote, *, complete: bool) -> tuple[str, str]:
        """Why a vote is refused that no leader stands against."""
        if message.term < self._term or (message.pre_vote and message.term == self._term):
            return "its term is not newer", ""
        if not complete:
            log = self._log
            return (
                "its log is not up to date",
                f"it ends at {message.last_log_index} of term {message.last_log_term}, here at {log.last_index} of"
                f" term {log.last_term}",
            )
        assert self._voted_for is not None, "nothing else is left to object to"
        return f"already voted for {self._voted_for.name}", ""

    def _leader_heard(self) -> str:
        if self._leader is not None:
            return "this node leads"
        assert self._leader_heard_tick is not None, "nothing protects a leader that was not heard"
        who = self._leader_id.name if self._leader_id is not None else "one that may hold a lease"
        return f"{who}, {self._now - self._leader_heard_tick} ticks ago"

    def _refused(self, message: RequestVote, why: str, details: str = "") -> None:
        self._vote_reports.refused(why, details, message, self._term, self._now)

    def _request_vote_response(self, message: RequestVoteResponse) -> None:
        if message.term > self._term and not (message.pre_vote and message.granted):
            self._become_follower(message.term, None)
            return
        election = self._election
        if election is None or election.pre_vote != message.pre_vote:
            return
        # A grant names the term that was asked for; a refusal of a pre-vote names the refuser's own.
        expected = election.term if message.granted or not message.pre_vote else self._term
        if message.term != expected:
            return
        election.record(message.sender, message.granted)
        self._conclude(election)

    def _timeout_now(self, message: TimeoutNow) -> None:
        """The leader wants this node to lead: it campaigns at once, without asking first (thesis, 3.10)."""
        if message.term < self._term or not self._may_campaign():
            return
        if self._follow(message.term, message.sender):
            self._become_candidate(transfer=True)

    def _protects_leader(self) -> bool:
        if self._leader is not None:
            return True
        heard = self._leader_heard_tick
        if heard is None or self._now - heard >= self._config.election_timeout_ticks:
            return False
        # A lease rests on what this voter answered, even if it has seen a newer term or a restart since.
        return self._leader_id is not None or self._config.lease_ticks > 0
