"""The bytes of every command, and of all that the state machine keeps: they are in logs, stores and snapshots.

Whoever changes one of these must raise the version of its format, and say so in docs/formats.md.
"""

from __future__ import annotations

import pytest

from doug_wire import command as commands
from doug_wire import payload
from doug_wire.command import Opcode, Token
from doug_wire.partition_map import PartitionMap
from doug_wire.pipe import ResultRecord
from raft_node.kv import keyspace, partitions
from raft_node.kv.changes import Removal, encode_removals
from raft_node.kv.keyspace import State, StoredValue
from raft_node.kv.operations import access, expiry, shares, tokens
from raft_node.kv.operations.tokens import TokenRecord
from raft_node.kv.operations.work import Limits
from raft_node.kv.ownership import Ownership
from raft_node.kv.state_hash import ChainState, Mark

TOKEN = Token(b"\0" * 15 + b"\1", 7)
GET = commands.encode(Opcode.GET, b"k")
NOTE = keyspace.due_key(3, b"\1k")
LIMITS = Limits(5, 6, 7 << 20)
COMMANDS = {
    Opcode.PUT: (
        commands.encode(Opcode.PUT, b"k", b"t", b"v", 3, commands.revision(9), 1500, TOKEN, b"gzip"),
        (
            "010f01000100010000000300000000000000030900000000000000dc0500000000000010"
            "0007000000000000000000000000000000000000000000000104677a69706b7476"
        ),
    ),
    Opcode.DELETE: (
        commands.encode(Opcode.DELETE, b"k", condition=commands.EXISTS),
        "0201010000000000000000000000000000000100000000000000006b",
    ),
    Opcode.CREATE_SHARD: (
        commands.encode(Opcode.CREATE_SHARD, b"", value=partitions.encode_create_shard(1, 2)),
        "0300000000000800000000000000000000000100000002000000",
    ),
    Opcode.INCREMENT: (
        commands.encode(Opcode.INCREMENT, b"k", value=payload.encode_increment(1, -1), ttl=commands.KEEP),
        ("04020100000010000000000000000000000000000000000000006b0100000000000000ffffffffffffffff"),
    ),
    Opcode.TOUCH: (
        commands.encode(Opcode.TOUCH, b"k", ttl=1000, condition=commands.ABSENT),
        "050301000000000000000000000000000000020000000000000000e8030000000000006b",
    ),
    Opcode.TXN: (
        commands.encode(
            Opcode.TXN, b"k", value=payload.encode_txn(payload.Txn((payload.Compare(1, b"k"),), (GET,), ()))
        ),
        (
            "0600010000002d00000000000000000000006b0100010000000100000000000000000100"
            "000000006b130000000800010000000000000000000000000000006b"
        ),
    ),
    Opcode.BATCH: (
        commands.encode(Opcode.BATCH, b"k", value=payload.encode_batch((GET,)), token=TOKEN),
        (
            "0704010000001b0000000000000000000000100007000000000000000000000000000000"
            "00000000000000016b01000000130000000800010000000000000000000000000000006b"
        ),
    ),
    Opcode.GET: (
        GET,
        "0800010000000000000000000000000000006b",
    ),
    Opcode.EXPIRE: (
        commands.encode(Opcode.EXPIRE, b"", value=expiry.encode_expire((NOTE,))),
        ("090000000000150000000000000000000000010000000f00006475652f0000000000000003016b"),
    ),
    Opcode.SET_LIMITS: (
        commands.encode(Opcode.SET_LIMITS, b"", value=tokens.encode_limits(LIMITS)),
        "0a0000000000180000000000000000000000050000000000000006000000000000000000700000000000",
    ),
    Opcode.SET_AUTH: (
        commands.encode(Opcode.SET_AUTH, b"", value=access.encode_change(1, 2, b"{}")),
        "0b0000000000120000000000000000000000010000000000000002000000000000007b7d",
    ),
    Opcode.RECOVER: (
        commands.encode(Opcode.RECOVER, b""),
        "0c0000000000000000000000000000000000",
    ),
}
RECORDS = {
    "state": (
        State(5, 6, 7, 8, 9, 10).encode(),
        ("050000000000000006000000000000000700000000000000080000000000000009000000000000000a00000000000000"),
    ),
    "value": (
        keyspace.encode_value(StoredValue(3, b"a/b", b"value", 1)),
        "02000300010000000300000000000000612f6276616c7565",
    ),
    "value with options": (
        keyspace.encode_value(StoredValue(3, b"a/b", b"v", 1, 1 << 40, b"gzip")),
        "02030300010000000300000000000000000000000001000004677a6970612f6276",
    ),
    "ownership": (
        Ownership(1, PartitionMap.first(3).of_shard(1)).encode(),
        "0100000000000000010000005501a902010000000100000000000000",
    ),
    "partition map": (
        PartitionMap.first(2).encode(),
        ("0100000000000000020000000000ff010000000001000000000000000002ff03010000000100000000000000"),
    ),
    "token record": (
        TokenRecord(9, 8, ResultRecord(0, 0, 7, b"t", b"v", 5, b"br", True)).encode(),
        (
            "010900000000000000080000000000000000000000000000000007070000000000000001"
            "000100000005000000000000000262727476"
        ),
    ),
    "limits": (
        tokens.encode_limits(LIMITS),
        "050000000000000006000000000000000000700000000000",
    ),
    "stored limits": (
        tokens.encode_stored_limits(LIMITS),
        "050000000000000006000000000000000000700000000000",
    ),
    "stored limits after a shorter time": (
        tokens.encode_stored_limits(LIMITS._replace(before_us=8, before_kept_us=4)),
        "05000000000000000600000000000000000070000000000008000000000000000400000000000000",
    ),
    "note of a key": (
        NOTE,
        "006475652f0000000000000003016b",
    ),
    "note of a token": (
        keyspace.due_key(6, keyspace.token_key(3, b"\0token")),
        "006475652f000000000000000600746f6b656e2f000300746f6b656e",
    ),
    "share of a principal": (
        shares.Share(5, 6 << 20).encode(),
        "05000000000000000000600000000000",
    ),
    "place of the share of a principal": (
        shares.key_of(b"token:app\0key"),
        "00746f6b656e2d73686172652f746f6b656e3a617070",
    ),
    "mark of a hash": (
        Mark(4, 9).encode(),
        "010000000000000004000000000000000900000000000000",
    ),
    "standing of a hash": (
        ChainState(1, Mark(4, 9)).encode(),
        "010000000000000004000000000000000900000000000000",
    ),
    "removals": (
        encode_removals((Removal(1, 2, 3), Removal(4, 5, 2))),
        "0100000002000000000000000304000000050000000000000002",
    ),
    "who may do what": (
        access.Stored(3, b"{}").encode(),
        "03000000000000007b7d",
    ),
}
PLACES = {
    "STATE_KEY": "007374617465",
    "STATE_HASH_KEY": "0073746174652d68617368",
    "SLOTS_KEY": "00736c6f7473",
    "LIMITS_KEY": "006c696d697473",
    "PARTITION_MAP_KEY": "00706172746974696f6e2d6d6170",
    "AUTH_KEY": "0061757468",
    "CONFIGURATION_KEY": "00636f6e66696775726174696f6e",
    "DUE_PREFIX": "006475652f",
    "SHARE_PREFIX": "00746f6b656e2d73686172652f",
    "TOKEN_PREFIX": "00746f6b656e2f",
    "USER_PREFIX": "01",
}


def test_every_command_has_golden_bytes() -> None:
    assert list(COMMANDS) == list(Opcode)


@pytest.mark.parametrize("opcode", Opcode, ids=lambda opcode: opcode.name)
def test_the_bytes_of_a_command(opcode: Opcode) -> None:
    encoded, golden = COMMANDS[opcode]
    assert encoded.hex() == golden
    assert commands.decode(encoded).opcode == opcode
    assert commands.encode(*commands.decode(encoded)) == encoded


@pytest.mark.parametrize("name", RECORDS)
def test_the_bytes_of_what_is_kept(name: str) -> None:
    encoded, golden = RECORDS[name]
    assert encoded.hex() == golden


def test_where_it_is_kept() -> None:
    named = {name for name in vars(keyspace) if name.endswith(("_KEY", "_PREFIX")) and not name.startswith("_")}
    assert named == set(PLACES)
    assert {name: getattr(keyspace, name).hex() for name in PLACES} == PLACES
