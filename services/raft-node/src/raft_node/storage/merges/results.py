"""Makes the outcome of a flush or a compaction durable: files get their names, then the manifest refers to them.

It has no state of its own: ``raft_node.storage.engine`` makes the outcome visible afterwards.

Invariants:

1. The names of new tables are durable before the manifest refers to them.
2. A file is removed only once the durable manifest does not refer to it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from raft_node.errors import CorruptionError
from raft_node.storage.files import FileSystem
from raft_node.storage.merges.tasks import FlushTask, Task, TaskResult, output_name, tmp_directory
from raft_node.storage.tables.manifest import Manifest
from raft_node.storage.tables.open_files import OpenFiles
from raft_node.storage.tables.sstable import open_table
from raft_node.storage.tables.version import TableMeta, VersionEdit, VersionError, table_name
from raft_node.storage.tables.view import View


class Prepared(NamedTuple):
    """A finished task whose outcome is durable, but not yet visible."""

    task: Task
    result: TaskResult
    view: View
    removed: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Results:
    """Puts the results of one engine's tasks in force.

    Attributes:
        fs: The file system of the engine.
        directory: The data directory of the engine.
        start_id: The name of this start; the worker writes to the directory below ``tmp/`` of that name.
        manifest: The manifest, which names the tables in use.
        open_files: The files of tables that are open.
    """

    fs: FileSystem
    directory: str
    start_id: str
    manifest: Manifest
    open_files: OpenFiles

    def install(self, task: Task, result: TaskResult, view: View, keep_as: str = "") -> Prepared:
        """Makes the outcome of a task durable. Blocking; touches nothing that reads use.

        Args:
            task: The task.
            result: The files that the worker has written.
            view: The tables that are in use now.
            keep_as: The name under which a flush leaves its change segment; empty to remove it.

        Raises:
            CorruptionError: An output file is not what the worker said, or does not fit.
            DiskError: The disk failed.
        """
        version = view.version
        outputs = [
            replace(table, number=version.next_table_number + place) for place, table in enumerate(result.outputs)
        ]
        source = tmp_directory(self.directory, self.start_id)
        tables = dict(view.tables)
        for written, meta in zip(result.outputs, outputs, strict=True):
            target = f"{self.directory}/{table_name(meta.number)}"
            self.fs.rename(f"{source}/{output_name(task.task_id, written.number)}", target)
            tables[meta.number] = open_table(self.fs, self.directory, meta, self.open_files)
        if isinstance(task, FlushTask) and keep_as:
            # Before the manifest: a crash in between leaves a segment too much, which the next start drops, and no gap.
            self.fs.rename(f"{self.directory}/{task.change_name}", f"{self.directory}/{keep_as}")
        # The worker has synced the files; their names must be durable before the manifest refers to them.
        self.fs.sync_directory(self.directory)
        flushed_index, flushed_term = version.flushed_index, version.flushed_term
        removed: tuple[int, ...] = ()
        moved: tuple[TableMeta, ...] = ()
        level = 0
        if isinstance(task, FlushTask):
            flushed_index, flushed_term = task.applied_index, task.applied_term
        else:
            removed, level = tuple(table.number for table in task.inputs()), task.output_level
            moved = task.moved
            outputs += moved
        edit = VersionEdit(
            (*removed, *(table.number for table in moved)),
            tuple((level, table) for table in outputs),
            flushed_index,
            flushed_term,
            version.next_table_number + len(result.outputs),
        )
        try:
            after = version.apply(edit)
        except VersionError as error:
            raise CorruptionError(source, 0, f"the outputs of task {task.task_id} do not fit: {error}") from error
        self.manifest.append(edit, after)
        # Only now may the replaced files be removed. Readers may still need the removed tables.
        if isinstance(task, FlushTask) and not keep_as:
            self.fs.remove(f"{self.directory}/{task.change_name}")
        for number in removed:
            view.tables[number].pin()
            self.fs.remove(f"{self.directory}/{table_name(number)}")
        return Prepared(task, result, View(after, tables), removed)
