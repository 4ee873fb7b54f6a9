"""The state while a run of entries is applied: what commands read of it, and the effects that they leave.

Reads see the effects of the commands before, within the same run too. What lies in the store must have been fetched
beforehand: see ``raft_node.kv.state_machine``. This module knows no command.

Invariants:
1. What a command reads and leaves depends on the entries before it alone: not on how they were cut into runs, nor on
   what is in memory, nor on what compactions have removed.
2. ``undo`` leaves nothing of what was done since its ``mark``, but for the hint when to look for expired keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from doug_wire.command import KEEP, Command, Condition, ConditionKind
from doug_wire.pipe import ResultRecord, Status
from raft_node.kv.changes import Removal
from raft_node.kv.keyspace import StoredValue, due_key, encode_value, user_key
from raft_node.kv.ownership import Ownership
from raft_node.kv.visibility import find_visible

NEVER_US = 1 << 63
"""Later than any deadline."""
READ_BYTES_MAX = 16 << 20
"""The bytes that one transaction or batch may read and store; one that would do more is refused, unapplied."""
_UNBOUNDED = 1 << 63


class NotFetchedError(Exception):
    """A command reads a key that was not fetched; it is undone, and carried out anew with that key."""

    def __init__(self, key: bytes) -> None:
        """Takes the key that the command reads."""
        super().__init__()
        self.key = key


class TooMuchReadError(Exception):
    """A transaction or a batch goes beyond ``READ_BYTES_MAX``."""


class Details(NamedTuple):
    """The parts of an outcome beside its status and revision; see ``doug_wire.pipe.ResultRecord``."""

    content_type: bytes = b""
    value: bytes = b""
    expires_at_ms: int = 0
    content_encoding: bytes = b""
    replayed: bool = False


class Outcome(NamedTuple):
    """The outcome of applying one entry.

    Attributes:
        status: A ``doug_wire.pipe.Status``.
        revision: The revision that the entry was given; ``Status`` says what it means for other statuses.
        details: The other parts of the outcome; None if there are none.
    """

    status: int
    revision: int
    details: Details | None = None

    def record(self, record_id: int) -> ResultRecord:
        """The outcome as a result record."""
        return ResultRecord(record_id, self.status, self.revision, *(self.details or Details()))


class Limits(NamedTuple):
    """The limits of what is kept of tokens.

    Attributes:
        kept_us: For how many microseconds of log time a token is kept.
        count_max: How many tokens are kept at most.
        bytes_max: How many bytes the tokens take at most.
        before_us: Tokens were kept for a shorter time before this log time; 0 if that does not matter any more.
        before_kept_us: That shorter time.
    """

    kept_us: int = 24 * 3600 * 1_000_000
    count_max: int = 100_000
    bytes_max: int = 256 << 20
    before_us: int = 0
    before_kept_us: int = 0

    @property
    def wanted(self) -> tuple[int, int, int]:
        """The limits that were asked for, without what was before."""
        return self.kept_us, self.count_max, self.bytes_max


class Mark(NamedTuple):
    """A point to which ``Work.undo`` goes back."""

    effects: int
    revision: int
    tokens: int
    token_bytes: int


WRONG_SHARD = Outcome(Status.WRONG_SHARD, 0)


class Work:
    """See the module.

    Attributes:
        clock_us: The log time as of the entry that is applied.
        revision: The last revision given out.
        tokens: How many tokens are kept.
        token_bytes: How many bytes the tokens take.
        limits: How many tokens and bytes of tokens may be kept.
        ownership: The slots of the shard.
        effects: The keys and values to be written, in order; None for a removal.
        removals: The effects that remove users' values, with the changes that they are.
        next_due_us: No key that was written here expires before this log time.
        steps: How many values were read and stored.
        bytes: How many bytes these values had.
    """

    __slots__ = (
        "_bytes_end",
        "_fetched",
        "_fresh",
        "_marked",
        "_one_revision",
        "_overlay",
        "_seen",
        "bytes",
        "clock_us",
        "effects",
        "limits",
        "next_due_us",
        "ownership",
        "removals",
        "revision",
        "steps",
        "token_bytes",
        "tokens",
    )

    def __init__(self, ownership: Ownership, limits: Limits, revision: int, tokens: int, token_bytes: int = 0) -> None:
        """Begins with the present state of the shard."""
        self.clock_us = 0
        self.revision = revision
        self.tokens, self.token_bytes = tokens, token_bytes
        self.limits = limits
        self.ownership = ownership
        self.effects: list[tuple[bytes, bytes | None]] = []
        self.removals: list[Removal] = []
        self.next_due_us = NEVER_US
        self.steps = self.bytes = 0
        self._bytes_end = _UNBOUNDED
        self._fetched: Mapping[bytes, bytes | None] = {}
        # The values in the first ``_seen`` effects: those before the last mark, and those
        # behind it, which ``undo`` throws away.
        self._overlay: dict[bytes, bytes | None] = {}
        self._fresh: dict[bytes, bytes | None] = {}
        self._marked = self._seen = 0
        self._one_revision = False

    def begin(self, clock_us: int) -> None:
        """Begins with the next entry."""
        self.clock_us = clock_us
        self._bytes_end = _UNBOUNDED

    # Reads.

    def take(self, fetched: Mapping[bytes, bytes | None]) -> None:
        """Takes what the store has under the keys that commands will read."""
        self._fetched = fetched

    def read(self, key: bytes) -> bytes | None:
        """The stored bytes of a key of the keyspace; None if there are none.

        Raises:
            NotFetchedError: The key was not fetched.
        """
        if self._seen < len(self.effects):
            self._see()
        if key in self._fresh:
            data = self._fresh[key]
        elif key in self._overlay:
            data = self._overlay[key]
        elif key in self._fetched:
            data = self._fetched[key]
        else:
            raise NotFetchedError(key)
        self.steps += 1
        return data

    def count(self, size: int) -> None:
        """Counts bytes that a command reads or stores; values that cannot be seen do not count, since merges drop them.

        Raises:
            TooMuchReadError: Together these are more bytes than a transaction or a batch may read.
        """
        self.bytes += size
        if self.bytes > self._bytes_end:
            raise TooMuchReadError

    def _see(self) -> None:
        """Takes the newest effects into account in reads."""
        effects, seen = self.effects, self._seen
        if seen < self._marked:
            self._overlay.update(effects[seen : self._marked])
            seen = self._marked
        self._fresh.update(effects[seen:] if seen else effects)
        self._seen = len(effects)

    def current(self, key: bytes) -> StoredValue | None:
        """The visible value of a user's key; raises as ``read`` and ``count`` do."""
        data = self.read(user_key(key))
        found = find_visible(key, data, self.clock_us, self.ownership.epochs)
        if found is not None and data is not None:
            self.count(len(data))
        return found

    # Effects.

    def write(self, key: bytes, value: bytes | None) -> None:
        """Writes or removes a key of the keyspace; a user's value is removed by ``remove``."""
        self.effects.append((key, value))

    def remove(self, key: bytes, kind: int) -> int:
        """Removes a user's value as a change of this kind; returns the revision of the change."""
        revision = self.next_revision()
        self.removals.append(Removal(len(self.effects), revision, kind))
        self.effects.append((user_key(key), None))
        return revision

    def store(self, key: bytes, stored: StoredValue) -> None:
        """Writes a user's value, and notes when it expires."""
        data = encode_value(stored)
        self.steps += 1
        self.count(len(data))
        self.effects.append((user_key(key), data))
        if stored.expires_us:
            self.note_due(stored.expires_us, user_key(key))

    def note_due(self, deadline_us: int, key: bytes) -> None:
        """Notes that a key of the keyspace may expire at ``deadline_us``."""
        self.effects.append((due_key(deadline_us, key), b""))
        self.next_due_us = min(self.next_due_us, deadline_us)

    def forget_due(self, stored: StoredValue | None, key: bytes) -> None:
        """Removes the note of a user's value that is about to be replaced; other notes are left to ``expiry``."""
        if stored is not None and stored.expires_us:
            self.effects.append((due_key(stored.expires_us, user_key(key)), None))

    def next_revision(self) -> int:
        """The revision of a change; all changes of a transaction have the same."""
        if not self._one_revision:
            self.revision += 1
        return self.revision

    def expiry(self, ttl: int, current: StoredValue | None) -> int:
        """The log time at which a key expires that is written with a time to live; 0 for never."""
        if ttl == KEEP:
            return 0 if current is None else current.expires_us
        return self.clock_us + ttl * 1000 if ttl else 0

    # Transactions.

    def begin_transaction(self) -> Mark:
        """Gives all changes one revision from here on."""
        mark = self.mark()
        self.revision += 1
        self._one_revision = True
        return mark

    def end_transaction(self, mark: Mark) -> None:
        """Ends the transaction; if it changed nothing, no revision was given out."""
        self._one_revision = False
        self.end_bound()
        if len(self.effects) == mark.effects:
            self.revision = mark.revision

    def mark(self) -> Mark:
        """A point to go back to with ``undo``; from here on a bounded number of bytes may be read and stored."""
        self._bytes_end = self.bytes + READ_BYTES_MAX
        if self._fresh:
            self._overlay.update(self._fresh)
            self._fresh = {}
        self._marked = len(self.effects)
        return Mark(len(self.effects), self.revision, self.tokens, self.token_bytes)

    def end_bound(self) -> None:
        """Ends the bound that ``mark`` began."""
        self._bytes_end = _UNBOUNDED

    def undo(self, mark: Mark) -> None:
        """Undoes all that was done since the last mark, at that cost; ends the bound on bytes."""
        assert mark.effects == self._marked, "not the last mark"
        self.end_bound()
        del self.effects[mark.effects :]
        while self.removals and self.removals[-1].place >= mark.effects:
            self.removals.pop()
        self.revision, self.tokens, self.token_bytes = mark.revision, mark.tokens, mark.token_bytes
        self._one_revision = False
        self._fresh = {}
        self._seen = min(self._seen, mark.effects)

    def undo_all(self, before: Mark) -> None:
        """Undoes all that was done since a point before the last mark, at the cost of the work of all entries."""
        self._marked = before.effects
        self.undo(before)
        self._overlay = {}
        self._seen = 0


def failed(condition: Condition | None, current: StoredValue | None) -> Outcome | None:
    """The outcome of a command whose condition does not hold; None if the condition holds."""
    if condition is None:
        return None
    revision = 0 if current is None else current.revision
    kind = condition.kind
    if kind == ConditionKind.EXISTS:
        holds = current is not None
    elif kind == ConditionKind.ABSENT:
        holds = current is None
    else:
        holds = current is not None and revision == condition.revision
    return None if holds else Outcome(Status.PRECONDITION_FAILED, revision)


def reads_value(command: Command) -> bool:
    """Whether a put or a delete must know the present value of its key.

    One with a time to live must, for it removes the note of the expiry that it replaces: a key that is written so again
    and again would have a note for each of these writes until its deadline.
    """
    return command.condition is not None or command.ttl != 0
