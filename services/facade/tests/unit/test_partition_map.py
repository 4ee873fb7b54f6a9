"""The partition map: facade.client.partition_map."""

from __future__ import annotations

import pytest

from doug_wire.slots import slot_of
from facade.client.partition_map import PartitionMap, PartitionMapError, SlotRange


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
