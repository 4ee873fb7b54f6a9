"""The core of the own stream: two ends joined by a wire of bytes, and one end against frames made by hand."""

from __future__ import annotations

import struct
from typing import Any

import hpack
import pytest

from doug_stream import frames, headers
from doug_stream.codes import PREFACE, ErrorCode, Setting, StatusCode
from doug_stream.connection import Connection
from doug_stream.errors import CallError, ProtocolError
from doug_stream.events import (
    CallEnded,
    Drained,
    Event,
    GoingAway,
    HalfClosed,
    MessageReceived,
    Ready,
    RequestReceived,
    ResponseReceived,
    Terminated,
)
from doug_stream.limits import Bucket, Limits
from doug_stream.messages import Assembler

DATA, HEADERS, PRIORITY, RST, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
ENCODER = hpack.Encoder
REQUEST = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/a.B/C"),
    (":authority", "x"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
]


class Wire:
    """A client and a server, joined. ``shuttle`` carries everything there and back."""

    def __init__(self, **limits: Any) -> None:
        self.client = Connection(client=True, limits=Limits(**limits), mark=True)
        self.server = Connection(client=False, limits=Limits(**limits))
        self.client_events: list[Event] = []
        self.server_events: list[Event] = []
        self.shuttle()

    def shuttle(self) -> None:
        while (out := self.client.data_to_send()) + (back := self.server.data_to_send()):
            self.server_events += self.server.receive(out, 0.0)
            self.client_events += self.client.receive(back, 0.0)

    def call(self) -> int:
        stream_id = self.client.request("/a.B/C", "x", "http", (("k", "v"),), 2.0)
        self.shuttle()
        return stream_id

    def take(self) -> tuple[list[Event], list[Event]]:
        self.shuttle()
        taken = self.client_events, self.server_events
        self.client_events, self.server_events = [], []
        return taken


class Hand:
    """A server whose client is made by hand."""

    def __init__(self, **limits: Any) -> None:
        self.server = Connection(client=False, limits=Limits(**limits))
        self.encoder = ENCODER()
        self.events = self.server.receive(PREFACE + frames.settings([]), 0.0)
        self.out()

    def give(
        self, kind: int, flags: int = 0, stream_id: int = 0, payload: bytes = b"", now_s: float = 0.0
    ) -> list[Event]:
        return self.server.receive(frames.frame(kind, flags, stream_id, payload), now_s)

    def head(self, stream_id: int, fields: Any = None, flags: int = 4) -> list[Event]:
        return self.give(HEADERS, flags, stream_id, self.encoder.encode(REQUEST if fields is None else fields))

    def out(self) -> list[tuple[int, int, int, bytes]]:
        data, found = self.server.data_to_send(), []
        while data:
            high, low, kind, flags, stream_id = frames.HEAD.unpack_from(data)
            size = high << 8 | low
            found.append((kind, flags, stream_id, data[9 : 9 + size]))
            data = data[9 + size :]
        return found


def codes(events: list[Event]) -> list[int]:
    return [event.code for event in events if isinstance(event, Terminated)]


def resets(out: list[tuple[int, int, int, bytes]]) -> list[tuple[int, int]]:
    return [(stream_id, struct.unpack(">I", payload)[0]) for kind, _, stream_id, payload in out if kind == RST]


def test_a_call_from_beginning_to_end() -> None:
    wire = Wire()
    assert wire.take() == ([Ready()], [Ready()])
    stream_id = wire.call()
    assert wire.client.send(stream_id, b"hello")
    wire.client.end(stream_id)
    assert wire.take()[1] == [
        RequestReceived(1, "/a.B/C", (("k", "v"),), 2.0),
        MessageReceived(1, b"hello", 10),
        HalfClosed(1),
    ]
    wire.server.respond(1, (("m", "1"),))
    assert wire.server.send(1, b"")
    wire.server.finish(1, StatusCode.OK, "", (("t", "2"),))
    assert wire.take()[0] == [
        ResponseReceived(1, (("m", "1"),)),
        MessageReceived(1, b"", 5),
        CallEnded(1, StatusCode.OK, "", (("t", "2"),)),
    ]
    assert wire.call() == 3


def test_a_refusal_without_an_answer_is_one_block() -> None:
    wire = Wire()
    wire.take()
    wire.server.finish(wire.call(), StatusCode.ABORTED, "100 % ü")
    assert wire.take()[0] == [CallEnded(1, StatusCode.ABORTED, "100 % ü", ())]
    with pytest.raises(CallError):
        wire.client.send(1, b"too late")


def test_a_reader_that_takes_nothing_bounds_what_is_sent() -> None:
    wire = Wire(window_bytes=100_000)
    stream_id = wire.call()
    sent = 0
    while wire.client.send(stream_id, b"x" * 9_995):
        sent += 1
        wire.shuttle()
    received = [event for event in wire.take()[1] if isinstance(event, MessageReceived)]
    assert sent == len(received) == 10
    for event in received:
        wire.server.consumed(stream_id, event.owed)
    client, server = wire.take()
    assert Drained(stream_id) in client
    assert [event.message for event in server if isinstance(event, MessageReceived)] == [b"x" * 9_995]


def test_a_message_longer_than_the_window_comes_through() -> None:
    wire = Wire(window_bytes=70_000)
    stream_id = wire.call()
    assert not wire.client.send(stream_id, b"y" * 500_000)
    assert [e.message for e in wire.take()[1] if isinstance(e, MessageReceived)] == [b"y" * 500_000]


def test_trailers_wait_behind_the_messages() -> None:
    wire = Wire(window_bytes=70_000)
    stream_id = wire.call()
    wire.server.respond(stream_id)
    assert wire.server.send(stream_id, b"a" * 60_000)
    assert not wire.server.send(stream_id, b"b" * 60_000)
    wire.server.finish(stream_id, StatusCode.OK)
    client, _ = wire.take()
    assert not [event for event in client if isinstance(event, CallEnded)]
    for event in client:
        if isinstance(event, MessageReceived):
            wire.client.consumed(stream_id, event.owed)
    assert [event for event in wire.take()[0] if not isinstance(event, Drained)][-1] == CallEnded(
        1, StatusCode.OK, "", ()
    )


def test_a_call_that_is_cut_off_ends_at_the_other_end() -> None:
    wire = Wire()
    wire.client.reset(wire.call())
    assert wire.take()[1][-1] == CallEnded(1, StatusCode.CANCELLED, "the call was reset with code 8", ())
    wire.server.reset(wire.call(), ErrorCode.REFUSED_STREAM)
    client, _ = wire.take()
    assert isinstance(client[-1], CallEnded) and client[-1].status == StatusCode.UNAVAILABLE


def test_going_away_ends_only_calls_that_were_not_taken() -> None:
    wire = Wire()
    first = wire.call()
    second = wire.client.request("/a.B/C", "x", "http")
    wire.server.go_away()
    wire.client_events += wire.client.receive(wire.server.data_to_send(), 0.0)
    client, _ = wire.take()
    assert [(type(event), *event[:1]) for event in client[1:]] == [(CallEnded, second), (GoingAway, 0)]
    wire.server.finish(first, StatusCode.OK)
    assert wire.take()[0] == [CallEnded(first, StatusCode.OK, "", ())]
    with pytest.raises(CallError):
        wire.client.request("/a.B/C", "x", "http")


@pytest.mark.parametrize("step", [1, 7, 100])
def test_bytes_may_come_in_any_pieces(step: int) -> None:
    client = Connection(client=True, limits=Limits())
    client.request("/a.B/C", "x", "http")
    client.send(1, b"m" * 300)
    client.end(1)
    data = client.data_to_send()
    server = Connection(client=False, limits=Limits())
    events = [e for at in range(0, len(data), step) for e in server.receive(data[at : at + step], 0.0)]
    assert [type(event) for event in events] == [Ready, RequestReceived, MessageReceived, HalfClosed]


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        ((PING, 0, 0, b"short"), ErrorCode.FRAME_SIZE_ERROR),
        ((PING, 0, 1, bytes(8)), ErrorCode.PROTOCOL_ERROR),
        ((SETTINGS, 0, 0, b"12345"), ErrorCode.FRAME_SIZE_ERROR),
        ((SETTINGS, 1, 0, bytes(6)), ErrorCode.FRAME_SIZE_ERROR),
        ((SETTINGS, 0, 1, b""), ErrorCode.PROTOCOL_ERROR),
        ((SETTINGS, 0, 0, struct.pack(">HI", Setting.ENABLE_PUSH, 2)), ErrorCode.PROTOCOL_ERROR),
        ((SETTINGS, 0, 0, struct.pack(">HI", Setting.MAX_FRAME_SIZE, 1)), ErrorCode.PROTOCOL_ERROR),
        ((SETTINGS, 0, 0, struct.pack(">HI", Setting.INITIAL_WINDOW_SIZE, 1 << 31)), ErrorCode.FLOW_CONTROL_ERROR),
        ((WINDOW, 0, 0, bytes(4)), ErrorCode.PROTOCOL_ERROR),
        ((WINDOW, 0, 0, b"\x7f\xff\xff\xff"), ErrorCode.FLOW_CONTROL_ERROR),
        ((WINDOW, 0, 1, b"\0\0\0\1"), ErrorCode.PROTOCOL_ERROR),
        ((WINDOW, 0, 0, b"1"), ErrorCode.FRAME_SIZE_ERROR),
        ((RST, 0, 1, bytes(4)), ErrorCode.PROTOCOL_ERROR),
        ((RST, 0, 0, bytes(4)), ErrorCode.PROTOCOL_ERROR),
        ((RST, 0, 1, b""), ErrorCode.FRAME_SIZE_ERROR),
        ((DATA, 0, 1, b"x"), ErrorCode.PROTOCOL_ERROR),
        ((DATA, 0, 0, b"x"), ErrorCode.PROTOCOL_ERROR),
        ((HEADERS, 4, 2, b""), ErrorCode.PROTOCOL_ERROR),
        ((HEADERS, 4, 0, b""), ErrorCode.PROTOCOL_ERROR),
        ((HEADERS, 4, 1, b"\xff\xff\xff\xff\xff"), ErrorCode.COMPRESSION_ERROR),
        ((HEADERS, 4 | 8, 1, b"\x09a"), ErrorCode.PROTOCOL_ERROR),
        ((CONTINUATION, 4, 1, b""), ErrorCode.PROTOCOL_ERROR),
        ((PUSH, 4, 1, bytes(4)), ErrorCode.PROTOCOL_ERROR),
        ((PRIORITY, 0, 0, bytes(5)), ErrorCode.PROTOCOL_ERROR),
        ((GOAWAY, 0, 0, b"x"), ErrorCode.FRAME_SIZE_ERROR),
        ((DATA, 0, 1, bytes(200_000)), ErrorCode.FRAME_SIZE_ERROR),
    ],
)
def test_what_breaks_the_rules_ends_the_connection(frame: tuple[int, int, int, bytes], code: ErrorCode) -> None:
    hand = Hand()
    assert codes(hand.give(*frame)) == [code]
    kind, _, _, payload = hand.out()[-1]
    assert kind == GOAWAY and struct.unpack_from(">II", payload)[1] == code
    assert hand.give(PING, 0, 0, bytes(8)) == [] and hand.out() == []


def test_the_beginning_must_be_that_of_http2() -> None:
    server = Connection(client=False, limits=Limits())
    assert codes(server.receive(b"GET / HTTP/1.1\r\n", 0.0)) == [ErrorCode.PROTOCOL_ERROR]
    server = Connection(client=False, limits=Limits())
    assert codes(server.receive(PREFACE + frames.frame(PING, 0, 0, bytes(8)), 0.0)) == [ErrorCode.PROTOCOL_ERROR]


@pytest.mark.parametrize(
    "change",
    [
        lambda fields: [*fields, (":path", "/x")],
        lambda fields: fields[1:],
        lambda fields: [*fields, ("connection", "close")],
        lambda fields: [*fields, ("Upper", "x")],
        lambda fields: [*fields, ("x-bin", "a")],
        lambda fields: [*fields, ("te", "gzip")],
        lambda fields: [*fields, ("grpc-timeout", "soon")],
        lambda fields: [(":status", "200"), *fields],
        lambda fields: [(":path", ""), *(f for f in fields if f[0] != ":path")],
        lambda fields: [*fields, ("a", "b\nc")],
    ],
)
def test_a_malformed_head_resets_its_stream_alone(change: Any) -> None:
    hand = Hand()
    assert hand.head(1, change(REQUEST)) == []
    assert resets(hand.out()) == [(1, ErrorCode.PROTOCOL_ERROR)]
    assert isinstance(hand.head(3)[0], RequestReceived)


@pytest.mark.parametrize(("name", "value", "status"), [(":method", "GET", "405"), ("content-type", "text/html", "415")])
def test_requests_that_are_none_of_grpc_get_an_http_status(name: str, value: str, status: str) -> None:
    hand = Hand()
    assert hand.head(1, [(known, value if known == name else old) for known, old in REQUEST], 5) == []
    (kind, flags, stream_id, block), *_ = hand.out()
    assert (kind, flags, stream_id) == (HEADERS, 5, 1)
    fields: Any = hpack.Decoder().decode(block)
    assert dict(fields)[":status"] == status


@pytest.mark.parametrize(
    ("frame", "bucket"),
    [
        ((PING, 0, 0, bytes(8)), "control_burst"),
        ((SETTINGS, 0, 0, b""), "control_burst"),
        ((PRIORITY, 0, 5, bytes(5)), "control_burst"),
        ((0x55, 0, 0, b"?"), "control_burst"),
    ],
)
def test_floods_end_the_connection_and_time_forgives(frame: tuple[int, int, int, bytes], bucket: str) -> None:
    hand = Hand(control_burst=20, control_per_s=10.0)
    now_s = 1.0
    for _ in range(100):
        assert codes(hand.give(*frame, now_s=now_s)) == []
        now_s += 0.1
    events = [event for _ in range(30) for event in hand.give(*frame, now_s=now_s)]
    assert codes(events) == [ErrorCode.ENHANCE_YOUR_CALM]


def test_streams_that_are_opened_and_reset_at_once_end_the_connection() -> None:
    hand = Hand(resets_burst=20, resets_per_s=1.0)
    events: list[Event] = []
    for number in range(40):
        events += hand.head(2 * number + 1)
        events += hand.give(RST, 0, 2 * number + 1, bytes(4))
    assert codes(events) == [ErrorCode.ENHANCE_YOUR_CALM]


def test_streams_that_make_the_server_reset_them_end_the_connection() -> None:
    hand = Hand(resets_burst=20, resets_per_s=1.0)
    events = []
    for number in range(40):
        events += hand.head(2 * number + 1)
        events += hand.give(WINDOW, 0, 2 * number + 1, bytes(4))
    assert codes(events) == [ErrorCode.ENHANCE_YOUR_CALM]


def test_data_without_content_is_a_flood_too() -> None:
    hand = Hand(control_burst=20, control_per_s=1.0)
    hand.head(1)
    assert codes([e for _ in range(40) for e in hand.give(DATA, 0, 1, b"")]) == [ErrorCode.ENHANCE_YOUR_CALM]


def test_header_blocks_are_bounded_in_bytes_frames_and_unpacked() -> None:
    hand = Hand(header_bytes_max=1000, header_frames_max=4)
    assert codes(hand.give(HEADERS, 0, 1, b"x" * 1001)) == [ErrorCode.ENHANCE_YOUR_CALM]
    hand = Hand(header_bytes_max=1000, header_frames_max=4)
    hand.give(HEADERS, 0, 1, b"")
    assert codes([e for _ in range(5) for e in hand.give(CONTINUATION, 0, 1, b"")]) == [ErrorCode.ENHANCE_YOUR_CALM]
    hand = Hand(header_bytes_max=1000)
    bomb = hand.encoder.encode([*REQUEST, ("x", "y" * 500)]) + b"\xbe" * 10
    assert codes(hand.give(HEADERS, 4, 1, bomb)) == [ErrorCode.ENHANCE_YOUR_CALM]


def test_nothing_may_come_within_a_header_block() -> None:
    hand = Hand()
    hand.give(HEADERS, 0, 1, b"")
    assert codes(hand.give(PING, 0, 0, bytes(8))) == [ErrorCode.PROTOCOL_ERROR]


def test_too_many_calls_at_a_time_are_refused() -> None:
    hand = Hand(streams_max=2)
    assert len(hand.head(1) + hand.head(3)) == 2
    assert hand.head(5) == []
    assert resets(hand.out()) == [(5, ErrorCode.REFUSED_STREAM)]


def test_more_than_the_window_resets_the_stream() -> None:
    hand = Hand(window_bytes=70_000, frame_bytes_max=65_536)
    hand.head(1)
    hand.give(DATA, 0, 1, b"\0\0\0\0\0" * 10_000)
    events = hand.give(DATA, 0, 1, b"\0\0\0\0\0" * 10_000)
    assert [type(event) for event in events] == [CallEnded]
    assert resets(hand.out()) == [(1, ErrorCode.FLOW_CONTROL_ERROR)]
    # What was under way when the stream was reset is not held against the client.
    assert hand.give(DATA, 0, 1, b"late") == []


def test_frames_behind_the_end_are_against_the_rules() -> None:
    hand = Hand()
    hand.head(1, flags=5)
    assert [type(event) for event in hand.give(DATA, 0, 1, b"x")] == [CallEnded]
    assert resets(hand.out()) == [(1, ErrorCode.STREAM_CLOSED)]
    hand.head(3)
    hand.give(RST, 0, 3, bytes(4))
    assert codes(hand.give(DATA, 0, 3, b"x")) == [ErrorCode.STREAM_CLOSED]


def test_padding_counts_and_is_taken_off() -> None:
    hand = Hand()
    hand.head(1)
    events = hand.give(DATA, 8, 1, b"\x03\0\0\0\0\2ab" + bytes(3))
    assert events == [MessageReceived(1, b"ab", 7)]


def test_windows_of_open_streams_move_with_the_settings() -> None:
    hand = Hand()
    hand.give(SETTINGS, 0, 0, struct.pack(">HI", Setting.INITIAL_WINDOW_SIZE, 10))
    hand.head(1)
    hand.server.respond(1)
    assert not hand.server.send(1, b"x" * 20)
    hand.out()
    assert hand.give(SETTINGS, 0, 0, struct.pack(">HI", Setting.INITIAL_WINDOW_SIZE, 5)) == []
    assert [frame[0] for frame in hand.out()] == [SETTINGS]
    events = hand.give(SETTINGS, 0, 0, struct.pack(">HI", Setting.INITIAL_WINDOW_SIZE, 25))
    assert events == [Drained(1)]
    # The acknowledgement first: until the client reads it, it holds this end to the old window.
    assert [(kind, flags, len(payload)) for kind, flags, _, payload in hand.out()] == [(SETTINGS, 1, 0), (DATA, 0, 15)]


def test_compressed_messages_and_torn_ones_are_refused() -> None:
    for payload, flags, status in ((b"\1\0\0\0\1a", 0, 12), (b"\0\0\0\0\5a", 1, 13)):
        hand = Hand()
        hand.head(1)
        (ended,) = hand.give(DATA, flags, 1, payload)
        assert isinstance(ended, CallEnded) and ended.status == status


def test_messages_that_do_not_become_complete_take_little_memory() -> None:
    hand = Hand(message_bytes_max=1000, unfinished_bytes_max=2000, window_bytes=10_000, streams_max=8)
    begun = b"\0" + (1000).to_bytes(4, "big") + bytes(895)  # 900 bytes of a message that is to have 1,000.
    for stream_id in (1, 3):
        hand.head(stream_id)
        assert not hand.give(DATA, 0, stream_id, begun)
    hand.head(5)
    (ended,) = hand.give(DATA, 0, 5, begun)
    assert isinstance(ended, CallEnded) and ended.status == StatusCode.RESOURCE_EXHAUSTED
    (taken,) = hand.give(DATA, 0, 1, bytes(105))
    assert isinstance(taken, MessageReceived), "the others go on"
    hand.head(7)
    assert not hand.give(DATA, 0, 7, begun), "and there is room again"


@pytest.mark.parametrize(
    ("fields", "flags", "status"),
    [
        ([(":status", "503")], 5, StatusCode.UNAVAILABLE),
        ([(":status", "404")], 4, StatusCode.UNIMPLEMENTED),
        ([(":status", "200"), ("content-type", "text/html")], 4, StatusCode.UNKNOWN),
        ([(":status", "200"), ("content-type", "application/grpc"), ("grpc-status", "7")], 5, StatusCode(7)),
        ([(":status", "200"), ("content-type", "application/grpc"), ("grpc-status", "x")], 5, StatusCode.UNKNOWN),
        ([(":status", "200"), ("content-type", "application/grpc")], 5, StatusCode.UNKNOWN),
    ],
)
def test_answers_of_other_servers_have_their_codes(fields: Any, flags: int, status: StatusCode) -> None:
    client = Connection(client=True, limits=Limits())
    client.request("/a.B/C", "x", "http")
    client.receive(frames.settings([]), 0.0)
    events = client.receive(frames.frame(HEADERS, flags, 1, ENCODER().encode(fields)), 0.0)
    assert [(type(event), tuple(event)[1]) for event in events] == [(CallEnded, status)]


def test_a_broken_connection_ends_all_calls() -> None:
    client = Connection(client=True, limits=Limits())
    client.request("/a.B/C", "x", "http")
    events = client.receive(frames.settings([]) + frames.frame(PING, 0, 0, b""), 0.0)
    assert [type(event) for event in events] == [Ready, CallEnded, Terminated]


@pytest.mark.parametrize("timeout_s", [0.0, 1e-9, 0.25, 3.0, 99_999.0, 1e9])
def test_timeouts_are_never_shortened(timeout_s: float) -> None:
    text = headers.encode_timeout(timeout_s)
    decoded = headers.decode_timeout(text)
    assert len(text) <= 9 and decoded is not None and timeout_s <= decoded * (1 + 1e-9)


@pytest.mark.parametrize(
    "metadata", [("Upper", "x"), ("a", "new\nline"), ("a", "ü"), ("grpc-status", "0"), ("te", "x")]
)
def test_metadata_that_cannot_be_sent_is_refused(metadata: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match=r"metadata|characters"):
        headers.fields_of((metadata,))


def test_the_assembler_takes_any_pieces() -> None:
    data = b"".join(b"\0" + struct.pack(">I", size) + bytes(size) for size in (0, 3, 1000, 0, 7))
    for step in (1, 2, 5, 6, 400, len(data)):
        assembler = Assembler(1000)
        found = [m for at in range(0, len(data), step) for m in assembler.feed(data[at : at + step])]
        assert [len(message) for message in found] == [0, 3, 1000, 0, 7]
        assert assembler.waiting_bytes == 0


def test_a_bucket_fills_up_to_its_burst() -> None:
    bucket = Bucket(2, 1.0)
    assert [bucket.take(0.0) for _ in range(3)] == [True, True, False]
    assert [bucket.take(100.0) for _ in range(3)] == [True, True, False]


def test_frames_refuse_what_cannot_be() -> None:
    for call in (lambda: frames.unpadded(8, b""), lambda: frames.check_priority(1, b"\0\0\0\1\0")):
        with pytest.raises(ProtocolError):
            call()


@pytest.mark.parametrize(
    ("announced", "sent", "fits"),
    [("10", (10,), True), ("10", (4, 6), True), ("0", (0,), True), ("10", (9,), False), ("10", (4, 7), False)],
)
def test_content_is_as_long_as_it_was_announced(announced: str, sent: tuple[int, ...], fits: bool) -> None:
    """RFC 9113, 8.1.1. Padding is no content."""
    hand = Hand()
    hand.head(1, [*REQUEST, ("content-length", announced)])
    content = (b"\0" + struct.pack(">I", 5) + b"hello")[: sum(sent)] + bytes(max(0, sum(sent) - 10))
    for number, size in enumerate(sent, 1):
        piece, content = content[:size], content[size:]
        hand.give(DATA, 8 | (1 if number == len(sent) else 0), 1, b"\3" + piece + bytes(3))
    assert resets(hand.out()) == ([] if fits else [(1, ErrorCode.PROTOCOL_ERROR)])


def test_content_that_is_announced_and_ends_with_trailers_counts_too() -> None:
    hand = Hand()
    hand.head(1, [*REQUEST, ("content-length", "10")])
    hand.head(1, [("a", "b")], flags=5)
    assert resets(hand.out()) == [(1, ErrorCode.PROTOCOL_ERROR)]


@pytest.mark.parametrize("text", ["", "x", "-1", "1 0", "9" * 19, "\u0661"])
def test_a_length_that_is_no_number_is_malformed(text: str) -> None:
    hand = Hand()
    hand.head(1, [*REQUEST, ("content-length", text)])
    assert resets(hand.out()) == [(1, ErrorCode.PROTOCOL_ERROR)]
