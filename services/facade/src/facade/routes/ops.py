"""GET /v1/ops/{idempotency key}?for={key}: what became of a write that had an idempotency key.

Must not know gRPC. Invariant: ``unknown`` is said when the shard remembers nothing: then the write was not applied as
of now, or so long ago that it is forgotten.

Source: docs/api.md, Exactly-once writes.
"""

from __future__ import annotations

import orjson

from doug_wire import pipe
from doug_wire.pipe import PipeError, Status
from facade.client.metrics import Metrics
from facade.client.router import Router
from facade.errors import BadRequestError, InternalError
from facade.routes.key import unescape
from facade.routes.options import (
    OPERATION_KEY_MAX,
    Headers,
    check_key,
    decode_key64,
    parse_idempotency_key,
    parse_query,
)
from facade.routes.raw import JSON_TYPE, RawApp, RawRequest, check_acceptable
from facade.routes.results import answer_of, problem_of, receipt, timing

OPS_PREFIX = b"/v1/ops/"
PARAMETERS = frozenset({b"for", b"for64"})


def parse_for(query: bytes) -> bytes:
    """The key that the write was for.

    Raises:
        BadRequestError: None is named, or two.
    """
    found = parse_query(query, PARAMETERS)
    if len(found) != 1:
        raise BadRequestError("bad_request", "Name the key that the write was for: ?for=, or ?for64= in base64url.")
    if b"for64" in found:
        return decode_key64(found[b"for64"])
    key = check_key(found[b"for"])
    try:
        key.decode()
    except UnicodeDecodeError:
        raise BadRequestError("key_not_utf8", "The key in `for` is not valid UTF-8; for64 takes any bytes.") from None
    return key


class OpsApp(RawApp):
    """The route."""

    route = "/v1/ops/{key}"
    methods = frozenset({"GET"})

    def __init__(self, router: Router, metrics: Metrics) -> None:
        super().__init__(metrics)
        self._router = router

    async def serve(self, request: RawRequest) -> None:
        """See ``RawApp``."""
        check_acceptable(Headers(request.raw_headers).accept, JSON_TYPE)
        idempotency_key = parse_idempotency_key(
            unescape(request.raw_path[len(OPS_PREFIX) :], "idempotency key"), OPERATION_KEY_MAX
        )
        key = parse_for(request.query)
        operation = self._router.read_token(key, idempotency_key)
        result = await answer_of(operation)
        view: dict[str, object] = {"key": idempotency_key, "state": "unknown", "status": None, "revision": None}
        if result.status == Status.OK:
            try:
                (found,) = pipe.decode_results(result.value)
            except (PipeError, ValueError):
                raise InternalError("invalid_record", "A raft-node answered with something else.") from None
            problem = problem_of(found, operation.shard)
            view |= {
                "state": "applied",
                "status": 200 if problem is None else problem.status,
                "revision": str(found.revision),
            }
        await request.answer_json(200, orjson.dumps(view), (*receipt(operation, result), *timing(operation)))
