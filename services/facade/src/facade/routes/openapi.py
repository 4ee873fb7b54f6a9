"""The routes of keys in OpenAPI, and the whole document: FastAPI sees only its own routes, and few of their problems.

Must not know how the routes work. Invariant: they behave as it is declared here; a test compares both.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from facade.models import Problem, RangeDeletedView, RangeView, ValueView, WrittenView
from facade.routes.openapi_examples import add_examples
from facade.routes.openapi_operations import CONDITIONS, IDEMPOTENCY, MODELS, TTL, action_routes, request_routes
from facade.routes.openapi_problems import add_problems, operations
from facade.routes.openapi_ranges import FRESHNESS, RANGE_PATH, range_routes
from facade.routes.openapi_streams import stream_routes

Json = dict[str, Any]

KEY_PATH = "/v1/kv/{key}"

_RECEIPT = {
    "Doug-Shard": "The shard that owns the key.",
    "Doug-Served-By": "The node that answered.",
    "Doug-Consistency-Used": "The consistency of this answer.",
    "Doug-Staleness-Ms": "How old the answer can be at most, in milliseconds; absent where it is not proven.",
    "Doug-Session": "Everything that the client has seen and written; sent with a read, the answer contains all of it.",
    "Doug-Role": "The node's role: leader, follower, candidate, pre-candidate or learner.",
    "Doug-Term": "The node's term.",
    "Doug-Applied-Index": "The log index up to which the node had applied its log.",
    "Server-Timing": "How long each part took, in milliseconds: facade, route, append, fsync, quorum, apply, read.",
}
_RECEIPT_OF_MANY = {
    "Doug-Shard": "The shards that were asked. A list; the next four headers have one member for each of its members.",
    "Doug-Served-By": "The nodes that answered; in a stream of results those that gave the first of them.",
    "Doug-Role": "The nodes' roles: leader or follower.",
    "Doug-Term": "The nodes' terms.",
    "Doug-Applied-Index": "The log indexes up to which the nodes had applied their logs.",
    "Doug-Consistency-Used": _RECEIPT["Doug-Consistency-Used"],
    "Doug-Staleness-Ms": _RECEIPT["Doug-Staleness-Ms"],
    "Doug-Session": _RECEIPT["Doug-Session"],
    "Server-Timing": _RECEIPT["Server-Timing"],
}
_VALUE = {
    "Content-Encoding": "The encoding with which the value was stored; absent if none.",
    "Doug-Expires-At": "When the key expires; absent if it does not.",
    "Vary": "Accept: this header decides between the value and its JSON view.",
    "X-Content-Type-Options": "nosniff: browsers must not guess another content type.",
}
_REPLAYED = {"Idempotency-Replayed": "true: the answer to an earlier request with the same Idempotency-Key."}
_EXPIRES = {"Doug-Expires-At": "When the key expires; absent if it does not."}
_ETAG = {"ETag": "The key's revision, quoted."}

_KEY: Json = {
    "name": "key",
    "in": "path",
    "required": True,
    "description": "UTF-8, percent-encoded, 1 to 1024 bytes once decoded. / and %2F are the same byte.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 1024},
}
_KEY64: Json = {
    "name": "key64",
    "in": "query",
    "required": True,
    "description": "A key of any 1 to 1024 bytes, in base64url",
    "schema": {"type": "string", "pattern": "^([A-Za-z0-9_-]{4}){1,340}$"},
}
_WAITING: list[Json] = [
    {
        "name": "wait",
        "in": "query",
        "description": "Answer once the key has another revision than after, or after this time (30s); at most 10m",
        "schema": {"type": "string", "pattern": "^([1-9][0-9]{0,2}(ms|s|))$"},
    },
    {
        "name": "after",
        "in": "query",
        "description": "With wait: the revision that the client knows, 0 for no key; if left out, the present one",
        "schema": {"type": "string", "pattern": "^[0-9]{1,18}$"},
    },
]
_PARAMETERS: list[Json] = FRESHNESS

_LOOKS: list[Json] = [
    {
        "name": name,
        "in": "header",
        "description": text,
        "schema": {"type": "string", "pattern": r'^(\*|"[0-9]{1,19}"(, "[0-9]{1,19}")*)$'},
    }
    for name, text in (
        ("If-Match", "ETags, or *: 412 unless one of them is the key's"),
        ("If-None-Match", "ETags, or *: 304 if one of them is the key's"),
    )
]


def _headers(described: dict[str, str]) -> Json:
    return {name: {"description": text, "schema": {"type": "string"}} for name, text in described.items()}


def _bytes() -> Json:
    """Bytes of any type. The first type is one that every generator of clients can send and receive."""
    content: Json = {"schema": {"type": "string", "format": "binary"}}
    return {"application/octet-stream": content, "*/*": content}


def _read(name: str, *, body: bool) -> Json:
    summary = "Read a value" if body else "Read a value's headers"
    ok: Json = {"description": "The value", "headers": _headers(_RECEIPT | _ETAG | _VALUE)}
    if body:
        stored = {"description": "With Accept: application/json the JSON view; otherwise the stored JSON value"}
        view: Json = {"anyOf": [{"$ref": "#/components/schemas/ValueView"}, stored]}
        ok["content"] = _bytes() | {"application/json": {"schema": view}}
    return {
        "operationId": name,
        "summary": summary,
        "tags": ["keys"],
        "parameters": [*_PARAMETERS, *_WAITING, *_LOOKS],
        "responses": {
            "200": ok,
            "304": {"description": "If-None-Match names the key's revision", "headers": _headers(_RECEIPT | _ETAG)},
        },
    }


def _put(name: str) -> Json:
    return {
        "operationId": name,
        "summary": "Write a value of at most 1 MiB; its content type is kept with it",
        "tags": ["keys"],
        "parameters": [*_PARAMETERS, TTL, *CONDITIONS, IDEMPOTENCY],
        "requestBody": {"required": True, "content": _bytes()},
        "responses": {"200": _written()},
    }


def _key_routes() -> Json:
    """Every route of one key, whether its path or ``key64`` names it."""
    increment, touch = action_routes(_PARAMETERS, _written())
    delete: Json = {
        "operationId": "delete_key",
        "summary": "Delete a key, whether or not it exists",
        "tags": ["keys"],
        "parameters": [*_PARAMETERS, *CONDITIONS, IDEMPOTENCY],
        "responses": {"204": {"description": "Deleted", "headers": _headers(_RECEIPT | _REPLAYED)}},
    }
    increment64, touch64 = action_routes([_KEY64, *_PARAMETERS], _written(), "key64")
    put64 = _put("put_key64")
    put64["parameters"] = [_KEY64, *put64["parameters"]]
    return {
        KEY_PATH: {
            "parameters": [_KEY],
            "get": _read("get_key", body=True),
            "head": _read("head_key", body=False),
            "put": _put("put_key"),
            "delete": delete,
        },
        f"{KEY_PATH}:increment": {"parameters": [_KEY], "post": increment},
        f"{KEY_PATH}:touch": {"parameters": [_KEY], "post": touch},
        RANGE_PATH: range_routes(_headers(_RECEIPT_OF_MANY)) | {"put": put64},
        f"{RANGE_PATH}:increment": {"post": increment64},
        f"{RANGE_PATH}:touch": {"post": touch64},
    }


def _written() -> Json:
    return {
        "description": "The value is on the disks of a majority of the shard's nodes",
        "headers": _headers(_RECEIPT | _ETAG | _REPLAYED | _EXPIRES),
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/WrittenView"}}},
    }


def _schema(model: type[BaseModel]) -> Json:
    """The schema of a body; the schemas to which it refers are components, too."""
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    schema.pop("$defs", None)
    return schema


def _drop_guesses(document: Json) -> None:
    """Removes FastAPI's answers to invalid requests, which are answered with problem documents as all others are."""
    for _, _, operation in operations(document):
        invalid = operation["responses"].get("422", {}).get("content", {}).get("application/json", {})
        if invalid.get("schema", {}).get("$ref", "").endswith("/HTTPValidationError"):
            del operation["responses"]["422"]
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(name, None)


def _add_heads(document: Json) -> None:
    """Describes HEAD wherever GET is (``facade.app.methods``)."""
    for item in document["paths"].values():
        if "get" in item and "head" not in item:
            get: Json = item["get"]
            name = get["operationId"].removeprefix("get_")
            bodiless = {
                status: {key: value for key, value in response.items() if key != "content"}
                for status, response in get["responses"].items()
            }
            summary = f"{get['summary'].rstrip('.')}; only the headers"
            item["head"] = get | {"operationId": f"head_{name}", "summary": summary, "responses": bodiless}


def install(app: FastAPI) -> None:
    """Adds the routes that FastAPI does not see, and all problems, to what ``app.openapi()`` returns."""
    plain = app.openapi

    def openapi() -> Json:
        if app.openapi_schema is None or KEY_PATH not in app.openapi_schema["paths"]:
            document = plain()
            requests = request_routes(_PARAMETERS, _headers(_RECEIPT_OF_MANY), _headers(_RECEIPT | _REPLAYED))
            document["paths"] = _key_routes() | requests | stream_routes() | document["paths"]
            schemas = document.setdefault("components", {}).setdefault("schemas", {})
            for model in (Problem, ValueView, WrittenView, RangeView, RangeDeletedView, *MODELS):
                schemas[model.__name__] = _schema(model)
            _drop_guesses(document)
            _add_heads(document)
            add_problems(document)
            add_examples(document)
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # The documented way to extend FastAPI's schema.
