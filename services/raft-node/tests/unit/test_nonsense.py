"""Bytes whose checksums fit and that nobody ever wrote: each decoder meets them with its one typed error.

Every test here is something that fuzzing has found (docs/testing.md, Fuzzing); the targets themselves are run over
their corpus in ``test_fuzz_targets.py``.
"""

from __future__ import annotations

import json

import lz4.block
import pytest
import zstandard
from crc32c import crc32c

from doug_wire import command as commands
from doug_wire.command import Opcode
from doug_wire.partition_map import PartitionMap, SlotRange, encode_ranges
from doug_wire.slots import SLOTS
from raft_node import entry as entries
from raft_node.app.restoring.backup import MANIFEST, load_backup
from raft_node.entry import EntryKind
from raft_node.errors import CorruptionError, FatalError, UnavailableError
from raft_node.kv import keyspace, partitions
from raft_node.kv.keyspace import SLOTS_KEY, STATE_HASH_KEY, STATE_KEY
from raft_node.kv.state_machine import StateMachine
from raft_node.kv.visibility import Visibility
from raft_node.runtime.members import identity as identities
from raft_node.runtime.members.identity import FILE_NAME
from raft_node.runtime.reads.reader import Reader
from raft_node.storage import inspect, record
from raft_node.storage.changes.segments import ChangeReader, encode_file_header
from raft_node.storage.engine import BlockNeeded, Engine
from raft_node.storage.merges.tasks import WorkerGoneError, decode_result, decode_task
from raft_node.storage.notes import read_note
from raft_node.storage.options import EngineOptions, WalOptions
from raft_node.storage.tables.block import LZ4, ZSTD, BlockError, open_sealed
from raft_node.storage.tables.manifest import recover
from raft_node.storage.wal import segment as wal_segment
from raft_node.storage.wal.log import Wal
from raft_node.storage.wal.segment import FLAG_HARD_STATE, NO_HARD_STATE, SegmentHeader, WalHardState
from raft_testing.engines import settle
from raft_testing.fakes import DictStore
from raft_testing.files import MemoryFileSystem

W, D = "/wal", "/data"
HEADER = SegmentHeader(1, 4096, 1, 0, 0, 1, NO_HARD_STATE)
DEEP = b"[" * 100_000


def disk(path: str, content: bytes) -> MemoryFileSystem:
    fs = MemoryFileSystem()
    fs.make_directory(path.rpartition("/")[0])
    fs.put(path, content)
    return fs


# The log.


def segment(header: bytes, *frames: bytes) -> MemoryFileSystem:
    return disk(f"{W}/{wal_segment.name_of(1)}", (header + b"".join(frames)).ljust(4096, b"\0"))


def sealed_header(body: bytes) -> bytes:
    return body + crc32c(body).to_bytes(4, "little")


def is_refused(fs: MemoryFileSystem) -> None:
    before = fs.files()
    for path in before:
        assert "damaged" in [finding.kind for finding in inspect.segment(fs, path)]
    with pytest.raises(CorruptionError):
        Wal.open(fs, W, WalOptions())
    assert fs.files() == before


def test_a_segment_whose_header_names_bytes_that_are_no_text() -> None:
    header = wal_segment.encode_header(HEADER._replace(hard_state=WalHardState(1, "ab", 7, 0)))
    is_refused(segment(sealed_header(header[:-4].replace(b"ab", b"a\xff"))))


def test_a_segment_whose_header_names_more_than_a_name_can_be() -> None:
    body = bytearray(wal_segment.encode_header(HEADER)[:-4])
    body[10:12] = (300).to_bytes(2, "little")
    is_refused(segment(sealed_header(bytes(body))))


def test_a_frame_whose_hard_state_names_bytes_that_are_no_text() -> None:
    flags, parts, _ = wal_segment.encode_payload(WalHardState(1, "ab", 7, 0), None, [])
    assert flags == FLAG_HARD_STATE
    frame = record.encode(record.framing_of(1), 1, flags, [parts[0], b"a\xff"], 512)
    is_refused(segment(wal_segment.encode_header(HEADER), frame))


@pytest.mark.parametrize("segment_bytes", [1 << 40, (1 << 64) - 1])
def test_a_segment_that_says_it_is_larger_than_memory(segment_bytes: int) -> None:
    is_refused(segment(wal_segment.encode_header(HEADER._replace(segment_bytes=segment_bytes))))


def test_a_frame_with_the_last_number_that_there_is() -> None:
    """There is no number for the frame behind it, and the bytes behind it were judged by one."""
    last = (1 << 64) - 1
    flags, parts, _ = wal_segment.encode_payload(WalHardState(1, "a", 7, 0), None, [])
    frame = record.encode(record.framing_of(1), last, flags, parts, 512)
    is_refused(segment(wal_segment.encode_header(HEADER._replace(first_sequence=last)), frame, b"\xd6" * 20))


# SSTables.


def test_a_block_that_says_it_holds_more_than_it_can() -> None:
    for tag, payload in (
        (ZSTD, zstandard.ZstdCompressor(write_content_size=True).compress(b"a" * 1000)),
        (LZ4, lz4.block.compress(b"a" * 1000, store_size=True)),
    ):
        body = payload + bytes((tag,))
        assert open_sealed(body + crc32c(body).to_bytes(4, "little")) == b"a" * 1000
        # The size of a small frame lies behind its magic number and a byte of flags; that of LZ4 at the front.
        claim = b"\xff\xff\xff\x7f" + payload[4:] if tag == LZ4 else payload[:4] + b"\xe0" + b"\x7f" * 8 + payload[7:]
        body = claim + bytes((tag,))
        with pytest.raises(BlockError, match="can hold"):
            open_sealed(body + crc32c(body).to_bytes(4, "little"))


@pytest.mark.parametrize("digits", [b"9" * 30, b"9" * 5000])
def test_a_current_with_a_number_without_end(digits: bytes) -> None:
    name = b"MANIFEST-" + digits
    fs = disk(f"{D}/CURRENT", b"%s %08x\n" % (name, crc32c(name)))
    with pytest.raises(CorruptionError, match="CURRENT"):
        recover(fs, D)


@pytest.mark.parametrize("rest", [b"", b"\1", b"\1\0\1"])
def test_a_change_segment_with_a_frame_of_more_records_than_fit(rest: bytes) -> None:
    head = len(rest).to_bytes(4, "little") + (1).to_bytes(8, "little") * 3 + (7).to_bytes(4, "little")
    body = head + bytes(4) + rest
    content = encode_file_header() + crc32c(body).to_bytes(4, "little") + body
    with pytest.raises(CorruptionError, match="do not fit"):
        ChangeReader(disk(f"{D}/1.chg", content), f"{D}/1.chg", len(content))


# Notes, identities, messages.

NONSENSE = [b"", b"{", b"\xff", b"7", b"[]", b"null", DEEP, b'{"a": ' + b"9" * 5000 + b"}"]


@pytest.mark.parametrize("body", NONSENSE, ids=range(len(NONSENSE)))
def test_notes_and_identities_that_are_no_objects(body: bytes) -> None:
    content = body + b"\n%08x\n" % crc32c(body)
    with pytest.raises(CorruptionError):
        read_note(disk(f"{D}/NOTE", content), D, "NOTE")
    with pytest.raises(CorruptionError):
        identities.read(disk(f"{D}/{FILE_NAME}", content), D)


@pytest.mark.parametrize(
    "change",
    [{"name": 7}, {"incarnation": "7"}, {"incarnation": 7.5}, {"shard": None}, {"cluster_id": []}, {"more": 1}],
)
def test_an_identity_with_other_fields(change: dict[str, object]) -> None:
    body = json.dumps({"name": "a", "incarnation": 7, "shard": 0, "cluster_id": ""} | change).encode()
    with pytest.raises(CorruptionError, match="identity"):
        identities.read(disk(f"{D}/{FILE_NAME}", body + b"\n%08x\n" % crc32c(body)), D)


OPTIONS = {"block_bytes": 1, "compression": "lz4", "bloom_bits_per_key": 1, "table_bytes": 1, "table_keys_max": 1}
FLUSH = {"task_id": 1, "start_id": "s", "change_name": "c", "change_bytes": 1, "applied_index": 1, "applied_term": 1}


@pytest.mark.parametrize(
    "message",
    [
        DEEP,
        b'{"flush": ' * 50_000,
        json.dumps({"flush": FLUSH | {"options": OPTIONS | {"compression": "brotli"}}}).encode(),
        json.dumps({"flush": FLUSH | {"options": OPTIONS | {"block_bytes": 0}}}).encode(),
        json.dumps({"flush": FLUSH | {"options": OPTIONS, "task_id": "1"}}).encode(),
    ],
    ids=["deep list", "deep object", "compression", "block bytes", "task id"],
)
def test_a_task_that_makes_no_sense(message: bytes) -> None:
    with pytest.raises(WorkerGoneError):
        decode_task(message)


@pytest.mark.parametrize(
    "message",
    [
        DEEP,
        b'{"result": {"task_id": "1", "outputs": [], "read_bytes": 0, "written_bytes": 0}}',
        b'{"result": {"task_id": 1, "outputs": [["1", 2, 3, 4, "", ""]], "read_bytes": 0, "written_bytes": 0}}',
    ],
    ids=["deep list", "task id", "table number"],
)
def test_an_answer_that_makes_no_sense(message: bytes) -> None:
    with pytest.raises(WorkerGoneError):
        decode_result(message)


@pytest.mark.parametrize("content", [DEEP, b'{"xxh3": "", "a": ' * 10_000])
def test_a_backup_that_is_nested_too_deep(content: bytes) -> None:
    with pytest.raises(CorruptionError, match="backup"):
        load_backup(disk(f"/b/{MANIFEST}", content), "/b")


# Committed entries and the state.

CREATE = commands.encode(Opcode.CREATE_SHARD, b"", value=partitions.encode_create_shard(0, 1))
PUT = commands.encode(Opcode.PUT, b"key", b"text/plain", b"value")


def applied(*bodies: bytes) -> None:
    machine = StateMachine.open(DictStore())
    for index, body in enumerate(bodies, 1):
        machine.apply([entries.encode(index, 1, EntryKind.COMMAND, 1, body)])


@pytest.mark.parametrize("body", [b"", PUT[:10], PUT[:-1], PUT + b"x", PUT[:1] + b"\1" + PUT[2:]])
def test_a_committed_command_whose_lengths_or_flags_make_no_sense(body: bytes) -> None:
    applied(CREATE, PUT)
    with pytest.raises(CorruptionError, match="entry 2"):
        applied(CREATE, body)


@pytest.mark.parametrize(
    "value",
    [b"", b"1234567", *(partitions.encode_create_shard(*numbers) for numbers in ((0, 0), (0, 5000), (3, 3)))],
)
def test_a_shard_that_is_created_with_numbers_that_make_no_sense(value: bytes) -> None:
    with pytest.raises(CorruptionError, match="entry 1"):
        applied(commands.encode(Opcode.CREATE_SHARD, b"", value=value))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (STATE_KEY, b"short"),
        (STATE_HASH_KEY, b"short"),
        (SLOTS_KEY, b""),
        (SLOTS_KEY, encode_ranges(1, ())),
        (SLOTS_KEY, PartitionMap.first(1).encode() + b"x"),
        (SLOTS_KEY, encode_ranges(1, (SlotRange(0, 1024, 0, 1),))),
        (SLOTS_KEY, encode_ranges(1, (SlotRange(9, 3, 0, 1),))),
    ],
)
def test_a_state_that_makes_no_sense(key: bytes, value: bytes) -> None:
    store = DictStore()
    store.write([(key, value)], 1, 1)
    with pytest.raises(CorruptionError):
        StateMachine.open(store)


CUT_OFF_VALUE = keyspace.VALUE_HEADER.pack(keyspace.VALUE_FORMAT, 0, 9, 1, 1) + b"text"


@pytest.mark.parametrize("data", [b"", b"\1\0\0", b"\7" * 20, CUT_OFF_VALUE])
def test_a_stored_value_that_makes_no_sense(data: bytes) -> None:
    with pytest.raises(CorruptionError):
        keyspace.decode_value(data)


async def test_a_read_that_meets_one_is_not_answered_and_stops_the_node() -> None:
    """From memory, and from a table."""
    fs = MemoryFileSystem()
    engine = Engine.open(fs, D, EngineOptions(block_cache_bytes=0), "s1")
    engine.write([(keyspace.user_key(b"k"), b"\7" * 20)], 1, 1)
    failures: list[FatalError] = []
    reader = Reader(engine, failures.append, lambda: Visibility(0, [1] * SLOTS))
    with pytest.raises(UnavailableError):
        reader.get(b"k")
    engine.rotate()
    settle(engine, fs, D)
    needed = reader.get(b"k")
    assert isinstance(needed, BlockNeeded)
    with pytest.raises(UnavailableError):
        await reader.load(needed)
    assert [type(failure) for failure in failures] == [CorruptionError] * 2
    reader.close()
    engine.close()
