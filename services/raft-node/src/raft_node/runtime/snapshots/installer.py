"""Puts a snapshot that was received in the place of what this node holds, while it goes on answering.

The order, of which each step is durable before the next begins: the note that a snapshot is being installed; the switch
of the state (``Engine.adopt``); the reset of the log; the removal of the note. From the moment when the core takes the
snapshot over there is no way back: what fails then stops the node, and its next start goes on where this one stopped.

Invariants:
1. One snapshot is installed at a time.
2. What reads see, and what ``Driver.applied_index`` says, goes from the old state to the new one in one step.
3. A snapshot that is not above the commit index changes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

from raft_node.errors import CorruptionError, FatalError
from raft_node.kv.state_machine import STATE_KEYS, StateMachine
from raft_node.raft.configuration import ConfigurationError, decode_configuration
from raft_node.raft.types import Configuration
from raft_node.runtime.disk.maintenance import Maintenance
from raft_node.runtime.driver import Driver
from raft_node.runtime.log.store import LogStore
from raft_node.runtime.snapshots.keeper import facts_of
from raft_node.storage.engine import Engine
from raft_node.storage.files import FileSystem
from raft_node.storage.snapshots.checkpoint import Checkpoint, read_checkpoint
from raft_node.storage.snapshots.incoming import IncomingSnapshot, SnapshotHeader, discard
from raft_node.storage.snapshots.installing import Installing, remove_installing, write_installing

Result = TypeVar("Result")


class Installer:
    """Installs snapshots on one node."""

    def __init__(
        self,
        fs: FileSystem,
        data_dir: str,
        driver: Driver,
        engine: Engine,
        log: LogStore,
        maintenance: Maintenance,
        threads: Executor,
    ) -> None:
        """Ties the parts together; ``threads`` runs blocking work."""
        self._fs = fs
        self._data_dir = data_dir
        self._driver = driver
        self._engine = engine
        self._log = log
        self._maintenance = maintenance
        self._threads = threads
        self._installing = asyncio.Lock()

    @property
    def busy(self) -> bool:
        """Whether a snapshot is being installed."""
        return self._installing.locked()

    def wants(self, header: SnapshotHeader) -> bool:
        """Whether a snapshot would bring this node forward."""
        return header.last_index > self._driver.node.commit_index

    async def install(self, incoming: IncomingSnapshot) -> bool:
        """Installs a received snapshot, whose files are gone then; False if this node got as far by other means.

        Raises:
            CorruptionError: The snapshot is not what its header says. Nothing was changed, and its files are gone.
            FatalError: The node must stop.
        """
        async with self._installing:
            checkpoint, configuration = await self._run(self._open, incoming)
            async with self._maintenance.quiet():
                done = await self._switch(checkpoint, configuration, incoming.header.timestamp_us)
            await self._run(discard, self._fs, self._data_dir)
            return done

    def _open(self, incoming: IncomingSnapshot) -> tuple[Checkpoint, Configuration]:
        """Checks that the announced facts are those of the state. Blocking."""
        checkpoint = incoming.finish()
        header = incoming.header
        try:
            facts = facts_of(self._fs, checkpoint)
            if facts != (header.configuration, header.timestamp_us):
                raise CorruptionError(checkpoint.path, 0, "it is of another configuration or time than was announced")
            configuration = decode_configuration(facts.configuration)
        except ConfigurationError as error:
            discard(self._fs, self._data_dir)
            raise CorruptionError(checkpoint.path, 0, f"its configuration is none: {error}") from error
        except CorruptionError:
            discard(self._fs, self._data_dir)
            raise
        return checkpoint, configuration

    async def _switch(self, checkpoint: Checkpoint, configuration: Configuration, timestamp_us: int) -> bool:
        fs, data_dir, driver, engine = self._fs, self._data_dir, self._driver, self._engine
        index, term = checkpoint.applied_index, checkpoint.applied_term
        note = Installing(index, term, self._log.hard_state.term)
        await self._run(write_installing, fs, data_dir, note)
        hard_state = driver.begin_restore(index, term, configuration, timestamp_us)
        if hard_state is None:
            await self._run(remove_installing, fs, data_dir)
            return False
        try:
            # Read before the files replace the state: the event loop must not wait for them.
            values = await self._run(read_checkpoint, fs, checkpoint, STATE_KEYS)
            stored = dict(zip(STATE_KEYS, values, strict=True))
            adoption = engine.adopt(checkpoint)
            assert adoption is not None, "a task of the engine is under way"
            await self._run(adoption.run)
            engine.finish_adoption(adoption)
            machine = StateMachine(engine, stored)
            engine.begin_history(machine.revision)
            driver.take_state(machine, index)
        except CorruptionError as error:
            # The core has taken over the snapshot already, so that it cannot be refused any more.
            raise FatalError(f"a snapshot changed after it was checked: {error}") from error
        await self._log.reset(index, term, hard_state)
        await self._run(remove_installing, fs, data_dir)
        driver.end_restore()
        return True

    async def _run(self, function: Callable[..., Result], *arguments: object) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)
