"""Writes keys and values to a file as lines of JSON, and stores them again: ``dougctl export`` and ``import``.

The module knows files and a client, and must not know terminals or command lines; the format of a file is in
``dougdb.exported``. Invariants:

1. Nothing is left out silently: every entry is stored or read back, or a ``Problem`` names it and its line. If a line
   cannot be read, the lines before it are dealt with, and the lines behind it are not.
2. Entries of one key are stored in the order of the file.
3. The import repeats a write whose outcome is unknown, even without an idempotency key: storing the same bytes under
   the same key again is harmless.
4. Memory is bounded, however long the file is.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import BinaryIO

from dougdb.checks import TTL_S_MAX, VALUE_BYTES_MAX
from dougdb.client import DougClient
from dougdb.errors import DougdbError, OutcomeUnknownError, PreconditionFailedError, UnavailableError
from dougdb.exported import FORMAT, VERSION, FormatError, Line, Reader, encode, header
from dougdb.operations import Get, Put, Result
from dougdb.ranges import Entry
from dougdb.shapes import Consistency

GROUP_ENTRIES, GROUP_BYTES = 1000, 1 << 20
RETRY_S = 30.0
"""How many seconds a group is sent again while the store is unavailable."""


@dataclass(frozen=True, slots=True)
class Problem:
    """An entry that was not stored, or is not in the store as it is in the file.

    Attributes:
        number: The number of the entry's line.
        key: The entry's key.
        reason: Why the entry was not stored, or how it differs.
    """

    number: int
    key: bytes
    reason: str


@dataclass(slots=True)
class Tally:
    """The counts of an import or a verification so far.

    Attributes:
        stored: How many entries were stored.
        kept: How many entries were not stored because their keys existed.
        expired: How many entries were left out because they had expired.
        verified: How many entries were read back and were equal.
        changed: How many entries were written or removed by others after the export.
        done_lines: How many lines of the file are done, from its beginning.
        done_bytes: How many bytes of the input are done.
        problems: The entries that were not stored, or differ.
    """

    stored: int = 0
    kept: int = 0
    expired: int = 0
    verified: int = 0
    changed: int = 0
    done_lines: int = 0
    done_bytes: int = 0
    problems: list[Problem] = field(default_factory=list)


# -- into the store -------------------------------------------------------------------------------------------------


Pending = tuple[Future[Tally], list[Line], set[bytes]]
"""A group that was sent: its counts, its lines and its keys."""


class Importer:
    """Stores the entries of a file, and compares them with the entries in the store.

    Args:
        client: Sends the writes and reads; it need not make idempotency keys, nor try anything again.
        tally: The counts of the import, which ``run`` keeps up to date.
        only_absent: Whether keys that exist are left as they are.
        store: Whether to store the entries; otherwise they are only compared.
        verify: Whether to read all entries back.
        concurrency: How many groups of entries are sent at once.
        on_progress: Called whenever the tally has grown.
        now: Gives the time by the wall clock.
        clock: Gives monotonic seconds.
        sleep: Waits for some seconds.
    """

    def __init__(
        self,
        client: DougClient,
        tally: Tally,
        *,
        only_absent: bool = False,
        store: bool = True,
        verify: bool = False,
        concurrency: int = 4,
        on_progress: Callable[[], None] = lambda: None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._client = client
        self._tally = tally
        self._only_absent = only_absent
        self._store = store
        self._verify = verify
        self._concurrency = concurrency
        self._on_progress = on_progress
        self._now = now
        self._clock = clock
        self._sleep = sleep
        self._interrupted = False

    def run(self, lines: Iterable[Line], skip: int = 0) -> None:
        """Stores and compares the entries of all lines but the first ``skip`` ones.

        Raises:
            FormatError: A line cannot be read; the lines before it are dealt with.
            UnavailableError: The store was unavailable for ``RETRY_S``.
            OutcomeUnknownError: The store was unavailable for ``RETRY_S``; the last writes may have been applied.
        """
        pending: deque[Pending] = deque()
        in_flight: set[bytes] = set()

        def settle() -> None:
            future, group, keys = pending[0]
            self._take(future.result(), group)
            pending.popleft()
            in_flight.difference_update(keys)

        with ThreadPoolExecutor(self._concurrency) as pool:
            try:
                for group in groups(line for line in lines if line.number > skip):
                    keys = {line.entry.key for line in group}
                    while pending and (len(pending) >= self._concurrency or not in_flight.isdisjoint(keys)):
                        settle()
                    in_flight |= keys
                    pending.append((pool.submit(self._deal_with, group), group, keys))
                while pending:
                    settle()
            except FormatError:
                # Groups that were sent are going to be stored, so they are counted, too.
                while pending:
                    settle()
                raise
            except KeyboardInterrupt:
                # Whoever interrupts does not wait for a store that is away.
                self._interrupted = True
                try:
                    while pending:
                        settle()
                except DougdbError:
                    self._count_stored(pending)
                raise
            except DougdbError:
                self._count_stored(pending)
                raise

    def _take(self, done: Tally, group: list[Line]) -> None:
        self._count(done)
        last = group[-1]
        self._tally.done_lines = last.number if last.is_last else last.number - 1
        self._tally.done_bytes = last.end
        self._on_progress()

    def _count_stored(self, pending: Iterable[Pending]) -> None:
        """Counts the groups behind a failed one, too; but ``done_lines`` stays before the failed group."""
        for future, _, _ in pending:
            if future.exception() is None:
                self._count(future.result())

    def _count(self, done: Tally) -> None:
        tally = self._tally
        tally.stored += done.stored
        tally.kept += done.kept
        tally.expired += done.expired
        tally.verified += done.verified
        tally.changed += done.changed
        tally.problems += done.problems

    def _deal_with(self, lines: Sequence[Line]) -> Tally:
        done = Tally()
        now = self._now()
        alive = [line for line in lines if line.entry.expires_at is None or line.entry.expires_at > now]
        done.expired = len(lines) - len(alive)
        written = self._put(alive, done, now) if self._store else alive
        if self._verify:
            self._compare({line.entry.key: line for line in written}, done)
        return done

    def _put(self, lines: Sequence[Line], done: Tally, now: datetime) -> list[Line]:
        """Stores entries; returns the lines of the entries that were stored."""
        written: list[Line] = []
        sent: list[Line] = []
        for line in lines:
            reason = _never_taken(line.entry, now)
            if reason is None:
                sent.append(line)
            else:
                done.problems.append(Problem(line.number, line.entry.key, reason))
        for line, result in zip(sent, self._patiently([self._put_of(each.entry, now) for each in sent]), strict=True):
            if result.error is None:
                done.stored += 1
                written.append(line)
            elif self._only_absent and isinstance(result.error, PreconditionFailedError):
                done.kept += 1
            else:
                done.problems.append(Problem(line.number, line.entry.key, str(result.error)))
        return written

    def _put_of(self, entry: Entry, now: datetime) -> Put:
        left_s = None if entry.expires_at is None else max(0.001, (entry.expires_at - now).total_seconds())
        encoding = entry.content_encoding
        return Put(entry.key, entry.data, entry.content_type, left_s, encoding, if_absent=self._only_absent)

    def _compare(self, wanted: dict[bytes, Line], done: Tally) -> None:
        found = self._patiently([Get(key) for key in wanted])
        for (key, line), result in zip(wanted.items(), found, strict=True):
            entry = line.entry
            same_revision = self._store or result.revision == entry.revision
            if result.status == 404 and entry.expires_at is not None and entry.expires_at <= self._now():
                done.expired += 1
            elif result.error is not None and not (result.status == 404 and not self._store):
                done.problems.append(Problem(line.number, key, f"it cannot be read back: {result.error}"))
            elif _is_same(entry, result):
                done.verified += 1
            elif same_revision:
                done.problems.append(Problem(line.number, key, "the store holds other bytes, types or expiry"))
            else:
                done.changed += 1

    def _patiently(self, operations: Sequence[Put | Get]) -> list[Result]:
        """Carries operations out, and repeats those that could not be served.

        Raises:
            UnavailableError: Some operations could not be served for ``RETRY_S``.
            OutcomeUnknownError: Some operations got no answer for ``RETRY_S``, and may have been applied.
        """
        results: list[Result] = [Result(0)] * len(operations)
        left = list(range(len(operations)))
        give_up_at = self._clock() + RETRY_S
        pause_s = 0.1
        while left:
            error: DougdbError | None = None
            try:
                for place, result in zip(left, self._client.batch([operations[at] for at in left]), strict=True):
                    results[place] = result
            except (UnavailableError, OutcomeUnknownError) as failed:
                error = failed
            else:
                left = [at for at in left if isinstance(results[at].error, UnavailableError | OutcomeUnknownError)]
                error = results[left[0]].error if left else None
            if error is not None:
                if self._interrupted or self._clock() + pause_s > give_up_at:
                    raise error
                self._sleep(pause_s)
                pause_s = min(2 * pause_s, 2.0)
        return results


def _is_same(entry: Entry, result: Result) -> bool:
    """Whether a key that was read is as in the file; of its expiry only whether it has one, since clocks differ."""
    stored = (result.data, result.content_type, result.content_encoding, result.expires_at is None)
    return stored == (entry.data, entry.content_type, entry.content_encoding, entry.expires_at is None)


def _never_taken(entry: Entry, now: datetime) -> str | None:
    """The reason for which every store would refuse an entry; None if there is none."""
    if len(entry.data) > VALUE_BYTES_MAX:
        return f"the value has {len(entry.data):,} bytes; the limit is {VALUE_BYTES_MAX:,}"
    if entry.expires_at is not None and (entry.expires_at - now).total_seconds() > TTL_S_MAX:
        return "it expires in more than a hundred years"
    return None


def groups(lines: Iterable[Line]) -> Iterator[list[Line]]:
    """Lines in groups of a size that suits the store. Lines before a broken line come as a group before the error.

    Raises:
        FormatError: A line cannot be read.
    """
    group: list[Line] = []
    size = 0
    try:
        for line in lines:
            group.append(line)
            size += len(line.entry.data)
            if len(group) == GROUP_ENTRIES or size >= GROUP_BYTES:
                yield group
                group, size = [], 0
    except FormatError:
        if group:
            yield group
        raise
    if group:
        yield group


# -- out of the store -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Begun:
    """The part of an export that a file has already.

    Attributes:
        count: How many entries are in the file.
        end: The position behind the last whole line, in bytes.
        last: The last key; None if there is none.
        complete: Whether the export is complete.
    """

    count: int
    end: int
    last: bytes | None
    complete: bool


def begun(stream: BinaryIO, bounds: dict[str, str]) -> Begun:
    """Reads how much of an export a file has.

    Raises:
        FormatError: The file is no export, or one of another range.
    """
    reader = Reader(stream)
    last: bytes | None = None
    end = 0
    try:
        for line in reader:
            last, end = line.entry.key, line.end
        more = reader.parts > 1 or (reader.parts == 1 and not reader.complete)
    except FormatError:
        # The last line of the file was cut off; the lines before it are whole.
        if reader.bounds is None:
            raise
        more = reader.parts > 0
    if more:
        raise FormatError("more stands behind the last line of the export")
    if reader.bounds != {FORMAT: VERSION, **bounds}:
        raise FormatError("it is no export, or one of another range")
    if reader.complete:
        return Begun(reader.count, reader.end, last, complete=True)
    return Begun(reader.count, end or len(header(bounds)), last, complete=False)


def export(
    client: DougClient,
    stream: BinaryIO,
    *,
    prefix: bytes | None,
    start: bytes | None,
    end: bytes | None,
    consistency: Consistency,
    on_entry: Callable[[int], None],
) -> int:
    """Writes the entries of a range to a file; returns how many there were.

    Args:
        client: Reads the entries.
        stream: The file to write to.
        prefix: See ``DougClient.scan``.
        start: See ``DougClient.scan``.
        end: See ``DougClient.scan``.
        consistency: The consistency of the reads.
        on_entry: Called after each entry with the size of its line.

    Raises:
        UnavailableError: The store was unavailable for longer than the client's deadline.
    """
    count = 0
    for entry in client.scan(prefix=prefix, start=start, end=end, consistency=consistency):
        line = encode(entry)
        stream.write(line)
        count += 1
        on_entry(len(line))
    return count
