"""``DELETE /v1/kv``: the keys of a range, read and deleted some at a time, until a limit or the request's time.

Must not know ASGI. Invariants: (1) what is deleted was read before as being in the range; (2) what is gone is gone:
when a later part fails, the answer says where to go on, and the next request meets the failure again if it lasts; (3)
the keys of a shard go by one entry of its log for each part, not by one each; (4) the session of the answer knows all
that was deleted.

Source: docs/api.md, Ranges.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from doug_wire.command import Command, Opcode
from facade.client.fanout import RESULT_BYTES_MAX, Fanout, Outcome, Part, Wishes
from facade.client.receipts import Headers
from facade.client.router import Router
from facade.client.scan import ScanQuery
from facade.client.sessions import Seen, Session, grown
from facade.errors import ProblemError
from facade.routes.options import FRESH
from facade.routes.ranges.patience import again
from facade.routes.results import problem_of
from facade.routes.sessions import receipt_of, receipts_of, seen_by

SLICE = 2_000


class Done(NamedTuple):
    """How far a deletion has come.

    Attributes:
        keys: How many keys were found, and deleted unless they were only counted.
        bound: The key at which the rest begins; None if nothing is left.
        revisions: By shard, the shard's revision at the last scan's point in its log.
        session: What the client knows now; None if no shard has answered.
        receipt: The response headers that name the nodes of the last step: those that deleted, or else those that read.
    """

    keys: int
    bound: bytes | None
    revisions: dict[int, int]
    session: Session | None
    receipt: Headers


class _Read(NamedTuple):
    """The first keys of a range, the bound behind them, how far the shards have shown their logs, and who answered."""

    keys: list[bytes]
    bound: bytes | None
    revisions: dict[int, int]
    seen: Sequence[Seen]
    receipt: Headers


class RangeDeletion:
    """Deletes ranges."""

    def __init__(self, router: Router, timeout_s: float) -> None:
        self._router = router
        self._fanout = Fanout(router, RESULT_BYTES_MAX)
        self._timeout_s = timeout_s

    async def run(self, query: ScanQuery, limit: int, *, dry_run: bool) -> Done:
        """Deletes or counts up to the limit, or as much as there is time for.

        Raises:
            ProblemError: The deletion failed before any key was deleted.
        """
        ends_s = asyncio.get_running_loop().time() + self._timeout_s
        keys, revisions, session = 0, dict[int, int](), query.session
        receipt: Headers = query.mode.headers
        while True:
            try:
                attempt = partial(self._read, query, min(SLICE, limit - keys))
                read = await again(self._timeout_s, attempt)
                revisions = read.revisions or revisions
                session = grown(session, read.seen) if read.seen else session
                receipt = (*query.mode.headers, *read.receipt)
                failed = None
                if dry_run:
                    keys += len(read.keys)
                else:
                    deleted, failed, outcomes = await self._delete(read.keys)
                    keys += deleted
                    if answered := receipts_of(outcomes):
                        session, receipt = grown(session, seen_by(answered)), receipt_of(answered, query.mode)
            except ProblemError as error:
                failed = error
            if failed is not None:
                if not keys:
                    raise failed
                return Done(keys, query.start, revisions, session, receipt)
            if read.bound is None or keys >= limit or asyncio.get_running_loop().time() >= ends_s:
                return Done(keys, read.bound, revisions, session, receipt)
            query = query.bounded(read.bound)

    async def _read(self, query: ScanQuery, limit: int) -> _Read:
        if query.empty:
            return _Read([], None, {}, (), ())
        keys: list[bytes] = []
        # One more key than is wanted, to know whether there are more.
        async with self._router.scans.open(query._replace(limit=limit + 1)) as scan:
            async for batch in scan.batches():
                keys += [record.key for record in batch]
                if len(keys) > limit:
                    return _Read(keys[:limit], keys[limit - 1] + b"\0", scan.revisions, scan.seen, scan.receipt)
            return _Read(keys, None, scan.revisions, scan.seen, scan.receipt)

    async def _delete(self, keys: list[bytes]) -> tuple[int, ProblemError | None, list[Outcome]]:
        """Deletes keys; returns how many were deleted, the problem of one that was not, and the outcome of each.

        Of several reasons it is the one that says the least: a shard that certainly did nothing does not speak for one
        of which nobody knows.
        """
        parts = [Part(place, Command(Opcode.DELETE, key, b"", b"", 0)) for place, key in enumerate(keys)]
        wishes = Wishes(FRESH, "", asyncio.get_running_loop().time() + self._timeout_s)
        deleted, failed = 0, None
        with self._fanout.room() as room:
            outcomes = await self._fanout.run(parts, wishes, None, room)
        for outcome in outcomes:
            result = outcome.result
            problem = (
                result
                if isinstance(result, ProblemError)
                else problem_of(result, outcome.shard, uncertain=outcome.uncertain)
            )
            if problem is None:
                deleted += 1
            elif failed is None or problem.outcome == "unknown":
                failed = problem
        return deleted, failed, outcomes
