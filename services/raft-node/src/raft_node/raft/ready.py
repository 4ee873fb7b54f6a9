"""The duties that the core gives its driver: the only way out of it.

The driver's duties, in this order, each time ``RaftNode.ready`` gives it something:

1. Send ``messages`` at once, in order. Nothing in them depends on what is not yet durable.
2. If there is a ``write``, give it to the log writer. Only one write is under way at a time; while it is, ``ready`` is
   asked with ``writer_idle=False`` and gives none.
3. When that write is durable, call ``RaftNode.persisted(write.sequence)``; the votes and acknowledgements that waited
   for it come with the next ``Ready.messages``. If it fails, stop the process.
4. Apply ``committed`` in order, then call ``RaftNode.applied(index of the last)``.
5. Serve each of ``read_states`` once its index has been applied. Fail the reads in ``reads_dropped``.
6. Hand ``events`` to the log and the metrics.
7. Send each of ``snapshots_wanted`` a snapshot of the state, no older than the log's first entry, and then call
   ``RaftNode.snapshot_sent`` or ``snapshot_failed``. A peer is named once for each time that it falls so far behind.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from raft_node.entry import Entry
from raft_node.raft.messages import Message
from raft_node.raft.types import NodeId, ReadState, Role, Write


class Event(NamedTuple):
    """An event worth a log line, such as ``became_leader``; ``fields`` are names and plain values."""

    name: str
    fields: dict[str, object]


class SoftState(NamedTuple):
    """The state that need not be durable. ``leader`` is the leader's name, empty while none is known."""

    role: Role
    term: int
    leader: str


class Ready(NamedTuple):
    """One round of duties; see the module's text for their order."""

    messages: Sequence[Message]
    write: Write | None
    committed: Sequence[Entry]
    read_states: Sequence[ReadState]
    reads_dropped: Sequence[int]
    events: Sequence[Event]
    snapshots_wanted: Sequence[NodeId] = ()
