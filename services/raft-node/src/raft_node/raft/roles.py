"""The roles of a member: which one it has, and how it comes by another.

Everything that changes a role is here; when that happens is decided by ``raft_node.raft.node``, ``voter`` and
``follower``, which know the messages.

Invariants:

1. The role changes only in ``become_*``, and between follower and learner when the members change.
2. The term never goes back; with a new term the vote is free, and both are written before anything rests on them.
3. The configuration in force is the newest one in the log, committed or not.

Reference: the paper, 5.1 and 5.2; the thesis, 4.1, 4.2.2 (a leader that removes itself) and 9.6 (pre-vote).
"""

from __future__ import annotations

from raft_node import entry as entries_codec
from raft_node.entry import EntryKind
from raft_node.raft.election import Election
from raft_node.raft.leader import Leader
from raft_node.raft.membership import members_of
from raft_node.raft.messages import RequestVote, RequestVoteResponse, TimeoutNow
from raft_node.raft.state import State
from raft_node.raft.types import NodeId, Role


class Roles:
    """The changes of one member's role."""

    def __init__(self, state: State) -> None:
        self._state = state

    # Roles.

    def become_follower(self, term: int, leader_id: NodeId | None) -> None:
        """Follows a leader, or waits for one.

        Seeing a newer term alone does not restart a follower's election timer: only a leader heard and a vote given
        do (the paper, 5.2).
        """
        state = self._state
        assert term >= state.term, "the term never goes back"
        was_follower = state.role in (Role.FOLLOWER, Role.LEARNER)
        if term > state.term:
            state.term = term
            state.voted_for = None
            state.outbox.change += 1
        if state.leadership is not None:
            state.reads_dropped += state.leadership.reads.drop()
            state.last_read_token = state.leadership.reads.last_token
            state.leadership = None
            state.outbox.event("lost_leadership", term=term)
        if leader_id is not None and leader_id != state.leader:
            state.outbox.event("follows", term=term, leader=leader_id.name)
        state.election = None
        state.leader = leader_id
        state.role = Role.FOLLOWER if state.may_campaign() else Role.LEARNER
        if not was_follower or state.election_deadline == 0:
            self.restart_election_timer()

    def become_pre_candidate(self) -> None:
        """Asks who would vote for this node, before it disturbs anybody (thesis, 9.6)."""
        state = self._state
        reason = "no leader is known" if state.leader is None else f"{state.leader.name} is silent"
        state.role = Role.PRE_CANDIDATE
        state.leader = None
        election = Election(state.term + 1, True, state.configuration.voters)
        self._campaign(election)
        state.outbox.event("became_pre_candidate", term=state.term, reason=reason, asks=self._asked())
        election.record(state.id, True)
        self.conclude(election)

    def become_candidate(self, *, transfer: bool = False) -> None:
        """Asks for votes in a new term; ``transfer`` says that the leader wanted it."""
        state = self._state
        state.role = Role.CANDIDATE
        state.term += 1
        state.voted_for = state.id
        state.leader = None
        state.outbox.change += 1
        self._campaign(Election(state.term, False, state.configuration.voters), transfer=transfer)
        state.outbox.event("became_candidate", term=state.term, transfer=transfer, asks=self._asked())
        # The own vote counts, as any other, once it is durable.
        state.outbox.hold(RequestVoteResponse(state.id, state.id, state.term, True, False))

    def _asked(self) -> list[str]:
        state = self._state
        return [voter.name for voter in state.configuration.voters if voter != state.id]

    def _campaign(self, election: Election, *, transfer: bool = False) -> None:
        state = self._state
        state.election = election
        self.restart_election_timer()
        log, pre_vote = state.log, election.pre_vote
        # A request for votes promises a log and a term, which a crash must not take back; a pre-vote promises nothing.
        send = state.outbox.send if pre_vote else state.outbox.send_when_durable
        for voter in state.configuration.voters:
            if voter != state.id:
                send(RequestVote(state.id, voter, election.term, log.last_index, log.last_term, pre_vote, transfer))

    def conclude(self, election: Election) -> None:
        """Takes the outcome of an election; an open one changes nothing."""
        state = self._state
        outcome = election.outcome
        if outcome is None:
            return
        if not outcome:
            self.become_follower(state.term, None)
        elif election.pre_vote:
            self.become_candidate()
        else:
            self.become_leader()

    def become_leader(self) -> None:
        """Leads, and appends the first entry of its term."""
        state = self._state
        state.role = Role.LEADER
        state.election = None
        state.leader = state.id
        leadership = state.leadership = Leader(
            config=state.config,
            node_id=state.id,
            term=state.term,
            configuration=state.configuration,
            log=state.log,
            outbox=state.outbox,
            last_read_token=state.last_read_token,
            now=state.now,
        )
        # Reads that were to be forwarded need not be any more.
        leadership.reads.waiting += state.forwarded.take_all()
        if state.changing_index:
            for node in members_of(state.configurations.previous) - state.members - {state.id}:
                leadership.depart(node, state.changing_index, state.now)
        state.outbox.event("became_leader", term=state.term)
        # An entry of the own term commits those of older terms, and tells what is committed (the paper, 5.4.2 and 8).
        timestamp_us = state.log.last_timestamp_us
        state.append([entries_codec.encode(state.log.last_index + 1, state.term, EntryKind.NOOP, timestamp_us)])

    # Members.

    def adopt_configuration(self) -> None:
        """Uses the newest configuration in the log from now on (thesis, 4.1)."""
        state = self._state
        state.configuration = configuration = state.configurations.current
        state.members = members_of(configuration)
        state.changing_index = state.uncommitted_change()
        self._configuration_event("configuration_adopted")
        if state.leadership is not None:
            state.leadership.reconfigure(configuration, state.configurations.index, state.now)
            return
        assert state.election is None, "only a leader's entries change the members"
        state.role = Role.FOLLOWER if state.may_campaign() else Role.LEARNER
        self.restart_election_timer()

    def configuration_committed(self) -> None:
        """Notes that the newest configuration is committed; a node that is not in it leaves its role."""
        state = self._state
        state.changing_index = 0
        self._configuration_event("configuration_committed")
        if state.id in state.members:
            return
        if state.configurations.lost(state.id):
            state.outbox.event("removed", term=state.term)
        # So that a restarted process knows it from its disk, and does not campaign.
        state.outbox.change += 1
        if state.role is Role.FOLLOWER:
            state.role = Role.LEARNER
        if state.leadership is not None:
            # Its last duty was to commit its own removal (thesis, 4.2.2). Somebody shall follow without a pause.
            successor = state.leadership.complete_successor(state.now)
            if successor is not None:
                state.outbox.send(TimeoutNow(state.id, successor, state.term))
            self.become_follower(state.term, None)

    def _configuration_event(self, name: str) -> None:
        state = self._state
        configuration = state.configuration
        state.outbox.event(
            name,
            index=state.configurations.index,
            voters=[member.name for member in configuration.voters],
            learners=[member.name for member in configuration.learners],
        )

    # The leader of the term, and the time that it is given.

    def follow(self, term: int, leader_id: NodeId) -> bool:
        """Accepts the leader of a term that is not older than the own one; returns False if another leads in it."""
        state = self._state
        if term == state.term and state.leader is not None and state.leader != leader_id:
            state.ignored_messages += 1
            state.outbox.event("two_leaders", term=term, leader=state.leader.name, other=leader_id.name)
            return False
        if state.leader != leader_id or term > state.term:
            self.become_follower(term, leader_id)
        state.leader_heard_tick = state.now
        self.restart_election_timer()
        return True

    def restart_election_timer(self) -> None:
        """Restarts the election timer with a timeout drawn anew, so that split votes do not repeat (the paper, 5.2)."""
        state = self._state
        config = state.config
        timeout = state.random.randrange(config.election_timeout_ticks, config.election_timeout_ticks_max)
        state.election_deadline = state.now + timeout
