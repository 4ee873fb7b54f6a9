"""The meaning of a shard's answers: final statuses, those that are tried again, and the error for the client.

Must not know who sent an answer, or when. Invariant: a write is called not applied only if no try of it can have been.

Source: docs/api.md, Errors; doug_wire.pipe.
"""

from __future__ import annotations

from doug_wire.pipe import Status
from facade.client.modes import REPLICA_KINDS, Kind
from facade.client.operation import Operation
from facade.errors import (
    BadRequestError,
    DiskFullError,
    InternalError,
    NotAppliedError,
    OutcomeUnknownError,
    ProblemError,
    ReadTimeoutError,
)

RETRIED: dict[int, str] = {
    Status.NOT_LEADER: "no_leader",
    Status.NOT_APPLIED: "superseded",
    Status.OVERLOADED: "overloaded",
    Status.UNAVAILABLE: "unavailable",
    Status.DISK_FULL: "disk_full",
    Status.NOT_FRESH: "not_fresh_enough",
}

DETAIL_OF_REASON = {
    "no_leader": "No leader of the shard took the request in time.",
    "not_fresh_enough": "No replica of the shard was as fresh as the read asks for, and could prove it, in time.",
    "overloaded": "The shard's leader had too much waiting and did not take the request in time.",
    "superseded": "Other leaders' entries kept taking the request's place in the log.",
    "unavailable": "No node of the shard could serve the read in time.",
    "wrong_shard": "The key's slot is being moved, and no shard took the request in time.",
}


def unknown(operation: Operation, detail: str, code: str = "outcome_unknown") -> OutcomeUnknownError:
    """The error for a write that may or may not have been applied."""
    return OutcomeUnknownError(code, detail, shard=operation.shard)


def malformed(operation: Operation) -> ProblemError:
    """The error for an operation that a node called malformed: an older node does not know all operations."""
    if operation.uncertain:
        return unknown(operation, "An earlier try of the write was not answered, and this node does not know it.")
    if operation.extended:
        detail = "The shard's nodes are of a version that does not know this operation; nothing was changed."
        return BadRequestError("not_implemented", detail, status=501, shard=operation.shard)
    return InternalError("invalid_record", "A raft-node called the record malformed.", shard=operation.shard)


def gave_up(operation: Operation) -> ProblemError:
    """The error for an operation that is not under way and is not tried any more."""
    if operation.uncertain:
        return unknown(operation, "An earlier try of the write was not answered, and no later one was in time.")
    if operation.reason == "disk_full":
        return DiskFullError(shard=operation.shard)
    reason = operation.reason if operation.reason in DETAIL_OF_REASON else "no_leader"
    if operation.kind in REPLICA_KINDS and reason == "no_leader":
        reason = "unavailable"
    return NotAppliedError(reason, DETAIL_OF_REASON[reason], shard=operation.shard)


def too_late(operation: Operation) -> ProblemError:
    """The error for an operation whose deadline came while it was under way."""
    if operation.kind is Kind.WRITE:
        detail = "The write was sent to the shard and not answered in time; it may or may not be applied."
        return unknown(operation, detail, "deadline_exceeded")
    if operation.reason == "not_fresh_enough":
        return NotAppliedError(operation.reason, DETAIL_OF_REASON[operation.reason], shard=operation.shard)
    detail = "The read was sent to the shard and not answered in time."
    return ReadTimeoutError("deadline_exceeded", detail, shard=operation.shard)
