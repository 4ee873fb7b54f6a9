"""Which of the 1024 slots a key belongs to.

The rule is Redis' tag rule: when a key holds ``{tag}`` with a tag that is not empty, only the first such tag counts, so
that related keys can be put into one shard. It must never change: stored data depends on it. Golden vectors in
``protos/tests/test_slots.py`` guard it.
"""

from __future__ import annotations

from collections.abc import Sequence

from xxhash import xxh3_64_intdigest

SLOTS = 1024
"""How many slots the key space is cut into. Frozen: stored data depends on it."""


def slot_of(key: bytes) -> int:
    """The slot of a key.

    Args:
        key: The key's bytes.

    Returns:
        A number in ``[0, SLOTS)``.
    """
    if b"{" in key:
        start = key.index(b"{") + 1
        end = key.find(b"}", start)
        if end > start:
            key = key[start:end]
    return xxh3_64_intdigest(key) % SLOTS


def slots_of(keys: Sequence[bytes]) -> list[int]:
    """The slots of many keys, in their order: ``slot_of`` of each, in less time."""
    if b"{" in b"".join(keys):
        return list(map(slot_of, keys))
    return [digest % SLOTS for digest in map(xxh3_64_intdigest, keys)]


def initial_ranges(shards: int) -> list[tuple[int, int, int]]:
    """The first partition map: the slots cut into even, adjacent ranges.

    Args:
        shards: How many shards there are, from 1 to ``SLOTS``.

    Returns:
        One ``(first slot, last slot, shard)`` for each shard, both ends included.
    """
    if not 1 <= shards <= SLOTS:
        raise ValueError(f"shards must lie between 1 and {SLOTS}, not {shards}")
    bounds = [SLOTS * shard // shards for shard in range(shards + 1)]
    return [(bounds[shard], bounds[shard + 1] - 1, shard) for shard in range(shards)]
