"""The changes of users' keys in a batch of effects, as watches tell them.

A put carries its revision in the stored value. A removal leaves nothing in the keyspace, so the state machine notes
beside the batch which effects are removals, of which kind and revision. Everything else in a batch is the state
machine's own. This module knows neither memtables nor files, nor who watches.

Invariants:
1. Which changes there are, and their order, follows from the log alone, however it was cut into batches.
2. Within one revision a key is told once, as it is at the end: a transaction is one change.
3. What a watch does not want takes a small part of the time of what it wants.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from doug_wire.watch import Change, ChangeKind
from raft_node.errors import CorruptionError
from raft_node.kv.keyspace import USER_PREFIX, VALUE_HEADER, VALUE_HEADER_BYTES, decode_value

# DO NOT CHANGE: this is in every change segment.
_REMOVAL = struct.Struct("<IQB")

_USER = USER_PREFIX[0]
_BEHIND_USERS = bytes((_USER + 1,))
_PUT = int(ChangeKind.PUT)
_REMOVALS = (int(ChangeKind.DELETE), int(ChangeKind.EXPIRE))


class Removal(NamedTuple):
    """The note that an effect of a batch removes a user's value.

    Attributes:
        place: The place of the effect in its batch.
        revision: The revision of the change.
        kind: DELETE or EXPIRE.
    """

    place: int
    revision: int
    kind: int


class Filter(NamedTuple):
    """The changes that a watch wants: of keys from ``start`` to before ``end`` (None: no end), and of some kinds."""

    start: bytes = b""
    end: bytes | None = None
    kinds: frozenset[int] = frozenset(map(int, ChangeKind))
    values: bool = True

    @property
    def everything(self) -> bool:
        """Whether the filter lets every change through."""
        return self == EVERYTHING

    def wants(self, kind: int, key: bytes) -> bool:
        """Whether a change is wanted."""
        return key >= self.start and (self.end is None or key < self.end) and kind in self.kinds


EVERYTHING = Filter()


def encode_removals(removals: Sequence[Removal]) -> bytes:
    """The bytes that are noted beside a batch: its removals."""
    pack = _REMOVAL.pack
    return b"".join([pack(*removal) for removal in removals])


def decode_removals(notes: bytes) -> dict[int, tuple[int, int]]:
    """The kind and the revision of each removal, by the place of its effect.

    Raises:
        CorruptionError: The bytes are no such notes.
    """
    if len(notes) % _REMOVAL.size:
        raise CorruptionError("history", 0, f"notes of {len(notes)} bytes")
    found = {place: (kind, revision) for place, revision, kind in _REMOVAL.iter_unpack(notes)}
    if any(kind not in _REMOVALS for kind, _ in found.values()):
        raise CorruptionError("history", 0, "a removal of an unknown kind")
    return found


class _Found(NamedTuple):
    revision: int
    kind: int
    key: bytes
    data: bytes


def changes_in(
    batch: Sequence[tuple[bytes, bytes | None]], notes: bytes, after: tuple[int, int], wanted: Filter = EVERYTHING
) -> list[Change]:
    """The changes in a batch behind a position, in the order of the log.

    Args:
        batch: The effects.
        notes: The notes beside the batch.
        after: The position: a revision, and how many of its changes are told already; 0 for all of them.
        wanted: The changes that are wanted.

    Raises:
        CorruptionError: The batch or its notes are damaged.
    """
    revision_after, place_after = after
    changes: list[Change] = []
    for group in _by_revision(_found(batch, notes, wanted)):
        revision = group[0].revision
        if revision < revision_after or (revision == revision_after and not place_after):
            continue
        skipped = place_after if revision == revision_after else 0
        last = len(group) - 1
        for place, found in enumerate(group):
            if place >= skipped and wanted.wants(found.kind, found.key):
                changes.append(_change(found, place, last=place == last, values=wanted.values))
    return changes


def _found(batch: Sequence[tuple[bytes, bytes | None]], notes: bytes, wanted: Filter) -> list[_Found]:
    """The effects on users' keys, at least those of each revision that changes a wanted key.

    A batch may have tens of thousands of effects, of which a watch wants none: that is told first, by the keys alone.
    """
    removals = decode_removals(notes) if notes else {}
    revisions: set[int] | None = None
    if wanted.start or wanted.end is not None:
        low, high = USER_PREFIX + wanted.start, _BEHIND_USERS if wanted.end is None else USER_PREFIX + wanted.end
        places = [place for place, (key, _) in enumerate(batch) if low <= key < high]
        if not places:
            return []
        revisions = {_told_by(batch[place][1], place, removals)[0] for place in places}
    found: list[_Found] = []
    for place, (key, data) in enumerate(batch):
        if key[0] == _USER:
            revision, kind = _told_by(data, place, removals)
            if revisions is None or revision in revisions:
                found.append(_Found(revision, kind, key[1:], data or b""))
    return found


def _told_by(data: bytes | None, place: int, removals: Mapping[int, tuple[int, int]]) -> tuple[int, int]:
    """The revision and the kind of the change that an effect on a user's key is."""
    if data is None:
        if place not in removals:
            raise CorruptionError("history", place, "a removal without a revision")
        kind, revision = removals[place]
        return revision, kind
    if len(data) < VALUE_HEADER_BYTES:
        raise CorruptionError("history", place, f"a value of {len(data)} bytes")
    revision = VALUE_HEADER.unpack_from(data)[4]
    return revision, _PUT


def _by_revision(found: list[_Found]) -> list[list[_Found]]:
    """The changes of each revision together, a key once, as the last of its changes left it."""
    groups: list[list[_Found]] = []
    for each in found:
        if groups and groups[-1][0].revision == each.revision:
            groups[-1].append(each)
        else:
            groups.append([each])
    for place, group in enumerate(groups):
        if len(group) > 1:
            groups[place] = list({each.key: each for each in group}.values())
    return groups


def _change(found: _Found, place: int, *, last: bool, values: bool) -> Change:
    if found.kind != _PUT:
        return Change(found.kind, last, place, found.key, found.revision)
    stored = decode_value(found.data)
    return Change(
        _PUT,
        last,
        place,
        found.key,
        found.revision,
        stored.value if values else b"",
        stored.content_type,
        stored.content_encoding,
        stored.expires_at_ms,
    )
