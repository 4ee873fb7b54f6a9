"""Removal of what has expired: the leader finds it, the log removes it, on every replica as of the same entry.

What has expired is invisible before (``raft_node.kv.visibility``); here it goes for good, and the change is in the
history: the removal of a user's key by expiry is followed at once by the removal of its note, which no other removal
is. Removals are not left to compactions, which differ from replica to replica (docs/adr/0010).

Invariants:
1. Nothing is removed before the log clock has passed its deadline, and nothing that was written anew since.
2. What is done does not depend on what compactions have removed: they leave what has expired to this module.
3. One command reads about ``READ_BYTES_MAX`` bytes at most: it leaves the rest of its notes for another one.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from doug_wire.command import Command, CommandError
from doug_wire.pipe import Status
from doug_wire.watch import ChangeKind
from raft_node.kv.keyspace import TOKEN_PREFIX, USER_PREFIX, decode_value, id_of_token, split_due_key
from raft_node.kv.operations import shares, tokens
from raft_node.kv.operations.tokens import TokenRecord
from raft_node.kv.operations.work import READ_BYTES_MAX, Outcome, Work

_COUNT = struct.Struct("<I")
_LENGTH = struct.Struct("<H")

NOTES_MAX = 512
"""The most notes that one EXPIRE entry judges."""


def encode_expire(notes: Sequence[bytes]) -> bytes:
    """The value of an EXPIRE command: the notes of keys that may have expired, as ``keyspace.due_key`` makes them."""
    return _COUNT.pack(len(notes)) + b"".join([_LENGTH.pack(len(note)) + note for note in notes])


def decode_expire(value: bytes) -> list[bytes]:
    """The opposite of ``encode_expire``.

    Raises:
        CommandError: The value is not that of an EXPIRE command.
    """
    if len(value) < _COUNT.size:
        raise CommandError("notes that are shorter than their count")
    notes = []
    position = _COUNT.size
    for _ in range(_COUNT.unpack_from(value)[0]):
        start = position + _LENGTH.size
        if start > len(value):
            raise CommandError("a note is cut off")
        position = start + _LENGTH.unpack_from(value, position)[0]
        note = value[start:position]
        try:
            split_due_key(note)
        except ValueError as error:
            raise CommandError(str(error)) from error
        notes.append(note)
    if position != len(value):
        raise CommandError("there are bytes behind the last note, or it is cut off")
    return notes


def keys_to_read(command: Command) -> list[bytes]:
    """The keys that the notes are about, and the shares of the tokens among them."""
    keys = [split_due_key(note)[1] for note in decode_expire(command.value)]
    found = dict.fromkeys(shares.key_of(id_of_token(key)) for key in keys if key.startswith(TOKEN_PREFIX))
    return keys + [share for share in found if share]


def expire(work: Work, command: Command) -> Outcome:
    """Removes the noted keys that have expired, and the notes; ``revision`` tells how many notes it has judged."""
    notes = decode_expire(command.value)
    bytes_end = work.bytes + READ_BYTES_MAX
    for place, note in enumerate(notes):
        deadline_us, key = split_due_key(note)
        if deadline_us > work.clock_us:
            continue
        if work.bytes > bytes_end:
            return Outcome(Status.OK, place)
        data = work.read(key)
        if data is not None:
            work.count(len(data))
        if data is not None and key.startswith(USER_PREFIX):
            stored = decode_value(data)
            if stored.expires_us == deadline_us and work.ownership.is_present(key[1:], stored.epoch):
                work.remove(key[1:], ChangeKind.EXPIRE)
        elif data is not None and key.startswith(TOKEN_PREFIX) and TokenRecord.decode(data).deadline_us == deadline_us:
            size = tokens.size_of(key, data)
            work.tokens -= 1
            work.token_bytes -= size
            shares.change(work, id_of_token(key), -1, -size)
            work.write(key, None)
        work.write(note, None)
    return Outcome(Status.OK, len(notes))
