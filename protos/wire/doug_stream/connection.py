"""One end of an HTTP/2 connection that carries gRPC calls: bytes in, events out; calls in, bytes out.

It must not know sockets, tasks or clocks: ``receive`` is told the time. Both ends are the same class but for who opens
streams and whose headers are requests.

Invariants:
    1. After ``Terminated`` nothing comes in any more and nothing but the last GOAWAY goes out.
    2. Each call that a client began ends with exactly one ``CallEnded``; on a server with one, or by ``finish``.
    3. What a peer makes this end hold is bounded by ``Limits``; what the owner sends is bounded by the owner, who waits
       while ``send`` and ``Drained`` say so.

Source: RFC 9113; grpc/doc/PROTOCOL-HTTP2.md.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from doug_stream import frames, headers
from doug_stream.blocks import Block, BlockReader
from doug_stream.codes import (
    ACK,
    CONTINUATION,
    DATA,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_MAX,
    WINDOW_UPDATE,
    ErrorCode,
    StatusCode,
    status_of_reset,
)
from doug_stream.errors import CallError, ProtocolError, StreamFault
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
from doug_stream.floods import Floods
from doug_stream.greeting import first_frames
from doug_stream.headers import Metadata
from doug_stream.limits import Limits
from doug_stream.sender import Sender
from doug_stream.streams import CONNECTION_WINDOW, LITTLE_BYTES, Arrivals, Stream, check_kept

_REMEMBERED_RESETS = 256
_RESPONSE = [(":status", "200"), ("content-type", headers.CONTENT_TYPE)]


class Connection:
    """One end of a connection.

    Attributes:
        over: Whether it was terminated.
        ready: Whether the peer's SETTINGS are here.
        going_away: Whether either end has said that no further calls begin.
    """

    def __init__(self, *, client: bool, limits: Limits, mark: bool = False) -> None:
        """Has the preface ready to be sent.

        Args:
            client: Whether this end opens the streams.
            limits: The bounds of what the peer may do.
            mark: Whether to tell the server, in SETTINGS, that this is a client of this package.
        """
        self._client = client
        self._limits = limits
        self._sender = Sender()
        self._blocks = BlockReader(limits)
        self._streams: dict[int, Stream] = {}
        self._next_id, self._last_id = 1, 0
        self._resets: deque[int] = deque(maxlen=_REMEMBERED_RESETS)
        self._reader = frames.FrameReader(b"" if client else PREFACE, limits.frame_bytes_max)
        self._arrivals = Arrivals()
        self._floods = Floods(limits)
        self._events: list[Event] = []
        self.over = self.ready = self.going_away = False
        self._sender.put(first_frames(limits, CONNECTION_WINDOW, client=client, mark=mark))

    # Sending.

    def data_to_send(self) -> bytes:
        """Takes what is to be written now."""
        return self._sender.take()

    def request(
        self,
        path: str,
        authority: str,
        scheme: str,
        metadata: Sequence[tuple[str, str | bytes]] = (),
        timeout_s: float | None = None,
    ) -> int:
        """Begins a call (client); gives its stream.

        Raises:
            CallError: No further call may begin on this connection.
            ValueError: The metadata cannot be sent.
        """
        assert self._client
        full = len(self._streams) >= self._sender.streams_max or self._next_id > WINDOW_MAX
        if self.over or self.going_away or full:
            raise CallError(StatusCode.UNAVAILABLE, "no further call may begin on this connection")
        fields = [(":method", "POST"), (":scheme", scheme), (":path", path), (":authority", authority)]
        fields += [("te", "trailers"), ("content-type", headers.CONTENT_TYPE)]
        if timeout_s is not None:
            fields.append(("grpc-timeout", headers.encode_timeout(timeout_s)))
        fields += headers.fields_of(metadata)
        stream = self._open(self._next_id)
        self._next_id += 2
        self._sender.headers(stream, fields)
        return stream.id

    def respond(self, stream_id: int, metadata: Sequence[tuple[str, str | bytes]] = ()) -> None:
        """Sends the head of the answer (server), unless it was sent before or the call is over."""
        stream = self._streams.get(stream_id)
        if stream is not None and not stream.head_sent:
            self._sender.headers(stream, _RESPONSE + headers.fields_of(metadata))

    def send(self, stream_id: int, message: bytes) -> bool:
        """Sends a message; False when some of it waits for the peer's window, and ``Drained`` will come.

        Raises:
            CallError: The call is over.
        """
        stream = self._streams.get(stream_id)
        if stream is None or stream.end_sent:
            raise CallError(StatusCode.UNAVAILABLE, "the call is over")
        return self._sender.message(stream, message)

    def end(self, stream_id: int) -> None:
        """No more messages will be sent in this call (client)."""
        stream = self._streams.get(stream_id)
        if stream is not None and not stream.end_sent:
            self._sender.end(stream, None)

    def finish(
        self, stream_id: int, status: StatusCode, details: str = "", trailers: Sequence[tuple[str, str | bytes]] = ()
    ) -> None:
        """Ends a call (server) once its messages have gone; nothing happens if it is over already."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.end_sent:
            return
        fields = [] if stream.head_sent else list(_RESPONSE)
        fields.append(("grpc-status", str(int(status))))
        if details:
            fields.append(("grpc-message", headers.encode_message(details)))
        fields += headers.fields_of(trailers)
        if self._sender.end(stream, fields):
            self._ended(stream)

    def reset(self, stream_id: int, code: ErrorCode = ErrorCode.CANCEL) -> None:
        """Cuts a call off, without an event."""
        stream = self._streams.pop(stream_id, None)
        if stream is not None:
            self._sender.forget(stream)
            self._resets.append(stream_id)
            self._sender.put(frames.reset(stream_id, code))

    def consumed(self, stream_id: int, owed: int) -> None:
        """A message was taken: the peer may send as much again."""
        stream = self._streams.get(stream_id)
        if stream is not None and (grown := stream.give_back(owed, taken=True)):
            self._sender.put(frames.window_update(stream_id, grown))

    def ping(self, payload: bytes = b"dougdb\0\0") -> None:
        """Asks the peer for a sign of life; anything that comes in is one."""
        self._sender.put(frames.frame(PING, 0, 0, payload))

    def go_away(self) -> None:
        """Says that no further calls are taken; those that have begun go on."""
        if not self.over and not self.going_away:
            self.going_away = True
            self._sender.put(frames.goaway(self._last_id, ErrorCode.NO_ERROR))

    def _ended(self, stream: Stream) -> None:
        """This end's last frame of a stream has gone."""
        if stream.end_received:
            self._streams.pop(stream.id, None)
        elif not self._client:
            # The answer is complete; further data of the client are not wanted (RFC 9113, 8.1).
            self.reset(stream.id, ErrorCode.NO_ERROR)

    def _drained(self, streams: Sequence[Stream]) -> None:
        for stream in streams:
            self._events.append(Drained(stream.id))
            if stream.end_sent:
                self._ended(stream)

    # Receiving.

    def receive(self, data: bytes, now_s: float) -> list[Event]:
        """Takes bytes; tells what they say.

        Args:
            data: Any piece of what the peer sent.
            now_s: The time, by any clock that never goes back.
        """
        if self.over:
            return []
        self._floods.now_s = now_s
        try:
            for kind, flags, stream_id, payload in self._reader.feed(data):
                try:
                    self._frame(kind, flags, stream_id, payload)
                except StreamFault as fault:
                    self._fault(fault)
        except ProtocolError as error:
            self._terminate(error)
        events, self._events = self._events, []
        return events

    def _terminate(self, error: ProtocolError) -> None:
        self.over = True
        self._sender.put(frames.goaway(self._last_id, error.code, str(error).encode()))
        self._events += [
            CallEnded(stream_id, StatusCode.UNAVAILABLE, f"the connection broke: {error}", ())
            for stream_id in self._streams
        ]
        self._streams.clear()
        self._events.append(Terminated(error.code, str(error)))

    def _frame(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        inside = self._blocks.stream_id
        if inside and not (kind == CONTINUATION and stream_id == inside):
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "a frame within a header block")
        if not self.ready and kind != SETTINGS:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "a frame before SETTINGS")
        if kind == DATA:
            self._on_data(flags, stream_id, payload)
        elif kind == WINDOW_UPDATE:
            self._on_window_update(stream_id, payload)
        elif kind == HEADERS:
            if not stream_id % 2:
                raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "HEADERS of a stream that no client opens")
            self._on_block(self._blocks.begin(flags, stream_id, payload))
        elif kind == CONTINUATION:
            if not inside:
                raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "CONTINUATION of nothing")
            self._on_block(self._blocks.go_on(flags, payload))
        elif kind == RST_STREAM:
            self._on_reset(stream_id, payload)
        else:
            # Legitimate peers send few of these; each costs an answer, or is meant to keep this end busy.
            self._floods.little("too many frames without content")
            self._on_control(kind, flags, stream_id, payload)

    def _on_control(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if kind in (SETTINGS, PING, GOAWAY) and stream_id:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "a stream's number on a frame of the connection")
        if kind == SETTINGS:
            self._on_settings(flags, payload)
        elif kind == PING:
            if len(payload) != 8:
                raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, f"PING of {len(payload)} bytes")
            if not flags & ACK:
                self._sender.put(frames.frame(PING, ACK, 0, payload))
        elif kind == GOAWAY:
            self._on_goaway(payload)
        elif kind == PRIORITY:
            if not stream_id:
                raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "PRIORITY without a stream")
            try:
                frames.check_priority(stream_id, payload)
            except ProtocolError as error:
                raise StreamFault(stream_id, error.code, str(error)) from error
        elif kind == PUSH_PROMISE:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "a push, which nobody allowed")

    def _on_data(self, flags: int, stream_id: int, payload: bytes) -> None:
        size = len(payload)
        if grown := self._arrivals.count(size):
            self._sender.put(frames.window_update(0, grown))
        stream = self._streams.get(stream_id)
        if stream is None:
            if size < LITTLE_BYTES and not self._client:
                self._floods.little("too many frames with little content of calls that are over")
            self._stray(stream_id, "DATA", harmless=False)
            return
        if stream.end_received:
            raise StreamFault(stream_id, ErrorCode.STREAM_CLOSED, "DATA behind the end")
        if not stream.head_received:
            raise StreamFault(stream_id, ErrorCode.PROTOCOL_ERROR, "DATA before the head")
        if not stream.arrived(size):
            raise StreamFault(stream_id, ErrorCode.FLOW_CONTROL_ERROR, "more than the stream's window")
        content = frames.unpadded(flags, payload) if flags & PADDED else payload
        stream.count(len(content), last=False)
        try:
            messages = stream.assembler.feed(content)
            found = [MessageReceived(stream_id, message, stream.owed(message)) for message in messages]
            check_kept(stream, self._streams.values(), self._limits, client=self._client)
        except CallError as error:
            self._refuse(stream, error)
            return
        if not found and len(content) < LITTLE_BYTES and not flags & END_STREAM:
            self._floods.little("too many frames with little content")
        self._events += found
        if grown := stream.give_back(size - len(content)):
            self._sender.put(frames.window_update(stream_id, grown))
        if flags & END_STREAM:
            self._on_end(stream)

    def _on_end(self, stream: Stream) -> None:
        stream.count(0, last=True)
        stream.end_received = True
        if self._client:
            self._close(stream, StatusCode.INTERNAL, "the call ended without a status", ())
        elif stream.assembler.waiting_bytes:
            self._refuse(stream, CallError(StatusCode.INTERNAL, "the last message is not complete"))
        else:
            self._events.append(HalfClosed(stream.id))
            if stream.end_sent and not stream.pending:
                self._streams.pop(stream.id, None)

    def _refuse(self, stream: Stream, error: CallError) -> None:
        """Ends a call whose messages cannot be taken: the other end is told why."""
        self._floods.refused("too many calls that cannot be served")
        if self._client:
            self._close(stream, error.status, error.details, ())
            return
        self._sender.forget(stream)
        self._events.append(CallEnded(stream.id, error.status, error.details, ()))
        self.finish(stream.id, error.status, error.details)

    def _close(self, stream: Stream, status: StatusCode, details: str, trailers: Metadata) -> None:
        """The server has ended a call (client)."""
        if stream.end_sent and not stream.pending and stream.end_received:
            self._streams.pop(stream.id, None)
        else:
            self.reset(stream.id)
        self._events.append(CallEnded(stream.id, status, details, trailers))

    def _fault(self, fault: StreamFault) -> None:
        self._floods.refused("too many streams that had to be reset")
        stream = self._streams.pop(fault.stream_id, None)
        self._resets.append(fault.stream_id)
        self._sender.put(frames.reset(fault.stream_id, fault.code))
        if stream is not None:
            self._sender.forget(stream)
            self._events.append(CallEnded(fault.stream_id, StatusCode.INTERNAL, str(fault), ()))

    def _open(self, stream_id: int) -> Stream:
        limits = self._limits
        stream = Stream(stream_id, self._sender.initial_window, limits.window_bytes, limits.message_bytes_max)
        self._streams[stream_id] = stream
        return stream

    def _stray(self, stream_id: int, what: str, *, harmless: bool) -> None:
        """A frame of a stream that is not open: late, or against the rules."""
        begun = stream_id % 2 == 1 and (stream_id < self._next_id if self._client else stream_id <= self._last_id)
        if not begun:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, f"{what} of a stream that was never opened")
        if not harmless and stream_id not in self._resets:
            raise ProtocolError(ErrorCode.STREAM_CLOSED, f"{what} of a stream that has ended")

    def _on_block(self, block: Block | None) -> None:
        if block is None:
            return
        self._floods.fields(len(block.fields))
        stream = self._streams.get(block.stream_id)
        if stream is None and (self._client or block.stream_id <= self._last_id):
            if not self._client:
                # A client has no trailers, so that none of these is late: each was to be unpacked all the same.
                self._floods.refused("too many heads of calls that are over")
            self._stray(block.stream_id, "HEADERS", harmless=False)
            return
        if stream is None:
            self._last_id = block.stream_id
        elif stream.end_received:
            raise StreamFault(block.stream_id, ErrorCode.STREAM_CLOSED, "HEADERS behind the end")
        try:
            if block.fault is not None:
                raise block.fault
            if self._client:
                assert stream is not None
                self._on_answer(stream, block)
            elif stream is not None:
                self._on_client_trailers(stream, block)
            else:
                self._on_request(block)
        except StreamFault:
            raise
        except ProtocolError as error:
            raise StreamFault(block.stream_id, error.code, str(error)) from error

    def _on_request(self, block: Block) -> None:
        stream_id = block.stream_id
        if self.going_away:
            # The client knows by the GOAWAY that it was not served.
            self._floods.refused("too many calls behind a GOAWAY")
            self._resets.append(stream_id)
            return
        if len(self._streams) >= self._limits.streams_max:
            raise StreamFault(stream_id, ErrorCode.REFUSED_STREAM, "too many calls at a time")
        request = headers.read_request(block.fields)
        stream = self._open(stream_id)
        stream.head_received, stream.length_left = True, request.length
        if request.refused:
            self._floods.refused("too many requests that are none of gRPC")
            stream.end_received, stream.head_sent = block.end_stream, True
            self._sender.end(stream, [(":status", request.refused), ("content-length", "0")])
            self._ended(stream)
            return
        self._events.append(RequestReceived(stream_id, request.path, request.metadata, request.timeout_s))
        if block.end_stream:
            self._on_end(stream)

    def _on_client_trailers(self, stream: Stream, block: Block) -> None:
        headers.check(block.fields, request=True, trailers=True)
        if not block.end_stream:
            raise StreamFault(stream.id, ErrorCode.PROTOCOL_ERROR, "a second head")
        self._on_end(stream)

    def _on_answer(self, stream: Stream, block: Block) -> None:
        if stream.head_received and not block.end_stream:
            raise StreamFault(stream.id, ErrorCode.PROTOCOL_ERROR, "a second head")
        answer = headers.read_answer(block.fields, first=not stream.head_received, last=block.end_stream)
        if answer is None:
            return
        stream.head_received, stream.end_received = True, block.end_stream
        status, details, metadata = answer
        if status is None:
            self._events.append(ResponseReceived(stream.id, metadata))
        elif status == StatusCode.OK and stream.assembler.waiting_bytes:
            self._close(stream, StatusCode.INTERNAL, "the last message is not complete", metadata)
        else:
            self._close(stream, status, details, metadata)

    def _on_reset(self, stream_id: int, payload: bytes) -> None:
        code = frames.word(payload, "RST_STREAM")
        stream = self._streams.pop(stream_id, None)
        if not self._client:
            self._floods.refused("too many streams are reset")
        if stream is None:
            self._stray(stream_id, "RST_STREAM", harmless=True)
            return
        self._sender.forget(stream)
        self._events.append(CallEnded(stream_id, status_of_reset(code), f"the call was reset with code {code}", ()))

    def _on_window_update(self, stream_id: int, payload: bytes) -> None:
        size = frames.word(payload, "WINDOW_UPDATE") & WINDOW_MAX
        if (size < LITTLE_BYTES and self._sender.waits) or not (self._client or self._sender.explains_window()):
            self._floods.little("too many windows that grow by little, or although little was sent")
        if not stream_id:
            if not size:
                raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "a window that grows by nothing")
            self._drained(self._sender.grow_connection(size))
            return
        stream = self._streams.get(stream_id)
        if stream is None:
            self._stray(stream_id, "WINDOW_UPDATE", harmless=True)
        elif not size:
            raise StreamFault(stream_id, ErrorCode.PROTOCOL_ERROR, "a window that grows by nothing")
        elif self._sender.grow_stream(stream, size):
            self._drained((stream,))

    def _on_settings(self, flags: int, payload: bytes) -> None:
        if flags & ACK:
            if payload:
                raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "an acknowledgement with content")
            if not self.ready:
                raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "an acknowledgement before SETTINGS")
            return
        values = frames.settings_fields(payload)
        if len(values) > self._limits.settings_max:
            raise ProtocolError(ErrorCode.ENHANCE_YOUR_CALM, f"SETTINGS of {len(values)} parameters")
        self._drained(self._sender.apply(values, list(self._streams.values())))
        if not self.ready:
            self.ready = True
            self._events.append(Ready())

    def _on_goaway(self, payload: bytes) -> None:
        last, code, debug = frames.goaway_fields(payload)
        self.going_away = True
        details = debug[:256].decode("utf-8", "replace")
        if self._client:
            for stream_id in [known for known in self._streams if known > last]:
                self._sender.forget(self._streams.pop(stream_id))
                self._resets.append(stream_id)
                self._events.append(CallEnded(stream_id, StatusCode.UNAVAILABLE, f"not taken: {details}", ()))
        self._events.append(GoingAway(code, details))
