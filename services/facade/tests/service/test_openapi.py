"""The served OpenAPI: complete, and good enough that a client made of it puts, scans and runs a transaction."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator
from typing import Any
from urllib.parse import quote

MakeFacade = Callable[..., Awaitable[Any]]

METHODS = {"get", "put", "post", "delete", "head"}


def references(node: object) -> Iterator[str]:
    if isinstance(node, dict):
        for name, value in node.items():
            if name == "$ref":
                yield value
            else:
                yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


class GeneratedClient:
    """A client that knows nothing but the document: it finds operations by their ids, as generators do."""

    def __init__(self, http: Any, document: dict[str, Any]) -> None:
        self._http = http
        self._document = document
        self._operations = {
            operation["operationId"]: (method, path, operation, item.get("parameters", []))
            for path, item in document["paths"].items()
            for method, operation in item.items()
            if method in METHODS
        }

    def resolve(self, schema: dict[str, Any]) -> dict[str, Any]:
        if "$ref" not in schema:
            return schema
        found: dict[str, Any] = self._document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
        return found

    async def call(self, operation_id: str, body: Any = None, **arguments: str) -> Any:
        method, path, operation, shared = self._operations[operation_id]
        headers, query = dict[str, str](), dict[str, str]()
        for parameter in [*shared, *operation.get("parameters", [])]:
            value = arguments.pop(parameter["name"].lower().replace("-", "_"), None)
            assert value is not None or not parameter.get("required"), parameter
            if value is None:
                continue
            if parameter["in"] == "path":
                path = path.replace("{%s}" % parameter["name"], quote(value, safe=""))  # noqa: UP031
            else:
                (headers if parameter["in"] == "header" else query)[parameter["name"]] = value
        assert not arguments, f"{operation_id} declares no {arguments}"
        content = None
        if body is not None:
            types = operation["requestBody"]["content"]
            if "application/json" in types:
                content, headers["content-type"] = json.dumps(body).encode(), "application/json"
            else:
                content = body
        answer = await self._http.request(method.upper(), path, params=query, headers=headers, content=content)
        declared = operation["responses"][str(answer.status_code)]
        if answer.status_code < 300 and "application/json" in declared.get("content", {}):
            schema = declared["content"]["application/json"]["schema"]
            shape = self.resolve(schema.get("anyOf", [schema])[0])
            if answer.headers["content-type"] == "application/json":
                assert set(shape.get("required", [])) <= answer.json().keys() <= shape["properties"].keys()
        return answer


async def test_a_client_made_of_the_document_puts_scans_and_runs_a_transaction(make_facade: MakeFacade) -> None:
    facade = await make_facade(shards=2)
    client = GeneratedClient(facade.http, (await facade.http.get("/openapi.json")).json())
    put = await client.call("put_key", b"1", key="{t}a/1", ttl="1h", if_none_match="*", idempotency_key="once")
    assert put.status_code == 200
    assert (await client.call("put_key", b"1", key="{t}a/1", if_none_match="*")).status_code == 412
    assert (await client.call("get_key", key="{t}a/1")).content == b"1"
    assert (await client.call("get_key", key="{t}a/1", if_none_match=put.headers["etag"])).status_code == 304
    assert (await client.call("increment_key", {"by": 4}, key="{t}a/1")).json()["value"] == "5"
    assert (await client.call("touch_key", key="{t}a/1", ttl="5m")).status_code == 200
    txn = {
        "compare": [{"key": "{t}a/1", "value": "5"}],
        "success": [{"op": "put", "key": "{t}a/2", "value": "x"}, {"op": "get", "key": "{t}a/1"}],
    }
    assert (await client.call("transact", txn)).json()["succeeded"] is True
    batch = {"operations": [{"op": "get", "key": "{t}a/2"}, {"op": "delete", "key": "{t}a/9"}]}
    assert [each["status"] for each in (await client.call("batch", batch)).json()["results"]] == [200, 204]
    (scan,) = [name for name, found in client._operations.items() if found[:2] == ("get", "/v1/kv")]
    found = await client.call(scan, prefix="{t}a/")
    assert [item["key"] for item in found.json()["items"]] == ["{t}a/1", "{t}a/2"]
    state = await client.call("get_operation", key="once", **{"for": "{t}a/1"})
    assert state.json()["state"] == "applied"
    assert (await client.call("delete_key", key="{t}a/1", if_match="*")).status_code == 204


async def test_every_reference_leads_somewhere_and_every_operation_has_an_id(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=1)
    document = (await facade.http.get("/openapi.json")).json()
    for reference in references(document):
        _, components, kind, name = reference.split("/")
        assert components == "components" and name in document[components][kind], reference
    ids = [
        operation["operationId"]
        for item in document["paths"].values()
        for method, operation in item.items()
        if method in METHODS
    ]
    assert len(ids) == len(set(ids))
    assert {"/v1/kv/{key}", "/v1/kv", "/v1/batch", "/v1/txn", "/v1/ops/{key}", "/v1/limits"} <= document["paths"].keys()


async def test_every_statement_about_a_request_is_kept(make_facade: MakeFacade) -> None:
    """Every declared operation answers a bare request, and one of nonsense, with a status that it declares."""
    facade = await make_facade(shards=2)
    document = (await facade.http.get("/openapi.json")).json()
    for path, item in document["paths"].items():
        if path.startswith(("/v1/shards", "/v1/console")) or path in ("/metrics", "/docs", "/v1/watch"):
            continue  # Nobody collects for the console here, and a watch answers as long as somebody listens.
        for method in METHODS & item.keys():
            declared = item[method]["responses"].keys()
            for key, body, content_type in (
                ("k", None, None),
                ("%00%7F", b"{}", "application/json"),
                ("%zz", b"[", "application/json"),
                ("k", b"\xff", "text/plain"),
                ("k", b"1" * 5000, "application/json"),
                ("k", b'{"operations":[{"op":"put","key":"a","value":"\\u0000"}]}', "application/json"),
            ):
                headers = {} if content_type is None else {"content-type": content_type}
                answer = await facade.http.request(
                    method.upper(), path.replace("{key}", key), content=body, headers=headers
                )
                assert str(answer.status_code) in declared, (method, path, key, body, answer.text)
                assert answer.status_code < 500, (method, path, answer.text)
