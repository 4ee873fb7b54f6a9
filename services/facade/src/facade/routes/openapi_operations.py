"""Increment, touch, batches, transactions and ``/v1/ops`` in OpenAPI: FastAPI does not see them, for they are raw ASGI.

Must not know how they work. Invariant: what is declared here is what the routes do; a test has every route and every
parameter.
"""

from __future__ import annotations

from typing import Any

from facade.models import (
    BatchRequest,
    BatchView,
    CompareRequest,
    CountedView,
    IncrementRequest,
    OperationRequest,
    OperationStateView,
    ResultView,
    TxnRequest,
    TxnView,
)
from facade.routes.options import OPERATION_KEY_MAX

Json = dict[str, Any]

MODELS = (
    OperationRequest,
    BatchRequest,
    ResultView,
    BatchView,
    CompareRequest,
    TxnRequest,
    TxnView,
    IncrementRequest,
    CountedView,
    OperationStateView,
)
"""The models whose schemas these routes refer to."""

NDJSON = "application/x-ndjson"

_FOR: Json = {"type": "string", "minLength": 1, "maxLength": 1024}
_FOR64: Json = {"type": "string", "pattern": "^([A-Za-z0-9_-]{4}){1,340}$"}
IDEMPOTENCY: Json = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "With this key the request is carried out once, however often it is sent. A UUIDv7 is best",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[ -~]+$"},
}
CONDITIONS: list[Json] = [
    {
        "name": "If-Match",
        "in": "header",
        "description": "An ETag, or * for any existing key: nothing is changed unless the key has it",
        "schema": {"type": "string", "pattern": r'^(\*|"[0-9]{1,19}")$'},
    },
    {
        "name": "If-None-Match",
        "in": "header",
        "description": "*: nothing is changed if the key exists",
        "schema": {"type": "string", "enum": ["*"]},
    },
]
TTL: Json = {
    "name": "ttl",
    "in": "query",
    "description": "The time until the key expires: 30 (seconds), 30s, 500ms, 5m, 2h, 7d; keep: the present expiry",
    "schema": {"type": "string", "pattern": "^([1-9][0-9]{0,8}(ms|s|m|)|keep)$"},
}
TOUCH_TTL: Json = TTL | {"required": True, "schema": {"type": "string", "pattern": "^[1-9][0-9]{0,8}(ms|s|m|)$"}}


def _ref(model: type) -> Json:
    return {"$ref": f"#/components/schemas/{model.__name__}"}


def _json(model: type) -> Json:
    return {"application/json": {"schema": _ref(model)}}


def _lines(model: type) -> Json:
    described = {"type": "string", "description": f"A {model.__name__} in each line"}
    return {NDJSON: {"schema": described}}


def action_routes(parameters: list[Json], written: Json, name: str = "key") -> tuple[Json, Json]:
    """``POST`` with ``:increment`` and with ``:touch`` behind a key.

    Args:
        parameters: Those of every key route.
        written: The answer to a write.
        name: What the names of the operations end with.
    """
    increment: Json = {
        "operationId": f"increment_{name}",
        "summary": "Add to a decimal number of 64 bits, atomically",
        "tags": ["keys"],
        "parameters": [*parameters, TTL, *CONDITIONS, IDEMPOTENCY],
        "requestBody": {"required": False, "content": _json(IncrementRequest)},
        "responses": {"200": written | {"content": _json(CountedView)}},
    }
    touch: Json = {
        "operationId": f"touch_{name}",
        "summary": "Set another expiry without a change of the value",
        "tags": ["keys"],
        "parameters": [*parameters, TOUCH_TTL, *CONDITIONS, IDEMPOTENCY],
        "responses": {"200": written},
    }
    return increment, touch


def request_routes(consistency: list[Json], of_many: Json, of_one: Json) -> Json:
    """``/v1/batch``, ``/v1/txn`` and ``/v1/ops/{key}``.

    Args:
        consistency: The parameters that say how new reads must be.
        of_many: The headers that name the nodes that answered.
        of_one: The headers that name the node that answered, and tell a replay.
    """
    batch: Json = {
        "operationId": "batch",
        "summary": "Carry out many operations, independently of each other; each has its own result",
        "tags": ["keys"],
        "parameters": [*consistency, IDEMPOTENCY],
        "requestBody": {"required": True, "content": _json(BatchRequest) | _lines(OperationRequest)},
        "responses": {
            "200": {
                "description": "One result for each operation, in the order of the operations",
                "headers": of_many,
                "content": _json(BatchView) | _lines(ResultView),
            }
        },
    }
    txn: Json = {
        "operationId": "transact",
        "summary": "Compare, then do all of some operations or all of others, in one shard",
        "tags": ["keys"],
        "parameters": [*consistency, IDEMPOTENCY],
        "requestBody": {"required": True, "content": _json(TxnRequest)},
        "responses": {
            "200": {
                "description": "The transaction was carried out; succeeded tells which operations",
                "headers": of_one,
                "content": _json(TxnView),
            }
        },
    }
    ops: Json = {
        "operationId": "get_operation",
        "summary": "Read the outcome of a write that had an idempotency key",
        "tags": ["keys"],
        "parameters": [
            {"name": "for", "in": "query", "description": "The key that was written", "schema": _FOR},
            {"name": "for64", "in": "query", "description": "The key that was written, in base64url", "schema": _FOR64},
        ],
        "responses": {
            "200": {"description": "The outcome, as the key's shard keeps it", "content": _json(OperationStateView)}
        },
    }
    path_key: Json = IDEMPOTENCY | {
        "name": "key",
        "in": "path",
        "required": True,
        "description": "The idempotency key; of a write of a batch the batch's, / and the write's place",
        "schema": IDEMPOTENCY["schema"] | {"maxLength": OPERATION_KEY_MAX},
    }
    return {
        "/v1/batch": {"post": batch},
        "/v1/txn": {"post": txn},
        "/v1/ops/{key}": {"parameters": [path_key], "get": ops},
    }
