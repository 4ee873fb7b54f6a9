"""A snapshot on its way in: continued after a cut and a crash, damaged parts asked for again, nothing else touched."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest
import xxhash

from raft_node.errors import CorruptionError, DiskError
from raft_node.storage.engine import Engine
from raft_node.storage.snapshots.checkpoint import CHECKPOINT, CheckpointFile, verify_checkpoint
from raft_node.storage.snapshots.incoming import (
    IncomingError,
    IncomingSnapshot,
    SnapshotHeader,
    Taken,
    discard,
    discard_outdated,
)
from raft_testing.engines import TINY_OPTIONS, settle
from raft_testing.files import MemoryFileSystem

D = "/data"
IN = "/data/incoming"
OUT = "/sender/out"
CHUNK = 100


def a_snapshot(fs: MemoryFileSystem) -> tuple[SnapshotHeader, list[bytes]]:
    """The header and the files of a snapshot of another node."""
    engine = Engine.open(fs, "/sender", TINY_OPTIONS, "s1")
    for index in range(1, 121):
        engine.write([(b"key%03d" % (index % 40), b"%d" % (index * 7919**9))], index, 3)
    engine.rotate()
    settle(engine, fs, "/sender")
    checkpoint = engine.checkpoint(OUT).run()
    engine.close()
    content = fs.read_file(f"{OUT}/{CHECKPOINT}")
    files = (CheckpointFile(CHECKPOINT, len(content), xxhash.xxh3_64_intdigest(content)), *checkpoint.files)
    assert len(files) >= 3
    header = SnapshotHeader("ab12", 120, 3, b"members", 99, files)
    return header, [fs.read_file(f"{OUT}/{file.name}") for file in files]


def send(
    incoming: IncomingSnapshot,
    contents: list[bytes],
    until: tuple[int, int] | None = None,
    spoil: Callable[[int, int, bytes], bytes] = lambda file, offset, data: data,
) -> list[Taken]:
    """Sends from where it is asked, as far as a place."""
    taken = []
    while not incoming.complete and (until is None or incoming.position < until):
        file, offset = incoming.position
        taken.append(incoming.write(file, offset, spoil(file, offset, contents[file][offset : offset + CHUNK])))
    return taken


def test_what_was_sent_is_what_is_there() -> None:
    fs = MemoryFileSystem()
    header, contents = a_snapshot(fs)
    incoming = IncomingSnapshot.open(fs, D, header)
    assert incoming.position == (0, 0)
    assert set(send(incoming, contents)) == {Taken.TAKEN}
    checkpoint = incoming.finish()
    assert verify_checkpoint(fs, IN) == checkpoint
    assert (checkpoint.applied_index, checkpoint.applied_term) == (120, 3)
    fs.crash(random.Random(1))
    assert verify_checkpoint(fs, IN) == checkpoint, "all of it was durable when it was taken for complete"


def test_pieces_from_elsewhere_change_nothing() -> None:
    fs = MemoryFileSystem()
    header, contents = a_snapshot(fs)
    incoming = IncomingSnapshot.open(fs, D, header)
    for file, offset, data in ((0, 1, b"x"), (1, 0, b"x"), (7, 0, b"x"), (0, 0, b"")):
        assert incoming.write(file, offset, data) is Taken.IGNORED
    assert incoming.position == (0, 0)
    with pytest.raises(IncomingError, match="more were sent"):
        incoming.write(0, 0, contents[0] + b"x")
    send(incoming, contents)
    assert incoming.write(len(header.files), 0, b"x") is Taken.IGNORED


def test_a_cut_transfer_goes_on_where_it_was_also_after_a_restart() -> None:
    fs = MemoryFileSystem()
    header, contents = a_snapshot(fs)
    for until in ((0, 1), (1, 0), (1, CHUNK), (2, 2 * CHUNK)):
        discard(fs, D)
        incoming = IncomingSnapshot.open(fs, D, header)
        send(incoming, contents, until)
        place = incoming.position
        incoming.close()
        again = IncomingSnapshot.open(fs, D, header)
        assert again.position == place
        assert set(send(again, contents)) == {Taken.TAKEN}
        again.finish()


def test_another_snapshot_begins_anew() -> None:
    fs = MemoryFileSystem()
    header, contents = a_snapshot(fs)
    incoming = IncomingSnapshot.open(fs, D, header)
    send(incoming, contents, (2, 0))
    incoming.close()
    other = IncomingSnapshot.open(fs, D, replace(header, snapshot_id="cd34"))
    assert other.position == (0, 0)
    assert fs.list_directory(IN) == ["HEADER"]


def test_a_damaged_file_is_dropped_and_asked_for_again() -> None:
    fs = MemoryFileSystem()
    header, contents = a_snapshot(fs)
    incoming = IncomingSnapshot.open(fs, D, header)

    def spoil(file: int, offset: int, data: bytes) -> bytes:
        spoiled = file == 1 and offset == 0 and incoming.damaged_files < 2
        return bytes([data[0] ^ 1]) + data[1:] if spoiled else data

    taken = send(incoming, contents, spoil=spoil)
    assert taken.count(Taken.DAMAGED) == 2 == incoming.damaged_files
    assert incoming.complete
    incoming.finish()
    verify_checkpoint(fs, IN)


def test_what_is_damaged_on_this_disk_is_asked_for_again() -> None:
    fs = MemoryFileSystem()
    header, contents = a_snapshot(fs)
    incoming = IncomingSnapshot.open(fs, D, header)
    send(incoming, contents, (2, CHUNK))
    incoming.close()
    fs.flip_bit(f"{IN}/{header.files[1].name}", 77)
    again = IncomingSnapshot.open(fs, D, header)
    assert again.position == (1, 0) and again.damaged_files == 1
    # Behind the file that came again, what was there already is passed over.
    assert again.write(1, 0, contents[1]) is Taken.TAKEN
    assert again.position == (2, CHUNK)
    send(again, contents)
    again.finish()


def test_a_crash_at_any_step_is_survived() -> None:
    seeds = range(3)
    steps = 0
    for seed in seeds:
        step = 0
        while True:
            step += 1
            fs = MemoryFileSystem()
            header, contents = a_snapshot(fs)
            fs.fail_at(step)
            try:
                send(IncomingSnapshot.open(fs, D, header), contents)
            except DiskError:
                steps += 1
            else:
                break
            fs.heal()
            fs.crash(random.Random(seed * 1000 + step))
            again = IncomingSnapshot.open(fs, D, header)
            send(again, contents)
            again.finish()
            verify_checkpoint(fs, IN)
    assert steps > 30


def test_files_that_do_not_fit_the_header_are_refused_and_gone() -> None:
    for index, term in ((121, 3), (120, 4)):
        fs = MemoryFileSystem()
        header, contents = a_snapshot(fs)
        incoming = IncomingSnapshot.open(fs, D, replace(header, last_index=index, last_term=term))
        send(incoming, contents)
        with pytest.raises(CorruptionError):
            incoming.finish()
        assert not fs.exists(IN)
    fs = MemoryFileSystem()
    header, contents = a_snapshot(fs)
    # A table less than the list names.
    incoming = IncomingSnapshot.open(fs, D, replace(header, files=header.files[:-1]))
    send(incoming, contents)
    with pytest.raises(CorruptionError, match="other tables"):
        incoming.finish()


@pytest.mark.parametrize(
    "name", ["../CURRENT", "/etc/passwd", "000001.sst/x", "CURRENT", "000001.sst\n", "", "1.sst", CHECKPOINT]
)
def test_names_that_are_no_tables_are_refused_before_anything_is_touched(name: str) -> None:
    fs = MemoryFileSystem()
    fs.make_directory(D)
    file = CheckpointFile(CHECKPOINT, 10, 1)
    header = SnapshotHeader("ab", 5, 1, b"", 0, (file, replace(file, name=name)))
    operations = len(fs.operations)
    with pytest.raises(IncomingError):
        IncomingSnapshot.open(fs, D, header)
    assert len(fs.operations) == operations


def test_what_the_state_includes_is_removed_at_a_start() -> None:
    fs = MemoryFileSystem()
    header, contents = a_snapshot(fs)
    discard_outdated(fs, D, 0)
    send(IncomingSnapshot.open(fs, D, header), contents, (1, 0))
    discard_outdated(fs, D, 119)
    assert fs.exists(IN)
    discard_outdated(fs, D, 120)
    assert not fs.exists(IN)
    fs.make_directory(IN)
    fs.put(f"{IN}/HEADER", b"garbage")
    discard_outdated(fs, D, 0)
    assert not fs.exists(IN)
