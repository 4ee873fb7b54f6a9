"""Drives an engine on one thread: runs the work of the runtime's background thread and worker process inline.

For tests and the simulator. Must not know formats, sleep, or read a clock.
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
    """Runs the next task, if one is due; with ``idle`` also an idle merge."""
    task = engine.next_task(idle=idle)
    if task is None:
        return False
    engine.finish_install(engine.prepare_install(task, run_task(fs, directory, task)))
    return True


def settle(engine: Engine, fs: FileSystem, directory: str, *, idle: bool = False) -> int:
    """Writes all changes and runs tasks until none is due; returns how many tasks there were."""
    write_changes(engine)
    count = 0
    while run_one_task(engine, fs, directory, idle=idle):
        count += 1
    return count
