"""Driving an engine on one thread: what the runtime does with a background thread and a worker process, inline.

For tests and the simulator. Knows no formats; nothing in here sleeps or looks at a clock.
"""

from __future__ import annotations

from raft_node.storage.engine import Engine
from raft_node.storage.files import FileSystem
from raft_node.storage.merges.worker import run_task
from raft_node.storage.options import EngineOptions

TINY_OPTIONS = EngineOptions(
    memtable_bytes=2_000,
    block_bytes=120,
    block_cache_bytes=600,
    table_bytes=700,
    table_keys_max=40,
    l0_tables_trigger=2,
    l0_tables_max=6,
    l0_inputs_max=3,
    merge_bytes_max=3_000,
    level_base_bytes=3_000,
    level_multiplier=2,
    manifest_bytes=400,
)
"""Options under which a few dozen writes reach every part of the engine."""


def write_changes(engine: Engine) -> None:
    """Writes all queued changes."""
    while (change_write := engine.take_changes()) is not None:
        change_write.run()
        engine.changes_done(change_write)


def run_one_task(engine: Engine, fs: FileSystem, directory: str, *, idle: bool = False) -> bool:
    """Does the next task, if one is due; with ``idle`` also one that can wait."""
    task = engine.next_task(idle=idle)
    if task is None:
        return False
    engine.finish_install(engine.prepare_install(task, run_task(fs, directory, task)))
    return True


def settle(engine: Engine, fs: FileSystem, directory: str, *, idle: bool = False) -> int:
    """Writes all changes and does tasks until none is due; how many these were."""
    write_changes(engine)
    count = 0
    while run_one_task(engine, fs, directory, idle=idle):
        count += 1
    return count
