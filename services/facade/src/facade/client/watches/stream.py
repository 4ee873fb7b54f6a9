"""One stream of changes from one node, and why it ended.

Must not know HTTP, nor what is done with the changes. Positions are numbers: ``next_of`` a change is where a stream
goes on behind it, so that a whole revision, and a part of one, compare as one number.

Invariant: a stream that says nothing for ``READ_TIMEOUT_S`` is over, for a node speaks every second.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection

import grpc
import grpc.aio

from doug.v1 import doug_pb2
from doug_wire.watch import Change, WatchError, decode_changes
from facade.client.node import Node, WatchCall
from facade.client.sessions import entry_of
from facade.client.shard import Shard
from facade.errors import FacadeError

READ_TIMEOUT_S = 4.0
AWAY_S = 30.0
"""Who could not be asked for so long counts as if it held nothing any more: whoever waits for it has waited enough."""
_PLACE_BITS = 16
_PLACES = (1 << _PLACE_BITS) - 1


class WatchBrokenError(FacadeError):
    """A stream ended, or could not begin; another one can go on at its position.

    Attributes:
        code: The node's code for the reason; empty if it gave none.
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code


class HistoryGoneError(FacadeError):
    """No node holds the changes that follow a position.

    Attributes:
        oldest: The revision behind which all changes are held.
        shard: The shard whose changes these are.
    """

    def __init__(self, shard: int, oldest: int) -> None:
        super().__init__(f"shard {shard} holds the changes behind revision {oldest}")
        self.shard = shard
        self.oldest = oldest


class Holders:
    """The nodes of a shard that said that they do not hold what follows a position, and those that could not be asked.

    A node that was just killed comes back with all its history: until then nobody knows that the changes are gone.
    """

    def __init__(self, away_since_s: dict[Node, float] | None = None) -> None:
        """Begins without answers; since when nodes are away may be known already."""
        self._gone: dict[Node, HistoryGoneError] = {}
        self._away_since_s: dict[Node, float] = {} if away_since_s is None else away_since_s

    def asked_anew(self) -> Holders:
        """The same nodes, to be asked for another position: what is known is only for how long some are away."""
        return Holders(self._away_since_s)

    def hold_not(self, node: Node, error: HistoryGoneError) -> None:
        """Notes that a node does not hold what follows the position."""
        self._gone[node] = error
        self._away_since_s.pop(node, None)

    def away(self, node: Node, now_s: float) -> None:
        """Notes that a node could not be asked."""
        self._away_since_s.setdefault(node, now_s)

    def serves(self, node: Node) -> None:
        """Notes that a node tells the changes: what others said is of no interest any more."""
        self._gone.clear()
        self._away_since_s.pop(node, None)

    def verdict(self, nodes: Collection[Node], now_s: float) -> HistoryGoneError | None:
        """The error of the node that reaches back furthest, once no node can hold the changes any more."""
        if not self._gone:
            return None
        for node in nodes:
            if node not in self._gone and now_s - self._away_since_s.get(node, now_s) < AWAY_S:
                return None
        return min(self._gone.values(), key=lambda each: each.oldest)


class FuturePositionError(FacadeError):
    """A position lies behind all changes so far."""


def behind(revision: int) -> int:
    """The position of a stream that has told a whole revision, and all before it."""
    return (revision + 1) << _PLACE_BITS


def order_of(change: Change) -> int:
    """The position of a change."""
    return change.revision << _PLACE_BITS | change.place


def next_of(change: Change) -> int:
    """The position behind a change."""
    return behind(change.revision) if change.last else order_of(change) + 1


def split(position: int) -> tuple[int, int]:
    """A position as a revision that was told, and how many changes of it; 0 for all of them."""
    place = position & _PLACES
    revision = position >> _PLACE_BITS
    return (revision, place) if place else (revision - 1, 0)


def whole(position: int) -> int:
    """The last revision of which all changes lie before a position."""
    return (position >> _PLACE_BITS) - 1


class WatchStream:
    """A stream that has begun: see ``begin``.

    Attributes:
        node: The node that sends the changes.
        position: The position to go on from; all changes before it were told.
        oldest: The revision behind which the node holds all changes, as it said last.
        entry: The last entry of the log of which it is known that all changes up to it were told; 0 before that.
    """

    def __init__(self, shard: Shard, node: Node, request: doug_pb2.WatchRequest) -> None:
        """Opens the stream."""
        self.node = node
        self.position = 0
        self.oldest = 0
        self.entry = 0
        self._shard = shard
        self._call: WatchCall = node.open_watch(request)

    async def begin(self, cluster_id: bytes) -> None:
        """Reads the first batch, which says from where on it tells.

        Raises:
            WatchBrokenError: The node does not serve the watch, is of another shard or cluster, or is from before its
                shard was recovered.
            HistoryGoneError: The node does not hold the changes that follow.
            FuturePositionError: There is no such revision yet.
        """
        first = await self._read()
        if first.receipt.shard != self._shard.id or (cluster_id and first.cluster_id != cluster_id):
            raise WatchBrokenError("WRONG_SHARD", f"{self.node.id} is of another shard or cluster")
        if self._shard.sessions.is_behind(self._shard.id, entry_of(first.receipt.generation, 0)):
            raise WatchBrokenError("UNAVAILABLE", f"{self.node.id} is from before its shard was recovered")
        self.position = behind(first.revision)
        self.oldest = first.oldest
        self.entry = first.applied_index

    async def changes(self) -> list[Change]:
        """The next changes, maybe none; ``position`` moves behind them.

        Raises:
            WatchBrokenError: The stream has ended.
            HistoryGoneError: The node does not hold the changes that follow any more.
        """
        batch = await self._read()
        try:
            changes = decode_changes(batch.records)
        except WatchError as error:
            raise WatchBrokenError("INVALID", f"{self.node.id}: {error}") from error
        self.position = max(self.position, behind(batch.revision))
        self.oldest = batch.oldest
        self.entry = max(self.entry, batch.applied_index)
        return changes

    def close(self) -> None:
        """Ends the stream."""
        self._call.cancel()

    async def _read(self) -> doug_pb2.WatchBatch:
        node = self.node
        try:
            async with asyncio.timeout(READ_TIMEOUT_S):
                batch = await self._call.read()
        except TimeoutError:
            node.drop_watches()
            raise WatchBrokenError("", f"{node.id} says nothing") from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # The connection was closed during the call, which looks like a cancellation.
            raise WatchBrokenError("", f"{node.id} is somewhere else now") from None
        except grpc.aio.AioRpcError as error:
            raise self._ended(error) from None
        if not isinstance(batch, doug_pb2.WatchBatch):
            raise WatchBrokenError("", f"{node.id} ended the stream")
        return batch

    def _ended(self, error: grpc.aio.AioRpcError) -> FacadeError:
        node, shard = self.node, self._shard
        hints = {key: value for key, value in error.trailing_metadata() or () if isinstance(value, str)}
        code = hints.get("doug-code", "")
        if code == "NOT_LEADER":
            shard.pointed_elsewhere(node, hints.get("doug-leader-id", ""), hints.get("doug-leader-address", ""))
        oldest = hints.get("doug-oldest", "0")
        if code == "HISTORY_GONE":
            return HistoryGoneError(shard.id, int(oldest) if oldest.isdigit() else 0)
        if code == "FUTURE_REVISION":
            return FuturePositionError(f"{node.id}: {error.details()}")
        if not code:
            node.drop_watches()
        return WatchBrokenError(code, f"{node.id}: {error.details()}")


def request_from(position: int | None) -> doug_pb2.WatchRequest:
    """A request for all changes from a position on, or without one for those from now on."""
    if position is None:
        return doug_pb2.WatchRequest(now=True)
    revision, place = split(position)
    return doug_pb2.WatchRequest(after=revision, after_place=place)


def candidates(shard: Shard, turn: int, failed: Collection[Node] = ()) -> list[Node]:
    """The nodes of a shard in the order in which they are worth asking.

    First come those that have not failed, answer what they owe, and do not lead, for a leader has enough to do.

    Args:
        shard: The shard.
        turn: The number of the equal node with which to begin.
        failed: The nodes that have failed just now.
    """
    nodes = shard.expected
    if not nodes:
        return []
    start = turn % len(nodes)
    turned = nodes[start:] + nodes[:start]
    return sorted(turned, key=lambda node: (node in failed, node.suspect, node is shard.leader))
