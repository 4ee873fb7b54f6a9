"""The core against frames of other libraries: h2 is a peer that keeps the rules, hyperframe makes one that does not."""

from __future__ import annotations

from typing import Any

import h2.config
import h2.connection
import h2.events
import hpack
import hyperframe.frame as hf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from doug_stream.codes import PREFACE, StatusCode
from doug_stream.connection import Connection
from doug_stream.events import CallEnded, MessageReceived, RequestReceived, Terminated
from doug_stream.limits import Limits
from doug_stream.messages import Assembler, prefix

REQUEST = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/a.B/C"),
    (":authority", "x"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
]
IDS = st.sampled_from([0, 1, 2, 3, 5, 7, 1 << 30])
BLOCK = st.one_of(st.binary(max_size=30), st.just(hpack.Encoder().encode(REQUEST)))


def made(kind: Any, stream_id: int, flags: set[str], **fields: Any) -> bytes:
    """A frame by hyperframe, on a stream where it need not belong."""
    frame = kind(0 if kind in (hf.SettingsFrame, hf.PingFrame, hf.GoAwayFrame) else 1, **fields)
    frame.stream_id = stream_id
    for name in flags & {each.name for each in kind.defined_flags}:
        if not (name == "ACK" and fields.get("settings")):
            frame.flags.add(name)
    return bytes(frame.serialize())


FLAGS = st.sets(st.sampled_from(["END_STREAM", "END_HEADERS", "ACK", "PADDED", "PRIORITY"]))
FRAMES = st.one_of(
    st.builds(lambda i, f, d: made(hf.DataFrame, i, f - {"PADDED"}, data=d), IDS, FLAGS, st.binary(max_size=60)),
    st.builds(lambda i, f, d: made(hf.HeadersFrame, i, f, data=d), IDS, FLAGS, BLOCK),
    st.builds(lambda i, f, d: made(hf.ContinuationFrame, i, f, data=d), IDS, FLAGS, BLOCK),
    st.builds(
        lambda i, f, s: made(hf.SettingsFrame, i, f, settings=s),
        st.sampled_from([0, 0, 1]),
        FLAGS,
        st.dictionaries(st.integers(0, 9), st.sampled_from([0, 1, 10, 16_384, 65_535, (1 << 31) - 1, (1 << 32) - 1])),
    ),
    st.builds(lambda i, f: made(hf.PingFrame, i, f, opaque_data=bytes(8)), IDS, FLAGS),
    st.builds(lambda i, c: made(hf.RstStreamFrame, i, set(), error_code=c), IDS, st.integers(0, 20)),
    st.builds(
        lambda i, n: made(hf.WindowUpdateFrame, i, set(), window_increment=n),
        IDS,
        st.sampled_from([1, 1000, (1 << 31) - 1]),
    ),
    st.builds(lambda n, c: made(hf.GoAwayFrame, 0, set(), last_stream_id=n, error_code=c), IDS, st.integers(0, 20)),
    st.builds(lambda i: made(hf.PriorityFrame, i, set(), depends_on=i), IDS),
    st.builds(lambda i: made(hf.PushPromiseFrame, i, {"END_HEADERS"}, promised_stream_id=2), IDS),
    st.binary(max_size=20),
)


def parse(data: bytes) -> list[Any]:
    """What an end has sent, as hyperframe reads it."""
    found = []
    while data:
        frame, size = hf.Frame.parse_frame_header(memoryview(data[:9]))
        frame.parse_body(memoryview(data[9 : 9 + size]))
        found.append(frame)
        data = data[9 + size :]
    return found


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.booleans(), st.lists(FRAMES, max_size=40), st.data())
def test_whatever_comes_is_answered_or_ends_the_connection(
    server: bool, pieces: list[bytes], data: st.DataObject
) -> None:
    end = Connection(client=not server, limits=Limits(control_burst=30, resets_burst=10))
    if not server:
        for _ in range(3):
            end.request("/a.B/C", "x", "http")
    begin = (PREFACE if server else b"") + made(hf.SettingsFrame, 0, set())
    live: set[int] = set() if server else {1, 3, 5}
    ended: set[int] = set()
    over = 0
    sent = len(end.data_to_send())
    taken = 0
    for piece in [begin, *pieces]:
        taken += len(piece)
        for event in end.receive(piece, 0.0):
            if isinstance(event, RequestReceived):
                assert server and event.stream_id not in live | ended
                live.add(event.stream_id)
                if data.draw(st.booleans()):
                    end.respond(event.stream_id)
                    end.send(event.stream_id, b"x" * 100)
                    end.finish(event.stream_id, StatusCode.OK)
                    live.discard(event.stream_id)
                    ended.add(event.stream_id)
            elif isinstance(event, CallEnded):
                assert event.stream_id in live | (ended if server else set())
                live.discard(event.stream_id)
                ended.add(event.stream_id)
            elif isinstance(event, MessageReceived):
                assert event.stream_id in live | (ended if server else set())
                end.consumed(event.stream_id, event.owed)
            elif isinstance(event, Terminated):
                over += 1
        out = end.data_to_send()
        sent += len(out)
        parse(out)
    assert over <= 1
    # What goes out is bounded by what came in: no frame is an amplifier.
    assert sent <= 1000 + 40 * taken


def pump(own: Connection, peer: h2.connection.H2Connection, got: list[Any]) -> list[Any]:
    """Carries bytes there and back until none are left; gives h2's events."""
    found: list[Any] = []
    while True:
        out, back = own.data_to_send(), peer.data_to_send()
        if not out and not back:
            return found
        if out:
            events = peer.receive_data(out)
            for event in events:
                if isinstance(event, h2.events.DataReceived) and event.flow_controlled_length:
                    peer.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            found += events
        if back:
            for told in own.receive(back, 0.0):
                got.append(told)
                if isinstance(told, MessageReceived):
                    own.consumed(told.stream_id, told.owed)


SIZES = st.lists(st.sampled_from([0, 1, 4, 16_379, 16_380, 70_000, 200_000]), max_size=6)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(SIZES, SIZES, st.integers(2000, 60_000))
def test_h2_understands_the_client(there: list[int], back: list[int], step: int) -> None:
    own = Connection(client=True, limits=Limits(window_bytes=100_000), mark=True)
    peer = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
    peer.initiate_connection()
    got: list[Any] = []
    stream_id = own.request("/a.B/C", "x", "http", (("k", "v"),), 1.5)
    for size in there:
        own.send(stream_id, bytes(size))
    own.end(stream_id)
    events = pump(own, peer, got)
    data = b"".join(event.data for event in events if isinstance(event, h2.events.DataReceived))
    assert [len(message) for message in Assembler(1 << 20).feed(data)] == there
    assert any(isinstance(event, h2.events.StreamEnded) for event in events)
    peer.send_headers(stream_id, [(":status", "200"), ("content-type", "application/grpc")])
    answer = b"".join(prefix(size) + bytes(size) for size in back)
    while answer:
        room = min(peer.local_flow_control_window(stream_id), 16_384, step)
        peer.send_data(stream_id, answer[:room])
        answer = answer[room:]
        pump(own, peer, got)
    peer.send_headers(stream_id, [("grpc-status", "0")], end_stream=True)
    pump(own, peer, got)
    assert [len(event.message) for event in got if isinstance(event, MessageReceived)] == back
    assert got[-1] == CallEnded(stream_id, StatusCode.OK, "", ())


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(SIZES, SIZES)
def test_h2_understands_the_server(there: list[int], back: list[int]) -> None:
    own = Connection(client=False, limits=Limits(window_bytes=100_000))
    peer = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    peer.initiate_connection()
    got: list[Any] = []
    peer.send_headers(1, REQUEST)
    question = b"".join(prefix(size) + bytes(size) for size in there)
    pump(own, peer, got)
    while question:
        room = min(peer.local_flow_control_window(1), 16_384)
        peer.send_data(1, question[:room])
        question = question[room:]
        pump(own, peer, got)
    assert [len(event.message) for event in got if isinstance(event, MessageReceived)] == there
    own.respond(1)
    for size in back:
        own.send(1, bytes(size))
    own.finish(1, StatusCode.ABORTED, "no")
    events = pump(own, peer, got)
    data = b"".join(event.data for event in events if isinstance(event, h2.events.DataReceived))
    assert [len(message) for message in Assembler(1 << 20).feed(data)] == back
    (trailers,) = [event for event in events if isinstance(event, h2.events.TrailersReceived)]
    assert (b"grpc-status", b"10") in trailers.headers
