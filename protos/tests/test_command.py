"""Commands: golden bytes, round trips, and what is refused."""

from __future__ import annotations

import random

import pytest

from doug_wire import command
from doug_wire.command import KEEP, TTL_MS_MAX, Command, CommandError, ConditionKind, Opcode, Token
from doug_wire.validity import validate


def test_golden_bytes() -> None:
    data = command.encode(Opcode.PUT, b"key", b"text/plain", b"value", 258)
    assert data.hex() == (
        "0100"  # PUT, no flags
        "0300"
        "0a00"
        "05000000"  # the lengths of key, type and value
        "0201000000000000"  # the epoch
        "6b6579"
        "746578742f706c61696e"
        "76616c7565"
    )
    assert command.encode(Opcode.DELETE, b"k").hex() == "0200010000000000000000000000000000006b"
    token = Token(command.token_id("me", "once"), 0x0102030405060708)
    data = command.encode(Opcode.PUT, b"key", b"", b"value", 1, command.revision(7), 1500, token, b"gzip")
    assert data.hex() == (
        "010f"  # PUT with all optional fields
        "0300"
        "0000"
        "05000000"
        "0100000000000000"
        "030700000000000000"  # the revision is 7
        "dc05000000000000"  # 1500 ms
        "0700"
        "0807060504030201"  # the fingerprint
        "6d65006f6e6365"  # "me", 0, "once"
        "04"
        "677a6970"  # "gzip"
        "6b6579"
        "76616c7565"
    )
    assert command.encode(Opcode.PUT, b"k", condition=command.ABSENT, ttl=KEEP).hex() == (
        "0103010000000000000000000000000000000200000000000000000000000000000000" + "6b"
    )
    assert command.checksum(b"123456789") == 0xE3069283


def test_opcodes_are_frozen() -> None:
    assert [(opcode.name, opcode.value) for opcode in Opcode] == [
        ("PUT", 1),
        ("DELETE", 2),
        ("CREATE_SHARD", 3),
        ("INCREMENT", 4),
        ("TOUCH", 5),
        ("TXN", 6),
        ("BATCH", 7),
        ("GET", 8),
        ("EXPIRE", 9),
        ("SET_LIMITS", 10),
        ("SET_AUTH", 11),
        ("RECOVER", 12),
    ]
    assert [(kind.name, kind.value) for kind in ConditionKind] == [("EXISTS", 1), ("ABSENT", 2), ("REVISION", 3)]


@pytest.mark.parametrize(
    "expected",
    [
        Command(Opcode.PUT, b"k", b"", b"", 0),
        Command(Opcode.PUT, bytes(range(256)) * 4, b"x" * 255, bytes(1 << 20), (1 << 64) - 1),
        Command(Opcode.DELETE, b"\0", b"", b"", 1),
        Command(Opcode.PUT, b"k", b"t", b"v", 1, command.EXISTS),
        Command(Opcode.PUT, b"k", b"t", b"v", 1, command.revision((1 << 64) - 1), KEEP),
        Command(Opcode.TOUCH, b"k", b"", b"", 1, None, TTL_MS_MAX),
        Command(Opcode.DELETE, b"k", b"", b"", 1, None, 0, Token(b"x" * 512, (1 << 64) - 1)),
        Command(Opcode.PUT, b"k", b"", b"v", 1, command.ABSENT, 1, Token(b"\0key", 0), b"e" * 64),
    ],
)
def test_round_trip(expected: Command) -> None:
    data = command.encode(*expected)
    assert command.decode(data) == expected
    assert command.decode(b"before" + data, 6) == expected
    assert validate(data) == expected


def test_every_other_length_is_refused() -> None:
    plain = command.encode(Opcode.PUT, b"key", b"text/plain", b"value", 1)
    full = command.encode(Opcode.PUT, b"key", b"t", b"v", 1, command.EXISTS, 5, Token(b"token", 9), b"br")
    for data in (plain, full):
        refuse_other_lengths(data)


def refuse_other_lengths(data: bytes) -> None:
    for cut in range(len(data)):
        with pytest.raises(CommandError):
            command.decode(data[:cut])
    with pytest.raises(CommandError):
        command.decode(data + b"\0")
    with pytest.raises(CommandError):
        command.decode(data, 1)


def test_no_bytes_at_all_raise_anything_else() -> None:
    seed = 20_241
    print("seed", seed)
    rng = random.Random(seed)
    for turn in range(3000):
        optional = (command.EXISTS, 5, Token(b"token", 9), b"br") if turn % 2 else ()
        data = bytearray(
            command.encode(rng.randrange(4), rng.randbytes(5), b"t", rng.randbytes(9), rng.getrandbits(64), *optional)
        )
        for _ in range(rng.randrange(4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        del data[rng.randrange(len(data)) :]
        with pytest.raises(CommandError):
            validate(bytes(data))


def test_unknown_flags_are_refused() -> None:
    data = bytearray(command.encode(Opcode.PUT, b"key"))
    data[1] = 0x41
    with pytest.raises(CommandError, match="flags 0x41"):
        command.decode(bytes(data))


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (command.encode(Opcode.CREATE_SHARD, b"", b"", b"slots"), "opcode 3"),
        (command.encode(0, b"key"), "opcode 0"),
        (command.encode(255, b"key"), "opcode 255"),
        (command.encode(Opcode.PUT, b""), "key is empty"),
        (command.encode(Opcode.PUT, b"k" * 1025), "the limit is 1024"),
        (command.encode(Opcode.PUT, b"k", b"", bytes((1 << 20) + 1)), "the limit is 1048576"),
        (command.encode(Opcode.PUT, b"k", b"t" * 256), "content type"),
        (command.encode(Opcode.PUT, b"k", "t\u00e9".encode()), "printable ASCII"),
        (command.encode(Opcode.PUT, b"k", b"a\r\nb: c"), "printable ASCII"),
    ],
)
def test_what_clients_may_not_send(data: bytes, what: str) -> None:
    command.decode(data)
    with pytest.raises(CommandError, match=what):
        validate(data)


HEADER = command.HEADER.pack(Opcode.PUT, 0, 1, 0, 1, 0)


@pytest.mark.parametrize(
    ("flags", "optional", "what"),
    [
        (1, "000000000000000000", "condition 0"),
        (1, "040000000000000000", "condition 4"),
        (1, "010100000000000000", "condition 1 with revision 1"),
        (2, "ffffffffffffffff", "time to live"),
        (4, "00000000000000000000", "token of 0 bytes"),
        (4, "01020000000000000000" + "61" * 513, "token of 513 bytes"),
        (8, "00", "content encoding"),
        (8, "41" + "61" * 65, "content encoding"),
    ],
)
def test_an_optional_field_out_of_bounds_is_refused(flags: int, optional: str, what: str) -> None:
    data = HEADER[:1] + bytes((flags,)) + HEADER[2:] + bytes.fromhex(optional) + b"kv"
    with pytest.raises(CommandError, match=what):
        command.decode(data)
