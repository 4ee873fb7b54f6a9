"""Which replica is asked next: facade.client.replicas."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, cast

import pytest

from facade.client.link import Link
from facade.client.modes import Kind
from facade.client.node import Node
from facade.client.operation import Load, Operation
from facade.client.replicas import Replicas

NOW_S = 100.0


class FakeNode:
    """What a choice looks at."""

    def __init__(self, name: str, zone: str = "") -> None:
        self.id = name
        self.zone = zone
        self.up, self.suspect = True, False
        self.granted: set[Kind] = set()
        self.behind_until_s = self.slow_until_s = 0.0
        self.link = Link(1, 100)

    def want(self) -> None:
        """It is connected already."""


def make(*zones: str, own: str = "") -> tuple[list[FakeNode], Replicas]:
    nodes = [FakeNode(name, zone) for name, zone in zip("abcde", zones, strict=False)]
    return nodes, Replicas(cast("list[Node]", nodes), own)


def chosen(replicas: Replicas, times: int, kind: Kind = Kind.READ_LOCAL, but: Any = None) -> str:
    found = ""
    for _ in range(times):
        node = replicas.choose(kind, NOW_S, but)
        if node is not None:
            replicas.took(node)
        found += "-" if node is None else node.id
    return found


def test_equal_replicas_take_turns() -> None:
    _, replicas = make("", "", "")
    assert chosen(replicas, 7) == "abcabca"


def test_who_is_chosen_and_finds_nothing_left_to_take_keeps_the_turn() -> None:
    nodes, replicas = make("", "", "")
    taken = ""
    for _ in range(4):
        # The reads of one request come one after the other; each chooses, and then the first that is woken takes all.
        order = [replicas.choose(Kind.READ_LOCAL, NOW_S)]
        while (node := order[-1]) is not None:
            node.granted.add(Kind.READ_LOCAL)
            order.append(replicas.choose(Kind.READ_LOCAL, NOW_S))
        assert len(order) == 4 and order[0] is not None
        replicas.took(order[0])
        taken += order[0].id
        for each in nodes:
            each.granted.clear()
    assert taken == "abca"


def test_those_that_are_down_stuck_or_have_their_turn_are_not_asked() -> None:
    nodes, replicas = make("", "", "", "")
    nodes[0].up, nodes[1].suspect = False, True
    nodes[2].granted.add(Kind.READ_LOCAL)
    assert chosen(replicas, 2) == "dd"
    nodes[3].up = False
    assert chosen(replicas, 1) == "-"


def test_the_own_zone_comes_first_as_long_as_somebody_there_can() -> None:
    nodes, replicas = make("x", "y", "y", own="y")
    assert chosen(replicas, 4) == "bcbc"
    nodes[1].up = nodes[2].up = False
    assert chosen(replicas, 2) == "aa"


def test_a_node_that_has_not_told_its_zone_yet_is_asked() -> None:
    _, replicas = make("", "x", own="y")
    assert chosen(replicas, 2) == "aa"


def test_a_slow_replica_comes_behind_a_far_one() -> None:
    nodes, replicas = make("x", "y", own="y")
    nodes[1].slow_until_s = NOW_S + 1
    assert chosen(replicas, 2) == "aa"
    nodes[0].slow_until_s = NOW_S + 1
    assert chosen(replicas, 2) == "bb", "when all are slow, none is"


def test_who_is_behind_is_asked_last_for_what_must_be_fresh_and_no_later_than_others_for_the_rest() -> None:
    nodes, replicas = make("", "")
    nodes[0].behind_until_s = NOW_S + 1
    assert chosen(replicas, 3, Kind.READ_FRESH) == "bbb"
    assert sorted(chosen(replicas, 2, Kind.READ_LOCAL)) == ["a", "b"]
    nodes[1].up = False
    assert chosen(replicas, 1, Kind.READ_FRESH) == "a"


def test_those_with_the_fewest_reads_under_way_come_first(loop: asyncio.AbstractEventLoop) -> None:
    nodes, replicas = make("", "")
    nodes[0].link = Link(2, 100)
    nodes[0].link.cut(Kind.READ_LOCAL, _queue(loop), NOW_S)
    assert chosen(replicas, 3) == "bbb"


def test_the_leader_can_be_left_out() -> None:
    nodes, replicas = make("", "")
    assert chosen(replicas, 2, Kind.READ_LINEARIZABLE, but=nodes[0]) == "bb"


@pytest.fixture
def loop() -> Any:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def _queue(loop: asyncio.AbstractEventLoop) -> Any:
    return deque([Operation(1, Kind.READ_LOCAL, 0, Load(), b"k", b"r", 200.0, loop.create_future(), True)])
