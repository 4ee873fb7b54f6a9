"""Ranges that hold a key: the same as by a look at every range, and by few looks."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from facade.routes.watch.stabbing import NEW_MAX, Stabbing

KEYS = st.binary(max_size=2)
Range = tuple[bytes, bytes | None]
RANGES = st.tuples(KEYS, st.none() | KEYS)


@given(st.lists(st.tuples(RANGES, st.booleans(), KEYS), max_size=400), st.booleans())
def test_it_finds_what_a_look_at_every_range_finds(
    steps: list[tuple[tuple[bytes, bytes | None], bool, bytes]], many: bool
) -> None:
    found: Stabbing[int] = Stabbing()
    ranges: dict[int, Range] = {}
    if many:
        for number in range(3 * NEW_MAX):
            ranges[-1 - number] = (b"%03d" % number, b"%03d" % (number + number % 7))
            found.add(*ranges[-1 - number], -1 - number)
    for item, (each, goes, key) in enumerate(steps):
        if goes and ranges:
            gone = next(iter(ranges))
            del ranges[gone]
            found.remove(gone)
        else:
            ranges[item] = each
            found.add(*each, item)
        wanted = {item for item, (start, end) in ranges.items() if key >= start and (end is None or key < end)}
        told = found.find(key)
        assert (set(told), len(told)) == (wanted, len(wanted))


def test_few_ranges_are_looked_at_beside_one_that_holds_everything() -> None:
    found: Stabbing[int] = Stabbing()
    found.add(b"", None, -1)
    for number in range(5000):
        found.add(b"%04d" % number, b"%04d" % (number + 1), number)
    assert sorted(found.find(b"2500x")) == [-1, 2500]
    before = found.looks
    assert (sorted(found.find(b"1234x")), found.find(b"x")) == ([-1, 1234], [-1])
    assert found.looks - before < 200


def test_an_item_that_comes_again_has_its_new_range_alone() -> None:
    found: Stabbing[int] = Stabbing()
    for number in range(2 * NEW_MAX):
        found.add(b"a", b"b", number)
    assert len(found.find(b"a")) == 2 * NEW_MAX
    found.remove(7)
    found.add(b"c", None, 7)
    assert 7 not in found.find(b"a") and found.find(b"c") == [7]
