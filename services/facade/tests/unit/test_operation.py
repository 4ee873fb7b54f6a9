"""Records and their epochs: facade.client.operation."""

from __future__ import annotations

import asyncio

from doug_wire import command, pipe
from doug_wire.command import Opcode
from facade.client.modes import Kind
from facade.client.operation import Load, Operation


def test_a_write_gets_a_new_epoch_and_a_new_checksum() -> None:
    loop = asyncio.new_event_loop()
    options = (command.EXISTS, 1500, command.Token(b"\0token", 5), b"gzip")
    encoded = command.encode(Opcode.PUT, b"key", b"text/plain", b"value", 3, *options)
    record = pipe.encode_write(7, command.checksum(encoded), encoded)
    operation = Operation(7, Kind.WRITE, 0, Load(), b"key", record, 1.0, loop.create_future(), False)
    operation.set_epoch(9)
    (written,) = pipe.decode_writes(operation.record)
    assert written.id == 7
    assert command.checksum(written.command) == written.crc
    assert command.decode(written.command) == (Opcode.PUT, b"key", b"text/plain", b"value", 9, *options)
    loop.close()


def test_a_read_gets_a_new_epoch() -> None:
    loop = asyncio.new_event_loop()
    record = pipe.encode_read(7, 3, b"key", 0, b"t", 20)
    operation = Operation(7, Kind.READ_FRESH, 0, Load(), b"key", record, 1.0, loop.create_future(), True)
    operation.set_epoch(9)
    assert list(pipe.decode_reads(operation.record)) == [(7, 9, b"key", 0, b"t", 20)]
    assert operation.kind is Kind.READ_FRESH
    loop.close()


def test_an_index_of_one_shard_means_nothing_to_another() -> None:
    loop = asyncio.new_event_loop()
    record = pipe.encode_read(7, 3, b"key", 5)
    operation = Operation(7, Kind.READ_FRESH, 0, Load(), b"key", record, 1.0, loop.create_future(), True)
    operation.set_epoch(9)
    assert list(pipe.decode_reads(operation.record)) == [(7, 9, b"key", 0, b"", 0)]
    assert operation.kind is Kind.READ_LINEARIZABLE, "which is never older than what the session knows"
    loop.close()
