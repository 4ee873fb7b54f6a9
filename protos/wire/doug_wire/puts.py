"""The plain puts of a batch, by columns: for whoever handles hundreds of them at a time.

Nearly all operations of large batches are puts without options. What would be a loop in Python for each of them is a
few calls for all of them here, fewest where all have keys and values of one size, as most programs write them. The
bytes are those of ``doug_wire.payload`` and ``doug_wire.pipe``; what is anything else is left to these modules, which
say what is wrong with it. This module knows nothing of what puts do.

Invariants:
1. What is encoded here has the bytes that ``payload.encode_batch`` and ``pipe.encode_result`` give it.
2. What is decoded here is what ``payload.decode_batch`` and ``pipe.decode_results`` would give; all else is None.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import chain, repeat
from typing import NamedTuple

from doug_wire import command as commands
from doug_wire import pipe
from doug_wire.command import Opcode
from doug_wire.payload import BATCH_PART

_COUNT = struct.Struct("<I")
_HEAD = struct.Struct("<I" + commands.HEADER.format.removeprefix("<"))
"""What stands before the key of each put: the bytes of the operation, and the header of its command."""
_COMMAND_BYTES = commands.HEADER.size
_PUT = int(Opcode.PUT)
_SIZES = 32
"""For how many combinations of sizes layouts are kept; each of them has some kilobytes."""


class Puts(NamedTuple):
    """Puts without options or content types.

    Attributes:
        keys: The keys.
        values: The values.
        epochs: The epochs of the keys' slots, as the sender knows them; 0 for no check.
        value_bytes: The bytes that each value has; -1 if they differ.
    """

    keys: Sequence[bytes]
    values: Sequence[bytes]
    epochs: Sequence[int]
    value_bytes: int


def encode_puts(keys: Sequence[bytes], values: Sequence[bytes]) -> bytes:
    """The value of a BATCH of puts, at least one, without an epoch."""
    key_sizes, value_sizes = list(map(len, keys)), list(map(len, values))
    heads: Iterable[bytes]
    if _same(key_sizes) and _same(value_sizes):
        heads = repeat(_head(key_sizes[0], value_sizes[0]), len(keys))
    else:
        heads = map(_head, key_sizes, value_sizes)
    return b"".join(chain((_COUNT.pack(len(keys)),), chain.from_iterable(zip(heads, keys, values, strict=True))))


def decode_puts(data: bytes, start: int = 0) -> Puts | None:
    """The puts of the value of a BATCH that fills ``data`` from ``start`` to its end; None if it is not only those."""
    first = start + _COUNT.size
    if first + _HEAD.size > len(data):
        return None
    (count,) = _COUNT.unpack_from(data, start)
    size, opcode, flags, key_bytes, type_bytes, value_bytes, epoch = _HEAD.unpack_from(data, first)
    if opcode != _PUT or flags or type_bytes or size != _COMMAND_BYTES + key_bytes + value_bytes:
        return None
    if count <= BATCH_PART and first + count * (_COUNT.size + size) == len(data):
        flat = _layout(key_bytes, value_bytes, count).unpack_from(data, first)
        if flat[::3].count(flat[0]) == count:
            return Puts(flat[1::3], flat[2::3], (epoch,) * count, value_bytes)
    return _decode_each(data, first, count)


def _decode_each(data: bytes, position: int, count: int) -> Puts | None:
    """Puts of several sizes."""
    unpack, head_bytes, command_bytes, put = _HEAD.unpack_from, _HEAD.size, _COMMAND_BYTES, _PUT
    keys: list[bytes] = []
    values: list[bytes] = []
    epochs: list[int] = []
    add_key, add_value, add_epoch = keys.append, values.append, epochs.append
    try:
        for _ in range(count):
            size, opcode, flags, key_bytes, type_bytes, value_bytes, epoch = unpack(data, position)
            if opcode != put or flags or type_bytes or size != command_bytes + key_bytes + value_bytes:
                return None
            key_at = position + head_bytes
            value_at = key_at + key_bytes
            position = value_at + value_bytes
            add_key(data[key_at:value_at])
            add_value(data[value_at:position])
            add_epoch(epoch)
    except struct.error:
        return None
    # Behind a put that is cut off there is nothing to be unpacked, so this finds it at the last one.
    return Puts(keys, values, epochs, -1) if position == len(data) else None


def encode_results(count: int, revision: int) -> bytes:
    """The results of puts that succeeded, of which the first one has this revision, and each the next one."""
    if count > BATCH_PART or revision + count > 1 << 64:
        return b"".join([pipe.encode_result(place, 0, revision + place) for place in range(count)])
    # All of them are one number: what a revision adds to it is added to all of them at once.
    first, step = _results_from_zero(count)
    return (first + revision * step).to_bytes(pipe.RESULT.size * count, "little")


def decode_results(blob: bytes, count: int) -> range | None:
    """The revisions of so many puts, if all have succeeded and these follow each other; None otherwise."""
    if len(blob) != pipe.RESULT.size * count or not count:
        return None
    revision = pipe.RESULT.unpack_from(blob)[3]
    if revision + count > 1 << 64:
        return None
    return range(revision, revision + count) if encode_results(count, revision) == blob else None


@lru_cache(maxsize=_SIZES)
def _head(key_bytes: int, value_bytes: int) -> bytes:
    return _HEAD.pack(_COMMAND_BYTES + key_bytes + value_bytes, _PUT, 0, key_bytes, 0, value_bytes, 0)


@lru_cache(maxsize=BATCH_PART)
def _results_from_zero(count: int) -> tuple[int, int]:
    """As numbers, the results of so many puts from revision 0 on, and the difference that the next revision makes."""
    first = b"".join([pipe.RESULT.pack(place, 0, 0, place, 0, 0) for place in range(count)])
    return int.from_bytes(first, "little"), int.from_bytes(pipe.RESULT.pack(0, 0, 0, 1, 0, 0) * count, "little")


@lru_cache(maxsize=_SIZES)
def _layout(key_bytes: int, value_bytes: int, count: int) -> struct.Struct:
    return struct.Struct(f"{_HEAD.size}s{key_bytes}s{value_bytes}s" * count)


def _same(sizes: list[int]) -> bool:
    return sizes.count(sizes[0]) == len(sizes)
