"""The routes of ranges in OpenAPI: ``GET`` and ``DELETE /v1/kv``, which FastAPI does not see.

Must not know how they work. Invariant: what is declared here is what ``facade.routes.ranges.request`` takes and
``facade.routes.ranges.routes`` answers; tests compare them.
"""

from __future__ import annotations

from typing import Any

from doug_wire.slots import SLOTS
from facade.routes.ranges.request import DELETE_LIMIT_DEFAULT, DELETE_LIMIT_MAX, LIMIT_DEFAULT, LIMIT_MAX

Json = dict[str, Any]

RANGE_PATH = "/v1/kv"
KEY64 = "parameters and answers are those of /v1/kv/{key}, where key64 takes the place of the path."

_TEXT: Json = {"type": "string"}
_BOUND: Json = {"type": "string", "maxLength": 1024}
_BOUND64: Json = {"type": "string", "pattern": "^([A-Za-z0-9_-]{4}){0,340}$"}
_FLAG: Json = {"type": "boolean", "default": False}
_CONSISTENCY: Json = {
    "type": "string",
    "enum": ["linearizable", "session", "bounded", "eventual"],
    "default": "linearizable",
}
_STALENESS: Json = {"type": "string", "pattern": "^([1-9][0-9]{0,3}(ms|s|m|)|1?[1-9]h)$"}


def _parameter(name: str, schema: Json, description: str) -> Json:
    return {"name": name, "in": "query", "description": description, "schema": schema}


FRESHNESS: list[Json] = [
    _parameter("consistency", _CONSISTENCY, "How fresh the answer must be"),
    _parameter("max_staleness", _STALENESS, "How old a bounded answer may be, as in 2s; only with consistency=bounded"),
    {
        "name": "Doug-Consistency",
        "in": "header",
        "description": "The same as the parameter consistency; or both parameters, as in: bounded; max_staleness=2s",
        "schema": {
            "type": "string",
            "pattern": "^(linearizable|session|eventual|bounded; max_staleness=[1-9][0-9]{0,3}(ms|s|m|))$",
        },
    },
    {
        "name": "Doug-Session",
        "in": "header",
        "description": "The header Doug-Session of an earlier answer: the answer contains everything that it had seen",
        "schema": {"type": "string", "maxLength": 512},
    },
]
"""The parameters for the freshness of an answer, which every route that reads takes."""

_RANGE = [
    _parameter("prefix", _BOUND, "All keys that begin with it; not together with start and end"),
    _parameter("start", _BOUND, "The first key of the range"),
    _parameter("end", _BOUND | {"minLength": 1}, "The end of the range: the first key behind it"),
    *(_parameter(f"{name}64", _BOUND64, f"As {name}, in base64url") for name in ("prefix", "start", "end")),
    _parameter("cursor", _TEXT, "next_cursor of the answer before, with the same range"),
]
_READ = [
    _parameter(
        "limit",
        {"type": "integer", "minimum": 1, "default": LIMIT_DEFAULT},
        f"How many entries and common prefixes; at most {LIMIT_MAX} in a page, any number in a stream of lines",
    ),
    _parameter("keys_only", _FLAG, "Whether values are left out"),
    _parameter(
        "count_only", _FLAG, "Whether only the number of keys is told; without limit the number in the whole range"
    ),
    _parameter("reverse", _FLAG, "Whether the order is from the last key to the first"),
    _parameter(
        "slot",
        {"type": "integer", "minimum": 0, "maximum": SLOTS - 1},
        "Only keys of this slot; its shard searches all its keys of the range. Not together with delimiter",
    ),
    _parameter(
        "delimiter",
        {"type": "string", "minLength": 1, "maxLength": 64},
        "Keys that are equal up to the delimiter's first place behind prefix are told as one common prefix",
    ),
    *FRESHNESS,
]
_DELETE = [
    _parameter(
        "limit",
        {"type": "integer", "minimum": 1, "maximum": DELETE_LIMIT_MAX, "default": DELETE_LIMIT_DEFAULT},
        "How many keys this step deletes at most",
    ),
    _parameter("dry_run", _FLAG, "Whether keys are only counted, not deleted"),
    _parameter("all", _FLAG, "Whether every key may be deleted; without it, a range without bounds is refused"),
]


def _answer(view: str) -> Json:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{view}"}}}


def range_routes(receipt: Json) -> Json:
    """The path item; ``receipt`` describes the headers that name the nodes that answered."""
    lines: Json = {"application/x-ndjson": {"schema": {"type": "string"}}}
    return {
        "get": {
            "operationId": "get_range",
            "summary": "Read a range of keys in their order: a page, or with Accept: application/x-ndjson a stream",
            "description": f"With key64 alone it is GET of that one key: {KEY64}",
            "tags": ["keys"],
            "parameters": [*_RANGE, *_READ],
            "responses": {
                "200": {
                    "description": "A page; or a stream with an entry in each line, whose last line tells how it ended",
                    "headers": receipt,
                    "content": _answer("RangeView") | lines,
                }
            },
        },
        "delete": {
            "operationId": "delete_range",
            "summary": "Delete a range of keys, a step at a time",
            "description": f"With key64 alone it is DELETE of that one key: {KEY64}",
            "tags": ["keys"],
            "parameters": [*_RANGE, *_DELETE],
            "responses": {
                "200": {
                    "description": "The number of keys deleted",
                    "headers": receipt,
                    "content": _answer("RangeDeletedView"),
                }
            },
        },
    }
