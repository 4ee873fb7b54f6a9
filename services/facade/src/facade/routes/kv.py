"""The key routes ``/v1/kv/{key}``, as raw ASGI: this is the hot path, and a framework costs four times what it does.

``GET``, ``HEAD``, ``PUT`` and ``DELETE`` of a key, and ``POST`` with an action behind it: ``/v1/kv/{key}:increment``
and ``:touch``. Of a POST alone, and only when its colon is not percent-encoded, the action is cut off; to every other
method ``k:increment`` is a key like any other. Keys that are not text are named by the query: ``/v1/kv?key64=``.

Must not know gRPC or batches. Invariants: (1) every request is answered by its deadline; (2) every error is a problem
document; (3) a request that is not understood in full is refused before anything is proposed.

Source: docs/api.md, Key routes.
"""

from __future__ import annotations

import orjson

from doug_wire.command import VALUE_BYTES_MAX, Opcode
from doug_wire.payload import encode_increment
from doug_wire.pipe import Status
from doug_wire.validity import is_printable
from facade.client.metrics import KEY_ROUTE, Metrics
from facade.client.router import Router
from facade.client.sessions import Session
from facade.errors import BadRequestError
from facade.routes import body as bodies
from facade.routes.conditions import Tags
from facade.routes.key import KEY_PREFIX, key_of
from facade.routes.options import (
    EXPIRING_PARAMETERS,
    WRITE_PARAMETERS,
    Headers,
    RequestOptions,
    check_content,
    parse_read,
    parse_write,
)
from facade.routes.raw import JSON_TYPE, RawApp, RawRequest, check_media_type
from facade.routes.results import answer_of, decided, etag, problem_of, receipt, shown_content_type, timing
from facade.routes.sessions import begin_session
from facade.routes.shapes import INCREMENT_BYTES_MAX, entry_view, parse_increment
from facade.routes.values import guards
from facade.routes.watch.long_poll import LongPolls
from facade.settings import Settings

INCREMENT, TOUCH = b":increment", b":touch"

_ACTIONS = (INCREMENT, TOUCH)


def action_of(raw_path: bytes) -> tuple[bytes, bytes]:
    """The action of a POST, and the path without it.

    Raises:
        BadRequestError: There is none.
    """
    for action in _ACTIONS:
        if raw_path.endswith(action):
            return action, raw_path[: -len(action)]
    raise BadRequestError(
        "method_not_allowed",
        "A POST to a key needs an action: :increment or :touch.",
        status=405,
        headers=((b"allow", b"DELETE, GET, HEAD, PUT"),),
    )


class KvApp(RawApp):
    """The key routes."""

    route = KEY_ROUTE
    methods = frozenset({"GET", "HEAD", "PUT", "DELETE", "POST"})

    def __init__(self, router: Router, metrics: Metrics, settings: Settings, polls: LongPolls) -> None:
        super().__init__(metrics)
        self._router = router
        self._polls = polls
        self._body_timeout_s = settings.body_timeout_ms / 1000

    def methods_at(self, raw_path: bytes) -> frozenset[str]:
        """See ``RawApp``: a POST needs an action."""
        return self.methods if raw_path.endswith(_ACTIONS) else self.methods - {"POST"}

    async def serve(self, request: RawRequest) -> None:
        """See ``RawApp``."""
        method, raw_path = request.method, request.raw_path
        headers = Headers(request.raw_headers)
        action = b""
        if method in ("GET", "HEAD"):
            options = parse_read(request.query, headers)
        elif method == "POST":
            action, raw_path = action_of(raw_path)
            options = parse_write(request.query, headers, EXPIRING_PARAMETERS, may_keep=action is INCREMENT)
        else:
            parameters = EXPIRING_PARAMETERS if method == "PUT" else WRITE_PARAMETERS
            options = parse_write(request.query, headers, parameters)
        key = _key(raw_path, options)
        request.label = options.asked.mode.name
        session = await begin_session(self._router, options)
        if method in ("GET", "HEAD"):
            if options.wait is not None:
                known = await self._polls.until_changed(
                    key, options.wait.after, options.wait.wait_ms / 1000, request.receive, lambda: request.stopping
                )
                if known:
                    options = options._replace(unless=Tags(frozenset((known,))))
            await self._get(key, options, session, request)
        elif method == "PUT":
            await self._put(key, options, session, headers, request)
        elif method == "DELETE":
            await self._delete(key, options, session, request)
        elif action is INCREMENT:
            await self._increment(key, options, session, headers, request)
        else:
            await self._touch(key, options, session, request)

    async def _put(
        self, key: bytes, options: RequestOptions, session: Session | None, headers: Headers, request: RawRequest
    ) -> None:
        if headers.content_range is not None:
            raise BadRequestError("bad_request", "A PUT replaces the whole value; Content-Range is refused.")
        content_type, content_encoding = check_content(headers.content_type, headers.content_encoding)
        value = await self._read_value(key, headers, request)
        operation = self._router.write(
            Opcode.PUT,
            key,
            content_type,
            value,
            options.condition,
            options.ttl,
            content_encoding,
            options.idempotency_key,
        )
        del value
        operation.session = session
        result, shown = await decided(operation)
        await request.answer_json(200, b'{"revision":"%d"}' % result.revision, (etag(result.revision), *shown))

    async def _read_value(self, key: bytes, headers: Headers, request: RawRequest) -> bytes:
        announced = headers.content_length
        size = int(announced) if announced is not None else 0
        if size > VALUE_BYTES_MAX:
            raise bodies.too_large(VALUE_BYTES_MAX, size)
        self._router.check_room(key, size)
        return await bodies.read(request.receive, VALUE_BYTES_MAX, self._body_timeout_s)

    async def _delete(self, key: bytes, options: RequestOptions, session: Session | None, request: RawRequest) -> None:
        operation = self._router.write(
            Opcode.DELETE, key, condition=options.condition, idempotency_key=options.idempotency_key
        )
        operation.session = session
        _, shown = await decided(operation)
        await request.answer(204, shown)

    async def _increment(
        self, key: bytes, options: RequestOptions, session: Session | None, headers: Headers, request: RawRequest
    ) -> None:
        if headers.content_type is not None:
            check_media_type(headers.content_type, (JSON_TYPE,))
        content = await bodies.read(request.receive, INCREMENT_BYTES_MAX, self._body_timeout_s)
        by, initial = parse_increment(bodies.parse_json(content) if content.strip() else {})
        operation = self._router.write(
            Opcode.INCREMENT,
            key,
            b"",
            encode_increment(by, initial),
            options.condition,
            options.ttl,
            b"",
            options.idempotency_key,
        )
        operation.session = session
        result, shown = await decided(operation)
        answer = b'{"value":"%b","revision":"%d"}' % (result.value, result.revision)
        await request.answer_json(200, answer, (etag(result.revision), *shown))

    async def _touch(self, key: bytes, options: RequestOptions, session: Session | None, request: RawRequest) -> None:
        if not options.ttl:
            raise BadRequestError("bad_ttl", "A touch needs ?ttl=, as in ?ttl=30s.")
        operation = self._router.write(
            Opcode.TOUCH,
            key,
            condition=options.condition,
            ttl=options.ttl,
            idempotency_key=options.idempotency_key,
        )
        operation.session = session
        result, shown = await decided(operation)
        await request.answer_json(200, b'{"revision":"%d"}' % result.revision, (etag(result.revision), *shown))

    async def _get(self, key: bytes, options: RequestOptions, session: Session | None, request: RawRequest) -> None:
        mode, bound_ms = options.asked
        operation = self._router.read(key, mode, session=session, bound_ms=bound_ms)
        result = await answer_of(operation)
        shown = (*receipt(operation, result, mode), *timing(operation))
        exists = result.status != Status.NOT_FOUND
        if options.only_if is not None and not options.only_if.match(result.revision if exists else 0):
            failed = result._replace(status=Status.PRECONDITION_FAILED, revision=result.revision if exists else 0)
            problem = problem_of(failed, operation.shard, shown=shown)
        else:
            problem = problem_of(result, operation.shard, shown=shown)
        if problem is not None:
            raise problem
        tagged = (etag(result.revision), (b"vary", b"accept"), *shown)
        if options.unless is not None and options.unless.match(result.revision):
            await request.answer(304, tagged)
            return
        content_type, content = shown_content_type(result), result.value
        if options.as_json:
            content = orjson.dumps(entry_view(key, result, content_type))
            content_type = JSON_TYPE
        elif result.content_encoding and is_printable(result.content_encoding):
            tagged = ((b"content-encoding", result.content_encoding), *tagged)
        await request.answer(
            200,
            (
                (b"content-type", content_type),
                (b"content-length", b"%d" % len(content)),
                *guards(content_type),
                *tagged,
            ),
            content,
        )


def _key(raw_path: bytes, options: RequestOptions) -> bytes:
    """The key that a request names, in its path or in its query.

    Raises:
        BadRequestError: Both name one, or neither does, or it is none.
    """
    if options.key is None:
        return key_of(raw_path)
    if raw_path != KEY_PREFIX:
        raise BadRequestError("bad_key64", "The key is named twice: by the path and by key64.")
    return options.key
