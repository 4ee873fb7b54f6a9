"""The sending end of Doug.Watch: batches of changes, as they are applied here and as fast as the caller reads them.

A batch is written only when HTTP/2's window lets the one before it go, so that a slow caller costs a batch of memory;
it goes on from its position, out of the history, for as long as that reaches. Which changes there are, only
``raft_node.runtime.reads.watches`` knows.

Invariants:
1. ``WatchBatch.revision`` never runs ahead of what was sent: it rides with the changes that it speaks of.
2. A node that cannot tell how the shard stands ends its streams, so that callers go to another one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from doug.v1 import doug_pb2 as pb
from doug_wire import command as commands
from doug_wire.watch import PLACE_MAX, ChangeKind, decode_changes
from raft_node.errors import UnavailableError
from raft_node.kv.changes import Filter
from raft_node.rpc.doug.replica import Replica
from raft_node.runtime.reads.watches import HistoryGoneError, Position, Told, Watch

Write = Callable[[pb.WatchBatch], Awaitable[None]]

PROGRESS_S = 1.0
"""The time between two messages of a watch while nothing changes."""
PROGRESS_MIN_S = 0.1
"""The least time between two such messages, whatever is asked for: each costs as much as one with changes."""
_GATHER_S = 0.005
"""The time for which changes are gathered into one message, for a message costs more than its records."""
_LEADERLESS_S = 3.0
_REVISION_MAX = (1 << 63) - 1


class WatchRequestError(ValueError):
    """The request makes no sense."""


class FutureRevisionError(Exception):
    """A watch asks for a revision that was not given out yet."""


def position_of(request: pb.WatchRequest) -> Position | None:
    """The position behind which changes are wanted; None for the present one.

    Raises:
        WatchRequestError: The request makes no sense.
    """
    if request.now:
        if request.after or request.after_place:
            raise WatchRequestError("now, and a revision beside it")
        return None
    if request.after > _REVISION_MAX or request.after_place > PLACE_MAX or (request.after_place and not request.after):
        raise WatchRequestError(f"no change has revision {request.after} and place {request.after_place}")
    return Position(request.after, request.after_place)


def filter_of(request: pb.WatchRequest) -> Filter:
    """The filter for the changes that are wanted.

    Raises:
        WatchRequestError: The request makes no sense.
    """
    for name, size in (("start", len(request.start)), ("end", len(request.end))):
        if size > commands.KEY_BYTES_MAX + 1:
            raise WatchRequestError(f"{name} is {size}, and at most {commands.KEY_BYTES_MAX + 1}")
    known = frozenset(map(int, ChangeKind))
    kinds = frozenset(map(int, request.kinds)) or known
    if not kinds <= known:
        raise WatchRequestError(f"no change is of the kind {min(kinds - known)}")
    return Filter(request.start, request.end or None, kinds, not request.keys_only)


async def send(replica: Replica, request: pb.WatchRequest, write: Write) -> None:
    """Sends changes until the caller is gone.

    Raises:
        WatchRequestError: The request makes no sense.
        FutureRevisionError: The request begins at a revision that even a confirmed leader has not applied.
        HistoryGoneError: The changes that follow the position are not held any more.
        OverloadedError: There are too many watches.
        UnavailableError: This node cannot tell how the shard stands.
    """
    position, wanted = position_of(request), filter_of(request)
    watches = replica.watches
    certain = request.consistency == pb.CONSISTENCY_LINEARIZABLE
    if certain and position is not None and position.mark >= watches.revision and position != (watches.revision, 0):
        raise FutureRevisionError(f"revision {position.revision} was not given out yet")
    if position is not None and position.mark < watches.oldest:
        raise HistoryGoneError(watches.oldest)
    progress_s = max(PROGRESS_MIN_S, request.progress_ms / 1000 or PROGRESS_S)
    watch = watches.open(position, wanted)
    try:
        upto = min(watch.position.mark, watches.revision)
        cluster_id = replica.peers.me.cluster_id
        # At once: the caller learns that it is being served, and from where on.
        await write(
            pb.WatchBatch(
                revision=upto,
                oldest=watches.oldest,
                receipt=replica.receipt(),
                cluster_id=cluster_id,
                applied_index=_told_entry(replica, upto),
            )
        )
        await _tell(replica, watch, write, progress_s, messages=request.messages)
    finally:
        watches.close(watch)


async def _tell(replica: Replica, watch: Watch, write: Write, progress_s: float, *, messages: bool) -> None:
    watches, loop = replica.watches, asyncio.get_running_loop()
    sent_s = led_s = loop.time()
    while True:
        now_s = loop.time()
        if replica.driver.node.leader is not None:
            led_s = now_s
        if not replica.serves_local_reads or now_s - led_s > _LEADERLESS_S:
            raise UnavailableError("this node does not know how the shard stands")
        told = await watches.step(watch)
        if told is None and now_s - sent_s < progress_s:
            await watches.wait(watch, sent_s + progress_s - now_s)
            pause_s = sent_s + _GATHER_S - loop.time()
            if pause_s > 0:
                await asyncio.sleep(pause_s)
            continue
        if told is not None and not told.records and now_s - sent_s < progress_s:
            # Many changes of other keys may be skipped; the position is told from time to time.
            await asyncio.sleep(0)
            continue
        await write(_batch(told, watch, replica, messages=messages))
        sent_s = loop.time()
        # A window that never shuts must not keep the loop from heartbeats.
        await asyncio.sleep(0)


def _told_entry(replica: Replica, upto: int) -> int:
    """The entry up to which all was told with a revision; 0 if not all is that is applied here."""
    return replica.driver.applied_index if upto >= replica.watches.revision else 0


def _batch(told: Told | None, watch: Watch, replica: Replica, *, messages: bool) -> pb.WatchBatch:
    watches = replica.watches
    upto = min(watch.position.mark, watches.revision) if told is None else told.upto
    batch = pb.WatchBatch(revision=upto, oldest=watches.oldest, applied_index=_told_entry(replica, upto))
    if told is None or not told.records:
        return batch
    if not messages:
        batch.records = told.records
        return batch
    for change in decode_changes(told.records):
        batch.changes.add(
            kind=pb.ChangeKind.ValueType(change.kind),
            key=change.key,
            revision=change.revision,
            place=change.place,
            last=change.last,
            value=change.value,
            content_type=change.content_type.decode("ascii", "replace"),
            content_encoding=change.content_encoding.decode("ascii", "replace"),
            expires_at_ms=change.expires_at,
        )
    return batch
