"""A scan of user keys in order, as of one point in the log, a bounded step at a time.

It knows what keys and values mean, but neither threads nor streams: ``raft_node.runtime.reads.scans`` has a thread take
the steps, for reading blocks is blocking.

Invariants:
1. What a scan tells is what was visible at its point in the log, whatever is written or moved meanwhile.
2. A step looks at a bounded number of records and holds a bounded number of bytes, or one record.
3. A common prefix is told only when a visible key has it, and once.

Source: docs/formats.md, Scan.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from doug_wire.partition_map import SlotRange
from doug_wire.scan import after_prefix, encode_entry, encode_prefix
from doug_wire.slots import slot_of
from raft_node.kv.keyspace import USER_PREFIX, StoredValue, user_key
from raft_node.kv.visibility import find_visible
from raft_node.storage.tables.iterators import Columns

PAGE_BYTES = 128 << 10
"""The bytes of a page, which takes about a millisecond to make or to read: small enough for any event loop."""

_STEP_PIECES_MAX = 16
_PIECES_PASSED_MAX = 2
"""The number of pieces of keys below a common prefix that are passed over before the scan seeks behind them."""

_USER_END = bytes((USER_PREFIX[0] + 1,))

Source = Callable[[bytes, bytes | None, bool], Iterator[Columns]]
"""The records from a first key to before another, in pieces, in the order asked for: ``HeldView.columns``."""


class ScannedState(NamedTuple):
    """The state of a shard at one point in its log.

    Attributes:
        columns: Gives the records.
        epochs: By slot, the epoch at which the shard owned it; 0 for the others.
        clock_us: The log time.
        revision: The last revision given out.
        slots: The slots that the shard owned.
    """

    columns: Source
    epochs: Sequence[int]
    clock_us: int
    revision: int
    slots: Sequence[SlotRange] = ()


class ScanOptions(NamedTuple):
    """The keys that a scan wants; see ``ScanRequest`` in doug.proto. ``end`` None means no end, ``limit`` 0 no limit.

    ``slot`` None means all slots; it does not go with a delimiter.
    """

    start: bytes = b""
    end: bytes | None = None
    reverse: bool = False
    limit: int = 0
    page_bytes: int = PAGE_BYTES
    keys_only: bool = False
    count_only: bool = False
    delimiter: bytes = b""
    prefix_bytes: int = 0
    slot: int | None = None


class Step(NamedTuple):
    """The result of one step of a scan.

    Attributes:
        records: Encoded records; none with ``count_only``.
        found: How many entries and common prefixes the step has found.
        last: Whether the scan is at its end.
        limited: Whether it ended because of its limit, so that there may be more keys.
    """

    records: Sequence[bytes]
    found: int
    last: bool
    limited: bool


def visible(key: bytes, data: bytes, state: ScannedState) -> StoredValue | None:
    """The value of a user's key, if it counts at the state's point in the log; else None.

    Args:
        key: The key, without the prefix of the keyspace.
        data: The stored bytes.
        state: The state at one point in the log.

    Raises:
        CorruptionError: The value is of no known format.
    """
    return find_visible(key, data, state.clock_us, state.epochs)


def _nothing(start: bytes, end: bytes | None, reverse: bool) -> Iterator[Columns]:
    return iter(())


class Scan:
    """One scan of a shard's state. Not for two threads at once."""

    def __init__(self, state: ScannedState, options: ScanOptions) -> None:
        """Begins a scan, without reading."""
        self.state = state
        self._options = options
        self._start = user_key(options.start)
        self._end = _USER_END if options.end is None else user_key(options.end)
        self._left = options.limit
        self._held: bytes | None = None
        found = self._grouped() if options.delimiter else self._plain()
        self._found: Iterator[bytes | None] = found

    def step(self) -> Step:
        """Reads on, until a page is full or a bounded amount of work is done. Blocking.

        Raises:
            CorruptionError: A block or a value is damaged.
            DiskError: A block cannot be read.
        """
        records: list[bytes] = []
        held, self._held = self._held, None
        size = count = pieces = 0
        counting, page_bytes = self._options.count_only, self._options.page_bytes
        if held is not None:
            records.append(held)
            size, count = len(held), 1
            if self._take_one():
                return Step(records, count, last=True, limited=True)
        for record in self._found:
            if record is None:
                pieces += 1
                if pieces > _STEP_PIECES_MAX:
                    return Step(records, count, last=False, limited=False)
                continue
            size += len(record)
            if size > page_bytes and records:
                self._held = record
                return Step(records, count, last=False, limited=False)
            count += 1
            if not counting:
                records.append(record)
            if self._take_one():
                return Step(records, count, last=True, limited=True)
        return Step(records, count, last=True, limited=False)

    def release(self) -> None:
        """Releases the state; no step may follow. Requires: no step is being taken."""
        self._found = iter(())
        self._held = None
        self.state = ScannedState(_nothing, (), 0, 0)

    def _take_one(self) -> bool:
        """Counts an entry or a common prefix; returns whether the limit is reached."""
        self._left -= 1
        return self._left == 0

    def _plain(self) -> Iterator[bytes | None]:
        """The encoded entries; None where a piece was read."""
        state, options = self.state, self._options
        reverse, keys_only, counting, slot = options.reverse, options.keys_only, options.count_only, options.slot
        for piece in state.columns(self._start, self._end, reverse):
            yield None
            keys, values = piece.keys, piece.values
            if reverse:
                keys, values = keys[::-1], values[::-1]
            for stored_key, data in zip(keys, values, strict=True):
                if data is None:
                    continue
                key = stored_key[1:]
                if slot is not None and slot_of(key) != slot:
                    continue
                found = visible(key, data, state)
                if found is None:
                    continue
                yield b"" if counting else encode(key, found, keys_only=keys_only)

    def _grouped(self) -> Iterator[bytes | None]:
        """Like ``_plain``, with keys that have a common prefix told as one."""
        passed = 0
        bound: bytes | None = None
        again = True
        while again:
            again = False
            passed = 0
            for piece in self.state.columns(self._start, self._end, self._options.reverse):
                yield None
                place = self._place(piece.keys, bound)
                if not 0 <= place < len(piece.keys):
                    passed += 1
                    if passed > _PIECES_PASSED_MAX:
                        again = True
                        break
                    continue
                passed = 0
                while 0 <= place < len(piece.keys):
                    prefix, record = self._group(piece.keys[place][1:], piece.values[place])
                    if record is not None:
                        yield record
                    if prefix is None:
                        place += -1 if self._options.reverse else 1
                        continue
                    bound = self._pass(prefix)
                    place = self._place(piece.keys, bound)

    def _group(self, key: bytes, data: bytes | None) -> tuple[bytes | None, bytes | None]:
        """The common prefix that a record begins, if any, and the encoded record that is told for it, if any."""
        options = self._options
        found = None if data is None else visible(key, data, self.state)
        if found is None:
            return None, None
        at = key.find(options.delimiter, options.prefix_bytes)
        if at < 0:
            return None, b"" if options.count_only else encode(key, found, keys_only=options.keys_only)
        prefix = key[: at + len(options.delimiter)]
        return prefix, b"" if options.count_only else encode_prefix(prefix)

    def _pass(self, prefix: bytes) -> bytes:
        """Passes over all keys below a common prefix; returns the new bound of the range."""
        if self._options.reverse:
            self._end = user_key(prefix)
            return self._end
        # The keyspace goes on behind the users' keys, so there is always a next one.
        self._start = after_prefix(user_key(prefix)) or _USER_END
        return self._start

    def _place(self, keys: Sequence[bytes], bound: bytes | None) -> int:
        """The position in ascending keys at which the scan goes on."""
        if self._options.reverse:
            return (len(keys) if bound is None else bisect_left(keys, bound)) - 1
        return 0 if bound is None else bisect_left(keys, bound)


def encode(key: bytes, found: StoredValue, *, keys_only: bool) -> bytes:
    """The record of an entry."""
    value = b"" if keys_only else found.value
    return encode_entry(key, found.revision, value, found.content_type, found.content_encoding, found.expires_at_ms)
