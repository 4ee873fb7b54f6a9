"""An example of every body that a request can have, put into the served OpenAPI by the name of its operation.

Must not know what the routes do. Invariant: each example is one that its route takes (a test sends them all).
"""

from __future__ import annotations

from typing import Any

from facade.routes.openapi_problems import operations

Json = dict[str, Any]

_LINES = "application/x-ndjson"
_VALUE = "a value of any bytes"
_OPERATIONS: list[Json] = [
    {"op": "put", "key": "colour", "value": "green", "ttl": "30m"},
    {"op": "increment", "key": "visits", "by": 1},
    {"op": "get", "key": "colour"},
]
_LINE = '{"op": "put", "key": "colour", "value": "green"}\n{"op": "delete", "key": "shape"}\n'

EXAMPLES: dict[str, Any] = {
    "put_key": _VALUE,
    "put_key64": _VALUE,
    "increment_key": {"by": 1, "initial": 0},
    "increment_key64": {"by": 1, "initial": 0},
    "batch": {"operations": _OPERATIONS},
    "transact": {
        "compare": [{"key": "{order}state", "value": "new"}],
        "success": [{"op": "put", "key": "{order}state", "value": "paid"}],
        "failure": [{"op": "get", "key": "{order}state"}],
    },
    "move_leader": {"to": "shard-0-1"},
    "add": {"name": "shard-0-5", "address": "127.0.0.1:21016"},
    "replace": {"address": "127.0.0.1:21016"},
    "create_token": {"name": "app", "allow": ["read:app/", "write:app/"], "ttl": "30d"},
    "set_role": {"allow": ["read:app/"]},
    "give_role": {"principal": "user:ann", "role": "reader"},
    "post_console_faults": {"node": "shard-0-1", "do": "kill"},
}
"""By the operation's name, as it is before FastAPI puts the path behind it."""


def add_examples(document: Json) -> None:
    """Puts them into a document. Requires: every body is known."""
    for _, path, operation in operations(document):
        body = operation.get("requestBody")
        if body is None:
            continue
        example = EXAMPLES[name_of(operation["operationId"], path)]
        for media_type, content in body["content"].items():
            content["example"] = _LINE if media_type == _LINES else example


def name_of(operation_id: str, path: str) -> str:
    """The name of an operation, without its path."""
    return operation_id.partition("_" + path.strip("/").partition("/")[0] + "_")[0]
