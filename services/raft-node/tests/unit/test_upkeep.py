"""The upkeep of a leader, over a state machine and a log of the test's."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from doug_wire import command as commands
from doug_wire.command import Opcode
from raft_node import entry as entries
from raft_node.entry import Entry, EntryKind
from raft_node.kv.keyspace import DUE_PREFIX, USER_PREFIX, due_key, user_key
from raft_node.kv.operations.work import NEVER_US, Limits
from raft_node.kv.partitions import encode_create_shard
from raft_node.kv.state_machine import StateMachine
from raft_node.raft.types import Role
from raft_node.runtime.writes.proposals import Submission
from raft_node.runtime.writes.upkeep import Upkeep
from raft_testing.fakes import DictStore


class FakeNode:
    """A leader."""

    role = Role.LEADER


class FakeDriver:
    """Applies what was proposed when the test says so, in order. Also the engine."""

    def __init__(self) -> None:
        self.store = DictStore()
        self.machine, self.node, self.time_us, self._index = StateMachine.open(self.store), FakeNode(), 0, 0
        self._under_way: list[tuple[Entry, Any]] = []
        self._propose(commands.encode(Opcode.CREATE_SHARD, b"", value=encode_create_shard(0, 1)), None)

    def now_us(self) -> int:
        return self.time_us

    def submit(self, submissions: Sequence[Submission]) -> None:
        for submission in submissions:
            self._propose(submission.command, submission.sink)

    def put(self, key: bytes, ttl_ms: int, value: bytes = b"v") -> None:
        self._propose(commands.encode(Opcode.PUT, key, b"", value, ttl=ttl_ms), None)

    def _propose(self, command: bytes, sink: Any) -> None:
        self._index += 1
        self._under_way.append((entries.encode(self._index, 1, EntryKind.COMMAND, self.time_us, command), sink))

    def commit(self) -> None:
        under_way, self._under_way = self._under_way, []
        for entry, sink in under_way:
            (outcome,) = self.machine.apply([entry])
            if sink is not None:
                sink.resolve(0, *outcome)

    def scan(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        found = [(key, value) for key, value in self.store.data.items() if start <= key < end and value is not None]
        return iter(sorted(found))

    def left(self, prefix: bytes) -> list[bytes]:
        return [key for key, value in self.store.data.items() if key.startswith(prefix) and value is not None]


async def look(upkeep: Upkeep, driver: FakeDriver) -> None:
    """One round of the upkeep; what it proposes is committed as soon as it waits for it."""
    looking = asyncio.ensure_future(upkeep._look())
    while not looking.done():
        # The scan is on a thread.
        await asyncio.wait((looking,), timeout=0.001)
        driver.commit()
    await looking


async def test_what_was_under_way_during_the_scan_and_is_due_before_what_it_found_is_removed_too() -> None:
    driver: Any = FakeDriver()
    driver.commit()
    upkeep = Upkeep(driver, driver, Limits())
    driver.time_us = 1_000_000
    driver.put(b"long", 5)
    driver.commit()
    driver.time_us = 1_003_000
    driver.put(b"short", 1)  # Proposed, and not committed yet.
    driver.time_us = 1_006_000
    await look(upkeep, driver)
    driver.time_us = 2_000_000
    for _ in range(2):
        await look(upkeep, driver)
    assert driver.left(DUE_PREFIX) == []
    assert driver.left(USER_PREFIX) == []


async def test_what_one_entry_did_not_get_to_is_removed_by_the_next_ones() -> None:
    driver: Any = FakeDriver()
    driver.commit()
    upkeep = Upkeep(driver, driver, Limits())
    driver.time_us = 1_000_000
    for number in range(40):
        driver.put(b"%d" % number, 5, b"x" * (1 << 20))
    driver.commit()
    driver.time_us = 2_000_000
    left = [len(driver.left(USER_PREFIX))]
    while left[-1]:
        await look(upkeep, driver)
        left.append(len(driver.left(USER_PREFIX)))
    # Each round removes some 16 MiB.
    assert left == [40, 24, 8, 0]
    assert driver.left(DUE_PREFIX) == []


def test_a_key_that_is_written_again_and_again_with_a_time_to_live_has_one_note() -> None:
    """The notes of the expiries that were replaced would stay until their deadlines, where nobody sees them."""
    driver = FakeDriver()
    ttls_ms = [86_400_000, 86_400_000, 3_000, 60_000]
    for second, ttl_ms in enumerate(25 * ttls_ms):
        driver.time_us = second * 1_000_000
        driver.put(b"a", ttl_ms)
        driver.put(b"b", ttl_ms)
        driver.commit()
    last_us = driver.time_us + 1000 * ttls_ms[-1]
    assert driver.left(DUE_PREFIX) == [due_key(last_us, user_key(key)) for key in (b"a", b"b")]


@pytest.mark.parametrize(
    ("role", "then", "rests"),
    [(Role.LEADER, Role.LEADER, 2), (Role.FOLLOWER, Role.FOLLOWER, 1), (Role.FOLLOWER, Role.LEADER, 2)],
)
async def test_writes_wake_the_upkeep_of_a_leader_alone_and_the_first_one_that_of_a_new_leader(
    role: Role, then: Role, rests: int
) -> None:
    driver: Any = FakeDriver()
    driver.commit()
    driver.node.role = role
    driver.machine.next_due_us = NEVER_US if role is Role.LEADER else 0  # As the upkeep of a leader has left it.
    begun: list[float] = []
    rested = asyncio.Event()

    async def sleep(seconds: float) -> None:
        begun.append(seconds)
        rested.set()
        await asyncio.Event().wait()

    upkeep = Upkeep(driver, driver, driver.machine.limits, sleep=sleep)
    running = asyncio.create_task(upkeep.run())
    await rested.wait()
    driver.node.role = then
    driver.put(b"key", ttl_ms=5)
    driver.commit()
    upkeep.poke()
    for _ in range(10):
        await asyncio.sleep(0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert len(begun) == rests
