"""Files of a disk in memory: their visible bytes, their durable bytes, and the loss of the difference in a crash.

Must not know names or directories; ``raft_testing.files`` has them.
"""

from __future__ import annotations

import random
from enum import Enum

SECTORS_BYTES = (512, 4096)


class Loss(Enum):
    """A rule for the unsynced data that a crash loses, for tests that try each."""

    DROPPED = "dropped"
    """The crash loses all unsynced data."""
    KEPT = "kept"
    """The crash loses nothing."""
    RANDOM = "random"
    """The crash loses a random part of the names and of the writes, and any part of a write."""
    TORN_BYTE = "torn-byte"
    """The crash loses the end of each file's last write, from any byte on."""
    TORN_512 = "torn-512"
    """The crash loses any sectors of 512 bytes of each file's last write."""
    TORN_4096 = "torn-4096"
    """The crash loses any sectors of 4096 bytes of each file's last write."""


_TORN_SECTORS_BYTES = {Loss.TORN_BYTE: 0, Loss.TORN_512: 512, Loss.TORN_4096: 4096}


class Inode:
    """A file: its visible bytes, its durable bytes, and the writes since the last sync."""

    def __init__(self) -> None:
        self.seen = bytearray()
        self.durable = bytearray()
        # Writes since the last sync. None means that the file was emptied.
        self.pending: list[tuple[int, bytes] | None] = []

    def write(self, offset: int, data: bytes) -> None:
        """Takes a write, which is not durable yet."""
        _overwrite(self.seen, offset, data)
        self.pending.append((offset, data))

    def truncate(self) -> None:
        """Empties the file."""
        self.seen.clear()
        self.pending.append(None)

    def sync(self) -> None:
        """Makes all that was written durable."""
        for change in self.pending:
            if change is None:
                self.durable.clear()
            else:
                _overwrite(self.durable, *change)
        self.pending.clear()

    def crash(self, rng: random.Random) -> None:
        """Loses a random part of the unsynced writes."""
        chance = rng.choice((0.0, 0.5, 1.0))
        for change in self.pending:
            if rng.random() >= chance:
                continue
            if change is None:
                self.durable.clear()
            else:
                _tear(self.durable, *change, rng)
        self.pending.clear()
        self.seen = bytearray(self.durable)

    def lose(self, loss: Loss, rng: random.Random) -> None:
        """Loses unsynced writes by a rule."""
        last = len(self.pending) - 1
        for number, change in enumerate(self.pending):
            if loss is Loss.DROPPED or (loss is Loss.RANDOM and rng.random() < 0.5):
                continue
            if change is None:
                self.durable.clear()
            elif loss is Loss.RANDOM:
                _tear(self.durable, *change, rng)
            elif loss is Loss.KEPT or number < last:
                _overwrite(self.durable, *change)
            else:
                _tear_at(self.durable, *change, _TORN_SECTORS_BYTES[loss], rng)
        self.pending.clear()
        self.seen = bytearray(self.durable)

    def copy(self) -> Inode:
        """The same file on another disk."""
        copy = Inode()
        copy.seen[:] = self.seen
        copy.durable[:] = self.durable
        copy.pending = list(self.pending)
        return copy


def _overwrite(content: bytearray, offset: int, data: bytes) -> None:
    if len(content) < offset:
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(data)] = data


def _tear(content: bytearray, offset: int, data: bytes, rng: random.Random) -> None:
    how = rng.randrange(4)
    if how == 0:
        _overwrite(content, offset, data)
        return
    if how == 1:
        _overwrite(content, offset, data[: rng.randrange(len(data) + 1)])
        return
    _tear_at(content, offset, data, rng.choice(SECTORS_BYTES), rng)


def _tear_at(content: bytearray, offset: int, data: bytes, sector: int, rng: random.Random) -> None:
    """Keeps a part: up to some byte, or any sectors of that size."""
    if not sector:
        _overwrite(content, offset, data[: rng.randrange(len(data) + 1)])
        return
    end = offset + len(data)
    start = offset
    while start < end:
        stop = min(end, (start // sector + 1) * sector)
        if rng.random() < 0.5:
            _overwrite(content, start, data[start - offset : stop - offset])
        start = stop
    if rng.random() < 0.5 and len(content) < end:
        # The size can reach the disk before the bytes do.
        content.extend(bytes(end - len(content)))
