"""Payloads of increments, transactions and batches: golden bytes, round trips, and what a client may send."""

from __future__ import annotations

import random

import pytest

from doug_wire import command, payload
from doug_wire.command import KEEP, CommandError, Opcode, Token
from doug_wire.payload import Compare, CompareKind, Increment, Txn, TxnResult
from doug_wire.pipe import PipeError, ResultRecord, Status
from doug_wire.validity import keys_of, validate

PUT = command.encode(Opcode.PUT, b"k", b"", b"v")
GET = command.encode(Opcode.GET, b"l")
COMPARES = (
    Compare(CompareKind.EXISTS, b"a"),
    Compare(CompareKind.ABSENT, b"b"),
    Compare(CompareKind.REVISION, b"c", 7),
    Compare(CompareKind.VALUE, b"d", 0, b"value"),
)
TXN = Txn(COMPARES, (PUT, GET), (GET,))


def test_golden_bytes() -> None:
    assert payload.encode_increment(-2, 258).hex() == "feffffffffffffff0201000000000000"
    assert payload.encode_batch((b"one", b"")).hex() == "02000000" + "030000006f6e65" + "00000000"
    txn = Txn((COMPARES[2], COMPARES[3]), (b"s",), ())
    assert payload.encode_txn(txn).hex() == (
        "0200010000000307000000000000000100" + "00000000" + "63"
        "0400000000000000000100" + "05000000" + "64" + "76616c7565"
        "0100000073"
    )
    assert payload.encode_txn_result(TxnResult(True, ())).hex() == "01"


def test_kinds_of_compares_are_frozen() -> None:
    assert [(kind.name, kind.value) for kind in CompareKind] == [
        ("EXISTS", 1),
        ("ABSENT", 2),
        ("REVISION", 3),
        ("VALUE", 4),
    ]


def test_round_trips() -> None:
    for by, initial in ((0, 0), (payload.INT64_MAX, payload.INT64_MIN)):
        assert payload.decode_increment(payload.encode_increment(by, initial)) == Increment(by, initial)
    for operations in ((), (PUT, GET, b"")):
        assert payload.decode_batch(payload.encode_batch(operations)) == operations
    for txn in (Txn((), (), ()), TXN):
        assert payload.decode_txn(payload.encode_txn(txn)) == txn
    first = ResultRecord(0, Status.OK, 7, b"t", b"v", 5, b"br", True)
    results = (first, ResultRecord(1, Status.NOT_FOUND, 0, b"", b""))
    for succeeded in (True, False):
        result = TxnResult(succeeded, results)
        assert payload.decode_txn_result(payload.encode_txn_result(result)) == result
    assert payload.decode_batch_result(payload.encode_results(results)) == results


def test_no_other_bytes_raise_anything_else() -> None:
    seed = 20_261
    print("seed", seed)
    rng = random.Random(seed)
    whole = [payload.encode_txn(TXN), payload.encode_batch((PUT, GET)), payload.encode_increment(1)]
    for _ in range(3000):
        data = bytearray(rng.choice(whole))
        for _ in range(rng.randrange(4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        del data[rng.randrange(len(data)) :]
        for decode in (payload.decode_txn, payload.decode_batch, payload.decode_increment):
            try:
                decode(bytes(data))
            except CommandError:
                continue
    with pytest.raises(PipeError):
        payload.decode_txn_result(b"")
    with pytest.raises(PipeError):
        payload.decode_txn_result(b"\2")
    for malformed in (payload.encode_txn(TXN) + b"x", payload.encode_txn(Txn((), (), ()))[:-1]):
        with pytest.raises(CommandError):
            payload.decode_txn(malformed)
    with pytest.raises(CommandError):
        payload.decode_batch(payload.encode_batch(()) + b"x")


def batch(*operations: bytes, key: bytes = b"k", **options: object) -> bytes:
    return command.encode(Opcode.BATCH, key, value=payload.encode_batch(operations), **options)  # type: ignore[arg-type]


def txn(compares: tuple[Compare, ...] = (), *operations: bytes, key: bytes = b"k") -> bytes:
    return command.encode(Opcode.TXN, key, value=payload.encode_txn(Txn(compares, operations, ())))


TOKEN = Token(b"\0token", 1)
ONE = payload.encode_increment(1)


@pytest.mark.parametrize(
    "data",
    [
        command.encode(Opcode.PUT, b"k", b"t", b"v", 1, command.EXISTS, KEEP, TOKEN, b"gzip"),
        command.encode(Opcode.DELETE, b"k", condition=command.revision(4), token=TOKEN),
        command.encode(Opcode.INCREMENT, b"k", b"text/plain", ONE, ttl=5, condition=command.EXISTS),
        command.encode(Opcode.INCREMENT, b"k", value=ONE, ttl=KEEP),
        command.encode(Opcode.TOUCH, b"k", ttl=1),
        batch(PUT, GET, command.encode(Opcode.PUT, b"x", token=TOKEN)),
        batch(PUT, token=TOKEN),
        txn(COMPARES, PUT, GET),
        txn(COMPARES, key=b"a"),
    ],
)
def test_what_clients_may_send(data: bytes) -> None:
    decoded = validate(data)
    assert decoded == command.decode(data)
    assert decoded.key in keys_of(decoded)


def test_the_keys_of_a_command() -> None:
    assert keys_of(validate(PUT)) == [b"k"]
    assert keys_of(validate(batch(PUT, GET))) == [b"k", b"l"]
    assert keys_of(validate(txn(COMPARES, PUT, GET))) == [b"a", b"b", b"c", b"d", b"k", b"l"]


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (GET, "not for clients"),
        (command.encode(Opcode.EXPIRE, b"k"), "not for clients"),
        (command.encode(Opcode.SET_LIMITS, b"k"), "not for clients"),
        (command.encode(Opcode.DELETE, b"k", b"", b"v"), "no value"),
        (command.encode(Opcode.DELETE, b"k", ttl=5), "no expiry"),
        (command.encode(Opcode.TOUCH, b"k"), "when the key expires"),
        (command.encode(Opcode.TOUCH, b"k", ttl=KEEP), "when the key expires"),
        (command.encode(Opcode.TOUCH, b"k", b"", b"v", ttl=5), "no value"),
        (command.encode(Opcode.INCREMENT, b"k", b"", b"1"), "increment of 1 bytes"),
        (command.encode(Opcode.INCREMENT, b"k", value=ONE, content_encoding=b"br"), "no content encoding"),
        (command.encode(Opcode.PUT, b"k", content_encoding=b"a\nb"), "content encoding is not printable"),
        (command.encode(Opcode.BATCH, b"k"), "shorter than its header"),
        (batch(), "1 to 10000 operations"),
        (batch(GET), "key of a batch"),
        (batch(*[GET] * 1001, PUT), "at most 1000"),
        (batch(PUT, batch(PUT)), "not for a transaction or a batch"),
        (batch(PUT, condition=command.EXISTS), "no condition"),
        (batch(PUT, ttl=5), "no condition"),
        (batch(PUT, command.encode(Opcode.GET, b"k", condition=command.EXISTS)), "neither condition nor token"),
        (batch(PUT, command.encode(Opcode.PUT, b"")), "key is empty"),
        (txn((), GET), "key of a transaction"),
        (txn((Compare(CompareKind.EXISTS, b""),), PUT), "key is empty"),
        (txn((), *[PUT] * 129), "at most 128 success"),
        (txn((COMPARES[0],) * 129, PUT), "at most 128 compares"),
        (txn((), command.encode(Opcode.PUT, b"k", token=TOKEN)), "token of its own"),
        (txn((), txn((), PUT)), "not for a transaction or a batch"),
        (batch(*[command.encode(Opcode.PUT, b"k", value=bytes(1 << 20))] * 2), "the limit is 2097152"),
    ],
)
def test_what_clients_may_not_send(data: bytes, what: str) -> None:
    command.decode(data)
    with pytest.raises(CommandError, match=what):
        validate(data)


def test_an_operation_of_a_batch_may_be_sent_there_exactly_when_it_may_be_sent_alone() -> None:
    """The short way of plain puts must let nothing through, and refuse nothing, that the whole check does not."""
    seed = 20_262
    print("seed", seed)
    rng = random.Random(seed)
    puts = [
        command.encode(Opcode.PUT, b"k", b"text/plain"[: rng.choice((0, 10))], bytes(rng.randrange(40)), 3),
        PUT,
        command.encode(Opcode.PUT, b"k" * 1024),
        command.encode(Opcode.PUT, b"k" * 1025),
        command.encode(Opcode.PUT, b"k", b"", bytes(1 << 20)),
        command.encode(Opcode.PUT, b"k", b"", bytes((1 << 20) + 1)),
        command.encode(Opcode.PUT, b"k", b"a\n"),
        command.encode(Opcode.DELETE, b"k"),
    ]
    for _ in range(3000):
        data = bytearray(rng.choice(puts))
        for _ in range(rng.randrange(3)):
            data[rng.randrange(min(24, len(data)))] = rng.choice((0, 1, 2, rng.randrange(256)))
        if rng.random() < 0.2:
            del data[rng.randrange(len(data)) :]
        alone = bytes(data)
        known = command.encode(Opcode.PUT, b"known")
        assert _is_valid(alone) == _is_valid(batch(known, alone, key=b"known")), alone[:40]


def _is_valid(data: bytes) -> bool:
    try:
        decoded = validate(data)
    except CommandError:
        return False
    return decoded.opcode not in (Opcode.TXN, Opcode.BATCH) or decoded.key == b"known"
