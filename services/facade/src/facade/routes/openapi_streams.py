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
    _query("key", "Watch this key alone", {"type": "string", "minLength": 1, "maxLength": 1024}),
    _query("key64", "As key, in base64url", {"type": "string", "pattern": "^([A-Za-z0-9_-]{4}){1,340}$"}),
    _query("prefix", "Watch all keys that begin with it"),
    _query("prefix64", "As prefix, in base64url", _BOUND64),
    _query("start", "Watch the keys from this one on"),
    _query("start64", "As start, in base64url", _BOUND64),
    _query("end", "Watch the keys before this one"),
    _query("end64", "As end, in base64url", _BOUND64),
    _query("from", "now: changes from now on; start: first all present keys; or an event's id: the changes after it"),
    _query("events", "Some of put, delete and expire, separated by commas; if left out, all of them"),
    _query("values", "Whether events contain values", {"type": "boolean", "default": True}),
    {
        "name": "Last-Event-ID",
        "in": "header",
        "description": "The id of the last event received; takes precedence over from",
        "schema": _TEXT,
    },
]


def _operation(name: str, summary: str, tag: str, responses: Json, parameters: list[Json] | None = None) -> Json:
    found: Json = {"operationId": name, "summary": summary, "tags": [tag], "responses": responses}
    return found | ({"parameters": parameters} if parameters else {})


def _both(name: str, summary: str, tag: str, responses: Json, parameters: list[Json] | None = None) -> Json:
    """The operations GET and HEAD of a path; the answer to HEAD has no body."""
    bodiless = {
        status: {key: value for key, value in each.items() if key != "content"} for status, each in responses.items()
    }
    return {
        "get": _operation(f"get_{name}", summary, tag, responses, parameters),
        "head": _operation(f"head_{name}", f"{summary}; only the headers", tag, bodiless, parameters),
    }


_FAULT: Json = {
    "type": "object",
    "required": ["node", "do"],
    "additionalProperties": False,
    "properties": {
        "node": {"type": "string", "minLength": 1, "maxLength": 253},
        "do": {"type": "string", "enum": ["kill", "pause", "cut", "slow", "resume"]},
    },
}


def _console_data() -> Json:
    """The routes with the data that the console asks for now and then."""
    told: Json = {"200": {"description": "The data", "content": {"application/json": {"schema": {"type": "object"}}}}}
    some = _query(
        "shards",
        "Up to eight shards, separated by commas",
        {"type": "string", "pattern": "^[0-9]{1,9}(,[0-9]{1,9}){0,7}$"},
    )
    after = _query(
        "after",
        "The cursor of each of these shards in an answer before, separated by commas: what came since is told",
        {"type": "string", "pattern": "^([0-9a-f]{8}-[0-9]{1,15})?$"},
    )
    shard = _query("shard", "The shard", _NUMBER | {"maximum": 1 << 31}) | {"required": True}
    key64 = {"type": "string", "pattern": "^([A-Za-z0-9_-]{4}){1,340}$"}
    data: dict[str, tuple[str, list[Json]]] = {
        "state": ("Read the state of all nodes", []),
        "history": (
            "Read the figures of the last hour",
            [
                _query(
                    "shards",
                    "Some shards, separated by commas",
                    {"type": "string", "pattern": "^([0-9]{1,9}(,[0-9]{1,9}){0,62})?$"},
                )
            ],
        ),
        "slots": (
            "Read how many operations per second each slot got",
            [_query("minutes_ago", "How many minutes ago", _NUMBER | {"maximum": MINUTES})],
        ),
        "events": ("Read the events of the nodes of some shards", [some | {"required": True}, after]),
        "members": ("Read the members of a shard", [shard]),
        "locate": (
            "Read the slot and the shard of a key",
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
    """The pages that a browser opens, and the descriptions of the interface."""
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
            "Open the console in a browser",
            "console",
            {
                "200": {
                    "description": "A file",
                    "content": {"*/*": {"schema": {"type": "string", "format": "binary"}}},
                },
                "304": {"description": "The browser has this version already"},
                "307": moved,
            },
            [file],
        ),
        "/": _both("start", "Redirect a browser to the console", "console", {"307": moved}),
        "/docs": _both(
            "docs",
            "Read this document as a page",
            "console",
            {"200": {"description": "One page without scripts", "content": {"text/html": _STRING_BODY}}},
        ),
        "/openapi.json": _both(
            "openapi",
            "Read this document as JSON",
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
    """The path items of these routes."""
    progress: Json = {
        "type": "object",
        "description": "The present positions of all shards; every watch of this facade will reach this id",
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
                    "Watch keys: every change once, in order, as it happens, as server-sent events or lines of JSON",
                    "keys",
                    {
                        "200": {
                            "description": "Events until either side ends the stream; an id is where to begin again",
                            "content": {"text/event-stream": _EVENT, "application/x-ndjson": _STRING_BODY},
                        }
                    },
                    _WATCH,
                )
            },
            "/v1/watch:progress": {
                "post": _operation(
                    "watch_progress",
                    "Read the present positions of all shards, and have this facade's watches report progress",
                    "keys",
                    {"200": {"description": "The positions", "content": {"application/json": {"schema": progress}}}},
                )
            },
            "/v1/console/faults": {
                "post": _operation(
                    "post_console_faults",
                    "Bring a fault upon a node of a cluster of `dougctl dev`, or end it; others have no such route",
                    "console",
                    {
                        "200": {
                            "description": "The request was carried out",
                            "content": {"application/json": {"schema": _FAULT}},
                        }
                    },
                )
                | {"requestBody": {"required": True, "content": {"application/json": {"schema": _FAULT}}}}
            },
            "/v1/console/stream": {
                "get": _operation(
                    "get_console_stream",
                    "Stream the state of all nodes as it changes, for the console",
                    "console",
                    {"200": {"description": "Events named state", "content": {"text/event-stream": _EVENT}}},
                )
            },
        }
    )
