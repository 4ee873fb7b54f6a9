"""The routes of ranges of keys, ``GET`` and ``DELETE /v1/kv``, as raw ASGI: pages, streams of lines, counts, deletions.

Must not know gRPC, nor how shards are merged. Invariants: (1) a page is one point in the log of each shard, and a
failure of a shard within it begins it anew; (2) a stream goes on behind the last line that was sent, and its last line
says whether it is complete and whether its points in the logs changed; (3) what a client does not read is not made;
(4) whatever is not complete gives a cursor for the rest.

Source: docs/api.md, Ranges.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from time import perf_counter
from typing import Any, NamedTuple

import orjson

from doug_wire.scan import PREFIX, ScanRecord
from facade.client.metrics import RANGE_ROUTE, Metrics
from facade.client.places import Places
from facade.client.router import Router
from facade.client.scan import Scan, ScanBrokenError, ScanQuery, bound_behind
from facade.client.sessions import grown
from facade.errors import BadRequestError, ProblemError
from facade.routes import body as bodies
from facade.routes import problem
from facade.routes.options import Headers
from facade.routes.ranges.answer import Answer, Send, while_connected
from facade.routes.ranges.deletion import RangeDeletion
from facade.routes.ranges.entries import entry_json, prefix_json
from facade.routes.ranges.lines import LineStream, slices
from facade.routes.ranges.patience import Patience, again
from facade.routes.ranges.request import (
    DELETE_LIMIT_DEFAULT,
    LIMIT_DEFAULT,
    LIMIT_MAX,
    RangeRequest,
    deletion_of,
    read_of,
    wants_lines,
)
from facade.routes.raw import JSON_TYPE, check_acceptable, named
from facade.routes.sessions import read_session, session_header
from facade.settings import Settings

Scope = Any

METHODS = frozenset({"GET", "DELETE"})
ALLOW = (problem.allow(METHODS),)
PAGE_BYTES_MAX = 4 << 20
"""The most bytes of the encoded entries of a page, unless one entry alone has more."""

PAGE_PATIENCE = 0.5
"""The part of a request's time for which a page waits for its place."""

_JSON = (b"content-type", b"application/json")
_LINES = (b"content-type", b"application/x-ndjson")
_VARY = (b"vary", b"accept")


class _Page(NamedTuple):
    """The result of a scan with a limit.

    Attributes:
        items: The entries, encoded.
        prefixes: The common prefixes, encoded.
        bound: The key at which the rest begins; None if nothing is left.
        scan: The scan that was read; None if none was needed.
    """

    items: Sequence[bytes]
    prefixes: Sequence[bytes]
    bound: bytes | None
    scan: Scan | None

    @property
    def revisions(self) -> dict[int, int]:
        """By shard, its revision at the scan's point in its log."""
        return {} if self.scan is None else self.scan.revisions


class RangeApp:
    """The routes of ranges.

    Attributes:
        route: The template of the routes, for the metrics.
    """

    route = RANGE_ROUTE

    def __init__(self, router: Router, metrics: Metrics, settings: Settings) -> None:
        self._router = router
        self._metrics = metrics
        self._timeout_s = settings.request_timeout_ms / 1000
        self._count_timeout_s = settings.scan_count_timeout_ms / 1000
        self._idle_s = settings.scan_idle_ms / 1000
        self._places = Places(
            "ranges are being read", settings.scans_max, settings.client_scans_max, settings.address_scans_max
        )
        metrics.places.append(self._places)
        self._deletion = RangeDeletion(router, self._timeout_s)

    def methods_at(self, raw_path: bytes) -> frozenset[str]:
        """The methods that the route has at a path."""
        return METHODS

    async def __call__(self, scope: Scope, receive: bodies.Receive, send: Send) -> None:
        """Serves one request."""
        started_s = perf_counter()
        method: str = scope["method"]
        answer = Answer(named(scope, send), self._idle_s, self._others)
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
            await while_connected(self._admitted(asked, scope, answer), receive)
        except ProblemError as error:
            content = problem.document(error)
            await answer.whole(error.status, problem.headers(error, content), content)
        except bodies.DisconnectedError:
            answer.status = 499  # As nginx counts it; nobody reads the answer.
        self._metrics.request(method, answer.status, label, perf_counter() - started_s, RANGE_ROUTE)

    def _others(self) -> bool:
        """Whether other requests than ranges are being answered."""
        return self._metrics.inflight > self._places.taken

    def _understand(self, scope: Scope) -> RangeRequest:
        headers = Headers(scope["headers"])
        cluster_id = self._router.directory.cluster_id
        if scope["method"] == "DELETE":
            if headers.if_match or headers.if_none_match or headers.if_unmodified_since:
                raise BadRequestError("bad_condition", "The deletion of a range has no condition.")
            if headers.idempotency_key is not None:
                detail = "The deletion of a range goes in steps and may be repeated; it has no Idempotency-Key."
                raise BadRequestError("bad_idempotency_key", detail)
            check_acceptable(headers.accept, JSON_TYPE)
            return deletion_of(scope["query_string"], cluster_id)
        limit_max = 0 if wants_lines(headers.accept, JSON_TYPE) else LIMIT_MAX
        return read_of(scope["query_string"], headers.consistency, cluster_id, limit_max)

    async def _admitted(self, asked: RangeRequest, scope: Scope, answer: Answer) -> None:
        if scope["method"] == "DELETE":
            with self._places.one():
                await self._delete(asked, answer)
        elif (asked.query.count_only and not asked.limit) or wants_lines(Headers(scope["headers"]).accept, JSON_TYPE):
            with self._places.one():
                await self._read(asked, scope, answer)
        else:
            # A page is there in a moment, so one client's many pages wait for each other.
            async with self._places.one_soon(PAGE_PATIENCE * self._timeout_s):
                await self._read(asked, scope, answer)

    async def _read(self, asked: RangeRequest, scope: Scope, answer: Answer) -> None:
        query = asked.query
        accept = Headers(scope["headers"]).accept
        if query.count_only and not asked.limit:
            count, scan = await self._count(query)
            await self._tell_count(asked, _Page((), (), None, scan), count, answer)
        elif query.count_only:
            page = await self._page(query, min(asked.limit, LIMIT_MAX))
            await self._tell_count(asked, page, len(page.items) + len(page.prefixes), answer)
        elif wants_lines(accept, JSON_TYPE):
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
        """The headers that name the nodes that answered, and the session token of what the client knows now."""
        seen = () if scan is None else scan.seen
        shown = () if scan is None else scan.receipt
        return (*query.mode.headers, *shown, *session_header(self._router, query.session, seen))

    # Pages and counts.

    async def _page(self, query: ScanQuery, limit: int) -> _Page:
        if query.count_only:
            query = query._replace(count_only=False, keys_only=True)
        return await again(self._timeout_s, lambda: self._try_page(query, limit))

    async def _try_page(self, query: ScanQuery, limit: int) -> _Page:
        if query.empty:
            return _Page((), (), None, None)
        items: list[bytes] = []
        prefixes: list[bytes] = []
        size = 0
        last: ScanRecord | None = None
        # One more entry than is wanted, to know whether there are more.
        async with self._router.scans.open(query._replace(limit=limit + 1)) as scan:
            async for batch in scan.batches():
                for part in slices(batch):
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
        return await again(self._count_timeout_s, lambda: self._try_count(query))

    async def _try_count(self, query: ScanQuery) -> tuple[int, Scan | None]:
        if query.empty:
            return 0, None
        if not query.delimiter and query.slot is None:
            async with self._router.scans.open(query._replace(count_only=True)) as scan:
                return await scan.count(), scan
        # Shards may share a common prefix, which counts once; of a slot's keys each is looked at.
        async with self._router.scans.open(query._replace(count_only=False, keys_only=True)) as scan:
            count = 0
            async for batch in scan.batches():
                count += len(batch)
            return count, scan

    async def _tell_count(self, asked: RangeRequest, page: _Page, count: int, answer: Answer) -> None:
        content = b'{"count":%d,"items":[],"prefixes":[],%b' % (count, _end(asked, page.bound, page.revisions))
        await answer.whole(200, [_JSON, _VARY, *self._receipt(asked.query, page.scan)], content)

    # Streams.

    async def _lines(self, asked: RangeRequest, answer: Answer) -> None:
        stream = LineStream(asked, answer)
        patience = Patience(self._timeout_s)
        head: tuple[int, list[tuple[bytes, bytes]]] = (200, [_LINES, _VARY, *asked.query.mode.headers])
        error: ProblemError | None = None
        session = asked.query.session
        while not stream.ended() and error is None:
            try:
                async with self._router.scans.open(stream.rest()) as scan:
                    stream.begun(scan.revisions)
                    session = grown(session, scan.seen)
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
        # The head tells of the first point in the logs alone.
        token = b"" if session is None else self._router.directory.sessions.add(session, ())
        await answer.end(stream.trailer(error, token))

    # Deletions.

    async def _delete(self, asked: RangeRequest, answer: Answer) -> None:
        query = asked.query
        if asked.dry_run and not asked.limit:
            found, scan = await self._count(query)
            revisions = {} if scan is None else scan.revisions
            bound: bytes | None = None
            receipt = self._receipt(query, scan)
        else:
            limit = asked.limit or DELETE_LIMIT_DEFAULT
            done = await self._deletion.run(query, limit, dry_run=asked.dry_run)
            found, bound, revisions = done.keys, done.bound, done.revisions
            receipt = (*done.receipt, *session_header(self._router, done.session, ()))
        content = b'{"dry_run":%b,' % (b"true" if asked.dry_run else b"false")
        if asked.dry_run:
            content += b'"found":%d,' % found
        content += b'"deleted":%d,%b' % (0 if asked.dry_run else found, _end(asked, bound, revisions))
        await answer.whole(200, [_JSON, *receipt], content)


def _revisions(revisions: dict[int, int]) -> bytes:
    return orjson.dumps({str(shard): str(revision) for shard, revision in sorted(revisions.items())})


def _end(asked: RangeRequest, bound: bytes | None, revisions: dict[int, int]) -> bytes:
    """The end of an answer, behind the entries that were found."""
    cursor = asked.cursor(bound)
    return b'"next_cursor":%b,"complete":%b,"revisions":%b}' % (
        orjson.dumps(cursor),
        b"true" if cursor is None else b"false",
        _revisions(revisions),
    )
