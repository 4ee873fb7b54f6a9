"""Trace contexts on the wire: what W3C's header may say, and blobs that anybody may have sent."""

from __future__ import annotations

import pytest

from doug_wire.trace_context import TRACES_MAX, TraceContext, decode_traces, encode_traces, parse_traceparent

TRACE, SPAN = 0x4BF92F3577B34DA6A3CE929D0E0E4736, 0x00F067AA0BA902B7
GOOD = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_a_traceparent_says_which_span_and_whether_it_is_sampled() -> None:
    assert parse_traceparent(GOOD) == TraceContext(TRACE, SPAN)
    assert parse_traceparent(GOOD[:-1] + b"0") == TraceContext(TRACE, SPAN, sampled=False)
    assert parse_traceparent(GOOD[:-2] + b"ff") == TraceContext(TRACE, SPAN), "other flags say nothing"
    assert parse_traceparent(b" " + GOOD + b"\t", "a=b") == TraceContext(TRACE, SPAN, state="a=b")


def test_a_state_without_end_is_left_out() -> None:
    assert parse_traceparent(GOOD, "a=" + "b" * 510) == TraceContext(TRACE, SPAN, state="a=" + "b" * 510)
    assert parse_traceparent(GOOD, "a=" + "b" * 511) == TraceContext(TRACE, SPAN)


def test_a_later_version_may_have_more_to_say() -> None:
    assert parse_traceparent(b"01" + GOOD[2:]) == TraceContext(TRACE, SPAN)
    assert parse_traceparent(b"cc" + GOOD[2:] + b"-what-the-future-will-be-like") == TraceContext(TRACE, SPAN)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"nonsense",
        b"ff" + GOOD[2:],
        GOOD + b"-01",
        GOOD + b"01",
        b"01" + GOOD[2:] + b".what",
        GOOD.upper(),
        GOOD[:-1],
        GOOD.replace(b"-", b"_"),
        b"00-" + b"0" * 32 + b"-00f067aa0ba902b7-01",
        b"00-4bf92f3577b34da6a3ce929d0e0e4736-" + b"0" * 16 + b"-01",
        b"\xff" * 55,
        GOOD + b"\n",
    ],
)
def test_whatever_else_is_as_good_as_absent(value: bytes) -> None:
    assert parse_traceparent(value) is None


def test_a_blob_gives_back_what_was_put_in() -> None:
    traces = [(7, TraceContext(TRACE, SPAN)), (1 << 63, TraceContext(1, 2))]
    blob = encode_traces(traces)
    assert len(blob) == 64
    assert decode_traces(blob) == dict(traces)
    assert decode_traces(encode_traces([])) == {}


def test_the_bytes_of_a_blob_are_fixed() -> None:
    blob = encode_traces([(0x0102, TraceContext(TRACE, SPAN))])
    assert blob.hex() == "0201000000000000" + f"{TRACE:032x}" + f"{SPAN:016x}"


def test_a_damaged_or_endless_blob_harms_nobody() -> None:
    blob = encode_traces([(7, TraceContext(TRACE, SPAN))])
    assert decode_traces(blob[:-1]) == {}
    assert decode_traces(blob + b"x") == {}
    assert decode_traces(bytes(32)) == {}, "an id of zero is none"
    many = b"".join(encode_traces([(number, TraceContext(TRACE, SPAN))]) for number in range(10 * TRACES_MAX))
    assert list(decode_traces(many)) == list(range(TRACES_MAX))
