"""Scans over all shards: one ordered stream per shard, merged into one in key order.

Must not know HTTP. Each stream is read a page ahead of its use and no further, so that memory is bounded by two pages
for each shard, whatever the range. What a scan tells is one point in the log of each shard.

Invariants:
    1. No key is told twice, and none is left out that was there all along: the streams of one scan come from shards
       that together own every slot once, as the shards themselves say.
    2. A scan never goes on at another point in a log by itself: it breaks, and whoever asked decides.
    3. However a scan ends, so do its streams.

Source: ARCHITECTURE.md, The way of a scan.
"""

from __future__ import annotations

import asyncio
import contextlib
from bisect import bisect_left, bisect_right
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from itertools import chain
from math import ceil
from operator import attrgetter
from typing import NamedTuple

from doug.v1 import doug_pb2
from doug_stream.errors import CallError
from doug_wire.auth.grants import Verb
from doug_wire.scan import PREFIX, ScanError, ScanRecord, after_prefix, decode_page
from doug_wire.slots import SLOTS, slot_of
from facade.client.access import check, current, range_of
from facade.client.directory import Directory
from facade.client.modes import BOUNDED, LINEARIZABLE, SESSION, Freshness, ReadMode
from facade.client.node import Node
from facade.client.replicas import BEHIND_S
from facade.client.scan_calls import ScanCall
from facade.client.sessions import Seen, Session, entry_of, foreign_session
from facade.client.shard import Shard
from facade.errors import FacadeError, InternalError, NotAppliedError, ProblemError

PAGES_BYTES = 1 << 20
"""About how many bytes the pages of all streams of one scan take."""
PAGE_BYTES_MIN, PAGE_BYTES_MAX = 16 << 10, 128 << 10

READ_TIMEOUT_S = 5.0
"""After this silence a stream counts as broken: a node that has found nothing yet says so every second."""

_REASONS = {
    "NOT_LEADER": "no_leader",
    "OVERLOADED": "overloaded",
    "WRONG_SHARD": "wrong_shard",
    "NOT_FRESH": "not_fresh_enough",
}

_key = attrgetter("key")
Slots = tuple[tuple[int, int], ...]


class ScanBrokenError(FacadeError):
    """A stream of a scan ended before its end, or could not begin; another scan may go on behind its last key.

    Attributes:
        reason: The code that tells a client why.
        shard: The shard whose stream ended; None when all of them did.
    """

    def __init__(self, reason: str, detail: str, shard: int | None = None) -> None:
        super().__init__(detail)
        self.reason = reason
        self.shard = shard


class ScanQuery(NamedTuple):
    """The keys that a scan is asked for, and how.

    Attributes:
        start: The first key of the range.
        end: The first key behind the range; None for no end.
        reverse: Whether the scan goes from the last key to the first.
        limit: How many entries and common prefixes are wanted; 0 for all.
        keys_only: Whether values are left out.
        count_only: Whether only the number of keys is wanted.
        delimiter: The bytes up to which keys that are alike there are told as one common prefix; empty for none.
        prefix_bytes: The number of a key's first bytes in which the delimiter is not looked for.
        asked: How fresh the answer must be.
        session: What the client's session token says; None without one.
        verb: The right that the sender needs for all keys of the range.
        slot: The only slot whose keys are wanted, for which its owner alone is asked; None for all slots.
    """

    start: bytes = b""
    end: bytes | None = None
    reverse: bool = False
    limit: int = 0
    keys_only: bool = False
    count_only: bool = False
    delimiter: bytes = b""
    prefix_bytes: int = 0
    asked: Freshness = Freshness()
    session: Session | None = None
    verb: Verb = Verb.READ
    slot: int | None = None

    @property
    def mode(self) -> ReadMode:
        """The consistency of the scan."""
        return self.asked.mode

    @property
    def empty(self) -> bool:
        """Whether no key can be in the range."""
        return self.end is not None and self.end <= self.start

    def behind(self, record: ScanRecord) -> ScanQuery | None:
        """The rest of the range behind a record; None when nothing is left."""
        bound = bound_behind(record, reverse=self.reverse)
        return None if bound is None else self.bounded(bound)

    def bounded(self, bound: bytes) -> ScanQuery:
        """The rest of the range from a bound on: see ``bound_behind``."""
        if self.reverse:
            return self._replace(end=bound if self.end is None else min(bound, self.end))
        return self._replace(start=max(bound, self.start))


def bound_behind(record: ScanRecord, *, reverse: bool) -> bytes | None:
    """The bound of a scan behind a record: the next start, or in reverse the next end; None if nothing follows."""
    if reverse:
        return record.key or None
    return after_prefix(record.key) if record.kind == PREFIX else record.key + b"\0"


class _Stream:
    """The stream of keys from one shard.

    Attributes:
        records: The records that were received and not taken yet, in the scan's order; never empty while ``open``.
        open: Whether more records will come.
        counted: How many records were counted, with ``count_only``.
        revision: The shard's last revision at its point in the log.
        receipt: What the node said of itself at that point.
        slots: The slots that the shard owned at that point.
    """

    def __init__(
        self,
        shard: Shard,
        node: Node,
        call: ScanCall,
        *,
        strong: bool,
        reverse: bool,
        bound_ms: int = 0,
        slot: int | None = None,
    ) -> None:
        self._sent_s = asyncio.get_running_loop().time()
        self._bound_ms = bound_ms
        self.shard = shard
        self.node = node
        self._call = call
        self._reverse = reverse
        self._slot = slot
        self._strong = strong
        self._next: asyncio.Task[doug_pb2.ScanPage] | None = None
        self.records: list[ScanRecord] = []
        self.open = True
        self.counted = 0
        self.revision = 0
        self.receipt = doug_pb2.Receipt()
        self.slots: Slots = ()

    async def begin(self) -> None:
        """Reads the first page.

        Raises:
            ScanBrokenError: The node does not serve the scan, or its answer was under way for so long that it is too
                old.
        """
        first = await self._read()
        if first.receipt.shard != self.shard.id:
            raise ScanBrokenError("unavailable", f"{self.node.id} is of shard {first.receipt.shard}", self.shard.id)
        self.revision = first.revision
        self.receipt = first.receipt
        self._age()
        self.slots = tuple((getattr(part, "from"), part.to) for part in first.slots)
        self._ahead()

    def _age(self) -> None:
        """Adds the whole time of the first answer to its staleness: nobody knows when the node looked."""
        if self._strong:
            return
        if not self.receipt.HasField("staleness_ms"):
            if self._bound_ms:
                raise ScanBrokenError("not_fresh_enough", f"{self.node.id} can prove nothing", self.shard.id)
            return
        self.receipt.staleness_ms += ceil(1000 * (asyncio.get_running_loop().time() - self._sent_s))
        if self._bound_ms and self.receipt.staleness_ms > self._bound_ms:
            age_ms = self.receipt.staleness_ms
            raise ScanBrokenError(
                "not_fresh_enough", f"the answer of {self.node.id} may be {age_ms} ms old", self.shard.id
            )

    @property
    def seen(self) -> Seen:
        """How far the stream shows the log of its shard, for session tokens."""
        return Seen(self.shard.id, entry_of(self.receipt.generation, self.receipt.applied_index), self._strong)

    async def fill(self) -> None:
        """Reads pages until there are records to take, or the stream has ended.

        Raises:
            ScanBrokenError: The stream ended before its end.
        """
        while self.open and not self.records:
            assert self._next is not None
            page = await self._next
            self._next = None
            self.open = not page.last
            self.counted += page.count
            if self.open:
                self._ahead()
            try:
                self.records = decode_page(page.records)
            except ScanError as error:
                raise InternalError("invalid_record", f"{self.node.id}: {error}.", shard=self.shard.id) from error
            if self._slot is not None and any(slot_of(record.key) != self._slot for record in self.records):
                detail = f"{self.node.id} is of a version that does not know how to look for a slot."
                raise ProblemError("not_implemented", detail, status=501, shard=self.shard.id)

    def take(self, bound: bytes) -> list[ScanRecord]:
        """Takes the records up to a key, in the order of the scan."""
        records = self.records
        if self._reverse:
            # The order is descending, and bisect needs it ascending.
            place = len(records) - bisect_left(records[::-1], bound, key=_key)
        else:
            place = bisect_right(records, bound, key=_key)
        taken, self.records = records[:place], records[place:]
        return taken

    def _ahead(self) -> None:
        self._next = asyncio.ensure_future(self._read())

    async def _read(self) -> doug_pb2.ScanPage:
        shard, node = self.shard, self.node
        try:
            async with asyncio.timeout(READ_TIMEOUT_S):
                page = await self._call.read()
        except TimeoutError:
            raise ScanBrokenError("unavailable", f"{node.id} says nothing", shard.id) from None
        except CallError as error:
            raise _broken(shard, node, error) from None
        if not isinstance(page, doug_pb2.ScanPage):
            raise ScanBrokenError("unavailable", f"{node.id} ended the stream before its end", shard.id)
        return page

    async def close(self) -> None:
        """Ends it."""
        if self.open:
            self._call.cancel()
        else:
            self._call.leave()
        if self._next is not None:
            self._next.cancel()
            await asyncio.gather(self._next, return_exceptions=True)


def _broken(shard: Shard, node: Node, error: CallError) -> ScanBrokenError | InternalError:
    hints = {key: value for key, value in error.trailers if isinstance(value, str)}
    code = hints.get("doug-code", "")
    if code == "NOT_LEADER":
        shard.pointed_elsewhere(node, hints.get("doug-leader-id", ""), hints.get("doug-leader-address", ""))
    if code == "INVALID":
        return InternalError("invalid_record", f"A raft-node refused the scan: {error.details}.", shard=shard.id)
    if code == "NOT_FRESH":
        node.behind_until_s = asyncio.get_running_loop().time() + BEHIND_S
    if not code:
        node.scans.drop()
    return ScanBrokenError(_REASONS.get(code, "unavailable"), f"{node.id}: {error.details}", shard.id)


class Scan:
    """A scan that has begun: see ``Scans.open``."""

    def __init__(self, query: ScanQuery, streams: Sequence[_Stream], look: Callable[[], None]) -> None:
        self._query = query
        self._look = look
        self._streams = streams

    @property
    def revisions(self) -> dict[int, int]:
        """By shard, the last revision at the scan's point in the shard's log."""
        return {stream.shard.id: stream.revision for stream in self._streams}

    @property
    def seen(self) -> list[Seen]:
        """How far the scan shows the log of each shard, for session tokens."""
        return [stream.seen for stream in self._streams]

    @property
    def receipt(self) -> tuple[tuple[bytes, bytes], ...]:
        """The response headers that name the nodes: each is a list with one member for each shard, in their order."""
        receipts = [stream.receipt for stream in self._streams]
        told = {
            "doug-shard": [str(each.shard) for each in receipts],
            "doug-served-by": [each.node_id for each in receipts],
            "doug-role": [each.role for each in receipts],
            "doug-term": [str(each.term) for each in receipts],
            "doug-applied-index": [str(each.applied_index) for each in receipts],
        }
        if self._query.mode is not LINEARIZABLE and all(each.HasField("staleness_ms") for each in receipts):
            told["doug-staleness-ms"] = [str(max(each.staleness_ms for each in receipts))]
        return tuple((name.encode(), ", ".join(values).encode()) for name, values in told.items())

    async def count(self) -> int:
        """Counts the entries and common prefixes.

        Raises:
            ScanBrokenError: A stream ended before its end.
        """
        await asyncio.gather(*(stream.fill() for stream in self._streams))
        return sum(stream.counted for stream in self._streams)

    async def batches(self) -> AsyncIterator[list[ScanRecord]]:
        """Yields all records in the order asked for, some at a time; each list has at least one.

        Raises:
            ScanBrokenError: A stream ended before its end.
            ForbiddenError: The sender has lost the right to read the range.
            UnauthenticatedError: The request's sender is not known any more.
        """
        reverse = self._query.reverse
        while True:
            await _fill([stream for stream in self._streams if not stream.records])
            filled = [stream for stream in self._streams if stream.records]
            if not filled:
                return
            self._look()
            lasts = [stream.records[-1].key for stream in filled]
            # Behind the key at which the first stream has used up its page, other streams may have earlier keys.
            taken = [stream.take(max(lasts) if reverse else min(lasts)) for stream in filled]
            parts = [part for part in taken if part]
            if len(parts) == 1:
                yield parts[0]
                continue
            # The list consists of a few sorted runs, which Python sorts quickly.
            merged = sorted(chain.from_iterable(parts), key=_key, reverse=reverse)
            yield _once(merged) if self._query.delimiter else merged


async def _fill(streams: Sequence[_Stream]) -> None:
    if len(streams) == 1:
        await streams[0].fill()
    elif streams:
        await asyncio.gather(*(stream.fill() for stream in streams))


def _once(records: list[ScanRecord]) -> list[ScanRecord]:
    """The records, with each common prefix once that several shards have told."""
    return [
        record
        for place, record in enumerate(records)
        if record.kind != PREFIX or not place or records[place - 1].key != record.key
    ]


class Scans:
    """Begins scans over all shards that a query needs."""

    def __init__(self, directory: Directory, *, guarded: bool = False) -> None:
        """Asks the shards of ``directory``; ``guarded`` says whether the rights of the sender are checked."""
        self._guarded = guarded
        self._directory = directory
        self._turn = 0

    @contextlib.asynccontextmanager
    async def open(self, query: ScanQuery) -> AsyncIterator[Scan]:
        """Begins a scan of all shards as of now, which ends with the block.

        Raises:
            NotAppliedError: The map is not loaded, or it is not known where a shard's nodes are.
            ScanBrokenError: A shard cannot serve the scan now.
            ForbiddenError: The sender may not read all of the range.
            UnauthenticatedError: The request's sender is not known.
        """
        look = (
            partial(check, current.get(), query.verb, range_of(query.start, query.end)) if self._guarded else _nothing
        )
        look()
        shards = self._shards(query.slot)
        self._turn += 1
        async with contextlib.AsyncExitStack() as stack:
            streams = []
            for shard in shards:
                asked, min_index = _demand(query, shard)
                node = _choose(shard, asked.mode, self._turn)
                call = node.scans.open(_request(query, len(shards), asked, min_index))
                strong = asked.mode is LINEARIZABLE
                stream = _Stream(
                    shard,
                    node,
                    call,
                    strong=strong,
                    reverse=query.reverse,
                    bound_ms=asked.bound_ms,
                    slot=query.slot,
                )
                stack.push_async_callback(stream.close)
                streams.append(stream)
            await asyncio.gather(*(stream.begin() for stream in streams))
            for stream in streams:
                self._directory.sessions.heard(stream.shard.id, stream.receipt.generation)
            if self._directory.sessions.is_foreign(query.session):
                raise foreign_session()
            for stream in streams:
                if self._directory.sessions.is_behind(*stream.seen[:2], query.session):
                    detail = f"{stream.node.id} is from before its shard was recovered"
                    raise ScanBrokenError("unavailable", detail, stream.shard.id)
            self._check_whole(streams, query.slot)
            yield Scan(query, streams, look)

    def _shards(self, slot: int | None) -> list[Shard]:
        known = self._directory.map
        if known is None:
            raise NotAppliedError("starting", "The partition map is not loaded yet.")
        shards = []
        owners = {part.shard for part in known.ranges} if slot is None else {known.owner_of_slot(slot)[0]}
        for number in sorted(owners):
            shard = self._directory.shards.get(number)
            if shard is None:
                raise NotAppliedError("unknown_shard", "It is not known where this shard's nodes are.", shard=number)
            shards.append(shard)
        return shards

    def _check_whole(self, streams: Sequence[_Stream], slot: int | None) -> None:
        """Refuses a scan in which a slot is missing, or there twice, because it was moved in between."""
        if slot is not None:
            if not any(first <= slot <= last for stream in streams for first, last in stream.slots):
                self._directory.stale.set()
                raise ScanBrokenError("wrong_shard", f"slot {slot} is being moved")
            return
        bounds = sorted(chain.from_iterable(stream.slots for stream in streams))
        firsts, lasts = [first for first, _ in bounds], [last + 1 for _, last in bounds]
        if [0, *lasts] != [*firsts, SLOTS]:
            self._directory.stale.set()
            raise ScanBrokenError("wrong_shard", "slots are being moved")


def _nothing() -> None:
    """Does nothing: stands for the check of rights where everybody has all of them."""


def _choose(shard: Shard, mode: ReadMode, turn: int) -> Node:
    """The node to ask: the leader, or the next replica that answers."""
    if mode is LINEARIZABLE:
        if shard.leader is None:
            raise ScanBrokenError("no_leader", "no leader is known", shard.id)
        return shard.leader
    fresh, now_s = mode in (SESSION, BOUNDED), asyncio.get_running_loop().time()
    ranked: dict[tuple[bool, bool], list[Node]] = {}
    for node in shard.expected:
        node.want()
        behind = fresh and node.behind_until_s > now_s
        ranked.setdefault((behind, not node.up or node.suspect), []).append(node)
    if not ranked:
        raise ScanBrokenError("unavailable", "no node is known", shard.id)
    best = ranked[min(ranked)]
    return best[turn % len(best)]


def _demand(query: ScanQuery, shard: Shard) -> tuple[Freshness, int]:
    """The freshness to ask a shard for, and the entry up to which its replica must have applied the log."""
    if query.mode is not SESSION or query.session is None:
        return query.asked, 0
    demand = query.session.demand(shard.id)
    return (Freshness(), 0) if demand is None else (query.asked, demand)


def _request(query: ScanQuery, shards: int, asked: Freshness, min_index: int) -> doug_pb2.ScanRequest:
    eventual = asked.mode is not LINEARIZABLE
    return doug_pb2.ScanRequest(
        start=query.start,
        end=query.end or b"",
        reverse=query.reverse,
        limit=query.limit,
        page_bytes_max=max(PAGE_BYTES_MIN, min(PAGE_BYTES_MAX, PAGES_BYTES // shards)),
        keys_only=query.keys_only,
        count_only=query.count_only,
        delimiter=query.delimiter,
        prefix_bytes=query.prefix_bytes,
        consistency=doug_pb2.CONSISTENCY_EVENTUAL if eventual else doug_pb2.CONSISTENCY_LINEARIZABLE,
        min_index=min_index,
        max_staleness_ms=asked.bound_ms,
        slot=query.slot,
    )
