"""Commands: golden bytes, round trips, and what is refused."""

from __future__ import annotations

import random

import pytest

from doug_wire import command
from doug_wire.command import Command, CommandError, Opcode


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
    assert command.checksum(b"123456789") == 0xE3069283


def test_opcodes_are_frozen() -> None:
    assert [(opcode.name, opcode.value) for opcode in Opcode] == [("PUT", 1), ("DELETE", 2), ("CREATE_SHARD", 3)]


@pytest.mark.parametrize(
    "expected",
    [
        Command(Opcode.PUT, b"k", b"", b"", 0),
        Command(Opcode.PUT, bytes(range(256)) * 4, b"x" * 255, bytes(1 << 20), (1 << 64) - 1),
        Command(Opcode.DELETE, b"\0", b"", b"", 1),
    ],
)
def test_round_trip(expected: Command) -> None:
    data = command.encode(*expected)
    assert command.decode(data) == expected
    assert command.decode(b"before" + data, 6) == expected
    assert command.validate(data) == expected


def test_every_other_length_is_refused() -> None:
    data = command.encode(Opcode.PUT, b"key", b"text/plain", b"value", 1)
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
    for _ in range(3000):
        data = bytearray(
            command.encode(rng.randrange(4), rng.randbytes(5), b"t", rng.randbytes(9), rng.getrandbits(64))
        )
        for _ in range(rng.randrange(4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        del data[rng.randrange(len(data)) :]
        with pytest.raises(CommandError):
            command.validate(bytes(data))


def test_unknown_flags_are_refused() -> None:
    data = bytearray(command.encode(Opcode.PUT, b"key"))
    data[1] = 1
    with pytest.raises(CommandError, match="flags 0x1"):
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
        command.validate(data)
