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
"""The shapes that are referred to."""

NDJSON = "application/x-ndjson"

IDEMPOTENCY: Json = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "Makes the request happen once, however often it is sent. A UUIDv7 is best",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[ -~]+$"},
}
CONDITIONS: list[Json] = [
    {
        "name": "If-Match",
        "in": "header",
        "description": "An ETag, or * for any: nothing happens unless it is the key's",
        "schema": {"type": "string", "pattern": r'^(\*|"[0-9]{1,19}")$'},
    },
    {
        "name": "If-None-Match",
        "in": "header",
        "description": "*: nothing happens if the key exists",
        "schema": {"type": "string", "enum": ["*"]},
    },
]
TTL: Json = {
    "name": "ttl",
    "in": "query",
    "description": "30, 30s, 500ms, 5m, 2h, 7d; keep for what the key has",
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


def action_routes(key: Json, parameters: list[Json], written: Json, errors: Json, problem: Any) -> Json:
    """``POST /v1/kv/{key}:increment`` and ``:touch``.

    Args:
        key: The parameter of the path.
        parameters: Those of every key route.
        written: The answer to a write.
        errors: The errors of every write.
        problem: Makes a response of a description.
    """
    decided = {
        "412": problem("The condition does not hold; nothing was changed"),
        "422": problem("Another request has used the idempotency key"),
        "507": problem("A disk is full, or no more idempotency keys can be kept"),
    }
    increment: Json = {
        "operationId": "increment_key",
        "summary": "Add to a decimal number of 64 bits",
        "tags": ["keys"],
        "parameters": [*parameters, TTL, *CONDITIONS, IDEMPOTENCY],
        "requestBody": {"required": False, "content": _json(IncrementRequest)},
        "responses": {
            "200": written | {"content": _json(CountedView)},
            "408": problem("The body did not arrive in time"),
            "409": problem("It is not a number, or would not fit into 64 bits; or the idempotency key is too old"),
            "413": problem("The body is too large"),
            "415": problem("The body is not JSON"),
        }
        | errors
        | decided,
    }
    touch: Json = {
        "operationId": "touch_key",
        "summary": "Set another expiry, and leave the value as it is",
        "tags": ["keys"],
        "parameters": [*parameters, TOUCH_TTL, *CONDITIONS, IDEMPOTENCY],
        "responses": {
            "200": written,
            "404": problem("No such key"),
            "409": problem("The idempotency key is too old"),
        }
        | errors
        | decided,
    }
    return {
        "/v1/kv/{key}:increment": {"parameters": [key], "post": increment},
        "/v1/kv/{key}:touch": {"parameters": [key], "post": touch},
    }


def request_routes(consistency: list[Json], errors: Json, read_errors: Json, problem: Any) -> Json:
    """``/v1/batch``, ``/v1/txn`` and ``/v1/ops/{key}``.

    Args:
        consistency: The parameters that say how new reads must be.
        errors: The errors of every write.
        read_errors: Those of every read.
        problem: Makes a response of a description.
    """
    body = {
        "406": problem("Accept leaves no room for the answer"),
        "408": problem("The body did not arrive in time"),
        "411": problem("There is no body"),
        "413": problem("The body, or something in it, is too large"),
        "415": problem("The body is of another type"),
    }
    batch: Json = {
        "operationId": "batch",
        "summary": "Carry out many operations; each is answered as if alone",
        "tags": ["keys"],
        "parameters": [*consistency, IDEMPOTENCY],
        "requestBody": {"required": True, "content": _json(BatchRequest) | _lines(OperationRequest)},
        "responses": {
            "200": {
                "description": "A result for each operation, in their order",
                "content": _json(BatchView) | _lines(ResultView),
            }
        }
        | errors
        | body,
    }
    txn: Json = {
        "operationId": "transact",
        "summary": "Compare, then do all of some operations or all of others, in one shard",
        "tags": ["keys"],
        "parameters": [*consistency, IDEMPOTENCY],
        "requestBody": {"required": True, "content": _json(TxnRequest)},
        "responses": {
            "200": {"description": "It was carried out", "content": _json(TxnView)},
            "404": problem("An operation within it found no key; nothing was changed"),
            "409": problem("An operation within it cannot be; nothing was changed. Or the idempotency key is too old"),
            "412": problem("The condition of an operation within it does not hold; nothing was changed"),
            "422": problem("The keys belong to several shards; or the idempotency key to another request"),
            "507": problem("A disk is full, or no more idempotency keys can be kept"),
        }
        | errors
        | body,
    }
    ops: Json = {
        "operationId": "get_operation",
        "summary": "What became of a write that had an idempotency key",
        "tags": ["keys"],
        "parameters": [
            {"name": "for", "in": "query", "description": "The key it was for", "schema": {"type": "string"}},
            {"name": "for64", "in": "query", "description": "The same in base64url", "schema": {"type": "string"}},
        ],
        "responses": {
            "200": {"description": "What the shard remembers", "content": _json(OperationStateView)},
            "406": body["406"],
        }
        | read_errors,
    }
    path_key: Json = IDEMPOTENCY | {"name": "key", "in": "path", "required": True, "description": "The idempotency key"}
    return {
        "/v1/batch": {"post": batch},
        "/v1/txn": {"post": txn},
        "/v1/ops/{key}": {"parameters": [path_key], "get": ops},
    }
