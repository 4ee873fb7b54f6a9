"""Checks the rules by which nodes do not disturb each other. Breaking one endangers availability, not safety.

``raft_testing.checkers`` sees a cluster from outside; the rules of this module can only be judged by one node's own
time and the messages that reached it. ``watched`` makes a core that checks itself; it never changes the core's actions.

Rules that it checks:

``asked_first``       a node campaigns only after a majority has told it that it would vote (thesis, 9.6), or when its
                      leader asked it to
``leader_protected``  a node that leads, or has heard its leader within an election timeout, neither votes nor takes
                      a newer term from whoever asks for one (thesis, 4.2.3)
``quorum_heard``      a leader that no majority has answered for two election timeouts leads no more (thesis, 6.2)
``removed_steps_down``  a leader that was removed leads no more once that is committed (thesis, 4.2.2)
``learner_heard``     a learner is made a voter only if it has acknowledged something to this leader (thesis, 4.2.1)
``stale_ignored``     an answer of an older term changes nothing that a leader knows (the paper, 5.1)
``match_never_shrinks``  the match index of a peer never decreases within a leader's term
``snapshot_fits``     behind a snapshot a log keeps its entries only if it holds the snapshot's last one, with its term
``applied_durable``   entries are handed out to be applied only when this node's own disk has them
"""

from __future__ import annotations

from raft_node.raft.messages import (
    AppendEntries,
    AppendEntriesResponse,
    Heartbeat,
    HeartbeatResponse,
    Message,
    RequestVote,
    RequestVoteResponse,
)
from raft_node.raft.node import RaftNode
from raft_node.raft.quorum import majority
from raft_node.raft.ready import Ready
from raft_node.raft.types import Configuration, NodeId, Role
from raft_testing.checkers import InvariantViolationError


def watched(core: type[RaftNode]) -> type[RaftNode]:
    """Makes a subclass of a core's class that checks itself."""
    return type(f"Watched{core.__name__}", (_Watch, core), {})


class _Watch(RaftNode):
    """A core that checks its own steps."""

    def __init__(self, *arguments: object, **named: object) -> None:
        super().__init__(*arguments, **named)  # type: ignore[arg-type]
        self._watch_ticks = 0
        self._watch_leader_tick = 0
        self._watch_grants: dict[int, set[NodeId]] = {}
        self._watch_answers: dict[NodeId, int] = {}
        self._watch_led_term = 0

    def tick(self, ticks: int = 1) -> None:
        self._watch_ticks += ticks
        super().tick(ticks)
        if self._state.role is Role.LEADER:
            self._watch_quorum()

    def step(self, message: Message) -> None:
        self._watch_heard(message)
        term, protected, said = self._state.term, self._watch_protects(), len(self._state.outbox.messages)
        known = self._watch_known()
        super().step(message)
        if isinstance(message, RequestVote) and protected and not message.transfer and message.term > term:
            granted = [one for one in self._state.outbox.messages[said:] if isinstance(one, RequestVoteResponse)]
            if self._state.term != term or any(one.granted for one in granted):
                self._watch_tell("leader_protected", f"{message.sender.name} asks for term {message.term}, and gets it")
        from_leader = message.sender == self._state.leader and message.term == self._state.term
        # An echo may be for an earlier incarnation of this node; it does not count as heard.
        if isinstance(message, AppendEntries | Heartbeat) and from_leader and message.receiver == self._state.id:
            self._watch_leader_tick = self._watch_ticks
        self._watch_progress(message, term, known)

    def restore(self, index: int, term: int, *arguments: object) -> bool:
        log = self._state.log
        fits = log.first_index - 1 <= index <= log.last_index and log.term(index) == term
        done = super().restore(index, term, *arguments)  # type: ignore[arg-type]
        if done and not fits and log.last_index > index:
            self._watch_tell("snapshot_fits", f"its log keeps entries up to {log.last_index} behind {index}/{term}")
        return done

    def propose_configuration(self, configuration: Configuration, timestamp_us: int) -> tuple[int, int]:
        learners = self._state.configuration.learners
        place = super().propose_configuration(configuration, timestamp_us)
        assert self._state.leadership is not None
        for learner in learners:
            if learner in configuration.voters and not self._state.leadership.progress[learner].match_index:
                self._watch_tell("learner_heard", f"{learner.name} becomes a voter, and has acknowledged nothing")
        return place

    def ready(self, *arguments: bool, **named: bool) -> Ready | None:
        ready = super().ready(*arguments, **named)
        known = (*self._state.configuration.voters, *self._state.configuration.learners)
        if (
            self._state.role is Role.LEADER
            and self._state.id not in known
            and self.configuration_index <= self.commit_index
        ):
            self._watch_tell("removed_steps_down", f"it leads, though it was removed at {self.configuration_index}")
        if ready is None:
            return None
        for message in ready.messages:
            asks = isinstance(message, RequestVote) and not message.pre_vote and not message.transfer
            # A candidate that waited for the disk until its campaign was over may have other members by now.
            campaigns = self._state.role is Role.CANDIDATE
            if isinstance(message, RequestVote) and asks and campaigns and message.term == self._state.term:
                grants = self._watch_grants.get(message.term, set())
                # The members may have changed by one since it asked.
                sizes = len(self._state.configuration.voters), len(self._state.configurations.previous.voters)
                if len(grants | {self._state.id}) < majority(min(sizes)):
                    names = sorted(node.name for node in grants)
                    self._watch_tell("asked_first", f"it campaigns for term {message.term}, and only {names} agreed")
        if ready.committed:
            last = ready.committed[-1]
            reader = self._state.log._reader
            if last.index > reader.last_index or reader.term(last.index) != last.term:
                self._watch_tell(
                    "applied_durable", f"entry {last.index} is handed out, and its log ends with {reader.last_index}"
                )
        return ready

    # The leader's knowledge of its peers.

    def _watch_tell(self, rule: str, what: str) -> None:
        raise InvariantViolationError(rule, f"{self._state.id.name}, term {self._state.term}: {what}")

    def _watch_heard(self, message: Message) -> None:
        if message.receiver != self._state.id:
            return
        match message:
            case RequestVoteResponse(granted=True, pre_vote=True):
                self._watch_grants.setdefault(message.term, set()).add(message.sender)
            case AppendEntriesResponse() | HeartbeatResponse():
                if message.term == self._state.term:
                    self._watch_answers[message.sender] = self._watch_ticks

    def _watch_protects(self) -> bool:
        if self._state.role is Role.LEADER:
            return True
        since = self._watch_ticks - self._watch_leader_tick
        return self._state.leader is not None and since < self._state.config.election_timeout_ticks

    def _watch_known(self) -> dict[NodeId, tuple[int, int, int]]:
        """The matchIndex and nextIndex of each peer of a leader, and the tick at which it was heard."""
        if self._state.leadership is None:
            return {}
        return {
            node: (peer.match_index, peer.next_index, peer.heard_tick)
            for node, peer in self._state.leadership.progress.items()
        }

    def _watch_progress(self, message: Message, term: int, before: dict[NodeId, tuple[int, int, int]]) -> None:
        if self._state.leadership is None or not before or self._state.term != term:
            return
        after = self._watch_known()
        answer = isinstance(message, AppendEntriesResponse | HeartbeatResponse)
        if answer and message.term < term and after != before:
            self._watch_tell("stale_ignored", f"an answer of {message.sender.name} in term {message.term} counts")
        for node, (match, _, _) in before.items():
            if node in after and after[node][0] < match:
                self._watch_tell("match_never_shrinks", f"{node.name} goes from {match} back to {after[node][0]}")

    def _watch_quorum(self) -> None:
        now, answers = self._watch_ticks, self._watch_answers
        if self._watch_led_term != self._state.term:
            self._watch_led_term = self._state.term
            answers.clear()
        voters = self._state.configuration.voters
        ticks = sorted(now if voter == self._state.id else answers.setdefault(voter, now) for voter in voters)
        heard = ticks[(len(ticks) - 1) // 2]
        if now - heard >= 2 * self._state.config.election_timeout_ticks_max:
            self._watch_tell("quorum_heard", f"it leads, and heard no majority for {now - heard} ticks")
