"""Receipts: who answered, how far it had applied its log, and how old the answer can be at most.

One receipt stands for all answers of a message. Must not know HTTP beyond the names of the headers.

Source: DESIGN 7; docs/api.md, Receipts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from facade.client.modes import LEADER_KINDS
from facade.client.sessions import Seen, Session, Sessions

if TYPE_CHECKING:
    from facade.client.operation import Operation

Headers = tuple[tuple[bytes, bytes], ...]

SESSION = b"doug-session"


class Receipt:
    """What a node said of itself with some answers.

    Attributes:
        shard: Its shard.
        applied_index: How far it had applied its log.
        staleness_ms: How old its local answers can be at most, by the time that they came here; None if not proven.
        headers: Who answered, as headers.
    """

    __slots__ = ("_sessions", "applied_index", "headers", "shard", "staleness_ms")

    def __init__(self, shard: int, applied_index: int, headers: Headers, sessions: Sessions) -> None:
        self.shard = shard
        self.applied_index = applied_index
        self.staleness_ms: int | None = None
        self.headers = headers
        self._sessions = sessions

    def of(self, operation: Operation) -> Headers:
        """All headers of an operation's receipt, but those that go with its mode."""
        strong = operation.kind in LEADER_KINDS
        headers = self.headers
        if not strong and self.staleness_ms is not None:
            headers = (*headers, (b"doug-staleness-ms", b"%d" % self.staleness_ms))
        token = self.session(operation.session, strong=strong)
        return (*headers, (SESSION, token)) if token else headers

    def session(self, known: Session | None, *, strong: bool) -> bytes:
        """The token behind an answer of this receipt."""
        if known is None:
            return self._sessions.issue(self.shard, self.applied_index)
        return self._sessions.add(known, (Seen(self.shard, self.applied_index, strong),))


def of_operation(operation: Operation) -> Headers:
    """The headers of what an operation's last answer said; none before there was one."""
    return () if operation.receipt is None else operation.receipt.of(operation)
