"""Many operations of one request, beside the way of single ones: split by shard, sent in parallel, answered in order.

Operations on the same key happen in the order in which they are given; of others nothing is promised but that each
happens as if alone. Writes of a shard travel together, a mebibyte at a time, each as one entry of its log. Must not
know HTTP. Invariant: every operation gets its own outcome, whatever becomes of the others.

Source: DESIGN 8; doug_wire.payload.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from doug_wire import command as commands
from doug_wire.command import Command, Opcode
from doug_wire.payload import BATCH_OPERATIONS_MAX, decode_batch_result, encode_batch
from doug_wire.pipe import PipeError, ResultRecord, Status
from facade.client.access import Caller, check, current, verb_of
from facade.client.modes import LEADER_KINDS, SESSION, Freshness
from facade.client.operation import Operation
from facade.client.requests import with_token
from facade.client.router import Router
from facade.client.sessions import Seen, Session, grown
from facade.errors import InternalError, NotAppliedError, ProblemError

CHUNK_BYTES_MAX = 1 << 20
"""One entry of a shard's log holds at most so many bytes of a batch, or one operation."""

COSTLY_MAX = 1_000
"""One entry holds at most so many operations other than puts and deletes without options: each takes a replica tens of
microseconds, and nothing else happens there meanwhile."""

YIELD_EVERY = 512
"""After so many operations others get their turn on the event loop."""

REROUTE_S = 0.05


_PLAIN = (bytes((Opcode.PUT, 0)), bytes((Opcode.DELETE, 0)))


class Outcome(NamedTuple):
    """What became of one operation.

    Attributes:
        result: What the shard said, or why it said nothing.
        shard: The shard; -1 if none was asked.
        uncertain: Whether an earlier try may have been applied.
    """

    result: ResultRecord | ProblemError
    shard: int = -1
    uncertain: bool = False
    seen: Seen | None = None


def _seen(operation: Operation) -> Seen | None:
    """What an operation's answer has shown of its shard."""
    receipt = operation.receipt
    if receipt is None:
        return None
    return Seen(receipt.shard, receipt.applied_index, operation.kind in LEADER_KINDS)


class Part(NamedTuple):
    """One operation of a batch: its place in the request, and what it is; or why it is refused."""

    place: int
    wanted: Command | ProblemError


def _waves(parts: Sequence[Part]) -> list[list[Part]]:
    """Parts that may be under way together: none reads a key that another one of its wave writes."""
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
    """The part, or that it is refused."""
    wanted = part.wanted
    if isinstance(wanted, ProblemError):
        return part
    try:
        check(caller, verb_of(wanted.opcode), wanted.key)
    except ProblemError as error:
        return Part(part.place, error)
    return part


class Fanout:
    """Carries out batches."""

    def __init__(self, router: Router) -> None:
        self._router = router

    async def run(
        self,
        parts: Sequence[Part],
        asked: Freshness,
        idempotency_key: str,
        deadline_s: float,
        session: Session | None = None,
    ) -> list[Outcome]:
        """Carries out a batch and returns an outcome for each part, in their order.

        Args:
            parts: The operations; places are unique within a request.
            asked: How new reads must be.
            idempotency_key: Makes every write of it happen once; the place of each is part of its own key.
            deadline_s: When all must be answered, on the loop's clock.
            session: What the client's token says; the map is as new.
        """
        if self._router.guarded:
            caller = current.get()
            parts = [_allowed(part, caller) for part in parts]
        outcomes = {part.place: Outcome(part.wanted) for part in parts if isinstance(part.wanted, ProblemError)}
        for wave in _waves(parts):
            await _Wave(self._router, outcomes, asked, session, idempotency_key, deadline_s).run(wave)
            if asked.mode is SESSION:
                # What comes later in the batch sees what came before, as in requests one after the other.
                shown = [found for part in wave if (found := outcomes[part.place].seen) is not None]
                session = grown(session, sorted(shown, key=lambda each: not each.strong))
        return [outcomes[part.place] for part in parts]


class _Wave:
    """Operations that are under way together."""

    def __init__(
        self,
        router: Router,
        outcomes: dict[int, Outcome],
        asked: Freshness,
        session: Session | None,
        idempotency_key: str,
        deadline_s: float,
    ) -> None:
        self._router = router
        self._outcomes = outcomes
        self._asked = asked
        self._session = session
        self._idempotency_key = idempotency_key
        self._deadline_s = deadline_s

    async def run(self, parts: list[Part]) -> None:
        """Carries them out."""
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
        operations = []
        mode, bound_ms = self._asked
        for number, (place, wanted) in enumerate(reads, 1):
            try:
                operation = self._router.read(wanted.key, mode, self._deadline_s, self._session, bound_ms)
            except ProblemError as error:
                self._outcomes[place] = Outcome(error)
                continue
            operations.append((place, operation))
            if number % YIELD_EVERY == 0:
                await asyncio.sleep(0)
        for place, operation in operations:
            try:
                result = await operation.future
                self._outcomes[place] = Outcome(result, operation.shard, seen=_seen(operation))
            except ProblemError as error:
                self._outcomes[place] = Outcome(error, operation.shard)

    async def _write(self, shard: int, writes: list[tuple[int, Command]]) -> list[tuple[int, Command]]:
        """Sends the writes of a shard, one entry after the other; returns those that are not that shard's any more."""
        moved: list[tuple[int, Command]] = []
        for chunk, encoded in self._chunks(writes):
            moved.extend(await self._send(shard, chunk, encoded))
        return moved

    def _chunks(self, writes: list[tuple[int, Command]]) -> Iterator[tuple[list[tuple[int, Command]], list[bytes]]]:
        chunk: list[tuple[int, Command]] = []
        encoded: list[bytes] = []
        size = costly = 0
        key, encode, identity = self._idempotency_key, commands.encode, self._router.identity()
        for place, wanted in writes:
            data = encode(*(with_token(wanted, identity, f"{key}/{place}") if key else wanted))
            full = size + len(data) > CHUNK_BYTES_MAX or len(chunk) == BATCH_OPERATIONS_MAX
            # The two bytes tell the opcode and the flags of its options.
            plain = data[:2] in _PLAIN
            if chunk and (full or (costly == COSTLY_MAX and not plain)):
                yield chunk, encoded
                chunk, encoded, size, costly = [], [], 0, 0
            costly += not plain
            chunk.append((place, wanted))
            encoded.append(data)
            size += len(data) + 4
        if chunk:
            yield chunk, encoded

    async def _send(
        self, shard: int, chunk: list[tuple[int, Command]], encoded: list[bytes]
    ) -> list[tuple[int, Command]]:
        outcomes = self._outcomes
        uncertain, seen = False, None
        try:
            operation = self._router.write(
                Opcode.BATCH,
                chunk[0][1].key,
                value=encode_batch(encoded),
                deadline_s=self._deadline_s,
                repeatable=bool(self._idempotency_key),
            )
            result = await operation.future
            uncertain, seen = operation.uncertain, _seen(operation)
            if result.status == Status.RESULT_TOO_LARGE and len(chunk) > 1:
                # Together they read more than an entry may; nothing of them was done.
                half = len(chunk) // 2
                moved = await self._send(shard, chunk[:half], encoded[:half])
                return moved + await self._send(shard, chunk[half:], encoded[half:])
            if result.status != Status.OK:
                outcomes.update((place, Outcome(result, shard, uncertain, seen)) for place, _ in chunk)
                return []
            results = decode_batch_result(result.value)
        except ProblemError as error:
            if error.code == "wrong_shard" and asyncio.get_running_loop().time() < self._deadline_s:
                return chunk
            outcomes.update((place, Outcome(error, shard)) for place, _ in chunk)
            return []
        except PipeError:
            results = ()
        if len(results) != len(chunk):
            broken = InternalError("invalid_record", "A raft-node answered a batch with something else.", shard=shard)
            outcomes.update((place, Outcome(broken, shard)) for place, _ in chunk)
            return []
        for (place, _), each in zip(chunk, results, strict=True):
            outcomes[place] = Outcome(each, shard, uncertain, seen)
        return []
