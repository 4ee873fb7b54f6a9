"""Puts by columns: the same bytes and the same meaning as one by one."""

from __future__ import annotations

import random

import pytest

from doug_wire import command, payload, pipe, puts
from doug_wire.command import Opcode
from doug_wire.payload import BATCH_PART, decode_batch, encode_batch
from doug_wire.pipe import Status


def test_golden_bytes() -> None:
    heads = (
        "15000000" + "01000100000002000000" + "0000000000000000",
        "14000000" + "01000200000000000000" + "0000000000000000",
    )
    assert puts.encode_puts([b"a", b"bc"], [b"de", b""]).hex() == "02000000" + heads[0] + "616465" + heads[1] + "6263"
    assert puts.encode_results(2, 258).hex() == (
        "0000000000000000" + "0000" + "0201000000000000" + "000000000000"
        "0100000000000000" + "0000" + "0301000000000000" + "000000000000"
    )


def drawn(chance: random.Random) -> tuple[list[bytes], list[bytes]]:
    """Keys and values, of one size each or of several."""
    count = chance.choice((1, 2, 7, BATCH_PART, BATCH_PART + 1))
    sizes = chance.choice(((3, 3), (1, 5)))
    keys = [chance.randbytes(chance.randint(*sizes)) for _ in range(count)]
    sizes = chance.choice(((0, 0), (9, 9), (0, 20)))
    return keys, [chance.randbytes(chance.randint(*sizes)) for _ in range(count)]


@pytest.mark.parametrize("seed", range(40))
def test_columns_and_operations_have_the_same_bytes(seed: int) -> None:
    keys, values = drawn(random.Random(seed))
    one_by_one = encode_batch(
        [command.encode(Opcode.PUT, *each) for each in zip(keys, [b""] * len(keys), values, strict=True)]
    )
    assert puts.encode_puts(keys, values) == one_by_one
    found = puts.decode_puts(b"before" + one_by_one, 6)
    assert found is not None
    assert [*zip(found.keys, found.values, found.epochs, strict=True)] == [
        *zip(keys, values, [0] * len(keys), strict=True)
    ]
    assert found.value_bytes in (-1, len(values[0]))
    assert found.value_bytes < 0 or {len(value) for value in values} == {found.value_bytes}


PUT = command.encode(Opcode.PUT, b"key", b"", b"value", 7)


@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize(
    "other",
    [
        command.encode(Opcode.DELETE, b"key"),
        command.encode(Opcode.PUT, b"key", b"t", b"valu", 7),
        command.encode(Opcode.PUT, b"key", b"text", b"value", 7),
        command.encode(Opcode.PUT, b"key", b"", b"value", 7, command.EXISTS),
        command.encode(Opcode.PUT, b"key", b"", b"value", 7, ttl=5),
        command.encode(Opcode.GET, b"kejvalue"),
        PUT + b"x",
        PUT[:-1],
        PUT[:17],
        b"",
    ],
)
def test_anything_else_is_left(place: int, other: bytes) -> None:
    operations = [PUT] * 3
    operations[place] = other
    assert puts.decode_puts(encode_batch(operations)) is None


@pytest.mark.parametrize("last", [PUT, command.encode(Opcode.PUT, b"another", b"", b"one")])
def test_a_batch_that_is_cut_off_or_goes_on_is_left(last: bytes) -> None:
    whole = encode_batch([PUT, last])
    assert puts.decode_puts(whole) is not None
    for end in range(len(whole)):
        assert puts.decode_puts(whole[:end]) is None, end
    assert puts.decode_puts(whole + b"\0") is None
    assert puts.decode_puts(encode_batch([])) is None


def test_every_bit_of_a_batch_counts() -> None:
    """What is decoded in spite of a changed bit is what all others read there, too."""
    for good in (encode_batch([PUT, PUT]), encode_batch([PUT, PUT, command.encode(Opcode.PUT, b"k", b"")])):
        for place in range(len(good)):
            for bit in range(8):
                bad = bytearray(good)
                bad[place] ^= 1 << bit
                found = puts.decode_puts(bytes(bad))
                if found is None:
                    continue
                decoded = [command.decode(operation) for operation in decode_batch(bytes(bad))]
                assert [(each.opcode, each.content_type, each.condition, each.ttl) for each in decoded] == [
                    (Opcode.PUT, b"", None, 0)
                ] * len(found.keys)
                assert [(each.key, each.value, each.epoch) for each in decoded] == [
                    *zip(found.keys, found.values, found.epochs, strict=True)
                ]


@pytest.mark.parametrize("revision", [1, 77, (1 << 48) - 2, (1 << 60) - 1, (1 << 64) - 300])
@pytest.mark.parametrize("count", [1, 2, 250, 300])
def test_results_by_columns_and_one_by_one_have_the_same_bytes(revision: int, count: int) -> None:
    one_by_one = b"".join([pipe.encode_result(place, Status.OK, revision + place) for place in range(count)])
    assert puts.encode_results(count, revision) == one_by_one
    assert puts.decode_results(one_by_one, count) == range(revision, revision + count)
    assert [each.revision for each in payload.decode_batch_result(one_by_one)] == [*range(revision, revision + count)]


@pytest.mark.parametrize(
    "second",
    [
        pipe.encode_result(1, Status.OK, 9),
        pipe.encode_result(2, Status.OK, 8),
        pipe.encode_result(1, Status.WRONG_SHARD, 8),
        pipe.encode_result(1, Status.OK, 8, b"t"),
        pipe.encode_result(1, Status.OK, 8, replayed=True),
        pipe.encode_result(1, Status.OK, 8)[:-1],
        b"",
    ],
)
def test_results_of_which_one_says_more_are_left(second: bytes) -> None:
    first = pipe.encode_result(0, Status.OK, 7)
    assert puts.decode_results(first + second, 2) is None
    assert puts.decode_results(b"", 0) is None


@pytest.mark.parametrize("count", [2, 250, 300])
def test_results_with_revisions_beyond_64_bits_are_left_too(count: int) -> None:
    last = (1 << 64) - 1
    blob = pipe.encode_result(0, Status.OK, last) + b"".join(
        pipe.encode_result(place, Status.OK, place - 1) for place in range(1, count)
    )
    assert puts.decode_results(blob, count) is None
    assert puts.decode_results(blob[: pipe.RESULT.size], 1) == range(last, last + 1)
