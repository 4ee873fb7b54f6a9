"""Turns messages, writes and configurations into lines of a trace."""

from __future__ import annotations

from typing import Any

from raft_node.raft.messages import AppendEntries, Message
from raft_node.raft.types import Configuration
from raft_testing.disk import SimulatedLog
from raft_testing.snapshots import SnapshotChunk, SnapshotMessage


def describe(message: Message | SnapshotMessage) -> str:
    """A message as the trace shows it."""
    kind = type(message).__name__
    if isinstance(message, SnapshotChunk):
        end = message.offset + len(message.data)
        index = message.head.applied_index
        return f"{kind} from {message.sender.name} index={index} [{message.offset}, {end}) of {message.size}"
    if isinstance(message, AppendEntries):
        return (
            f"{kind} from {message.sender.name} term={message.term} prev={message.prev_log_index}/"
            f"{message.prev_log_term} commit={message.commit_index} entries={span(message.entries)}"
        )
    return f"{kind} from {message.sender.name} {message[2:]}"


def show(configuration: Configuration) -> str:
    """A configuration as the trace shows it."""
    voters = " ".join(f"{node.name}#{node.incarnation}" for node in configuration.voters)
    return f"voters={voters} learners={' '.join(f'{node.name}#{node.incarnation}' for node in configuration.learners)}"


def span(entries: Any) -> str:
    """The first and the last of some entries, as index/term."""
    if not entries:
        return "-"
    return f"{entries[0].index}/{entries[0].term}..{entries[-1].index}/{entries[-1].term}"


def state(hard_state: Any) -> str:
    """Term, vote and commit index of a hard state."""
    if hard_state is None:
        return "-"
    voted_for = hard_state.voted_for.name if hard_state.voted_for else "-"
    return f"{hard_state.term}/{voted_for}/{hard_state.commit_index}"


def hard(log: SimulatedLog) -> str:
    """The hard state of a log."""
    return f"hard={state(log.hard_state)}"
