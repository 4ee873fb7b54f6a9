"""The routes of ranges of keys, ``GET`` and ``DELETE /v1/kv``, as raw ASGI: pages, streams of lines, counts, deletions.

Must not know gRPC, nor how shards are merged. Invariants: (1) a page is one point in the log of each shard, and a
failure of a shard within it begins it anew; (2) a stream goes on behind the last line that was sent, and its last line
says whether it is complete and whether its points in the logs changed; (3) what a client does not read is not made;
(4) whatever is not complete gives a cursor for the rest.

Source: DESIGN 8; docs/api.md, Ranges.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from functools import partial
from time import perf_counter
from typing import Any, NamedTuple, TypeVar

import orjson

from doug_wire.command import KEY_BYTES_MAX, Opcode
from doug_wire.scan import PREFIX, ScanRecord
from facade.client.metrics import RANGE_ROUTE, Metrics
from facade.client.router import Router
from facade.client.scan import Scan, ScanBrokenError, ScanQuery, bound_behind
from facade.errors import BadRequestError, NotAppliedError, ProblemError, ReadTimeoutError
from facade.routes import body as bodies
from facade.routes import problem
from facade.routes.entries import entry_json, line, prefix_json
from facade.routes.options import Headers
from facade.routes.range import (
    DELETE_LIMIT_DEFAULT,
    LIMIT_DEFAULT,
    LIMIT_MAX,
    RangeRequest,
    deletion_of,
    read_of,
    wants_lines,
)
from facade.routes.raw import named
from facade.routes.sessions import read_session, session_header
from facade.settings import Settings

Message = dict[str, Any]
Scope = Any
Send = Callable[[Any], Awaitable[None]]
T = TypeVar("T")

METHODS = frozenset({"GET", "DELETE"})
ALLOW = ((b"allow", b"GET, DELETE"),)
PAGE_BYTES_MAX = 4 << 20
"""The entries of a page, encoded; or one entry."""
SLICE = 256
"""So many records are encoded before others have their turn."""
PAUSE_SHARE, PAUSE_S_MAX = 1.5, 0.005
"""While other requests are being answered, a stream rests so many times as long as its parts take to make."""
DELETE_SLICE = 500
BACKOFF_MIN_S, BACKOFF_MAX_S = 0.01, 0.2

_BEHIND_ALL = b"\xff" * (KEY_BYTES_MAX + 1)

DETAILS = {
    "no_leader": "No leader of a shard served the scan in time.",
    "overloaded": "A shard had too many scans under way.",
    "wrong_shard": "Slots are being moved, and the shards together did not own all of them in time.",
    "not_fresh_enough": "No replica of a shard was as fresh as the scan asks for, and could prove it, in time.",
    "unavailable": "A node that was asked for its keys did not serve them in time.",
}
_JSON = (b"content-type", b"application/json")
_LINES = (b"content-type", b"application/x-ndjson")
_VARY = (b"vary", b"accept")


class _Patience:
    """How long a scan that breaks is begun again: some time since it last made progress."""

    def __init__(self, timeout_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._timeout_s = timeout_s
        self._delay_s = BACKOFF_MIN_S
        self._broken: ScanBrokenError | None = None
        self.ends_s = self._loop.time() + timeout_s

    def progress(self) -> None:
        """It went on."""
        self._delay_s = BACKOFF_MIN_S
        self.ends_s = self._loop.time() + self._timeout_s

    async def wait(self, error: ScanBrokenError) -> None:
        """Waits a moment before the next try.

        Raises:
            ProblemError: There is no time left.
        """
        self._broken = error
        if self._loop.time() + self._delay_s >= self.ends_s:
            raise self.late()
        await asyncio.sleep(self._delay_s)
        self._delay_s = min(BACKOFF_MAX_S, 2 * self._delay_s)

    def late(self) -> ProblemError:
        """Why there is no answer in time."""
        error = self._broken
        if error is None:
            return ReadTimeoutError("deadline_exceeded", "The range could not be read in time.")
        return NotAppliedError(error.reason, DETAILS[error.reason], shard=error.shard)


class _Page(NamedTuple):
    """What became of a scan with a limit.

    Attributes:
        items: The entries, encoded.
        prefixes: The common prefixes, encoded.
        bound: Where it goes on; None when nothing is left.
        scan: What was read; None when nothing had to be.
    """

    items: Sequence[bytes]
    prefixes: Sequence[bytes]
    bound: bytes | None
    scan: Scan | None

    @property
    def revisions(self) -> dict[int, int]:
        """By shard, its revision at the scan's point in its log."""
        return {} if self.scan is None else self.scan.revisions


def _slices(records: Sequence[ScanRecord], size: int = SLICE) -> Iterator[Sequence[ScanRecord]]:
    for first in range(0, len(records), size):
        yield records[first : first + size]


def _revisions(revisions: dict[int, int]) -> bytes:
    return orjson.dumps({str(shard): str(revision) for shard, revision in sorted(revisions.items())})


class RangeApp:
    """The routes of ranges.

    Attributes:
        route: Their template, for the metrics.
    """

    route = RANGE_ROUTE

    def __init__(self, router: Router, metrics: Metrics, settings: Settings) -> None:
        self._router = router
        self._metrics = metrics
        self._timeout_s = settings.request_timeout_ms / 1000
        self._count_timeout_s = settings.scan_count_timeout_ms / 1000
        self._idle_s = settings.scan_idle_ms / 1000
        self._scans_max = settings.scans_max
        self._under_way = 0

    async def __call__(self, scope: Scope, receive: bodies.Receive, send: Send) -> None:
        """Serves one request."""
        started_s = perf_counter()
        method: str = scope["method"]
        answer = _Answer(named(scope, send), self._idle_s, self._others)
        label = "none"
        try:
            if method not in METHODS:
                method = "other"
                raise BadRequestError("method_not_allowed", "Ranges are read and deleted.", status=405, headers=ALLOW)
            asked = self._understand(scope)
            label = asked.query.mode.name
            token = Headers(scope["headers"]).session
            if token is not None:
                session = await read_session(self._router, token)
                asked = asked._replace(query=asked.query._replace(session=session))
            await _while_connected(self._admitted(asked, scope, answer), receive)
        except ProblemError as error:
            content = problem.document(error)
            await answer.whole(error.status, problem.headers(error, content), content)
        except bodies.DisconnectedError:
            answer.status = 499  # As nginx counts it; nobody reads the answer.
        self._metrics.request(method, answer.status, label, perf_counter() - started_s, RANGE_ROUTE)

    def _others(self) -> bool:
        """Whether other requests than ranges are being answered."""
        return self._metrics.inflight > self._under_way

    def _understand(self, scope: Scope) -> RangeRequest:
        headers = dict(scope["headers"])
        cluster_id = self._router.directory.cluster_id
        if scope["method"] == "DELETE":
            return deletion_of(scope["query_string"], cluster_id)
        limit_max = 0 if wants_lines(headers.get(b"accept")) else LIMIT_MAX
        return read_of(scope["query_string"], headers.get(b"doug-consistency"), cluster_id, limit_max)

    async def _admitted(self, asked: RangeRequest, scope: Scope, answer: _Answer) -> None:
        if self._under_way >= self._scans_max:
            raise NotAppliedError("overloaded", "Too many ranges are being read.")
        self._under_way += 1
        try:
            if scope["method"] == "DELETE":
                await self._delete(asked, answer)
            else:
                await self._read(asked, scope, answer)
        finally:
            self._under_way -= 1

    async def _read(self, asked: RangeRequest, scope: Scope, answer: _Answer) -> None:
        query = asked.query
        accept = dict(scope["headers"]).get(b"accept")
        if query.count_only and not asked.limit:
            count, scan = await self._count(query)
            await self._tell_count(asked, _Page((), (), None, scan), count, answer)
        elif query.count_only:
            page = await self._page(query, min(asked.limit, LIMIT_MAX))
            await self._tell_count(asked, page, len(page.items) + len(page.prefixes), answer)
        elif wants_lines(accept):
            await self._lines(asked, answer)
        else:
            page = await self._page(query, asked.limit or LIMIT_DEFAULT)
            content = b'{"items":[%b],"prefixes":[%b],%b' % (
                b",".join(page.items),
                b",".join(page.prefixes),
                _end(asked, page.bound, page.revisions),
            )
            await answer.whole(200, [_JSON, _VARY, *self._receipt(query, page.scan)], content)

    def _receipt(self, query: ScanQuery, scan: Scan | None) -> tuple[tuple[bytes, bytes], ...]:
        """The headers that say who answered, and what the client knows from now on."""
        seen = () if scan is None else scan.seen
        shown = () if scan is None else scan.receipt
        return (*query.mode.headers, *shown, *session_header(self._router, query.session, seen))

    # Pages and counts.

    async def _again(self, timeout_s: float, attempt: Callable[[], Awaitable[T]]) -> T:
        """Has something tried until it does not break, or the time is over."""
        patience = _Patience(timeout_s)
        try:
            async with asyncio.timeout_at(patience.ends_s):
                while True:
                    try:
                        return await attempt()
                    except ScanBrokenError as error:
                        await patience.wait(error)
        except TimeoutError:
            raise patience.late() from None

    async def _page(self, query: ScanQuery, limit: int) -> _Page:
        if query.count_only:
            query = query._replace(count_only=False, keys_only=True)
        return await self._again(self._timeout_s, lambda: self._try_page(query, limit))

    async def _try_page(self, query: ScanQuery, limit: int) -> _Page:
        if query.empty:
            return _Page((), (), None, None)
        items: list[bytes] = []
        prefixes: list[bytes] = []
        size = 0
        last: ScanRecord | None = None
        # One more than is wanted, to know whether there is one.
        async with self._router.scans.open(query._replace(limit=limit + 1)) as scan:
            async for batch in scan.batches():
                for part in _slices(batch):
                    for record in part:
                        full = len(items) + len(prefixes) == limit
                        encoded = (
                            prefix_json(record.key)
                            if record.kind == PREFIX
                            else entry_json(record, keys_only=query.keys_only)
                        )
                        size += len(encoded) + 1
                        if full or (size > PAGE_BYTES_MAX and last is not None):
                            assert last is not None
                            return _Page(items, prefixes, bound_behind(last, reverse=query.reverse), scan)
                        (prefixes if record.kind == PREFIX else items).append(encoded)
                        last = record
                    await asyncio.sleep(0)
            return _Page(items, prefixes, None, scan)

    async def _count(self, query: ScanQuery) -> tuple[int, Scan | None]:
        return await self._again(self._count_timeout_s, lambda: self._try_count(query))

    async def _try_count(self, query: ScanQuery) -> tuple[int, Scan | None]:
        if query.empty:
            return 0, None
        if not query.delimiter:
            async with self._router.scans.open(query._replace(count_only=True)) as scan:
                return await scan.count(), scan
        # Shards may share a common prefix, which counts once.
        async with self._router.scans.open(query._replace(count_only=False, keys_only=True)) as scan:
            count = 0
            async for batch in scan.batches():
                count += len(batch)
            return count, scan

    async def _tell_count(self, asked: RangeRequest, page: _Page, count: int, answer: _Answer) -> None:
        content = b'{"count":%d,"items":[],"prefixes":[],%b' % (count, _end(asked, page.bound, page.revisions))
        await answer.whole(200, [_JSON, _VARY, *self._receipt(asked.query, page.scan)], content)

    # Streams.

    async def _lines(self, asked: RangeRequest, answer: _Answer) -> None:
        stream = _LineStream(asked, answer)
        patience = _Patience(self._timeout_s)
        head: tuple[int, list[tuple[bytes, bytes]]] = (200, [_LINES, _VARY, *asked.query.mode.headers])
        error: ProblemError | None = None
        while not stream.ended() and error is None:
            try:
                async with self._router.scans.open(stream.rest()) as scan:
                    stream.begun(scan.revisions)
                    await answer.begin(200, [_LINES, _VARY, *self._receipt(asked.query, scan)])
                    async for batch in scan.batches():
                        await stream.send(batch)
                        patience.progress()
                        if stream.ended():
                            break
                    else:
                        stream.finish()
            except ScanBrokenError as broken:
                try:
                    await patience.wait(broken)
                except ProblemError as late:
                    error = late
            except ProblemError as failed:
                error = failed
        if error is not None and not answer.begun:
            raise error
        await answer.begin(*head)
        await answer.end(stream.trailer(error))

    # Deletions.

    async def _delete(self, asked: RangeRequest, answer: _Answer) -> None:
        if asked.dry_run:
            if asked.limit:
                page = await self._page(asked.query, min(asked.limit, LIMIT_MAX))
                found = len(page.items)
            else:
                found, scan = await self._count(asked.query)
                page = _Page((), (), None, scan)
            content = b'{"dry_run":true,"found":%d,"deleted":0,%b' % (
                found,
                _end(asked, page.bound, page.revisions),
            )
        else:
            content = await self._delete_some(asked)
        await answer.whole(200, [_JSON], content)

    async def _delete_some(self, asked: RangeRequest) -> bytes:
        """Deletes up to the limit, or as much as there is time for."""
        limit, ends_s = asked.limit or DELETE_LIMIT_DEFAULT, asyncio.get_running_loop().time() + self._timeout_s
        query, deleted, revisions = asked.query, 0, dict[int, int]()
        while True:
            try:
                attempt = partial(self._keys, query, min(DELETE_SLICE, limit - deleted))
                page = await self._again(self._timeout_s, attempt)
                revisions = page.revisions or revisions
                deleted += await self._delete_keys(page.items)
            except ProblemError:
                if not deleted:
                    raise
                # What is gone is gone; the next step tells what is wrong, if it still is.
                bound: bytes | None = query.start
                break
            bound = page.bound
            if bound is None or deleted >= limit:
                break
            query = query.bounded(bound)
            if asyncio.get_running_loop().time() >= ends_s:
                break
        end = _end(asked, bound, revisions)
        return b'{"dry_run":false,"deleted":%d,%b' % (deleted, end)

    async def _keys(self, query: ScanQuery, limit: int) -> _Page:
        if query.empty:
            return _Page((), (), None, None)
        keys: list[bytes] = []
        async with self._router.scans.open(query._replace(limit=limit + 1)) as scan:
            async for batch in scan.batches():
                keys += [record.key for record in batch]
                if len(keys) > limit:
                    return _Page(keys[:limit], (), keys[limit - 1] + b"\0", scan)
            return _Page(keys, (), None, scan)

    async def _delete_keys(self, keys: Iterable[bytes]) -> int:
        operations = [self._router.write(Opcode.DELETE, key) for key in keys]
        results = await asyncio.gather(*(operation.future for operation in operations), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return len(results)


def _end(asked: RangeRequest, bound: bytes | None, revisions: dict[int, int]) -> bytes:
    """The rest of an answer, behind what was found."""
    cursor = asked.cursor(bound)
    return b'"next_cursor":%b,"complete":%b,"revisions":%b}' % (
        orjson.dumps(cursor),
        b"true" if cursor is None else b"false",
        _revisions(revisions),
    )


class _LineStream:
    """A stream of lines: what was sent of it, and what is left."""

    def __init__(self, asked: RangeRequest, answer: _Answer) -> None:
        self._asked = asked
        self._answer = answer
        self._query: ScanQuery | None = None if asked.query.empty else asked.query
        self._last: ScanRecord | None = None
        self._sent = 0
        self._changed = False
        self._complete = self._query is None
        self._revisions: dict[int, int] = {}
        self._over = self._complete

    def ended(self) -> bool:
        """Whether nothing more is to be sent but the trailer."""
        return self._over

    def rest(self) -> ScanQuery:
        """What is left of the range."""
        assert self._query is not None
        # One more than is wanted, to know whether there is one.
        return self._query._replace(limit=self._asked.limit and self._asked.limit + 1 - self._sent)

    def begun(self, revisions: dict[int, int]) -> None:
        """A scan of the rest has begun."""
        # Also with the same revisions: keys may have expired in between.
        self._changed = self._changed or self._sent > 0
        self._revisions = revisions

    async def send(self, records: Sequence[ScanRecord]) -> None:
        """Sends records, as many as are wanted."""
        limit = self._asked.limit
        wanted = records[: limit - self._sent] if limit else records
        for part in _slices(wanted):
            begun_s = perf_counter()
            lines = [line(record, keys_only=self._asked.query.keys_only) for record in part]
            await self._answer.more(b"\n".join(lines) + b"\n", perf_counter() - begun_s)
            self._sent += len(part)
            self._last = part[-1]
            self._query = self._asked.query.behind(part[-1])
        if len(wanted) < len(records):
            self._over = True
        elif self._query is None or self._query.empty:
            self.finish()

    def finish(self) -> None:
        """There is no more in the range."""
        self._over = self._complete = True

    def trailer(self, error: ProblemError | None) -> bytes:
        """The last line."""
        bound = None
        if not self._complete:
            query = self._asked.query
            if self._last is not None:
                bound = bound_behind(self._last, reverse=query.reverse)
            else:
                bound = (_BEHIND_ALL if query.end is None else query.end) if query.reverse else query.start
        told: dict[str, Any] = {
            "complete": self._complete,
            "next_cursor": self._asked.cursor(bound),
            "count": self._sent,
            "cut_changed": self._changed,
            "revisions": {str(shard): str(revision) for shard, revision in sorted(self._revisions.items())},
        }
        if error is not None:
            told["error"] = orjson.Fragment(problem.document(error))
        return orjson.dumps(told) + b"\n"


class _Answer:
    """An answer on its way to a client that may be slow.

    Attributes:
        status: The status that was sent.
        begun: Whether its head was.
    """

    def __init__(self, send: Send, idle_s: float, others: Callable[[], bool]) -> None:
        self._send_now = send
        self._idle_s = idle_s
        self._others = others
        self.status = 0
        self.begun = False

    async def whole(self, status: int, headers: Iterable[tuple[bytes, bytes]], content: bytes) -> None:
        """Sends all of it."""
        if not any(name == b"content-length" for name, _ in headers):
            headers = [*headers, (b"content-length", b"%d" % len(content))]
        await self.begin(status, headers)
        await self.end(content)

    async def begin(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Sends the head, once."""
        if self.begun:
            return
        self.status, self.begun = status, True
        await self._send({"type": "http.response.start", "status": status, "headers": list(headers)})

    async def more(self, content: bytes, spent_s: float) -> None:
        """Sends a part of the body, which took some time to make, and leaves the loop to others for about as long."""
        await self._send({"type": "http.response.body", "body": content, "more_body": True})
        # A request takes several turns of the loop, and each turn waits for a part of this stream.
        await asyncio.sleep(PAUSE_SHARE * min(spent_s, PAUSE_S_MAX) if self._others() else 0)

    async def end(self, content: bytes) -> None:
        """Sends the last part."""
        await self._send({"type": "http.response.body", "body": content})

    async def _send(self, message: Message) -> None:
        try:
            async with asyncio.timeout(self._idle_s):
                await self._send_now(message)
        except TimeoutError:
            raise bodies.DisconnectedError from None


async def _while_connected(work: Awaitable[None], receive: bodies.Receive) -> None:
    """Does something as long as the client is there: what is sent to one that is gone is dropped, and never ends.

    Raises:
        DisconnectedError: It is gone.
    """
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise bodies.DisconnectedError
        await working
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _gone(receive: bodies.Receive) -> None:
    """Returns once the client is gone; a body says nothing here."""
    while (await receive())["type"] != "http.disconnect":
        pass
