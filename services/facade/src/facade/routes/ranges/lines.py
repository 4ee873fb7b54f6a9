"""A range as a stream of lines: what was sent of it, what is left, and the last line.

Invariants: (1) a stream goes on behind the last line that was sent; (2) its last line says whether it is complete, and
whether its points in the logs changed; (3) whatever is not complete gives a cursor for the rest.

Source: docs/api.md, Ranges.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from time import perf_counter
from typing import Any

import orjson

from doug_wire.command import KEY_BYTES_MAX
from doug_wire.scan import ScanRecord
from facade.client.scan import ScanQuery, bound_behind
from facade.errors import ProblemError
from facade.routes import problem
from facade.routes.ranges.answer import Answer
from facade.routes.ranges.entries import line
from facade.routes.ranges.request import RangeRequest

SLICE = 128
"""The number of records that are encoded before the event loop gets to do something else."""

_BEHIND_ALL = b"\xff" * (KEY_BYTES_MAX + 1)


def slices(records: Sequence[ScanRecord], size: int = SLICE) -> Iterator[Sequence[ScanRecord]]:
    """The records, some at a time."""
    for first in range(0, len(records), size):
        yield records[first : first + size]


class LineStream:
    """A stream of lines, which knows what was sent and which rest of the range is left."""

    def __init__(self, asked: RangeRequest, answer: Answer) -> None:
        self._asked = asked
        self._answer = answer
        self._query: ScanQuery | None = None if asked.query.empty else asked.query
        self._last: ScanRecord | None = None
        self._sent = 0
        self._changed = False
        self._complete = self._query is None
        self._revisions: dict[int, int] = {}
        self._over = self._complete

    def ended(self) -> bool:
        """Whether only the last line is still to be sent."""
        return self._over

    def rest(self) -> ScanQuery:
        """The rest of the range that was not sent."""
        assert self._query is not None
        # One more entry than is wanted, to know whether there are more.
        return self._query._replace(limit=self._asked.limit and self._asked.limit + 1 - self._sent)

    def begun(self, revisions: dict[int, int]) -> None:
        """Notes that a scan of the rest has begun, and its revisions."""
        # Values may differ even with the same revisions: keys may have expired in between.
        self._changed = self._changed or self._sent > 0
        self._revisions = revisions

    async def send(self, records: Sequence[ScanRecord]) -> None:
        """Sends records, as many as are wanted."""
        limit = self._asked.limit
        wanted = records[: limit - self._sent] if limit else records
        for part in slices(wanted):
            begun_s = perf_counter()
            lines = [line(record, keys_only=self._asked.query.keys_only) for record in part]
            await self._answer.more(b"\n".join(lines) + b"\n", perf_counter() - begun_s)
            self._sent += len(part)
            self._last = part[-1]
            self._query = self._asked.query.behind(part[-1])
        if len(wanted) < len(records):
            self._over = True
        elif self._query is None or self._query.empty:
            self.finish()

    def finish(self) -> None:
        """Notes that the range has no more keys."""
        self._over = self._complete = True

    def trailer(self, error: ProblemError | None, session: bytes = b"") -> bytes:
        """The last line; with ``session``, the token of what all of the stream has shown."""
        bound = None
        if not self._complete:
            query = self._asked.query
            if self._last is not None:
                bound = bound_behind(self._last, reverse=query.reverse)
            else:
                bound = (_BEHIND_ALL if query.end is None else query.end) if query.reverse else query.start
        told: dict[str, Any] = {
            "complete": self._complete,
            "next_cursor": self._asked.cursor(bound),
            "count": self._sent,
            "cut_changed": self._changed,
            "revisions": {str(shard): str(revision) for shard, revision in sorted(self._revisions.items())},
        }
        if session:
            told["session"] = session.decode()
        if error is not None:
            told["error"] = orjson.Fragment(problem.document(error))
        return orjson.dumps(told) + b"\n"
