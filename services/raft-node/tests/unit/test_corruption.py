"""A whole store with one bit flipped, or one file cut off, anywhere: found in every case, and never a wrong answer."""

from __future__ import annotations

import random

import pytest

from raft_node import entry as entries
from raft_node.entry import EntryKind
from raft_node.errors import CorruptionError
from raft_node.storage.engine import Engine
from raft_node.storage.tables.manifest import RecordKind, encode_record
from raft_node.storage.wal.log import Wal, WalHardState, WalOptions
from raft_testing.engines import TINY_OPTIONS, settle
from raft_testing.files import MemoryFileSystem

D, W = "/data", "/wal"
SEAL_BYTES = len(encode_record(0, RecordKind.SEAL, b""))
"""The last seal of a manifest only tells that the edit before it was whole: without it nothing is lost."""

pytestmark = pytest.mark.seconds


def a_store() -> tuple[dict[str, bytes], dict[bytes, bytes]]:
    """The files of a closed store with a table on two levels, and what it holds."""
    fs = MemoryFileSystem()
    engine = Engine.open(fs, D, TINY_OPTIONS, "s1")
    expected = {b"k%d" % key: b"value %d" % key for key in range(8)}
    for index, (key, value) in enumerate(expected.items(), 1):
        engine.write([(key, value)], index, 1)
        if index in (3, 5):
            engine.rotate()
            settle(engine, fs, D)
    engine.write([(b"k1", b"newer"), (b"k2", None)], 9, 2)
    engine.rotate()
    settle(engine, fs, D)
    engine.close()
    expected[b"k1"] = b"newer"
    del expected[b"k2"]
    return {path: content for path, content in fs.files().items() if "/tmp/" not in path}, expected


FILES, EXPECTED = a_store()


def read_damaged(path: str, content: bytes) -> str:
    """Opens the store with that content of a file, and reads all of it; where the damage was found."""
    fs = MemoryFileSystem()
    fs.make_directory(D)
    for other, sound in FILES.items():
        fs.put(other, content if other == path else sound)
    try:
        engine = Engine.open(fs, D, TINY_OPTIONS, "s2")
    except CorruptionError as error:
        assert fs.files() == {**FILES, path: content}, "what is damaged is left as it was"
        return error.path
    found = ""
    for key in (*(b"k%d" % number for number in range(8)), b"none"):
        try:
            assert engine.get_blocking(key) == EXPECTED.get(key), key
        except CorruptionError as error:
            found = error.path
    try:
        assert dict(engine.scan(b"", None)) == EXPECTED
    except CorruptionError as error:
        found = error.path
    return found


def harmless(path: str, offset: int) -> bool:
    """Whether damage from there on may go unnoticed; the answers are right all the same."""
    return "MANIFEST" in path and offset >= len(FILES[path]) - SEAL_BYTES


def test_the_store_is_sound_without_damage() -> None:
    path = next(iter(FILES))
    assert len([name for name in FILES if name.endswith(".sst")]) >= 2
    assert read_damaged(path, FILES[path]) == ""


@pytest.mark.parametrize("path", FILES)
def test_every_bit_of_every_file_is_found_when_it_flips(path: str) -> None:
    sound = FILES[path]
    for bit in range(8 * len(sound)):
        content = bytearray(sound)
        content[bit // 8] ^= 1 << bit % 8
        # Which file is to blame can be told but for CURRENT, which names another one.
        found = read_damaged(path, bytes(content))
        assert found == path or (found and path.endswith("CURRENT")) or harmless(path, bit // 8), (path, bit, found)


@pytest.mark.parametrize("path", FILES)
def test_every_file_that_ends_too_soon_or_too_late_is_found(path: str) -> None:
    sound = FILES[path]
    for size in range(len(sound)):
        assert read_damaged(path, sound[:size]) or harmless(path, size), (path, size)
    for more in (b"\0", b"\0" * 64, b"garbage", sound):
        # Behind the end of a manifest it is a torn record, of an edit that nobody acknowledged.
        assert read_damaged(path, sound + more) or "MANIFEST" in path, (path, more[:8])


def test_a_log_cut_off_anywhere_gives_back_its_beginning_or_is_refused() -> None:
    fs = MemoryFileSystem()
    options = WalOptions(segment_bytes=4096)
    wal = Wal.open(fs, W, options)
    log = [entries.encode(index, 1, EntryKind.COMMAND, 1, b"%d" % index * 90) for index in range(1, 41)]
    for index in range(0, 40, 2):
        wal.publish(wal.append(WalHardState(1, "a", 1, index), None, log[index : index + 2]))
    wal.close()
    files = {path: content for path, content in fs.files().items() if path.endswith(".wal")}
    assert len(files) >= 2
    rng = random.Random(5)
    outcomes = {"refused": 0, "shorter": 0, "whole": 0}
    for _ in range(300):
        path = rng.choice(sorted(files))
        size = rng.randrange(len(files[path]))
        cut = MemoryFileSystem()
        cut.make_directory(W)
        for other, content in files.items():
            cut.put(other, content[:size] if other == path else content)
        try:
            again = Wal.open(cut, W, options)
        except CorruptionError:
            outcomes["refused"] += 1
            continue
        assert path == max(files), "only the newest segment can be torn"
        assert again.entries(1, again.last_index + 1, 1 << 20) == log[: again.last_index]
        outcomes["shorter" if again.last_index < 40 else "whole"] += 1
    assert all(outcomes.values()), outcomes
