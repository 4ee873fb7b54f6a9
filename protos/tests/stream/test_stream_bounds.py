"""What a client of the own stream may make its server hold and do with few bytes: attacks on HTTP/2 that are known."""

from __future__ import annotations

import struct
import tracemalloc
from typing import Any, cast

import hpack
import pytest

from doug_stream import frames
from doug_stream.codes import DATA, END_STREAM, GOAWAY, HEADERS, PREFACE, SETTINGS, ErrorCode, Setting, StatusCode
from doug_stream.codes import WINDOW_UPDATE as WINDOW
from doug_stream.connection import Connection
from doug_stream.events import CallEnded, Drained, Event, MessageReceived, Terminated
from doug_stream.limits import STRANGERS, Limits
from doug_stream.messages import Assembler
from doug_stream.server import Server
from doug_stream.streams import MESSAGE_BYTES

FIELDS = [(":method", "POST"), (":scheme", "http"), (":path", "/a.B/C"), ("content-type", "application/grpc")]


class Hand:
    """A server whose client is made by hand."""

    def __init__(self, **limits: Any) -> None:
        self.server = Connection(client=False, limits=Limits(**limits))
        self.encoder = hpack.Encoder()
        self.server.receive(PREFACE + frames.settings([]), 0.0)
        self.server.data_to_send()

    def give(self, kind: int, flags: int = 0, stream_id: int = 0, payload: bytes = b"") -> list[Event]:
        return self.server.receive(frames.frame(kind, flags, stream_id, payload), 0.0)

    def head(self, stream_id: int, more: int = 0, flags: int = 4) -> list[Event]:
        return self.give(HEADERS, flags, stream_id, self.encoder.encode([*FIELDS, *[("age", "")] * more]))

    def out(self) -> list[frames.Frame]:
        return frames.FrameReader(b"", 1 << 20).feed(self.server.data_to_send())


def codes(events: list[Event]) -> list[int]:
    return [event.code for event in events if isinstance(event, Terminated)]


def test_a_message_in_small_pieces_takes_about_its_bytes() -> None:
    """Two bytes each took fifty by themselves."""
    assembler, size = Assembler(1 << 20), 100_000
    assembler.feed(b"\0" + struct.pack(">I", size))
    tracemalloc.start()
    try:
        for number in range(size // 2 - 1):
            assert assembler.feed(number.to_bytes(2, "big")) == []
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 2 * size
    (message,) = assembler.feed(b"xy")
    assert message == b"".join(number.to_bytes(2, "big") for number in range(size // 2 - 1)) + b"xy"


def test_pieces_of_all_lengths_become_the_message() -> None:
    assembler, content = Assembler(1 << 20), bytes(range(251)) * 400
    pieces, left, number = [], b"\0" + struct.pack(">I", len(content)) + content, 0
    while left:
        size = (1, 5000, 3, 4096, 7, 4095)[number % 6]
        pieces.append(left[:size])
        left, number = left[size:], number + 1
    assert [message for piece in pieces for message in assembler.feed(piece)] == [content]


def test_content_that_dribbles_is_a_flood() -> None:
    hand = Hand(control_burst=20, control_per_s=1.0)
    hand.head(1)
    hand.give(DATA, 0, 1, b"\0" + struct.pack(">I", 1000))
    events = [event for _ in range(40) for event in hand.give(DATA, 0, 1, b"xy")]
    assert codes(events) == [ErrorCode.ENHANCE_YOUR_CALM]


def test_small_messages_are_no_flood() -> None:
    hand = Hand(control_burst=20, control_per_s=1.0)
    hand.head(1)
    events = [event for _ in range(40) for event in hand.give(DATA, 0, 1, b"\0\0\0\0\1x")]
    assert len(events) == 40 and not codes(events)


@pytest.mark.parametrize("message", [b"\0\0\0\0\0", b"\0\0\0\0\x64" + bytes(100)])
def test_messages_that_nobody_takes_are_bounded_in_all_streams_together(message: bytes) -> None:
    """An empty one takes five bytes of the window, and many times that of memory."""
    hand = Hand(unread_bytes_max=100_000, window_bytes=1 << 20, streams_max=8)
    held: list[MessageReceived] = []
    ended: list[Event] = []
    for stream_id in (1, 3, 5):
        hand.head(stream_id)
    for _ in range(100_000 // len(message)):
        for stream_id in (1, 3, 5):
            if not ended:
                found = hand.give(DATA, 0, stream_id, message)
                held += [event for event in found if isinstance(event, MessageReceived)]
                ended += [event for event in found if isinstance(event, CallEnded)]
    (refused,) = ended
    assert isinstance(refused, CallEnded) and refused.status == StatusCode.RESOURCE_EXHAUSTED
    assert 90_000 < len(held) * (len(message) + MESSAGE_BYTES) <= 100_000 + 2 * (len(message) + MESSAGE_BYTES)
    for event in held:
        hand.server.consumed(event.stream_id, event.owed)
    (going_on,) = [stream for stream in (1, 3, 5) if stream != refused.stream_id][:1]
    assert hand.give(DATA, 0, going_on, message), "what was taken makes room"


def test_a_client_holds_what_the_windows_of_its_calls_allow() -> None:
    """It has asked for all of it: many scans at a time, each with pages that wait."""
    limits = Limits(window_bytes=100_000, unread_bytes_max=50_000)
    client, hand = Connection(client=True, limits=limits), Hand(window_bytes=100_000)
    stream_id = client.request("/a.B/C", "x", "http")
    hand.server.receive(client.data_to_send()[len(PREFACE) :], 0.0)
    hand.server.respond(stream_id)
    assert hand.server.send(stream_id, bytes(90_000))
    greeting = frames.settings([])
    events = client.receive(greeting + hand.server.data_to_send(), 0.0)
    assert [len(event.message) for event in events if isinstance(event, MessageReceived)] == [90_000]


def test_a_window_that_opens_byte_by_byte_is_a_flood_while_something_waits() -> None:
    hand = Hand(control_burst=20, control_per_s=1.0)
    hand.give(SETTINGS, 0, 0, struct.pack(">HI", Setting.INITIAL_WINDOW_SIZE, 0))
    hand.head(1)
    hand.server.respond(1)
    little = (WINDOW, 0, 1, struct.pack(">I", 1))
    assert not hand.server.send(1, bytes(1000))
    events = [event for _ in range(40) for event in hand.give(*little)]
    assert codes(events) == [ErrorCode.ENHANCE_YOUR_CALM]


@pytest.mark.parametrize("stream_id", [0, 1, 3])
def test_windows_that_grow_although_nothing_was_sent_are_a_flood(stream_id: int) -> None:
    """Those of the connection, of a call, and of one that is over: 20,000 of them came in one piece."""
    hand = Hand(control_burst=20, control_per_s=1.0)
    hand.head(1)
    hand.head(3)
    hand.server.reset(3)
    large = (WINDOW, 0, stream_id, struct.pack(">I", 60_000))
    events = [event for _ in range(40) for event in hand.give(*large)]
    assert codes(events) == [ErrorCode.ENHANCE_YOUR_CALM]


def test_windows_that_grow_by_what_was_sent_are_no_flood() -> None:
    hand = Hand(control_burst=20, control_per_s=1.0)
    hand.head(1)
    hand.server.respond(1)
    for _ in range(10):
        for _ in range(10):
            assert hand.server.send(1, bytes(600))
        for stream_id in (0, 1) * 10:
            assert not codes(hand.give(WINDOW, 0, stream_id, struct.pack(">I", 605)))
    for _ in range(3000):
        assert hand.server.send(1, b"")
        for stream_id in (0, 1):
            hand.give(WINDOW, 0, stream_id, struct.pack(">I", 5))
    events = [event for _ in range(1000) for event in hand.give(WINDOW, 0, 1, struct.pack(">I", 5))]
    assert codes(events) == [ErrorCode.ENHANCE_YOUR_CALM], "and nobody saves up for one"


def test_a_call_that_waits_for_its_own_window_costs_nothing_when_that_of_the_connection_grows() -> None:
    """Each growth looked at all calls that waited, for whatever: a hundred times as long as its bytes took."""
    hand = Hand()
    sender = hand.server._sender
    hand.give(SETTINGS, 0, 0, struct.pack(">HI", Setting.INITIAL_WINDOW_SIZE, 0))
    for stream_id in (1, 3, 5):
        hand.head(stream_id)
        hand.server.respond(stream_id)
        assert not hand.server.send(stream_id, bytes(100_000))
    assert (list(sender._blocked), list(sender._narrow)) == ([], [1, 3, 5])
    hand.give(WINDOW, 0, 3, struct.pack(">I", 200_000))
    assert (list(sender._blocked), list(sender._narrow)) == ([3], [1, 5]), "it waits for the connection now"
    hand.out()
    events = hand.give(WINDOW, 0, 0, struct.pack(">I", 200_000))
    assert Drained(3) in events
    hand.give(SETTINGS, 0, 0, struct.pack(">HI", Setting.INITIAL_WINDOW_SIZE, 200_000))
    hand.give(WINDOW, 0, 0, struct.pack(">I", 200_000))
    sizes = {1: 0, 3: 0, 5: 0}
    for kind, _, stream_id, payload in hand.out():
        sizes[stream_id or 1] += len(payload) if kind == DATA else 0
    assert sizes == {1: 100_005, 3: 100_005 - 65_535, 5: 100_005}
    assert not sender.waits


def test_settings_that_widen_the_windows_of_calls_leave_none_behind() -> None:
    """Once the first had used up the connection's window, the others waited for windows that they had, for ever."""
    hand = Hand()
    hand.give(SETTINGS, 0, 0, struct.pack(">HI", Setting.INITIAL_WINDOW_SIZE, 0))
    for stream_id in (1, 3, 5):
        hand.head(stream_id)
        hand.server.respond(stream_id)
        assert not hand.server.send(stream_id, bytes(65_530))
    assert hand.give(SETTINGS, 0, 0, struct.pack(">HI", Setting.INITIAL_WINDOW_SIZE, 65_535)) == [Drained(1)]
    assert hand.give(WINDOW, 0, 0, struct.pack(">I", 2 * 65_535)) == [Drained(3), Drained(5)]
    assert not hand.server._sender.waits


@pytest.mark.parametrize("kind", [DATA, HEADERS])
def test_frames_of_calls_that_are_over_are_a_flood(kind: int) -> None:
    """They were dropped one by one, and never counted: some milliseconds of each piece, and for heads half a second."""
    hand = Hand(control_burst=20, control_per_s=1.0, resets_burst=20, resets_per_s=1.0)
    hand.head(1)
    hand.server.reset(1)
    events = [event for _ in range(40) for event in (hand.head(1) if kind == HEADERS else hand.give(DATA, 0, 1))]
    assert codes(events) == [ErrorCode.ENHANCE_YOUR_CALM]


def test_content_that_was_under_way_when_its_call_ended_is_no_flood() -> None:
    hand = Hand(control_burst=20, control_per_s=1.0)
    hand.head(1)
    hand.server.reset(1)
    events = [event for _ in range(40) for event in hand.give(DATA, 0, 1, bytes(1000))]
    assert not codes(events)


def test_heads_with_very_many_fields_are_a_flood() -> None:
    """A byte each; 64 such calls at a time took a node 80 ms, again and again."""
    hand = Hand()
    events = [event for number in range(3) for event in hand.head(2 * number + 1, more=200, flags=4 | END_STREAM)]
    assert codes(events) == [ErrorCode.ENHANCE_YOUR_CALM]
    hand = Hand(control_burst=20, control_per_s=1.0)
    events = [event for number in range(40) for event in hand.head(2 * number + 1, more=28, flags=4 | END_STREAM)]
    assert not codes(events), "those of calls have fewer"


def test_what_is_sent_in_small_parts_is_not_copied_each_time_and_arrives_whole() -> None:
    hand, message = Hand(), bytes(range(256)) * 4096
    hand.give(SETTINGS, 0, 0, struct.pack(">HI", Setting.INITIAL_WINDOW_SIZE, 0))
    hand.head(1)
    hand.server.respond(1)
    assert not hand.server.send(1, message)
    hand.out()
    sent, events, most = b"", cast("list[Event]", []), 0
    while Drained(1) not in events:
        tracemalloc.start()
        try:
            events = hand.give(WINDOW, 0, 1, struct.pack(">I", 60_000))
            most = max(most, tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
        hand.give(WINDOW, 0, 0, struct.pack(">I", 60_000))
        sent += b"".join(payload for kind, _, _, payload in hand.out() if kind == DATA)
    assert sent[5:] == message
    assert most < len(message) // 2


def test_settings_have_few_parameters() -> None:
    hand = Hand(settings_max=32)
    one = struct.pack(">HI", Setting.INITIAL_WINDOW_SIZE, 10)
    assert codes(hand.give(SETTINGS, 0, 0, one * 32)) == []
    assert codes(hand.give(SETTINGS, 0, 0, one * 33)) == [ErrorCode.ENHANCE_YOUR_CALM]


def test_tables_that_change_again_and_again_make_no_long_head() -> None:
    hand = Hand()
    decoder = hpack.Decoder()
    hand.head(1)
    for size in (100, 4096, 0, 4096, 50, 4096) * 5:
        hand.give(SETTINGS, 0, 0, struct.pack(">HI", Setting.HEADER_TABLE_SIZE, size))
    hand.out()
    hand.server.respond(1)
    ((_, _, _, block),) = hand.out()
    assert len(block) < 40
    assert "200" in [str(value) for _, value in decoder.decode(block)]


def test_calls_behind_the_end_are_a_flood() -> None:
    hand = Hand(resets_burst=20, resets_per_s=1.0)
    hand.give(GOAWAY, 0, 0, bytes(8))
    events = [event for number in range(40) for event in hand.head(2 * number + 1)]
    assert codes(events) == [ErrorCode.ENHANCE_YOUR_CALM]


class FakeTransport:
    """A connection on which nothing arrives: it shows whether this end still reads, and what it has written."""

    def __init__(self, names: tuple[str, ...] = ()) -> None:
        self.reads, self.closed, self.written = True, False, b""
        self._certificate = {"subjectAltName": tuple(("DNS", name) for name in names)} if names else None

    def get_extra_info(self, name: str) -> Any:
        return self._certificate if name == "peercert" else None

    def set_write_buffer_limits(self, high: int) -> None:
        del high

    def write(self, data: bytes) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True


async def test_a_client_that_takes_no_answers_is_not_heard_until_it_does() -> None:
    """Answers to calls that are refused, and to pings, wait for no window: they grew without end."""
    server, transport = Server({}), FakeTransport()
    endpoint = server.endpoint()
    endpoint.connection_made(cast("Any", transport))
    heard = []
    for change in (endpoint.pause_writing, endpoint.resume_writing, endpoint.pause_writing):
        change()
        heard.append(transport.reads)
    assert heard == [False, True, False]
    transport.close()
    endpoint.resume_writing()
    endpoint.connection_lost(None)


@pytest.mark.parametrize(
    ("names", "known", "limits"),
    [
        (("facade",), ("FACADE", "node"), Limits()),
        (("somebody", "Node"), ("facade", "node"), Limits()),
        (("somebody",), ("facade", "node"), STRANGERS),
        (("somebody",), None, Limits()),
        ((), ("facade",), Limits()),
    ],
)
async def test_whoever_is_not_known_by_its_certificate_has_little_room(
    names: tuple[str, ...], known: tuple[str, ...] | None, limits: Limits
) -> None:
    transport = FakeTransport(names)
    endpoint = Server({}, known=known).endpoint()
    endpoint.connection_made(cast("Any", transport))
    settings = frames.FrameReader(b"", 1 << 20).feed(transport.written)[0][3]
    assert dict(frames.settings_fields(settings))[Setting.INITIAL_WINDOW_SIZE] == limits.window_bytes
    endpoint.connection_lost(None)
