"""How the writes of a batch are cut into entries of a shard's log."""

from __future__ import annotations

import asyncio
from typing import Any

from doug_wire import command as commands
from doug_wire.command import Command, Opcode
from doug_wire.payload import decode_batch, encode_increment, encode_results
from doug_wire.pipe import ResultRecord, Status
from facade.client.fanout import COSTLY_MAX, Outcome, _Wave

PUT = Command(Opcode.PUT, b"k", b"", b"v", 0)
INCREMENT = Command(Opcode.INCREMENT, b"n", b"", encode_increment(1), 0)


class FakeOperation:
    """Is answered already."""

    uncertain, receipt, kind = False, None, 0

    def __init__(self, result: ResultRecord) -> None:
        self.future: asyncio.Future[ResultRecord] = asyncio.get_running_loop().create_future()
        self.future.set_result(result)


class FakeRouter:
    """A shard that refuses entries of more than so many operations as too large."""

    def __init__(self, count_max: int = 1 << 20) -> None:
        self.sizes: list[int] = []
        self._count_max = count_max

    def identity(self) -> str:
        return ""

    def write(self, opcode: Opcode, key: bytes, *, value: bytes, deadline_s: float, repeatable: bool) -> FakeOperation:
        operations = decode_batch(value)
        self.sizes.append(len(operations))
        if len(operations) > self._count_max:
            return FakeOperation(ResultRecord(0, Status.RESULT_TOO_LARGE, 0, b"", b""))
        # The revision tells the time to live, by which the test knows the operations.
        results = [
            ResultRecord(place, Status.OK, commands.decode(each).ttl, b"", b"") for place, each in enumerate(operations)
        ]
        return FakeOperation(ResultRecord(0, Status.OK, 1, b"", encode_results(results)))


def wave(router: FakeRouter, outcomes: dict[int, Outcome], key: str = "") -> Any:
    made: Any = _Wave.__new__(_Wave)
    made._router, made._outcomes, made._idempotency_key, made._deadline_s = router, outcomes, key, 1.0
    return made


def sizes(writes: list[Command], key: str = "") -> list[int]:
    return [len(chunk) for chunk, _ in wave(FakeRouter(), {}, key)._chunks(list(enumerate(writes)))]


def test_an_entry_has_few_costly_operations_and_many_plain_ones() -> None:
    assert sizes([PUT] * 3000) == [3000]
    assert sizes([INCREMENT] * 2500) == [COSTLY_MAX, COSTLY_MAX, 500]
    assert sizes([PUT] * 2500, "key") == [COSTLY_MAX, COSTLY_MAX, 500]
    mixed = [INCREMENT] * COSTLY_MAX + [PUT] * 500
    assert sizes([*mixed, INCREMENT, PUT]) == [len(mixed), 2]


async def test_what_is_too_large_together_is_sent_in_parts() -> None:
    router, outcomes = FakeRouter(count_max=2), dict[int, Outcome]()
    writes = [(place, INCREMENT._replace(ttl=place + 1)) for place in range(7)]
    assert await wave(router, outcomes)._write(0, writes) == []
    assert max(router.sizes[1:]) <= 4
    found = {place: outcome.result for place, outcome in outcomes.items()}
    assert {place: result.revision for place, result in found.items() if isinstance(result, ResultRecord)} == {
        place: place + 1 for place in range(7)
    }
