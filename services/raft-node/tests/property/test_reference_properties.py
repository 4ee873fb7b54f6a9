"""The state machine beside a reference that shares nothing with it: random commands, cold keys, crashes, snapshots."""

from __future__ import annotations

import random

import pytest

from doug_wire import command as commands
from doug_wire.command import Opcode
from raft_node.entry import Entry, EntryKind, encode
from raft_node.kv.operations.expiry import encode_expire
from raft_node.kv.operations.tokens import encode_limits
from raft_node.kv.operations.work import Limits
from raft_node.kv.partitions import encode_create_shard
from raft_node.raft.types import Configuration, NodeId
from raft_testing.environment import EPOCH_US
from raft_testing.replica_store import Judge, ReplicaStore, Told
from raft_testing.wishes import SCAN, Wishes

CONFIGURATION = Configuration((NodeId("n1", 1),))
WISHES = 250


class Log:
    """Entries that replicas apply, each whenever it wants.

    Attributes:
        now_us: The log time of the next entry; a leader's clock may also stand still.
    """

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.judge = Judge(lambda: self.now_us)
        self.now_us = EPOCH_US
        self.entries: list[Entry] = []
        store = type("Judged", (ReplicaStore,), {"judge": self.judge})
        self.replicas: list[ReplicaStore] = [store(CONFIGURATION), store(CONFIGURATION)]
        self.append(commands.encode(Opcode.CREATE_SHARD, b"", value=encode_create_shard(0, 1)))
        # By turns, tokens are bounded by their number and by their bytes.
        bounds = (20, 1 << 30) if seed % 2 else (1 << 30, 3000)
        limits = encode_limits(Limits(3_000_000, *bounds))
        self.append(commands.encode(Opcode.SET_LIMITS, b"", value=limits))

    def append(self, command: bytes, kind: EntryKind = EntryKind.COMMAND) -> None:
        self.entries.append(encode(len(self.entries) + 1, 1, kind, self.now_us, command))

    def apply(self, replica: ReplicaStore, count: int) -> Told | None:
        """Has a replica apply so many entries more; what became of the last one."""
        told = None
        for entry in self.entries[replica.head.applied_index :][:count]:
            told = Told.decode(replica.apply(entry))
        return told


def disturb(log: Log) -> None:
    """What happens to replicas between two entries."""
    first, second = log.replicas
    match log.chance.choice(("flush", "crash", "snapshot", "catch up", "read", "expire", "", "", "")):
        case "flush":
            first.flush()
        case "crash":
            first.crash(log.chance)
            log.apply(first, len(log.entries))
        case "snapshot":
            first.flush()
            if second.head.applied_index < first.head.applied_index:
                second.adopt(first.snapshot())
        case "catch up":
            log.apply(second, log.chance.randint(1, 10))
        case "read":
            for key in ("a", "b", "c", "n", "m", SCAN):
                first.get(key)
        case "expire":
            notes = first.due(log.now_us + log.chance.choice((0, 1_000_000)))
            log.append(commands.encode(Opcode.EXPIRE, b"", value=encode_expire(notes)))
            log.apply(first, 1)


@pytest.mark.parametrize("seed", range(8))
def test_whatever_is_sent_the_state_machine_does_what_the_reference_does(seed: int) -> None:
    log = Log(seed)
    first, second = log.replicas
    wishes = Wishes(log.chance, "1")
    sent: list[bytes] = []
    for _ in range(WISHES):
        request = wishes.draw()
        if not request.command:
            continue
        again = bool(sent) and log.chance.random() < 0.15
        command = log.chance.choice(sent[-30:]) if again else request.command
        sent.append(command)
        log.now_us += log.chance.choice((0, 0, 1, 10_000, 100_000))
        log.append(command)
        told = log.apply(first, len(log.entries))
        assert told is not None
        if not again and request.key and told.result.revision:
            wishes.seen[request.key.encode()] = told.result.revision
        disturb(log)
    log.apply(second, len(log.entries))
    assert first.contents() == second.contents()
    assert first.head.digest == second.head.digest


def test_all_of_it_comes_about() -> None:
    """Or the test above shows nothing."""
    seen = set()
    for seed in range(8):
        log = Log(seed)
        wishes = Wishes(log.chance, "1")
        for _ in range(WISHES):
            request = wishes.draw()
            log.now_us += 5_000
            if request.command:
                log.append(request.command)
                log.append(request.command)
        log.apply(log.replicas[0], len(log.entries))
        seen |= set(log.judge.statuses)
    assert seen >= {
        *("OK", "OK_replayed", "NOT_FOUND", "PRECONDITION_FAILED", "NOT_A_NUMBER", "OVERFLOW"),
        *("TOKEN_REUSED", "TOKENS_FULL", "PRECONDITION_FAILED_replayed"),
    }
