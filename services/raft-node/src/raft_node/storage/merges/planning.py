"""Which tasks of one engine are under way, and which one is next.

A flush and a compaction may be under way at the same time: a flush adds a table above all others, a compaction replaces
tables, none of which is newer than those it leaves above them, by what they hold. So either may end first, and what a
compaction knows about deeper tables (where a tombstone has nothing left to hide) stays true. This module knows neither
files nor memtables.

Invariants:
1. At most one flush and one compaction are under way.
2. Task numbers rise, so that a worker can tell the outputs of tasks that ended from those of later ones.
3. The outcome of one task is made visible before that of another one is made durable.
"""

from __future__ import annotations

from dataclasses import replace

from raft_node.storage.merges.compaction import keys_max, pick, pick_idle
from raft_node.storage.merges.tasks import CompactionTask, FlushTask, Task
from raft_node.storage.options import EngineOptions
from raft_node.storage.tables.version import Version


class Planner:
    """Gives the tasks of one engine, and remembers those that are under way.

    Attributes:
        flush: The flush that is under way.
        compaction: The compaction that is under way.
    """

    def __init__(self, options: EngineOptions, start_id: str) -> None:
        self._options = options
        self._start_id = start_id
        self._task_id = 0
        # The versions for which no compaction, and no idle merge, is due.
        self._settled: list[Version | None] = [None, None]
        self._installing: Task | None = None
        self.flush: FlushTask | None = None
        self.compaction: CompactionTask | None = None

    @property
    def busy(self) -> bool:
        """Whether a task is under way."""
        return self.flush is not None or self.compaction is not None

    def begin_flush(self, change_name: str, change_bytes: int, applied_index: int, applied_term: int) -> FlushTask:
        """Begins the flush of a memtable by its change segment. Requires: no flush is under way."""
        assert self.flush is None, "memtables are flushed in their order"
        self._task_id += 1
        self.flush = FlushTask(
            self._task_id,
            self._start_id,
            change_name,
            change_bytes,
            applied_index,
            applied_term,
            self._options.table_options(),
            0 if self.compaction is None else self.compaction.task_id,
        )
        return self.flush

    def begin_compaction(self, version: Version, *, idle: bool) -> CompactionTask | None:
        """Begins a compaction of these tables; None if none is due, or one is under way."""
        if self.compaction is not None or version is self._settled[idle]:
            return None
        compaction = (pick_idle if idle else pick)(version, self._options)
        if compaction is None:
            self._settled[idle] = version
            return None
        self._task_id += 1
        self.compaction = CompactionTask(
            self._task_id,
            self._start_id,
            compaction.runs,
            compaction.output_level,
            compaction.deeper,
            compaction.moved,
            replace(self._options.table_options(), table_keys_max=keys_max(version, self._options)),
            0 if self.flush is None else self.flush.task_id,
        )
        return self.compaction

    def begin_install(self, task: Task) -> None:
        """Notes that the outcome of a task is made durable, upon the tables that are visible now."""
        assert task is self.flush or task is self.compaction
        assert self._installing is None, "the outcome of another task is not visible yet"
        self._installing = task

    def end_install(self, task: Task) -> None:
        """Notes that the outcome of a task is visible."""
        assert task is self._installing
        self._installing = None
        self.end(task)

    def end(self, task: Task) -> None:
        """Notes that a task is not under way any more."""
        assert task is self.flush or task is self.compaction
        if task is self.flush:
            self.flush = None
        else:
            self.compaction = None
