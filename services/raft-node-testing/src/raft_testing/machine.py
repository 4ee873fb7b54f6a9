"""The state machine of the simulated shard: a few keys, and hashes over all entries and contents.

Two hashes tell whether replicas agree. One is chained over all applied entries. The other is made of the keys and
values that are there, and is computed anew from them whenever a state is loaded, so that one which was stored or copied
wrongly shows.

``MemoryStore`` keeps the durable state as a value. ``raft_testing.engine_store`` does it with the real engine.

Invariants:
1. The durable state includes its applied index; both change together.
2. A state never takes the place of a later one.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from hashlib import blake2b
from typing import NamedTuple, Protocol

from raft_node.entry import Entry, EntryKind
from raft_node.raft.configuration import decode_configuration, encode_configuration
from raft_node.raft.types import Configuration


class Head(NamedTuple):
    """The description of a state.

    Attributes:
        applied_index: The last entry that the state includes.
        applied_term: The term of that entry.
        timestamp_us: The log time of that entry, in microseconds.
        configuration: The members as of that entry.
        chain: The hash over all entries.
        content: The hash over all keys and values.
    """

    applied_index: int
    applied_term: int
    timestamp_us: int
    configuration: Configuration
    chain: bytes = b""
    content: int = 0

    @property
    def digest(self) -> bytes:
        """The hash that all replicas must have at this index."""
        return self.chain + self.content.to_bytes(8, "little")


class Snapshot(NamedTuple):
    """A durable state: its head, and its bytes."""

    head: Head
    payload: bytes


class StateStore(Protocol):
    """The state of one node, as reads see it, and its durable copy."""

    @property
    def head(self) -> Head:
        """The head of the state that reads see."""

    @property
    def durable_index(self) -> int:
        """The last entry in the durable copy."""

    def apply(self, entry: Entry) -> str | None:
        """Applies the next entry; returns the text for its sender, None if there is none."""

    def has_run_out(self, key: str, now_us: int) -> bool:
        """Whether the value of a key has expired by a clock, though not yet by the log clock."""

    def get(self, key: str) -> str | None:
        """The value of a key."""

    def contents(self) -> dict[str, str]:
        """All keys and values."""

    def flush(self) -> None:
        """Makes the state durable."""

    def snapshot(self) -> Snapshot:
        """The durable state, to be sent to another node."""

    def adopt(self, snapshot: Snapshot) -> None:
        """Replaces the own state by a received one, durably."""

    def crash(self, chance: random.Random, adopting: Snapshot | None = None) -> None:
        """Cuts the power, perhaps in the middle of ``adopt``, and loads the durable state again."""


def encode_put(key: str, value: str) -> bytes:
    """The command that writes one key."""
    return f"{key} {value}".encode()


def content_of(key: str, value: str) -> int:
    """The part of a key and its value in the hash over the content; the parts are joined by exclusive or."""
    return int.from_bytes(blake2b(f"{key}\0{value}".encode(), digest_size=8).digest(), "little")


def content_hash(data: dict[str, str]) -> int:
    """The hash over a whole content."""
    total = 0
    for key, value in data.items():
        total ^= content_of(key, value)
    return total


def advance(head: Head, entry: Entry, get: Callable[[str], str | None]) -> tuple[Head, tuple[str, str] | None]:
    """The head after one more entry, and the key and value that it writes, if any."""
    assert entry.index == head.applied_index + 1, f"applied {head.applied_index}, then {entry.index}"
    chain = blake2b(head.chain + entry.data, digest_size=8).digest()
    configuration, content, change = head.configuration, head.content, None
    if entry.kind == EntryKind.COMMAND:
        key, value = entry.command.decode().split(" ", 1)
        before = get(key)
        if before is not None:
            content ^= content_of(key, before)
        content ^= content_of(key, value)
        change = key, value
    elif entry.kind == EntryKind.CONFIGURATION:
        configuration = decode_configuration(entry.command)
    return Head(entry.index, entry.term, entry.timestamp_us, configuration, chain, content), change


def encode_head(head: Head) -> str:
    """A head as text."""
    index, term, timestamp_us, configuration, chain, content = head
    return json.dumps([index, term, timestamp_us, encode_configuration(configuration).hex(), chain.hex(), content])


def decode_head(text: str) -> Head:
    """The opposite of ``encode_head``."""
    index, term, timestamp_us, configuration, chain, content = json.loads(text)
    return Head(
        index, term, timestamp_us, decode_configuration(bytes.fromhex(configuration)), bytes.fromhex(chain), content
    )


class MemoryStore:
    """A state in memory, and the copy of it that survives a crash."""

    def __init__(self, configuration: Configuration) -> None:
        self.head = Head(0, 0, 0, configuration)
        self._data: dict[str, str] = {}
        self._kept = self.head
        self._kept_data: dict[str, str] = {}

    @property
    def durable_index(self) -> int:
        """The last entry in the copy."""
        return self._kept.applied_index

    def apply(self, entry: Entry) -> None:
        """Applies the next entry."""
        self.head, change = advance(self.head, entry, self._data.get)
        if change is not None:
            self._data[change[0]] = change[1]

    def has_run_out(self, key: str, now_us: int) -> bool:
        """Always False: nothing in this state expires."""
        return False

    def get(self, key: str) -> str | None:
        """The value of a key."""
        return self._data.get(key)

    def contents(self) -> dict[str, str]:
        """All keys and values."""
        return dict(self._data)

    def flush(self) -> None:
        """Makes the state durable."""
        self._kept, self._kept_data = self.head, dict(self._data)

    def snapshot(self) -> Snapshot:
        """The copy, as bytes."""
        return Snapshot(self._kept, json.dumps(self._kept_data).encode())

    def adopt(self, snapshot: Snapshot) -> None:
        """Replaces the own state by a received one."""
        assert snapshot.head.applied_index > self.head.applied_index, "a state never goes back"
        data = json.loads(snapshot.payload)
        assert content_hash(data) == snapshot.head.content, "the content is not what its head says"
        self._kept, self._kept_data = snapshot.head, data
        self._load()

    def crash(self, chance: random.Random, adopting: Snapshot | None = None) -> None:
        """Keeps the durable copy, or the snapshot that was about to replace it."""
        if adopting is not None and chance.random() < 0.5:
            self.adopt(adopting)
        self._load()

    def _load(self) -> None:
        self.head, self._data = self._kept, dict(self._kept_data)
