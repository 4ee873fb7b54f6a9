"""What a deletion of a range says when its shards do not agree, over scans and batches that the test decides."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from doug_wire.pipe import ResultRecord, Status
from doug_wire.scan import ScanRecord
from facade.client.fanout import Outcome, Room
from facade.client.places import Bytes
from facade.client.receipts import Receipt
from facade.client.scan import ScanQuery
from facade.client.sessions import Seen, Session, Sessions
from facade.errors import NotAppliedError, OutcomeUnknownError, ProblemError
from facade.routes.ranges.deletion import RangeDeletion

DELETED = ResultRecord(0, Status.OK, 7, b"", b"")
REFUSED = NotAppliedError("no_leader", "There is no leader.", shard=1)
UNKNOWN = OutcomeUnknownError("deadline_exceeded", "Nobody knows.", shard=1)


def said_by(shard: int) -> Receipt:
    return Receipt(shard, 9, ((b"doug-served-by", b"node-%d" % shard),), Sessions())


class FakeScan:
    """Two keys."""

    def __init__(self) -> None:
        self.revisions = {0: 1, 1: 1}
        self.seen = [Seen(0, 5, True), Seen(1, 5, True)]
        self.receipt = ((b"doug-served-by", b"x, y"),)

    async def batches(self) -> AsyncIterator[list[ScanRecord]]:
        yield [ScanRecord(0, key, 1, b"", b"", b"", 0) for key in (b"a", b"b")]


class FakeRouter:
    """Only scans."""

    guarded = False

    @property
    def scans(self) -> FakeRouter:
        return self

    @contextlib.asynccontextmanager
    async def open(self, _: ScanQuery) -> AsyncIterator[FakeScan]:
        yield FakeScan()


class FakeFanout:
    """Answers with what it was given."""

    def __init__(self, *results: ResultRecord | ProblemError) -> None:
        self._values = Bytes("values", 1, 1)
        self._results = results

    def room(self) -> Room:
        return Room(self._values)

    async def run(self, parts: Sequence[Any], *_: object) -> list[Outcome]:
        assert [part.wanted.key for part in parts] == [b"a", b"b"]
        return [
            Outcome(result, shard, receipt=None if isinstance(result, ProblemError) else said_by(shard), strong=True)
            for shard, result in enumerate(self._results)
        ]


def deletion(*results: ResultRecord | ProblemError) -> RangeDeletion:
    made = RangeDeletion(FakeRouter(), 1.0)  # type: ignore[arg-type]
    made._fanout = FakeFanout(*results)  # type: ignore[assignment]
    return made


@pytest.mark.parametrize("other", [REFUSED, UNKNOWN])
@pytest.mark.parametrize("first", [True, False])
async def test_what_was_deleted_is_told_with_a_cursor(other: ProblemError, first: bool) -> None:
    done = await deletion(*((DELETED, other) if first else (other, DELETED))).run(ScanQuery(), 100, dry_run=False)
    assert (done.keys, done.bound) == (1, b""), "it goes on where the slice began, for of its keys some are left"


async def test_nothing_is_called_not_applied_while_a_part_is_unknown() -> None:
    for results in ((REFUSED, UNKNOWN), (UNKNOWN, REFUSED)):
        with pytest.raises(OutcomeUnknownError):
            await deletion(*results).run(ScanQuery(), 100, dry_run=False)
    with pytest.raises(NotAppliedError):
        await deletion(REFUSED, REFUSED).run(ScanQuery(), 100, dry_run=False)


async def test_the_session_knows_what_was_deleted_also_when_a_part_failed() -> None:
    done = await deletion(DELETED, DELETED).run(ScanQuery(), 100, dry_run=False)
    assert done.session is not None and dict(done.session.indexes) == {0: 9, 1: 9}
    before = ScanQuery(session=Session(1, {1: 7, 2: 3}))
    assert dict(done.receipt)[b"doug-served-by"] == b"node-0, node-1", "they have deleted"
    partly = await deletion(DELETED, UNKNOWN).run(before, 100, dry_run=False)
    assert partly.session is not None and dict(partly.session.indexes) == {0: 9, 1: 7, 2: 3}
    counted = await deletion().run(before, 100, dry_run=True)
    assert counted.session is not None and dict(counted.session.indexes) == {0: 5, 1: 7, 2: 3}
    assert dict(counted.receipt)[b"doug-served-by"] == b"x, y", "they have read"
