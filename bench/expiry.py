"""Measures the bytes that expired keys leave on disk: ``make bench-expiry``, or ``python -m bench.expiry``.

It puts many keys with a time to live through the state machine into the engine, on a real disk and with the options
that users get, has the log's clock pass their time, removes them as a leader does, and then has flushes and merges done
as a node does them while nothing is written. It prints the bytes of all SSTables before and after, and what is left in
them; it ends with exit code 1 if more is left than a hundredth.

How such keys go: once the log's clock has passed their time they are invisible. The leader finds their notes, which lie
in the order of their times, and proposes removals of 512 at a time; each is a tombstone for the key and one for its
note. A memtable whose tombstones hide much is flushed before it is full; merges take it down, further while little is
written (``DOUGDB_IDLE_MERGE_MS``), and at the lowest level key and tombstone both go.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

if __package__ in (None, ""):  # Started by its path, as `make bench-expiry` does.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from doug_wire import command as commands
from doug_wire.command import Opcode
from raft_node import entry as entries
from raft_node.entry import EntryKind
from raft_node.kv import keyspace, partitions
from raft_node.kv.keyspace import split_due_key
from raft_node.kv.operations.expiry import NOTES_MAX, encode_expire
from raft_node.kv.state_machine import StateMachine
from raft_node.storage.engine import Engine
from raft_node.storage.files import FileSystem, OsFileSystem
from raft_node.storage.options import EngineOptions
from raft_testing.engines import settle

SHARE_MAX = 0.01
TTL_MS = 60_000
STEP = 1_000
BEGIN_US = 1_700_000_000_000_000
NOTES_END = keyspace.DUE_PREFIX[:-1] + bytes((keyspace.DUE_PREFIX[-1] + 1,))
USERS_END = bytes((keyspace.USER_PREFIX[0] + 1,))


class Replica:
    """A state machine over an engine, driven on one thread."""

    def __init__(self, fs: FileSystem, directory: str, options: EngineOptions) -> None:
        self._fs, self._directory = fs, directory
        self.engine = Engine.open(fs, directory, options, "bench")
        self._machine = StateMachine.open(self.engine)
        self.engine.begin_history(self._machine.revision)
        self.apply([commands.encode(Opcode.CREATE_SHARD, b"", value=partitions.encode_create_shard(0, 1))], BEGIN_US)

    def apply(self, encoded: Iterable[bytes], now_us: int) -> None:
        """Applies commands at a time, and does the flushes and merges that are due."""
        first = self.engine.applied_index + 1
        waiting = [
            entries.encode(index, 1, EntryKind.COMMAND, now_us, command) for index, command in enumerate(encoded, first)
        ]
        while waiting:
            done = len(self._machine.apply(waiting))
            waiting = waiting[done:]
            needed = self._machine.needed
            if needed:
                self._machine.loaded([(each.key, self.engine.get_blocking(each.key)) for each in needed])
        settle(self.engine, self._fs, self._directory)

    def put(self, keys: int, value_bytes: int) -> None:
        """Puts keys that expire."""
        random = Random(keys)
        for start in range(0, keys, STEP):
            some = range(start, min(start + STEP, keys))
            self.apply(
                (
                    commands.encode(
                        Opcode.PUT, b"expiry/%010d" % number, b"", random.randbytes(value_bytes), ttl=TTL_MS
                    )
                    for number in some
                ),
                BEGIN_US,
            )

    def expire(self, now_us: int) -> int:
        """Removes the expired keys, as ``raft_node.runtime`` does; returns how many entries that took."""
        count, after = 0, keyspace.DUE_PREFIX
        while True:
            found = [note for note, _ in islice(self.engine.scan(after, NOTES_END), NOTES_MAX)]
            due = [note for note in found if split_due_key(note)[0] <= now_us]
            if not due:
                return count
            self.apply([commands.encode(Opcode.EXPIRE, b"", value=encode_expire(due))], now_us)
            count, after = count + 1, due[-1]

    def rest(self) -> None:
        """Runs the flushes and merges that a node runs while nothing is written."""
        settle(self.engine, self._fs, self._directory, idle=True)
        if self.engine.hides_much:
            self.engine.rotate()
            settle(self.engine, self._fs, self._directory, idle=True)

    def left(self) -> dict[str, int]:
        """The bytes and records of SSTables, and the keys and notes that reads find."""
        tables = self.engine.tables()
        return {
            "table_bytes": sum(table.size_bytes for table in tables),
            "table_records": sum(table.properties.entries for table in tables),
            "keys": sum(1 for _ in self.engine.scan(keyspace.USER_PREFIX, USERS_END)),
            "notes": sum(1 for _ in self.engine.scan(keyspace.DUE_PREFIX, NOTES_END)),
        }


def run(fs: FileSystem, directory: str, keys: int, value_bytes: int, options: EngineOptions) -> dict[str, Any]:
    """Puts keys, lets them expire, and returns all figures."""
    replica = Replica(fs, directory, options)
    begun = time.monotonic()
    replica.put(keys, value_bytes)
    replica.engine.rotate()
    replica.rest()
    before, put_s = replica.left(), time.monotonic() - begun
    begun = time.monotonic()
    removals = replica.expire(BEGIN_US + TTL_MS * 1000)
    replica.rest()
    figures = {
        "keys": keys,
        "before": before,
        "after": replica.left(),
        "removals": removals,
        "put_s": round(put_s, 1),
        "gone_s": round(time.monotonic() - begun, 1),
    }
    replica.engine.close()
    return figures


def beyond(figures: dict[str, Any]) -> list[str]:
    """The remains that are beyond the limits, as sentences."""
    before, after = figures["before"], figures["after"]
    judged = {
        "keys or notes are left": after["keys"] + after["notes"] > 0,
        "too many bytes are left": after["table_bytes"] > SHARE_MAX * before["table_bytes"],
        "too many records are left": after["table_records"] > SHARE_MAX * before["table_records"],
        "there was nothing to begin with": before["keys"] != figures["keys"],
    }
    return [what for what, bad in judged.items() if bad]


def main() -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description="What is left on disk of keys that have expired.")
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--value-bytes", type=int, default=100)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dougdb-bench-", ignore_cleanup_errors=True) as folder:
        figures = run(OsFileSystem(), folder, options.keys, options.value_bytes, EngineOptions())
    print(json.dumps(figures, indent=2))
    bad = beyond(figures)
    for what in bad:
        print(what, file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
