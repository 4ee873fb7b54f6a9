"""Scans of a running node: each holds the state as of one moment, and its blocks are read on threads.

A held state keeps tables on disk that merges have replaced, and a copy of the memtable; hence scans are bounded in
number and in time. This module knows neither gRPC nor Raft: the caller has made sure that the state is fresh enough.

Invariants:
1. The state is taken in one piece on the event loop, between two applied entries.
2. A step on a thread is short: threads and event loop share one interpreter.
3. However a scan ends, its state is let go.
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


class ScanLimits(NamedTuple):
    """The bounds of scans.

    Attributes:
        scans_max: How many scans may be under way.
        hold_s: How long a scan may hold its state.
        idle_s: How long the client of a scan may take nothing.
    """

    scans_max: int = 16
    hold_s: float = 120.0
    idle_s: float = 30.0


class Scans:
    """The scans of one node.

    Attributes:
        limits: The bounds of the scans.
        under_way: How many scans are under way.
    """

    def __init__(self, engine: Engine, on_failure: Callable[[FatalError], None], limits: ScanLimits) -> None:
        """Reads from ``engine``; ``on_failure`` is called when the node must stop."""
        self._engine = engine
        self._on_failure = on_failure
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="scan")
        self.limits = limits
        self.under_way = 0

    @contextlib.contextmanager
    def begin(self, machine: StateMachine, options: ScanOptions) -> Iterator[Scan]:
        """Begins a scan of the applied state as of now, which ends with the block.

        Args:
            machine: The state machine that was applied to the engine.
            options: The keys that are asked for, and how.

        Raises:
            OverloadedError: Too many scans are under way.
        """
        if self.under_way >= self.limits.scans_max:
            raise OverloadedError(f"{self.under_way} scans are under way")
        self.under_way += 1
        try:
            state = ScannedState(self._engine.hold().columns, machine.epochs, machine.clock_us, machine.revision)
            yield Scan(state, options)
        finally:
            self.under_way -= 1

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
