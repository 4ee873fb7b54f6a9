"""Plain fakes that more than one test needs."""

from __future__ import annotations

from collections.abc import Sequence

from raft_node.storage.changes.span import NO_SPAN, Span
from raft_node.storage.tables.reads import BlockNeeded


class DictStore:
    """The state machine's ``Store`` in a dictionary; the test decides when it is stalled.

    Attributes:
        data: The written values by key; None for a tombstone.
        applied_index: The last entry whose effects are in the store.
        stalled: Whether applying must wait.
    """

    def __init__(self) -> None:
        self.data: dict[bytes, bytes | None] = {}
        self.applied_index = 0
        self.stalled = False

    def write(
        self,
        batch: Sequence[tuple[bytes, bytes | None]],
        applied_index: int,
        applied_term: int,
        span: Span = NO_SPAN,
    ) -> None:
        """See ``Store``."""
        self.data.update(batch)
        self.applied_index = applied_index

    def get_blocking(self, key: bytes) -> bytes | None:
        """See ``Store``."""
        return self.data.get(key)

    def multi_get(self, keys: Sequence[bytes]) -> list[bytes | BlockNeeded | None]:
        """See ``Store``."""
        return [self.data.get(key) for key in keys]
