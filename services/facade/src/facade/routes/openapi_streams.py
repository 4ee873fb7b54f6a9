"""Watches, the console and what describes the interface in OpenAPI: FastAPI does not see them.

Must not know how they work. Invariant: what is declared here is what is served; a test compares the routing table with
the document.
"""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]

_TEXT: Json = {"type": "string"}
_BOUND64: Json = {"type": "string", "pattern": "^([A-Za-z0-9_-]{4}){0,340}$"}
_NUMBER: Json = {"type": "integer", "minimum": 0}
MINUTES = 60
"""So far back the console knows how often slots were used (``facade.console.collector``; a test compares)."""

_EVENT: Json = {
    "schema": {
        "type": "object",
        "description": "A server-sent event: event, id and data",
        "required": ["event", "data"],
    }
}
_STRING_BODY: Json = {"schema": {"type": "string"}}


def _query(name: str, description: str, schema: Json | None = None) -> Json:
    return {"name": name, "in": "query", "description": description, "schema": schema or _TEXT}


_WATCH = [
    _query("key", "This key alone", {"type": "string", "minLength": 1, "maxLength": 1024}),
    _query("key64", "The same, in base64url", {"type": "string", "pattern": "^([A-Za-z0-9_-]{4}){1,340}$"}),
    _query("prefix", "The keys that begin with it"),
    _query("prefix64", "The same, in base64url", _BOUND64),
    _query("start", "The first key"),
    _query("start64", "The same, in base64url", _BOUND64),
    _query("end", "The first key that is not watched any more"),
    _query("end64", "The same, in base64url", _BOUND64),
    _query("from", "now; start: first all that is there; or the id of an event: what follows it"),
    _query("events", "Some of put, delete and expire, separated by commas; all of them when left out"),
    _query("values", "Whether values are told", {"type": "boolean", "default": True}),
    {
        "name": "Last-Event-ID",
        "in": "header",
        "description": "The id of the last event; goes before from",
        "schema": _TEXT,
    },
]


def _operation(name: str, summary: str, tag: str, responses: Json, parameters: list[Json] | None = None) -> Json:
    found: Json = {"operationId": name, "summary": summary, "tags": [tag], "responses": responses}
    return found | ({"parameters": parameters} if parameters else {})


def _both(name: str, summary: str, tag: str, responses: Json, parameters: list[Json] | None = None) -> Json:
    """The same for GET and HEAD; what HEAD is answered has no body."""
    bodiless = {
        status: {key: value for key, value in each.items() if key != "content"} for status, each in responses.items()
    }
    return {
        "get": _operation(f"get_{name}", summary, tag, responses, parameters),
        "head": _operation(f"head_{name}", f"{summary}; the headers alone", tag, bodiless, parameters),
    }


_FAULT: Json = {
    "type": "object",
    "required": ["node", "do"],
    "additionalProperties": False,
    "properties": {
        "node": {"type": "string", "minLength": 1, "maxLength": 253},
        "do": {"type": "string", "enum": ["kill", "pause", "resume"]},
    },
}


def _console_data() -> Json:
    """What the console asks for now and then."""
    told: Json = {
        "200": {"description": "What was asked for", "content": {"application/json": {"schema": {"type": "object"}}}}
    }
    since = _query("since", "What happened since, in microseconds", _NUMBER | {"maximum": (1 << 63) - 1})
    shard = _query("shard", "The shard", _NUMBER | {"maximum": 1 << 31}) | {"required": True}
    key64 = {"type": "string", "pattern": "^([A-Za-z0-9_-]{4}){1,340}$"}
    data: dict[str, tuple[str, list[Json]]] = {
        "state": ("The state of all nodes", []),
        "history": (
            "What the figures were",
            [
                _query(
                    "shards",
                    "Some shards, separated by commas",
                    {"type": "string", "pattern": "^([0-9]{1,9}(,[0-9]{1,9}){0,62})?$"},
                )
            ],
        ),
        "slots": (
            "How often each slot was used",
            [_query("minutes_ago", "So long ago", _NUMBER | {"maximum": MINUTES})],
        ),
        "events": ("What the nodes of a shard did", [shard, since]),
        "locate": (
            "The slot and the shard of a key",
            [_query("key64", "The key, in base64url", key64) | {"required": True}],
        ),
    }
    return {
        f"/v1/console/{what}": _both(
            f"console_{what}", f"{summary}; for the console, whose form may change", "console", told, parameters
        )
        for what, (summary, parameters) in data.items()
    }


def _pages() -> Json:
    """What a browser opens, and what describes the interface."""
    file: Json = {
        "name": "file",
        "in": "path",
        "required": True,
        "description": "A file of the console, or a place within it",
        "schema": {"type": "string", "minLength": 1},
    }
    moved: Json = {"description": "The console is at /ui/", "headers": {"Location": {"schema": _TEXT}}}
    return {
        "/ui/{file}": _both(
            "console",
            "The console, for browsers",
            "console",
            {
                "200": {
                    "description": "A file",
                    "content": {"*/*": {"schema": {"type": "string", "format": "binary"}}},
                },
                "304": {"description": "The browser has it"},
                "307": moved,
            },
            [file],
        ),
        "/": _both("start", "Leads browsers to the console", "console", {"307": moved}),
        "/docs": _both(
            "docs",
            "This document for people",
            "console",
            {"200": {"description": "One page without scripts", "content": {"text/html": _STRING_BODY}}},
        ),
        "/openapi.json": _both(
            "openapi",
            "This document for programs",
            "console",
            {
                "200": {
                    "description": "OpenAPI 3.1",
                    "content": {"application/json": {"schema": {"type": "object"}}},
                }
            },
        ),
    }


def stream_routes() -> Json:
    """The path items."""
    progress: Json = {
        "type": "object",
        "description": "Where the cluster is: every watch of this facade comes to this id",
        "required": ["id", "revisions"],
        "properties": {"id": _TEXT, "revisions": {"type": "object", "additionalProperties": _TEXT}},
    }
    return (
        _console_data()
        | _pages()
        | {
            "/v1/watch": {
                "get": _operation(
                    "watch",
                    "Every change of some keys, once and in order, as it happens: server-sent events, or lines of JSON",
                    "keys",
                    {
                        "200": {
                            "description": "Events until somebody ends it; the id of an event is where to go on",
                            "content": {"text/event-stream": _EVENT, "application/x-ndjson": _STRING_BODY},
                        }
                    },
                    _WATCH,
                )
            },
            "/v1/watch:progress": {
                "post": _operation(
                    "watch_progress",
                    "How far the cluster is, and that this facade's watches are told so",
                    "keys",
                    {"200": {"description": "Where it is", "content": {"application/json": {"schema": progress}}}},
                )
            },
            "/v1/console/faults": {
                "post": _operation(
                    "post_console_faults",
                    "Kill or pause a node of a cluster of `dougctl dev`; the route is nowhere else",
                    "console",
                    {"200": {"description": "It is done", "content": {"application/json": {"schema": _FAULT}}}},
                )
                | {"requestBody": {"required": True, "content": {"application/json": {"schema": _FAULT}}}}
            },
            "/v1/console/stream": {
                "get": _operation(
                    "get_console_stream",
                    "The state of all nodes as it changes, for the console",
                    "console",
                    {"200": {"description": "Events named state", "content": {"text/event-stream": _EVENT}}},
                )
            },
        }
    )
