"""The served OpenAPI and the routing table say the same: every route, every method, every problem that it can have."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from facade.app.rules import RULES, Rules
from facade.console.collector import MINUTES
from facade.routes import openapi_problems, openapi_streams
from facade.routes.openapi_examples import EXAMPLES
from facade.routes.openapi_problems import METHODS, PROBLEMS, codes_of
from facade.routes.problem import TITLES

MakeFacade = Callable[..., Awaitable[Any]]
CONSOLE = "/v1/console/{what}"


QUERY = {
    **{"key64": "aaaa", "shard": "0", "shards": "0", "ttl": "30s", "verb": "metrics"},
    **{"principal": "user:a", "role": "reader"},
}
"""A value of each parameter that has to be there."""


def wanted(parameter: dict[str, Any]) -> bool:
    return parameter["in"] == "query" and bool(parameter.get("required"))


def as_rule(path: str) -> str:
    """The template of the routing table that a path of the document belongs to."""
    path = re.sub(r":(increment|touch)$", "", path)
    return CONSOLE if path.startswith("/v1/console/") else path


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    return openapi_problems.operations(document)


@pytest.fixture
async def document(make_facade: MakeFacade) -> dict[str, Any]:
    facade = await make_facade(nodes=1)
    found: dict[str, Any] = (await facade.http.get("/openapi.json")).json()
    return found


async def test_every_route_of_the_routing_table_is_in_the_document_and_no_other(document: dict[str, Any]) -> None:
    declared = {(method.upper(), as_rule(path)) for method, path, _ in operations(document)}
    served = {(method, rule.route) for rule in RULES for method in rule.methods}
    assert declared == served


async def test_every_operation_of_the_document_has_a_rule_and_is_served(
    document: dict[str, Any], make_facade: MakeFacade
) -> None:
    facade, rules = await make_facade(nodes=1), Rules()
    facade.cluster.shards[0].nodes[0].staleness_ms = 0
    for method, path, operation in operations(document):
        if path in ("/v1/watch", "/v1/console/stream"):
            continue  # They answer as long as somebody listens: test_watches.py, test_console.py.
        filled = re.sub(r"\{(\w+)\}", lambda match: "0" if match[1] == "shard" else "k", path)
        assert rules.find(method.upper(), filled.encode(), filled) is not None, (method, path)
        headers = {"accept": "text/html, */*"}
        query = {each["name"]: QUERY[each["name"]] for each in operation.get("parameters", ()) if wanted(each)}
        answer = await facade.http.request(method.upper(), filled, headers=headers, params=query)
        assert answer.status_code != 405, (method, path)
        assert str(answer.status_code) in operation["responses"], (method, path, answer.status_code, answer.text)
        if answer.status_code == 404 and method != "head":
            assert answer.json()["code"] in codes_of(method, path)[404], (method, path, answer.text)


async def test_a_method_that_is_not_there_is_told_those_that_are(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=1)
    for path, allow in (
        ("/v1/auth/tokens", "GET, HEAD, POST"),
        ("/v1/auth/users", "DELETE, GET, HEAD, POST"),
        ("/v1/auth/roles/r", "DELETE, PUT"),
        ("/v1/shards/0/members", "GET, HEAD, POST"),
        ("/docs", "GET, HEAD"),
        ("/", "GET, HEAD"),
        ("/v1/kv/k", "DELETE, GET, HEAD, PUT"),
        ("/v1/kv/k:increment", "DELETE, GET, HEAD, POST, PUT"),
    ):
        answer = await facade.http.request("TRACE", path)
        assert (answer.status_code, answer.headers.get("allow")) == (405, allow), path
        assert answer.json()["code"] == "method_not_allowed"


async def test_no_path_has_a_method_that_the_document_does_not_have(
    document: dict[str, Any], make_facade: MakeFacade
) -> None:
    facade = await make_facade(nodes=1)
    checked = 0
    for path, methods in document["paths"].items():
        if path.startswith("/v1/kv"):
            continue  # Names of keys may end like actions, and so have methods of both; some of these are above.
        filled = re.sub(r"\{(\w+)\}", lambda match: "0" if match[1] == "shard" else "k", path)
        for method in {"get", "head", "put", "post", "delete", "patch", "trace"} - set(methods) - {"parameters"}:
            answer = await facade.http.request(method.upper(), filled, headers={"doug-client": "tests"})
            assert answer.status_code == 405, (method, path, answer.status_code, answer.text)
            assert set(answer.headers["allow"].lower().split(", ")) == {each for each in methods if each in METHODS}
            checked += 1
    assert checked > 100


async def test_the_document_for_people_is_there_for_head_too(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=1)
    answer = await facade.http.head("/docs")
    assert (answer.status_code, answer.content) == (200, b"")


async def test_every_problem_is_a_problem_document_with_its_codes_as_examples(document: dict[str, Any]) -> None:
    examples = document["components"]["examples"]
    for method, path, operation in operations(document):
        for status, response in operation["responses"].items():
            assert "Doug-Request-Id" in response["headers"], (method, path, status)
            if int(status) < 400:
                continue
            (told,) = response["content"].items()
            assert told[0] == "application/problem+json", (method, path, status)
            assert set(told[1]["examples"]) == set(codes_of(method, path)[int(status)]), (method, path, status)
            for code, reference in told[1]["examples"].items():
                example = examples[reference["$ref"].rsplit("/", 1)[1]]["value"]
                assert (example["code"], example["status"]) == (code, int(status))
        assert {"401", "403", "421", "500", "503"} <= operation["responses"].keys()


def test_every_code_has_a_title_and_every_title_a_code_that_is_told() -> None:
    told = {code for method, path in PROBLEMS for codes in codes_of(method, path).values() for code in codes}
    # Of another version of HTTP nobody reads a document.
    assert told == TITLES.keys() - {"bad_version"}


def test_no_operation_is_described_twice() -> None:
    assert all(method in METHODS for method, _ in PROBLEMS)
    assert openapi_streams.MINUTES == MINUTES


async def test_every_body_has_an_example_that_is_taken(document: dict[str, Any], make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=1)
    sent = 0
    for method, path, operation in operations(document):
        body = operation.get("requestBody", {"content": {}})
        for media_type, content in body["content"].items():
            example = content["example"]
            filled = re.sub(r"\{(\w+)\}", lambda match: "0" if match[1] == "shard" else "k", path)
            answer = await facade.http.request(
                method,
                filled,
                params={each["name"]: QUERY[each["name"]] for each in operation.get("parameters", ()) if wanted(each)},
                content=example if isinstance(example, str) else json.dumps(example),
                headers={"content-type": "text/plain" if media_type == "*/*" else media_type},
            )
            # Whatever becomes of it, here where nobody signs in and nodes are no real ones: not for its form.
            assert answer.status_code not in (400, 413, 415), (method, path, media_type, answer.text)
            sent += 1
    assert sent == len(EXAMPLES) + 3, "values have two types, batches, too"
