"""Which configuration is in force, and which may come next: members change one at a time.

A configuration is in force as soon as its entry is in the log, committed or not, and until that entry is cut off again.
Pure bookkeeping over the log; ``raft_node.raft.node`` acts on it.

Invariants:

1. ``current`` is that of the last CONFIGURATION entry in the log, or the one of the applied state if there is none
   behind it.
2. Any quorum of one configuration meets any quorum of the next: ``check_change`` lets one member differ.
3. Whoever becomes a voter was a learner before (the thesis, 4.2.1).

Reference: the thesis, 4.1 and 4.2; for the rule that nothing is changed before an entry of the leader's own term is
committed, D. Ongaro's message "bug in single-server membership changes" to raft-dev, 2015.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from raft_node.entry import Entry, EntryKind
from raft_node.errors import ConfigurationRefusedError
from raft_node.raft.configuration import ConfigurationError, check_configuration, decode_configuration
from raft_node.raft.log import RaftLog
from raft_node.raft.types import NO_MEMBERS, Configuration, NodeId

# A plain number: every entry of every batch is compared with it.
_CONFIGURATION = int(EntryKind.CONFIGURATION)


class Adopted(NamedTuple):
    """A configuration, and the entry that brought it."""

    entry_index: int
    term: int
    configuration: Configuration


class ConfigurationHistory:
    """The configurations in the tail of the log, on top of the applied one.

    Attributes:
        applied: The configuration as of the applied index.
    """

    __slots__ = ("_applied_entry_index", "_tail", "applied")

    def __init__(self, configuration: Configuration) -> None:
        if configuration != NO_MEMBERS:
            check_configuration(configuration)
        self.applied = configuration
        self._applied_entry_index = 0
        self._tail: list[Adopted] = []

    @property
    def current(self) -> Configuration:
        """The configuration in force."""
        return self._tail[-1].configuration if self._tail else self.applied

    @property
    def previous(self) -> Configuration:
        """The configuration before the one in force, as far as this node knows it."""
        return self._tail[-2].configuration if len(self._tail) > 1 else self.applied

    def lost(self, node: NodeId) -> bool:
        """Whether a node was a member before, as far as this node knows, and is none now."""
        earlier = [self.applied, *(adopted.configuration for adopted in self._tail)]
        return node not in members_of(earlier.pop()) and any(node in members_of(each) for each in earlier)

    @property
    def index(self) -> int:
        """The entry of the configuration in force; 0 when it came with the applied state."""
        return self._tail[-1].entry_index if self._tail else self._applied_entry_index

    def scan(self, log: RaftLog) -> None:
        """Finds the configurations behind the applied index, once, at the start."""
        self.append(log.stored_configurations())

    def append(self, entries: Iterable[Entry]) -> bool:
        """Adopts the configurations among entries that are in the log now; returns whether there was a new one."""
        found = [
            Adopted(entry.index, entry.term, decode_configuration(entry.command))
            for entry in entries
            if entry.kind == _CONFIGURATION and entry.index > self.index
        ]
        self._tail += found
        return bool(found)

    def rollback(self, log: RaftLog) -> bool:
        """Gives up the configurations whose entries were cut off; returns whether there were any."""
        tail = self._tail
        before = len(tail)
        while tail and not log.matches(tail[-1].entry_index, tail[-1].term):
            tail.pop()
        return len(tail) < before

    def settle(self, applied_index: int) -> None:
        """Notes that entries up to an index were applied: they are never cut off again."""
        while self._tail and self._tail[0].entry_index <= applied_index:
            self._applied_entry_index, _, self.applied = self._tail.pop(0)

    def restore(self, index: int, configuration: Configuration, *, keeps_tail: bool) -> None:
        """Begins anew with the configuration of a snapshot up to ``index``; later ones stay if ``keeps_tail``."""
        self._tail = [adopted for adopted in self._tail if keeps_tail and adopted.entry_index > index]
        self.applied = configuration
        self._applied_entry_index = 0


def members_of(configuration: Configuration) -> frozenset[NodeId]:
    """All members, voters and learners."""
    return frozenset((*configuration.voters, *configuration.learners))


def with_learner(configuration: Configuration, node: NodeId, address: str = "") -> Configuration:
    """The configuration with one learner more, the first step of joining. Its address may come with it."""
    addresses = (*configuration.addresses, (node.name, address)) if address else configuration.addresses
    return Configuration(configuration.voters, (*configuration.learners, node), tuple(sorted(addresses)))


def with_voter(configuration: Configuration, learner: NodeId) -> Configuration:
    """The configuration with a learner made a voter."""
    learners = tuple(node for node in configuration.learners if node != learner)
    return Configuration((*configuration.voters, learner), learners, configuration.addresses)


def without(configuration: Configuration, member: NodeId) -> Configuration:
    """The configuration without a member."""
    return Configuration(
        tuple(node for node in configuration.voters if node != member),
        tuple(node for node in configuration.learners if node != member),
        tuple((name, address) for name, address in configuration.addresses if name != member.name),
    )


def check_change(current: Configuration, wanted: Configuration) -> NodeId | None:
    """Checks that one member differs; returns the learner that is to become a voter, if that is the change.

    Raises:
        ConfigurationRefusedError: It is no configuration, or not one step away: a learner added, a learner made a
            voter, a voter or a learner removed.
    """
    try:
        check_configuration(wanted)
    except ConfigurationError as error:
        raise ConfigurationRefusedError(str(error)) from error
    voters, learners = set(current.voters), set(current.learners)
    new_voters, new_learners = set(wanted.voters) - voters, set(wanted.learners) - learners
    old_voters, old_learners = voters - set(wanted.voters), learners - set(wanted.learners)
    match len(new_voters), len(new_learners), len(old_voters), len(old_learners):
        case (0, 1, 0, 0) | (0, 0, 1, 0) | (0, 0, 0, 1):
            return None
        case (1, 0, 0, 1) if new_voters == old_learners:
            return new_voters.pop()
    raise ConfigurationRefusedError(
        "members change one at a time: a learner is added, a learner is made a voter, or a member is removed"
    )
