"""The messages that no correct node could have sent, whatever its state.

Pure functions. ``RaftNode.step`` asks before anything else looks at a message: what is malformed changes nothing.
"""

from __future__ import annotations

from raft_node.entry import Entry, EntryKind
from raft_node.raft.configuration import ConfigurationError, decode_configuration
from raft_node.raft.messages import (
    AppendEntries,
    AppendEntriesResponse,
    Heartbeat,
    Message,
    ReadIndexRequest,
    ReadIndexResponse,
    RequestVote,
    TimeoutNow,
)

_NUMBER_MAX = (1 << 63) - 1
"""The greatest term or index of a message: no correct node reaches it, and a greater one is malformed."""


TERMS_AHEAD_MAX = 1 << 32
"""How far ahead of a node's own term another node's term may be for it to be believed.

An election takes a shortest election timeout at least, and no setting makes that shorter than 10 ms: at a hundred
failed elections a second it takes more than a year to come so far. Whoever was away for less is heard when it comes
back; and who believes a forged term that is only so far ahead has more than two thousand million such steps left.
"""


def malformed(message: Message, term: int) -> bool:
    """Whether no correct node could have sent this to a node of this term."""
    if not 0 <= message.term < _NUMBER_MAX or message.term - term > TERMS_AHEAD_MAX:
        return True
    match message:
        case RequestVote():
            return not (0 <= message.last_log_index < _NUMBER_MAX and 0 <= message.last_log_term < message.term)
        case AppendEntries():
            return _malformed_append(message)
        case AppendEntriesResponse():
            return min(message.match_index, message.rejected_index, message.hint_index, message.hint_term) < 0
        case Heartbeat():
            return message.term == 0 or message.commit_index < 0
        case TimeoutNow():
            return message.term == 0
        case ReadIndexRequest():
            return message.term == 0 or not 0 < message.token < _NUMBER_MAX
        case ReadIndexResponse():
            return message.term == 0 or not (0 < message.token < _NUMBER_MAX and 0 < message.read_index < _NUMBER_MAX)
        case _:
            return False


def _malformed_append(message: AppendEntries) -> bool:
    prev, term = message.prev_log_index, message.prev_log_term
    if message.term == 0 or prev < 0 or not 0 <= term <= message.term or message.commit_index < 0:
        return True
    if not message.entries:
        return False
    indexes = [entry.index for entry in message.entries]
    terms = [term, *[entry.term for entry in message.entries]]
    if indexes != list(range(prev + 1, prev + 1 + len(indexes))) or terms != sorted(terms) or terms[-1] > message.term:
        return True
    return any(_no_configuration(entry) for entry in message.entries if entry.kind == EntryKind.CONFIGURATION)


def _no_configuration(entry: Entry) -> bool:
    try:
        decode_configuration(entry.command)
    except ConfigurationError:
        return True
    return False
