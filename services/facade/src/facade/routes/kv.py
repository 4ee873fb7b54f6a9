"""The key routes ``/v1/kv/{key}``, as raw ASGI: this is the hot path, and a framework costs four times what it does.

Must not know gRPC or batches. Invariants: (1) every request is answered by its deadline; (2) every error is a problem
document; (3) a request that is not understood in full is refused before anything is proposed.

Source: DESIGN 7 and 8; performance.md, rule 3; docs/api.md.
"""

from __future__ import annotations

import base64
import functools
from collections.abc import Awaitable, Callable, MutableMapping
from time import perf_counter
from typing import Any

import orjson

from doug_wire.command import CONTENT_TYPE_BYTES_MAX, VALUE_BYTES_MAX, Opcode
from doug_wire.pipe import Status
from doug_wire.validity import is_printable
from facade.client.metrics import Metrics
from facade.client.modes import READ_MODES
from facade.client.operation import Headers
from facade.client.router import Router
from facade.errors import BadRequestError, ProblemError
from facade.routes import body as bodies
from facade.routes import problem
from facade.routes.target import consistency_of, key_of, wants_json
from facade.routes.values import guards
from facade.settings import Settings

Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

ALLOW = ((b"allow", b"GET, HEAD, PUT, DELETE"),)
DEFAULT_CONTENT_TYPE = b"application/octet-stream"
CLOSE = (b"connection", b"close")

CONDITIONS = (b"if-match", b"if-none-match", b"if-unmodified-since")

USED = {
    b"linearizable": (b"doug-consistency-used", b"linearizable"),
    b"eventual": (b"doug-consistency-used", b"eventual"),
}
LABELS = {b"linearizable": "linearizable", b"eventual": "eventual"}
METHODS = frozenset({"GET", "HEAD", "PUT", "DELETE"})


@functools.cache
def _shard_header(shard: int) -> tuple[bytes, bytes]:
    return (b"doug-shard", b"%d" % shard)


class KvApp:
    """The key routes."""

    def __init__(self, router: Router, metrics: Metrics, settings: Settings) -> None:
        self._router = router
        self._metrics = metrics
        self._body_timeout_s = settings.body_timeout_ms / 1000

    async def __call__(self, scope: Scope, receive: bodies.Receive, send: Send) -> None:
        """Serves one request."""
        started_s = perf_counter()
        method: str = scope["method"]
        label = "none"
        try:
            if method not in METHODS:
                raise BadRequestError("method_not_allowed", f"{method} on a key.", status=405, headers=ALLOW)
            key = key_of(scope["raw_path"])
            headers = dict(scope["headers"])
            consistency = consistency_of(scope["query_string"], headers.get(b"doug-consistency"))
            label = LABELS[consistency]
            if method == "PUT":
                status = await self._put(key, headers, receive, send)
            elif method == "DELETE":
                status = await self._delete(key, headers, send)
            else:
                status = await self._get(key, headers, consistency, send)
        except ProblemError as error:
            status = error.status
            if method not in METHODS:
                method = "other"
            await self._refuse(error, scope, send)
        except bodies.DisconnectedError:
            status = 499  # As nginx counts it; nobody reads the answer.
        self._metrics.request(method, status, label, perf_counter() - started_s)

    async def _refuse(self, error: ProblemError, scope: Scope, send: Send) -> None:
        content = problem.document(error)
        headers = problem.headers(error, content)
        if CLOSE not in headers and any(name == b"expect" for name, _ in scope["headers"]):
            headers.append(CLOSE)  # The body may never come, and nobody can tell it from the next request.
        await send({"type": "http.response.start", "status": error.status, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    async def _put(self, key: bytes, headers: dict[bytes, bytes], receive: bodies.Receive, send: Send) -> int:
        _refuse_conditions(headers)
        content_type = content_type_of(headers.get(b"content-type", b""))
        announced = headers.get(b"content-length")
        size = int(announced) if announced is not None else 0
        if size > VALUE_BYTES_MAX:
            raise bodies.too_large(VALUE_BYTES_MAX, size)
        self._router.check_room(key, size)
        value = await bodies.read(receive, VALUE_BYTES_MAX, self._body_timeout_s)
        operation = self._router.write(Opcode.PUT, key, content_type, value)
        del value
        result = await operation.future
        content = b'{"revision":"%d"}' % result.revision
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [
                    (b"content-type", b"application/json"),
                    (b"content-length", b"%d" % len(content)),
                    (b"etag", b'"%d"' % result.revision),
                    _shard_header(operation.shard),
                    USED[b"linearizable"],
                    *operation.receipt,
                ],
            }
        )
        await send({"type": "http.response.body", "body": content})
        return 200

    async def _delete(self, key: bytes, headers: dict[bytes, bytes], send: Send) -> int:
        _refuse_conditions(headers)
        operation = self._router.write(Opcode.DELETE, key)
        await operation.future
        await send(
            {
                "type": "http.response.start",
                "status": 204,
                "headers": [_shard_header(operation.shard), USED[b"linearizable"], *operation.receipt],
            }
        )
        await send({"type": "http.response.body", "body": b""})
        return 204

    async def _get(self, key: bytes, headers: dict[bytes, bytes], consistency: bytes, send: Send) -> int:
        operation = self._router.read(key, READ_MODES[consistency].kind)
        result = await operation.future
        shown: Headers = (_shard_header(operation.shard), USED[consistency], *operation.receipt)
        if result.status == Status.NOT_FOUND:
            raise BadRequestError("not_found", "The key does not exist.", status=404, headers=shown)
        content_type = result.content_type
        if not content_type or not is_printable(content_type):
            # Through gRPC anything can be stored, and a line break here would be a header of its own.
            content_type = DEFAULT_CONTENT_TYPE
        content = result.value
        if wants_json(headers.get(b"accept")):
            content = _json_view(key, content, content_type, result.revision)
            content_type = b"application/json"
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [
                    (b"content-type", content_type),
                    (b"content-length", b"%d" % len(content)),
                    (b"etag", b'"%d"' % result.revision),
                    (b"vary", b"accept"),
                    *guards(content_type),
                    *shown,
                ],
            }
        )
        await send({"type": "http.response.body", "body": content})
        return 200


def content_type_of(header: bytes) -> bytes:
    """The content type that is kept with a value.

    Raises:
        BadRequestError: It cannot be kept.
    """
    if len(header) > CONTENT_TYPE_BYTES_MAX or not is_printable(header):
        raise BadRequestError(
            "bad_content_type", f"The content type is not printable ASCII of at most {CONTENT_TYPE_BYTES_MAX} bytes."
        )
    return header


def _refuse_conditions(headers: dict[bytes, bytes]) -> None:
    """Refuses what is not kept yet, because a condition that is ignored loses an update."""
    for name in CONDITIONS:
        if name in headers:
            raise BadRequestError(
                "not_implemented", f"Conditional writes ({name.decode()}) are not implemented.", status=501
            )
    if b"idempotency-key" in headers:
        raise BadRequestError("not_implemented", "Idempotency keys are not implemented.", status=501)


def _json_view(key: bytes, value: bytes, content_type: bytes, revision: int) -> bytes:
    try:
        text, encoding = value.decode(), "utf-8"
    except UnicodeDecodeError:
        text, encoding = base64.b64encode(value).decode(), "base64"
    return orjson.dumps(
        {
            "key": key.decode(),
            "value": text,
            "encoding": encoding,
            "revision": str(revision),
            "content_type": content_type.decode(),
        }
    )
