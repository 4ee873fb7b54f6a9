"""The ids of watches: what is encoded comes back, and nothing else is one."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doug_wire.watch import Change, ChangeKind
from facade.client.watches.stream import behind, next_of, order_of, split
from facade.routes.watch import ids as watch_ids
from facade.routes.watch.audience import progress_data
from facade.routes.watch.ids import WatchIdError

revisions = st.integers(0, 10**17)
places = st.integers(0, (1 << 16) - 1)
positions = st.builds(
    lambda revision, place: behind(revision - 1) | place if place and revision else behind(revision), revisions, places
)


def test_golden() -> None:
    found = watch_ids.encode("0123456789abcdef", 3, {1: behind(7), 0: behind(4) | 2})
    assert found == "w1-0123456789abcdef-3-0:5.2,1:7"


@given(st.integers(0, 1 << 60), st.dictionaries(st.integers(0, 1023), positions, min_size=1, max_size=5))
def test_what_is_encoded_comes_back(epoch: int, found: dict[int, int]) -> None:
    text = watch_ids.encode("0" * 16, epoch, found)
    assert watch_ids.decode(text) == ("0" * 16, epoch, found)


@given(st.text(max_size=60))
def test_nothing_else_is_one(text: str) -> None:
    try:
        found = watch_ids.decode(text)
    except WatchIdError:
        return
    assert watch_ids.encode(*found) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "w2-0123456789abcdef-3-0:5",
        "w1-0123456789ABCDEF-3-0:5",
        "w1-0123456789abcdef-3-",
        "w1-0123456789abcdef-3-0:5,",
        "w1-0123456789abcdef-3-1:5,0:7",
        "w1-0123456789abcdef-3-0:5,0:7",
        "w1-0123456789abcdef-3-0:05",
        "w1-0123456789abcdef-3-0:5.0",
        "w1-0123456789abcdef-3-0:5.70000",
        "w1-0123456789abcdef-3-0:0.1",
        "w1-0123456789abcdef-3-0:5\n",
        "w1-0123456789abcdef-3-" + ",".join(f"{shard}:1" for shard in range(20_000)),
    ],
)
def test_what_is_none_is_refused(text: str) -> None:
    with pytest.raises(WatchIdError):
        watch_ids.decode(text)


def test_positions_compare_as_changes_come() -> None:
    changes = [
        Change(ChangeKind.PUT, True, 0, b"k", 4),
        Change(ChangeKind.PUT, False, 0, b"k", 5),
        Change(ChangeKind.PUT, True, 1, b"l", 5),
        Change(ChangeKind.PUT, True, 0, b"k", 6),
    ]
    for this, following in itertools.pairwise(changes):
        assert order_of(this) < next_of(this) <= order_of(following)
    assert [split(next_of(change)) for change in changes] == [(4, 0), (5, 1), (5, 0), (6, 0)]


def test_progress_does_not_name_a_revision_of_which_only_a_part_was_sent() -> None:
    whole, part = behind(7), order_of(Change(1, False, 2, b"k", 8)) + 1
    assert progress_data({0: whole, 3: part, 4: behind(0)}) == b'{"revisions":{"0":"7","3":"7","4":"0"}}'
