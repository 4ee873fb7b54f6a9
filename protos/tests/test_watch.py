"""The records of a watch: their bytes, and that nothing else is one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doug_wire.watch import RECORD, Change, ChangeKind, WatchError, decode_changes, encode_change

GOLDEN = bytes.fromhex(
    "01 00 0200 0a 04 0100 02000000 0b00000000000000 0c00000000000000"  # A put, not the last of revision 11.
    "6b 746578742f6373767878 677a6970 7676"
)

puts = st.builds(
    Change,
    st.just(int(ChangeKind.PUT)),
    st.booleans(),
    st.integers(0, 65535),
    st.binary(min_size=1, max_size=20),
    st.integers(1, 1 << 63),
    st.binary(max_size=50),
    st.binary(max_size=10),
    st.binary(max_size=10),
    st.integers(0, 1 << 60),
)
removals: st.SearchStrategy[Change] = st.tuples(
    st.sampled_from([int(ChangeKind.DELETE), int(ChangeKind.EXPIRE)]),
    st.booleans(),
    st.integers(0, 65535),
    st.binary(min_size=1, max_size=20),
    st.integers(1, 1 << 63),
).map(lambda parts: Change(*parts))


def test_golden_bytes() -> None:
    change = Change(ChangeKind.PUT, False, 2, b"k", 11, b"vv", b"text/csvxx", b"gzip", 12)
    assert encode_change(change) == GOLDEN
    assert decode_changes(GOLDEN) == [change]
    assert [int(kind) for kind in ChangeKind] == [1, 2, 3]


@given(st.lists(puts | removals, max_size=20))
def test_what_is_encoded_comes_back(changes: list[Change]) -> None:
    assert decode_changes(b"".join(map(encode_change, changes))) == changes


@given(puts | removals, st.data())
def test_a_batch_that_is_cut_off_is_refused(change: Change, data: st.DataObject) -> None:
    encoded = encode_change(change)
    cut = data.draw(st.integers(1, len(encoded) - 1))
    with pytest.raises(WatchError):
        decode_changes(encoded + encoded[:cut])


@pytest.mark.parametrize(
    ("offset", "value"),
    [(0, 0), (0, 4), (1, 2)],
)
def test_what_is_not_known_is_refused(offset: int, value: int) -> None:
    damaged = bytearray(GOLDEN)
    damaged[offset] = value
    with pytest.raises(WatchError):
        decode_changes(bytes(damaged))


@pytest.mark.parametrize(
    "parts",
    [
        RECORD.pack(ChangeKind.DELETE, 1, 0, 0, 0, 1, 1, 5, 0) + b"kv",
        RECORD.pack(ChangeKind.DELETE, 1, 0, 1, 0, 1, 0, 5, 0) + b"kt",
        RECORD.pack(ChangeKind.EXPIRE, 1, 0, 0, 0, 1, 0, 5, 9) + b"k",
    ],
)
def test_a_removal_has_no_value(parts: bytes) -> None:
    with pytest.raises(WatchError, match="removal"):
        decode_changes(parts)
