"""The bytes of the log. If one of these fails, logs that exist can no longer be read: see docs/formats.md."""

from __future__ import annotations

from pathlib import Path

import pytest
from crc32c import crc32c

from raft_node import entry
from raft_node.storage import record
from raft_node.storage.wal import segment as wal_segment
from raft_node.storage.wal.log import Wal, WalHardState, WalOptions
from raft_node.storage.wal.segment import SegmentFormatError, SegmentHeader
from raft_testing.files import MemoryFileSystem

ENTRY_HEX = "ce6210634cbb719a05000000020100000200000000000000030000000000000000401e18240a0600000000000000000068656c6c6f"
HEADER_HEX = (
    "446f756757414c0001000900000000000700000000000000001000000000000009000000000000000100000000000000"
    "0300000000000000010000000000000003000000000000000100000000000000887766554433221173686172642d302d"
    "31"
)
HEADER_CRC_HEX = "50b1442c"
COMPACTED_HEADER_HEX = (
    "446f756757414c0001000900050000000700000000000000001000000000000009000000000000000100000000000000"
    "0300000000000000020000000000000003000000000000000100000000000000887766554433221173686172642d302d"
    "31"
)
COMPACTED_HEADER_CRC_HEX = "22a63a54"
FRAME_HEX = (
    "d60700005800000007000000000000000900000000000000bd361196e838f18603000000000000000100000000000000"
    "05000000000000000100620200000000000000ce6210634cbb719a050000000201000002000000000000000300000000"
    "00000000401e18240a0600000000000000000068656c6c6fa5a5a5a5a5a5a5a5"
)
ENTRY = entry.encode(2, 3, entry.EntryKind.COMMAND, 1_700_000_000_000_000, b"hello")
HEADER = SegmentHeader(7, 4096, 9, 1, 3, 1, WalHardState(3, "shard-0-1", 0x1122334455667788, 1))


def test_entry_golden_bytes() -> None:
    assert ENTRY.data.hex() == ENTRY_HEX


def test_segment_header_golden_bytes() -> None:
    data = wal_segment.encode_header(HEADER)
    used = bytes.fromhex(HEADER_HEX)
    assert len(data) == wal_segment.HEADER_BYTES == 512
    assert data == used + bytes(508 - len(used)) + bytes.fromhex(HEADER_CRC_HEX)
    assert wal_segment.decode_header(data) == HEADER


def test_golden_bytes_of_a_segment_header_after_a_compaction() -> None:
    header = HEADER._replace(first_index=2, first_segment=5)
    data = wal_segment.encode_header(header)
    used = bytes.fromhex(COMPACTED_HEADER_HEX)
    assert data == used + bytes(508 - len(used)) + bytes.fromhex(COMPACTED_HEADER_CRC_HEX)
    assert wal_segment.decode_header(data) == header


def test_a_header_that_begins_the_log_behind_itself_is_refused() -> None:
    body = bytearray(wal_segment.encode_header(HEADER)[:508])
    body[12] = 8
    with pytest.raises(SegmentFormatError, match="begins with segment 8"):
        wal_segment.decode_header(bytes(body) + crc32c(bytes(body)).to_bytes(4, "little"))


def test_frame_golden_bytes() -> None:
    flags, payload, start = wal_segment.encode_payload(WalHardState(3, "b", 5, 1), 2, [ENTRY])
    data = record.encode(record.framing_of(7), 9, flags, payload)
    assert data.hex() == FRAME_HEX
    frame = record.decode_header(data, 0, record.framing_of(7))
    assert frame == record.Frame(7, 9, sum(map(len, payload)), int.from_bytes(data[24:28], "little"), 0)
    assert data[record.HEADER_BYTES + start :].startswith(ENTRY.data)
    assert len(data) == frame.frame_bytes


def test_a_log_is_headers_and_frames_and_zeros() -> None:
    fs = MemoryFileSystem()
    wal = Wal.open(fs, "/wal", WalOptions(segment_bytes=4096))
    first = entry.encode(1, 1, entry.EntryKind.NOOP, 5)
    wal.publish(wal.append(None, None, [first]))
    header = SegmentHeader(1, 4096, 1, 0, 0, 1, WalHardState(0, "", 0, 0))
    frame = record.encode(record.framing_of(1), 1, wal_segment.FLAG_ENTRIES, [first.data])
    assert fs.files() == {
        "/wal/00000000000000000001.wal": (wal_segment.encode_header(header) + frame).ljust(4096, b"\0")
    }


@pytest.mark.parametrize("size", range(20))
def test_a_frame_ends_on_a_multiple_of_eight_with_the_padding_byte(size: int) -> None:
    framing = record.framing_of(1)
    data = record.encode(framing, 1, 4, [bytes(size)])
    assert len(data) % 8 == 0
    assert data[32 + size :] == b"\xa5" * (8 - size % 8)
    frame = record.decode_header(data, 0, framing)
    assert frame is not None
    assert record.is_whole(data, 0, frame, framing)
    assert not record.is_whole(data[:-1], 0, frame, framing)


def test_checksums_belong_to_one_file() -> None:
    data = record.encode(record.framing_of(1), 1, 4, [b"x"])
    assert record.decode_header(data, 0, record.framing_of(2)) is None
    disguised = data[:8] + (2).to_bytes(8, "little") + data[16:]
    assert record.decode_header(disguised, 0, record.framing_of(2)) is None


def test_find_skips_what_is_not_a_later_frame() -> None:
    framing = record.framing_of(3)
    first, second = (record.encode(framing, sequence, 4, [b"abc"]) for sequence in (1, 2))
    blob = b"\0" * 8 + first + b"\3" + b"\0" * 15 + second + second[:20]
    assert record.find(blob, 0, framing, 1) == 8
    assert record.find(blob, 9, framing, 1) == 8 + len(first) + 16
    assert record.find(blob, 0, framing, 3) is None
    assert record.find(b"\0" + second, 0, framing, 1) is None


def test_names() -> None:
    assert wal_segment.name_of(12) == "00000000000000000012.wal"
    assert wal_segment.id_of("00000000000000000012.wal") == 12
    for name in ("12.wal", "00000000000000000012", "0000000000000000001x.wal", "00000000000000000012.wal.wal", ".wal"):
        assert wal_segment.id_of(name) is None


def test_a_header_of_another_version_is_named() -> None:
    body = bytearray(wal_segment.encode_header(HEADER)[:508])
    body[8] = 9
    data = bytes(body) + crc32c(bytes(body)).to_bytes(4, "little")
    with pytest.raises(SegmentFormatError, match="format"):
        wal_segment.decode_header(data)


def test_a_long_name_fits_the_header() -> None:
    header = HEADER._replace(hard_state=WalHardState(1, "n" * 255, 2, 3))
    assert wal_segment.decode_header(wal_segment.encode_header(header)) == header


def test_the_document_shows_these_bytes() -> None:
    document = Path(__file__).parents[4] / "docs" / "formats.md"
    digits = "".join(document.read_text(encoding="utf-8").split())
    for golden in (ENTRY_HEX, HEADER_HEX, HEADER_CRC_HEX, COMPACTED_HEADER_HEX, COMPACTED_HEADER_CRC_HEX, FRAME_HEX):
        assert golden in digits
