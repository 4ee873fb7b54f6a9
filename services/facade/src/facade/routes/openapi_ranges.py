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
KEY64 = "parameters and answers are those of /v1/kv/{key}, whose path it stands for."

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
    _parameter(
        "max_staleness", _STALENESS, "How old a bounded answer may be, as in 2s; with consistency=bounded alone"
    ),
    {
        "name": "Doug-Consistency",
        "in": "header",
        "description": "The same as consistency; bounded; max_staleness=2s names both",
        "schema": {
            "type": "string",
            "pattern": "^(linearizable|session|eventual|bounded; max_staleness=[1-9][0-9]{0,3}(ms|s|m|))$",
        },
    },
    {
        "name": "Doug-Session",
        "in": "header",
        "description": "What an earlier answer said there",
        "schema": {"type": "string", "maxLength": 512},
    },
]
"""How fresh an answer must be: every route that reads takes these."""

_RANGE = [
    _parameter("prefix", _BOUND, "The keys that begin with it; not together with start and end"),
    _parameter("start", _BOUND, "The first key"),
    _parameter("end", _BOUND | {"minLength": 1}, "The first key that is not in the range any more"),
    *(_parameter(f"{name}64", _BOUND64, f"The same as {name}, in base64url") for name in ("prefix", "start", "end")),
    _parameter("cursor", _TEXT, "next_cursor of the answer before, with the same range"),
]
_READ = [
    _parameter(
        "limit",
        {"type": "integer", "minimum": 1, "default": LIMIT_DEFAULT},
        f"Entries and common prefixes; at most {LIMIT_MAX} in a page, any number in a stream of lines",
    ),
    _parameter("keys_only", _FLAG, "Without values"),
    _parameter("count_only", _FLAG, "Only how many there are; of the whole range without a limit"),
    _parameter("reverse", _FLAG, "From the last key to the first"),
    _parameter(
        "slot",
        {"type": "integer", "minimum": 0, "maximum": SLOTS - 1},
        "Only keys of this slot: its owner alone looks through all keys of the range. Not with a delimiter",
    ),
    _parameter(
        "delimiter",
        {"type": "string", "minLength": 1, "maxLength": 64},
        "Keys that share what they have up to it, behind the prefix, are one common prefix",
    ),
    *FRESHNESS,
]
_DELETE = [
    _parameter(
        "limit",
        {"type": "integer", "minimum": 1, "maximum": DELETE_LIMIT_MAX, "default": DELETE_LIMIT_DEFAULT},
        "How many keys go in this step",
    ),
    _parameter("dry_run", _FLAG, "Only count"),
    _parameter("all", _FLAG, "Every key; without it an unbounded range is refused"),
]


def _answer(view: str) -> Json:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{view}"}}}


def range_routes() -> Json:
    """The path item."""
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
                    "description": "A page; a stream has an entry in each line and says in its last one how it ended",
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
            "responses": {"200": {"description": "How many went", "content": _answer("RangeDeletedView")}},
        },
    }
