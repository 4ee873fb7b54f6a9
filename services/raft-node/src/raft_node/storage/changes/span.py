"""The changes in a batch of writes, as their writer counts changes: a note that travels beside the batch.

This package stores the note and finds batches by it. What a change is, and what the note about removals says, only the
writer knows (``raft_node.kv.changes``).
"""

from __future__ import annotations

from typing import NamedTuple


class Span(NamedTuple):
    """The changes of one batch.

    Attributes:
        after: The number of the last change before the batch.
        upto: The number of the batch's last change; ``after`` if it has none.
        time_us: The time of the batch, in microseconds; it never falls from batch to batch.
        notes: The bytes that the writer notes beside the batch.
    """

    after: int = 0
    upto: int = 0
    time_us: int = 0
    notes: bytes = b""


NO_SPAN = Span()
