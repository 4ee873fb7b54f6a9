"""The keyspace: what is written as a value is read as the same value, and nothing else is taken for one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raft_node.errors import CorruptionError
from raft_node.kv.keyspace import StoredValue, decode_value, encode_value

values = st.builds(
    StoredValue,
    st.integers(1, 2**63),
    st.binary(max_size=4),
    st.binary(max_size=12),
    st.integers(1, 9),
    st.integers(0, 2**60),
    st.binary(max_size=4),
)


@given(values)
def test_a_value_is_read_as_it_was_written(value: StoredValue) -> None:
    assert decode_value(encode_value(value)) == value


def test_a_short_value_with_a_content_encoding_is_no_damage() -> None:
    """Its optional field and all behind it may be shorter than an expiry."""
    value = StoredValue(7, b"", b"x", 1, 0, b"br")
    assert decode_value(encode_value(value)) == value


def test_golden_bytes() -> None:
    assert (
        encode_value(StoredValue(7, b"t", b"v", 1)).hex() == "0200" + "0100" + "01000000" + "0700000000000000" + "7476"
    )
    encoded = encode_value(StoredValue(7, b"t", b"v", 1, 0, b"br"))
    assert encoded.hex() == "0202" + "0100" + "01000000" + "0700000000000000" + "026272" + "7476"


def test_a_value_that_is_cut_off_is_told() -> None:
    whole = encode_value(StoredValue(7, b"t", b"", 1, 5, b"br"))
    for size in range(len(whole)):
        with pytest.raises(CorruptionError):
            decode_value(whole[:size])
