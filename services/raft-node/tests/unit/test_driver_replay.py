"""The replay of a long log at a start: in chunks, between which the event loop serves whoever else uses it."""

from __future__ import annotations

import asyncio
import itertools
from random import Random
from typing import Any

from raft_node import entry as entries
from raft_node.entry import EntryKind
from raft_node.kv.state_machine import StateMachine
from raft_node.observability.metrics import Metrics
from raft_node.raft.config import RaftConfig
from raft_node.raft.node import RaftNode
from raft_node.raft.types import NO_MEMBERS, HardState, NodeId
from raft_node.runtime.driver import Driver
from raft_testing.fakes import DictStore
from raft_testing.lockstep import MemoryLog

ME = NodeId("a", 1)
ENTRIES = 300
ENTRY_BYTES = 100
CHUNK = 8


class IdleLog(MemoryLog):
    """A log that nothing is written to."""

    idle = True
    write_age_s = 0.0
    last_write_s = (0.0, 0.0)


async def test_each_turn_of_the_loop_applies_one_chunk_of_the_log() -> None:
    command = bytes(ENTRY_BYTES)
    stored = [entries.encode(index, 1, EntryKind.CLOCK, index, command) for index in range(1, ENTRIES + 1)]
    log: Any = IdleLog(stored)
    transport: Any = None
    store = DictStore()
    config = RaftConfig(committed_bytes_max=CHUNK * len(stored[0].data))
    core = RaftNode(config, ME, log, HardState(1, None, ENTRIES), NO_MEMBERS, 0, Random(1))
    driver = Driver(
        core,
        log,
        StateMachine.open(store),
        store,
        transport,
        Metrics(0),
        tick_ms=10,
        proposal_timeout_ms=1000,
        shard=0,
        shards=1,
        on_event=lambda event: None,
        on_applied=lambda: None,
        on_snapshots_wanted=lambda wanted: None,
        on_failure=lambda error: None,
    )
    driver.start()
    applied = [0]
    while applied[-1] < ENTRIES:
        await asyncio.sleep(0)
        applied.append(driver.applied_index)
        assert len(applied) < 2 * ENTRIES, "the replay stands still"
    driver.stop()
    assert {after - before for before, after in itertools.pairwise(applied)} <= {0, CHUNK, ENTRIES % CHUNK}
