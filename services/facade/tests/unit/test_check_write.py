"""Whoever sends a batch needs the right to each of its operations, by columns or one by one."""

from __future__ import annotations

import pytest

from doug_wire import command
from doug_wire.auth.grants import Grant, Rights, Verb
from doug_wire.command import Opcode
from doug_wire.payload import BATCH_PART, encode_batch
from doug_wire.puts import encode_puts
from facade.client.access import Access, Caller, check_write
from facade.errors import ForbiddenError

CALLER = Caller(Access("token:app", Rights((Grant(Verb.WRITE, b"app/"),))))
OTHERS = {
    "put": command.encode(Opcode.PUT, b"other", b"", b"v"),
    "typed put": command.encode(Opcode.PUT, b"other", b"text/plain", b"v"),
    "read": command.encode(Opcode.GET, b"app/0"),
    "delete": command.encode(Opcode.DELETE, b"other"),
}


@pytest.mark.parametrize("place", [0, 1, BATCH_PART - 1])
@pytest.mark.parametrize("other", OTHERS)
def test_one_operation_without_the_right_is_enough(other: str, place: int) -> None:
    operations = [command.encode(Opcode.PUT, b"app/%d" % number, b"", b"v") for number in range(BATCH_PART)]
    check_write(CALLER, Opcode.BATCH, b"app/0", encode_batch(operations))
    operations[place] = OTHERS[other]
    with pytest.raises(ForbiddenError):
        check_write(CALLER, Opcode.BATCH, b"app/0", encode_batch(operations))


@pytest.mark.parametrize("place", range(3))
def test_puts_by_columns_are_each_looked_at(place: int) -> None:
    keys, values = [b"app/a", b"app/bc", b"app/d"], [b"", b"v", b"value"]
    check_write(CALLER, Opcode.BATCH, keys[0], encode_puts(keys, values))
    keys[place] = b"apple"
    with pytest.raises(ForbiddenError):
        check_write(CALLER, Opcode.BATCH, keys[0], encode_puts(keys, values))
