"""The way of every message into the core: whether it counts, and who deals with it.

Invariant: a message for another incarnation, or that no correct node could have sent, changes nothing; of nodes outside
the configuration only an elected leader and whoever asks before it campaigns are heard.
"""

from __future__ import annotations

from typing import assert_never

from raft_node.raft.follower import Follower
from raft_node.raft.messages import (
    AppendEntries,
    AppendEntriesResponse,
    Heartbeat,
    HeartbeatResponse,
    Message,
    ReadIndexRequest,
    ReadIndexResponse,
    RequestVote,
    RequestVoteResponse,
    TimeoutNow,
)
from raft_node.raft.roles import Roles
from raft_node.raft.state import State
from raft_node.raft.types import ReadState
from raft_node.raft.validity import malformed
from raft_node.raft.voter import Voter


class Inbox:
    """Judges the messages for one member, and hands them to its parts."""

    def __init__(self, state: State, roles: Roles, voter: Voter, follower: Follower) -> None:
        self._state = state
        self._roles = roles
        self._voter = voter
        self._follower = follower

    def step(self, message: Message) -> None:
        """Takes a message from a peer. It may come late, twice, out of order, or from anybody."""
        state = self._state
        if message.receiver != state.id or message.sender == state.id:
            state.ignored_messages += 1
        elif not self._admits(message):
            state.ignored_messages += 1
            if isinstance(message, RequestVote):
                self._voter.refuse(message, "not a member")
        elif malformed(message, state.term):
            state.ignored_messages += 1
            state.outbox.event("malformed_message", sender=message.sender.name, kind=type(message).__name__)
        else:
            self.dispatch(message)

    def _admits(self, message: Message) -> bool:
        """Whether the sender may send such a message.

        A node outside the configuration may belong to a newer one that this node has still to learn of, and may need
        its vote for that (thesis, 4.1). So an elected leader is heard when it sends entries, and a candidate when it
        asks first; everything else of strangers changes nothing.
        """
        state = self._state
        sender = message.sender
        if sender in state.members or sender == state.leader:
            return True
        match message:
            case AppendEntries():
                return True
            case RequestVote():
                return message.pre_vote or sender == state.introduced
            case AppendEntriesResponse() | HeartbeatResponse():
                # The sender is a removed node that is being told so; its term does not count.
                return (
                    state.leadership is not None and sender in state.leadership.progress and message.term <= state.term
                )
            case _:
                return False

    def dispatch(self, message: Message) -> None:
        """Hands a message to the part that it is for. Requires: it is well-formed, and its sender may send it."""
        match message:
            case RequestVote():
                self._voter.request_vote(message)
            case RequestVoteResponse():
                self._voter.request_vote_response(message)
            case TimeoutNow():
                self._voter.timeout_now(message)
            case AppendEntries():
                self._follower.append_entries(message)
            case AppendEntriesResponse():
                self._append_entries_response(message)
            case Heartbeat():
                self._follower.heartbeat(message)
            case HeartbeatResponse():
                self._heartbeat_response(message)
            case ReadIndexRequest():
                self._read_index_request(message)
            case ReadIndexResponse():
                self._read_index_response(message)
            case _:
                assert_never(message)

    def _append_entries_response(self, message: AppendEntriesResponse) -> None:
        state = self._state
        if message.term > state.term:
            self._roles.become_follower(message.term, None)
        elif state.leadership is not None and message.term == state.term:
            if message.match_index > state.log.last_index:
                state.ignored_messages += 1
                state.outbox.event("malformed_message", sender=message.sender.name, kind="AppendEntriesResponse")
                return
            state.leadership.append_entries_response(message, state.now)

    def _heartbeat_response(self, message: HeartbeatResponse) -> None:
        state = self._state
        if message.term > state.term:
            self._roles.become_follower(message.term, None)
        elif state.leadership is not None and message.term == state.term:
            state.leadership.heartbeat_response(message, state.now)

    def _read_index_request(self, message: ReadIndexRequest) -> None:
        """Takes a forwarded read if this node leads in its term; a member that asked another node will ask again."""
        state = self._state
        if state.leadership is not None and message.term == state.term:
            state.leadership.read_index_request(message)

    def _read_index_response(self, message: ReadIndexResponse) -> None:
        state = self._state
        if message.term > state.term:
            self._roles.become_follower(message.term, None)
        elif message.term == state.term and message.sender == state.leader:
            state.read_states += [
                ReadState(context, message.read_index) for context in state.forwarded.answered(message.token)
            ]
