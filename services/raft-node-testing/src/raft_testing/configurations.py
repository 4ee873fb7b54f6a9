"""Checks the invariants of a shard's members, beside the other invariants (``raft_testing.checkers``).

``one_change_at_a_time``    a leader proposes a change only once the one before and an entry of its term are committed
``adjacent_quorums``        any majority before a change and any majority after it have a node in common
``configuration_in_force``  every node uses the newest configuration in its log; without one, that of its state
``configuration_history``   a state has the configuration that was committed last at its index

Knows of the core only the rules of the paper's figures and of the thesis, 4.1.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from raft_node.entry import Entry, EntryKind
from raft_node.raft.configuration import decode_configuration
from raft_node.raft.types import Configuration

if TYPE_CHECKING:
    from raft_node.raft.log import RaftLog

Require = Callable[[bool, str, str], None]


class Member(Protocol):
    """The attributes of a core that are checked."""

    @property
    def log(self) -> RaftLog:
        """The core's log."""

    @property
    def configuration(self) -> Configuration:
        """The configuration that the core uses."""

    @property
    def configuration_index(self) -> int:
        """The log index of that configuration; 0 if it came with the state."""

    @property
    def applied_configuration(self) -> Configuration:
        """The configuration as of the last applied entry."""


def majority(configuration: Configuration) -> int:
    """How many voters are a majority."""
    return len(configuration.voters) // 2 + 1


class ConfigurationChecker:
    """Checks the members.

    Attributes:
        newest: The last configuration that was committed.
        newest_index: The log index of that configuration.
        changes: How many configurations were committed after the first.
    """

    def __init__(self, require: Require) -> None:
        self._require = require
        self._first: Configuration | None = None
        # All configurations that any log ever held, by index and term; and the committed ones, by index.
        self._known: dict[tuple[int, int], Configuration] = {}
        self._places: list[tuple[int, int]] = []
        self._committed_indexes: list[int] = []
        self._committed: list[Configuration] = []
        # The commit index when a leader's term began, by node and term.
        self._commit_indexes: dict[str, tuple[int, int, int]] = {}

    @property
    def newest(self) -> Configuration | None:
        """The last configuration that was committed."""
        return self._committed[-1] if self._committed else None

    @property
    def newest_index(self) -> int:
        """The log index of the last configuration that was committed."""
        return self._committed_indexes[-1] if self._committed else 0

    @property
    def changes(self) -> int:
        """How many configurations were committed after the first."""
        return max(0, len(self._committed) - 1)

    def pending(self) -> list[Configuration]:
        """The configurations that are not committed but may still be."""
        start = bisect_right(self._places, (self.newest_index, 1 << 62))
        return [self._known[place] for place in self._places[start:]]

    def at(self, index: int) -> Configuration | None:
        """The configuration as of a committed entry."""
        place = bisect_right(self._committed_indexes, index)
        return self._committed[place - 1] if place else None

    def observed(self, name: str, commit_index: int, led_from: int, term: int) -> None:
        """Notes the commit index of a leader; ``led_from`` is the first entry of its term."""
        self._commit_indexes[name] = commit_index, led_from, term

    def registered(self, entry: Entry) -> None:
        """Notes that an entry is in some log."""
        if entry.kind == EntryKind.CONFIGURATION:
            self._add((entry.index, entry.term), decode_configuration(entry.command))

    def proposed(
        self,
        name: str,
        place: tuple[int, int],
        configuration: Configuration,
        previous_index: int,
        previous: Configuration,
    ) -> None:
        """Checks a configuration that a leader has appended; ``place`` is its index and term."""
        commit_index, led_from, term = self._commit_indexes.get(name, (0, 0, 0))
        what = f"{name} appends a configuration at {place}, behind the one at {previous_index}; committed is up to "
        self._require(
            previous_index <= commit_index and term == place[1] and commit_index >= led_from > 0,
            "one_change_at_a_time",
            f"{what}{commit_index}, and term {term} began at {led_from}",
        )
        self._adjacent(previous, configuration, f"{name} at {place}")
        self._add(place, configuration)

    def committed(self, entry: Entry) -> None:
        """Notes an entry that was committed for the first time."""
        if entry.kind != EntryKind.CONFIGURATION:
            return
        configuration = decode_configuration(entry.command)
        self._add((entry.index, entry.term), configuration)
        if self._committed:
            self._adjacent(self._committed[-1], configuration, f"the committed one at {entry.index}")
        self._committed_indexes.append(entry.index)
        self._committed.append(configuration)

    def state(self, name: str, index: int, configuration: Configuration) -> None:
        """Checks the configuration of a state up to an index."""
        expected = self.at(index)
        self._require(
            expected is None or configuration == expected,
            "configuration_history",
            f"{name} has a state up to {index} with {configuration}; committed was {expected}",
        )

    def in_force(self, name: str, member: Member) -> None:
        """Compares the configuration that a node uses with its log."""
        log = member.log
        index = member.configuration_index
        for place in reversed(self._places):
            if place[0] <= max(index, log.applied_index):
                break
            self._require(
                not log.matches(*place),
                "configuration_in_force",
                f"{name} goes by the configuration of entry {index}, and its log holds a newer one at {place}",
            )
        if index > log.applied_index:
            expected = self._known.get((index, log.term(index))) if index <= log.last_index else None
            self._require(
                member.configuration == expected,
                "configuration_in_force",
                f"{name} goes by {member.configuration} of entry {index}; its log says {expected}",
            )
        elif log.applied_index:
            self.state(name, log.applied_index, member.configuration)
            self.state(name, log.applied_index, member.applied_configuration)

    def _add(self, place: tuple[int, int], configuration: Configuration) -> None:
        if self._known.setdefault(place, configuration) is configuration and place not in self._places:
            insort(self._places, place)

    def _adjacent(self, before: Configuration, after: Configuration, what: str) -> None:
        union = len(set(before.voters) | set(after.voters))
        self._require(
            majority(before) + majority(after) > union,
            "adjacent_quorums",
            f"{what}: {after} and the one before, {before}, have majorities without a common node",
        )
