"""Fuzz targets of the log: its segments as a start reads them, and the entries in them."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from functools import lru_cache

from crc32c import crc32c

from raft_node import entry as entries
from raft_node.entry import Entry, EntryError, EntryKind
from raft_node.errors import CorruptionError
from raft_node.storage import inspect, record
from raft_node.storage.options import WalOptions
from raft_node.storage.wal import segment as wal_segment
from raft_node.storage.wal.log import Wal, WalHardState
from raft_node.storage.wal.segment import SegmentFormatError
from raft_testing.files import MemoryFileSystem
from raft_testing.fuzz.target import SEGMENT_BYTES_MAX, Target, damaged, disk

_DIRECTORY = "/wal"
_OPTIONS = WalOptions(segment_bytes=4096)
_SEGMENTS_MAX = 3
_SEGMENT_ID_MAX = 1 << 20
_ALL_BYTES = 1 << 30
_FRAME = struct.Struct("<BBHIQQII")
_INDEX_MAX = 1 << 62


def _id_of(content: bytes) -> int:
    """The segment number in a header; 1 if it makes no sense, so that the header is wrong."""
    segment_id = int.from_bytes(content[16:24], "little")
    return segment_id if 0 < segment_id < _SEGMENT_ID_MAX else 1


def _split(content: bytes) -> list[bytes]:
    """A segment for each 4096 bytes; the last one takes the rest."""
    size = _OPTIONS.segment_bytes
    cuts = range(0, min(max(len(content), 1), _SEGMENTS_MAX * size), size)
    parts = [content[cut : cut + size] for cut in cuts]
    parts[-1] = content[cuts[-1] :]
    return parts


def _files(content: bytes) -> dict[str, bytes]:
    first = _id_of(content)
    return {
        f"{_DIRECTORY}/{wal_segment.name_of(segment_id)}": part
        for segment_id, part in enumerate(_split(content), first)
    }


def _served(wal: Wal) -> list[Entry]:
    return wal.entries(wal.first_index, wal.last_index + 1, _ALL_BYTES)


def check_log(content: bytes) -> None:
    """A log opens, and opens again with the same content and takes an entry; or it is refused and left as it is."""
    fs = disk(_files(content))
    before = fs.files()
    for path in before:
        for _ in inspect.segment(fs, path):
            pass
    try:
        wal = Wal.open(fs, _DIRECTORY, _OPTIONS)
    except CorruptionError:
        assert fs.files() == before, "a log that is refused is left as it was"
        return
    try:
        served = _served(wal)
    except CorruptionError:
        # The checksum of the frame is right, but that of an entry in it is wrong.
        return
    assert [one.index for one in served] == list(range(wal.first_index, wal.last_index + 1))
    assert all(entries.decode(one.data) == one for one in served)
    state = wal.hard_state
    wal.close()
    again = Wal.open(fs, _DIRECTORY, _OPTIONS)
    assert again.recovery_notes == [], "what was mended stays mended"
    assert (_served(again), again.hard_state) == (served, state)
    _append_one(again, fs, served)


def _append_one(wal: Wal, fs: MemoryFileSystem, served: list[Entry]) -> None:
    index, term = wal.last_index + 1, wal.term(wal.last_index)
    # Real indexes are never so large, and a log that begins near the largest index has no room for entries.
    if max(index, term, wal._next_sequence) > _INDEX_MAX:
        return
    added = entries.encode(index, term, EntryKind.NOOP, 0)
    wal.publish(wal.append(None, None, [added]))
    wal.close()
    assert _served(Wal.open(fs, _DIRECTORY, _OPTIONS)) == [*served, added]


@lru_cache(maxsize=1)
def _sound_log() -> tuple[dict[str, bytes], list[list[Entry]]]:
    """The files of a log of two segments, and its entries after each of its appends."""
    fs = MemoryFileSystem()
    wal = Wal.open(fs, _DIRECTORY, _OPTIONS)
    history: list[list[Entry]] = [[]]
    appends: list[tuple[WalHardState, int | None, list[Entry]]] = [
        (WalHardState(1, "a", 7, 0), None, [entries.encode(1, 1, EntryKind.NOOP, 5)])
    ]
    for index in range(2, 7):
        added = [entries.encode(index, 1, EntryKind.COMMAND, 9, b"c%d" % index * 450)]
        appends.append((WalHardState(1, "a", 7, index - 1), None, added))
    added = [entries.encode(index, 2, EntryKind.COMMAND, 9, b"") for index in (6, 7)]
    appends.append((WalHardState(2, "bb", 8, 5), 6, added))
    for state, truncate_from, some in appends:
        wal.publish(wal.append(state, truncate_from, some))
        history.append(_served(wal))
    wal.close()
    return {path: content for path, content in fs.files().items() if path.endswith(".wal")}, history


def seeds_log() -> Iterable[bytes]:
    """Two segments, the last one without its zeros; the first one alone; a log of one frame."""
    files, _ = _sound_log()
    assert len(files) == 2
    first, second = (files[path] for path in sorted(files))
    yield first + second.rstrip(b"\0")
    yield first.rstrip(b"\0")
    fs = MemoryFileSystem()
    wal = Wal.open(fs, _DIRECTORY, _OPTIONS)
    wal.publish(wal.append(WalHardState(3, "", 0, 0), None, []))
    wal.close()
    yield next(content for path, content in fs.files().items() if path.endswith(".wal")).rstrip(b"\0")
    # Compacted: the log begins with a later segment.
    fs = MemoryFileSystem()
    wal = Wal.open(fs, _DIRECTORY, _OPTIONS)
    wal.publish(wal.reset(5, 2, WalHardState(3, "c", 1, 5)))
    wal.publish(wal.append(None, None, [entries.encode(6, 3, EntryKind.COMMAND, 1, b"x")]))
    wal.close()
    yield next(content for path, content in sorted(fs.files().items()) if path.endswith(".wal")).rstrip(b"\0")


def repair_log(content: bytes) -> bytes:
    """Makes the checksums of headers, frames and entries fit, as far as the sizes in them lead."""
    return b"".join(_repaired_segment(bytearray(part)) for part in _split(content))


def _repaired_segment(data: bytearray) -> bytes:
    if len(data) < wal_segment.HEADER_BYTES:
        return bytes(data)
    size = int.from_bytes(data[24:32], "little")
    if SEGMENT_BYTES_MAX < size < 1 << 40:
        data[24:32] = (size % SEGMENT_BYTES_MAX).to_bytes(8, "little")
    end = wal_segment.HEADER_BYTES
    data[end - 4 : end] = crc32c(bytes(data[: end - 4])).to_bytes(4, "little")
    framing = record.framing_of(int.from_bytes(data[16:24], "little"))
    position = end
    while position + record.HEADER_BYTES <= len(data):
        mark, flags, zeros, size, _, sequence, payload_crc, _ = _FRAME.unpack_from(data, position)
        if mark != record.MARK:
            break
        start, end = position + record.HEADER_BYTES, position + record.frame_bytes(size)
        if end <= len(data):
            _repair_entries(data, flags, start, start + size)
            payload_crc = crc32c(bytes(data[start:end]), framing.seed)
        head = _FRAME.pack(mark, flags, zeros, size, framing.file_id, sequence, payload_crc, 0)[:-4]
        data[position:start] = head + crc32c(head, framing.seed).to_bytes(4, "little")
        position = end
    return bytes(data)


def _repair_entries(data: bytearray, flags: int, start: int, end: int) -> None:
    try:
        start = wal_segment.decode_payload(flags, bytes(data), start, end).entries_start
    except (SegmentFormatError, UnicodeDecodeError):
        return
    data[start:end] = repair_entries(bytes(data[start:end]))


def damage_log(script: bytes) -> None:
    """A damaged log is refused, or has the entries of the sound one after one of its appends: the rest is torn."""
    files, history = _sound_log()
    # The first byte chooses a segment.
    path = sorted(files)[script[0] % 2 if script else 0]
    fs = disk(files | {path: damaged(files[path], script[1:])})
    for other in files:
        for _ in inspect.segment(fs, other):
            pass
    try:
        served = _served(Wal.open(fs, _DIRECTORY, _OPTIONS))
    except CorruptionError:
        return
    assert served in history, "an entry was served that was never written"
    assert path == max(files) or served == history[-1], "entries are missing before the newest segment"


def check_entries(blob: bytes) -> None:
    """Entries that decode are the bytes that they were decoded from, and ``scan`` finds the same ones."""
    try:
        scanned = list(entries.scan(blob, 0, len(blob)))
    except EntryError as error:
        assert 0 <= error.position <= len(blob)
        scanned = None
    try:
        decoded = entries.decode_all(blob)
    except EntryError as error:
        assert 0 <= error.position <= len(blob)
        return
    assert entries.join(decoded) == blob
    assert scanned is not None
    assert [(index, term, kind) for index, term, kind, _, _ in scanned] == [
        (one.index, one.term, one.kind) for one in decoded
    ]
    for one in decoded:
        assert entries.encode(one.index, one.term, one.kind, one.timestamp_us, one.command) == one


def repair_entries(blob: bytes) -> bytes:
    """Makes the checksums of entries that lie one behind the other fit."""
    data = bytearray(blob)
    position = 0
    while (start := position + entries.HEADER_BYTES) <= len(data):
        end = start + int.from_bytes(data[position + 8 : position + 12], "little")
        if end <= len(data):
            data[position + 4 : position + 8] = crc32c(bytes(data[start:end])).to_bytes(4, "little")
        data[position : position + 4] = crc32c(bytes(data[position + 4 : start])).to_bytes(4, "little")
        position = end
    return bytes(data)


def seeds_entries() -> Iterable[bytes]:
    """None, one of each kind, and a few."""
    yield b""
    each = [entries.encode(index, 2, kind, 7, b"command" * index) for index, kind in enumerate(EntryKind, 1)]
    yield entries.join(each)
    yield each[0].data


TARGETS = (
    Target("wal", "segments, frames and recovery of the log", check_log, seeds_log, repair_log, damage_log),
    Target("entry", "log entries", check_entries, seeds_entries, repair_entries),
)
