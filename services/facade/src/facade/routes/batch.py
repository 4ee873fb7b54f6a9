"""POST /v1/batch: many operations in one request, as JSON or as lines of JSON; each is answered as if alone.

JSON comes whole and is answered whole. Lines (NDJSON) come and go in a stream of any length, and are carried out a
group at a time. Must not know shards. Invariants: (1) there is one result for each operation, in the order of the
operations; (2) an operation that is refused keeps no other one from being carried out; (3) memory is bounded, however
long a stream, and however large what it reads.

Source: docs/api.md, Batches.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from time import perf_counter

from doug_wire.command import Command, Opcode
from doug_wire.payload import BATCH_OPERATIONS_MAX
from doug_wire.pipe import ResultRecord, Status
from facade.client import receipts
from facade.client.access import sender
from facade.client.fanout import READS_SAFE, Fanout, Outcome, Part, Wishes
from facade.client.metrics import Metrics
from facade.client.places import Bytes
from facade.client.put_batches import PutBatches, Written
from facade.client.router import Router
from facade.client.sessions import Seen, Session, grown
from facade.errors import BadRequestError, ProblemError, TooManyRequestsError
from facade.routes import body as bodies
from facade.routes import problem
from facade.routes.options import Headers, RequestOptions, parse_write
from facade.routes.quota import Quota
from facade.routes.raw import (
    CLOSE,
    JSON_TYPE,
    NDJSON_TYPE,
    RawApp,
    RawRequest,
    check_acceptable,
    check_length,
    check_media_type,
)
from facade.routes.results import PLAIN_PUT_VIEW, item_view, puts_view
from facade.routes.sessions import Answered, begin_session, receipt_of, receipts_of, seen_by, session_header
from facade.routes.shapes import parse_operation, parse_puts
from facade.settings import Settings

BODY_BYTES_MAX = 16 << 20
LINE_BYTES_MAX = 2 << 20
"""The longest line of a stream: a value of a mebibyte in base64, its key and the rest."""

GROUP_ITEMS, GROUP_BYTES = 2_000, 1 << 20
"""The most operations and bytes of a stream that are carried out together."""

YIELD_EVERY = 256
"""The number of operations after which the event loop gets to do something else."""
PARSED_TOGETHER = 1024
"""The same for puts without options, which take less time."""

PARAMETERS = frozenset({b"consistency", b"max_staleness"})


def parse_part(place: int, document: object) -> Part:
    """Reads one operation of a batch; the part has its command, or the error with which it is refused."""
    try:
        return Part(place, parse_operation(document))
    except BadRequestError as error:
        return Part(place, error)


def parse_line(place: int, line: bytes) -> Part:
    """Reads one line of a stream, as ``parse_part`` does."""
    try:
        document = bodies.parse_json(line)
    except BadRequestError as error:
        return Part(place, error)
    return parse_part(place, document)


async def show(parts: Sequence[Part], outcomes: Sequence[Outcome]) -> list[bytes]:
    """The results of some operations, as JSON each."""
    shown = []
    put, ok = Opcode.PUT, Status.OK
    for number, (part, outcome) in enumerate(zip(parts, outcomes, strict=True), 1):
        wanted, result = part.wanted, outcome.result
        opcode, key = (0, b"") if isinstance(wanted, ProblemError) else (wanted.opcode, wanted.key)
        if (
            opcode == put
            and type(result) is ResultRecord
            and result.status == ok
            and not (result.replayed or result.expires_at_ms)
        ):
            # Nearly all results of large batches.
            shown.append(PLAIN_PUT_VIEW % result.revision)
        else:
            shown.append(item_view(opcode, key, result, outcome.shard, uncertain=outcome.uncertain))
        if number % YIELD_EVERY == 0:
            await asyncio.sleep(0)
    return shown


async def _puts_of(operations: Sequence[object]) -> tuple[list[bytes], list[bytes]] | None:
    """The keys and values of a batch of puts without options; None if it is another one."""
    keys: list[bytes] = []
    values: list[bytes] = []
    for start in range(0, len(operations), PARSED_TOGETHER):
        if start:
            await asyncio.sleep(0)
        found = parse_puts(operations[start : start + PARSED_TOGETHER])
        if found is None:
            return None
        keys += found[0]
        values += found[1]
    return (keys, values) if keys else None


def _views(written: Sequence[Written]) -> bytes:
    """The results of a batch of puts, as JSON, with commas between them."""
    if all(each.revisions is not None and type(each.places) is range for each in written):
        # Those of one shard, in the order of the batch.
        return b",".join([puts_view(each.revisions) for each in written if each.revisions is not None])
    shown: dict[int, bytes] = {}
    for places, revisions, outcomes, _ in written:
        if revisions is not None:
            shown.update(zip(places, map(PLAIN_PUT_VIEW.__mod__, revisions), strict=True))
            continue
        for place, (result, shard, uncertain, _, _) in zip(places, outcomes, strict=True):
            shown[place] = item_view(Opcode.PUT, b"", result, shard, uncertain=uncertain)
    return b",".join([shown[place] for place in range(len(shown))])


def _receipts(written: Sequence[Written]) -> Answered:
    """The receipts of a batch of puts."""
    shared = dict.fromkeys([each.receipt for each in written if each.receipt is not None])
    others = receipts_of([outcome for each in written for outcome in each.outcomes])
    return list(dict.fromkeys([*((receipt, True) for receipt in shared), *others]))


def _size_read(part: Part, outcome: Outcome) -> int:
    """The bytes of the value that an operation has read."""
    result = outcome.result
    reads = isinstance(part.wanted, Command) and part.wanted.opcode == Opcode.GET
    return 0 if isinstance(result, ProblemError) or not reads else len(result.value)


def _few_reads(parts: list[Part]) -> tuple[list[Part], list[Part]]:
    """The first parts, with so few reads that their values are never too large together; and the rest."""
    reads = 0
    for number, part in enumerate(parts):
        if isinstance(part.wanted, Command) and part.wanted.opcode == Opcode.GET:
            reads += 1
            if reads > READS_SAFE:
                return parts[:number], parts[number:]
    return parts, []


class BatchApp(RawApp):
    """The route.

    Attributes:
        fanout: Carries batches out.
        bodies: The bytes that requests may keep in memory.
        quota: Counts operations for the rates of clients.
    """

    route = "/v1/batch"
    methods = frozenset({"POST"})

    def __init__(self, router: Router, metrics: Metrics, settings: Settings) -> None:
        super().__init__(metrics)
        self._router = router
        self.fanout = Fanout(router, settings.queue_bytes_max)
        self._puts = PutBatches(router, self.fanout)
        self._timeout_s = settings.request_timeout_ms / 1000
        self._body_timeout_s = settings.body_timeout_ms / 1000
        self._timed = settings.server_timing_enabled
        self.quota = Quota()
        self.bodies = Bytes("batches are being carried out", settings.queue_bytes_max, BODY_BYTES_MAX)
        metrics.places += (self.bodies, self.fanout.values)

    async def serve(self, request: RawRequest) -> None:
        """See ``RawApp``."""
        headers = Headers(request.raw_headers)
        options = parse_write(request.query, headers, PARAMETERS)
        if options.condition is not None:
            raise BadRequestError("bad_condition", "The operations of a batch have conditions of their own.")
        request.label = options.asked.mode.name
        session = await begin_session(self._router, options)
        kind = check_media_type(headers.content_type, (JSON_TYPE, NDJSON_TYPE))
        check_acceptable(headers.accept, kind)
        announced = check_length(headers.content_length, headers.transfer_encoding)
        if kind == NDJSON_TYPE:
            with self._hold(2 * GROUP_BYTES + LINE_BYTES_MAX):
                await self._stream(request, options, session)
            return
        if announced > BODY_BYTES_MAX:
            raise _too_large(close=announced > bodies.DRAINED_BYTES_MAX)
        with self._hold(announced or BODY_BYTES_MAX):
            await self._whole(request, options, session)

    @contextlib.contextmanager
    def _hold(self, size: int) -> Iterator[None]:
        """Counts the bytes that a request may keep in memory, for the time of the block.

        Raises:
            NotAppliedError: Other requests keep too many bytes already.
            TooManyRequestsError: Other requests of this client do.
        """
        client = sender.get()
        self.bodies.take(client, size)
        try:
            yield
        finally:
            self.bodies.give_back(client, size)

    async def _whole(self, request: RawRequest, options: RequestOptions, session: Session | None) -> None:
        try:
            body = await bodies.read(request.receive, BODY_BYTES_MAX, self._body_timeout_s)
        except BadRequestError as error:
            raise _too_large() if error.status == 413 else error from None
        document = bodies.parse_json(body)
        del body
        operations = document.get("operations") if isinstance(document, dict) else None
        if not isinstance(operations, list) or len(document) != 1:
            raise BadRequestError("bad_request", 'A batch is {"operations": [...]}.')
        if len(operations) > BATCH_OPERATIONS_MAX:
            detail = f"A batch has at most {BATCH_OPERATIONS_MAX} operations, not {len(operations)}."
            raise BadRequestError("body_too_large", detail, status=413)
        self.quota.charge(len(operations) - 1)
        puts = await _puts_of(operations)
        started_s = perf_counter()
        written = None if puts is None else await self._puts.run(*puts, self._wishes(options))
        if written is not None:
            answered, shown = _receipts(written), _views(written)
            await self._answer(request, options, session, answered, shown, started_s)
            return
        parts = []
        for place, operation in enumerate(operations):
            parts.append(parse_part(place, operation))
            if place % YIELD_EVERY == 0:
                await asyncio.sleep(0)
        del document, operations  # They may take several times the bytes that are counted.
        started_s = perf_counter()
        with self.fanout.room() as room:
            outcomes = await self.fanout.run(parts, self._wishes(options), session, room)
            answered, shown = receipts_of(outcomes), b",".join(await show(parts, outcomes))
            del outcomes
            await self._answer(request, options, session, answered, shown, started_s)

    async def _answer(
        self,
        request: RawRequest,
        options: RequestOptions,
        session: Session | None,
        answered: Answered,
        shown: bytes,
        started_s: float,
    ) -> None:
        """Answers a whole batch, of which the results are shown."""
        seen, receipt = seen_by(answered), receipt_of(answered, options.asked.mode)
        took_ms = 1000 * (perf_counter() - started_s)
        timing = ((receipts.SERVER_TIMING, b"route;dur=%.2f" % took_ms),) if self._timed else ()
        headers = (*timing, *receipt, *session_header(self._router, session, seen))
        await request.answer_json(200, b'{"results":[%b]}' % shown, headers)

    def _wishes(self, options: RequestOptions) -> Wishes:
        deadline_s = asyncio.get_running_loop().time() + self._timeout_s
        return Wishes(options.asked, options.idempotency_key, deadline_s)

    async def _in_rounds(
        self, group: Sequence[Part], options: RequestOptions, session: Session | None
    ) -> AsyncIterator[tuple[list[bytes], list[Seen], receipts.Headers]]:
        """Carries out a part of a stream in rounds, since its reads may be more than is held at a time."""
        waiting, later = list(group), list[Part]()
        done: dict[int, bytes] = {}
        sizes: dict[int, int] = {}
        place = group[0].place
        with self.fanout.room() as room:
            while waiting:
                room.renew()
                outcomes = await self.fanout.run_partly(waiting, self._wishes(options), session, room)
                over = [(part, each) for part, each in zip(waiting, outcomes, strict=True) if each is not None]
                left = [part for part, each in zip(waiting, outcomes, strict=True) if each is None]
                shown = await show([part for part, _ in over], [each for _, each in over])
                done.update((part.place, each) for (part, _), each in zip(over, shown, strict=True))
                sizes.update((part.place, _size_read(part, each)) for part, each in over)
                ready, sent = [], 0
                while place in done:
                    ready.append(done.pop(place))
                    sent += sizes.pop(place)
                    place += 1
                answered = receipts_of([each for _, each in over])
                seen, receipt = seen_by(answered), receipt_of(answered, options.asked.mode)
                del outcomes, over, answered, shown
                session = grown(session, seen)
                yield ready, seen, receipt
                room.leave(sent)
                waiting, later = _few_reads(left + later)

    async def _stream(self, request: RawRequest, options: RequestOptions, session: Session | None) -> None:
        begun = False
        kind = (b"content-type", NDJSON_TYPE)
        try:
            async for arrived in self._groups(request.receive):
                group = self._counted(arrived)
                async for shown, seen, receipt in self._in_rounds(group, options, session):
                    session = grown(session, seen)
                    if not begun:
                        begun = True
                        # The head goes before most of the answers; it names the nodes of those that are known.
                        await request.start(200, (kind, *receipt))
                    if shown:
                        await request.send(b"\n".join([*shown, b""]), more=True)
        except BadRequestError as error:
            if not begun:
                raise
            # The results that were sent stay valid. The last line tells why there are no more.
            await request.send(problem.document(error) + b"\n")
            return
        if not begun:
            await request.start(200, (kind, *options.asked.mode.headers))
        await request.send(b"")

    def _counted(self, group: list[Part]) -> list[Part]:
        """Counts the operations of a group; if the client has sent too many before, they are refused one by one."""
        if group[0].place == 0:
            self.quota.charge(len(group) - 1)
            return group
        try:
            self.quota.take(len(group))
        except TooManyRequestsError as error:
            return [Part(each.place, error) for each in group]
        return group

    async def _groups(self, receive: bodies.Receive) -> AsyncIterator[list[Part]]:
        """The operations of a stream, as many at a time as are carried out together.

        Raises:
            BadRequestError: The stream stands still, or has a line that is too long.
            DisconnectedError: The client went away; of what it sent, the groups that were whole are carried out.
        """
        group: list[Part] = []
        place, held, rest, more = 0, 0, bytearray(), True
        while more:
            try:
                async with asyncio.timeout(self._body_timeout_s):
                    message = await receive()
            except TimeoutError:
                detail = f"The next line did not arrive within {self._body_timeout_s:g} s."
                raise BadRequestError("body_timeout", detail, status=408, headers=(CLOSE,)) from None
            if message["type"] == "http.disconnect":
                raise bodies.DisconnectedError
            more = message.get("more_body", False)
            body, lines = message.get("body", b""), list[bytes]()
            if more and b"\n" not in body:
                rest += body  # A long line in small pieces is not copied with each of them.
            else:
                *lines, last = b"".join((rest, body)).split(b"\n")
                rest = bytearray(last if more else b"")
                if not more and last:
                    lines.append(last)
            if len(rest) > LINE_BYTES_MAX:
                raise BadRequestError("bad_line", f"A line is longer than {LINE_BYTES_MAX} bytes.", status=413)
            for line in lines:
                if not line.strip():
                    continue
                group.append(parse_line(place, line))
                place += 1
                held += len(line)
                if len(group) >= GROUP_ITEMS or held >= GROUP_BYTES:
                    yield group
                    group, held = [], 0
        if group:
            yield group


def _too_large(*, close: bool = False) -> BadRequestError:
    return BadRequestError(
        "body_too_large",
        f"A batch has at most {BODY_BYTES_MAX} bytes; NDJSON may be of any length.",
        status=413,
        headers=(CLOSE,) if close else (),
    )
