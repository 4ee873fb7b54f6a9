"""The helper process: its messages, its tasks, and that it writes below its own directory only."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest

from raft_node.errors import CorruptionError, DiskError
from raft_node.storage.engine import Engine
from raft_node.storage.files import OsFileSystem
from raft_node.storage.merges.tasks import (
    CompactionTask,
    FlushTask,
    Task,
    TaskResult,
    WorkerClient,
    WorkerGoneError,
    decode_result,
    decode_task,
    encode_error,
    encode_result,
    encode_task,
    frame,
    read_message,
    tmp_directory,
)
from raft_node.storage.merges.worker import run_task, serve
from raft_node.storage.options import TableOptions
from raft_node.storage.tables.version import TableMeta
from raft_testing.engines import TINY_OPTIONS, write_changes
from raft_testing.files import MemoryFileSystem

META = TableMeta(7, 1234, 10, 2, b"\x00\xff", b'"\x80')
FLUSH = FlushTask(1, "start", "000001.chg", 99, 5, 2, TableOptions(block_bytes=77, compression="none"))
RUNS, DEEPER = ((META,), (META, META)), ((b"a", b"\xff"), (b"", b""))
COMPACTION = CompactionTask(2, "start", RUNS, 3, DEEPER, (META,), TableOptions())
RESULT = TaskResult(2, (META, META), 10, 20)


@pytest.mark.parametrize("task", [FLUSH, COMPACTION])
def test_a_task_survives_its_message(task: Task) -> None:
    assert decode_task(encode_task(task)) == task


def test_a_result_survives_its_message() -> None:
    assert decode_result(encode_result(RESULT)) == RESULT


def test_errors_survive_their_message() -> None:
    with pytest.raises(CorruptionError) as corruption:
        decode_result(encode_error(CorruptionError("/data/1.sst", 42, "the checksum does not fit")))
    assert (corruption.value.path, corruption.value.offset) == ("/data/1.sst", 42)
    assert corruption.value.what == "the checksum does not fit"
    with pytest.raises(DiskError, match="No space left") as disk:
        decode_result(encode_error(DiskError("/data/1.sst", "write", OSError(28, "No space left on device"))))
    assert (disk.value.path, disk.value.errno) == ("/data/1.sst", 28)


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"[]",
        b"{}",
        b"7",
        b"\xff",
        b'{"flush": {}}',
        b'{"compact": 1}',
        b'{"drop": {"options": {}}}',
        b'{"error": {}}',
    ],
)
def test_what_is_no_message_is_refused(message: bytes) -> None:
    with pytest.raises(WorkerGoneError):
        decode_task(message)
    with pytest.raises(WorkerGoneError):
        decode_result(message)


def test_a_stream_ends_between_messages_or_is_refused() -> None:
    assert read_message(io.BytesIO(b"")) is None
    assert read_message(io.BytesIO(frame(b"abc"))) == b"abc"
    for cut in (b"\x01", b"\x05\x00\x00\x00abc", b"\xff\xff\xff\xff"):
        with pytest.raises(WorkerGoneError):
            read_message(io.BytesIO(cut))


def a_flush(fs: MemoryFileSystem | OsFileSystem, directory: str) -> tuple[Engine, Task]:
    engine = Engine.open(fs, directory, TINY_OPTIONS, "s1")
    engine.write([(b"a", b"1"), (b"b", b"x" * 5000), (b"c", None)], 1, 1)
    engine.rotate()
    write_changes(engine)
    task = engine.next_task()
    assert task is not None
    return engine, task


def test_a_worker_serves_tasks_until_its_input_ends() -> None:
    fs = MemoryFileSystem()
    engine, task = a_flush(fs, "/data")
    answers = io.BytesIO()
    serve(fs, "/data", io.BytesIO(frame(encode_task(task)) * 2), answers)
    sent = io.BytesIO()
    client = WorkerClient(sent, io.BytesIO(answers.getvalue()))
    result = client.run(task)
    assert client.run(task) == result, "a task can be given again"
    assert sent.getvalue() == frame(encode_task(task)) * 2
    engine.finish_install(engine.prepare_install(task, result))
    assert engine.get_blocking(b"b") == b"x" * 5000
    with pytest.raises(WorkerGoneError):
        client.run(task)


def test_an_answer_to_another_task_is_refused() -> None:
    client = WorkerClient(io.BytesIO(), io.BytesIO(frame(encode_result(RESULT))))
    with pytest.raises(WorkerGoneError, match="answered task 2"):
        client.run(FLUSH)


def test_damage_and_a_full_disk_are_reported_and_serving_goes_on() -> None:
    fs = MemoryFileSystem()
    _, task = a_flush(fs, "/data")
    assert isinstance(task, FlushTask)
    path = f"/data/{task.change_name}"
    content = fs.read_file(path)
    answers = io.BytesIO()
    fs.flip_bit(path, 300)
    serve(fs, "/data", io.BytesIO(frame(encode_task(task))), answers)
    fs.put(path, content)
    fs.fail_next("write")
    serve(fs, "/data", io.BytesIO(frame(encode_task(task)) * 2), answers)
    answers.seek(0)
    client = WorkerClient(io.BytesIO(), answers)
    with pytest.raises(CorruptionError):
        client.run(task)
    with pytest.raises(DiskError):
        client.run(task)
    assert client.run(task).outputs[0].entries == 3


def test_a_worker_of_a_dead_node_can_not_write() -> None:
    fs = MemoryFileSystem()
    _, task = a_flush(fs, "/data")
    assert isinstance(task, FlushTask)
    fs.remove_tree(tmp_directory("/data", task.start_id))
    with pytest.raises(FileNotFoundError):
        run_task(fs, "/data", task)


def test_it_writes_below_its_directory_only() -> None:
    fs = MemoryFileSystem()
    _, task = a_flush(fs, "/data")
    before = len(fs.operations)
    run_task(fs, "/data", task)
    paths = {operation.path for operation in fs.operations[before:]}
    assert paths == {"/data/tmp/s1/1-1.sst"}
    assert fs.operations[-1].name == "sync"


@pytest.mark.seconds
def test_the_real_process_does_a_task_and_ends_with_its_input(tmp_path: Path) -> None:
    fs = OsFileSystem()
    directory = str(tmp_path / "data")
    engine, task = a_flush(fs, directory)
    command = [sys.executable, "-m", "raft_node.storage", directory]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        result = WorkerClient(process.stdin, process.stdout).run(task)
        process.stdin.close()
        assert process.wait(60) == 0
    engine.finish_install(engine.prepare_install(task, result))
    assert engine.get_blocking(b"b") == b"x" * 5000
    engine.close()


@pytest.mark.seconds
def test_the_worker_imports_nothing_heavy() -> None:
    script = (
        "import sys, raft_node.storage.__main__\n"
        "heavy = {'asyncio', 'grpc', 'google', 'pydantic', 'structlog', 'prometheus_client', 'uvloop', 'subprocess'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
