"""The right contents of an ordeal's disks: the appended entries, the committed entries, and every state.

It chooses the next append as a leader would, and knows both logs while an append is under way: after a crash
the one or the other must be there.

Invariants:
1. Up to ``committed_index`` no entry ever changes; ``state(i)`` is the state after the first ``i`` committed entries.
2. The node's log equals the committed entries up to ``agreed_index``.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from struct import Struct
from typing import NamedTuple

from raft_node import entry as entries_codec
from raft_node.entry import Entry, EntryKind
from raft_node.storage.memtable import Batch
from raft_node.storage.merges.tasks import Task, TaskResult
from raft_node.storage.record import ALIGNMENT, HEADER_BYTES, MARK
from raft_node.storage.wal.log import Wal, WalHardState
from raft_testing.checkers import InvariantViolationError

_KEYS = 120
_COMMAND = Struct("<HB")


class Log(NamedTuple):
    """A log and its hard state: the entries behind ``base_index``."""

    base_index: int
    base_term: int
    entries: tuple[Entry, ...]
    hard_state: WalHardState

    @property
    def last_index(self) -> int:
        """The last entry."""
        return self.base_index + len(self.entries)

    def term(self, index: int) -> int:
        """The term of an entry, or of the base."""
        return self.entries[index - self.base_index - 1].term if index > self.base_index else self.base_term


class Append(NamedTuple):
    """The next append."""

    hard_state: WalHardState | None
    truncate_from: int | None
    entries: Sequence[Entry]


def batch_of(entry: Entry) -> Batch:
    """The writes of an applied entry."""
    number, deletes = _COMMAND.unpack_from(entry.command)
    value = None if deletes else entry.command[_COMMAND.size :]
    return [(b"key/%03d" % number, value), (b"applied", b"%d" % entry.index)]


class Model:
    """See the module.

    Attributes:
        keys: All keys that are ever written.
        hard_state: The hard state that was appended last.
        flushed_index: The entry up to which the state on disk goes at least.
        checkpoint_index: The entry of the checkpoint that must exist; 0 if there need not be any.
    """

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._term = 1
        self._committed: list[Entry] = []
        self._states: list[dict[bytes, bytes]] = [{}]
        self._log = Log(0, 0, (), WalHardState(0, "", 0, 0))
        self._next: Log | None = None
        # A few keys are written all the time; the others are left to sink to the deepest level.
        self._hot = chance.randint(1, 20)
        self.keys = [b"key/%03d" % number for number in range(_KEYS)]
        self.flushed_index = 0
        self.checkpoint_index = 0

    @property
    def hard_state(self) -> WalHardState:
        """The hard state that was appended last."""
        return self._log.hard_state

    @property
    def committed_index(self) -> int:
        """The last entry that is committed on any node."""
        return len(self._committed)

    def committed(self, index: int) -> Entry:
        """A committed entry."""
        return self._committed[index - 1]

    def state(self, index: int) -> dict[bytes, bytes]:
        """The state after the committed entries up to ``index``."""
        return self._states[index]

    # What happens.

    @property
    def agreed_index(self) -> int:
        """The last entry up to which the node's log equals the committed entries."""
        log = self._log
        index = min(log.last_index, self.committed_index)
        while index > log.base_index and self._committed[index - 1] != log.entries[index - log.base_index - 1]:
            index -= 1
        return index

    def next_append(self) -> Append:
        """The next message of the leader: entries that the node lacks, new entries, or a vote without entries."""
        chance, log = self._chance, self._log
        agreed = self.agreed_index
        if chance.random() < 0.1:
            self._term += 1
            return Append(self._vote(), None, ())
        if agreed < self.committed_index:
            entries = self._committed[agreed : agreed + chance.randint(1, 20)]
            return Append(self._vote(), agreed + 1 if log.last_index > agreed else None, entries)
        truncate_from = None
        if log.last_index > agreed and chance.random() < 0.3:
            # Another leader, without some of what was not committed.
            self._term += 1
            truncate_from = chance.randint(agreed + 1, log.last_index)
        first = log.last_index + 1 if truncate_from is None else truncate_from
        entries = [self._entry(index) for index in range(first, first + chance.randint(1, 8))]
        return Append(self._vote() if chance.random() < 0.5 or truncate_from else None, truncate_from, entries)

    def begin(self, append: Append) -> None:
        """Begins an append; until ``end``, its entries may be there or not."""
        log = self._log
        kept = log.entries
        if append.truncate_from is not None:
            kept = kept[: append.truncate_from - log.base_index - 1]
        self._next = log._replace(
            entries=(*kept, *append.entries), hard_state=append.hard_state or self._log.hard_state
        )

    def begin_reset(self, index: int, term: int, hard_state: WalHardState) -> bool:
        """Begins a reset of the log behind a snapshot; returns True if the entries behind it stay."""
        log = self._log
        kept = log.base_index <= index <= log.last_index and log.term(index) == term
        self._next = log._replace(hard_state=hard_state) if kept else Log(index, term, (), hard_state)
        return kept

    def end(self) -> None:
        """Ends the append or reset that was begun: it is durable."""
        assert self._next is not None
        self._log, self._next = self._next, None

    def commit(self) -> None:
        """Commits some of the node's entries, if its leader has all committed ones."""
        log = self._log
        if self.agreed_index == self.committed_index:
            last = self._chance.randint(self.committed_index, max(self.committed_index, log.last_index))
            for entry in log.entries[self.committed_index - log.base_index : last - log.base_index]:
                self._note(entry)

    def grow_elsewhere(self) -> None:
        """Commits entries that this node does not have."""
        self._term += 1
        for _ in range(self._chance.randint(1, 30)):
            self._note(self._entry(self.committed_index + 1))

    # What is there.

    def settle(self, wal: Wal, flushed_index: int) -> None:
        """Decides after a start whether the append or reset that was begun was done or not."""
        before, after = self._log, self._next
        self._next = None
        if after is None:
            return
        if after.hard_state == before.hard_state and after.entries == before.entries:
            self._log = after
            return
        state = wal.hard_state
        shape = (wal.last_index, state)
        done = shape == (after.last_index, after.hard_state)
        if done and shape == (before.last_index, before.hard_state):
            done = bool(after.entries) and wal.term(wal.last_index) == after.term(after.last_index)
        self._log = after if done else before
        assert flushed_index <= self.committed_index, "more was flushed than is committed"

    def check_log(self, wal: Wal) -> None:
        """Compares a log with its right contents.

        Raises:
            InvariantViolationError: The contents are different.
        """
        log = self._log
        if (wal.last_index, wal.hard_state) != (log.last_index, log.hard_state):
            what = f"it ends with {wal.last_index} and {wal.hard_state}, not {log.last_index} and {log.hard_state}"
            raise InvariantViolationError("log_durable", what)
        first = wal.first_index
        if first > log.last_index:
            return
        wanted = log.entries[first - log.base_index - 1 :]
        if first <= log.base_index or list(wanted) != wal.entries(first, wal.last_index + 1, 1 << 30):
            raise InvariantViolationError("log_durable", f"the entries from {first} on are not those appended")
        if wal.term(first - 1) != log.term(first - 1):
            raise InvariantViolationError("log_durable", f"entry {first - 1} has another term")

    def _note(self, entry: Entry) -> None:
        state = dict(self._states[-1])
        for key, value in batch_of(entry):
            if value is None:
                state.pop(key, None)
            else:
                state[key] = value
        self._committed.append(entry)
        self._states.append(state)

    def _vote(self) -> WalHardState:
        chance = self._chance
        return WalHardState(self._term, "n" * chance.randint(0, 9), chance.getrandbits(32), chance.randint(0, 99))

    def _entry(self, index: int) -> Entry:
        chance = self._chance
        number = chance.randrange(self._hot if chance.random() < 0.5 else _KEYS)
        deletes = chance.random() < 0.25
        size = chance.choice((0, 20, 40, 40, 80, 700))
        # Zeros look like bytes that were never written.
        value = bytes(size) if chance.random() < 0.1 else b"%d." % index + chance.randbytes(size)
        command = _COMMAND.pack(number, deletes) + (b"" if deletes else value)
        return entries_codec.encode(index, self._term, EntryKind.COMMAND, index, command)


@dataclass(slots=True)
class UnderWay:
    """A task that was given to a worker.

    Attributes:
        task: The task.
        result: What the worker wrote, once it is done.
    """

    task: Task
    result: TaskResult | None = None


def bit_to_flip(content: bytes, chance: random.Random) -> int:
    """A bit of a file: any, or one in what looks like the header of a frame, where few are."""
    headers = [place for place in range(0, len(content), ALIGNMENT) if content[place] == MARK]
    if headers and chance.random() < 0.5:
        # It may only look like one, at the very end of a table.
        return min(8 * chance.choice(headers) + chance.randrange(8 * HEADER_BYTES), 8 * len(content) - 1)
    return chance.randrange(8 * len(content.rstrip(b"\0") or content))
