"""Receipts: who answered, how far it had applied its log, and how old the answer can be at most.

One receipt stands for all answers of a message. The answer to a batch comes from several nodes, and lists them. Must
not know HTTP beyond the names of the headers.

Source: docs/api.md, Response headers.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from doug.v1 import doug_pb2
from facade.client.modes import LEADER_KINDS, Kind
from facade.client.sessions import Seen, Session, Sessions

if TYPE_CHECKING:
    from facade.client.operation import Operation

Headers = tuple[tuple[bytes, bytes], ...]

SESSION = b"doug-session"
SERVER_TIMING = b"server-timing"

_US_PER_MS = 1000
_WRITE_STEPS = (("append", "append_us"), ("fsync", "fsync_us"), ("quorum", "commit_us"), ("apply", "apply_us"))
_READ_STEPS = (("quorum", "confirm_us"), ("read", "read_us"))


class Receipt:
    """What a node said of itself with some answers.

    Attributes:
        shard: The node's shard.
        entry: The last entry that the node had applied, as session tokens name it.
        staleness_ms: How old the node's local answers can be at most, when they came here; None if not proven.
        headers: The response headers that name the node.
        heard_s: When the receipt came, on the loop's clock; 0 while answers do not say where the time went.
        timings: How the node spent the time; None if it did not say.
    """

    __slots__ = ("_sessions", "_shown", "entry", "headers", "heard_s", "shard", "staleness_ms", "timings")

    def __init__(self, shard: int, entry: int, headers: Headers, sessions: Sessions) -> None:
        self.shard = shard
        self.entry = entry
        self.staleness_ms: int | None = None
        self.headers = headers
        self.heard_s = 0.0
        self.timings: doug_pb2.Timings | None = None
        self._shown: tuple[float, bool, bytes] = (0.0, False, b"")
        self._sessions = sessions

    def of(self, operation: Operation) -> Headers:
        """All response headers that an operation's receipt gives, but those that its mode gives."""
        strong = operation.kind in LEADER_KINDS
        headers = self.headers
        if not strong and self.staleness_ms is not None:
            headers = (*headers, (b"doug-staleness-ms", b"%d" % self.staleness_ms))
        token = self.session(operation.session, strong=strong)
        return (*headers, (SESSION, token)) if token else headers

    def timing(self, operation: Operation) -> bytes:
        """How the time of an operation was spent, as metrics of ``Server-Timing``; empty if that is switched off."""
        if not self.heard_s:
            return b""
        wrote = operation.kind is Kind.WRITE
        sent_s, as_write, shown = self._shown
        if sent_s != operation.sent_s or as_write is not wrote:
            # Those of a batch were sent together, and mostly come back together: they have this in common.
            steps = _steps(self.timings, _WRITE_STEPS if wrote else _READ_STEPS)
            shown = b"route;dur=%.2f%b" % (1000 * (self.heard_s - operation.sent_s), steps)
            self._shown = (operation.sent_s, wrote, shown)
        return shown

    def session(self, known: Session | None, *, strong: bool) -> bytes:
        """The session token that goes with an answer of this receipt."""
        if known is None:
            return self._sessions.issue(self.shard, self.entry)
        return self._sessions.add(known, (Seen(self.shard, self.entry, strong),))


def _steps(timings: doug_pb2.Timings | None, steps: tuple[tuple[str, str], ...]) -> bytes:
    if timings is None:
        return b""
    known = [(name, getattr(timings, field)) for name, field in steps]
    return b"".join([b", %b;dur=%.2f" % (name.encode(), us / _US_PER_MS) for name, us in known if us])


def timing_of(operation: Operation) -> bytes:
    """See ``Receipt.timing``; empty before there was an answer."""
    return b"" if operation.receipt is None else operation.receipt.timing(operation)


def of_operation(operation: Operation) -> Headers:
    """The response headers of an operation's last answer; none before there was an answer."""
    return () if operation.receipt is None else operation.receipt.of(operation)


def of_batch(answered: Iterable[tuple[Receipt, bool]], *, local: bool) -> Headers:
    """The response headers that name the nodes of a batch: lists with one member for each node, in the shards' order.

    Args:
        answered: The receipts, and whether each is of linearizable reads or writes.
        local: Whether the batch's reads may be stale, so that it must be told how stale they are.
    """
    newest: dict[tuple[int, bytes], Receipt] = {}
    stale_ms: int | None = 0
    for receipt, strong in answered:
        place = (receipt.shard, receipt.headers[0][1])
        if place not in newest or newest[place].entry < receipt.entry:
            newest[place] = receipt
        if not strong and stale_ms is not None:
            stale_ms = None if receipt.staleness_ms is None else max(stale_ms, receipt.staleness_ms)
    if not newest:
        return ()
    receipts = [newest[place] for place in sorted(newest)]
    shards = (b"doug-shard", b", ".join([b"%d" % each.shard for each in receipts]))
    columns = zip(*(each.headers for each in receipts), strict=True)
    headers = (shards, *((column[0][0], b", ".join([value for _, value in column])) for column in columns))
    return (*headers, (b"doug-staleness-ms", b"%d" % stale_ms)) if local and stale_ms is not None else headers
