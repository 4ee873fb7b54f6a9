"""The ring of events: its bounds, its order, what it counts together, and how the Admin service tells it."""

from __future__ import annotations

import json
from typing import Any

from doug.v1 import admin_pb2 as pb
from raft_node.rpc.admin_service import AdminService
from raft_node.runtime.events import EventRing


class Clocks:
    """A wall clock and a monotonic one that the test moves."""

    def __init__(self) -> None:
        self.wall, self.monotonic = 1_000_000, 5_000

    def wall_us(self) -> int:
        return self.wall

    def monotonic_us(self) -> int:
        return self.monotonic

    def advance(self, us: int) -> None:
        self.wall += us
        self.monotonic += us


def make_ring(clocks: Clocks, count_max: int = 100, bytes_max: int = 1 << 20) -> EventRing:
    return EventRing(count_max, bytes_max, clocks.wall_us, clocks.monotonic_us, "start")


def test_an_event_keeps_both_clocks_its_term_and_its_details() -> None:
    clocks = Clocks()
    ring = make_ring(clocks)
    ring.add("became_leader", 7, {"b": 2, "a": "x"})
    clocks.advance(30)
    ring.add("lost_leadership", 8, {})
    records, cut = ring.since(0, 0)
    assert not cut
    assert [record.sequence for record in records] == [1, 2]
    first = records[0]
    assert (first.time_us, first.monotonic_us, first.term, first.name) == (1_000_000, 5_000, 7, "became_leader")
    assert json.loads(first.details) == {"a": "x", "b": 2}
    assert (records[1].time_us, records[1].monotonic_us) == (1_000_030, 5_030)


def test_the_number_of_events_is_bounded_and_the_oldest_give_way() -> None:
    ring = make_ring(Clocks(), count_max=3)
    for number in range(10):
        ring.add("e", number, {})
    assert [record.sequence for record in ring.since(0, 0).records] == [8, 9, 10]
    assert (len(ring), ring.forgotten) == (3, 7)


def test_their_bytes_are_bounded() -> None:
    ring = make_ring(Clocks(), count_max=1000, bytes_max=10_000)
    for number in range(200):
        ring.add("e", number, {"text": "x" * 500})
        assert ring.size <= 10_000
    assert 5 < len(ring) < 20
    assert ring.size == sum(record.size for record in ring.since(0, 0).records)
    assert ring.forgotten + len(ring) == 200


def test_an_event_larger_than_the_ring_leaves_it_empty() -> None:
    ring = make_ring(Clocks(), bytes_max=1_000)
    ring.add("e", 1, {"text": "x" * 5000})
    assert (len(ring), ring.size, ring.forgotten) == (0, 0, 1)


def test_the_same_again_is_counted_where_it_began() -> None:
    clocks = Clocks()
    ring = make_ring(clocks, count_max=3)
    ring.add("lost_leadership", 4, {})
    for _ in range(1000):
        clocks.advance(10)
        ring.add("became_pre_candidate", 4, {})
    campaign = ring.since(0, 0).records[1]
    assert (campaign.count, campaign.time_us, campaign.last_time_us) == (1000, 1_000_010, 1_010_000)
    assert ring.forgotten == 0
    ring.add("became_pre_candidate", 5, {})
    assert len(ring) == 3, "another term is another event"


def test_since_looks_at_the_last_time_and_the_limit_keeps_the_newest() -> None:
    clocks = Clocks()
    ring = make_ring(clocks)
    for number in range(5):
        ring.add("e", number, {})
        clocks.advance(100)
    assert [record.term for record in ring.since(1_000_200, 0).records] == [2, 3, 4]
    excerpt = ring.since(1_000_100, 2)
    assert ([record.term for record in excerpt.records], excerpt.cut) == ([3, 4], True)
    assert not ring.since(1_000_300, 2).cut


def test_a_wall_clock_that_is_set_back_hides_nothing() -> None:
    clocks = Clocks()
    ring = make_ring(clocks)
    ring.add("before", 1, {})
    clocks.wall -= 500_000
    ring.add("after", 1, {})
    clocks.wall += 600_000
    ring.add("later", 1, {})
    assert [record.name for record in ring.since(0, 0).records] == ["before", "after", "later"]
    assert [record.name for record in ring.since(900_000, 0).records] == ["before", "later"]


def test_two_starts_are_told_apart() -> None:
    assert EventRing(1, 1000).start_id != EventRing(1, 1000).start_id


async def test_the_admin_service_tells_the_ring() -> None:
    clocks = Clocks()
    ring = make_ring(clocks, count_max=2)
    for number in range(3):
        ring.add("follows", number, {"leader": "shard-3-1"})
    node: Any = None
    service = AdminService("shard-3-0", 3, node, ring)
    context: Any = None
    clocks.advance(9)
    answer = await service.Events(pb.EventsRequest(since_us=0, limit=1), context)
    assert (answer.node_id, answer.shard, answer.start_id, answer.clock_us) == ("shard-3-0", 3, "start", 1_000_009)
    assert (answer.forgotten, answer.cut) == (1, True)
    assert [(event.sequence, event.term, event.name, event.count) for event in answer.events] == [(3, 2, "follows", 1)]
    assert json.loads(answer.events[0].details) == {"leader": "shard-3-1"}
