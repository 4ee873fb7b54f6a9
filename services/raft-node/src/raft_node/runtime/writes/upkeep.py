"""The entries that a leader proposes by itself as time passes: the removal of expired keys, and the limits of tokens.

Both must be the same on every replica, so both go through the log. The notes of what expires are an index by time in
the keyspace (``keyspace.due_key``); the leader reads them from their beginning on a thread, a bounded number at a time.

Invariants:
1. One entry of this module is under way at a time.
2. What it proposes removes nothing by itself: ``raft_node.kv.operations.expiry`` judges each note when it is applied.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from itertools import islice

from doug_wire import command as commands
from doug_wire.command import Opcode
from doug_wire.pipe import Status
from raft_node.kv.keyspace import DUE_PREFIX, due_key, split_due_key
from raft_node.kv.operations.expiry import NOTES_MAX, encode_expire
from raft_node.kv.operations.tokens import encode_limits
from raft_node.kv.operations.work import NEVER_US, Details, Limits
from raft_node.kv.state_machine import StateMachine
from raft_node.raft.types import Role
from raft_node.runtime.driver import Driver
from raft_node.runtime.writes.proposals import Submission
from raft_node.storage.engine import Engine

_NOTES_END = DUE_PREFIX[:-1] + bytes((DUE_PREFIX[-1] + 1,))
_LOOK_EVERY_S = 1.0
"""The longest pause between two looks at what has expired, and the longest time until a new leader's first."""
_PAUSE_S = 0.01
"""The shortest pause between two looks."""


class _ResultSink:
    """Takes the status of one entry, and its revision, into a future."""

    def __init__(self) -> None:
        self.result: asyncio.Future[tuple[int, int]] = asyncio.get_running_loop().create_future()

    def resolve(self, record_id: int, status: int, revision: int, details: Details | None = None) -> None:
        del record_id, details
        if not self.result.done():
            self.result.set_result((status, revision))


class Upkeep:
    """Removes what has expired and keeps the limits of tokens, through the log, while this replica leads."""

    def __init__(
        self,
        driver: Driver,
        engine: Engine,
        limits: Limits,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Builds it; ``run`` sets it going.

        Args:
            driver: Proposes entries.
            engine: Holds the notes of what expires.
            limits: The limits of tokens that are to count.
            sleep: Waits for so many seconds.
        """
        self._driver = driver
        self._engine = engine
        self._limits = limits
        self._sleep = sleep
        self._wake = asyncio.Event()
        self._until_us = 0
        # Notes before this key are gone; a scan of them would read only tombstones. Valid for one state.
        self._from, self._swept = DUE_PREFIX, driver.machine

    def poke(self) -> None:
        """Notes that something was written; cheap enough to be called for every batch."""
        # On a follower ``next_due_us`` stays 0, since only leaders look: it would be woken for every batch, in vain.
        if self._driver.machine.next_due_us < self._until_us and self._leads:
            self._wake.set()

    async def run(self) -> None:
        """Runs until cancelled.

        Raises:
            FatalError: A block is damaged or cannot be read; the node must stop.
        """
        while True:
            if self._leads:
                await self._look()
            else:
                self._from = DUE_PREFIX
            await self._rest()

    @property
    def _leads(self) -> bool:
        return self._driver.node.role is Role.LEADER and self._driver.machine.created

    async def _look(self) -> None:
        machine = self._driver.machine
        if machine.limits.wanted != self._limits.wanted:
            await self._propose(Opcode.SET_LIMITS, encode_limits(self._limits))
        if machine.next_due_us <= self._driver.now_us():
            machine.looking = True
            try:
                await self._expire(machine)
            finally:
                machine.looking = False

    async def _expire(self, machine: StateMachine) -> None:
        """Removes the keys whose notes are due, as many as go into one entry."""
        now_us = self._driver.now_us()
        # Later writes are not in this view.
        machine.next_due_us = NEVER_US
        if machine is not self._swept:
            self._from, self._swept = DUE_PREFIX, machine
        records, seen_us = self._engine.scan(self._from, _NOTES_END), machine.clock_us
        notes = await asyncio.get_running_loop().run_in_executor(None, _first_notes, records)
        due = [note for note in notes if split_due_key(note)[0] <= now_us]
        later = notes[len(due) :]
        next_us = split_due_key(later[0])[0] if later else NEVER_US
        status, seen = await self._propose(Opcode.EXPIRE, encode_expire(due[:NOTES_MAX])) if due else (Status.OK, 0)
        if due and status == Status.OK:
            # If the values are large, an entry handles only the first of its notes.
            gone = [note for note in due[:seen] if split_due_key(note)[0] <= machine.clock_us]
            # What was proposed before the view was taken and applied behind it may be due before the last note that is
            # gone, but not before the log time of the view.
            self._from = max(self._from, min(gone[-1], due_key(seen_us, b""))) if gone else self._from
            next_us = split_due_key(due[len(gone)])[0] if len(gone) < len(due) else next_us
        elif due:
            next_us = split_due_key(due[0])[0]
            await self._sleep(_LOOK_EVERY_S)
        machine.next_due_us = min(machine.next_due_us, next_us)

    async def _propose(self, opcode: Opcode, value: bytes) -> tuple[int, int]:
        """Has a command decided; returns its status and revision."""
        command = commands.encode(opcode, b"", value=value)
        sink = _ResultSink()
        self._driver.submit([Submission(sink, 0, commands.checksum(command), command)])
        return await sink.result

    async def _rest(self) -> None:
        """Waits until a note is due, but no longer than a second."""
        due_in_s = (self._driver.machine.next_due_us - self._driver.now_us()) / 1e6 if self._leads else _LOOK_EVERY_S
        rest_s = min(max(due_in_s, _PAUSE_S), _LOOK_EVERY_S)
        self._until_us = self._driver.now_us() + int(rest_s * 1e6)
        self._wake.clear()
        waking = asyncio.ensure_future(self._wake.wait())
        resting = asyncio.ensure_future(self._sleep(rest_s))
        try:
            await asyncio.wait((waking, resting), return_when=asyncio.FIRST_COMPLETED)
        finally:
            waking.cancel()
            resting.cancel()


def _first_notes(records: Iterator[tuple[bytes, bytes]]) -> list[bytes]:
    """The first notes by time, one more than go into an entry. Blocking."""
    return [key for key, _ in islice(records, NOTES_MAX + 1)]
