"""Commands for one key: put, delete, touch and, within transactions and batches, get; with conditions and expiry.

Invariants:
1. A condition is judged here, in the order of the log, and nowhere before.
2. A put without a time to live clears the expiry of its key, a put that keeps it takes it over, and a touch changes
   nothing else. Every one of them gives the key a new revision.
"""

from __future__ import annotations

from doug_wire.command import Command
from doug_wire.pipe import Status
from doug_wire.watch import ChangeKind
from raft_node.kv.keyspace import StoredValue
from raft_node.kv.operations.work import Details, Outcome, Work, failed, reads_value

_NOT_FOUND = Outcome(Status.NOT_FOUND, 0)


def put(work: Work, command: Command, epoch: int) -> Outcome:
    """Writes a key."""
    current = None
    if reads_value(command):
        current = work.current(command.key)
        refused = failed(command.condition, current)
        if refused is not None:
            return refused
    expires_us = work.expiry(command.ttl, current)
    if current is not None and current.expires_us != expires_us:
        work.forget_due(current, command.key)
    revision = work.next_revision()
    stored = StoredValue(revision, command.content_type, command.value, epoch, expires_us, command.content_encoding)
    work.store(command.key, stored)
    return _written(stored)


def delete(work: Work, command: Command, epoch: int) -> Outcome:
    """Removes a key; a missing key is fine, unless a condition says otherwise."""
    del epoch
    if command.condition is not None:
        current = work.current(command.key)
        refused = failed(command.condition, current)
        if refused is not None:
            return refused
        work.forget_due(current, command.key)
    return Outcome(Status.OK, work.remove(command.key, ChangeKind.DELETE))


def touch(work: Work, command: Command, epoch: int) -> Outcome:
    """Gives a key another expiry."""
    del epoch
    current = work.current(command.key)
    refused = failed(command.condition, current)
    if refused is not None:
        return refused
    if current is None:
        return _NOT_FOUND
    work.forget_due(current, command.key)
    expires_us = work.expiry(command.ttl, current)
    stored = current._replace(revision=work.next_revision(), expires_us=expires_us)
    work.store(command.key, stored)
    return _written(stored)


def get(work: Work, command: Command, epoch: int) -> Outcome:
    """Reads a key."""
    del epoch
    current = work.current(command.key)
    if current is None:
        return _NOT_FOUND
    return found(current)


def found(stored: StoredValue) -> Outcome:
    """The outcome of a read that found a value."""
    details = Details(stored.content_type, stored.value, stored.expires_at_ms, stored.content_encoding)
    return Outcome(Status.OK, stored.revision, details)


def _written(stored: StoredValue) -> Outcome:
    if not stored.expires_us:
        return Outcome(Status.OK, stored.revision)
    return Outcome(Status.OK, stored.revision, Details(expires_at_ms=stored.expires_at_ms))
