"""The requests that wait at a simulated node: writes for their entry, reads for their confirmation and for applying.

It knows neither the core nor the state. Invariant: every request hears exactly one outcome.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from raft_node.entry import Entry
from raft_testing.environment import Environment, Outcome


class WaitingRequests:
    """The writes and reads of one node that have no answer yet."""

    def __init__(self, environment: Environment, name: str) -> None:
        """Creates an empty list for the node ``name``."""
        self._environment = environment
        self._name = name
        self._writes: dict[int, tuple[int, Outcome]] = {}
        self._reads: dict[int, tuple[str, Outcome, int]] = {}
        self._confirmed: list[tuple[int, int]] = []
        self._next_context = 0

    def add_write(self, index: int, term: int, outcome: Outcome) -> None:
        """Adds a write that was proposed as an entry."""
        if replaced := self._writes.get(index):
            assert replaced[0] < term, "two proposals of a term share an index"
            # The entry was truncated, and the node leads again before it learned which entry replaced it.
            replaced[1]("lost")
        self._writes[index] = (term, outcome)

    def answer_write(self, entry: Entry, told: str | None) -> None:
        """Answers the write that waits for the index of an applied entry, or tells it that another entry is there."""
        waiting = self._writes.pop(entry.index, None)
        if waiting is None:
            return
        term, outcome = waiting
        if term == entry.term:
            self._environment.checkers.acknowledged(self._name, entry.index, entry.term)
            outcome("ok", told)
        else:
            self._environment.counters["superseded"] += 1
            outcome("refused")

    def lose_writes(self, upto: int) -> None:
        """Ends the writes up to an index: a snapshot does not tell whether their entries were committed."""
        for index in [index for index in self._writes if index <= upto]:
            self._writes.pop(index)[1]("lost")

    def add_read(self, key: str, outcome: Outcome) -> int:
        """Adds a linearizable read; returns its context for the core."""
        self._next_context += 1
        self._reads[self._next_context] = (key, outcome, self._environment.checkers.committed_index)
        return self._next_context

    def refuse_read(self, context: int, leader: str) -> None:
        """Refuses a read, which must be sent to another node."""
        self._reads.pop(context)[1]("refused", None, leader)

    def confirm(self, states: Iterable[tuple[int, int]]) -> None:
        """Notes that reads may be served once their index is applied."""
        for context, index in states:
            self._environment.checkers.read_confirmed(self._name, index, self._reads[context][2])
            self._confirmed.append((context, index))

    def take_reads(self, applied: int) -> Iterator[tuple[str, Outcome]]:
        """The confirmed reads whose index is applied, in the order of their confirmation."""
        waiting, self._confirmed = self._confirmed, []
        due: list[int] = []
        for context, index in waiting:
            if index <= applied:
                due.append(context)
            else:
                self._confirmed.append((context, index))
        for context in due:
            key, outcome, _ = self._reads.pop(context)
            yield key, outcome

    def lose_all(self) -> None:
        """Drops all requests: the process died, so their clients get no answer."""
        self._confirmed.clear()
        outcomes = [outcome for _, outcome in self._writes.values()]
        outcomes += [outcome for _, outcome, _ in self._reads.values()]
        self._writes.clear()
        self._reads.clear()
        for outcome in outcomes:
            outcome("lost")
