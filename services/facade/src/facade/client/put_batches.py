"""Batches of puts without options, by columns: what nearly all large batches are.

``facade.client.fanout`` makes an object for each operation at each step, for any of them may be any. Here keys and
values stay two lists from the request to the record, and revisions a range from the record to the answer. What is
anything else, is left to ``Fanout`` before it is sent. Must not know HTTP. Invariants:

1. Every put gets the outcome that it would have had with ``Fanout``, and is sent as it would have been.
2. A batch that is left was not sent, not in part either.

Source: docs/api.md, Batches; doug_wire.puts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from doug_wire.auth.grants import Verb
from doug_wire.command import HEADER, Command, Opcode
from doug_wire.payload import BATCH_PART
from doug_wire.pipe import Status
from doug_wire.puts import decode_results, encode_puts
from facade.client.access import allowed, current
from facade.client.fanout import (
    PART_BYTES_MAX,
    PARTS_AT_ONCE,
    REROUTE_S,
    Fanout,
    Outcome,
    Part,
    Wishes,
    outcomes_of,
)
from facade.client.receipts import Receipt
from facade.client.router import Router
from facade.errors import ProblemError

_HEAD_BYTES = 4 + HEADER.size


class Puts(NamedTuple):
    """Some puts of a batch.

    Attributes:
        places: Their places in the batch, in order.
        keys: Their keys.
        values: Their values.
    """

    places: Sequence[int]
    keys: Sequence[bytes]
    values: Sequence[bytes]

    def cut(self, start: int, end: int) -> Puts:
        """Some of them."""
        return Puts(self.places[start:end], self.keys[start:end], self.values[start:end])

    @property
    def once(self) -> bool:
        """Whether no key comes twice."""
        return len(set(self.keys)) == len(self.keys)


class Written(NamedTuple):
    """What became of some puts of a batch.

    Attributes:
        places: Their places in the batch, in order.
        revisions: The revisions of the puts, which follow each other; None unless all have succeeded.
        outcomes: The outcome of each put, if they have no such revisions.
        receipt: What the node that carried them out said of itself; None if there are outcomes.
    """

    places: Sequence[int]
    revisions: range | None
    outcomes: Sequence[Outcome] = ()
    receipt: Receipt | None = None


class PutBatches:
    """Carries out batches of puts."""

    def __init__(self, router: Router, fanout: Fanout) -> None:
        self._router = router
        self._fanout = fanout

    async def run(self, keys: Sequence[bytes], values: Sequence[bytes], wishes: Wishes) -> list[Written] | None:
        """Carries out a batch of puts; returns what became of all of them, or None if the batch is left.

        Args:
            keys: The keys. Requires: at least one; they and the values are within the limits.
            values: The values, without content types.
            wishes: How to carry them out.
        """
        if wishes.idempotency_key or not self._may_write(keys):
            return None
        shards = self._router.directory.locate_all(keys)
        if shards is None:
            return None
        first = shards[0]
        if shards.count(first) == len(shards):
            found = [await self._write(first, Puts(range(len(keys)), keys, values), wishes.deadline_s)]
        else:
            by_shard: dict[int, list[int]] = {}
            for place, shard in enumerate(shards):
                by_shard.setdefault(shard, []).append(place)
            found = await asyncio.gather(
                *(
                    self._write(
                        shard,
                        Puts(places, [keys[place] for place in places], [values[place] for place in places]),
                        wishes.deadline_s,
                    )
                    for shard, places in by_shard.items()
                )
            )
        written = [each for done, _ in found for each in done]
        moved = [puts for _, left in found for puts in left]
        return [*written, *await self._put_again(moved, wishes)] if moved else written

    def _may_write(self, keys: Sequence[bytes]) -> bool:
        if not self._router.guarded:
            return True
        caller = current.get()
        return all(allowed(caller, Verb.WRITE, key) for key in keys)

    async def _write(self, shard: int, puts: Puts, deadline_s: float) -> tuple[list[Written], list[Puts]]:
        """Sends puts to a shard, part after part; returns what became of them, and those that are sent again."""
        parts = list(_parts(puts))
        found: list[Written | Puts] = []
        if len(parts) == 1 or not puts.once:
            for part in parts:
                # What has a key of a part that is sent again must not come before it.
                waits = found and isinstance(found[-1], Puts)
                found.append(part if waits else await self._send(shard, part, deadline_s))
        else:
            turns = asyncio.Semaphore(PARTS_AT_ONCE)
            tasks = []
            async with asyncio.TaskGroup() as group:
                for part in parts:
                    await turns.acquire()
                    task = group.create_task(self._send(shard, part, deadline_s))
                    task.add_done_callback(lambda _: turns.release())
                    tasks.append(task)
            found = [task.result() for task in tasks]
        return (
            [each for each in found if isinstance(each, Written)],
            [each for each in found if isinstance(each, Puts)],
        )

    async def _send(self, shard: int, part: Puts, deadline_s: float) -> Written | Puts:
        """Sends a part; returns what became of it, or the part if nothing was done and it is to be sent again."""
        count = len(part.keys)
        try:
            operation = self._router.write(
                Opcode.BATCH, part.keys[0], value=encode_puts(part.keys, part.values), deadline_s=deadline_s
            )
            result = await operation.future
        except ProblemError as error:
            if error.code == "wrong_shard" and asyncio.get_running_loop().time() < deadline_s:
                return part
            return Written(part.places, None, [Outcome(error, shard)] * count)
        if result.status == Status.RESULT_TOO_LARGE and count > 1:
            return part
        revisions = decode_results(result.value, count) if result.status == Status.OK else None
        if revisions is None:
            return Written(part.places, None, outcomes_of(operation, result, shard, count))
        return Written(part.places, revisions, (), operation.receipt)

    async def _put_again(self, moved: Sequence[Puts], wishes: Wishes) -> list[Written]:
        """Has ``Fanout`` put keys of which slots are moving, since each may be of another shard."""
        await asyncio.sleep(REROUTE_S)
        parts = sorted(
            Part(place, Command(Opcode.PUT, key, b"", value, 0))
            for puts in moved
            for place, key, value in zip(*puts, strict=True)
        )
        with self._fanout.room() as room:
            outcomes = await self._fanout.run(parts, wishes, None, room)
        return [Written([part.place for part in parts], None, outcomes)]


def _parts(puts: Puts) -> Iterator[Puts]:
    """Cuts puts into parts of which each is an entry of a shard's log."""
    for start in range(0, len(puts.keys), BATCH_PART):
        some = puts.cut(start, start + BATCH_PART)
        size = sum(map(len, some.keys)) + sum(map(len, some.values)) + _HEAD_BYTES * len(some.keys)
        if size <= PART_BYTES_MAX:
            yield some
        else:
            yield from _small_parts(some)


def _small_parts(puts: Puts) -> Iterator[Puts]:
    """Cuts puts whose bytes are too many for one entry."""
    start = size = 0
    for end, (key, value) in enumerate(zip(puts.keys, puts.values, strict=True)):
        put_bytes = len(key) + len(value) + _HEAD_BYTES
        if end > start and size + put_bytes > PART_BYTES_MAX:
            yield puts.cut(start, end)
            start, size = end, 0
        size += put_bytes
    yield puts.cut(start, len(puts.keys))
