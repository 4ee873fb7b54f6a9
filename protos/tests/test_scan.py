"""Records of scans: golden bytes, round trips, and malformed pages."""

from __future__ import annotations

import pytest

from doug_wire.scan import (
    ENTRY,
    PREFIX,
    RECORD,
    ScanError,
    ScanRecord,
    after_prefix,
    decode_page,
    encode_entry,
    encode_prefix,
)

RECORDS = [
    ScanRecord(ENTRY, b"a", (1 << 64) - 1, b"value", b"text/plain", b"gzip", 1_700_000_000_000),
    ScanRecord(PREFIX, b"b/"),
    ScanRecord(ENTRY, b"c", 1, bytes(1 << 20)),
]
BLOBS = [encode_entry(*RECORDS[0][1:]), encode_prefix(b"b/"), encode_entry(b"c", 1, bytes(1 << 20), b"")]


def test_golden_bytes() -> None:
    assert encode_entry(b"key", 2, b"val", b"t", b"g", 3).hex() == (
        "000101030003000000020000000000000003000000000000006b6579746776616c"
    )
    assert encode_prefix(b"a/").hex() == "01000002000000000000000000000000000000000000000000612f"


def test_round_trip() -> None:
    assert BLOBS[0] == encode_entry(b"a", (1 << 64) - 1, b"value", b"text/plain", b"gzip", 1_700_000_000_000)
    assert decode_page(b"".join(BLOBS)) == RECORDS
    assert decode_page(b"") == []


def test_a_page_that_is_cut_off_is_refused() -> None:
    page = BLOBS[1] + BLOBS[0]
    for end in range(1, len(page)):
        if end != len(BLOBS[1]):
            with pytest.raises(ScanError):
                decode_page(page[:end])


def test_unknown_kinds_and_prefixes_with_values_are_refused() -> None:
    for head in (
        RECORD.pack(2, 0, 0, 0, 0, 0, 0),
        RECORD.pack(PREFIX, 0, 0, 0, 0, 1, 0),
        RECORD.pack(1, 0, 0, 0, 1, 0, 0),
    ):
        with pytest.raises(ScanError):
            decode_page(head + b"v" * head[5])


def test_what_follows_a_prefix() -> None:
    assert after_prefix(b"a/") == b"a0"
    assert after_prefix(b"a\xff\xff") == b"b"
    assert after_prefix(b"\xff") is None
    assert after_prefix(b"") is None
