"""``dougctl leader transfer``: what it asks for, what it shows, and its exit codes."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from dougdb.cli import app
from dougdb.client import AsyncDougClient, DougClient
from dougdb.commands import common
from dougdb.errors import ServerError

RUNNER = CliRunner()
MOVED = {"shard": 1, "leader": "shard-1-2", "term": 6, "previous": "shard-1-0"}


@pytest.fixture(autouse=True)
def _served_from_memory(monkeypatch: pytest.MonkeyPatch, store: Any) -> None:
    transport = httpx.MockTransport(store.handle)
    monkeypatch.setattr(common, "DougClient", lambda url, **options: DougClient(url, **options, transport=transport))


def run(*arguments: str) -> Any:
    return RUNNER.invoke(app, ["leader", "transfer", *arguments])


def test_it_asks_and_shows_the_new_leader(store: Any) -> None:
    store.script = [httpx.Response(200, json=MOVED) for _ in range(3)]
    result = run("--shard", "1", "--to", "shard-1-2")
    assert (result.exit_code, result.stdout) == (
        0,
        "shard 1: shard-1-2 leads in term 6; before it was shard-1-0\n",
    )
    request = store.requests[0]
    assert (request.method, request.url.path, json.loads(request.content)) == (
        "POST",
        "/v1/shards/1/leader",
        {"to": "shard-1-2"},
    )
    assert json.loads(run("--shard", "1", "--json").stdout) == MOVED
    assert json.loads(store.requests[1].content) == {}
    assert RUNNER.invoke(app, ["--url", "http://127.0.0.1:26009", "leader", "transfer", "--shard", "1"]).exit_code == 0
    assert store.requests[2].url.port == 26009


@pytest.mark.parametrize(
    ("status", "document", "exit_code"),
    [
        (404, {"code": "unknown_shard", "detail": "There is no shard 9."}, 1),
        (409, {"code": "already_leader", "detail": "shard-1-2 leads already."}, 1),
        (422, {"code": "unknown_target", "detail": "shard 1 has no member x."}, 1),
        (503, {"code": "no_leader", "detail": "no leader", "outcome": "not_applied"}, 4),
        (504, {"code": "transfer_failed", "detail": "nobody", "outcome": "unknown"}, 5),
    ],
)
def test_exit_codes(store: Any, make_problem: Any, status: int, document: dict[str, str], exit_code: int) -> None:
    store.script = [make_problem(status, **document)]
    result = run("--shard", "1")
    assert (result.exit_code, result.stdout) == (exit_code, "")
    assert document["detail"].rstrip(".") in result.stderr


@pytest.mark.parametrize("arguments", [["--shard", "x"], ["--shard", "-1"], ["--shard"]])
def test_wrong_usage(arguments: list[str]) -> None:
    assert run(*arguments).exit_code == 2


def cluster_of(**nodes: list[str]) -> httpx.Response:
    """An answer of ``/v1/cluster``: the names of the nodes by shard, s0 and so on."""
    shards = [
        {"id": shard[1:], "nodes": [{"id": name, "address": "h:1", "admin": "", "role": "follower"} for name in names]}
        for shard, names in nodes.items()
    ]
    return httpx.Response(200, json={"shards": shards})


@pytest.mark.parametrize(
    ("nodes", "arguments", "path"),
    [
        ({"s4": ["a", "b"]}, [], "/v1/shards/4/leader"),
        ({"s0": ["a", "b"], "s1": ["c"]}, ["--to", "c"], "/v1/shards/1/leader"),
        ({"s0": ["a", "b"]}, ["--to", "stranger"], "/v1/shards/0/leader"),
    ],
)
def test_the_shard_is_that_of_the_node_or_the_only_one(
    store: Any, nodes: dict[str, list[str]], arguments: list[str], path: str
) -> None:
    store.script = [cluster_of(**nodes), httpx.Response(200, json=MOVED)]
    assert run(*arguments).exit_code == 0
    assert [request.url.path for request in store.requests] == ["/v1/cluster", path]


@pytest.mark.parametrize(
    ("nodes", "arguments", "text"),
    [
        ({"s0": ["a"], "s1": ["c"]}, [], "there is more than one shard: say --shard 0 or --shard 1"),
        ({"s0": ["a"], "s1": ["a"]}, ["--to", "a"], "which shard a belongs to: say --shard 0 or --shard 1"),
        ({"s0": ["a"], "s1": ["c"]}, ["--to", "x"], "which shard x belongs to: say --shard 0 or --shard 1"),
    ],
)
def test_a_shard_is_never_guessed(store: Any, nodes: dict[str, list[str]], arguments: list[str], text: str) -> None:
    store.script = [cluster_of(**nodes)]
    result = run(*arguments)
    assert (result.exit_code, len(store.requests)) == (2, 1)
    assert text in result.stderr


async def test_both_clients(store: Any) -> None:
    transport = httpx.MockTransport(store.handle)
    store.script = [
        httpx.Response(200, json=MOVED),
        httpx.Response(200, json=MOVED),
        httpx.Response(200, json={"leader": "x"}),
    ]
    with DougClient("http://127.0.0.1:1", transport=transport) as client:
        moved = client.transfer_leadership(1, "shard-1-2")
        assert (moved.shard, moved.leader, moved.term, moved.previous) == ("1", "shard-1-2", 6, "shard-1-0")
        async with AsyncDougClient("http://127.0.0.1:1", transport=transport) as other:
            assert await other.transfer_leadership("1") == moved
        with pytest.raises(ServerError):
            client.transfer_leadership(1)
