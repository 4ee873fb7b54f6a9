"""The short way: plain GET, PUT and DELETE of a key, answered from the parser's callbacks.

Through ASGI a request costs a task, a scope, an event and a dozen awaits, which is three times what its own work costs.
Nearly all requests are a GET, a small PUT or a DELETE; these are recognised by their head, admitted as soon as they are
whole, and answered by the callback of their operation in one write. Writes may have a condition, an idempotency key and
a time to live, which go into their command. Everything else, whatever it is, goes through the application: a header
that is not known here is reason enough. So this module knows no rule of its own; it uses the routes' rules, and leaves
a request that breaks one to them.

Must not know sockets or the order of requests: ``app.protocol`` does. Invariants: (1) a request that is taken is
answered as the application would answer it, header for header; (2) no request is taken that asks for another option, is
refused before its operation, or needs an answer other than the plain one to be allowed; (3) whether the sender has the
right to an operation is looked at by the router alone, as for every other request.

Source: docs/api.md, Key routes; measured in docs/performance.md.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Sequence
from time import perf_counter

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from doug_wire.auth.grants import Verb
from doug_wire.command import CONTENT_TYPE_BYTES_MAX, Opcode
from doug_wire.pipe import ResultRecord, Status
from doug_wire.validity import is_printable
from facade.app.certificates import NONE, Certificate
from facade.app.front import Front, too_much_unread
from facade.app.gate import Gate
from facade.app.outgoing import HIGH_WATER_BYTES
from facade.app.plain import KnownHeads, LastHead, PlainHead, has_once, proof_of
from facade.client.access import Caller
from facade.client.metrics import KEY_ROUTE, Metrics
from facade.client.modes import BOUNDED, LEADER_KINDS, LINEARIZABLE, READ_MODES, ReadMode
from facade.client.operation import Operation
from facade.client.receipts import SESSION, Receipt, of_operation
from facade.client.router import Router
from facade.client.sessions import Session
from facade.errors import (
    BadRequestError,
    DecidedError,
    ForbiddenError,
    NotAppliedError,
    ProblemError,
    UnauthenticatedError,
    UnexpectedError,
)
from facade.routes import problem
from facade.routes.conditions import write_condition
from facade.routes.durations import ttl_ms
from facade.routes.key import KEY_PREFIX, key_of
from facade.routes.options import parse_idempotency_key
from facade.routes.raw import request_id
from facade.routes.results import problem_of, receipt, shown_content_type
from facade.routes.values import guards

BODY_BYTES_MAX = 64 << 10
"""A longer body takes long enough to arrive that the way does not matter."""

PLAIN = frozenset(
    {
        *(b"host", b"user-agent", b"accept", b"accept-encoding", b"accept-language", b"connection", b"keep-alive"),
        *(b"content-type", b"content-length", b"doug-consistency", b"cache-control", b"pragma", b"cookie", b"dnt"),
        *(b"x-request-id", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-port", b"x-forwarded-proto"),
        *(b"x-real-ip", b"via", b"forwarded", b"priority", b"traceparent", b"tracestate", b"baggage", b"doug-client"),
        SESSION,
    }
)
"""The headers that a plain request may have: those that the short way handles, and those that change nothing."""

OF_WRITES = frozenset({b"if-match", b"if-none-match", b"idempotency-key"})
"""The headers that a plain write may have beside."""

PLAIN_KNOWN = PLAIN | OF_WRITES | {b"authorization"}
"""All of these, and the one by which the sender of a plain request was proved before."""

_KEYS = KEY_PREFIX + b"/"
_READ_MODES = {name: mode for name, mode in READ_MODES.items() if mode is not BOUNDED}
_MODES = {b"consistency=" + name: mode for name, mode in _READ_MODES.items()}
_CACHED = 1024
_FACADE_ALONE = b"server-timing: facade;dur=%.2f%b\r\n"
_END = b"\r\n"
_TTL = b"ttl="
_METHODS = {b"GET": "GET", b"PUT": "PUT", b"DELETE": "DELETE"}

Header = tuple[bytes, bytes]


class HotRequest:
    """One request on the short way.

    Attributes:
        method: The request's method.
        address: The client's address.
        network: The part of it that limits by address count by.
        caller: The sender; None while clients need not say who they are.
        keep_alive: Whether the connection goes on behind the answer.
        body: The pieces of the request's body.
        size: The bytes of the body that have come.
    """

    __slots__ = (
        "address", "body", "caller", "condition", "content_type", "idempotency_key", "keep_alive", "key", "method",
        "mode", "network", "operation", "request_id", "session", "size", "started_s", "ttl",
    )  # fmt: skip

    def __init__(
        self, head: PlainHead, key: bytes, mode: ReadMode, session: Session | None, caller: Caller | None, ttl: int = 0
    ) -> None:
        self.method = _METHODS[head.method]
        self.caller = caller
        self.key = key
        self.mode = mode
        self.content_type = head.content_type
        self.condition = head.condition
        self.idempotency_key = head.idempotency_key
        self.ttl = ttl
        self.request_id = request_id(head.named)
        self.session = session
        self.address = self.network = ""
        self.keep_alive = head.keep_alive
        self.body: list[bytes] = []
        self.size = 0
        self.started_s = 0.0
        self.operation: Operation | None = None


def _mode_of(query: bytes | None, header: bytes | None) -> ReadMode | None:
    """The consistency that query and header ask for; None if the query says more, or the two differ."""
    if query is None:
        return _READ_MODES.get(header or b"")
    named = query[12:]
    return _MODES.get(query) if header is None or header == named else None


def _lines(headers: Sequence[Header]) -> bytes:
    return b"".join([b"%b: %b\r\n" % header for header in headers])


@functools.lru_cache(_CACHED)
def _value_lines(content_type: bytes) -> bytes:
    return _lines(((b"content-type", content_type), *guards(content_type)))


@functools.lru_cache(_CACHED)
def _shard_lines(shard: int, mode: ReadMode) -> bytes:
    return _lines(((b"doug-shard", b"%d" % shard), *mode.headers))


class HotLane:
    """Recognises plain requests, begins them, and puts their answers into bytes."""

    def __init__(self, router: Router, metrics: Metrics, front: Front, gate: Gate | None = None) -> None:
        self._router = router
        self._gate = gate
        self._metrics = metrics
        self._front = front
        self._known = KnownHeads(secret=gate is not None)
        self._defaults: list[Header] | None = None
        self._default_lines = b""
        self._leaving = False
        self._receipt: Receipt | None = None
        self._strong: bool | None = None
        self._receipt_lines = b""

    def take(
        self, method: bytes, target: bytes, headers: list[Header], certificate: Certificate = NONE, *, keep_alive: bool
    ) -> tuple[HotRequest, PlainHead] | None:
        """Makes a request of a head that the parser has read, if the head is plain.

        Args:
            method: The request's method.
            target: The request's path and query.
            headers: The request's headers.
            certificate: The certificate of the connection.
            keep_alive: Whether the connection goes on behind the request.
        """
        if method not in _METHODS or not target.startswith(_KEYS) or not target.isascii():
            return None
        head = self._head(method, headers, keep_alive=keep_alive)
        request = None if head is None else self._request(head, target, self._caller(head, certificate))
        return None if head is None or request is None else (request, head)

    def learn(self, data: bytes, head: PlainHead, headers: int) -> None:
        """Keeps a head that may be repeated (``KnownHeads.learn``)."""
        self._known.learn(data, head, headers)

    def again(self, data: bytes, last: LastHead, certificate: Certificate = NONE) -> HotRequest | None:
        """The request in these bytes, if they are exactly one request whose head is known; else None."""
        found = self._known.find(data, last)
        if found is None:
            return None
        head, target, body = found
        caller = None
        if self._gate is not None:
            caller = last.caller if head is last.head else None
            if caller is None or caller.access.ended:
                caller = self._caller(head, certificate)
                if head is last.head:
                    last.caller = caller
            else:
                caller.access.used = True
        request = self._request(head, target, caller)
        if request is not None:
            request.body.append(body)
        return request

    def _head(self, method: bytes, headers: list[Header], *, keep_alive: bool) -> PlainHead | None:
        """Reads the headers of a plain request; None if the request is not plain."""
        found = dict(headers)
        if len(found) != len(headers) or not PLAIN_KNOWN.issuperset(found):
            return None
        if not self._front.hosts.knows(found.get(b"host", b"")):
            return None
        if self._gate is not None and b"cookie" in found and b"authorization" not in found:
            return None  # It may be a browser's session, which counts before the connection's certificate.
        length = int(found.get(b"content-length", b"-1"))
        content_type = found.get(b"content-type", b"")
        if method == b"PUT":
            if not 0 <= length <= BODY_BYTES_MAX:
                return None
            if len(content_type) > CONTENT_TYPE_BYTES_MAX or not is_printable(content_type):
                return None
        elif length > 0:
            return None
        condition, idempotency_key = None, ""
        if method == b"GET":
            if b"json" in found.get(b"accept", b"").lower() or not OF_WRITES.isdisjoint(found):
                return None
        elif not OF_WRITES.isdisjoint(found):
            try:
                condition = write_condition(found.get(b"if-match"), found.get(b"if-none-match"))
                idempotency_key = parse_idempotency_key(found.get(b"idempotency-key"))
            except BadRequestError:
                return None
        return PlainHead(
            method,
            max(length, 0),
            found.get(b"doug-consistency"),
            content_type if method == b"PUT" else b"",
            proof_of(found.get(b"authorization", b"")),
            found.get(SESSION),
            found.get(b"x-request-id"),
            has_once(found),
            keep_alive,
            condition,
            idempotency_key,
        )

    def _caller(self, head: PlainHead, certificate: Certificate) -> Caller | None:
        """The sender of a request with this head; None where nobody is asked, and for one who was not proved before."""
        return None if self._gate is None else self._gate.known(head.proof, certificate)

    def _request(self, head: PlainHead, target: bytes, caller: Caller | None) -> HotRequest | None:
        """Makes a request of a head and a target, if nothing speaks against carrying it out at once; else None."""
        if caller is None and (head.proof or self._gate is not None):
            return None
        reads = head.method == b"GET"
        unread = self._front.unread
        if reads and unread.held > unread.limit:
            return None  # The application looks whether this client may have more.
        path, separator, query = target.partition(b"?")
        mode: ReadMode | None = LINEARIZABLE
        expires = bool(separator) and query.startswith(_TTL) and head.method == b"PUT"
        named = query if separator and not expires else None
        if named is not None or head.consistency is not None:
            mode = _mode_of(named, head.consistency)
        if mode is None:
            return None
        try:
            key = key_of(path)
            ttl = ttl_ms(query[len(_TTL) :], may_keep=True) if expires else 0
            session = None if head.session is None else self._session(head.session)
        except ProblemError:
            return None
        return HotRequest(head, key, mode, session, caller, ttl)

    def _session(self, token: bytes) -> Session:
        """Reads a session token, if this facade's map is as new as the token.

        Raises:
            ProblemError: The token cannot be read, or the map is older.
        """
        self._router.directory.check_loaded()
        sessions = self._router.directory.sessions
        session = sessions.read(token)
        if session.epoch > sessions.epoch:
            raise NotAppliedError("not_fresh_enough", "A newer map must be loaded first.")
        return session

    def begin(self, request: HotRequest) -> asyncio.Future[ResultRecord]:
        """Has a whole request carried out.

        Raises:
            NotAppliedError: The operation is not admitted.
            TooManyRequestsError: The client asks for more than its part.
            UnauthenticatedError: The request's sender is not known any more.
            ForbiddenError: The sender has lost the right to it.
        """
        request.started_s = perf_counter()
        self._metrics.inflight += 1
        body, request.body = request.body, []
        caller, network = request.caller, request.network
        client = network if caller is None else caller.access.name
        if self._front.quotas.counts:
            self._front.quotas.take("" if caller is None else client, network)
        try:
            if request.method == "GET":
                operation = self._router.read(
                    request.key, request.mode, session=request.session, caller=caller, client=client
                )
            else:
                operation = self._router.write(
                    Opcode.PUT if request.method == "PUT" else Opcode.DELETE,
                    request.key,
                    request.content_type,
                    body[0] if len(body) == 1 else b"".join(body),
                    request.condition,
                    request.ttl,
                    b"",
                    request.idempotency_key,
                    caller=caller,
                    client=client,
                )
        except (ForbiddenError, UnauthenticatedError):
            self._tell_refusal(request)
            raise
        request.operation = operation
        operation.session = request.session
        return operation.future

    def leave(self, request: HotRequest) -> None:
        """Notes that the client of a request under way is gone."""
        if request.operation is not None:
            self._router.registry.abandon(request.operation)

    def _tell_refusal(self, request: HotRequest) -> None:
        """Tells the audit log of a request whose sender has not the right to it."""
        assert self._gate is not None
        assert request.caller is not None
        verb = Verb.READ if request.method == "GET" else Verb.WRITE
        shown = request.caller.access, request.request_id.decode(), request.address, request.method, KEY_ROUTE
        self._gate.audit.refused(Caller(*shown), verb, request.key)

    def end(
        self, request: HotRequest, result: ResultRecord | ProblemError, defaults: list[Header]
    ) -> tuple[list[bytes], bool]:
        """The bytes of the answer, and whether the connection goes on behind it; counts the request.

        Args:
            request: The request.
            result: The outcome of its operation, or the error.
            defaults: The headers that every answer of this server has.
        """
        if defaults is not self._defaults:
            # uvicorn makes a new list of headers every second, with the date.
            self._defaults = defaults
            self._default_lines = _lines(defaults)
            self._leaving = any(name == b"connection" for name, _ in defaults)
        keep_alive = request.keep_alive and not self._leaving
        if isinstance(result, ProblemError):
            status, parts = self._refused(request, result)
        else:
            status, parts = self._decided(request, result)
        if b"connection: close\r\n" in parts[0]:
            keep_alive = False
        elif not keep_alive and not self._leaving:
            parts[0] += b"connection: close\r\n"
        duration_s = perf_counter() - request.started_s
        timing = b""
        if self._front.timed:
            operation = request.operation
            rest = b"" if operation is None or operation.receipt is None else operation.receipt.timing(operation)
            timing = (b"server-timing: facade;dur=%.2f, %b\r\n" if rest else _FACADE_ALONE) % (1000 * duration_s, rest)
        parts[0] = b"%b%b%b%bdoug-request-id: %b\r\n\r\n" % (
            STATUS_LINE[status], self._default_lines, parts[0], timing, request.request_id,
        )  # fmt: skip
        metrics = self._metrics
        metrics.inflight -= 1
        metrics.request(request.method, status, request.mode.name, duration_s)
        return parts, keep_alive

    def _refused(self, request: HotRequest, error: ProblemError) -> tuple[int, list[bytes]]:
        content = problem.document(error)
        if request.operation is not None and not isinstance(error, DecidedError | BadRequestError):
            error.headers = (*error.headers, *of_operation(request.operation))
        return error.status, [_lines(problem.headers(error, content)), content]

    def _decided(self, request: HotRequest, result: ResultRecord) -> tuple[int, list[bytes]]:
        operation = request.operation
        assert operation is not None
        if result.status != Status.OK or result.expires_at_ms or result.content_encoding or result.replayed:
            return self._decided_with_more(request, operation, result)
        strong = operation.kind in LEADER_KINDS
        mode = LINEARIZABLE if strong else request.mode
        shown = _shard_lines(operation.shard, mode) + self._lines_of(operation, strong=strong)
        if request.method == "PUT":
            content = b'{"revision":"%d"}' % result.revision
            head = b'content-type: application/json\r\ncontent-length: %d\r\netag: "%d"\r\n%b' % (
                len(content), result.revision, shown,
            )  # fmt: skip
            return 200, [head, content]
        if request.method == "DELETE":
            return 204, [shown, b""]
        value = result.value
        if len(value) > HIGH_WATER_BYTES and self._front.unread.full_for(request.network):
            self._front.unread.refused += 1
            return self._refused(request, too_much_unread())
        head = b'%bcontent-length: %d\r\netag: "%d"\r\nvary: accept\r\n%b' % (
            _value_lines(shown_content_type(result)), len(value), result.revision, shown,
        )  # fmt: skip
        return 200, [head, value]

    def _lines_of(self, operation: Operation, *, strong: bool) -> bytes:
        """The header lines of an operation's receipt."""
        receipt = operation.receipt
        assert receipt is not None
        if operation.session is not None:
            return _lines(receipt.of(operation))
        if receipt is not self._receipt or strong is not self._strong:
            # All operations of a message have the same one.
            self._receipt, self._strong = receipt, strong
            self._receipt_lines = _lines(receipt.of(operation))
        return self._receipt_lines

    def _decided_with_more(
        self, request: HotRequest, operation: Operation, result: ResultRecord
    ) -> tuple[int, list[bytes]]:
        """The answer to an operation that has more to say than most: no value, an expiry, an encoding."""
        mode = request.mode if request.method == "GET" else LINEARIZABLE
        shown = receipt(operation, result, mode)
        error = problem_of(result, operation.shard, uncertain=operation.uncertain, shown=shown)
        if error is not None:
            return self._refused(request, error)
        if request.method == "DELETE":
            return 204, [_lines(shown), b""]
        tag = (b"etag", b'"%d"' % result.revision)
        if request.method == "PUT":
            content = b'{"revision":"%d"}' % result.revision
            return 200, [_lines((*_JSON, (b"content-length", b"%d" % len(content)), tag, *shown)), content]
        encoding: tuple[Header, ...] = ()
        if result.content_encoding and is_printable(result.content_encoding):
            encoding = ((b"content-encoding", result.content_encoding),)
        more = ((b"content-length", b"%d" % len(result.value)), *encoding, tag, (b"vary", b"accept"), *shown)
        return 200, [_value_lines(shown_content_type(result)) + _lines(more), result.value]


_JSON = ((b"content-type", b"application/json"),)


def of_future(future: asyncio.Future[ResultRecord]) -> ResultRecord | ProblemError:
    """The result of an operation that is over, or the error with which it ended."""
    error = future.exception()
    if error is None:
        return future.result()
    return error if isinstance(error, ProblemError) else UnexpectedError()
