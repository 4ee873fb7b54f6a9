"""The state of a simulated node that runs the real state machine, and the judge of its results.

Each outcome is compared with that of ``raft_testing.reference`` for the same entry, on every node that applies it and
at any time: after a crash, from a snapshot, as leader or follower. Reads and scans are compared with the state of the
reference at the applied index at which they were served.

Invariants:
1. A snapshot is the whole keyspace and nothing else.
2. Each answer to a client names its entry or applied index, so that the client's history can be judged.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from typing import NamedTuple

from doug_wire import pipe
from doug_wire.pipe import ResultRecord, Status
from doug_wire.scan import decode_page
from raft_node.entry import Entry, EntryKind
from raft_node.kv.keyspace import DUE_PREFIX, split_due_key, user_key
from raft_node.kv.operations.work import Limits
from raft_node.kv.scan import Scan, ScannedState, ScanOptions
from raft_node.kv.state_machine import StateMachine
from raft_node.raft.configuration import decode_configuration
from raft_node.raft.types import Configuration
from raft_node.storage.changes.span import NO_SPAN, Span
from raft_node.storage.memtable import Batch
from raft_node.storage.tables.iterators import Columns
from raft_node.storage.tables.reads import BlockNeeded
from raft_testing.checkers import InvariantViolationError
from raft_testing.machine import Head, Snapshot
from raft_testing.reference import Reference
from raft_testing.watchers import NodeHistory, Watchers
from raft_testing.wishes import SCAN

CLOCK_STEP_MAX_US = 5_000_000
"""The largest error of a node's wall clock, in microseconds."""


class Told(NamedTuple):
    """The answer to a client.

    Attributes:
        at: The entry of a write; of a read the applied index at which it was served.
        result: The result of the write or the read.
    """

    at: int
    result: ResultRecord

    def encode(self) -> str:
        """The answer as text."""
        return f"{self.at} {pipe.encode_result(*self.result).hex()}"

    @classmethod
    def decode(cls, text: str) -> Told:
        """The opposite of ``encode``."""
        at, record = text.split(" ")
        (result,) = pipe.decode_results(bytes.fromhex(record))
        return cls(int(at), result)


class Judge:
    """Compares replicas with the reference; one for all nodes of a run.

    Args:
        now_us: Gives the true time in microseconds.

    Attributes:
        statuses: How often each status came, counted at the node that applied the entry first.
        watchers: The watches of the run.
    """

    def __init__(self, now_us: Callable[[], int]) -> None:
        self._now_us = now_us
        self.statuses: Counter[str] = Counter()
        self.reference = Reference()
        self.watchers = Watchers()
        self._expected: list[ResultRecord] = []

    def applied(self, entry: Entry, result: ResultRecord) -> None:
        """A node has applied an entry."""
        if entry.index == len(self._expected) + 1:
            ahead_us = entry.timestamp_us - self._now_us()
            _require(ahead_us <= CLOCK_STEP_MAX_US, f"entry {entry.index} is of {ahead_us} us from now")
            expected = self.reference.apply(entry)
            self._expected.append(expected)
            if entry.kind == EntryKind.COMMAND:
                self.statuses[Status(expected.status).name + ("_replayed" if expected.replayed else "")] += 1
        expected = self._expected[entry.index - 1]
        _require(result == expected, f"entry {entry.index} gives {result}, and has to give {expected}")

    def read(self, key: str, index: int, result: ResultRecord) -> None:
        """A node is about to answer a read."""
        state = self.reference.states[index]
        found = state.get(key.encode())
        expected = ResultRecord(0, Status.NOT_FOUND, 0, b"", b"") if found is None else found.result()
        _require(result == expected, f"a read of {key} at {index} gives {result}, and has to give {expected}")

    def scanned(self, index: int, found: list[tuple[bytes, int, bytes]]) -> None:
        """A node has scanned all keys."""
        expected = self.reference.states[index].scan()
        _require(found == expected, f"a scan at {index} gives {found}, and has to give {expected}")


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise InvariantViolationError("reference", what)


class _Keyspace:
    """The state machine's store in a dictionary; some keys count as on disk, and must be loaded first."""

    def __init__(self, data: dict[bytes, bytes], applied_index: int, chance: random.Random) -> None:
        self.data = data
        self.applied_index = applied_index
        self.written: tuple[Batch, Span] = ((), NO_SPAN)
        self._chance = chance

    def write(
        self,
        batch: Sequence[tuple[bytes, bytes | None]],
        applied_index: int,
        applied_term: int,
        span: Span = NO_SPAN,
    ) -> None:
        for key, value in batch:
            if value is None:
                self.data.pop(key, None)
            else:
                self.data[key] = value
        self.applied_index = applied_index
        self.written = batch, span

    def get_blocking(self, key: bytes) -> bytes | None:
        return self.data.get(key)

    def multi_get(self, keys: Sequence[bytes]) -> list[bytes | BlockNeeded | None]:
        return [self._cold(key) if self._chance.random() < 0.05 else self.data.get(key) for key in keys]

    @staticmethod
    def _cold(key: bytes) -> BlockNeeded:
        needed = BlockNeeded.__new__(BlockNeeded)
        needed.key = key
        return needed

    def columns(self, start: bytes, end: bytes | None, reverse: bool) -> Iterator[Columns]:
        keys = sorted(key for key in self.data if start <= key and (end is None or key < end))
        for first in range(0, len(keys), 2):
            piece = keys[first : first + 2]
            yield Columns(piece, [self.data[key] for key in piece], False)


class ReplicaStore:
    """A ``StateStore``. The run sets ``judge`` before the first entry is applied."""

    judge: Judge
    head: Head
    _keyspace: _Keyspace
    _machine: StateMachine
    _history: NodeHistory

    def __init__(self, configuration: Configuration) -> None:
        self._first = Head(0, 0, 0, configuration)
        self._kept: tuple[Head, dict[bytes, bytes]] = (self._first, {})
        # This only chooses the keys that are cold; no outcome may depend on it.
        self._chance = random.Random(len(configuration.voters))  # noqa: S311
        self._load()

    @property
    def durable_index(self) -> int:
        """The last entry in the copy."""
        return self._kept[0].applied_index

    def apply(self, entry: Entry) -> str:
        """Applies the next entry with the real state machine, which may have to wait for keys on disk."""
        machine, data = self._machine, self._keyspace.data
        while not (outcomes := machine.apply([entry])):
            machine.loaded([(needed.key, data.get(needed.key)) for needed in machine.needed])
        (outcome,) = outcomes
        told = Told(entry.index, outcome.record(0))
        self.judge.applied(entry, told.result)
        self._history.add(*self._keyspace.written)
        self.judge.watchers.applied(entry.index, *self._keyspace.written)
        self.judge.watchers.look(self._history.watches)
        head = self.head
        configuration = head.configuration
        if entry.kind == EntryKind.CONFIGURATION:
            configuration = decode_configuration(entry.command)
        chain = blake2b(head.chain + entry.data, digest_size=8).digest()
        content = self._content()
        self.head = Head(entry.index, entry.term, entry.timestamp_us, configuration, chain, content)
        return told.encode()

    def has_run_out(self, key: str, now_us: int) -> bool:
        """See ``raft_node.rpc.doug.replica.has_run_out`` and ``StateMachine.may_be_due``."""
        if key == SCAN:
            return self._machine.may_be_due(now_us)
        found = self._machine.visibility.find(key.encode(), self._keyspace.data.get(user_key(key.encode())))
        return found is not None and 0 < found.expires_us <= now_us

    def get(self, key: str) -> str:
        """The answer to a read of one key, or of all keys."""
        index = self.head.applied_index
        if key == SCAN:
            self.judge.scanned(index, self._scan())
            return Told(index, ResultRecord(0, Status.OK, 0, b"", b"")).encode()
        found = self._machine.visibility.find(key.encode(), self._keyspace.data.get(user_key(key.encode())))
        result = ResultRecord(0, Status.NOT_FOUND, 0, b"", b"")
        if found is not None:
            result = ResultRecord(
                0,
                Status.OK,
                found.revision,
                found.content_type,
                found.value,
                found.expires_at_ms,
                found.content_encoding,
            )
        self.judge.read(key, index, result)
        return Told(index, result).encode()

    def due(self, now_us: int) -> list[bytes]:
        """The notes of values that have expired by a clock."""
        notes = [key for key in sorted(self._keyspace.data) if key.startswith(DUE_PREFIX)]
        return [note for note in notes if split_due_key(note)[0] <= now_us]

    @property
    def created(self) -> bool:
        """Whether the shard owns its slots."""
        return self._machine.created

    @property
    def limits(self) -> Limits:
        """The limits of tokens: how long they are kept, and how many."""
        return self._machine.limits

    def contents(self) -> dict[str, str]:
        """The whole keyspace."""
        return {key.hex(): value.hex() for key, value in self._keyspace.data.items()}

    def flush(self) -> None:
        """Makes the state durable."""
        self._kept = self.head, dict(self._keyspace.data)
        self._history.flush()

    def snapshot(self) -> Snapshot:
        """The copy, as bytes."""
        head, data = self._kept
        return Snapshot(head, json.dumps({key.hex(): value.hex() for key, value in data.items()}).encode())

    def adopt(self, snapshot: Snapshot) -> None:
        """Replaces the own state by a received one."""
        assert snapshot.head.applied_index > self.head.applied_index, "a state never goes back"
        data = json.loads(snapshot.payload)
        self._kept = snapshot.head, {bytes.fromhex(key): bytes.fromhex(value) for key, value in data.items()}
        self._load()
        assert self._content() == snapshot.head.content, "the content is not what its head says"

    def crash(self, chance: random.Random, adopting: Snapshot | None = None) -> None:
        """Keeps the durable copy, or the snapshot that was about to replace it."""
        if adopting is not None and chance.random() < 0.5:
            self.adopt(adopting)
        self._load()

    def _load(self) -> None:
        self.head, data = self._kept
        self._keyspace = _Keyspace(dict(data), self.head.applied_index, self._chance)
        self._machine = StateMachine.open(self._keyspace)
        self._history = NodeHistory(self._machine)

    def _scan(self) -> list[tuple[bytes, int, bytes]]:
        machine = self._machine
        state = ScannedState(self._keyspace.columns, machine.epochs, machine.clock_us, machine.revision)
        scan = Scan(state, ScanOptions(page_bytes=40))
        found = []
        while True:
            step = scan.step()
            found += [(record.key, record.revision, record.value) for record in decode_page(b"".join(step.records))]
            if step.last:
                return found

    def _content(self) -> int:
        digest = blake2b(digest_size=8)
        for key, value in sorted(self._keyspace.data.items()):
            digest.update(b"%d %d " % (len(key), len(value)) + key + value)
        return int.from_bytes(digest.digest(), "little")
