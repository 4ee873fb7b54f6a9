"""Waiting proposals: answered once, and never as applied when another entry took their place."""

from __future__ import annotations

from doug_wire.pipe import Status
from raft_node import entry as entries
from raft_node.entry import Entry, EntryKind
from raft_node.kv.operations.work import Outcome
from raft_node.runtime.writes.proposals import PendingProposals, Submission


class ListSink:
    def __init__(self) -> None:
        self.results: list[tuple[int, int, int]] = []

    def resolve(self, record_id: int, status: int, revision: int, details: object = None) -> None:
        self.results.append((record_id, status, revision))


def entry(index: int, term: int) -> Entry:
    return entries.encode(index, term, EntryKind.COMMAND, 0)


def submissions(sink: ListSink, *ids: int) -> list[Submission]:
    return [Submission(sink, record_id, 0, b"") for record_id in ids]


def test_applied_proposals_are_answered_with_their_outcome() -> None:
    pending, sink = PendingProposals(), ListSink()
    pending.add(5, 2, submissions(sink, 10, 11), 100.0)
    done = pending.applied([entry(5, 2), entry(6, 2)], [Outcome(Status.OK, 7), Outcome(Status.WRONG_SHARD, 0)])
    assert sink.results == [(10, Status.OK, 7), (11, Status.WRONG_SHARD, 0)]
    assert (done, len(pending)) == (2, 0)


def test_another_leaders_entry_at_the_index_proves_that_nothing_was_applied() -> None:
    pending, sink = PendingProposals(), ListSink()
    pending.add(5, 2, submissions(sink, 10), 100.0)
    assert pending.applied([entry(5, 3)], [Outcome(Status.OK, 7)]) == 0
    assert sink.results == [(10, Status.NOT_APPLIED, 0)]


def test_a_proposal_at_an_index_that_is_used_again_is_unknown() -> None:
    """Another node may hold the entry still, win a later election with it, and commit it."""
    pending, sink = PendingProposals(), ListSink()
    pending.add(5, 2, submissions(sink, 10), 100.0)
    pending.add(5, 4, submissions(sink, 20), 100.0)
    assert sink.results == [(10, Status.UNKNOWN, 0)]
    pending.applied([entry(5, 4)], [Outcome(Status.OK, 1)])
    assert sink.results[1:] == [(20, Status.OK, 1)]


def test_entries_of_others_are_passed_over() -> None:
    pending, sink = PendingProposals(), ListSink()
    pending.add(6, 2, submissions(sink, 10), 100.0)
    pending.applied([entry(5, 2)], [Outcome(Status.OK, 1)])
    assert (sink.results, len(pending)) == ([], 1)


def test_what_waits_too_long_is_unknown_and_answered_once() -> None:
    pending, sink = PendingProposals(), ListSink()
    pending.add(5, 2, submissions(sink, 10), 100.0)
    assert pending.expire(99.9) == 0
    assert pending.expire(100.0) == 1
    pending.applied([entry(5, 2)], [Outcome(Status.OK, 1)])
    assert sink.results == [(10, Status.UNKNOWN, 0)]
