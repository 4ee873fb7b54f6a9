"""The messages between the node and its storage worker: tasks, results and errors.

A message is a u32 length, little-endian, and so many bytes of JSON; keys are hexadecimal. Nothing here does any I/O but
``WorkerClient``, which talks over two byte streams and knows neither processes nor threads.

Invariant: whatever a message holds, decoding it does not change the sender's meaning or fails with ``WorkerGoneError``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from raft_node.errors import CorruptionError, DiskError, DougError, NoSpaceError
from raft_node.storage.options import COMPRESSIONS, TableOptions
from raft_node.storage.tables.version import TableMeta

TMP = "tmp"
LENGTH_BYTES = 4
MESSAGE_BYTES_MAX = 64 << 20


class WorkerGoneError(DougError):
    """The storage worker ended, or its answer makes no sense. The task can be given to another worker."""


class WorkerHungError(WorkerGoneError):
    """The storage worker did not answer in time, and was given up."""


@dataclass(frozen=True, slots=True)
class FlushTask:
    """Write the SSTable of one memtable, from its change segment.

    Attributes:
        task_id: The number of the task within one start of the node; part of the outputs' names.
        start_id: The name of the directory under ``tmp/`` for the outputs.
        change_name: The change segment's file name in the data directory.
        change_bytes: The size of the change segment.
        applied_index: The last entry in the change segment.
        applied_term: The term of that entry.
        options: The settings by which tables are written.
        beside: The number of the task that was under way when this one was given, whose outputs are left; 0 if none.
    """

    task_id: int
    start_id: str
    change_name: str
    change_bytes: int
    applied_index: int
    applied_term: int
    options: TableOptions
    beside: int = 0


@dataclass(frozen=True, slots=True)
class CompactionTask:
    """Merge tables into new ones of a deeper level.

    Attributes:
        task_id: See ``FlushTask``.
        start_id: See ``FlushTask``.
        runs: The inputs as sorted runs, newest first.
        output_level: The level of the outputs.
        deeper: The key ranges of deeper tables; a tombstone outside of them has nothing left to hide.
        moved: Tables that go to the output level as they are; the worker does not touch them.
        options: The settings by which tables are written.
        beside: See ``FlushTask``.
    """

    task_id: int
    start_id: str
    runs: tuple[tuple[TableMeta, ...], ...]
    output_level: int
    deeper: tuple[tuple[bytes, bytes], ...]
    moved: tuple[TableMeta, ...]
    options: TableOptions
    beside: int = 0

    def inputs(self) -> list[TableMeta]:
        """All input tables."""
        return [table for run in self.runs for table in run]


Task = FlushTask | CompactionTask


@dataclass(frozen=True, slots=True)
class TaskResult:
    """The result of a task.

    Attributes:
        task_id: The number of the task.
        outputs: The new tables in key order; their numbers count from 1 and are part of ``output_name``.
        read_bytes: How many bytes were read from files.
        written_bytes: How many bytes were written to files.
    """

    task_id: int
    outputs: tuple[TableMeta, ...]
    read_bytes: int
    written_bytes: int


def tmp_directory(directory: str, start_id: str) -> str:
    """The directory to which the outputs of one start of the node are written."""
    return f"{directory}/{TMP}/{start_id}"


def output_name(task_id: int, number: int) -> str:
    """The file name of an output in ``tmp_directory``."""
    return f"{task_id}-{number}.sst"


def task_of(name: str) -> int | None:
    """The number of the task of which a file in ``tmp_directory`` is an output; other parts have directories there."""
    number, _, rest = name.partition("-")
    return int(number) if number.isdecimal() and rest.endswith(".sst") else None


def encode_task(task: Task) -> bytes:
    """A task as a message, without its length."""
    if isinstance(task, FlushTask):
        return _dump({"flush": asdict(task)})
    return _dump(
        {
            "compact": {
                "task_id": task.task_id,
                "start_id": task.start_id,
                "runs": [[_table(table) for table in run] for run in task.runs],
                "output_level": task.output_level,
                "deeper": [[first.hex(), last.hex()] for first, last in task.deeper],
                "moved": [_table(table) for table in task.moved],
                "options": asdict(task.options),
                "beside": task.beside,
            }
        }
    )


def decode_task(message: bytes) -> Task:
    """Decodes ``encode_task``.

    Raises:
        WorkerGoneError: The message is no task.
    """
    try:
        ((kind, fields),) = json.loads(message).items()
        options = _options(fields.pop("options"))
        if kind == "flush":
            return FlushTask(**_of(_FLUSH_FIELDS, fields), options=options)
        if kind == "compact":
            runs = tuple(tuple(_untable(table) for table in run) for run in fields.pop("runs"))
            deeper = tuple((bytes.fromhex(first), bytes.fromhex(last)) for first, last in fields.pop("deeper"))
            moved = tuple(_untable(table) for table in fields.pop("moved"))
            fixed = _of(_COMPACTION_FIELDS, fields)
            return CompactionTask(**fixed, runs=runs, deeper=deeper, moved=moved, options=options)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise WorkerGoneError(f"not a task: {error}") from error
    raise WorkerGoneError(f"unknown task {kind}")


def encode_result(result: TaskResult) -> bytes:
    """A result as a message, without its length."""
    fields = asdict(result)
    fields["outputs"] = [_table(table) for table in result.outputs]
    return _dump({"result": fields})


def encode_error(error: CorruptionError | DiskError | NoSpaceError) -> bytes:
    """A failure that every worker would meet, as a message without its length."""
    fields: dict[str, object]
    if isinstance(error, NoSpaceError):
        fields = {"kind": "no_space", "path": error.path}
    elif isinstance(error, CorruptionError):
        fields = {"kind": "corruption", "path": error.path, "offset": error.offset, "what": error.what}
    else:
        fields = {"kind": "disk", "path": error.path, "operation": str(error), "errno": error.errno}
    return _dump({"error": fields})


def decode_result(message: bytes) -> TaskResult:
    """Decodes ``encode_result``.

    Raises:
        CorruptionError: The worker found damage.
        NoSpaceError: There was no room for the outputs, which were removed.
        DiskError: A write of the worker failed.
        WorkerGoneError: The message is no answer.
    """
    try:
        ((kind, fields),) = json.loads(message).items()
        if kind == "result":
            outputs = tuple(_untable(table) for table in fields.pop("outputs"))
            return TaskResult(**_of(_RESULT_FIELDS, fields), outputs=outputs)
        if kind != "error":
            raise WorkerGoneError(f"unknown answer {kind}")
        error: DougError
        if fields["kind"] == "no_space":
            error = NoSpaceError(fields["path"])
        elif fields["kind"] == "corruption":
            error = CorruptionError(fields["path"], fields["offset"], fields["what"])
        else:
            cause = OSError(fields["errno"], fields["operation"])
            error = DiskError(fields["path"], "the storage worker's write", cause)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as problem:
        raise WorkerGoneError(f"not an answer: {problem}") from problem
    raise error


def frame(message: bytes) -> bytes:
    """A message with its length in front."""
    assert len(message) <= MESSAGE_BYTES_MAX
    return len(message).to_bytes(LENGTH_BYTES, "little") + message


class ByteSource(Protocol):
    """A stream that is read: fewer bytes than asked for only at its end."""

    def read(self, size: int, /) -> bytes | None:
        """Reads up to ``size`` bytes."""


class ByteSink(Protocol):
    """A stream that is written."""

    def write(self, data: bytes, /) -> int | None:
        """Writes bytes."""

    def flush(self) -> None:
        """Sends all bytes that were written."""


def read_message(stream: ByteSource) -> bytes | None:
    """The next message, or None at the end of the stream.

    Raises:
        WorkerGoneError: The stream ends within a message, or the message is too long.
    """
    head = stream.read(LENGTH_BYTES)
    if not head:
        return None
    size = int.from_bytes(head, "little")
    if len(head) < LENGTH_BYTES or size > MESSAGE_BYTES_MAX:
        raise WorkerGoneError(f"a message of {size} bytes")
    message = stream.read(size)
    if message is None or len(message) < size:
        raise WorkerGoneError("the stream ends within a message")
    return message


class WorkerClient:
    """The node's side of a worker: one task after the other. Blocking."""

    def __init__(self, sink: ByteSink, source: ByteSource) -> None:
        self._sink = sink
        self._source = source

    def run(self, task: Task) -> TaskResult:
        """Has a task done.

        Raises:
            CorruptionError: The worker found damage.
            NoSpaceError: There was no room; the task may be given again.
            DiskError: A write of the worker failed.
            WorkerGoneError: The worker ended; the task may be given to another one.
        """
        try:
            self._sink.write(frame(encode_task(task)))
            self._sink.flush()
            message = read_message(self._source)
        except (BrokenPipeError, ConnectionError) as error:
            raise WorkerGoneError("the storage worker ended") from error
        if message is None:
            raise WorkerGoneError("the storage worker ended")
        result = decode_result(message)
        if result.task_id != task.task_id:
            raise WorkerGoneError(f"the storage worker answered task {result.task_id}")
        return result


def _dump(message: object) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode()


_FLUSH_FIELDS: dict[str, type] = {
    **{"task_id": int, "start_id": str, "change_name": str, "change_bytes": int},
    **{"applied_index": int, "applied_term": int, "beside": int},
}
_COMPACTION_FIELDS: dict[str, type] = {"task_id": int, "start_id": str, "output_level": int, "beside": int}
_RESULT_FIELDS: dict[str, type] = {"task_id": int, "read_bytes": int, "written_bytes": int}


def _of(types: dict[str, type], fields: dict[str, Any]) -> dict[str, Any]:
    """Checks that these are all the fields, each of its type, and returns them."""
    if {name: type(value) for name, value in fields.items()} != types:
        raise ValueError(f"other fields than {', '.join(types)}")
    return fields


def _options(fields: dict[str, Any]) -> TableOptions:
    sizes = [value for name, value in fields.items() if name != "compression"]
    if fields["compression"] not in COMPRESSIONS or not all(type(size) is int and size >= 0 for size in sizes):
        raise ValueError("options that no table can be written with")
    if not all(size for name, size in fields.items() if name != "bloom_bits_per_key"):
        raise ValueError("a size of 0")
    return TableOptions(**fields)


def _table(table: TableMeta) -> list[int | str]:
    return [
        table.number,
        table.size_bytes,
        table.entries,
        table.tombstones,
        table.smallest.hex(),
        table.largest.hex(),
    ]


def _untable(fields: Sequence[Any]) -> TableMeta:
    number, size_bytes, entries, tombstones, smallest, largest = fields
    if not all(type(value) is int for value in (number, size_bytes, entries, tombstones)):
        raise ValueError("a table has numbers")
    return TableMeta(number, size_bytes, entries, tombstones, bytes.fromhex(smallest), bytes.fromhex(largest))
