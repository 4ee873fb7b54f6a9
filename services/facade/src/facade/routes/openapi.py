"""The key routes in OpenAPI: FastAPI does not see them, because they are raw ASGI.

Must not know how they work. Invariant: what is declared here is what ``facade.routes.kv`` does; a test compares both.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from facade.models import Problem, RangeDeletedView, RangeView, ValueView, WrittenView
from facade.routes import problem
from facade.routes.openapi_operations import CONDITIONS, IDEMPOTENCY, MODELS, TTL, action_routes, request_routes
from facade.routes.openapi_ranges import FRESHNESS, RANGE_PATH, range_routes

Json = dict[str, Any]

KEY_PATH = "/v1/kv/{key}"

_RECEIPT = {
    "Doug-Shard": "The shard that owns the key.",
    "Doug-Served-By": "The node that answered.",
    "Doug-Consistency-Used": "The consistency of this answer.",
    "Doug-Staleness-Ms": "How old the answer can be at most, in milliseconds; absent where it is not proven.",
    "Doug-Session": "What the client has seen and written by now; sent back, any replica serves it all of that.",
    "Doug-Role": "What the node was: leader or follower.",
    "Doug-Term": "The node's term.",
    "Doug-Applied-Index": "How far the node had applied its log.",
    "Server-Timing": "Where the time went, in milliseconds: facade, route, append, fsync, quorum, apply, read.",
}
_ETAG = {"ETag": "The key's revision, quoted."}

_KEY: Json = {
    "name": "key",
    "in": "path",
    "required": True,
    "description": "UTF-8, percent-encoded, 1 to 1024 bytes once decoded. / and %2F are the same byte.",
    "schema": {"type": "string", "minLength": 1},
}
_PARAMETERS: list[Json] = FRESHNESS

_LOOKS: list[Json] = [
    {
        "name": name,
        "in": "header",
        "description": text,
        "schema": {"type": "string", "pattern": r'^(\*|"[0-9]{1,19}"(, "[0-9]{1,19}")*)$'},
    }
    for name, text in (
        ("If-Match", "ETags, or *: 412 unless one is the key's"),
        ("If-None-Match", "ETags, or *: 304 if one is the key's"),
    )
]


def _headers(described: dict[str, str]) -> Json:
    return {name: {"description": text, "schema": {"type": "string"}} for name, text in described.items()}


def _problem(description: str) -> Json:
    schema = {"$ref": "#/components/schemas/Problem"}
    return {"description": description, "content": {"application/problem+json": {"schema": schema}}}


def _errors(*, write: bool) -> Json:
    after = "Sent and not answered: outcome unknown" if write else "Sent and not answered in time"
    return {
        "400": _problem("The request is wrong; nothing was changed"),
        "429": _problem("The client asks for more than its part: outcome not_applied, see Retry-After"),
        "500": _problem("A raft-node called the record malformed; nothing was changed"),
        "503": _problem("Refused before it was proposed: outcome not_applied, see Retry-After"),
        "504": _problem(after),
    }


_DECIDED = {
    "409": _problem("The idempotency key is too old; outcome unknown"),
    "412": _problem("The condition does not hold; nothing was changed"),
    "422": _problem("Another request has used the idempotency key; nothing was changed"),
    "501": _problem("If-Unmodified-Since, or nodes that do not know the operation"),
    "507": _problem("A disk is full, or no more idempotency keys can be kept; nothing was changed"),
}


def _bytes(schema: Json) -> Json:
    return {"*/*": {"schema": schema}}


def _read(summary: str, *, body: bool) -> Json:
    ok: Json = {"description": "The value", "headers": _headers(_RECEIPT | _ETAG)}
    if body:
        view = {"$ref": "#/components/schemas/ValueView"}
        ok["content"] = _bytes({"type": "string", "format": "binary"}) | {"application/json": {"schema": view}}
    return {
        "summary": summary,
        "tags": ["keys"],
        "parameters": [*_PARAMETERS, *_LOOKS],
        "responses": {
            "200": ok,
            "304": {"description": "If-None-Match has the key's revision", "headers": _headers(_RECEIPT | _ETAG)},
            "404": _problem("No such key"),
            "412": _problem("If-Match does not have the key's revision"),
        }
        | _errors(write=False),
    }


def _key_routes() -> Json:
    return {
        "parameters": [_KEY],
        "get": _read("Read a value", body=True) | {"operationId": "get_key"},
        "head": _read("Read a value's headers", body=False) | {"operationId": "head_key"},
        "put": {
            "operationId": "put_key",
            "summary": "Write a value of at most 1 MiB; its content type is kept",
            "tags": ["keys"],
            "parameters": [*_PARAMETERS, TTL, *CONDITIONS, IDEMPOTENCY],
            "requestBody": {"required": True, "content": _bytes({"type": "string", "format": "binary"})},
            "responses": {
                "200": _written(),
                "408": _problem("The body did not arrive in time"),
                "413": _problem("The value is larger than 1 MiB"),
            }
            | _errors(write=True)
            | _DECIDED,
        },
        "delete": {
            "operationId": "delete_key",
            "summary": "Delete a key, whether or not it exists",
            "tags": ["keys"],
            "parameters": [*_PARAMETERS, *CONDITIONS, IDEMPOTENCY],
            "responses": {"204": {"description": "Deleted", "headers": _headers(_RECEIPT)}}
            | _errors(write=True)
            | _DECIDED,
        },
    }


def _written() -> Json:
    return {
        "description": "Written to a majority of the shard's disks",
        "headers": _headers(_RECEIPT | _ETAG),
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/WrittenView"}}},
    }


def _schema(model: type[BaseModel]) -> Json:
    """The schema of a body; those that it refers to are components too."""
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    schema.pop("$defs", None)
    return schema


def _tell_problems(paths: Json) -> None:
    """Declares the errors of FastAPI's routes as they are sent: as problem documents, and 400 where it says 422."""
    for operations in paths.values():
        for operation in operations.values():
            responses = operation.get("responses", {}) if isinstance(operation, dict) else {}
            invalid = responses.get("422", {}).get("content", {}).get("application/json", {})
            if invalid.get("schema", {}).get("$ref", "").endswith("/HTTPValidationError"):
                del responses["422"]
                responses.setdefault("400", _problem("The request is wrong"))
            for response in responses.values():
                content = response.get("content", {})
                schema = content.get("application/json", {}).get("schema", {})
                if schema.get("$ref", "").endswith("/Problem"):
                    content[problem.MEDIA_TYPE] = content.pop("application/json")


def install(app: FastAPI) -> None:
    """Adds the key routes to what ``app.openapi()`` returns."""
    plain = app.openapi

    def openapi() -> Json:
        if app.openapi_schema is None or KEY_PATH not in app.openapi_schema["paths"]:
            document = plain()
            document["paths"] = {
                KEY_PATH: _key_routes(),
                RANGE_PATH: range_routes(_errors(write=False), _errors(write=True)),
                **action_routes(_KEY, _PARAMETERS, _written(), _errors(write=True), _problem),
                **request_routes(_PARAMETERS, _errors(write=True), _errors(write=False), _problem),
            } | document["paths"]
            schemas = document.setdefault("components", {}).setdefault("schemas", {})
            for model in (Problem, ValueView, WrittenView, RangeView, RangeDeletedView, *MODELS):
                schemas[model.__name__] = _schema(model)
            _tell_problems(document["paths"])
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # The documented way to extend FastAPI's schema.
