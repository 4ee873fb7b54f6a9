"""The audit log while clients need not say who they are: what operators do, and what is turned away."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

MakeFacade = Callable[..., Awaitable[Any]]


async def test_what_operators_do_is_told_without_users_too(make_facade: MakeFacade, tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    facade = await make_facade(nodes=1, audit_file=str(path))
    await facade.use_sockets()
    named = {"x-request-id": "mine"}
    told = []
    for method, target in (
        ("POST", "/v1/shards/0/leader"), ("POST", "/v1/shards/0/members"), ("DELETE", "/v1/shards/0/members/n"),
        ("GET", "/v1/shards/0/backup"), ("POST", "/v1/console/faults"),
    ):  # fmt: skip
        answer = await facade.http.request(method, target, headers=named, json=None if method == "GET" else {})
        told.append(("admin", method, target, str(answer.status_code)))
    for method, target in (("PUT", "/v1/kv/a"), ("GET", "/v1/kv/a"), ("GET", "/v1/cluster"), ("GET", "/livez")):
        await facade.http.request(method, target, content=b"the-value" if method == "PUT" else None)
    foreign = await facade.http.post("/v1/shards/0/leader", headers={"origin": "https://evil.example"})
    assert foreign.status_code == 403
    told.append(("refused", "POST", "/v1/shards/0/leader", "cross_origin"))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["event"], line["method"], line["path"], line["outcome"]) for line in lines] == told
    assert {(line["principal"], line["address"]) for line in lines} == {("", "127.0.0.1")}
    assert lines[0]["request_id"] == "mine"
    assert "the-value" not in path.read_text()


async def test_what_the_path_does_not_name_is_told_too(make_facade: MakeFacade, tmp_path: Path) -> None:
    """Which node was admitted, where, and whether it was forced."""
    path = tmp_path / "audit.jsonl"
    facade = await make_facade(nodes=1, audit_file=str(path))
    await facade.use_sockets()
    new, address = {"name": "n-9", "address": "n-9:1", "incarnation": "7"}, {"address": "n-1:1", "incarnation": "8"}
    for method, target, body in (
        ("POST", "/v1/shards/0/members", new),
        ("POST", "/v1/shards/0/members/n-1/replace?force=true", address),
        ("DELETE", "/v1/shards/0/members/n-1?force=true", None),
        ("DELETE", "/v1/shards/0/members/n-1", None),
        ("POST", "/v1/shards/0/leader", {"to": "shard-0-0"}),
    ):
        await facade.http.request(method, target, json=body, headers={"doug-client": "me"})
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line.get("asked") for line in lines] == [
        {"name": "n-9", "address": "n-9:1"},
        {"address": "n-1:1", "force": "true"},
        {"force": "true"},
        None,
        {"to": "shard-0-0"},
    ]


async def test_without_a_file_there_is_none(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=1)
    assert facade.application.front.audit is None
    assert (await facade.http.post("/v1/shards/0/leader", json={})).status_code != 500
