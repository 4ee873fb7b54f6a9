"""The partition map: owners of keys, what is refused, and its bytes."""

from __future__ import annotations

import pytest

from doug_wire.partition_map import PartitionMap, PartitionMapError, SlotRange, encode_ranges
from doug_wire.slots import slot_of


def test_owner() -> None:
    slot = slot_of(b"hello")
    ranges = [SlotRange(slot + 1, 1023, 1, 5), SlotRange(0, slot - 1, 0, 5), SlotRange(slot, slot, 2, 6)]
    partition_map = PartitionMap(6, ranges)
    assert partition_map.owner(b"hello") == (2, 6)
    assert partition_map.owner(b"{hello}.other") == (2, 6)
    assert [part.first for part in partition_map.ranges] == [0, slot, slot + 1]


@pytest.mark.parametrize(
    "ranges",
    [
        [],
        [SlotRange(0, 1022, 0, 1)],
        [SlotRange(1, 1023, 0, 1)],
        [SlotRange(0, 1024, 0, 1)],
        [SlotRange(0, 600, 0, 1), SlotRange(600, 1023, 1, 1)],
        [SlotRange(0, 500, 0, 1), SlotRange(502, 1023, 1, 1)],
        [SlotRange(0, 1023, 0, 1), SlotRange(1000, 1023, 1, 1)],
    ],
)
def test_every_slot_exactly_once_or_no_map(ranges: list[SlotRange]) -> None:
    with pytest.raises(PartitionMapError):
        PartitionMap(1, ranges)


def test_golden_bytes() -> None:
    first = PartitionMap.first(2)
    assert first.encode().hex() == (
        "0100000000000000" + "02000000" + "0000ff01000000000100000000000000" + "0002ff03010000000100000000000000"
    )
    again = PartitionMap.decode(first.encode())
    assert (again.epoch, again.ranges) == (first.epoch, first.ranges)
    assert first.owner_of_slot(511) == (0, 1)
    assert first.of_shard(1) == [SlotRange(512, 1023, 1, 1)]


@pytest.mark.parametrize("shards", [1, 2, 3, 7, 1024])
def test_the_first_map_covers_every_slot_once(shards: int) -> None:
    first = PartitionMap.first(shards)
    assert [first.owner_of_slot(slot)[1] for slot in range(1024)] == [1] * 1024
    assert sorted({first.owner_of_slot(slot)[0] for slot in range(1024)}) == list(range(shards))


@pytest.mark.parametrize("data", [b"", PartitionMap.first(2).encode()[:-1], encode_ranges(1, ()), b"x" * 28])
def test_bytes_that_are_no_map_are_refused(data: bytes) -> None:
    with pytest.raises(PartitionMapError):
        PartitionMap.decode(data)
