"""The roles of a member: which one it has, and how it comes by another.

Everything that changes a role is here; who campaigns, follows or leads is decided by ``raft_node.raft.node`` and
``raft_node.raft.voter``, which know the messages.

Invariants:

1. The role changes only in ``_become_*``, and between follower and learner when the members change.
2. The term never goes back; with a new term the vote is free, and both are written before anything rests on them.
3. ``_leader`` exists exactly while the role is LEADER, ``_election`` exactly while it is a candidate's.
4. The configuration in force is the newest one in the log, committed or not.

Reference: the paper, 5.1 and 5.2; the thesis, 4.1, 4.2.2 (a leader that removes itself) and 9.6 (pre-vote).
"""

from __future__ import annotations

from raft_node import entry as entries_codec
from raft_node.entry import EntryKind
from raft_node.raft.election import Election
from raft_node.raft.leader import Leader
from raft_node.raft.member import Member
from raft_node.raft.membership import members_of
from raft_node.raft.messages import RequestVote, RequestVoteResponse, TimeoutNow
from raft_node.raft.types import NodeId, Role


class RoleHolder(Member):
    """A member with its role."""

    # Roles.

    def _become_follower(self, term: int, leader_id: NodeId | None) -> None:
        """Follows a leader, or waits for one.

        Seeing a newer term alone does not restart a follower's election timer: only a leader heard and a vote given
        do (the paper, 5.2).
        """
        assert term >= self._term, "the term never goes back"
        was_follower = self._role in (Role.FOLLOWER, Role.LEARNER)
        if term > self._term:
            self._term = term
            self._voted_for = None
            self._outbox.change += 1
        if self._leader is not None:
            self._reads_dropped += self._leader.reads.drop()
            self._last_read_token = self._leader.reads.last_token
            self._leader = None
            self._outbox.event("lost_leadership", term=term)
        if leader_id is not None and leader_id != self._leader_id:
            self._outbox.event("follows", term=term, leader=leader_id.name)
        self._election = None
        self._leader_id = leader_id
        self._role = Role.FOLLOWER if self._may_campaign() else Role.LEARNER
        if not was_follower or self._election_deadline == 0:
            self._restart_election_timer()

    def _become_pre_candidate(self) -> None:
        reason = "no leader is known" if self._leader_id is None else f"{self._leader_id.name} is silent"
        self._role = Role.PRE_CANDIDATE
        self._leader_id = None
        self._campaign(Election(self._term + 1, True, self._configuration.voters))
        self._outbox.event("became_pre_candidate", term=self._term, reason=reason, asks=self._asked())
        election = self._election
        assert election is not None
        election.record(self._id, True)
        self._conclude(election)

    def _become_candidate(self, *, transfer: bool = False) -> None:
        self._role = Role.CANDIDATE
        self._term += 1
        self._voted_for = self._id
        self._leader_id = None
        self._outbox.change += 1
        self._campaign(Election(self._term, False, self._configuration.voters), transfer=transfer)
        self._outbox.event("became_candidate", term=self._term, transfer=transfer, asks=self._asked())
        # The own vote counts, as any other, once it is durable.
        self._outbox.hold(RequestVoteResponse(self._id, self._id, self._term, True, False))

    def _asked(self) -> list[str]:
        return [voter.name for voter in self._configuration.voters if voter != self._id]

    def _campaign(self, election: Election, *, transfer: bool = False) -> None:
        self._election = election
        self._restart_election_timer()
        log, pre_vote = self._log, election.pre_vote
        # A request for votes promises a log and a term, which a crash must not take back; a pre-vote promises nothing.
        send = self._outbox.send if pre_vote else self._outbox.send_when_durable
        for voter in self._configuration.voters:
            if voter != self._id:
                send(RequestVote(self._id, voter, election.term, log.last_index, log.last_term, pre_vote, transfer))

    def _conclude(self, election: Election) -> None:
        outcome = election.outcome
        if outcome is None:
            return
        if not outcome:
            self._become_follower(self._term, None)
        elif election.pre_vote:
            self._become_candidate()
        else:
            self._become_leader()

    def _become_leader(self) -> None:
        self._role = Role.LEADER
        self._election = None
        self._leader_id = self._id
        self._leader = Leader(
            config=self._config,
            node_id=self._id,
            term=self._term,
            configuration=self._configuration,
            log=self._log,
            outbox=self._outbox,
            last_read_token=self._last_read_token,
            now=self._now,
        )
        # Reads that were to be forwarded need not be any more.
        self._leader.reads.waiting += self._forwarded.take_all()
        if self._changing_index:
            for node in members_of(self._configurations.previous) - self._members - {self._id}:
                self._leader.depart(node, self._changing_index, self._now)
        self._outbox.event("became_leader", term=self._term)
        # An entry of the own term commits those of older terms, and tells what is committed (the paper, 5.4.2 and 8).
        timestamp_us = self._log.last_timestamp_us
        self._append([entries_codec.encode(self._log.last_index + 1, self._term, EntryKind.NOOP, timestamp_us)])

    # Members.

    def _adopt_configuration(self) -> None:
        """Goes by the newest configuration in the log from now on (thesis, 4.1)."""
        self._configuration = configuration = self._configurations.current
        self._members = members_of(configuration)
        self._changing_index = self._uncommitted_change()
        self._configuration_event("configuration_adopted")
        if self._leader is not None:
            self._leader.reconfigure(configuration, self._configurations.index, self._now)
            return
        assert self._election is None, "only a leader's entries change the members"
        self._role = Role.FOLLOWER if self._may_campaign() else Role.LEARNER
        self._restart_election_timer()

    def _configuration_committed(self) -> None:
        self._changing_index = 0
        self._configuration_event("configuration_committed")
        if self._id in self._members:
            return
        if self._configurations.lost(self._id):
            self._outbox.event("removed", term=self._term)
        # So that a restarted process knows it from its disk, and does not campaign.
        self._outbox.change += 1
        if self._role is Role.FOLLOWER:
            self._role = Role.LEARNER
        if self._leader is not None:
            # Its last duty was to commit its own removal (thesis, 4.2.2). Somebody shall follow without a pause.
            successor = self._leader.complete_successor(self._now)
            if successor is not None:
                self._outbox.send(TimeoutNow(self._id, successor, self._term))
            self._become_follower(self._term, None)

    def _configuration_event(self, name: str) -> None:
        configuration = self._configuration
        self._outbox.event(
            name,
            index=self._configurations.index,
            voters=[member.name for member in configuration.voters],
            learners=[member.name for member in configuration.learners],
        )

    # Helpers.

    def _follow(self, term: int, leader_id: NodeId) -> bool:
        """Accepts the leader of a term that is not older than the own one; False if there is another already."""
        if term == self._term and self._leader_id is not None and self._leader_id != leader_id:
            self.ignored_messages += 1
            self._outbox.event("two_leaders", term=term, leader=self._leader_id.name, other=leader_id.name)
            return False
        if self._leader_id != leader_id or term > self._term:
            self._become_follower(term, leader_id)
        self._leader_heard_tick = self._now
        self._restart_election_timer()
        return True

    def _restart_election_timer(self) -> None:
        """Draws the timeout anew each time, so that split votes do not repeat (the paper, 5.2)."""
        config = self._config
        timeout = self._random.randrange(config.election_timeout_ticks, config.election_timeout_ticks_max)
        self._election_deadline = self._now + timeout
