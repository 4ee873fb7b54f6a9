"""The ids of a watch: how far it has told, for every shard, as one word that any facade understands.

    w1-<cluster>-<epoch of the map>-<shard>:<revision>,<shard>:<revision>.<place>,...

``cluster`` is a hash of the cluster's id, which a restored cluster has not. A revision alone is told whole; with a
place, only its first so many changes are: those of a transaction have one revision. Must not know HTTP.

Invariant: ``decode(encode(x)) == x``, and nothing else is an id.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

import xxhash

from facade.client.watches.stream import behind, split

_ID = re.compile(r"w1-([0-9a-f]{16})-(0|[1-9][0-9]{0,18})-([0-9:.,]+)\Z")
_PART = re.compile(r"(0|[1-9][0-9]{0,4}):(0|[1-9][0-9]{0,17})(?:\.([1-9][0-9]{0,4}))?\Z")
_PLACE_MAX = (1 << 16) - 1
ID_CHARS_MAX = 48 << 10


class WatchIdError(ValueError):
    """The text is no id of a watch."""


class WatchId(NamedTuple):
    """How far a watch has told.

    Attributes:
        cluster: The hash of the cluster's id.
        epoch: The epoch of the partition map.
        positions: By shard, where it goes on: see ``facade.client.watches.stream``.
    """

    cluster: str
    epoch: int
    positions: dict[int, int]


def cluster_of(cluster_id: bytes) -> str:
    """How ids name a cluster."""
    return xxhash.xxh3_64_hexdigest(cluster_id)


def part_of(shard: int, position: int) -> str:
    """The position of one shard in an id."""
    revision, place = split(position)
    return f"{shard}:{revision}.{place}" if place else f"{shard}:{revision}"


def head_of(cluster: str, epoch: int) -> str:
    """The beginning of an id."""
    return f"w1-{cluster}-{epoch}-"


def encode(cluster: str, epoch: int, positions: Mapping[int, int]) -> str:
    """The id of these positions, at least one."""
    parts = [part_of(shard, position) for shard, position in sorted(positions.items())]
    return head_of(cluster, epoch) + ",".join(parts)


def decode(text: str) -> WatchId:
    """The opposite of ``encode``.

    Raises:
        WatchIdError: The text is no id.
    """
    match = _ID.match(text) if len(text) <= ID_CHARS_MAX else None
    if match is None:
        raise WatchIdError("it is not written as the id of an event is")
    positions: dict[int, int] = {}
    last = -1
    for part in match[3].split(","):
        found = _PART.match(part)
        if found is None or int(found[1]) <= last:
            raise WatchIdError("its shards are not written as those of an id are")
        last, revision, place = int(found[1]), int(found[2]), int(found[3] or 0)
        if place > _PLACE_MAX or (place and not revision):
            raise WatchIdError("it names a change that cannot be")
        positions[last] = behind(revision - 1) | place if place else behind(revision)
    return WatchId(match[1], int(match[2]), positions)
