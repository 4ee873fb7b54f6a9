"""The shares of guests in a node."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from raft_node.rpc.doug.guest_room import NOTHING, GuestRoom, Use

ONE, ALL = Use(3, 1, 100), Use(5, 2, 150)


def test_who_takes_too_much_is_told_of_what() -> None:
    room = GuestRoom(ONE, ALL)
    assert room.take("a", Use(1, 1, 50)) == ""
    assert room.take("a", Use(1, 1, 0)) == "a uses this node with 1 scans at most at a time"
    assert room.take("a", Use(1, 0, 51)) == "a uses this node with 100 bytes at most at a time"
    assert room.take("b", Use(1, 0, 100)) == ""
    assert room.take("c", Use(1, 0, 1)) == "clients use this node themselves with 150 bytes at most at a time"
    assert room.take("c", Use(1, 0, 0)) == ""
    assert [room.take("a", Use(1)) for _ in range(2)] == ["", ""]
    assert room.take("a", Use(1)) == "a uses this node with 3 calls at most at a time"
    assert room.take("c", Use(1)) == "clients use this node themselves with 5 calls at most at a time"


USES = st.builds(Use, st.just(1), st.integers(0, 1), st.integers(0, 60))


@given(st.lists(st.tuples(st.sampled_from("abc"), USES, st.booleans()), max_size=60))
def test_no_share_is_exceeded_and_nothing_is_kept(steps: list[tuple[str, Use, bool]]) -> None:
    room, held = GuestRoom(ONE, ALL), list[tuple[str, Use]]()
    for guest, use, ends in steps:
        if ends and held:
            room.give_back(*held.pop(0))
        if not room.take(guest, use):
            held.append((guest, use))
        calls = Counter(name for name, _ in held)
        assert room.used.calls == len(held) <= ALL.calls
        assert room.used.size == sum(each.size for _, each in held) <= ALL.size
        assert all(count <= ONE.calls for count in calls.values())
    for each in held:
        room.give_back(*each)
    assert (room.used, room._by_guest) == (NOTHING, {})
