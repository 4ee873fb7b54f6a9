"""Frames: how a log file holds one write after another, so that a torn one is told from a damaged one.

A frame is 32 bytes of header, a payload, and 1 to 8 bytes of padding up to a multiple of 8 (docs/formats.md, WAL
frame). Files are filled with zeros before they are used. This module must not know what payloads mean, nor which file
they are in.

Invariants, on which ``judge_tail`` rests:

1. A frame begins with ``MARK`` and ends with ``PADDING_BYTE``; neither is zero, nor one flipped bit away from it.
2. Both checksums are seeded with the file's id, so that a frame of another file never passes.
3. A frame is written and synced before the next one begins, so at most the last frame of a file can be torn. Torn means
   that a part of it still holds the zeros from before: from some byte on to its end, or sectors of it.
4. A header says how many whole sectors of its frame were zero when it was written, so that zeros in a value are not
   taken for sectors that were lost.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from crc32c import crc32c

# DO NOT CHANGE: this is in every log. docs/formats.md and a golden-bytes test fix it.
_BODY = struct.Struct("<BBHIQQI")
_HEADER = struct.Struct("<BBHIQQII")
_CRC = struct.Struct("<I")
_ID = struct.Struct("<Q")
_KNOWN = struct.Struct("<QQ")
HEADER_BYTES = 32
MARK = 0xD6
PADDING_BYTE = 0xA5
ALIGNMENT = 8
_PADDINGS = [bytes([PADDING_BYTE]) * (ALIGNMENT - used) for used in range(ALIGNMENT)]

SECTOR_BYTES = 512
"""The smallest part that a disk writes as one; a file system may lose any sector of a write."""

PAYLOAD_BYTES_MAX = (1 << 32) - 1
ZERO_SECTORS_MAX = (1 << 16) - 1
SEQUENCE_MAX = (1 << 64) - 2
"""The greatest sequence of a frame: no file counts so far, and behind a greater one there would be no number."""

_ZERO_SECTOR = bytes(SECTOR_BYTES)
_ZEROS = bytes(64 << 10)


class Frame(NamedTuple):
    """The header of a frame, checked."""

    flags: int
    sequence: int
    payload_bytes: int
    payload_crc: int
    zero_sectors: int

    @property
    def frame_bytes(self) -> int:
        """The size of the frame with header and padding."""
        return frame_bytes(self.payload_bytes)


class Framing(NamedTuple):
    """The numbers that tell the frames of one file from those of every other."""

    file_id: int
    seed: int
    """The number that the checksums start from."""


def framing_of(file_id: int) -> Framing:
    """The framing of a file."""
    return Framing(file_id, crc32c(_ID.pack(file_id)))


def frame_bytes(payload_bytes: int) -> int:
    """The size of a frame with header and padding."""
    return HEADER_BYTES + (payload_bytes // ALIGNMENT + 1) * ALIGNMENT


def encode(framing: Framing, sequence: int, flags: int, payload: Sequence[bytes], position: int = 0) -> bytes:
    """Builds a frame out of the parts of its payload, to be written at a position of its file."""
    file_id, seed = framing
    size = sum(map(len, payload))
    assert size <= PAYLOAD_BYTES_MAX
    body = b"".join([*payload, _PADDINGS[size % ALIGNMENT]])
    zeros = 0
    # Most frames have no such run of zeros anywhere, which costs a microsecond to find out.
    if body.find(_ZERO_SECTOR) >= 0:
        zeros = min(_zero_sectors(body, 0, len(body), position + HEADER_BYTES), ZERO_SECTORS_MAX)
    header = _BODY.pack(MARK, flags, zeros, size, file_id, sequence, crc32c(body, seed))
    return b"".join((header, _CRC.pack(crc32c(header, seed)), body))


def decode_header(data: bytes, position: int, framing: Framing) -> Frame | None:
    """The frame header at ``position``; None if there is no valid one."""
    end = position + HEADER_BYTES
    if end > len(data):
        return None
    mark, flags, zero_sectors, size, frame_file_id, sequence, payload_crc, header_crc = _HEADER.unpack_from(
        data, position
    )
    if mark != MARK or frame_file_id != framing.file_id:
        return None
    if crc32c(data[position : end - 4], framing.seed) != header_crc or sequence > SEQUENCE_MAX:
        return None
    return Frame(flags, sequence, size, payload_crc, zero_sectors)


def _zero_sectors(data: bytes, start: int, end: int, position: int) -> int:
    """How many whole sectors of a file are zero between two offsets of ``data``, of which ``start`` is ``position``."""
    sector = start + -position % SECTOR_BYTES
    count = 0
    while sector + SECTOR_BYTES <= end:
        count += data[sector : sector + SECTOR_BYTES] == _ZERO_SECTOR
        sector += SECTOR_BYTES
    return count


def is_whole(data: bytes, position: int, frame: Frame, framing: Framing) -> bool:
    """Whether the payload and the padding behind a header fit its checksum."""
    end = position + frame.frame_bytes
    if end > len(data):
        return False
    return crc32c(memoryview(data)[position + HEADER_BYTES : end], framing.seed) == frame.payload_crc


def find(data: bytes, position: int, framing: Framing, sequence: int) -> int | None:
    """The offset of the next valid frame of this file at or behind ``position``; None if there is none.

    Args:
        data: The whole file.
        position: The offset at which to begin.
        framing: The framing of the file.
        sequence: The smallest sequence of a frame that counts.
    """
    position = -(-position // ALIGNMENT) * ALIGNMENT
    needle = _ID.pack(framing.file_id)
    id_offset = 8
    while (hit := data.find(needle, position + id_offset)) >= 0:
        position = hit - id_offset
        if position % ALIGNMENT == 0 and data[position] == MARK:
            frame = decode_header(data, position, framing)
            if frame is not None and frame.sequence >= sequence and is_whole(data, position, frame, framing):
                return position
        position += 1
    return None


class Damage(NamedTuple):
    """A damage that no torn write explains, and the offset at which it begins."""

    offset: int
    what: str


def is_zero(data: bytes, start: int = 0) -> bool:
    """Whether the data has only zeros from ``start`` on."""
    # In pieces: the newest segment is mostly zeros, and one comparison of all of it would block the interpreter.
    for position in range(start, len(data), len(_ZEROS)):
        piece = data[position : position + len(_ZEROS)]
        if piece != _ZEROS[: len(piece)]:
            return False
    return True


def judge_tail(data: bytes, position: int, framing: Framing, sequence: int) -> Damage | None:
    """Tells a torn last frame from damage.

    Args:
        data: The whole file, with zeros for the part that was cut off at its end.
        position: The offset of the first frame that is not valid.
        framing: The framing of the file.
        sequence: The sequence that the frame at ``position`` must have.

    Returns:
        None when a single torn write of that frame explains all that is there, which may be nothing at all.
    """
    if is_zero(data, position):
        return None
    frame = decode_header(data, position, framing)
    if frame is not None:
        return _judge_payload(data, position, frame, framing, sequence)
    if find(data, position, framing, sequence) is not None:
        return Damage(position, "a frame is damaged, and a valid one follows it")
    rest = data[position:].rstrip(b"\0")
    first = len(rest) - len(rest.lstrip(b"\0"))
    if first == len(rest) - 1 and rest[first] & (rest[first] - 1) == 0:
        return Damage(position + first, "a single bit is set where no frame is")
    if _is_torn_header(data, position, rest, framing.file_id, sequence):
        return None
    return Damage(position, "a frame is damaged in a way that no torn write explains")


def _judge_payload(data: bytes, position: int, frame: Frame, framing: Framing, sequence: int) -> Damage | None:
    """Judges as ``judge_tail`` does. Requires: the header at ``position`` is valid."""
    end = position + frame.frame_bytes
    if frame.sequence != sequence:
        return Damage(position, f"frame {frame.sequence} stands where frame {sequence} belongs")
    if end > len(data):
        return Damage(position, "a frame reaches beyond its file")
    if not is_zero(data, end):
        return Damage(position, "a frame is damaged, and there are bytes behind it")
    if data[end - 1] == 0:
        return None
    body = position + HEADER_BYTES
    if _zero_sectors(data, body, end, body) > frame.zero_sectors or frame.zero_sectors == ZERO_SECTORS_MAX:
        return None
    return Damage(position, "a frame is there from its first to its last byte, and its checksum does not fit")


def _is_torn_header(data: bytes, position: int, rest: bytes, file_id: int, sequence: int) -> bool:
    """Whether a torn write explains a header that is not valid; ``rest`` is what is there, without zeros at its end."""
    sector = (position // SECTOR_BYTES + 1) * SECTOR_BYTES
    first_part = data[position:sector]
    if is_zero(first_part):
        # The sector with the header did not reach the disk, and others did.
        return True
    header_end = position + HEADER_BYTES
    second_part = data[sector:header_end]
    if len(rest) > HEADER_BYTES and not (second_part and is_zero(second_part)):
        return False
    # The parts of the header that are known in advance must be right, as far as it was written.
    known = _KNOWN.pack(file_id, sequence)
    seen = data[position + ALIGNMENT : position + ALIGNMENT + len(known)]
    return data[position] == MARK and all(byte in (0, expected) for byte, expected in zip(seen, known, strict=False))
