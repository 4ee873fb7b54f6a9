"""Flushes and compactions: from a task to new SSTables.

``run_task`` reads files that nobody changes and writes files that nobody else knows yet, so that it can run in another
process, be killed at any moment, and be given again. ``serve`` is the loop of that process. It knows neither the
manifest nor the engine.

Invariants:
1. It writes only below the task's ``tmp_directory``, which it does not create: a newer start of the node removes it.
   There it removes nothing but its own outputs and those of earlier tasks that had ended when this one was given:
   another worker may be at a task meanwhile.
2. In memory are two pieces per input, each a few blocks or a large one; of the output a block and what waits to be
   written, a few hundred KiB; the keys of one output; and for a flush the keys and small values of one memtable.
3. Outputs are synced before the result is given.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence

from raft_node.errors import CorruptionError, DiskError, NoSpaceError
from raft_node.storage.changes.segments import ChangeReader
from raft_node.storage.files import FileSystem
from raft_node.storage.merges.tasks import (
    ByteSink,
    ByteSource,
    CompactionTask,
    FlushTask,
    Task,
    TaskResult,
    decode_task,
    encode_error,
    encode_result,
    frame,
    output_name,
    read_message,
    task_of,
    tmp_directory,
)
from raft_node.storage.options import TableOptions
from raft_node.storage.tables.iterators import Columns, merge
from raft_node.storage.tables.sstable import Table, open_table
from raft_node.storage.tables.sstable_writer import TableWriter
from raft_node.storage.tables.version import TableMeta


def run_task(fs: FileSystem, directory: str, task: Task) -> TaskResult:
    """Does a task. Blocking.

    Args:
        fs: The file system of the data directory.
        directory: The data directory.
        task: The task.

    Raises:
        CorruptionError: An input is damaged or missing.
        NoSpaceError: There is no room for the outputs. They were removed, so that the task can be given again.
        DiskError: An output could not be written.
    """
    target = tmp_directory(directory, task.start_id)
    # A worker that was killed may have left a part of its outputs; every one that counts was renamed since. Whatever is
    # given later has a greater number, so that its outputs stay, however late this comes to it.
    _remove_outputs(fs, target, lambda number: number < task.task_id and number != task.beside)
    outputs = _Outputs(fs, target, task.task_id, task.options)
    try:
        if isinstance(task, FlushTask):
            read_bytes = _flush(fs, directory, task, outputs)
        else:
            read_bytes = _compact(fs, directory, task, outputs)
    except DiskError as error:
        if not error.no_space:
            raise
        _remove_outputs(fs, target, lambda number: number == task.task_id)
        raise NoSpaceError(target) from error
    return TaskResult(
        task.task_id, tuple(outputs.tables), read_bytes, sum(table.size_bytes for table in outputs.tables)
    )


def _remove_outputs(fs: FileSystem, directory: str, useless: Callable[[int], bool]) -> None:
    """Removes the outputs of those tasks whose number is ``useless``."""
    for name in fs.list_directory(directory):
        number = task_of(name)
        if number is not None and useless(number):
            fs.remove(f"{directory}/{name}")


def serve(fs: FileSystem, directory: str, source: ByteSource, sink: ByteSink) -> None:
    """Does tasks from one stream and answers on the other until the first one ends."""
    while (message := read_message(source)) is not None:
        try:
            answer = encode_result(run_task(fs, directory, decode_task(message)))
        except (CorruptionError, DiskError, NoSpaceError) as error:
            answer = encode_error(error)
        sink.write(frame(answer))
        sink.flush()


class _Outputs:
    """The tables that a task writes, one after the other."""

    def __init__(self, fs: FileSystem, directory: str, task_id: int, options: TableOptions) -> None:
        self._fs = fs
        self._directory = directory
        self._task_id = task_id
        self._options = options
        self.tables: list[TableMeta] = []

    def write(self, pieces: Iterable[Columns], cut: bool) -> None:
        """Writes sorted records.

        Args:
            pieces: Each key once.
            cut: Whether to begin a new table when one is large enough.
        """
        writer: TableWriter | None = None
        try:
            for keys, values, _ in pieces:
                added = 0
                while added < len(keys):
                    if writer is None:
                        path = f"{self._directory}/{output_name(self._task_id, len(self.tables) + 1)}"
                        writer = TableWriter(self._fs, path, self._options)
                    added += writer.add_all(keys[added:], values[added:], until_full=cut)
                    if cut and writer.full:
                        self._finish(writer)
                        writer = None
            if writer is not None:
                self._finish(writer)
                writer = None
        finally:
            if writer is not None:
                writer.close()

    def _finish(self, writer: TableWriter) -> None:
        properties = writer.finish()
        self.tables.append(
            TableMeta(
                len(self.tables) + 1,
                writer.size_bytes,
                properties.entries,
                properties.tombstones,
                properties.smallest,
                properties.largest,
            )
        )


def _flush(fs: FileSystem, directory: str, task: FlushTask, outputs: _Outputs) -> int:
    path = f"{directory}/{task.change_name}"
    changes = ChangeReader(fs, path, task.change_bytes)
    try:
        if (changes.applied_index, changes.applied_term) != (task.applied_index, task.applied_term):
            raise CorruptionError(path, task.change_bytes, f"it ends with entry {changes.applied_index}")
        # One memtable is one table: level 0 counts tables to know how many places a read may have to look at.
        outputs.write(changes.columns(), cut=False)
    finally:
        changes.close()
    return task.change_bytes


def _compact(fs: FileSystem, directory: str, task: CompactionTask, outputs: _Outputs) -> int:
    tables: list[Table] = []
    try:
        runs: list[list[Table]] = []
        for run in task.runs:
            opened = []
            for meta in run:
                opened.append(open_table(fs, directory, meta))
                tables.append(opened[-1])
            runs.append(opened)
        merged = merge([_columns(run) for run in runs])
        outputs.write(_without_tombstones(merged, task.deeper), cut=True)
    finally:
        for table in tables:
            table.close()
    return sum(table.size_bytes for table in tables)


def _columns(run: Sequence[Table]) -> Iterator[Columns]:
    for table in run:
        yield from table.all_columns()


def _without_tombstones(pieces: Iterable[Columns], deeper: Sequence[tuple[bytes, bytes]]) -> Iterator[Columns]:
    """Drops the tombstones that hide nothing, since no deeper table can hold their key."""
    firsts: list[bytes] = []
    lasts: list[bytes] = []
    for first, last in sorted(deeper):
        if lasts and first <= lasts[-1]:
            lasts[-1] = max(lasts[-1], last)
        else:
            firsts.append(first)
            lasts.append(last)

    def needed(key: bytes, value: bytes | None) -> bool:
        position = bisect_right(firsts, key) - 1
        return value is not None or (position >= 0 and key <= lasts[position])

    for piece in pieces:
        kept = piece.where(list(map(needed, piece.keys, piece.values))) if piece.tombstones else piece
        if kept.keys:
            yield kept
