"""Entries: what is encoded is decoded, and no damage passes."""

from __future__ import annotations

from itertools import accumulate

import pytest
from crc32c import crc32c

from raft_node import entry
from raft_node.entry import EntryError, EntryKind

COMMAND = b"some command"


def test_round_trip() -> None:
    made = entry.encode(7, 3, EntryKind.COMMAND, 1_234_567, COMMAND)
    assert made[:4] == (7, 3, EntryKind.COMMAND, 1_234_567)
    assert made.command == COMMAND
    assert entry.decode(made.data) == made
    assert entry.decode(b"xyz" + made.data + b"tail", 3) == made


def test_the_largest_numbers_fit() -> None:
    top = (1 << 64) - 1
    made = entry.encode(top, top, EntryKind.CLOCK, top)
    assert entry.decode(made.data) == made
    assert made.command == b""


def test_a_checksum_that_came_along_is_taken_over_and_not_computed() -> None:
    assert entry.encode(1, 1, 2, 3, COMMAND, crc32c(COMMAND)) == entry.encode(1, 1, 2, 3, COMMAND)
    wrong = entry.encode(1, 1, 2, 3, COMMAND, crc32c(COMMAND) ^ 1)
    with pytest.raises(EntryError, match="command's checksum"):
        entry.decode(wrong.data)


def test_every_flipped_bit_is_found() -> None:
    data = entry.encode(7, 3, EntryKind.COMMAND, 1_234_567, COMMAND).data
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(EntryError):
            entry.decode(bytes(damaged))


def test_every_cut_is_found() -> None:
    data = entry.encode(7, 3, EntryKind.COMMAND, 1_234_567, COMMAND).data
    for cut in range(len(data)):
        with pytest.raises(EntryError):
            entry.decode(data[:cut])
        with pytest.raises(EntryError):
            list(entry.scan(data, 0, cut) if cut else entry.scan(data, 1, len(data)))


def test_unknown_formats_are_refused() -> None:
    # The format byte, the two zero bytes behind it and the reserved field, each with a checksum that fits.
    data = entry.encode(7, 3, EntryKind.COMMAND, 1_234_567, COMMAND).data
    for position in (13, 14, 15, 40, 47):
        body = bytearray(data[4:48])
        body[position - 4] ^= 2
        forged = crc32c(bytes(body)).to_bytes(4, "little") + bytes(body) + data[48:]
        with pytest.raises(EntryError, match="format"):
            entry.decode(forged)
        with pytest.raises(EntryError, match="format"):
            list(entry.scan(forged, 0, len(forged)))


def test_blobs() -> None:
    made = [entry.encode(index, 1, EntryKind.COMMAND, index, b"c" * index) for index in range(1, 20)]
    blob = entry.join(made)
    assert entry.decode_all(blob) == made
    assert entry.decode_all(b"") == []
    walked = list(entry.scan(b"ab" + blob, 2, 2 + len(blob)))
    assert [(index, term) for index, term, _, _, _ in walked] == [(one.index, 1) for one in made]
    assert [(b"ab" + blob)[start:end] for _, _, _, start, end in walked] == [one.data for one in made]
    with pytest.raises(EntryError) as raised:
        entry.decode_all(blob + b"\0")
    assert raised.value.position == len(blob)


def test_a_run_is_cut_by_count_and_by_size() -> None:
    made = [entry.encode(index, 1, EntryKind.COMMAND, index, b"c" * index) for index in range(1, 20)]
    blob = b"ab" + entry.join(made)
    sizes = list(accumulate(len(one.data) for one in made))
    for count in range(1, 20):
        assert entry.decode_run(blob, 2, count, 1 << 20) == (made[:count], sizes[count - 1])
        # The entry with which it reaches the size is still of it; one there is always.
        assert entry.decode_run(blob, 2, 19, sizes[count - 1]) == (made[:count], sizes[count - 1])
        assert entry.decode_run(blob, 2, 19, sizes[count - 1] - 1) == (made[:count], sizes[count - 1])
    assert entry.decode_run(blob, 2, 5, 0) == (made[:1], sizes[0])
    assert entry.decode_run(blob, 2, 0, 100) == ([], 0)
    assert entry.decode_run(blob, 2, None, 1 << 20) == (made, sizes[-1])


def test_a_run_finds_every_damage_that_decoding_one_finds() -> None:
    made = [entry.encode(index, 1, EntryKind.COMMAND, index, COMMAND) for index in range(1, 4)]
    blob = entry.join(made)
    size = len(made[0].data)
    for bit in range(8 * size, 16 * size):
        damaged = bytearray(blob)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(EntryError) as alone:
            entry.decode(bytes(damaged), size)
        for count in (2, 3, None):
            with pytest.raises(EntryError) as raised:
                entry.decode_run(bytes(damaged), 0, count, 1 << 20)
            assert (raised.value.position, raised.value.what) == (size, alone.value.what)
        assert entry.decode_run(bytes(damaged), 0, 1, 1 << 20).entries == made[:1]
    for cut in range(len(blob)):
        with pytest.raises(EntryError):
            entry.decode_run(blob[:cut], 0, 3, 1 << 20)
        if cut % size:
            with pytest.raises(EntryError):
                entry.decode_run(blob[:cut], 0, None, 1 << 20)


def test_scan_checks_headers_and_leaves_commands_alone() -> None:
    data = bytearray(entry.encode(1, 1, EntryKind.COMMAND, 1, COMMAND).data)
    data[-1] ^= 1
    assert list(entry.scan(bytes(data), 0, len(data))) == [(1, 1, 2, 0, len(data))]
    data[20] ^= 1
    with pytest.raises(EntryError, match="header's checksum"):
        list(entry.scan(bytes(data), 0, len(data)))


def test_kinds_are_frozen() -> None:
    assert [(kind.name, kind.value) for kind in EntryKind] == [
        ("NOOP", 1),
        ("COMMAND", 2),
        ("CONFIGURATION", 3),
        ("CLOCK", 4),
        ("STATE_HASH", 5),
    ]
