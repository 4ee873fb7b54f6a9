"""Trace contexts on the wire: the ``traceparent`` of HTTP and gRPC metadata, and blobs beside batches of records.

Must not know any tracing library. Invariants:
    1. Whatever is malformed is as good as absent: a trace never fails the request that it belongs to.
    2. A blob holds at most ``TRACES_MAX`` contexts, all of them sampled; nothing is carried for anything else.

Source: W3C Trace Context, level 1 (https://www.w3.org/TR/trace-context-1/), 3.2; docs/tracing.md.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable
from typing import NamedTuple

TRACEPARENT = "traceparent"
TRACESTATE = "tracestate"

TRACES_MAX = 64
"""The most contexts in one message, 2 KiB of them: a batch may hold thousands of records, and a client that samples all
of them has enough of them anyway."""

TRACESTATE_MAX = 512
"""The longest ``tracestate`` that is passed on (3.3.1.5 demands as much); a longer one is left out."""

_HEADER = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_FIRST_VERSION = b"00"
_NO_VERSION = b"ff"
_SAMPLED = 1

# The number that a context belongs to, the trace and the span. Little-endian as all records; ids as they are written.
_TRACE = struct.Struct("<Q16s8s")


class TraceContext(NamedTuple):
    """A span that others may have as their parent.

    Attributes:
        trace_id: 128 bits, not zero.
        span_id: 64 bits, not zero.
        sampled: Whether the maker of the span records it.
        state: The ``tracestate`` that came with the span.
    """

    trace_id: int
    span_id: int
    sampled: bool = True
    state: str = ""


def parse_traceparent(value: bytes, state: str = "") -> TraceContext | None:
    """Reads a ``traceparent``; None if it is to be ignored, with its ``tracestate``.

    Later versions may have more fields behind those that are known; this one must not.
    """
    match = _HEADER.fullmatch(value.strip(b" \t"))
    if match is None or match[1] == _NO_VERSION or (match[1] == _FIRST_VERSION and match[5] is not None):
        return None
    trace_id, span_id = int(match[2], 16), int(match[3], 16)
    if not trace_id or not span_id:
        return None
    kept = state if len(state) <= TRACESTATE_MAX else ""
    return TraceContext(trace_id, span_id, bool(int(match[4], 16) & _SAMPLED), kept)


def encode_traces(traces: Iterable[tuple[int, TraceContext]]) -> bytes:
    """The blob of sampled contexts, each with the number of its record or entry. Requires: at most ``TRACES_MAX``."""
    return b"".join(
        [
            _TRACE.pack(number, context.trace_id.to_bytes(16, "big"), context.span_id.to_bytes(8, "big"))
            for number, context in traces
        ]
    )


def decode_traces(blob: bytes) -> dict[int, TraceContext]:
    """The contexts of a blob by number, the first ``TRACES_MAX`` of them; none if the blob is damaged."""
    if len(blob) % _TRACE.size:
        return {}
    found: dict[int, TraceContext] = {}
    for number, trace, span in _TRACE.iter_unpack(blob[: TRACES_MAX * _TRACE.size]):
        trace_id, span_id = int.from_bytes(trace, "big"), int.from_bytes(span, "big")
        if trace_id and span_id:
            found[number] = TraceContext(trace_id, span_id)
    return found
