"""Fuzz targets of the contents of entries and requests: commands, pipe records, configurations, the keyspace."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterable

from crc32c import crc32c

from doug_wire import command as commands
from doug_wire import payload, pipe, scan
from doug_wire.command import Command, CommandError, Opcode
from doug_wire.partition_map import PartitionMap
from doug_wire.pipe import PipeError, ReadRecord, ResultRecord, WriteRecord
from doug_wire.slots import SLOTS, slot_of
from doug_wire.validity import keys_of, validate
from doug_wire.watch import Change, ChangeKind, WatchError, decode_changes, encode_change
from raft_node import entry as entries
from raft_node.entry import EntryKind
from raft_node.errors import CorruptionError
from raft_node.kv import keyspace, partitions
from raft_node.kv.changes import Removal, decode_removals, encode_removals
from raft_node.kv.keyspace import State, StoredValue
from raft_node.kv.operations import expiry, tokens
from raft_node.kv.operations.shares import Share
from raft_node.kv.operations.tokens import TokenRecord
from raft_node.kv.operations.work import Limits
from raft_node.kv.ownership import Ownership
from raft_node.kv.state_hash import Mark
from raft_node.kv.state_machine import StateMachine
from raft_node.raft.configuration import ConfigurationError, decode_configuration, encode_configuration
from raft_node.raft.types import Configuration, NodeId
from raft_testing.fakes import DictStore
from raft_testing.fuzz.target import Target

CLIENTS = (Opcode.PUT, Opcode.DELETE, Opcode.INCREMENT, Opcode.TOUCH, Opcode.TXN, Opcode.BATCH)


def _encoded(command: Command) -> bytes:
    return commands.encode(*command)


def check_command(data: bytes) -> None:
    """A decoded command encodes to the same bytes, and one that a client may send has sizes within the limits."""
    command = None
    with contextlib.suppress(CommandError):
        command = commands.decode(data)
    if command is not None:
        assert _encoded(command) == data
        assert 0 <= slot_of(command.key) < SLOTS
        assert commands.decode(b"front" + data, 5) == command
    try:
        valid = validate(data)
    except CommandError:
        return
    assert valid == command
    keys = keys_of(valid)
    assert valid.key in keys and all(0 < len(key) <= commands.KEY_BYTES_MAX for key in keys)
    assert len(valid.value) <= payload.PAYLOAD_BYTES_MAX
    assert valid.opcode in CLIENTS and valid.content_type.decode("ascii").isprintable()


def seeds_command() -> Iterable[bytes]:
    """One of each opcode."""
    yield commands.encode(Opcode.PUT, b"key{tag}", b"text/plain", b"value", 3)
    yield commands.encode(Opcode.DELETE, b"key")
    yield commands.encode(Opcode.CREATE_SHARD, b"", value=partitions.encode_create_shard(0, 1))
    token = commands.Token(commands.token_id("", "a key"), 7)
    yield commands.encode(Opcode.PUT, b"k", b"t", b"v", 3, commands.revision(9), 1500, token, b"gzip")
    yield commands.encode(Opcode.INCREMENT, b"k", value=payload.encode_increment(1, -1), condition=commands.EXISTS)
    yield commands.encode(Opcode.TOUCH, b"k", ttl=1000, condition=commands.ABSENT)
    operations = (
        commands.encode(Opcode.GET, b"k"),
        commands.encode(Opcode.PUT, b"l", b"", b"v", ttl=commands.KEEP),
    )
    yield commands.encode(Opcode.BATCH, b"k", value=payload.encode_batch(operations), token=token)
    compares = (payload.Compare(3, b"k", 9), payload.Compare(4, b"l", 0, b"v"), payload.Compare(1, b"m"))
    txn = payload.Txn(compares, operations, operations[:1])
    yield commands.encode(Opcode.TXN, b"l", value=payload.encode_txn(txn))


def check_payload(data: bytes) -> None:
    """The payload of a command, or the answer to one, is decoded to what its bytes stand for."""
    with contextlib.suppress(CommandError):
        assert payload.encode_increment(*payload.decode_increment(data)) == data
    with contextlib.suppress(CommandError):
        assert payload.encode_batch(payload.decode_batch(data)) == data
    with contextlib.suppress(CommandError):
        assert payload.encode_txn(payload.decode_txn(data)) == data
    with contextlib.suppress(PipeError):
        assert payload.encode_txn_result(payload.decode_txn_result(data)) == data


def seeds_payload() -> Iterable[bytes]:
    """One of each kind."""
    for command in seeds_command():
        yield commands.decode(command).value
    results = (ResultRecord(0, 0, 7, b"t", b"v", 5, b"br", True), ResultRecord(1, 10, 0, b"", b""))
    yield payload.encode_txn_result(payload.TxnResult(True, results))


def check_applied(content: bytes) -> None:
    """Committed entries of any content are applied, or stop the node with ``CorruptionError``; a restart agrees."""
    store = DictStore()
    machine = StateMachine.open(store)
    for kind, command in _applied(content):
        index = store.applied_index + 1
        try:
            machine.apply([entries.encode(index, 1, kind, index, command)])
        except CorruptionError:
            return
        assert store.applied_index == index
    again = StateMachine.open(store)
    assert (again.clock_us, again.revision, again.mark) == (machine.clock_us, machine.revision, machine.mark)
    assert (again.created, again.tokens, again.limits) == (machine.created, machine.tokens, machine.limits)
    assert again.token_bytes == machine.token_bytes
    for key, value in store.data.items():
        if key.startswith(keyspace.USER_PREFIX) and value is not None:
            keyspace.decode_value(value)


def _applied(content: bytes) -> Iterable[tuple[int, bytes]]:
    """u8 kind | u8 command bytes | command, one behind the other."""
    position = 0
    while position + 2 <= len(content):
        kind, size = content[position], content[position + 1]
        yield kind, content[position + 2 : position + 2 + size]
        position += 2 + size


def seeds_applied() -> Iterable[bytes]:
    """A new shard with a put, a delete and marks."""
    create, put, delete = (
        commands.encode(Opcode.CREATE_SHARD, b"", value=partitions.encode_create_shard(0, 3)),
        commands.encode(Opcode.PUT, b"{a}", b"text/plain", b"value", 1),
        commands.encode(Opcode.DELETE, b"{a}"),
    )
    mark = Mark().encode()
    some = [(EntryKind.NOOP, b""), (EntryKind.COMMAND, create), (EntryKind.COMMAND, put), (EntryKind.STATE_HASH, mark)]
    some += [(EntryKind.COMMAND, delete), (EntryKind.CLOCK, b""), (EntryKind.STATE_HASH, Mark(4, 9).encode())]
    yield b"".join(bytes((kind, len(command))) + command for kind, command in some)
    rest = [command for command in seeds_command() if len(command) < 256]
    rest.append(commands.encode(Opcode.SET_LIMITS, b"", value=tokens.encode_limits(Limits(5, 6, 7 << 20))))
    note = keyspace.due_key(3, keyspace.user_key(b"k"))
    rest.append(commands.encode(Opcode.EXPIRE, b"", value=expiry.encode_expire((note,))))
    yield b"".join(bytes((EntryKind.COMMAND, len(command))) + command for command in (create, *rest, *rest))


def check_pipe(blob: bytes) -> None:
    """Records of each kind are decoded to what their bytes stand for."""
    try:
        writes: list[WriteRecord] = list(pipe.decode_writes(blob))
        assert b"".join(pipe.encode_write(*record) for record in writes) == blob
    except PipeError:
        pass
    try:
        reads: list[ReadRecord] = list(pipe.decode_reads(blob))
        assert b"".join(pipe.encode_read(*record) for record in reads) == blob
    except PipeError:
        pass
    try:
        results: list[ResultRecord] = list(pipe.decode_results(blob))
        assert b"".join(pipe.encode_result(*record) for record in results) == blob
    except PipeError:
        pass


def check_scan(blob: bytes) -> None:
    """A page is the records that it is encoded from, or refused."""
    try:
        records = scan.decode_page(blob)
    except scan.ScanError:
        return
    encoded = [
        scan.encode_prefix(record.key) if record.kind == scan.PREFIX else scan.encode_entry(*_in_order(record))
        for record in records
    ]
    assert b"".join(encoded) == blob


def _in_order(record: scan.ScanRecord) -> tuple[bytes, int, bytes, bytes, bytes, int]:
    _, key, revision, value, content_type, content_encoding, expires_at = record
    return key, revision, value, content_type, content_encoding, expires_at


def seeds_scan() -> Iterable[bytes]:
    """Entries with and without everything, and a common prefix."""
    yield scan.encode_entry(b"key", 7, b"value", b"text/plain", b"gzip", 1 << 40) + scan.encode_prefix(b"a/")
    yield scan.encode_entry(b"", 0, b"", b"")


def seeds_pipe() -> Iterable[bytes]:
    """Records of each kind."""
    put = commands.encode(Opcode.PUT, b"key", b"", b"value")
    yield pipe.encode_write(1, crc32c(put), put) * 2
    yield pipe.encode_read(1, 1, b"key") + pipe.encode_read(2, 0, b"")
    yield pipe.encode_read(1, 1, b"key", 9, b"\0token") + pipe.encode_read(2, 0, b"k", 3)
    yield pipe.encode_result(1, 0, 5, b"text/plain", b"value") + pipe.encode_result(2, 6)
    yield pipe.encode_result(1, 0, 5, b"", b"value", 1 << 40, b"gzip", True)


def check_configuration(data: bytes) -> None:
    """A configuration is decoded to what its bytes stand for, and no other bytes stand for it."""
    try:
        configuration = decode_configuration(data)
    except ConfigurationError:
        return
    assert encode_configuration(configuration) == data


def seeds_configuration() -> Iterable[bytes]:
    """Without addresses, with learners and addresses."""
    voters = (NodeId("a", 1), NodeId("b", 2))
    yield encode_configuration(Configuration(voters))
    yield encode_configuration(Configuration(voters, (NodeId("ü", 3),), (("a", "host:1"), ("ü", "[::1]:2"))))


def check_keyspace(data: bytes) -> None:
    """Values under the state machine's own keys are decoded, or the node stops with a typed error."""
    try:
        value = keyspace.decode_value(data)
    except CorruptionError:
        pass
    else:
        assert keyspace.encode_value(value) == data
    with contextlib.suppress(CorruptionError):
        assert TokenRecord.decode(data).encode() == data
    with contextlib.suppress(CorruptionError):
        assert Share.decode(data).encode() == data
    with contextlib.suppress(CorruptionError):
        assert Ownership.decode(data).encode() == data
    with contextlib.suppress(ValueError):
        assert keyspace.due_key(*keyspace.split_due_key(data)) == data
    with contextlib.suppress(CommandError):
        assert expiry.encode_expire(expiry.decode_expire(data)) == data
    own = (keyspace.STATE_KEY, keyspace.SLOTS_KEY, keyspace.STATE_HASH_KEY, keyspace.PARTITION_MAP_KEY)
    for key in (*own, keyspace.LIMITS_KEY):
        store = DictStore()
        store.data[key] = data
        try:
            machine = StateMachine.open(store)
            known = machine.partition_map()
        except CorruptionError:
            continue
        if known is not None:
            assert known.encode() == data
        machine.owns(SLOTS - 1, 1)


def seeds_keyspace() -> Iterable[bytes]:
    """Values, counters, a partition map, a standing, a token, notes of what expires."""
    yield keyspace.encode_value(StoredValue(3, b"a/bc", b"value", 1))
    yield keyspace.encode_value(StoredValue(3, b"a/bc", b"value", 1, 1 << 50, b"gzip"))
    yield State(5, 6, 7, 8, 9, 10).encode()
    yield PartitionMap.first(2).encode()
    yield Ownership(1, PartitionMap.first(3).of_shard(1)).encode()
    yield struct.pack("<QQQ", 1, 2, 3)
    yield TokenRecord(9, 8, ResultRecord(0, 0, 7, b"t", b"v", 5, b"br", True)).encode()
    yield Share(5, 6 << 20).encode()
    yield tokens.encode_limits(Limits(5, 6, 7 << 20))
    notes = (keyspace.due_key(5, b"\x01key"), keyspace.due_key(6, keyspace.token_key(3, b"\0token")))
    yield from (*notes, expiry.encode_expire(notes))


def check_watch(data: bytes) -> None:
    """Changes as they travel, and notes of removals as segments keep them, stand for their bytes alone."""
    with contextlib.suppress(WatchError):
        assert b"".join(map(encode_change, decode_changes(data))) == data
    with contextlib.suppress(CorruptionError):
        found = decode_removals(data)
        again = encode_removals([Removal(place, revision, kind) for place, (kind, revision) in found.items()])
        # Of two notes of one place the later one counts.
        assert again == data or len(again) < len(data)


def seeds_watch() -> Iterable[bytes]:
    """A put, a removal, and the notes of two."""
    put = Change(ChangeKind.PUT, False, 2, b"k", 11, b"vv", b"text/csv", b"gzip", 12)
    yield encode_change(put) + encode_change(Change(ChangeKind.EXPIRE, True, 0, b"k", 12))
    yield encode_removals((Removal(1, 2, ChangeKind.DELETE), Removal(4, 5, ChangeKind.EXPIRE)))


TARGETS = (
    Target("command", "commands", check_command, seeds_command),
    Target("payload", "payloads of commands and of their answers", check_payload, seeds_payload),
    Target("apply", "committed entries in the state machine", check_applied, seeds_applied),
    Target("pipe", "records of the pipe", check_pipe, seeds_pipe),
    Target("watch", "changes of watches, notes of removals", check_watch, seeds_watch),
    Target("scan", "pages of scans", check_scan, seeds_scan),
    Target("configuration", "configurations", check_configuration, seeds_configuration),
    Target("keyspace", "what the state machine keeps in the store", check_keyspace, seeds_keyspace),
)
