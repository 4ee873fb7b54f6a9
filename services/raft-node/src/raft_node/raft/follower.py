"""The follower's part: it takes a leader's messages, follows it, takes the entries into its log, and answers.

Invariant: an answer to entries leaves once what it acknowledges is durable; an answer to a heartbeat promises nothing
of the log and leaves at once.

Reference: the paper, 5.2 and 5.3; for the hints of a refusal, its end.
"""

from __future__ import annotations

from raft_node.raft.log import RaftLog
from raft_node.raft.messages import AppendEntries, AppendEntriesResponse, Heartbeat, HeartbeatResponse
from raft_node.raft.roles import Roles
from raft_node.raft.state import State


class Follower:
    """The follower's side of replication.

    A member of any role hears a leader; one that hears the leader of its term, or of a newer one, follows it.
    """

    def __init__(self, state: State, roles: Roles) -> None:
        self._state = state
        self._roles = roles

    def append_entries(self, message: AppendEntries) -> None:
        """Takes entries of a leader (the paper, 5.3). The answer waits until all that it acknowledges is durable."""
        state = self._state
        if message.term < state.term:
            # The sender is deposed, and learns it from the term.
            state.outbox.send_when_durable(refusal(message, state.term, 0, 0))
            return
        if not self._roles.follow(message.term, message.sender):
            return
        state.leader_commit_index = max(state.leader_commit_index, message.commit_index)
        answer, changed = take_entries(state.log, message, state.term, watched=state.watched)
        if changed:
            state.outbox.change += 1
            # Both count: an entry was truncated, and another was appended.
            undone, came = state.configurations.rollback(state.log), state.configurations.append(message.entries)
            if undone or came:
                self._roles.adopt_configuration()
            if came and not state.changing_index:
                # A follower that lags learns of a change and of its commit at the same time.
                self._roles.configuration_committed()
        state.outbox.send_when_durable(answer)

    def heartbeat(self, message: Heartbeat) -> None:
        """Answers a heartbeat at once, for the answer promises nothing of the log."""
        state = self._state
        if message.term >= state.term:
            if not self._roles.follow(message.term, message.sender):
                return
            # The leader limits it to the entries that this node acknowledged, none of which is truncated in this term.
            if message.commit_index <= state.log.last_index:
                state.leader_commit_index = max(state.leader_commit_index, message.commit_index)
                state.log.commit_to(message.commit_index)
            else:
                state.outbox.event("log_lost", acknowledged=message.commit_index, last_index=state.log.last_index)
            if not message.answer:
                return
        state.outbox.send(
            HeartbeatResponse(
                state.id,
                message.sender,
                state.term,
                message.read_token,
                state.log.last_index,
                state.config.lease_ticks > 0,
                state.watched,
            )
        )


def refusal(message: AppendEntries, term: int, hint_index: int, hint_term: int) -> AppendEntriesResponse:
    """The answer to entries that the member does not take."""
    return AppendEntriesResponse(
        message.receiver, message.sender, term, False, 0, message.prev_log_index, hint_index, hint_term
    )


def take_entries(
    log: RaftLog, message: AppendEntries, term: int, *, watched: bool
) -> tuple[AppendEntriesResponse, bool]:
    """Takes over entries of this term's leader as far as they fit; returns the answer, and whether the log changed."""
    entries, prev = message.entries, message.prev_log_index
    last_new = prev + len(entries)
    if prev < log.commit_index:
        # Committed entries are the same at every later leader; only entries above them are compared.
        entries = entries[log.commit_index - prev :]
        last_new = max(last_new, log.commit_index)
    elif not log.matches(prev, message.prev_log_term):
        hint = log.last_index_of_term_at_most(prev, message.prev_log_term)
        return refusal(message, term, hint, log.term(hint)), False
    changed = log.merge(entries)
    # Entries behind the last new one may be a deposed leader's: its commit index does not speak of them.
    log.commit_to(min(message.commit_index, last_new))
    return AppendEntriesResponse(message.receiver, message.sender, term, True, last_new, 0, 0, 0, watched), changed
