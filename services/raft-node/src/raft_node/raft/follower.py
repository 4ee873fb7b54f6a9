"""What a follower does to its log when a leader sends entries, and how it answers.

Pure but for the log that it is given; ``raft_node.raft.node`` judges terms and roles before, and sends the answer once
what it acknowledges is durable.

Reference: the paper, 5.3; for the hints of a refusal, its end.
"""

from __future__ import annotations

from raft_node.raft.log import RaftLog
from raft_node.raft.messages import AppendEntries, AppendEntriesResponse


def refusal(message: AppendEntries, term: int, hint_index: int, hint_term: int) -> AppendEntriesResponse:
    """The answer to entries that are not taken."""
    return AppendEntriesResponse(
        message.receiver, message.sender, term, False, 0, message.prev_log_index, hint_index, hint_term
    )


def take_entries(log: RaftLog, message: AppendEntries, term: int) -> tuple[AppendEntriesResponse, bool]:
    """Takes over what a leader of this term sent, as far as it fits; gives the answer, and whether the log changed."""
    entries, prev = message.entries, message.prev_log_index
    last_new = prev + len(entries)
    if prev < log.commit_index:
        # What is committed is equal at every leader since; only what lies above needs a look.
        entries = entries[log.commit_index - prev :]
        last_new = max(last_new, log.commit_index)
    elif not log.matches(prev, message.prev_log_term):
        hint = log.last_index_of_term_at_most(prev, message.prev_log_term)
        return refusal(message, term, hint, log.term(hint)), False
    changed = log.merge(entries)
    # Entries behind the last new one may be a deposed leader's: its commit index does not speak of them.
    log.commit_to(min(message.commit_index, last_new))
    return AppendEntriesResponse(message.receiver, message.sender, term, True, last_new, 0, 0, 0), changed
