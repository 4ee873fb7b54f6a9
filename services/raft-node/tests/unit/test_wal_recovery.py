"""What a crash may leave behind is mended; what it cannot have left makes the log refuse, and stays as it is."""

from __future__ import annotations

import itertools
import random

import pytest
from crc32c import crc32c

from raft_node import entry
from raft_node.entry import Entry
from raft_node.errors import CorruptionError, DiskError
from raft_node.storage import record
from raft_node.storage.wal import segment as wal_segment
from raft_node.storage.wal.log import Wal, WalHardState, WalOptions
from raft_testing.files import MemoryFileSystem

DIRECTORY = "/wal"
SMALL = WalOptions(segment_bytes=4096)
STATE = WalHardState(1, "shard-0-2", 77, 0)


def make(index: int, term: int = 1, command: bytes = b"") -> Entry:
    return entry.encode(index, term, entry.EntryKind.COMMAND, 1_000_000 + index, command or b"%04d" % index * 10)


def run(start: int, end: int, term: int = 1) -> list[Entry]:
    return [make(index, term) for index in range(start, end)]


def put(
    wal: Wal, entries: list[Entry], *, hard_state: WalHardState | None = None, truncate_from: int | None = None
) -> None:
    wal.publish(wal.append(hard_state, truncate_from, entries))


def everything(wal: Wal) -> list[Entry]:
    return wal.entries(wal.first_index, wal.last_index + 1, 1 << 40)


def path_of(segment_id: int) -> str:
    return f"{DIRECTORY}/{segment_id:020d}.wal"


def copy_of(files: dict[str, bytes]) -> MemoryFileSystem:
    fs = MemoryFileSystem()
    fs.make_directory(DIRECTORY)
    for path, content in files.items():
        fs.put(path, content)
    return fs


def frames_of(content: bytes, segment_id: int) -> list[tuple[int, int]]:
    """Where the frames of a segment begin and end."""
    framing = record.framing_of(segment_id)
    frames = []
    position = wal_segment.HEADER_BYTES
    while (frame := record.decode_header(content, position, framing)) is not None:
        frames.append((position, position + frame.frame_bytes))
        position += frame.frame_bytes
    return frames


def small_log(segments: int, last: list[Entry] | None = None) -> dict[str, bytes]:
    """The files of a log; its last frame holds ``last``, or three entries."""
    fs = MemoryFileSystem()
    wal = Wal.open(fs, DIRECTORY, SMALL)
    put(wal, [], hard_state=STATE)
    while wal.segment_count < segments:
        put(wal, run(wal.last_index + 1, wal.last_index + 5))
    put(wal, run(wal.last_index + 1, wal.last_index + 3))
    put(wal, last or run(wal.last_index + 1, wal.last_index + 4))
    wal.close()
    return fs.files()


def refuses(files: dict[str, bytes]) -> CorruptionError:
    fs = copy_of(files)
    with pytest.raises(CorruptionError) as raised:
        Wal.open(fs, DIRECTORY, SMALL)
    assert fs.files() == files, "a damaged log was changed"
    return raised.value


def opens_without_the_last_frame(files: dict[str, bytes], expected: list[Entry], frame: tuple[int, int]) -> None:
    fs = copy_of(files)
    wal = Wal.open(fs, DIRECTORY, SMALL)
    assert everything(wal) == expected
    path = max(files)
    content = fs.read_file(path)
    assert len(content) == SMALL.segment_bytes
    assert content[frame[0] :] == bytes(SMALL.segment_bytes - frame[0])
    assert fs.is_synced(path)
    assert len(wal.recovery_notes) == (1 if any(files[path][frame[0] :]) else 0)
    put(wal, run(wal.last_index + 1, wal.last_index + 3, term=2))
    wal.close()
    fs.crash(random.Random(0))
    again = Wal.open(fs, DIRECTORY, SMALL)
    assert everything(again) == [*expected, *run(len(expected) + 1, len(expected) + 3, term=2)]
    assert again.hard_state == STATE
    assert again.recovery_notes == []


@pytest.mark.seconds
@pytest.mark.parametrize("how", ["file ends", "zeros follow"])
@pytest.mark.parametrize("segments", [1, 3])
def test_cut_at_every_byte_of_the_last_frame(segments: int, how: str) -> None:
    files = small_log(segments)
    path = max(files)
    content = files[path]
    frame = frames_of(content, segments)[-1]
    entries = everything(Wal.open(copy_of(files), DIRECTORY, SMALL))
    for cut in range(*frame):
        rest = b"" if how == "file ends" else bytes(len(content) - cut)
        opens_without_the_last_frame({**files, path: content[:cut] + rest}, entries[:-3], frame)


def test_every_sector_of_the_last_frame_may_be_lost() -> None:
    # The frame begins within a sector and covers four more; each subset of them may have reached the disk.
    noise = random.Random(5)
    last = [make(index, command=noise.randbytes(500)) for index in range(3, 7)]
    files = small_log(1, last)
    path = max(files)
    content = files[path]
    start, end = frames_of(content, 1)[-1]
    sectors = [start, *range((start // 512 + 1) * 512, end, 512), end]
    assert len(sectors) >= 5
    for kept in range(2 ** (len(sectors) - 1) - 1):
        torn = bytearray(content)
        for number, (first, stop) in enumerate(itertools.pairwise(sectors)):
            if not kept >> number & 1:
                torn[first:stop] = bytes(stop - first)
        opens_without_the_last_frame({**files, path: bytes(torn)}, run(1, 3), (start, end))


def test_a_header_that_lies_across_two_sectors_may_be_torn_there() -> None:
    for pad in range(1, 60):
        fs = MemoryFileSystem()
        wal = Wal.open(fs, DIRECTORY, SMALL)
        put(wal, [make(1, command=b"p" * (300 + 8 * (pad % 40)))])
        put(wal, [make(2, command=random.Random(pad).randbytes(1200))])
        wal.close()
        content = fs.read_file(path_of(1))
        start, end = frames_of(content, 1)[-1]
        sector = (start // 512 + 1) * 512
        if sector >= start + record.HEADER_BYTES:
            continue
        for first, stop in ((start, sector), (sector, sector + 512)):
            torn = content[:first] + bytes(stop - first) + content[stop:]
            again = Wal.open(copy_of({path_of(1): torn}), DIRECTORY, SMALL)
            assert again.last_index == 1
            assert end - start > 1200
        return
    raise AssertionError("no frame lay across two sectors")


def test_zeroing_a_torn_tail_may_be_cut_short_itself() -> None:
    noise = random.Random(6)
    files = small_log(1, [make(index, command=noise.randbytes(500)) for index in range(3, 7)])
    path = max(files)
    start, end = frames_of(files[path], 1)[-1]
    lost = (start // 512 + 2) * 512
    torn_tails = [
        files[path][:lost] + bytes(512) + files[path][lost + 512 :],
        files[path][: end - 1] + bytes(SMALL.segment_bytes - end + 1),
        files[path][: start + 9] + bytes(SMALL.segment_bytes - start - 9),
        files[path][:start] + bytes(lost - start) + files[path][lost:],
    ]
    crashes = 0
    for torn in torn_tails:
        for operation in range(1, 12):
            for seed in range(20):
                fs = copy_of({path: torn})
                fs.fail_at(operation)
                try:
                    Wal.open(fs, DIRECTORY, SMALL)
                except DiskError:
                    crashes += 1
                fs.crash(random.Random(seed))
                wal = Wal.open(fs, DIRECTORY, SMALL)
                assert everything(wal) == run(1, 3), f"operation {operation}, seed {seed}"
    assert crashes > 100


@pytest.mark.seconds
def test_a_bit_flipped_in_any_byte_of_many_segments_is_refused() -> None:
    files = small_log(3)
    newest = max(files)
    start, end = frames_of(files[newest], 3)[-1]
    checked = 0
    for path, content in files.items():
        # Every byte that was written, and samples of the zeros behind; each bit of a byte in turn, and all of a few.
        used = frames_of(content, int(path[-24:-4]))[-1][1]
        for position in range(len(content)):
            if path == newest and start <= position < end:
                continue
            if position >= used and position % 64 and position < len(content) - 8:
                continue
            bits = range(8) if position % 16 == 3 or position < 64 else (position % 8,)
            for bit in bits:
                damaged = bytearray(content)
                damaged[position] ^= 1 << bit
                error = refuses({**files, path: bytes(damaged)})
                # A frame is found damaged as a whole, and only against its successor; never far from the bit.
                if error.path == path:
                    assert abs(error.offset - position) <= 512, (path, position, error)
                else:
                    raise AssertionError((path, position, error))
                checked += 1
    assert checked > 10_000


@pytest.mark.seconds
def test_every_bit_flipped_in_a_log_of_one_segment_is_refused() -> None:
    files = small_log(1)
    path = max(files)
    start, end = frames_of(files[path], 1)[-1]
    for bit in range(8 * start):
        fs = copy_of(files)
        fs.flip_bit(path, bit)
        assert refuses(fs.files()).path == path
    for bit in range(8 * end, 8 * len(files[path])):
        if bit % 37 == 0 or bit < 8 * (end + 80):
            fs = copy_of(files)
            fs.flip_bit(path, bit)
            error = refuses(fs.files())
            assert (error.path, error.offset) == (path, bit // 8)


def test_a_bit_flipped_in_a_last_frame_that_is_there_to_its_end_is_refused() -> None:
    # It may have been acknowledged, so it must not be taken for a torn write.
    files = small_log(1)
    path = max(files)
    start, end = frames_of(files[path], 1)[-1]
    for bit in range(8 * start, 8 * end):
        fs = copy_of(files)
        fs.flip_bit(path, bit)
        assert refuses(fs.files()).offset == start


def test_zeros_in_the_middle_are_refused() -> None:
    files = small_log(2)
    first = path_of(1)
    start, end = frames_of(files[first], 1)[3]
    assert refuses({**files, first: files[first][:start] + bytes(end - start) + files[first][end:]}).path == first
    newest = path_of(2)
    start, end = frames_of(files[newest], 2)[-2]
    error = refuses({**files, newest: files[newest][:start] + bytes(end - start) + files[newest][end:]})
    assert (error.path, error.offset) == (newest, start)


def test_a_frame_in_the_middle_that_looks_torn_is_refused() -> None:
    files = small_log(1)
    path = path_of(1)
    start, end = frames_of(files[path], 1)[-2]
    for cut in (start + 32, start + 40, end - 1):
        error = refuses({path: files[path][:cut] + bytes(end - cut) + files[path][end:]})
        assert (error.path, error.offset) == (path, start)


def test_remains_of_a_header_without_its_mark_are_refused() -> None:
    files = small_log(1)
    path = path_of(1)
    end = frames_of(files[path], 1)[-1][1]
    next_sequence = len(frames_of(files[path], 1)) + 1
    known = bytes(8) + (1).to_bytes(8, "little") + next_sequence.to_bytes(8, "little")
    assert refuses({path: files[path][:end] + known + bytes(4096 - end - len(known))}).offset == end


def test_a_frame_out_of_sequence_is_refused_even_if_a_sector_of_it_is_zero() -> None:
    files = small_log(1)
    path = path_of(1)
    end = frames_of(files[path], 1)[-1][1]
    frame = record.encode(record.framing_of(1), 99, wal_segment.FLAG_ENTRIES, [bytes(1500)])
    error = refuses({path: files[path][:end] + frame + bytes(4096 - end - len(frame))})
    assert (error.offset, "frame 99" in error.what) == (end, True)


def zeros_in_the_last_frame() -> tuple[dict[str, bytes], tuple[int, int]]:
    """A log whose last frame holds a value with several sectors of zeros between other bytes."""
    index = everything(Wal.open(copy_of(small_log(1)), DIRECTORY, SMALL))[-3].index
    files = small_log(1, [make(index, command=b"begin" + bytes(1200) + b"end" * 350)])
    return files, frames_of(files[path_of(1)], 1)[-1]


def test_a_flipped_bit_in_a_whole_last_frame_with_zeros_in_a_value_is_refused() -> None:
    files, (start, end) = zeros_in_the_last_frame()
    path = path_of(1)
    frame = record.decode_header(files[path], start, record.framing_of(1))
    assert frame is not None and frame.zero_sectors >= 1
    for offset in (start + record.HEADER_BYTES + 60, (start + end) // 2, end - 20):
        damaged = bytearray(files[path])
        damaged[offset] ^= 1
        assert refuses({path: bytes(damaged)}).offset == start


def test_a_last_frame_with_zeros_in_a_value_that_lost_one_more_sector_is_torn() -> None:
    files, frame = zeros_in_the_last_frame()
    path = path_of(1)
    log = everything(Wal.open(copy_of(files), DIRECTORY, SMALL))
    lost = 0
    for sector in range(-(-(frame[0] + record.HEADER_BYTES) // 512) * 512, frame[1] - 512, 512):
        content = files[path]
        if any(content[sector : sector + 512]):
            torn = content[:sector] + bytes(512) + content[sector + 512 :]
            opens_without_the_last_frame({path: torn}, log[:-1], frame)
            lost += 1
    assert lost >= 1


def test_the_number_of_zero_sectors_is_that_of_the_place_in_the_file() -> None:
    framing = record.framing_of(1)
    payload = [b"x" * 40, bytes(1024), b"y"]
    # From byte 72 of the frame to byte 1096 there are zeros: two sectors if one begins just there, one otherwise.
    for position, count in ((512 - 72, 2), (512, 1), (520, 1)):
        frame = record.decode_header(record.encode(framing, 1, 4, payload, position), 0, framing)
        assert frame is not None and frame.zero_sectors == count


def test_frames_missing_at_the_end_of_a_complete_segment_are_refused() -> None:
    files = small_log(2)
    first = path_of(1)
    start, _ = frames_of(files[first], 1)[-1]
    error = refuses({**files, first: files[first][:start] + bytes(SMALL.segment_bytes - start)})
    assert error.path == path_of(2)
    assert "frames are missing" in error.what


def test_a_complete_segment_that_was_cut_off_is_refused() -> None:
    files = small_log(2)
    first = path_of(1)
    assert refuses({**files, first: files[first][:-1]}).path == first
    assert refuses({**files, first: b""}).path == first
    assert refuses({**files, first: files[first] + b"\0"}).path == first


def test_a_missing_segment_is_refused() -> None:
    files = small_log(4)
    for missing in (1, 2, 3):
        error = refuses({path: content for path, content in files.items() if path != path_of(missing)})
        assert (error.path, error.what) == (path_of(missing), "the segment is missing")


def test_a_file_that_is_no_segment_is_refused() -> None:
    files = small_log(1)
    assert refuses({**files, f"{DIRECTORY}/1.wal": b""}).path == f"{DIRECTORY}/1.wal"
    fs = copy_of({**files, f"{DIRECTORY}/LOCK": b"", f"{DIRECTORY}/{1:020d}.wal.bak": b"x"})
    assert Wal.open(fs, DIRECTORY, SMALL).segment_count == 1


def test_a_segment_under_another_name_is_refused() -> None:
    files = small_log(3)
    swapped = {**files, path_of(2): files[path_of(3)], path_of(3): files[path_of(2)]}
    assert refuses(swapped).path == path_of(2)


@pytest.mark.parametrize("length", [0, 100, 512, 4096])
@pytest.mark.parametrize("segments", [0, 2])
def test_a_newest_segment_that_is_all_zero_was_never_used(segments: int, length: int) -> None:
    files = small_log(segments) if segments else {}
    entries = everything(Wal.open(copy_of(files), DIRECTORY, SMALL)) if segments else []
    fs = copy_of({**files, path_of(segments + 1): bytes(length)})
    wal = Wal.open(fs, DIRECTORY, SMALL)
    assert everything(wal) == entries
    assert len(wal.recovery_notes) == 1
    for _ in range(12):
        put(wal, run(wal.last_index + 1, wal.last_index + 6))
    last_index = wal.last_index
    wal.close()
    fs.crash(random.Random(1))
    wal = Wal.open(fs, DIRECTORY, SMALL)
    assert everything(wal) == run(1, last_index + 1)


def new_segment(segments: int) -> tuple[dict[str, bytes], list[Entry]]:
    """A log whose newest segment has a header and no frame."""
    files = small_log(segments)
    fs = copy_of(files)
    wal = Wal.open(fs, DIRECTORY, SMALL)
    entries = everything(wal)
    wal._begin_segment(100)
    wal.close()
    return fs.files(), entries


def test_a_newest_segment_with_a_torn_header_was_never_used() -> None:
    files, entries = new_segment(2)
    path = path_of(3)
    assert Wal.open(copy_of(files), DIRECTORY, SMALL).segment_count == 3
    for cut in range(512):
        fs = copy_of({**files, path: files[path][:cut] + bytes(4096 - cut)})
        wal = Wal.open(fs, DIRECTORY, SMALL)
        assert everything(wal) == entries
        assert wal.hard_state == STATE


@pytest.mark.seconds
def test_a_flipped_bit_in_the_header_of_an_unused_segment_loses_nothing() -> None:
    files, entries = new_segment(2)
    path = path_of(3)
    refused = 0
    for bit in range(8 * 512):
        fs = copy_of(files)
        fs.flip_bit(path, bit)
        before = fs.files()
        try:
            wal = Wal.open(fs, DIRECTORY, SMALL)
        except CorruptionError as error:
            assert (error.path, fs.files()) == (path, before)
            refused += 1
        else:
            assert (everything(wal), wal.hard_state) == (entries, STATE)
    assert refused > 3500


def test_a_torn_tail_before_a_new_segment_is_refused() -> None:
    # The segment before was complete and durable before the newest one was begun.
    files, _ = new_segment(2)
    path = path_of(2)
    start, end = frames_of(files[path], 2)[-1]
    for cut in (start, start + 10, end - 1):
        assert refuses({**files, path: files[path][:cut] + bytes(4096 - cut)}).path in (path, path_of(3))


def test_a_header_torn_in_front_of_frames_is_refused() -> None:
    files = small_log(2)
    path = path_of(2)
    for zeros in (100, 512):
        assert refuses({**files, path: bytes(zeros) + files[path][zeros:]}).offset == 0


def test_frames_of_another_segment_do_not_pass() -> None:
    files = small_log(2)
    path = path_of(2)
    old = files[path_of(1)]
    end = frames_of(files[path], 2)[-1][1]
    for first, stop in frames_of(old, 1):
        stale = files[path][:end] + old[first:stop] + bytes(4096 - end - (stop - first))
        assert refuses({**files, path: stale}).path == path
    # Nor does one whose header was given the right segment, but not its checksum.
    first, stop = frames_of(old, 1)[1]
    disguised = bytearray(old[first:stop])
    disguised[8:16] = (2).to_bytes(8, "little")
    assert refuses({**files, path: files[path][:end] + bytes(disguised) + bytes(4096 - end - len(disguised))})


def test_an_older_frame_of_the_same_segment_does_not_pass() -> None:
    files = small_log(1)
    content = files[path_of(1)]
    frames = frames_of(content, 1)
    end = frames[-1][1]
    first, stop = frames[1]
    again = content[:end] + content[first:stop] + bytes(4096 - end - (stop - first))
    error = refuses({path_of(1): again})
    assert error.offset == end


def test_a_frame_inside_a_value_is_no_later_frame() -> None:
    # Whoever can guess a frame may store it as a value; a torn write of that value still has to be mended.
    planted = record.encode(record.framing_of(1), 1000, wal_segment.FLAG_ENTRIES, [make(1).data])
    fs = MemoryFileSystem()
    wal = Wal.open(fs, DIRECTORY, SMALL)
    put(wal, run(1, 3))
    put(wal, [make(3, command=bytes(8) + planted + b"v" * 700)])
    wal.close()
    content = fs.read_file(path_of(1))
    end = frames_of(content, 1)[-1][1]
    wal = Wal.open(copy_of({path_of(1): content[: end - 1] + bytes(4096 - end + 1)}), DIRECTORY, SMALL)
    assert everything(wal) == run(1, 3)


def forged(flags: int, payload: bytes) -> MemoryFileSystem:
    """A log of two entries with a frame behind them whose checksums fit and whose content does not."""
    fs = MemoryFileSystem()
    wal = Wal.open(fs, DIRECTORY, SMALL)
    put(wal, run(1, 3, term=2))
    wal.close()
    content = bytearray(fs.read_file(path_of(1)))
    end = frames_of(bytes(content), 1)[-1][1]
    frame = record.encode(record.framing_of(1), 2, flags, [payload])
    content[end : end + len(frame)] = frame
    fs.put(path_of(1), bytes(content))
    return fs


@pytest.mark.parametrize(
    ("flags", "payload", "what"),
    [
        (wal_segment.FLAG_ENTRIES, make(4, 2).data, "entry 4 follows entry 2"),
        (wal_segment.FLAG_ENTRIES, make(2, 2).data, "entry 2 follows entry 2"),
        (wal_segment.FLAG_ENTRIES, make(3, 1).data, "smaller term"),
        (wal_segment.FLAG_ENTRIES, make(3, 3).data + make(4, 2).data, "follows one of term 3"),
        (wal_segment.FLAG_ENTRIES, make(3, 2).data + make(5, 2).data, "entry 5 follows entry 3"),
        (wal_segment.FLAG_ENTRIES, make(3, 2).data[:-1], "cut off"),
        (wal_segment.FLAG_ENTRIES, make(3, 2).data + b"\0", "shorter than its header"),
        (wal_segment.FLAG_ENTRIES, b"\1" + make(3, 2).data[1:], "checksum"),
        (wal_segment.FLAG_ENTRIES, b"", "disagree"),
        (wal_segment.FLAG_TRUNCATE, (4).to_bytes(8, "little"), "outside the log"),
        (wal_segment.FLAG_TRUNCATE, (0).to_bytes(8, "little"), "outside the log"),
        (wal_segment.FLAG_TRUNCATE, (1).to_bytes(7, "little"), "cut off"),
        (wal_segment.FLAG_TRUNCATE, (1).to_bytes(9, "little"), "disagree"),
        (wal_segment.FLAG_HARD_STATE, bytes(20), "cut off"),
        (wal_segment.FLAG_HARD_STATE, bytes(24) + b"\5\0abcd", "cut off"),
        (0, b"", "unknown frame flags"),
        (8, b"", "unknown frame flags"),
    ],
)
def test_a_frame_that_breaks_the_chain_is_refused(flags: int, payload: bytes, what: str) -> None:
    fs = forged(flags, payload)
    assert what in refuses(fs.files()).what


def test_a_frame_that_continues_the_chain_passes() -> None:
    assert Wal.open(forged(wal_segment.FLAG_ENTRIES, make(3, 2).data), DIRECTORY, SMALL).last_index == 3
    assert Wal.open(forged(wal_segment.FLAG_TRUNCATE, (3).to_bytes(8, "little")), DIRECTORY, SMALL).last_index == 2


def test_a_format_of_the_future_is_refused() -> None:
    files = small_log(1)
    header = bytearray(files[path_of(1)][:512])
    header[8] = 2
    checked = bytes(header[:508])
    content = checked + crc32c(checked).to_bytes(4, "little") + files[path_of(1)][512:]
    assert "has format" in refuses({path_of(1): content}).what


def test_a_missing_first_segment_is_refused_even_if_it_held_no_entry() -> None:
    fs = MemoryFileSystem()
    wal = Wal.open(fs, DIRECTORY, SMALL)
    while wal.segment_count < 2:
        put(wal, [], hard_state=STATE)
    put(wal, run(1, 3))
    wal.close()
    files = fs.files()
    del files[path_of(1)]
    assert refuses(files).path == path_of(1)


def test_a_name_that_an_earlier_process_did_not_sync_is_durable_after_a_start() -> None:
    content = small_log(1)[path_of(1)]
    for seed in range(10):
        fs = MemoryFileSystem()
        fs.make_directory(DIRECTORY)
        file = fs.create(path_of(1))
        file.write_at(0, [content])
        last_index = Wal.open(fs, DIRECTORY, SMALL).last_index
        fs.crash(random.Random(seed))
        assert Wal.open(fs, DIRECTORY, SMALL).last_index == last_index == 5
