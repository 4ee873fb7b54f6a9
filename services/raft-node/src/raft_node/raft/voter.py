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
from raft_node.raft.roles import Roles
from raft_node.raft.state import State
from raft_node.raft.vote_reports import VoteReports


class Voter:
    """The vote of one member."""

    def __init__(self, state: State, roles: Roles) -> None:
        self._state = state
        self._roles = roles
        self._reports = VoteReports(state.outbox, state.config.election_timeout_ticks_max)

    def request_vote(self, message: RequestVote) -> None:
        """Answers a request for a vote (the paper, 5.2 and 5.4.1), also for a pre-vote (thesis, 9.6)."""
        state = self._state
        if message.term > state.term:
            if self.protects_leader() and not message.transfer:
                # A leader that was heard keeps its term: a node that missed it must not depose it (thesis, 4.2.3).
                self.refuse(message, "a leader was heard", self._leader_heard())
                return
            if not message.pre_vote:
                self._roles.become_follower(message.term, None)
        log = state.log
        complete = up_to_date(message.last_log_term, message.last_log_index, log.last_term, log.last_index)
        if message.pre_vote:
            granted = complete and message.term > state.term
        else:
            granted = complete and message.term == state.term and state.voted_for in (None, message.sender)
        if granted:
            self._reports.given(message, state.term, state.now)
        else:
            self.refuse(message, *self._objection(message, complete=complete))
        if message.pre_vote:
            if granted and message.sender not in state.members:
                state.introduced = message.sender
            # A grant speaks of the term to come; a refusal tells the own one, so that the sender can catch up.
            term = message.term if granted else state.term
            state.outbox.send(RequestVoteResponse(state.id, message.sender, term, granted, True))
            return
        if granted:
            if state.voted_for is None:
                state.voted_for = message.sender
                state.outbox.change += 1
            self._roles.restart_election_timer()
        state.outbox.send_when_durable(RequestVoteResponse(state.id, message.sender, state.term, granted, False))

    def _objection(self, message: RequestVote, *, complete: bool) -> tuple[str, str]:
        """The reason, with details, for which a vote is refused that no leader stands against."""
        state = self._state
        if message.term < state.term or (message.pre_vote and message.term == state.term):
            return "its term is not newer", ""
        if not complete:
            log = state.log
            return (
                "its log is not up to date",
                f"it ends at {message.last_log_index} of term {message.last_log_term}, here at {log.last_index} of"
                f" term {log.last_term}",
            )
        assert state.voted_for is not None, "nothing else is left to object to"
        return f"already voted for {state.voted_for.name}", ""

    def _leader_heard(self) -> str:
        state = self._state
        if state.leadership is not None:
            return "this node leads"
        assert state.leader_heard_tick is not None, "nothing protects a leader that was not heard"
        who = state.leader.name if state.leader is not None else "one that may hold a lease"
        return f"{who}, {state.now - state.leader_heard_tick} ticks ago"

    def refuse(self, message: RequestVote, why: str, details: str = "") -> None:
        """Reports a vote that was refused, and why."""
        state = self._state
        self._reports.refused(why, details, message, state.term, state.now)

    def request_vote_response(self, message: RequestVoteResponse) -> None:
        """Counts an answer to the own campaign."""
        state = self._state
        if message.term > state.term and not (message.pre_vote and message.granted):
            self._roles.become_follower(message.term, None)
            return
        election = state.election
        if election is None or election.pre_vote != message.pre_vote:
            return
        # A grant names the term that was asked for; a refusal of a pre-vote names the refuser's own.
        expected = election.term if message.granted or not message.pre_vote else state.term
        if message.term != expected:
            return
        election.record(message.sender, message.granted)
        self._roles.conclude(election)

    def timeout_now(self, message: TimeoutNow) -> None:
        """Takes the leader's wish that this node leads: campaigns at once, without a pre-vote (thesis, 3.10)."""
        state = self._state
        if message.term < state.term or not state.may_campaign():
            return
        if self._roles.follow(message.term, message.sender):
            self._roles.become_candidate(transfer=True)

    def protects_leader(self) -> bool:
        """Whether a leader that was heard lately keeps its term against candidates (thesis, 4.2.3)."""
        state = self._state
        if state.leadership is not None:
            return True
        heard = state.leader_heard_tick
        if heard is None or state.now - heard >= state.config.election_timeout_ticks:
            return False
        # A lease rests on what this voter answered, even if it has seen a newer term or a restart since.
        return state.leader is not None or state.config.lease_ticks > 0
