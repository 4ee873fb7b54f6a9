"""What the simulated nodes of a run share: the clock, chance, the checkers, and how nodes behave by themselves.

It knows no node. ``TICK_US`` is the length of an ordinary tick, ``EPOCH_US`` when a run begins on a wall clock.
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
    """Where a request's answer goes: a value (for a get), or why it was refused."""

    def __call__(self, status: str, value: str | None = None, leader: str = "") -> None:
        """``status`` is ``ok``, ``refused`` (certainly without effect) or ``lost`` (the connection broke)."""


@dataclass(frozen=True, slots=True)
class Habits:
    """What a run's nodes do by themselves.

    Attributes:
        flush_permille: How often, of a thousand times, what was just applied is made durable.
        kept_entries: The log is compacted until so many entries behind the durable state; None keeps all of it.
        snapshot_chunks: Into how many chunks a snapshot is cut, about; 0 draws it.
        install_max_us: How much longer than a sync of the log each step of installing a snapshot takes, at most.
        resign_us: A leader leaves the lead when its log write takes longer; None if it does not.
    """

    flush_permille: int = 50
    kept_entries: int | None = None
    snapshot_chunks: int = 0
    install_max_us: int = 0
    resign_us: int | None = None


@dataclass(slots=True)
class Environment:
    """What the nodes of a run share."""

    clock: Clock
    chance: random.Random
    counters: Counter[str]
    checkers: Checkers
    send: Callable[[Message | SnapshotMessage], None]
    trace: Callable[[str], None]
    core: type[RaftNode]
    config: RaftConfig
    habits: Habits
