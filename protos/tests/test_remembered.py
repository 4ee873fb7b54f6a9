"""What is remembered of proofs: how many of them, and how many bytes."""

from __future__ import annotations

from doug_wire.auth.remembered import Remembered


def test_all_are_forgotten_when_there_is_no_room_for_one_more() -> None:
    remembered = Remembered[str](3, 100)
    for number in range(3):
        remembered.keep(b"%d" % number, "who", 1)
    remembered.keep(b"3", "who", 1)
    assert list(remembered.found) == [b"3"]
    remembered.keep(b"4", "who", 99)
    assert list(remembered.found) == [b"3", b"4"]
    remembered.keep(b"5", "who", 1)
    assert list(remembered.found) == [b"5"]
    remembered.keep(b"6", "who", 200)
    assert remembered.found == {b"6": "who"}, "one alone may be larger"


def test_each_counts_once_however_often_it_is_shown() -> None:
    remembered = Remembered[str](2, 100)
    for _ in range(50):
        remembered.keep(b"a", "alice", 40)
        remembered.keep(b"b", "bob", 60)
    assert remembered.found == {b"a": "alice", b"b": "bob"}


def test_what_was_dropped_counts_no_more() -> None:
    remembered = Remembered[str](10, 100)
    for number in range(50):
        remembered.keep(b"stays", "stays", 30)
        remembered.keep(b"%d" % number, "goes", 60)
        remembered.drop_those(lambda who: who == "goes")
    remembered.drop(b"not there")
    assert remembered.found == {b"stays": "stays"}
