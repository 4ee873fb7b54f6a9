"""Many operations of one request, beside the way of single ones: split by shard, sent in parallel, answered in order.

Operations on the same key happen in the order in which they are given; of others nothing is promised but that each
happens as if alone. Writes of a shard travel in parts of at most a mebibyte and ``BATCH_PART`` operations, each as one
entry of its log, and some of them at once where no key comes twice. Must not know HTTP. Invariants:

    1. Every operation gets its own outcome, whatever becomes of the others.
    2. The values that are read for one run have ``RESULT_BYTES_MAX`` together, whatever was asked for: a request of a
       few bytes may ask for gigabytes. Beyond it they are not kept, and no more of them are fetched.

Source: docs/api.md, Batches; doug_wire.payload.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from doug_wire import command as commands
from doug_wire.command import Command, Opcode
from doug_wire.payload import BATCH_PART, decode_batch_result, encode_batch
from doug_wire.pipe import PipeError, ResultRecord, Status
from facade.client.access import Caller, check, current, sender, verb_of
from facade.client.modes import LEADER_KINDS, SESSION, Freshness
from facade.client.operation import Operation
from facade.client.places import Bytes
from facade.client.receipts import Receipt
from facade.client.requests import with_token
from facade.client.router import Router
from facade.client.sessions import Seen, Session, grown
from facade.errors import BadRequestError, InternalError, NotAppliedError, ProblemError

PART_BYTES_MAX = 1 << 20
"""The most bytes of a batch that go into one entry of a shard's log, unless one operation alone has more."""

PARTS_AT_ONCE = 2
"""The number of parts that are under way to a shard at a time, if no key comes twice: a part that is sent again because
leadership moved may come behind a later one."""

RESULT_BYTES_MAX = 16 << 20
"""The most bytes of values that one run reads."""

HELD_BYTES_OF_ONE = 2 * RESULT_BYTES_MAX
"""The most bytes of values that are held for one request: those of a run, and those before whose turn others come."""

READS_SAFE = RESULT_BYTES_MAX // commands.VALUE_BYTES_MAX
"""The number of reads whose values are never too large together."""

YIELD_EVERY = 512
"""The number of operations after which the event loop gets to do something else."""

REROUTE_S = 0.05


class Outcome(NamedTuple):
    """The outcome of one operation of a batch.

    Attributes:
        result: The shard's answer, or the error for which there is none.
        shard: The shard that was asked; -1 if none was.
        uncertain: Whether an earlier try of the operation may have been applied.
        receipt: What the node that answered said of itself; None if none did.
        strong: Whether the operation was a write or a linearizable read.
    """

    result: ResultRecord | ProblemError
    shard: int = -1
    uncertain: bool = False
    receipt: Receipt | None = None
    strong: bool = False

    @property
    def seen(self) -> Seen | None:
        """How far the answer has shown the log of its shard; None without an answer."""
        receipt = self.receipt
        return None if receipt is None else Seen(receipt.shard, receipt.entry, self.strong)


class ResultTooLargeError(BadRequestError):
    """The values of one run have too many bytes together, so this one was not kept."""

    def __init__(self) -> None:
        detail = f"The values that one batch reads have at most {RESULT_BYTES_MAX} bytes together."
        super().__init__("result_too_large", detail, status=422)


class Part(NamedTuple):
    """One operation of a batch: its place in the request, and its command, or the error with which it is refused."""

    place: int
    wanted: Command | ProblemError


class Wishes(NamedTuple):
    """How a batch is carried out.

    Attributes:
        asked: How fresh the batch's reads must be.
        idempotency_key: The key that makes every write of the batch happen once; each write adds its place to it.
        deadline_s: When all operations must be answered, on the loop's clock.
    """

    asked: Freshness
    idempotency_key: str
    deadline_s: float


def _waves(parts: Sequence[Part]) -> list[list[Part]]:
    """Sorts parts into waves that may be under way together: no part reads a key that another of its wave writes."""
    writes = [part for part in parts if type(part.wanted) is Command and part.wanted.opcode != Opcode.GET]
    if len(writes) == len(parts):
        return [writes]
    waves: list[list[Part]] = [[]]
    seen: dict[bytes, tuple[int, bool]] = {}
    for part in parts:
        wanted = part.wanted
        if isinstance(wanted, ProblemError):
            continue
        reads = wanted.opcode == Opcode.GET
        number, read = seen.get(wanted.key, (0, reads))
        if read is not reads:
            number += 1
            if number == len(waves):
                waves.append([])
        seen[wanted.key] = (number, reads)
        waves[number].append(part)
    return waves


def _allowed(part: Part, caller: Caller) -> Part:
    """The part itself, or the same part as a refusal if the caller has not the right to it."""
    wanted = part.wanted
    if isinstance(wanted, ProblemError):
        return part
    try:
        check(caller, verb_of(wanted.opcode), wanted.key)
    except ProblemError as error:
        return Part(part.place, error)
    return part


class Fanout:
    """Carries out batches.

    Attributes:
        values: The bytes of values that are held for all requests.
    """

    def __init__(self, router: Router, held_max: int) -> None:
        self._router = router
        self.values = Bytes("values are held for batches", held_max, HELD_BYTES_OF_ONE)

    def room(self) -> Room:
        """Makes room for the values of one request, which must be left once they were sent."""
        return Room(self.values)

    async def run(self, parts: Sequence[Part], wishes: Wishes, session: Session | None, room: Room) -> list[Outcome]:
        """Carries out a batch and returns an outcome for each part, in their order.

        Reads whose values are too large together end as ``ResultTooLargeError``; up to ``READS_SAFE`` reads never do.

        Args:
            parts: The operations; places are unique within a request.
            wishes: How to carry them out.
            session: What the client's session token says. Requires: the map is as new as the token.
            room: The room for the values that are read.
        """
        found = await self._carry_out(parts, wishes, session, room, partly=False)
        return [each for each in found if each is not None]

    async def run_partly(
        self, parts: Sequence[Part], wishes: Wishes, session: Session | None, room: Room
    ) -> list[Outcome | None]:
        """Like ``run``, but once values are too large it leaves the rest for another run, with None for outcomes.

        Of that rest no write was begun, and nothing that it reads was changed by what stands behind it.
        """
        return await self._carry_out(parts, wishes, session, room, partly=True)

    async def _carry_out(
        self, parts: Sequence[Part], wishes: Wishes, session: Session | None, room: Room, *, partly: bool
    ) -> list[Outcome | None]:
        if self._router.guarded:
            caller = current.get()
            parts = [_allowed(part, caller) for part in parts]
        outcomes = {part.place: Outcome(part.wanted) for part in parts if isinstance(part.wanted, ProblemError)}
        for wave in _waves(parts):
            carried = _Wave(self._router, outcomes, wishes, session, room)
            await carried.run(wave)
            if carried.full and partly:
                found = (outcomes.get(part.place) for part in parts)
                return [
                    None if each is None or isinstance(each.result, ResultTooLargeError) else each for each in found
                ]
            if wishes.asked.mode is SESSION:
                # Later operations of the batch see the effects of earlier ones, as in successive requests.
                shown = [seen for part in wave if (seen := outcomes[part.place].seen) is not None]
                session = grown(session, sorted(shown, key=lambda each: not each.strong))
        return [outcomes[part.place] for part in parts]


class Room:
    """The bytes of values that a request may still read; a context, at whose end they are given back.

    Attributes:
        left: How many bytes the present run may still read.
    """

    def __init__(self, values: Bytes) -> None:
        """Counts what the sender of the request that is being served holds, among the values of all requests."""
        self._values = values
        self._client = sender.get()
        self._held = 0
        self.left = RESULT_BYTES_MAX

    def __enter__(self) -> Room:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave(self._held)

    def renew(self) -> None:
        """Begins the next run; the bytes that the request holds stay counted."""
        self.left = RESULT_BYTES_MAX

    def leave(self, size: int) -> None:
        """Gives back the bytes of values that were sent."""
        self._held -= size
        self._values.give_back(self._client, size)

    def take(self, size: int) -> ProblemError | None:
        """Counts the bytes of a value, or returns the error if there is no room for them."""
        if size > self.left:
            return ResultTooLargeError()
        try:
            self._values.take(self._client, size)
        except ProblemError as error:
            return error
        self.left -= size
        self._held += size
        return None


class _Reads:
    """Reads that are under way together. A value that is too large is given up when it comes, not when all have come.

    Attributes:
        full: Whether a value was not kept; from then on none is kept.
    """

    def __init__(self, router: Router, outcomes: dict[int, Outcome], room: Room) -> None:
        self._registry = router.registry
        self._over = False
        self._outcomes = outcomes
        self._room = room
        self.full = False
        self._going: dict[int, Operation] = {}
        self._none_goes = asyncio.Event()
        self._none_goes.set()

    def add(self, place: int, operation: Operation) -> None:
        """Adds a read that is under way."""
        self._going[place] = operation
        self._none_goes.clear()
        operation.future.add_done_callback(lambda future: self._done(place, future))
        if self.full:
            self._registry.give_up(operation, ResultTooLargeError())

    async def wait(self) -> None:
        """Waits until all reads have an outcome."""
        try:
            await self._none_goes.wait()
        finally:
            # No caller waits any more, so the rest is not needed, nor what is answered already and comes in a moment.
            self._over = True
            self._give_up()

    def _done(self, place: int, future: asyncio.Future[ResultRecord]) -> None:
        operation = self._going.pop(place)
        error = future.exception()
        if self._over:
            return  # The room of the request was left.
        outcome: ResultRecord | ProblemError
        if error is None:
            outcome = future.result()
            outcome = ResultTooLargeError() if self.full else self._room.take(len(outcome.value)) or outcome
        elif isinstance(error, ProblemError):
            outcome = error
        else:
            raise error
        self._outcomes[place] = Outcome(
            outcome, operation.shard, receipt=operation.receipt, strong=operation.kind in LEADER_KINDS
        )
        if not self.full and isinstance(outcome, ResultTooLargeError):
            self.full = True
            self._give_up()
        if not self._going:
            self._none_goes.set()

    def _give_up(self) -> None:
        for operation in self._going.values():
            self._registry.give_up(operation, ResultTooLargeError())


class _Wave:
    """The operations of one wave, which are under way together.

    Attributes:
        full: Whether the values that were read are too large together.
    """

    def __init__(
        self,
        router: Router,
        outcomes: dict[int, Outcome],
        wishes: Wishes,
        session: Session | None,
        room: Room,
    ) -> None:
        self.full = False
        self._room = room
        self._router = router
        self._outcomes = outcomes
        self._session = session
        self._asked, self._idempotency_key, self._deadline_s = wishes

    async def run(self, parts: list[Part]) -> None:
        """Carries out the operations of the wave."""
        reads: list[tuple[int, Command]] = []
        while parts:
            writes: dict[int, list[tuple[int, Command]]] = {}
            for number, (place, wanted) in enumerate(parts, 1):
                assert isinstance(wanted, Command)
                if wanted.opcode == Opcode.GET:
                    reads.append((place, wanted))
                    continue
                try:
                    shard, _ = self._router.directory.locate(wanted.key)
                except NotAppliedError as error:
                    self._outcomes[place] = Outcome(error)
                    continue
                writes.setdefault(shard.id, []).append((place, wanted))
                if number % YIELD_EVERY == 0:
                    await asyncio.sleep(0)
            rerouted = await asyncio.gather(*(self._write(shard, each) for shard, each in writes.items()))
            if reads:
                await self._read(reads)
                reads = []
            parts = [Part(*each) for moved in rerouted for each in moved]
            if parts:
                # Their slots are moving: the map is being loaded anew.
                await asyncio.sleep(REROUTE_S)

    async def _read(self, reads: list[tuple[int, Command]]) -> None:
        mode, bound_ms = self._asked
        under_way = _Reads(self._router, self._outcomes, self._room)
        for number, (place, wanted) in enumerate(reads, 1):
            try:
                operation = self._router.read(wanted.key, mode, self._deadline_s, self._session, bound_ms)
            except ProblemError as error:
                self._outcomes[place] = Outcome(error)
                continue
            under_way.add(place, operation)
            if number % YIELD_EVERY == 0:
                await asyncio.sleep(0)
        await under_way.wait()
        self.full = self.full or under_way.full

    async def _write(self, shard: int, writes: list[tuple[int, Command]]) -> list[tuple[int, Command]]:
        """Sends writes to a shard, part after part; returns those that are to be sent again, in their order."""
        left: list[tuple[int, Command]] = []
        if len({wanted.key for _, wanted in writes}) < len(writes):
            for part, encoded in self._parts(writes):
                # What has a key of a part that is sent again must not come before it.
                left += part if left else await self._send(shard, part, encoded)
            return left
        turns = asyncio.Semaphore(PARTS_AT_ONCE)
        tasks = []
        async with asyncio.TaskGroup() as group:
            for part, encoded in self._parts(writes):
                await turns.acquire()
                task = group.create_task(self._send(shard, part, encoded))
                task.add_done_callback(lambda _: turns.release())
                tasks.append(task)
        return [each for task in tasks for each in task.result()]

    def _parts(self, writes: list[tuple[int, Command]]) -> Iterator[tuple[list[tuple[int, Command]], list[bytes]]]:
        part: list[tuple[int, Command]] = []
        encoded: list[bytes] = []
        size = 0
        key, encode, identity = self._idempotency_key, commands.encode, self._router.identity()
        for place, wanted in writes:
            data = encode(*(with_token(wanted, identity, f"{key}/{place}") if key else wanted))
            if part and (size + len(data) > PART_BYTES_MAX or len(part) == BATCH_PART):
                yield part, encoded
                part, encoded, size = [], [], 0
            part.append((place, wanted))
            encoded.append(data)
            size += len(data) + 4
        if part:
            yield part, encoded

    async def _send(
        self, shard: int, part: list[tuple[int, Command]], encoded: list[bytes]
    ) -> list[tuple[int, Command]]:
        outcomes = self._outcomes
        try:
            operation = self._router.write(
                Opcode.BATCH,
                part[0][1].key,
                value=encode_batch(encoded),
                deadline_s=self._deadline_s,
                repeatable=bool(self._idempotency_key),
            )
            result = await operation.future
        except ProblemError as error:
            if error.code == "wrong_shard" and asyncio.get_running_loop().time() < self._deadline_s:
                return part
            outcomes.update((place, Outcome(error, shard)) for place, _ in part)
            return []
        if result.status == Status.RESULT_TOO_LARGE and len(part) > 1:
            # Together they read more than an entry may; none of them was carried out.
            half = len(part) // 2
            moved = await self._send(shard, part[:half], encoded[:half])
            return moved + (part[half:] if moved else await self._send(shard, part[half:], encoded[half:]))
        told = outcomes_of(operation, result, shard, len(part))
        outcomes.update(zip([place for place, _ in part], told, strict=True))
        return []


def outcomes_of(operation: Operation, result: ResultRecord, shard: int, count: int) -> list[Outcome]:
    """The outcomes of so many writes that a shard was sent together, of which it has answered with a result."""
    uncertain, receipt = operation.uncertain, operation.receipt
    if result.status != Status.OK:
        return [Outcome(result, shard, uncertain, receipt, True)] * count
    results: Sequence[ResultRecord] = ()
    with contextlib.suppress(PipeError):
        results = decode_batch_result(result.value)
    if len(results) != count:
        broken = InternalError("invalid_record", "A raft-node answered a batch with something else.", shard=shard)
        return [Outcome(broken, shard)] * count
    new, cls = tuple.__new__, Outcome  # For each of thousands: this takes half the time of a call of the class.
    return [new(cls, (each, shard, uncertain, receipt, True)) for each in results]
