"""Fuzz targets of JSON on disk or between two processes: notes, identities, worker messages, backups."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterable

import xxhash
from crc32c import crc32c

from raft_node.app.restoring.backup import MANIFEST, load_backup
from raft_node.app.restoring.sources import StreamSource
from raft_node.errors import CorruptionError, DiskError, NoSpaceError
from raft_node.runtime.members import identity as identities
from raft_node.runtime.members.identity import FILE_NAME, Identity
from raft_node.storage.merges.tasks import (
    CompactionTask,
    FlushTask,
    TaskResult,
    WorkerGoneError,
    decode_result,
    decode_task,
    encode_error,
    encode_result,
    encode_task,
    frame,
    read_message,
)
from raft_node.storage.notes import encode_note, read_note
from raft_node.storage.options import TableOptions
from raft_node.storage.snapshots.checkpoint import CHECKPOINT, CheckpointFile
from raft_node.storage.snapshots.incoming import (
    HEADER,
    INCOMING,
    IncomingError,
    IncomingSnapshot,
    SnapshotHeader,
    Taken,
)
from raft_node.storage.snapshots.installing import read_installing
from raft_node.storage.tables.version import TableMeta
from raft_testing.fuzz.target import Target, disk

_DIRECTORY = "/data"
_PATH = "/data/file"


def check_note(content: bytes) -> None:
    """A note gives an object, or is refused."""
    try:
        fields = read_note(disk({_PATH: content}), _DIRECTORY, "file")
    except CorruptionError:
        return
    assert isinstance(fields, dict)
    assert read_note(disk({_PATH: encode_note(fields)}), _DIRECTORY, "file") == fields or "NaN" in content.decode()


def repair_note(content: bytes) -> bytes:
    """Makes the checksum of the first line fit."""
    body = content.partition(b"\n")[0]
    return body + b"\n%08x\n" % crc32c(body)


def seeds_note() -> Iterable[bytes]:
    """Empty, and with each kind of value."""
    yield encode_note({})
    yield encode_note({"text": "ü", "number": 7, "list": [1, "a", None, True], "object": {"a": -1.5}})


def check_identity(content: bytes) -> None:
    """An identity has the right types, or is refused."""
    fs = disk({f"{_DIRECTORY}/{FILE_NAME}": content})
    try:
        identity = identities.read(fs, _DIRECTORY)
    except CorruptionError:
        return
    assert identity is not None
    assert [type(field) for field in identity] == [str, int, int, str], identity


def seeds_identity() -> Iterable[bytes]:
    """Of a node that has not joined, and of one that has."""
    for identity in (Identity("a", 7, 0, ""), Identity("raft-node-0-1", 1 << 62, 3, "0123456789abcdef")):
        fs = disk({})
        fs.make_directory(_DIRECTORY)
        identities.replace(fs, _DIRECTORY, _DIRECTORY, identity)
        yield fs.read_file(f"{_DIRECTORY}/{FILE_NAME}")


def check_installation(content: bytes) -> None:
    """A note of an installation tells the snapshot that is being installed, or is refused."""
    fs = disk({f"{_DIRECTORY}/INSTALLING": content})
    try:
        read_installing(fs, _DIRECTORY)
    except CorruptionError:
        return


def check_message(message: bytes) -> None:
    """A task or an answer has the right types, or is refused."""
    try:
        task = decode_task(message)
    except WorkerGoneError:
        pass
    else:
        assert decode_task(encode_task(task)) == task
        assert isinstance(task.task_id, int) and isinstance(task.start_id, str)
    try:
        result = decode_result(message)
    except (WorkerGoneError, CorruptionError, DiskError, NoSpaceError) as error:
        assert str(error)
    else:
        assert decode_result(encode_result(result)) == result
        assert isinstance(result.task_id, int) and isinstance(result.written_bytes, int)
    with contextlib.suppress(WorkerGoneError):
        read_message(io.BytesIO(message))
    assert read_message(io.BytesIO(frame(message))) == message


def seeds_message() -> Iterable[bytes]:
    """Each kind of task and answer."""
    meta, options = TableMeta(1, 500, 6, 1, b"a", b"z"), TableOptions()
    yield encode_task(FlushTask(1, "s1", "000001.chg", 500, 7, 1, options))
    yield encode_task(CompactionTask(2, "s1", ((meta,), (meta, meta)), 1, ((b"", b"\xff"),), (meta,), options))
    yield encode_result(TaskResult(2, (meta,), 100, 200))
    yield encode_error(CorruptionError("/data/1", 5, "damaged"))
    yield encode_error(DiskError("/data/1", "write", OSError(5, "Input/output error")))
    yield encode_error(NoSpaceError("/data/1"))


def _header() -> SnapshotHeader:
    files = (
        CheckpointFile(CHECKPOINT, 5, xxhash.xxh3_64_intdigest(b"hello")),
        CheckpointFile("000001.sst", 3, xxhash.xxh3_64_intdigest(b"abc")),
    )
    return SnapshotHeader("0a", 7, 2, b"members", 99, files)


def check_incoming(content: bytes) -> None:
    """Pieces in any order and of any content: only files whose checksum fits count, whatever lay there before."""
    note, _, pieces = content.partition(b"\0\0")
    header = _header()
    fs = disk({f"{_DIRECTORY}/{INCOMING}/{HEADER}": note})
    incoming = IncomingSnapshot.open(fs, _DIRECTORY, header)
    position = 0
    while position + 3 <= len(pieces) and not incoming.complete:
        file, offset, size = pieces[position : position + 3]
        data = pieces[position + 3 : position + 3 + size]
        try:
            taken = incoming.write(file, offset, data)
        except IncomingError:
            break
        assert taken in Taken
        position += 3 + size
    number = incoming.position[0]
    for listed in header.files[:number]:
        stored = fs.read_file(f"{_DIRECTORY}/{INCOMING}/{listed.name}")
        assert xxhash.xxh3_64_intdigest(stored) == listed.xxh3, "a damaged file was passed over"
    if incoming.complete:
        try:
            incoming.finish()
        except CorruptionError:
            assert not fs.exists(f"{_DIRECTORY}/{INCOMING}/{CHECKPOINT}")
    incoming.close()


def seeds_incoming() -> Iterable[bytes]:
    """All pieces, with the note and without it."""
    pieces = b"\0\0\2he\0\2\3llo\1\0\3abc"
    yield b"\0\0" + pieces
    yield encode_note(_header().as_fields()) + b"\0\0" + pieces


def check_backup(content: bytes) -> None:
    """The manifest of a backup names files of checkpoints only, or is refused."""
    try:
        backup = load_backup(disk({f"/backup/{MANIFEST}": content}), "/backup")
    except CorruptionError:
        return
    for cut in backup.shards:
        assert all("/" not in file.name for file in cut.files)


def repair_backup(content: bytes) -> bytes:
    """Makes the checksum of a manifest fit, if it is an object."""
    try:
        document = json.loads(content)
        document.pop("xxh3", None)
        body = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
    except (ValueError, AttributeError, TypeError, RecursionError):
        return content
    return json.dumps({**document, "xxh3": xxhash.xxh3_64_hexdigest(body)}).encode()


def seeds_backup() -> Iterable[bytes]:
    """Of one shard."""
    document = {
        "format": 1,
        "backup_id": "20260101T000000Z-00000000",
        "cluster_id": "c",
        "begun_us": 1,
        "shards": [
            {
                **{"shard": 0, "index": 7, "term": 1, "log_time_us": 5, "voters": ["a"], "node": "a"},
                "files": [
                    {"name": "CHECKPOINT", "size_bytes": 5, "xxh3": "0a"},
                    {"name": "000001.sst", "size_bytes": 3, "xxh3": "0b"},
                ],
            }
        ],
    }
    yield repair_backup(json.dumps(document).encode())


def check_sent(content: bytes) -> None:
    """A shard that is sent to a restore has a manifest with that shard, or is refused."""
    stream = io.BytesIO(content)
    try:
        source = StreamSource(stream)
        for number, file in enumerate(source.cut.files):
            source.copy(disk({}), file, f"/{number}")
        source.finish()
    except CorruptionError:
        return
    assert source.cut in source.backup.shards
    assert stream.tell() == len(content)


def repair_sent(content: bytes) -> bytes:
    """Makes the checksum of the manifest fit, if there is one."""
    head, line, rest = content.partition(b"\n")
    try:
        document = json.loads(head)
        manifest = json.loads(repair_backup(json.dumps(document["manifest"]).encode()))
        head = json.dumps({**document, "manifest": manifest}).encode()
    except (ValueError, TypeError, KeyError, RecursionError):
        return content
    return head + line + rest


def seeds_sent() -> Iterable[bytes]:
    """The one shard of the other seed, with its files."""
    for manifest in seeds_backup():
        head = {"stream": 1, "shard": 0, "manifest": json.loads(manifest)}
        yield json.dumps(head).encode() + b"\n" + b"12345" + b"678"


TARGETS = (
    Target("note", "notes", check_note, seeds_note, repair_note),
    Target("identity", "identities of volumes", check_identity, seeds_identity, repair_note),
    Target("installation", "the note of an installation", check_installation, seeds_note, repair_note),
    Target("message", "what node and storage worker say to each other", check_message, seeds_message),
    Target("incoming", "pieces of a snapshot that comes in", check_incoming, seeds_incoming),
    Target("sent", "a shard that is sent to a restore", check_sent, seeds_sent, repair_sent),
    Target("backup", "the manifest of a backup, as a restore reads it", check_backup, seeds_backup, repair_backup),
)
