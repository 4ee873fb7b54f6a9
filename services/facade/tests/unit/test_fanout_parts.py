"""How the writes of a batch are cut into entries of a shard's log."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from doug_wire import command as commands
from doug_wire.command import Command, Opcode
from doug_wire.payload import BATCH_PART, decode_batch, encode_increment, encode_results
from doug_wire.pipe import ResultRecord, Status
from facade.client.fanout import PARTS_AT_ONCE, Outcome, Room, _Reads, _Wave
from facade.client.places import Bytes

PUT = Command(Opcode.PUT, b"k", b"", b"v", 0)
INCREMENT = Command(Opcode.INCREMENT, b"n", b"", encode_increment(1), 0)


class FakeOperation:
    """Is answered already."""

    uncertain, receipt, kind, shard = False, None, 0, 0

    def __init__(self, result: ResultRecord) -> None:
        self._result = result
        self.withhold()
        self.answer()

    def withhold(self) -> None:
        """Takes the answer back."""
        self.future: asyncio.Future[ResultRecord] = asyncio.get_running_loop().create_future()

    def answer(self) -> None:
        """Gives the answer."""
        self.future.set_result(self._result)


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
    return [len(part) for part, _ in wave(FakeRouter(), {}, key)._parts(list(enumerate(writes)))]


@pytest.mark.parametrize("key", ["", "key"])
@pytest.mark.parametrize("command", [PUT, INCREMENT])
def test_an_entry_has_few_operations(command: Command, key: str) -> None:
    assert sizes([command] * (2 * BATCH_PART + 1), key) == [BATCH_PART, BATCH_PART, 1]


def test_an_entry_has_few_bytes() -> None:
    large = PUT._replace(value=bytes(400_000))
    assert sizes([large] * 5) == [2, 2, 1]
    assert sizes([PUT, PUT._replace(value=bytes(1 << 20)), PUT]) == [1, 1, 1]


class PatientRouter(FakeRouter):
    """A shard that answers when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[FakeOperation] = []

    def write(self, opcode: Opcode, key: bytes, *, value: bytes, deadline_s: float, repeatable: bool) -> FakeOperation:
        answered = super().write(opcode, key, value=value, deadline_s=deadline_s, repeatable=repeatable)
        self.waiting.append(FakeOperation(answered.future.result()))
        self.waiting[-1].withhold()
        return self.waiting[-1]


@pytest.mark.parametrize(("twice", "at_once"), [(False, PARTS_AT_ONCE), (True, 1)])
async def test_some_parts_are_under_way_at_once_unless_a_key_comes_twice(twice: bool, at_once: int) -> None:
    router, outcomes = PatientRouter(), dict[int, Outcome]()
    keys = [b"%d" % number for number in range(6 * BATCH_PART)]
    if twice:
        keys[-1] = keys[0]
    sending = asyncio.create_task(
        wave(router, outcomes)._write(0, list(enumerate(PUT._replace(key=key) for key in keys)))
    )
    answered = 0
    while answered < 6:
        for _ in range(5):
            await asyncio.sleep(0)
        assert len(router.waiting) == min(6, answered + at_once)
        router.waiting[answered].answer()
        answered += 1
    assert await sending == []
    assert len(outcomes) == len(keys)


async def test_what_is_too_large_together_is_sent_in_parts() -> None:
    router, outcomes = FakeRouter(count_max=2), dict[int, Outcome]()
    writes = [(place, INCREMENT._replace(ttl=place + 1)) for place in range(7)]
    assert await wave(router, outcomes)._write(0, writes) == []
    assert max(router.sizes[1:]) <= 4
    found = {place: outcome.result for place, outcome in outcomes.items()}
    assert {place: result.revision for place, result in found.items() if isinstance(result, ResultRecord)} == {
        place: place + 1 for place in range(7)
    }


class FakeRegistry:
    """Ends what is under way."""

    @staticmethod
    def give_up(read: FakeOperation, error: Exception) -> None:
        if not read.future.done():
            read.future.set_exception(error)


async def test_a_value_that_comes_when_its_request_was_just_given_up_is_not_held_for_ever() -> None:
    values = Bytes("values are held", 1 << 20, 1 << 10)
    router: Any = FakeRouter()
    router.registry = FakeRegistry()
    reads = [FakeOperation(ResultRecord(place, Status.OK, 1, b"", bytes(100))) for place in range(3)]
    for late in reads[1:]:
        late.withhold()

    async def carry_out() -> None:
        with Room(values) as room:
            under_way = _Reads(router, {}, room)
            for place, read in enumerate(reads):
                under_way.add(place, read)  # type: ignore[arg-type]
            await under_way.wait()

    task = asyncio.create_task(carry_out())
    for _ in range(3):
        await asyncio.sleep(0)
    assert values.held == 100
    task.cancel()
    # In the same turn of the loop comes an answer; its callback runs behind the end of the request.
    reads[1].answer()
    with pytest.raises(asyncio.CancelledError):
        await task
    for _ in range(3):
        await asyncio.sleep(0)
    assert values.held == 0
