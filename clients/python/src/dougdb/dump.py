"""Keys and values as lines of JSON in a file, and back: what ``dougctl export`` and ``import`` do.

It knows files and a client, neither terminals nor command lines. A file has a first line that says what it is, a line
for each entry (as the API shows entries), and a last line that says how many there are. Invariants:

1. Nothing is left out silently: every entry is stored or read back, or a ``Problem`` names it; and a file that was cut
   off is told from one that is complete.
2. Entries of one key are stored in the order of the file.
3. Storing the same bytes under the same key again is harmless, so that, unlike the client, the import repeats a write
   whose outcome is unknown.
4. Memory is bounded, however long the file.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, BinaryIO

from dougdb.client import DougClient
from dougdb.errors import DougdbError, OutcomeUnknownError, PreconditionFailedError, UnavailableError
from dougdb.operations import Get, Put, Result
from dougdb.ranges import Entry, document_of, entry_of
from dougdb.shapes import Consistency

FORMAT = "dougdb_export"
VERSION = 1
GROUP_ENTRIES, GROUP_BYTES = 1000, 1 << 20
RETRY_S = 30.0
"""For how long a group is tried again while the store is unavailable."""


class FormatError(Exception):
    """A file is not what an export writes."""


@dataclass(frozen=True, slots=True)
class Problem:
    """An entry that was not stored, or is not in the store as it is in the file.

    Attributes:
        key: The entry's key.
        reason: Why.
    """

    key: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class Line:
    """One entry of a file.

    Attributes:
        number: The line's number, from 1.
        end: Where it ends, in bytes from the beginning.
        entry: What it says.
    """

    number: int
    end: int
    entry: Entry


@dataclass(slots=True)
class Tally:
    """What an import or a verification has done so far.

    Attributes:
        stored: Entries that were stored.
        kept: Entries whose keys were there already, and stayed as they were.
        expired: Entries whose time had passed.
        verified: Entries that were read back equal.
        changed: Entries that somebody has written or removed since they were exported.
        done_lines: So many lines of the file are dealt with, from its beginning.
        done_bytes: The same in bytes.
    """

    stored: int = 0
    kept: int = 0
    expired: int = 0
    verified: int = 0
    changed: int = 0
    done_lines: int = 0
    done_bytes: int = 0
    problems: list[Problem] = field(default_factory=list)


# -- the file -------------------------------------------------------------------------------------------------------


def header(bounds: dict[str, str]) -> bytes:
    """The first line."""
    return json.dumps({FORMAT: VERSION, **bounds}).encode() + b"\n"


def trailer(count: int) -> bytes:
    """The last line."""
    return json.dumps({"complete": True, "count": count}).encode() + b"\n"


def encode(entry: Entry) -> bytes:
    """The line of an entry."""
    return json.dumps(document_of(entry), ensure_ascii=False).encode() + b"\n"


class Reader:
    """The entries of a file, one after the other.

    Attributes:
        bounds: The first line; None without one.
        count: How many entries were read.
        end: Where the last whole line ends that was read.
        complete: Whether the last line said that there are no more, and how many there are.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.bounds: dict[str, Any] | None = None
        self.count = 0
        self.end = 0
        self.complete = False

    def __iter__(self) -> Iterator[Line]:
        """Reads the entries.

        Raises:
            FormatError: A line is something else.
        """
        for number, text in enumerate(self._stream, 1):
            if not text.endswith(b"\n") and self.bounds is not None:
                raise FormatError(f"line {number} is cut off")
            if text.strip():
                document = self._document(text, number)
                if FORMAT in document:
                    self._begin(document, number)
                elif "complete" in document:
                    self._finish(document, number)
                    self.end += len(text)
                    return
                else:
                    yield self._line(document, text, number)
                    continue
            self.end += len(text)

    def _line(self, document: dict[str, Any], text: bytes, number: int) -> Line:
        if "value" not in document:
            raise FormatError(f"line {number}: the entry has no value")
        try:
            entry = entry_of({"revision": "0", **document})
        except DougdbError as error:
            raise FormatError(f"line {number}: {error}") from None
        self.count += 1
        self.end += len(text)
        return Line(number, self.end, entry)

    def _document(self, text: bytes, number: int) -> dict[str, Any]:
        try:
            document = json.loads(text)
        except ValueError as error:
            raise FormatError(f"line {number} is not JSON: {error}") from None
        if not isinstance(document, dict):
            raise FormatError(f"line {number} is not a JSON object")
        return document

    def _begin(self, document: dict[str, Any], number: int) -> None:
        if number != 1 or document[FORMAT] != VERSION:
            raise FormatError(f"line {number}: not an export of version {VERSION}")
        self.bounds = document

    def _finish(self, document: dict[str, Any], number: int) -> None:
        if not document["complete"] or document.get("count", self.count) != self.count:
            raise FormatError(f"line {number}: {self.count} entries stand before it, and it says {document}")
        self.complete = True


# -- into the store -------------------------------------------------------------------------------------------------


class Importer:
    """Stores the entries of a file, and compares them with what is there.

    Args:
        client: The store; it need not make idempotency keys.
        tally: Where it is counted.
        only_absent: Keys that are there stay as they are.
        store: Whether to store at all; otherwise it only compares.
        verify: Whether to read everything back.
        concurrency: How many groups are on their way at once.
        on_progress: Called whenever the tally has grown.
        now: The wall clock.
        clock: Monotonic seconds.
        sleep: How to wait.
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

    def run(self, lines: Iterable[Line], skip: int = 0) -> None:
        """Deals with the lines behind the first ``skip`` ones.

        Raises:
            UnavailableError: The store stayed away for ``RETRY_S``.
            OutcomeUnknownError: The same, and the last writes may have been applied.
        """
        pending: deque[tuple[Future[Tally], list[Line], set[bytes]]] = deque()
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
                    pending.append((pool.submit(self._deal_with, [line.entry for line in group]), group, keys))
                while pending:
                    settle()
            except KeyboardInterrupt:
                # What is on its way is going to be stored; it is counted too.
                while pending:
                    settle()
                raise

    def _take(self, done: Tally, group: list[Line]) -> None:
        tally = self._tally
        tally.stored += done.stored
        tally.kept += done.kept
        tally.expired += done.expired
        tally.verified += done.verified
        tally.changed += done.changed
        tally.problems += done.problems
        tally.done_lines, tally.done_bytes = group[-1].number, group[-1].end
        self._on_progress()

    def _deal_with(self, entries: Sequence[Entry]) -> Tally:
        done = Tally()
        now = self._now()
        alive = [entry for entry in entries if entry.expires_at is None or entry.expires_at > now]
        done.expired = len(entries) - len(alive)
        written = self._put(alive, done) if self._store else alive
        if self._verify:
            self._compare({entry.key: entry for entry in written}, done)
        return done

    def _put(self, entries: Sequence[Entry], done: Tally) -> list[Entry]:
        """Stores entries; returns those that were."""
        now = self._now()
        written: list[Entry] = []
        for entry, result in zip(entries, self._patiently([self._put_of(each, now) for each in entries]), strict=True):
            if result.error is None:
                done.stored += 1
                written.append(entry)
            elif self._only_absent and isinstance(result.error, PreconditionFailedError):
                done.kept += 1
            else:
                done.problems.append(Problem(entry.key, str(result.error)))
        return written

    def _put_of(self, entry: Entry, now: datetime) -> Put:
        left_s = None if entry.expires_at is None else max(0.001, (entry.expires_at - now).total_seconds())
        encoding = entry.content_encoding
        return Put(entry.key, entry.data, entry.content_type, left_s, encoding, if_absent=self._only_absent)

    def _compare(self, wanted: dict[bytes, Entry], done: Tally) -> None:
        found = self._patiently([Get(key) for key in wanted])
        for (key, entry), result in zip(wanted.items(), found, strict=True):
            same_revision = self._store or result.revision == entry.revision
            if result.error is not None and not (result.status == 404 and not self._store):
                done.problems.append(Problem(key, f"it cannot be read back: {result.error}"))
            elif (result.data, result.content_type) == (entry.data, entry.content_type):
                done.verified += 1
            elif same_revision:
                done.problems.append(Problem(key, "the store holds other bytes, or another content type"))
            else:
                done.changed += 1

    def _patiently(self, operations: Sequence[Put | Get]) -> list[Result]:
        """Carries operations out, again and again while they cannot be served.

        Raises:
            UnavailableError: They could not for ``RETRY_S``.
            OutcomeUnknownError: The same, and the last try may have been applied.
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
                if self._clock() + pause_s > give_up_at:
                    raise error
                self._sleep(pause_s)
                pause_s = min(2 * pause_s, 2.0)
        return results


def groups(lines: Iterable[Line]) -> Iterator[list[Line]]:
    """Lines in groups of a size that suits the store."""
    group: list[Line] = []
    size = 0
    for line in lines:
        group.append(line)
        size += len(line.entry.data)
        if len(group) == GROUP_ENTRIES or size >= GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


# -- out of the store -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Begun:
    """How far an export has come that was cut off.

    Attributes:
        count: The entries that are in the file.
        end: Where the last of them ends.
        last: The last key; None when there is none.
        complete: Whether nothing is missing.
    """

    count: int
    end: int
    last: bytes | None
    complete: bool


def begun(stream: BinaryIO, bounds: dict[str, str]) -> Begun:
    """Reads how far an export has come.

    Raises:
        FormatError: It is no export, or one of another range.
    """
    reader = Reader(stream)
    last: bytes | None = None
    end = 0
    try:
        for line in reader:
            last, end = line.entry.key, line.end
    except FormatError:
        # The end of it was cut off; what is before that end is whole.
        if reader.bounds is None:
            raise
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
    """Writes the entries of a range; returns how many.

    Args:
        client: The store.
        stream: Where to.
        prefix: See ``DougClient.scan``.
        start: See ``DougClient.scan``.
        end: See ``DougClient.scan``.
        consistency: What the reads promise.
        on_entry: Called after each entry with the size of its line.

    Raises:
        UnavailableError: The store stayed away for longer than the client's deadline.
    """
    count = 0
    for entry in client.scan(prefix=prefix, start=start, end=end, consistency=consistency):
        line = encode(entry)
        stream.write(line)
        count += 1
        on_entry(len(line))
    return count
