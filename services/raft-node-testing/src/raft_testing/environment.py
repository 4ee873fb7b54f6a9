"""The parts that the simulated nodes of a run share: clock, random generator, checkers, and the nodes' habits.

It knows no node. ``TICK_US`` is the length of an ordinary tick, ``EPOCH_US`` the wall-clock time at which a run begins.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from raft_node.raft.config import RaftConfig
from raft_node.raft.messages import Message
from raft_node.raft.node import RaftNode
from raft_testing.checkers import Checkers
from raft_testing.clock import Clock
from raft_testing.snapshots import SnapshotMessage

TICK_US = 10_000
EPOCH_US = 1_700_000_000_000_000


class Outcome(Protocol):
    """Takes the answer to a request."""

    def __call__(self, status: str, value: str | None = None, leader: str = "") -> None:
        """``status`` is ``ok``, ``refused`` (certainly without effect) or ``lost`` (the connection broke)."""


@dataclass(frozen=True, slots=True)
class Habits:
    """The nodes' own activities in a run.

    Attributes:
        flush_permille: How many of a thousand batches of applied entries are followed by a flush.
        kept_entries: How many entries before the durable state a compacted log keeps; None: the log is not compacted.
        snapshot_chunks: Into about how many chunks a snapshot is cut; 0: a random number.
        install_max_us: By how much at most each step of installing a snapshot takes longer than a sync of the log.
        resign_us: A leader steps down if a log write takes longer than this; None: it does not.
    """

    flush_permille: int = 50
    kept_entries: int | None = None
    snapshot_chunks: int = 0
    install_max_us: int = 0
    resign_us: int | None = None


@dataclass(slots=True)
class Environment:
    """The parts that the nodes of a run share."""

    clock: Clock
    chance: random.Random
    counters: Counter[str]
    checkers: Checkers
    send: Callable[[Message | SnapshotMessage], None]
    trace: Callable[[str], None]
    core: type[RaftNode]
    config: RaftConfig
    habits: Habits
