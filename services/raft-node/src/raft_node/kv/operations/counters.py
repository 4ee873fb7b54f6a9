"""Increments of decimal integers of 64 bits.

Invariant: what is no such integer, or would leave its range, is left as it is.
"""

from __future__ import annotations

import re

from doug_wire.command import KEEP, Command
from doug_wire.payload import INT64_MAX, INT64_MIN, decode_increment
from doug_wire.pipe import Status
from raft_node.kv.keyspace import StoredValue
from raft_node.kv.operations.work import Details, Outcome, Work, failed

_INTEGER = re.compile(rb"0|-?[1-9][0-9]{0,18}")


def increment(work: Work, command: Command, epoch: int) -> Outcome:
    """Adds to a number. The key keeps its expiry and its content type, unless the command brings another expiry."""
    current = work.current(command.key)
    refused = failed(command.condition, current)
    if refused is not None:
        return refused
    by, initial = decode_increment(command.value)
    number = initial if current is None else _number(current)
    if number is None:
        return Outcome(Status.NOT_A_NUMBER, 0 if current is None else current.revision)
    number += by
    if not INT64_MIN <= number <= INT64_MAX:
        return Outcome(Status.OVERFLOW, 0 if current is None else current.revision)
    expires_us = work.expiry(command.ttl or KEEP, current)
    if current is not None and current.expires_us != expires_us:
        work.forget_due(current, command.key)
    content_type = command.content_type if current is None else current.content_type
    value = b"%d" % number
    revision = work.next_revision()
    stored = StoredValue(revision, content_type, value, epoch, expires_us)
    work.store(command.key, stored)
    return Outcome(Status.OK, revision, Details(content_type, value, stored.expires_at_ms))


def _number(stored: StoredValue) -> int | None:
    """The number that a value holds; None if it holds none."""
    if stored.content_encoding or not _INTEGER.fullmatch(stored.value):
        return None
    number = int(stored.value)
    return number if INT64_MIN <= number <= INT64_MAX else None
