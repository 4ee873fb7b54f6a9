"""All ways in which a request can name keys, and all that operators can do, as the OpenAPI document and the rules say.

What is new there fails here until it has a place in the matrix of ``access_matrix``.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from access_matrix import (
    ACTION,
    BEYOND,
    KEYED,
    OPERATIONS,
    Clients,
    asked,
    declared_ways,
    guarded,
    prefixed,
    start,
    ways_of,
)
from facade_under_test import Facade

from doug_wire.auth.grants import Verb
from facade.app.rules import RULES
from facade.routes import openapi_problems

Make = Callable[..., Awaitable[Facade]]


@pytest.fixture
async def clients(make_facade: Make, tmp_path: Path) -> Clients:
    return await start(await make_facade(**guarded(tmp_path / "bootstrap.token", tmp_path / "audit.jsonl")))


async def test_every_way_to_name_a_key_is_in_the_matrix(make_facade: Make) -> None:
    """By the OpenAPI document: a parameter, or a member of a body, that is new has to be told there what it is."""
    facade = await make_facade(nodes=1)
    document = facade.application._rest.openapi()
    seen = 0
    for method, path, declared in openapi_problems.operations(document):
        requests = KEYED.get((ACTION.sub("", path), method.upper()))
        if requests is None:
            continue
        seen += 1
        same = [each for each in requests if ACTION.findall(each[1]) == ACTION.findall(path)]
        missing = declared_ways(document, path, declared) - set().union(*map(ways_of, same))
        assert not missing, f"{method} {path}: do these name a key, and who may name it?"
    assert seen == len(KEYED) + 2, "the two actions behind a key are operations of their own"
    (op,) = [document["components"]["schemas"]["OperationRequest"]["properties"]["op"]]
    assert set(op["enum"]) == OPERATIONS.keys(), "every operation of batches and transactions has its right"


async def test_a_range_whose_end_nobody_named_ends_beyond_every_grant(clients: Clients) -> None:
    facade = clients.facade
    for wanted in BEYOND:
        method, path, body, right = prefixed(wanted, "app/")
        before = asked(facade)
        assert (await clients.send(await clients.token(f"{right}:app/"), method, path, body)).status_code == 403, wanted
        assert asked(facade) == before, f"{wanted}: nothing that is refused reaches a node"
        if right != "watch":  # It does not end by itself.
            answer = await clients.send(await clients.token(f"{right}:*"), method, path, body)
            assert answer.status_code not in (401, 403), (wanted, answer.text)


async def test_all_that_operators_do_or_try_is_in_the_audit_log(clients: Clients, tmp_path: Path) -> None:
    """A line each: who, what, from where, by which request, and what came of it; also where it is refused."""
    path = tmp_path / "audit.jsonl"
    for rule in RULES:
        for method in sorted(rule.methods) if rule.is_admin else ():
            target = rule.route.replace("{shard}", "0").replace("{name}", "n").replace("{what}", "faults")
            assert isinstance(rule.need, frozenset)
            for verb in (*sorted(rule.need), Verb.METRICS):
                token, before = await clients.token(verb.value), len(path.read_text().splitlines())
                principal = (await clients.send(token, "GET", "/v1/auth/whoami")).json()["principal"]
                body: Any = None if method in ("GET", "HEAD") else {}
                answer = await clients.send(token, method, target, body, **{"x-request-id": f"mine-{verb.name}"})
                lines = [json.loads(line) for line in path.read_text().splitlines()[before:]]
                (line,) = [each for each in lines if each["event"] in ("admin", "refused")]
                own = verb in rule.need
                assert (answer.status_code == 403) is not own, (method, target, verb)
                assert line.items() >= {
                    "event": "admin" if own else "refused", "principal": principal, "address": "127.0.0.1",
                    "request_id": f"mine-{verb.name}", "method": method, "route": rule.route, "path": target,
                    "outcome": str(answer.status_code) if own else "forbidden",
                }.items()  # fmt: skip
    before = len(path.read_text().splitlines())
    await clients.send("wrong", "DELETE", "/v1/shards/0/members/n?force=true", None, **{"x-request-id": "theirs"})
    (line,) = [json.loads(each) for each in path.read_text().splitlines()[before:]]
    told = [line[name] for name in ("event", "principal", "path", "request_id", "outcome")]
    assert told == ["refused", "", "/v1/shards/0/members/n", "theirs", "unauthenticated"]
    assert "doug_" not in path.read_text()
