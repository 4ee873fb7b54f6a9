"""Which problems every operation can be answered with: statuses, codes, headers and an example of each, in OpenAPI.

The codes of an answer are the names of its examples: whoever reads the document learns them from there, and so does
what sends requests and looks for a code that is not named (``tools/api/checks.py``). Must not know how routes work.

Invariants:
    1. Every problem of every operation is told as ``application/problem+json``, with the codes that it can have.
    2. Every answer has ``Doug-Request-Id``.

Source: RFC 9457; docs/api.md, Errors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Any

from facade.routes.problem import MEDIA_TYPE, TITLES, TYPE_PREFIX

Json = dict[str, Any]
Codes = Mapping[int, tuple[str, ...]]

METHODS = ("get", "head", "put", "post", "patch", "delete")

WHAT = {
    400: "The request is wrong; nothing was changed",
    401: "The sender is not authenticated; nothing was changed",
    403: "The sender may not do this, or the request comes from a page of another site; nothing was changed",
    404: "The key, shard or other resource does not exist; nothing was changed",
    405: "The path does not have this method; Allow names its methods",
    406: "Accept does not allow the type of the answer",
    408: "The request did not arrive in time; nothing was changed",
    409: "The request contradicts the present state; nothing was changed",
    410: "The changes after this position are not kept any more",
    411: "The request has no body, but needs one",
    412: "The condition does not hold; nothing was changed",
    413: "The body, or something in it, is too large; nothing was changed",
    415: "The body has a content type that this path does not take",
    417: "The value of Expect is not supported",
    421: "Host is not a name of this server",
    422: "The request does not fit the stored state; nothing was changed",
    429: "The client has exceeded its share: outcome not_applied, see Retry-After",
    431: "The head of the request is too large",
    500: "A defect of the facade or of a raft-node",
    501: "The facade or the nodes do not support this",
    503: "Refused before anything was proposed: outcome not_applied, see Retry-After",
    504: "Not answered in time by the nodes; the outcome of a write is unknown",
    507: "A disk, or the table of idempotency keys, is full; nothing was changed",
}
"""The description of each status, for operations that have none of their own."""

_ANY: Codes = {
    400: ("bad_request", "bad_host"),
    401: ("unauthenticated",),
    403: ("forbidden", "cross_origin", "not_for_pages", "csrf"),
    405: ("method_not_allowed",),
    408: ("head_timeout", "body_timeout"),
    417: ("bad_expectation",),
    421: ("unknown_host",),
    429: ("too_many_requests",),
    431: ("head_too_large",),
    500: ("internal_error",),
    501: ("not_implemented",),
    503: ("overloaded", "starting", "auth_unavailable", "auth_not_understood"),
}
"""The problem codes, by status, that any request can be answered with."""

_PROBE: Codes = {503: ("starting", "overloaded")}
_FRESH: Codes = {
    400: ("unknown_parameter", "bad_parameter", "bad_consistency", "bad_escape", "bad_session"),
    409: ("foreign_session",),
}
_SHARDS: Codes = {
    500: ("invalid_record",),
    503: ("no_leader", "unavailable", "wrong_shard", "unknown_shard", "not_fresh_enough", "superseded"),
    504: ("deadline_exceeded", "outcome_unknown"),
}
_KEY: Codes = {400: ("empty_key", "key_too_long", "key_not_utf8", "bad_escape", "bad_key64")}
_READ: tuple[Codes, ...] = (
    _FRESH,
    _KEY,
    _SHARDS,
    {400: ("bad_condition",), 404: ("not_found",), 412: ("precondition_failed",)},
)
_WRITE: tuple[Codes, ...] = (
    _FRESH,
    _KEY,
    _SHARDS,
    {
        400: ("bad_condition", "bad_idempotency_key", "bad_ttl"),
        409: ("idempotency_expired",),
        412: ("precondition_failed",),
        422: ("idempotency_key_reused",),
        501: ("not_implemented",),
        507: ("disk_full", "idempotency_full"),
    },
)
_PUT: tuple[Codes, ...] = (
    *_WRITE,
    {400: ("bad_content_type", "bad_content_encoding"), 408: ("body_timeout",), 413: ("value_too_large",)},
)
_JSON: Codes = {400: ("bad_json",), 408: ("body_timeout",), 413: ("value_too_large",)}
_COUNT: tuple[Codes, ...] = (
    *_WRITE,
    _JSON,
    {400: ("bad_operation",), 409: ("not_a_number", "overflow"), 415: ("unsupported_media_type",)},
)
_TOUCH: tuple[Codes, ...] = (*_WRITE, {404: ("not_found",)})
_MANY: tuple[Codes, ...] = (
    *_WRITE,
    _JSON,
    {
        400: ("bad_operation",),
        406: ("not_acceptable",),
        411: ("length_required",),
        413: ("body_too_large",),
        415: ("unsupported_media_type",),
    },
)
_RANGE: tuple[Codes, ...] = (
    _FRESH,
    _SHARDS,
    {406: ("not_acceptable",)},
    {400: ("bad_range", "bad_cursor", "key_not_utf8", "key_too_long", "bad_condition", "bad_idempotency_key")},
)
_JSON_ALONE: Codes = {406: ("not_acceptable",)}
_SHARD: Codes = {400: ("unknown_parameter",), 404: ("unknown_shard",), **_JSON_ALONE}
_CHANGE: tuple[Codes, ...] = (
    _SHARD,
    _JSON,
    {
        404: ("unknown_member",),
        409: ("already_member", "last_voter", "quorum_at_risk", "member_unreachable", "wrong_node", "members_refused"),
        503: ("no_leader", "change_under_way", "superseded", "unavailable"),
        504: ("deadline_exceeded", "outcome_unknown"),
    },
)
_AUTH: tuple[Codes, ...] = (
    _JSON,
    {
        400: ("unknown_parameter", "bad_auth", "bad_ttl"),
        404: ("bad_auth",),
        406: ("not_acceptable",),
        409: ("auth_disabled", "bad_auth"),
        503: ("no_leader", "unavailable", "auth_changed"),
        504: ("outcome_unknown",),
        507: ("auth_full",),
    },
)
_AUTH_LOOK: Codes = {400: ("unknown_parameter",), 409: ("auth_disabled",), **_JSON_ALONE}
_WATCH: Codes = {
    400: ("unknown_parameter", "bad_parameter", "bad_escape", "bad_range", "bad_key", "key_not_utf8", "key_too_long",
          "bad_watch_id", "future_watch_id"),
    406: ("not_acceptable",),
    409: ("foreign_watch_id",),
    410: ("history_gone",),
    503: ("no_leader", "unavailable", "unknown_shard"),
}  # fmt: skip
_CONSOLE: Codes = {
    400: ("unknown_parameter", "bad_parameter", "bad_escape", "bad_key64", "empty_key", "key_too_long"),
    404: ("unknown_route", "unknown_shard"),
}

PROBLEMS: dict[tuple[str, str], tuple[Codes, ...]] = {
    ("get", "/v1/kv/{key}"): _READ,
    ("head", "/v1/kv/{key}"): _READ,
    ("put", "/v1/kv/{key}"): _PUT,
    ("delete", "/v1/kv/{key}"): _WRITE,
    ("post", "/v1/kv/{key}:increment"): _COUNT,
    ("post", "/v1/kv/{key}:touch"): _TOUCH,
    ("get", "/v1/kv"): (*_RANGE, _KEY, {404: ("not_found",), 412: ("precondition_failed",)}),
    ("put", "/v1/kv"): _PUT,
    ("delete", "/v1/kv"): (*_RANGE, *_WRITE),
    ("post", "/v1/kv:increment"): _COUNT,
    ("post", "/v1/kv:touch"): _TOUCH,
    ("post", "/v1/batch"): (*_MANY, {413: ("bad_line",)}),
    ("post", "/v1/txn"): (
        *_MANY,
        {404: ("not_found",), 409: ("not_a_number", "overflow"), 422: ("cross_shard", "result_too_large")},
    ),
    ("get", "/v1/ops/{key}"): (
        _KEY,
        _SHARDS,
        {400: ("unknown_parameter", "bad_idempotency_key"), 406: ("not_acceptable",)},
    ),
    ("get", "/v1/watch"): (_WATCH,),
    ("post", "/v1/watch:progress"): (
        {400: ("unknown_parameter",), 406: ("not_acceptable",), 503: ("no_leader", "unavailable", "unknown_shard")},
    ),
    **{
        (method, f"/v1/console/{what}"): (_CONSOLE,)
        for method in ("get", "head")
        for what in ("state", "history", "slots", "events", "members", "locate")
    },
    ("get", "/v1/console/stream"): (),
    ("post", "/v1/console/faults"): (
        _JSON,
        {
            400: ("unknown_parameter",),
            404: ("unknown_route",),
            409: ("fault_refused",),
            415: ("unsupported_media_type",),
            503: ("unavailable",),
        },
    ),
    ("get", "/ui/{file}"): ({404: ("unknown_route",)},),
    ("head", "/ui/{file}"): ({404: ("unknown_route",)},),
    ("get", "/"): ({404: ("unknown_route",)},),
    ("head", "/"): ({404: ("unknown_route",)},),
    ("get", "/livez"): (_PROBE,),
    ("get", "/readyz"): (_PROBE,),
    ("get", "/metrics"): (),
    ("get", "/docs"): (),
    ("head", "/docs"): (),
    ("get", "/openapi.json"): (),
    ("head", "/openapi.json"): (),
    ("get", "/v1/cluster"): (_JSON_ALONE,),
    ("get", "/v1/partitions"): (_JSON_ALONE,),
    ("get", "/v1/version"): (_JSON_ALONE,),
    ("get", "/v1/limits"): (_JSON_ALONE,),
    ("get", "/v1/shards/{shard}/events"): (_SHARD,),
    ("post", "/v1/shards/{shard}/leader"): (
        _SHARD,
        _JSON,
        {
            409: ("already_leader", "transfer_refused"),
            422: ("unknown_target",),
            503: ("no_leader", "unavailable"),
            504: ("deadline_exceeded", "transfer_failed"),
        },
    ),
    ("get", "/v1/shards/{shard}/members"): (_SHARD, {503: ("no_leader", "unavailable"), 504: ("deadline_exceeded",)}),
    ("post", "/v1/shards/{shard}/members"): _CHANGE,
    ("delete", "/v1/shards/{shard}/members/{name}"): _CHANGE,
    ("post", "/v1/shards/{shard}/members/{name}/replace"): _CHANGE,
    ("get", "/v1/shards/{shard}/backup"): (_SHARD, {503: ("unavailable",)}),
    ("get", "/v1/auth/whoami"): (_AUTH_LOOK,),
    ("get", "/v1/auth/can-i"): (_AUTH_LOOK,),
    ("post", "/v1/auth/session"): (_AUTH_LOOK, {400: ("bad_auth",)}),
    ("delete", "/v1/auth/session"): (_AUTH_LOOK, {400: ("bad_auth",)}),
    ("post", "/v1/auth/init"): (*_AUTH, {409: ("already_initialised",)}),
    ("get", "/v1/auth/tokens"): (_AUTH_LOOK,),
    ("post", "/v1/auth/tokens"): _AUTH,
    ("delete", "/v1/auth/tokens/{name}"): _AUTH,
    ("get", "/v1/auth/roles"): (_AUTH_LOOK,),
    ("put", "/v1/auth/roles/{name}"): _AUTH,
    ("delete", "/v1/auth/roles/{name}"): _AUTH,
    ("get", "/v1/auth/users"): (_AUTH_LOOK,),
    ("post", "/v1/auth/users"): _AUTH,
    ("delete", "/v1/auth/users"): _AUTH,
}
"""What each operation can be refused with, beside what any request can meet."""

_REQUEST_ID: Json = {
    "description": "The request's X-Request-Id if it is valid, otherwise an id made by the facade",
    "required": True,
    "schema": {"type": "string"},
}
_HEADERS: dict[int, Json] = {
    401: {"WWW-Authenticate": {"description": "The ways to authenticate", "schema": {"type": "string"}}},
    405: {"Allow": {"description": "The methods of this path", "schema": {"type": "string"}}},
    412: {
        "ETag": {"description": "The key's present revision; absent if there is no key", "schema": {"type": "string"}}
    },
    429: {"Retry-After": {"description": "Seconds to wait", "schema": {"type": "string", "pattern": "^[0-9]+$"}}},
    503: {"Retry-After": {"description": "Seconds to wait", "schema": {"type": "string", "pattern": "^[0-9]+$"}}},
    507: {"Retry-After": {"description": "Seconds to wait", "schema": {"type": "string", "pattern": "^[0-9]+$"}}},
}


def codes_of(method: str, path: str) -> dict[int, list[str]]:
    """The codes that an operation can be refused with, by status."""
    found: dict[int, list[str]] = {}
    described = (method, path) if method != "head" or (method, path) in PROBLEMS else ("get", path)
    for codes in (_ANY, *PROBLEMS[described]):
        for status, names in codes.items():
            known = found.setdefault(status, [])
            known.extend(name for name in names if name not in known)
    return found


def _example(code: str, status: int) -> Json:
    unknown = status == HTTPStatus.GATEWAY_TIMEOUT or code in ("internal_error", "idempotency_expired")
    return {
        "summary": TITLES[code],
        "value": {
            "type": TYPE_PREFIX + code,
            "title": TITLES[code],
            "status": status,
            "detail": f"{TITLES[code]}: here stands what was found in this request.",
            "code": code,
            "retryable": status in (429, 503, 507),
            "outcome": "unknown" if unknown else "not_applied",
        },
    }


def operations(document: Mapping[str, Any]) -> Iterator[tuple[str, str, Json]]:
    """Every operation of a document: its method, its path, and what is said of it."""
    for path, item in document["paths"].items():
        for method in METHODS:
            if method in item:
                yield method, path, item[method]


def add_problems(document: Json) -> None:
    """Tells of every operation which problems it can be answered with.

    Args:
        document: An OpenAPI document; it is changed. Each of its operations is in ``PROBLEMS``.
    """
    examples = document.setdefault("components", {}).setdefault("examples", {})
    for method, path, operation in operations(document):
        responses = operation.setdefault("responses", {})
        for status, codes in sorted(codes_of(method, path).items()):
            response = responses.setdefault(str(status), {"description": WHAT[status]})
            if response["description"] == HTTPStatus(status).phrase:
                response["description"] = WHAT[status]  # FastAPI's word for it.
            named: Json = {}
            for code in sorted(codes):
                name = f"{code}_{status}"
                examples.setdefault(name, _example(code, status))
                named[code] = {"$ref": f"#/components/examples/{name}"}
            problem: Json = {"schema": {"$ref": "#/components/schemas/Problem"}, "examples": named}
            response["content"] = {MEDIA_TYPE: problem}
            response["headers"] = response.get("headers", {}) | _HEADERS.get(status, {})
        for response in responses.values():
            response["headers"] = response.get("headers", {}) | {"Doug-Request-Id": _REQUEST_ID}
