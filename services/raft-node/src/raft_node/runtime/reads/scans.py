"""Scans of a running node: each holds the state as of one moment, and its blocks are read on threads.

A held state keeps tables on disk that merges have replaced, and a copy of the memtable; hence scans are bounded in
number and in time. This module knows neither gRPC nor Raft: the caller has made sure that the state is fresh enough.

Invariants:
1. The state is taken in one piece on the event loop, between two applied entries.
2. A step on a thread is short: threads and event loop share one interpreter.
3. However a scan ends, its state is let go.
4. A scan whose caller takes nothing keeps no other one out: once all places are taken, it makes way.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from raft_node.errors import FatalError, OverloadedError, UnavailableError
from raft_node.kv.scan import Scan, ScannedState, ScanOptions, Step
from raft_node.kv.state_machine import StateMachine
from raft_node.storage.engine import Engine

OTHERS_MAX = 4
"""For each place, how many scans there may be that have let their state go, each with a page for its caller."""


class ScanLimits(NamedTuple):
    """The bounds of scans.

    Attributes:
        scans_max: How many scans may be under way.
        hold_s: How long a scan may hold its state.
        idle_s: How long the client of a scan may take nothing.
        yield_s: How long it may take nothing while others find no place.
    """

    scans_max: int = 16
    hold_s: float = 120.0
    idle_s: float = 30.0
    yield_s: float = 1.0


class HeldScan:
    """A scan that holds its state.

    Attributes:
        scan: The scan.
        waits_since_s: Since when its caller takes nothing, on the loop's clock; None while it is not waited for.
        let_go: Done once the state was let go before the scan's end.
    """

    def __init__(self, scan: Scan) -> None:
        self.scan = scan
        self.waits_since_s: float | None = None
        self.let_go: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Scans:
    """The scans of one node.

    Attributes:
        limits: The bounds of the scans.
    """

    def __init__(self, engine: Engine, on_failure: Callable[[FatalError], None], limits: ScanLimits) -> None:
        """Reads from ``engine``; ``on_failure`` is called when the node must stop."""
        self._engine = engine
        self._on_failure = on_failure
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="scan")
        self.limits = limits
        self._holding: set[HeldScan] = set()
        self._others = 0

    @property
    def under_way(self) -> int:
        """How many scans hold a state."""
        return len(self._holding)

    @contextlib.contextmanager
    def begin(self, machine: StateMachine, options: ScanOptions) -> Iterator[HeldScan]:
        """Begins a scan of the applied state as of now, which ends with the block.

        Args:
            machine: The state machine that was applied to the engine.
            options: The keys that are asked for, and how.

        Raises:
            OverloadedError: Too many scans are under way.
        """
        if self.under_way >= self.limits.scans_max and not self._make_way():
            raise OverloadedError(f"{self.under_way} scans are under way")
        owned, columns = machine.ownership, self._engine.hold().columns
        state = ScannedState(columns, owned.epochs, machine.clock_us, machine.revision, owned.ranges)
        held = HeldScan(Scan(state, options))
        self._holding.add(held)
        try:
            yield held
        finally:
            if held in self._holding:
                self._holding.discard(held)
            else:
                self._others -= 1

    def let_go(self, held: HeldScan) -> None:
        """Lets the state of a scan go before its end, and gives its place to others. Requires: no step is taken."""
        if held in self._holding:
            self._holding.discard(held)
            self._others += 1
            held.scan.release()
            held.let_go.set_result(None)

    def _make_way(self) -> bool:
        """Lets the state of the scan go whose caller has taken nothing for longest, if that is long enough."""
        # Each of the others still has a page that waits for its caller.
        if self._others >= OTHERS_MAX * self.limits.scans_max:
            return False
        waiting = [held for held in self._holding if held.waits_since_s is not None]
        longest = min(waiting, key=lambda held: held.waits_since_s or 0.0, default=None)
        if longest is None or longest.waits_since_s is None:
            return False
        if asyncio.get_running_loop().time() - longest.waits_since_s < self.limits.yield_s:
            return False
        self.let_go(longest)
        return True

    async def step(self, scan: Scan) -> Step:
        """Takes the next step of a scan on a thread.

        Raises:
            UnavailableError: A block is damaged or cannot be read; the node stops.
        """
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, scan.step)
        except FatalError as error:
            self._on_failure(error)
            raise UnavailableError(str(error)) from error

    def close(self) -> None:
        """Ends the thread, after the step that it is taking."""
        self._threads.shutdown(cancel_futures=True)
