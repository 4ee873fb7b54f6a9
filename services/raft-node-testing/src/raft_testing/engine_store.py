"""The state of a simulated node in the real engine, on a disk in memory.

Snapshots are checkpoints: their files go over the network one behind the other, and are adopted as the runtime does it.
A crash cuts the power before any operation of a flush or of an adoption, and then tears the unsynced bytes.

Invariants:
1. Whatever a crash leaves, the engine opens, and holds the state of one applied index with the head that belongs to it.
2. A checkpoint is verified, byte for byte, before it is adopted.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from struct import Struct

from raft_node.entry import Entry
from raft_node.raft.types import Configuration
from raft_node.storage.engine import Engine
from raft_node.storage.snapshots.checkpoint import verify_checkpoint
from raft_testing.disk import CuttableFileSystem, PowerCutError
from raft_testing.engines import TINY_OPTIONS, settle
from raft_testing.machine import Head, Snapshot, advance, content_hash, decode_head, encode_head

_DIRECTORY = "data"
_OUTGOING = "outgoing"
_INCOMING = "incoming"
_HEAD_KEY = b"head"
_DATA_PREFIX = b"key/"
_SIZES = Struct("<HI")


class EngineStore:
    """A state in an ``Engine``."""

    def __init__(self, configuration: Configuration) -> None:
        self.head = Head(0, 0, 0, configuration)
        self._first = self.head
        self._fs = CuttableFileSystem()
        self._starts = 0
        self._engine = self._open()

    @property
    def durable_index(self) -> int:
        """The last entry in the tables."""
        return self._engine.flushed_index

    def apply(self, entry: Entry) -> None:
        """Applies the next entry."""
        self.head, change = advance(self.head, entry, self.get)
        batch: list[tuple[bytes, bytes | None]] = [(_HEAD_KEY, encode_head(self.head).encode())]
        if change is not None:
            batch.append((_DATA_PREFIX + change[0].encode(), change[1].encode()))
        self._engine.write(batch, entry.index, entry.term)

    def has_run_out(self, key: str, now_us: int) -> bool:
        """Always False: nothing in this state expires."""
        return False

    def get(self, key: str) -> str | None:
        """The value of a key."""
        value = self._engine.get_blocking(_DATA_PREFIX + key.encode())
        return None if value is None else value.decode()

    def contents(self) -> dict[str, str]:
        """All keys and values."""
        end = _DATA_PREFIX[:-1] + bytes([_DATA_PREFIX[-1] + 1])
        found = self._engine.scan(_DATA_PREFIX, end)
        return {key[len(_DATA_PREFIX) :].decode(): value.decode() for key, value in found}

    def flush(self) -> None:
        """Writes the memtables to tables, and runs the compactions that are due."""
        self._engine.rotate()
        settle(self._engine, self._fs, _DIRECTORY)

    def snapshot(self) -> Snapshot:
        """Makes a checkpoint, its files one behind the other. Requires: a flush has just made the state durable."""
        assert self.durable_index == self.head.applied_index, "flush first"
        checkpoint = self._engine.checkpoint(_OUTGOING).run()
        parts = []
        for name in ("CHECKPOINT", *(file.name for file in checkpoint.files)):
            content = self._fs.read_file(f"{_OUTGOING}/{name}")
            parts += [_SIZES.pack(len(name), len(content)), name.encode(), content]
        self._fs.remove_tree(_OUTGOING)
        return Snapshot(self.head, b"".join(parts))

    def adopt(self, snapshot: Snapshot) -> None:
        """Writes the received files, checks them, and lets the engine adopt them."""
        self._receive(snapshot.payload)
        adoption = self._engine.adopt(verify_checkpoint(self._fs, _INCOMING))
        assert adoption is not None, "no task is under way"
        adoption.run()
        self._engine.finish_adoption(adoption)
        self._fs.remove_tree(_INCOMING)
        self._load()
        assert self.head == snapshot.head, "the checkpoint is not what its head says"

    def crash(self, chance: random.Random, adopting: Snapshot | None = None) -> None:
        """Cuts the power during an adoption, or sometimes during a flush."""
        if adopting is not None:
            self._cut(chance.randint(1, 40), self.adopt, adopting)
        elif chance.random() < 0.3:
            self._cut(chance.randint(1, 20), self.flush)
        self._fs.crash(chance)
        self._engine = self._open()

    def _cut(self, operations: int, call: Callable[..., None], *arguments: Snapshot) -> None:
        self._fs.cut_at = operations
        with contextlib.suppress(PowerCutError):
            call(*arguments)
        self._fs.cut_at = 0

    def _receive(self, payload: bytes) -> None:
        self._fs.remove_tree(_INCOMING)
        self._fs.make_directory(_INCOMING)
        position = 0
        while position < len(payload):
            name_bytes, content_bytes = _SIZES.unpack_from(payload, position)
            position += _SIZES.size
            name = payload[position : position + name_bytes].decode()
            position += name_bytes
            file = self._fs.create(f"{_INCOMING}/{name}")
            file.write_at(0, [payload[position : position + content_bytes]])
            file.sync_data()
            file.close()
            position += content_bytes
        self._fs.sync_directory(_INCOMING)

    def _open(self) -> Engine:
        self._starts += 1
        engine = Engine.open(self._fs, _DIRECTORY, TINY_OPTIONS, f"start{self._starts}")
        self._engine = engine
        self._load()
        return engine

    def _load(self) -> None:
        stored = self._engine.get_blocking(_HEAD_KEY)
        self.head = self._first if stored is None else decode_head(stored.decode())
        assert self.head.applied_index == self._engine.applied_index, "the state does not belong to its index"
        assert content_hash(self.contents()) == self.head.content, "the content is not what its head says"
