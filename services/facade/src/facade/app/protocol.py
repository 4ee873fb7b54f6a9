"""One HTTP/1.1 connection: uvicorn's protocol with the order, the refusals and the limits that it lacks.

Requests are answered one after the other, in the order in which they came. What is wrong with a request is told in its
turn: while an earlier one is being answered, nobody knows yet what became of that.

Must not know routes. Invariants:
    1. No answer leaves before those of all earlier requests of the connection.
    2. A head is bounded in bytes, lines included. What waits unparsed is bounded, since reading stops meanwhile.
    3. A connection that sends its head too slowly, takes nothing of what was written to it, or is idle for too long is
       closed.
    4. What a crowd of connections begins in a turn of the event loop is bounded; what waits for its turn is not late.
    5. A request that cannot be parsed is told so with a problem document; nothing behind it is read.
    6. Upgrade is ignored: the request is answered in HTTP/1.1, with its body (RFC 9110, 7.8).

Source: RFC 9112, 9.3 (pipelining) and 9.6 (closing); docs/operations.md, Limits of clients.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import httptools
import structlog
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from doug_wire.networks import network_of
from doug_wire.pipe import ResultRecord
from facade.app import certificates, heads, reserve
from facade.app.crowds import BEGUN_MAX, UNPARSED_BYTES_MAX
from facade.app.exchange import App, Exchange, Target, last_word, refusal, wrong_with
from facade.app.front import Front
from facade.app.gate import SCOPE_CERTIFICATE
from facade.app.hot import HotLane, HotRequest, of_future
from facade.app.outgoing import Outgoing
from facade.app.plain import LastHead, PlainHead
from facade.app.progress import Bodies
from facade.app.slices import slice_end
from facade.errors import NotAppliedError, ProblemError, TooManyRequestsError, UnexpectedError

log = structlog.get_logger()

LINGER_S = 2.0
"""How long an ended connection is still read, so that its client sees the last answer instead of a reset."""


class LimitedProtocol(HttpToolsProtocol):
    """Serves one connection."""

    head_since_s: float | None = None
    """Since when the rest of a request's head is awaited; None while no head is."""
    idle_since_s: float | None = None
    """Since when all requests are answered and no other has begun, not even in part; None at all other times."""

    def __init__(self, *arguments: Any, front: Front, hot: HotLane | None = None, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._front, self._lane = front, hot
        self._hot: HotRequest | None = None
        self._plain: PlainHead | None = None
        self._last_head = LastHead()
        self._begun = self._turn = self._head_bytes = self._head_fed = 0
        self._in_head = self._ended = self._is_guest = self._waits = False
        self._lingers_since_s: float | None = None
        self._receiving: Exchange | None = None
        self._current: Exchange | HotRequest | None = None
        self._later: deque[tuple[Exchange, App] | HotRequest] = deque()
        self._last_word: ProblemError | None = None
        self._bodies: Bodies
        self._outgoing: Outgoing
        self._certificate, self._address, self._network, self._unparsed = certificates.NONE, "", "", b""
        self._head_timeout_s, self._head_took_s = front.head_timeout_s, 0.0

    # The connection.

    def connection_made(self, transport: object) -> None:
        """Begins to wait for the first head, or refuses the connection if there are too many."""
        super().connection_made(transport)  # type: ignore[arg-type]
        self.head_since_s = self.loop.time()
        self._certificate = certificates.shown_by(self.transport)
        self._address = self.client[0] if self.client else ""
        self._network = network_of(self._address)
        self._bodies = Bodies(self._front.arriving, self._network)
        self._crowd = self._front.crowds.enter(self._network, self.loop.call_soon)
        self._outgoing = Outgoing(self.transport, self._front.unread, self._network)
        if not self._front.quotas.connect(self._network):
            self._refuse(TooManyRequestsError("Too many connections are open from this address."))
        elif len(self.connections) > self._front.connections_max:
            self._lane, self._is_guest = None, True
            self._head_timeout_s = min(self._head_timeout_s, reserve.PATIENCE_S)
            if not self._front.reserve.enter(self):
                self.turn_away()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tells the handlers of open requests that nobody reads their answers."""
        self.connections.discard(self)
        self._front.quotas.disconnect(self._network)
        self._front.crowds.leave(self._network)
        self._front.reserve.leave(self)
        self._waits = False
        self._later.clear()
        self._unparsed = b""
        for exchange in (self._current, self._receiving):
            if isinstance(exchange, Exchange):
                exchange.disconnected = not exchange.response_complete
                exchange.message_event.set()
            elif exchange is not None and self._lane is not None:
                self._lane.leave(exchange)
        self._current = None
        self.resume_writing()
        self._bodies.end()
        self.parser = None  # type: ignore[assignment]  # It holds the connection, as the connection holds it.
        if exc is None:
            self.transport.close()
        self._ended = True

    def shutdown(self) -> None:
        """Ends the connection once all requests that have come are answered."""
        self.take_turn()
        last = self._hot or self._receiving or (self._later[-1] if self._later else self._current)
        if last is None:
            self.transport.close()
            return
        (last[0] if isinstance(last, tuple) else last).keep_alive = False
        self._ended = self._receiving is None and self._hot is None
        if isinstance(self._current, Exchange):
            self._current.stop()

    def check_time(self, now_s: float, idle_timeout_s: float) -> None:
        """Closes the connection if it has kept us waiting for too long; called now and then."""
        front = self._front
        if self._outgoing.is_too_slow(now_s, front.write_timeout_s, front.rate_min):
            self.transport.abort()
        elif self._lingers_since_s is not None:
            if self._lingers_since_s < now_s - LINGER_S:
                self.transport.close()
        elif self.transport.is_closing() or self._waits:
            return
        elif self.head_since_s is not None and not self._later and self.head_since_s < now_s - self._head_timeout_s:
            self._break_off(heads.late())
        elif self.idle_since_s is not None and self.idle_since_s < now_s - idle_timeout_s:
            self.transport.close()
        elif self._hot is not None:
            self._leave_lane()
        elif self._receiving is None or self._receiving is not self._current:
            return
        elif self._bodies.is_too_slow(now_s, front.rate_min, reads=not self.flow.read_paused):
            self._break_off(heads.slow_body())

    @property
    def has_asked(self) -> bool:
        """See ``facade.app.reserve.Guest``."""
        return self.head_since_s is None or self._current is not None

    def turn_away(self) -> None:
        """See ``facade.app.reserve.Guest``."""
        self._front.connections_refused += 1
        self._refuse(reserve.too_many())

    def _refuse(self, error: ProblemError) -> None:
        self._last_word = error
        self._say_last_word()
        self.transport.close()  # Without lingering, which would keep a descriptor, of which there are too few.

    def pause_writing(self) -> None:
        """Notes that the client takes less than is written."""
        super().pause_writing()
        self._outgoing.pause(self.loop.time())

    def resume_writing(self) -> None:
        """Notes that the client has taken most of what was written."""
        super().resume_writing()
        self._outgoing.resume()

    # The transport's methods that the exchange calls.
    def write(self, data: bytes) -> None:
        """Sends a part of an answer."""
        self._outgoing.write(data)

    def get_write_buffer_size(self) -> int:
        """How many bytes the client has not taken of what was written."""
        return self.transport.get_write_buffer_size()

    def is_closing(self) -> bool:
        """Whether no answer is sent any more."""
        return self._lingers_since_s is not None or self.transport.is_closing()

    def close(self) -> None:
        """Ends the connection behind the last answer.

        To close a socket that has bytes left to read is to reset it, and a reset may overtake the answer. So only our
        direction ends as long as there may be some (RFC 9112, 9.6).
        """
        self._ended = True
        if (self._receiving is None and self._last_word is None) or not self.transport.can_write_eof():
            self.transport.close()
        elif self._lingers_since_s is None:
            self._lingers_since_s = self.loop.time()
            self.transport.write_eof()
            self.flow.resume_reading()

    # Bytes come in.

    def data_received(self, data: bytes) -> None:
        """Parses bytes, or puts them aside while a request waits for its turn."""
        if self._ended:
            return
        if self._later or self._unparsed:
            self._put_aside(self._unparsed + data)
            if self._waits and not (self._later or self._in_head) and self._crowd.hurries(self._unparsed):
                self.take_turn()
            elif self._waits or len(self._unparsed) > UNPARSED_BYTES_MAX:
                self.flow.pause_reading()
        elif not self._crowd.is_large or not self._must_wait(data):
            self._parse(data)

    def _must_wait(self, data: bytes) -> bool:
        """Puts the beginning of a request aside while it is others' turn; returns whether it did."""
        if self._receiving is not None or self._hot is not None:
            return False  # It is no beginning.
        if self._crowd.take(self, b"" if self._in_head else data):
            self._turn = self._crowd.turns
            return False
        if self._in_head and self._current is None and self.head_since_s is not None:
            self._head_took_s = self.loop.time() - self.head_since_s
        self._put_aside(data)
        self._waits = not self._ended
        return True

    def _put_aside(self, data: bytes) -> None:
        """Has bytes wait unparsed, if there is room for them."""
        try:
            self._bodies.put_aside(len(data))
            self._unparsed = data
        except NotAppliedError as error:
            self._break_off(error)

    def take_turn(self) -> None:
        """See ``facade.app.crowds.Member``."""
        waited, self._waits = self._waits, False
        if waited and self._receiving is None and self._hot is None:
            self._bodies.release()  # Of the request that waits. Otherwise a body is arriving.
        if waited and self._current is None and not self.is_closing():
            self._go_on()

    def _parse(self, data: bytes) -> None:
        if self._lane is None or self.idle_since_s is None or self._receiving is not None:
            self._feed(data)
        elif (hot := self._lane.again(data, self._last_head, self._certificate)) is not None:
            # A request begins here and repeats the head of an earlier one: the parser need not see it.
            self.idle_since_s = None
            hot.address, hot.network = self._address, self._network
            self._ended = not hot.keep_alive
            self._start_hot(hot)
        else:
            self._begun = 0
            self._feed(data)
            if self._begun == 1 and self._hot is None and self._plain is not None:
                self._lane.learn(data, self._plain, len(self.headers))

    def _feed(self, data: bytes) -> None:
        at = 0
        while at < len(data) and not self._ended:
            piece = data[at : slice_end(data, at, in_body=self._receiving is not None or self._hot is not None)]
            at += len(piece)
            in_head = self._in_head
            try:
                self.parser.feed_data(piece)
            except httptools.HttpParserUpgrade as upgrade:
                data, at = self._ignore_upgrade() + piece[upgrade.args[0] :] + data[at:], 0
            except httptools.HttpParserError as error:
                reason = error.__context__
                self._break_off(reason if isinstance(reason, ProblemError) else heads.of_parser(error))
            if self._in_head:
                self._head_fed = self._head_fed + len(piece) if in_head else 0
                if max(self._head_bytes, self._head_fed) > heads.HEAD_BYTES_MAX:
                    self._break_off(heads.large())
            if self._later and at < len(data) and not self._ended:
                self._put_aside(data[at:])
                return

    def _ignore_upgrade(self) -> bytes:
        """Replaces the parser, which stops at an upgrade; returns the head that has the new one read on without it."""
        method = self.parser.get_method()
        if method == b"CONNECT":
            self._break_off(heads.no_tunnel())
            return b""
        version = self.parser.get_http_version()
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return heads.encode(method, self.url, version, heads.without_upgrade(self.headers))

    # The parser's callbacks.

    def on_message_begin(self) -> None:
        """Begins a head."""
        self.url, self.headers = b"", []
        self._plain = None
        self._begun += 1
        self._in_head = True
        self._head_bytes, self._head_fed, self._head_took_s = 0, 0, 0.0
        self.idle_since_s = None
        if self.head_since_s is None:
            self.head_since_s = self.loop.time()

    def on_url(self, url: bytes) -> None:
        """Refuses a fragment, which would cut the key silently."""
        if b"#" in url:
            raise heads.malformed()
        self._head_bytes += len(url)
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Takes a header, and counts its bytes. Trailers are no headers: the request is being answered by then."""
        self._head_bytes += len(name) + len(value) + heads.LINE_BYTES
        if self._in_head:
            self.headers.append((name.lower(), value))
        if self._head_bytes > heads.HEAD_BYTES_MAX or len(self.headers) > heads.FIELDS_MAX:
            raise heads.large()

    def on_headers_complete(self) -> None:
        """Takes a request whose head is complete, and has it answered, now or in its turn."""
        self.head_since_s, self._in_head = None, False
        if self._ended or self.parser.should_upgrade():
            return  # At an upgrade the parser stops here: _ignore_upgrade goes on.
        version = self.parser.get_http_version()
        if self._lane is not None and version == "1.1":
            method, keep_alive = self.parser.get_method(), self.parser.should_keep_alive()
            taken = self._lane.take(method, self.url, self.headers, self._certificate, keep_alive=keep_alive)
            if taken is not None:
                self._hot, self._plain = taken
                self._hot.address, self._hot.network = self._address, self._network
                return
        self._begin_exchange(version)

    def _begin_exchange(self, version: str) -> None:
        if self._crowd.is_large:
            self._crowd.went_long()
        heads.check_framing(version, self.headers)
        target = Target.of(self.url)
        scope: Any = target.scope(self, version, {SCOPE_CERTIFICATE: self._certificate})
        self.scope = scope  # uvicorn's types of scopes are narrower.
        error = wrong_with(scope, target.host, self._front, guest=self._is_guest)
        app: App = self.app if error is None else refusal(error)
        keep_alive = version != "1.0" and self.parser.should_keep_alive() and not self._is_guest
        self._bodies.begin(self.loop.time())
        exchange = self._receiving = self.cycle = Exchange.of(self, self._front, keep_alive=keep_alive)
        if self._begins(b"%b %b " % (self.parser.get_method(), self.url)):
            self._start(exchange, app)
        else:
            self.flow.pause_reading()
            self._later.append((exchange, app))

    def on_body(self, body: bytes) -> None:
        """Takes a piece of a body; drops it if the request is answered already."""
        if self._hot is not None:
            self._bodies.hold(len(body), self.loop.time())
            self._hot.body.append(body)
            return
        exchange = self._receiving
        if exchange is None or exchange.response_complete:
            return
        self._bodies.hold(len(body), self.loop.time())
        exchange.body += body
        if len(exchange.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        exchange.message_event.set()

    def on_message_complete(self) -> None:
        """Takes the end of a request."""
        if self._hot is not None:
            hot, self._hot = self._hot, None
            self._ended = not hot.keep_alive
            if self._begins():
                self._start_hot(hot)
            else:
                self.flow.pause_reading()
                self._later.append(hot)
                self._crowd.parsed_ahead()
            if not self._waits:
                self._bodies.release()
            return
        self._bodies.release()
        exchange, self._receiving = self._receiving, None
        if exchange is None:
            return
        exchange.more_body = False
        exchange.message_event.set()
        if not exchange.keep_alive:
            self._ended = True  # Further bytes were sent by mistake.
        if exchange.response_complete:
            self.idle_since_s = self.loop.time()

    # Answers.

    def _start(self, exchange: Exchange, app: App) -> None:
        self._current = exchange
        self._start_asgi_task(exchange, app)  # type: ignore[arg-type]

    def _start_hot(self, request: HotRequest) -> None:
        assert self._lane is not None
        self._current = request
        try:
            future = self._lane.begin(request)
        except ProblemError as error:
            # Not at once: with many requests that came together, each answer would begin within the one before.
            self.loop.call_soon(self._end_hot, request, error)
        except Exception as error:
            log.error("request.failed", method=request.method, reason=repr(error), exc_info=error)
            self.loop.call_soon(self._end_hot, request, UnexpectedError())
        else:
            future.add_done_callback(lambda done: self._end_hot(request, of_future(done)))

    def _end_hot(self, request: HotRequest, result: ResultRecord | ProblemError) -> None:
        """Answers a request of the short way."""
        assert self._lane is not None
        (head, content), keep_alive = self._lane.end(request, result, self.server_state.default_headers)
        if self._current is not request:
            return  # The connection is gone.
        if not self.transport.is_closing():
            self._outgoing.write_answer(head, content)
            if not keep_alive:
                self.close()
        self.on_response_complete()

    def _leave_lane(self) -> None:
        """Moves a request whose body takes its time from the short way to the application, which has limits for it."""
        assert self._hot is not None
        request, self._hot = self._hot, None
        self._begin_exchange("1.1")
        if self._receiving is not None:
            self._receiving.keep_alive = request.keep_alive
            self._receiving.body += b"".join(request.body)
            self._receiving.message_event.set()

    def on_response_complete(self) -> None:
        """Ends an answer: begins the next request that waits, or goes on parsing."""
        self.server_state.total_requests += 1
        self._current = None
        if self.is_closing() or self._waits:
            return
        line = b" " if self._later and isinstance(self._later[0], tuple) else b""
        if not (self._later or self._unparsed) or self._begins(line):
            self._go_on()

    def _begins(self, line: bytes = b"") -> bool:
        """Whether the next request, with this line if it goes the long way, begins now; else it is others' turn."""
        if self._current is not None or self._waits:
            return False
        has_turn, self._turn = self._turn == self._crowd.turns, 0
        counts = self._crowd.is_large or (line and self._crowd.connections > BEGUN_MAX)
        self._waits = bool(counts) and not has_turn and not self._crowd.take(self, line)
        return not self._waits

    def _go_on(self) -> None:
        self._turn = self._crowd.turns if self._crowd.is_large and self._unparsed and not self._later else 0
        first = self._later.popleft() if self._later else None
        if isinstance(first, HotRequest):
            self._start_hot(first)
            return
        if first is not None:
            self._start(*first)
            if self._receiving is not first[0]:
                return  # Otherwise what was put aside is the rest of its body.
        elif self._last_word is not None:
            self._say_last_word()
            return
        unparsed, self._unparsed = self._unparsed, b""
        if unparsed:
            self._bodies.put_aside(0)
            self._parse(unparsed)
        if self._current is None and not self._later:
            now_s = self.loop.time()
            if self._in_head:
                self.head_since_s = now_s - self._head_took_s  # Since then the client waited for the facade.
            elif self._hot is None:
                self.idle_since_s = now_s  # Otherwise the body of the next request is arriving.
        if not self._later:
            self.flow.resume_reading()

    def _break_off(self, error: ProblemError) -> None:
        """Reads no more, tells the client why when it is the request's turn, and ends the connection."""
        if self._ended:
            return
        self._ended, self._unparsed, self._hot = True, b"", None
        self._bodies.put_aside(0)
        self.head_since_s, self._last_word, exchange = None, error, self._receiving
        if exchange is not None or not self._waits:
            self._bodies.release()  # Otherwise bodies of requests that are whole wait for their turn.
        if exchange is not None and not exchange.response_complete:
            exchange.break_off(error)
        elif exchange is not None:
            self.close()
        elif self._current is None and not self._later:
            self._say_last_word()

    def _say_last_word(self) -> None:
        assert self._last_word is not None
        self.write(last_word(self._last_word, self.server_state.default_headers))
        self.close()
