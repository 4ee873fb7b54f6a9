"""The values that the core, the log and the driver share.

These are plain facts without behaviour; the rules live in ``raft_node.raft.node``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, Protocol

from raft_node.entry import Entry


class NodeId(NamedTuple):
    """A member: a name, and the incarnation that its volumes were given at their first start.

    Two members are the same only if both agree: a wiped volume gets a new incarnation, and so can never vote twice.
    """

    name: str
    incarnation: int


class Role(Enum):
    """The roles that a node can have."""

    FOLLOWER = "follower"
    PRE_CANDIDATE = "pre-candidate"
    CANDIDATE = "candidate"
    LEADER = "leader"
    LEARNER = "learner"


class HardState(NamedTuple):
    """The state that must be durable before a vote or an append is answered (the paper, figure 2).

    ``commit_index`` is a hint that spares work after a restart; losing it is harmless.
    """

    term: int = 0
    voted_for: NodeId | None = None
    commit_index: int = 0


@dataclass(frozen=True, slots=True)
class Configuration:
    """The members of a shard. Invariant: no name appears twice.

    Attributes:
        voters: The members that count for a quorum.
        learners: The members that only follow.
        addresses: Names and Raft addresses, sorted, of those members whose address came with them; the settings name
            the others.
    """

    voters: tuple[NodeId, ...]
    learners: tuple[NodeId, ...] = ()
    addresses: tuple[tuple[str, str], ...] = ()


NO_MEMBERS = Configuration(())
"""The configuration of a node that starts without a log, to be admitted by a shard's leader. It is never proposed."""


class LogReader(Protocol):
    """The stored log as the core reads it. Every answer is about durable entries only."""

    @property
    def first_index(self) -> int:
        """The first entry that the log holds; 1 before any compaction."""

    @property
    def last_index(self) -> int:
        """The last durable entry; ``first_index - 1`` when there is none."""

    def term(self, index: int) -> int:
        """The term of an entry in ``[first_index - 1, last_index]``; 0 for index 0."""

    @property
    def configurations(self) -> Sequence[int]:
        """The indexes of all CONFIGURATION entries, in their order."""

    def entries(self, start: int, end: int, bytes_max: int) -> Sequence[Entry]:
        """The entries ``[start, end)``, cut after the one that passes ``bytes_max``; at least one if there is one."""


class Randomness(Protocol):
    """What the core draws from; it is given to it, so that a simulation can repeat every draw."""

    def randrange(self, start: int, stop: int, /) -> int:
        """A number in ``[start, stop)``."""

    def getrandbits(self, count: int, /) -> int:
        """A number of so many bits."""


class Write(NamedTuple):
    """One append to the log: everything in it becomes durable together, in one fsync.

    Invariant: when ``truncate_from`` is set, the stored entries from that index on are to be dropped first, and
    ``entries`` begins there.
    """

    sequence: int
    hard_state: HardState | None
    truncate_from: int | None
    entries: Sequence[Entry]


class Proposal(NamedTuple):
    """A command that is to become an entry: its ``EntryKind``, its bytes, and their CRC32C if it came with them."""

    kind: int
    command: bytes
    crc: int | None


class ReadState(NamedTuple):
    """A read that was confirmed: it may be served once ``read_index`` has been applied."""

    context: int
    read_index: int
