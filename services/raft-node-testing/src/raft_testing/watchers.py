"""Simulated watches: each goes on from its position at any node, and its changes are compared with the log's.

The node that applies an entry first gives its changes, which are compared with the reference. A watch that is
told that changes are gone goes on at the oldest ones that the node holds, as a client does after it has read all keys
again. It may go on behind any earlier change, as a client does that comes back with an id.

Invariants:
1. All nodes make the same changes of an entry, with every revision once and in order.
2. A watch gets exactly the changes behind its position, up to the position that the node tells.
3. A key expires only if it was there.
"""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Coroutine, Sequence
from types import SimpleNamespace
from typing import Any, TypeVar, cast

from doug_wire.watch import Change, ChangeKind, decode_changes
from raft_node.kv.changes import EVERYTHING, changes_in
from raft_node.kv.state_machine import StateMachine
from raft_node.runtime.reads.watches import HistoryGoneError, Position, Watches
from raft_node.storage.changes.history import History, Limits
from raft_node.storage.changes.span import Span
from raft_node.storage.engine import Engine
from raft_node.storage.memtable import Batch
from raft_testing.checkers import InvariantViolationError
from raft_testing.files import MemoryFileSystem

WATCHERS = 3
LOOKS = 0.3
"""The probability that a watch goes on when an entry is applied."""

T = TypeVar("T")
_NO_FILES = MemoryFileSystem()


class NodeHistory:
    """The product's history of changes for one simulated node, in memory alone."""

    def __init__(self, machine: StateMachine) -> None:
        """Begins behind the last entry of the machine."""
        self._history = History(_NO_FILES, "history", Limits())
        self._history.begin(machine.revision)
        self._rotations = 0
        engine = cast("Engine", SimpleNamespace(history=self._history))
        self.watches = Watches(engine, lambda: machine, WATCHERS, lambda reason: None)

    def add(self, batch: Batch, span: Span) -> None:
        """Adds the changes of a batch that was written."""
        self._history.add(batch, span)

    def flush(self) -> None:
        """Notes that the memtable was flushed; older changes than those of the last two are dropped."""
        self._history.rotate()
        self._rotations += 1
        if self._rotations > 1:
            self._history.flushed(0)


class Watchers:
    """All watches of a run, and the log of changes with which they are compared.

    Attributes:
        told: How many changes the watches got.
        resyncs: How often a watch was told that changes are gone.
    """

    def __init__(self) -> None:
        self.told = 0
        self.resyncs = 0
        self._chance = random.Random(5)  # noqa: S311
        self._positions = [Position(0)] * WATCHERS
        self._by_entry: list[list[Change]] = []
        self._log: list[Change] = []
        self._orders: list[tuple[int, int]] = []
        self._last: dict[bytes, int] = {}

    def applied(self, index: int, batch: Batch, span: Span) -> None:
        """Notes the changes of an entry that a node has applied."""
        changes = changes_in(batch, span.notes, (span.after, 0))
        if index <= len(self._by_entry):
            _require(changes == self._by_entry[index - 1], f"entry {index} is {changes} here, and not elsewhere")
            return
        _require(
            sorted({change.revision for change in changes}) == list(range(span.after + 1, span.upto + 1)),
            f"entry {index} has the changes {changes} behind {span.after} up to {span.upto}",
        )
        for change in changes:
            if change.kind == ChangeKind.EXPIRE:
                _require(self._last.get(change.key) == ChangeKind.PUT, f"{change.key!r} expires without being there")
            self._last[change.key] = change.kind
        self._by_entry.append(changes)
        self._log += changes
        self._orders += [(change.revision, change.place) for change in changes]

    def look(self, watches: Watches) -> None:
        """Sometimes lets one of the watches go on at a node."""
        if self._chance.random() > LOOKS:
            return
        number = self._chance.randrange(WATCHERS)
        position = self._positions[number]
        if position.mark > watches.revision:
            return
        watch = watches.open(position, EVERYTHING)
        try:
            step = _finished(watches.step(watch))
        except HistoryGoneError as gone:
            _require(gone.oldest > position.mark, f"behind {position} nothing is held, and behind {gone.oldest} all")
            self.resyncs += 1
            self._positions[number] = Position(gone.oldest)
            return
        finally:
            watches.close(watch)
        if step is None:
            _require(position.mark == watches.revision, f"behind {position} there is nothing up to {watches.revision}")
            return
        self._positions[number] = self._check(position, decode_changes(step.records), step.upto)

    def _check(self, position: Position, changes: Sequence[Change], upto: int) -> Position:
        """Compares changes with the log; returns the new position of the watch."""
        start = (position.revision, position.place) if position.place else (position.revision + 1, 0)
        expected = self._log[bisect_left(self._orders, start) : bisect_left(self._orders, (upto + 1, 0))]
        _require(list(changes) == expected, f"behind {position} up to {upto} it is told {changes}, and not {expected}")
        self.told += len(changes)
        if not changes or self._chance.random() < 0.5:
            return Position(upto)
        change = self._chance.choice(changes)
        return Position(change.revision, 0 if change.last else change.place + 1)


def _finished(step: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that waits for nothing."""
    try:
        step.send(None)
    except StopIteration as end:
        return cast("T", end.value)
    raise AssertionError("a step in memory waits for something")


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise InvariantViolationError("watches", what)
