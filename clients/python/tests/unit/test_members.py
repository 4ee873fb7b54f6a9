"""``dougctl members``: what it asks for, what it shows, how it waits, and its exit codes."""

from __future__ import annotations

import json
import time
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from dougdb.cli import app
from dougdb.client import AsyncDougClient, DougClient
from dougdb.commands import common, members
from dougdb.errors import ServerError

RUNNER = CliRunner()
CHANGED = {"shard": 1, "name": "n5", "incarnation": "77", "removed_incarnation": None, "index": 9, "term": 3}


def view(name: str, role: str = "voter", **fields: Any) -> dict[str, Any]:
    return {
        "name": name,
        "incarnation": "77" if name == "n5" else "5",
        "role": role,
        "leader": False,
        "address": f"{name}:1",
        "client_address": None,
        "match_index": 40,
        "lag": 2,
        "state": "replicate",
        "healthy": True,
        **fields,
    }


def listed(*views: dict[str, Any], changing: bool = False) -> httpx.Response:
    document = {"shard": 1, "term": 3, "commit_index": 42, "last_log_index": 42, "changing": changing}
    return httpx.Response(200, json={**document, "members": list(views)})


LEADER = view("n0", leader=True, lag=0, state=None, match_index=42)


@pytest.fixture(autouse=True)
def _served_from_memory(monkeypatch: pytest.MonkeyPatch, store: Any) -> None:
    transport = httpx.MockTransport(store.handle)
    monkeypatch.setattr(common, "DougClient", lambda url, **options: DougClient(url, **options, transport=transport))
    monkeypatch.setattr(members, "POLL_S", 0.0)


def run(*arguments: str) -> Any:
    return RUNNER.invoke(app, ["members", *arguments])


def test_the_list_is_a_table_or_json(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    views = (LEADER, view("n1", healthy=False), view("n5", "learner", state="snapshot", address=None))
    store.script = [listed(*views, changing=True) for _ in range(2)]
    result = run("list", "--shard", "1")
    assert result.exit_code == 0
    for text in ("n0", "leader", "n1", "no", "n5", "learner", "snapshot", "42", "a change is not committed yet"):
        assert text in result.stdout
    assert store.requests[0].url.path == "/v1/shards/1/members"
    assert json.loads(run("list", "--shard", "1", "--json").stdout)["members"] == list(views)


def test_the_list_of_all_shards(store: Any) -> None:
    node = {"id": "n0", "address": "n0:1", "admin": "", "role": "leader"}
    cluster = httpx.Response(200, json={"shards": [{"id": 0, "nodes": [node]}, {"id": 1, "nodes": []}]})
    store.script = [cluster, listed(LEADER), listed(LEADER, changing=True)] * 2
    result = run("list")
    assert result.exit_code == 0 and "shard 1: a change is not committed yet" in result.stdout
    assert [request.url.path for request in store.requests[1:]] == ["/v1/shards/0/members", "/v1/shards/1/members"]
    assert len(json.loads(run("list", "--json").stdout)["shards"]) == 2


def test_the_list_is_never_cut_off(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    name, address = "a-name-of-some-length-0", "shard-0-0.shard-0-peers.database.svc.cluster.local:21001"
    store.script = [listed(view(name, address=address, incarnation="8903331230004567890"))]
    row = next(line for line in run("list", "--shard", "1", "--wide").stdout.splitlines() if name in line)
    assert address in row and "8903331230004567890" in row and row.rstrip().endswith("yes")


def test_the_list_fits_80_columns(store: Any) -> None:
    name, address = "dougdb-shard-0-4", "dougdb-shard-0-4.dougdb-shard-0.database.svc.cluster.local:7002"
    figures = {"match_index": 1_234_567_890, "lag": 1_234_567, "state": "replicate", "address": address}
    store.script = [listed(view(name, "learner", **figures))]
    assert all(len(line.rstrip()) <= 80 for line in run("list", "--shard", "1").stdout.splitlines())


@pytest.mark.parametrize(
    "address", ["nonsense", "host", "host:", ":1", "host:0", "host:65536", "host:x", "::1:7002", "[::1]", "a b:1", ""]
)
def test_an_address_is_a_host_and_a_port(store: Any, address: str) -> None:
    for arguments in (["add", "n5"], ["replace", "n5"]):
        result = run(*arguments, "--shard", "1", "--address", address)
        assert result.exit_code == 2 and "host:port" in result.stderr
    assert store.requests == []


def test_a_node_that_nobody_knows_yet_tells_its_shard_by_its_name(store: Any) -> None:
    cluster = httpx.Response(200, json={"shards": [{"id": 0, "nodes": []}, {"id": 1, "nodes": []}]})
    for name in ("shard-1-5", "dougdb-shard-1-5"):
        store.script += [cluster, httpx.Response(200, json=CHANGED)]
        assert run("add", name, "--address", "[::1]:7002", "--no-wait").exit_code == 0
        assert store.requests[-1].url.path == "/v1/shards/1/members"
    for name in ("n9", "shard-7-0"):
        store.script = [cluster]
        assert run("add", name, "--address", "h:1").exit_code == 2


def test_a_node_tells_its_shard(store: Any) -> None:
    node = {"id": "n5", "address": "n5:1", "admin": "", "role": "unreachable"}
    cluster = httpx.Response(200, json={"shards": [{"id": 0, "nodes": []}, {"id": 1, "nodes": [node]}]})
    store.script = [cluster, httpx.Response(200, json=CHANGED)]
    assert run("replace", "n5", "--no-wait").exit_code == 0
    assert store.requests[1].url.path == "/v1/shards/1/members/n5/replace"


def test_add_waits_until_the_learner_is_a_voter(store: Any) -> None:
    unavailable = httpx.Response(503, json={"code": "no_leader", "detail": "no leader", "outcome": "not_applied"})
    store.script = [
        httpx.Response(200, json=CHANGED),
        listed(LEADER),
        listed(LEADER, view("n5", "learner", healthy=False)),
        unavailable,
        listed(LEADER, view("n5", "learner")),
        listed(LEADER, view("n5", "learner")),
        listed(LEADER, view("n5")),
    ]
    result = run("add", "n5", "--shard", "1", "--address", "h:1")
    assert result.exit_code == 0
    assert result.stdout == "shard 1: n5 was admitted as a learner\nshard 1: n5 is a voter\n"
    assert [line for line in result.stderr.splitlines() if "n5" in line] == [
        "shard 1: n5 is not heard",
        "shard 1: n5 is catching up",
    ]
    request = store.requests[0]
    assert (request.method, request.url.path, json.loads(request.content)) == (
        "POST",
        "/v1/shards/1/members",
        {"name": "n5", "address": "h:1"},
    )
    assert store.script == []


def test_it_need_not_wait(store: Any) -> None:
    store.script = [httpx.Response(200, json=CHANGED) for _ in range(2)]
    result = run("add", "n5", "--shard", "1", "--address", "h:1", "--no-wait")
    assert (result.exit_code, result.stdout) == (0, "shard 1: n5 was admitted as a learner\n")
    result = run("replace", "n5", "--shard", "1", "--no-wait", "--json")
    assert (result.exit_code, json.loads(result.stdout)) == (0, CHANGED)


def test_ctrl_c_says_that_the_change_goes_on(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", interrupt)
    store.script = [httpx.Response(200, json=CHANGED), listed(LEADER, view("n5", "learner"))]
    result = run("add", "n5", "--shard", "1", "--address", "h:1")
    assert result.exit_code == 130
    assert "goes on catching up without this command" in result.stderr


def test_one_that_is_taken_away_meanwhile_ends_the_wait(store: Any) -> None:
    other = view("n5", incarnation="78")
    store.script = [httpx.Response(200, json=CHANGED), *[listed(LEADER, other)] * members.MISSED_MAX]
    result = run("add", "n5", "--shard", "1", "--address", "h:1")
    assert result.exit_code == 1
    assert "not a member any more" in result.stderr


def test_remove_and_replace_ask_for_what_they_say(store: Any) -> None:
    replaced = {**CHANGED, "removed_incarnation": "5"}
    store.script = [httpx.Response(200, json=CHANGED) for _ in range(2)]
    store.script += [httpx.Response(200, json=replaced), listed(LEADER, view("n5")), httpx.Response(200, json=replaced)]
    assert run("remove", "n5", "--shard", "1").stdout == "shard 1: n5 was removed\n"
    assert json.loads(run("remove", "a/b", "--shard", "1", "--force", "--json").stdout) == CHANGED
    result = run("replace", "n5", "--shard", "1")
    assert result.stdout == "shard 1: n5 was admitted anew, as a learner\nshard 1: n5 is a voter\n"
    assert run("replace", "n5", "--shard", "1", "--address", "h:2", "--force", "--no-wait").exit_code == 0
    removed, forced, replace, _, elsewhere = store.requests
    assert (removed.method, removed.url.raw_path) == ("DELETE", b"/v1/shards/1/members/n5")
    assert forced.url.raw_path == b"/v1/shards/1/members/a%2Fb?force=true"
    assert (replace.method, replace.url.raw_path, replace.content) == (
        "POST",
        b"/v1/shards/1/members/n5/replace",
        b"{}",
    )
    assert elsewhere.url.raw_path == b"/v1/shards/1/members/n5/replace?force=true"
    assert json.loads(elsewhere.content) == {"address": "h:2"}


@pytest.mark.parametrize(
    ("status", "document", "exit_code"),
    [
        (404, {"code": "unknown_member", "detail": "Shard 1 has no member n5."}, 1),
        (409, {"code": "quorum_at_risk", "detail": "The others cannot."}, 1),
        (503, {"code": "change_under_way", "detail": "another", "outcome": "not_applied"}, 4),
        (504, {"code": "outcome_unknown", "detail": "nobody knows", "outcome": "unknown"}, 5),
    ],
)
def test_exit_codes(store: Any, make_problem: Any, status: int, document: dict[str, str], exit_code: int) -> None:
    store.script = [make_problem(status, **document)]
    result = run("remove", "n5", "--shard", "1")
    assert (result.exit_code, result.stdout) == (exit_code, "")
    assert document["detail"].rstrip(".") in result.stderr


@pytest.mark.parametrize(
    "arguments", [[], ["replace"], ["add", "n5", "--shard", "1"], ["remove", "--shard", "1"], ["list", "--shard", "-1"]]
)
def test_wrong_usage(arguments: list[str]) -> None:
    assert run(*arguments).exit_code == 2


@pytest.mark.parametrize("command", [["add", "n5", "--address", "h:1"], ["replace", "n5"]])
def test_the_incarnation_that_a_nodes_log_says_goes_along(store: Any, command: list[str]) -> None:
    store.script = [httpx.Response(200, json=CHANGED)]
    assert run(*command, "--shard", "1", "--incarnation", "7422719541627421067", "--no-wait").exit_code == 0
    assert json.loads(store.requests[-1].content)["incarnation"] == "7422719541627421067"
    assert run(*command, "--shard", "1", "--incarnation", "no", "--no-wait").exit_code == 2


async def test_both_clients(store: Any) -> None:
    transport = httpx.MockTransport(store.handle)
    for _ in range(2):
        store.script += [listed(LEADER), *(httpx.Response(200, json=CHANGED) for _ in range(3))]
    store.script += [httpx.Response(200, json={}), httpx.Response(200, json={"members": [{}]})]
    with DougClient("http://127.0.0.1:1", transport=transport) as client:
        first = [client.members(1), client.add_member(1, "n5", "h:1")]
        first += [client.remove_member(1, "n5", force=True), client.replace_member(1, "n5", "h:1")]
        async with AsyncDougClient("http://127.0.0.1:1", transport=transport) as other:
            second = [await other.members(1), await other.add_member(1, "n5", "h:1")]
            second += [await other.remove_member(1, "n5", force=True), await other.replace_member(1, "n5", "h:1")]
        assert first == second
        assert [(r.method, r.url, r.content) for r in store.requests[:4]] == [
            (r.method, r.url, r.content) for r in store.requests[4:8]
        ]
        with pytest.raises(ServerError):
            client.remove_member(1, "n5")
        with pytest.raises(ServerError):
            client.members(1)
