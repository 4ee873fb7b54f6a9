"""What dougctl says: in its own words, with what one needs to go on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from dougdb import AsyncDougClient, ClientClosedError, DougClient, bounded
from dougdb.access import AccessClient
from dougdb.cli import app
from dougdb.commands import auth, common

RUNNER = CliRunner()


@pytest.fixture(autouse=True)
def _served_from_memory(monkeypatch: pytest.MonkeyPatch, store: Any) -> None:
    transport = httpx.MockTransport(store.handle)
    monkeypatch.setattr(common, "DougClient", lambda url, **options: DougClient(url, **options, transport=transport))


def run(*arguments: str, stdin: bytes | None = None) -> Any:
    return RUNNER.invoke(app, list(arguments), input=stdin)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["delete-range"], "say --all"),
        (["delete-range", "photos/", "--all"], "--all means every key"),
        (["get", "k", "--max-staleness", "soon"], "max_staleness is one of"),
        (["lock", "l", "--wait", "soon", "--", "true"], "--wait is one of"),
        (["lock", "", "--", "true"], "a lock has a name"),
        (["auth", "can-i", "fly", "a"], "a verb is one of read, write, watch"),
        (["auth", "can-i", "read"], "read what? give a KEY, or --prefix"),
    ],
)
def test_a_refusal_names_what_was_typed(arguments: list[str], said: str) -> None:
    result = run(*arguments)
    assert (result.exit_code, said in result.stderr) == (2, True), result.stderr
    assert "everything=True" not in result.stderr and "a ttl" not in result.stderr


def test_a_bound_is_no_ttl() -> None:
    with pytest.raises(ValueError, match="max_staleness is one of"):
        bounded("soon")
    with pytest.raises(ValueError, match="max_staleness is at least a millisecond"):
        bounded(0)


def test_a_condition_that_does_not_hold_shows_the_present_revision(store: Any) -> None:
    assert "; there is no such key" in run("put", "k", "v", "--if-revision", "3").stderr
    run("put", "k", "v")
    assert "; the key has revision 7" in run("put", "k", "v", "--if-absent").stderr
    line = b'{"op":"put","key":"k","value":"v","if_revision":"3"}'
    assert json.loads(run("batch", stdin=line).stdout)["current_revision"] == "7"


def test_numbers_go_with_their_nouns(store: Any) -> None:
    run("put", "k/1", "v")
    assert run("delete-range", "k/", "--dry-run").stdout == "1 key would be deleted\n"
    assert run("delete-range", "k/").stdout == "1 key deleted\n"
    assert run("delete-range", "k/").stdout == "0 keys deleted\n"


def test_json_names_shards_by_number_and_operations_by_key(store: Any) -> None:
    run("put", "k", "v", "--idempotency-key", "a")
    shown = [json.loads(run(*each, "--json").stdout) for each in (["put", "k", "v"], ["get", "k"], ["delete", "k"])]
    assert [each["shard"] for each in shown] == [1, 1, 1]
    document = json.loads(run("op", "a", "k", "--json").stdout)
    assert (document["key"], document["idempotency_key"], document["state"]) == ("k", "a", "applied")


def test_the_token_may_be_named_behind_the_command(store: Any, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("doug_secret\n")
    assert run("put", "k", "v", "--token-file", str(tmp_path / "token")).exit_code == 0
    assert store.requests[-1].headers["Authorization"] == "Bearer doug_secret"
    assert run("get", "k", "--token-file", str(tmp_path / "absent")).exit_code == 2


def test_a_quiet_cluster_is_told(store: Any) -> None:
    document = {"shard": 0, "events": [], "unreachable": [], "cut": False}
    store.script = [httpx.Response(200, json=document)]
    result = run("timeline", "--shard", "0", "--since", "5m")
    assert (result.stdout, result.stderr) == ("", "nothing happened in the last 5m; --since looks further back\n")


def test_tokens_are_shown_with_what_their_roles_may(monkeypatch: pytest.MonkeyPatch) -> None:
    token = {"name": "app", "roles": ["reader"], "allow": ["write:a/"], "expires_at": None, "last_used_at": None}
    roles = [{"name": "reader", "allow": ["read:*"]}, {"name": "monitor", "allow": ["metrics"]}]
    answers = {
        "/v1/auth/tokens": {"tokens": [token]},
        "/v1/auth/roles": {"roles": roles},
        "/v1/auth/users": {"users": [{"principal": "token:app", "roles": ["monitor"]}]},
    }
    transport = httpx.MockTransport(lambda request: httpx.Response(200, json=answers[request.url.path]))
    monkeypatch.setattr(auth, "AccessClient", lambda url, **options: AccessClient(url, **options, transport=transport))
    shown = run("auth", "token", "list").stdout
    assert "write:a/, read:*, metrics" in shown and "reader, monitor" in shown
    document = json.loads(run("auth", "token", "list", "--json").stdout)["tokens"][0]
    assert (document["roles"], document["all_roles"]) == (["reader"], ["reader", "monitor"])
    assert document["may"] == ["write:a/", "read:*", "metrics"]


def test_what_is_no_operation_is_a_type_error(store: Any) -> None:
    client = DougClient(transport=httpx.MockTransport(store.handle))
    with pytest.raises(TypeError, match="not str"):
        client.batch(["x"])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="not str"):
        client.txn(success=["x"])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="not str"):
        client.txn(compare=["x"])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="every key"):
        client.delete_range(prefix="a", everything=True)
    assert store.requests == []


async def test_a_closed_client_says_so(store: Any) -> None:
    client = DougClient(transport=httpx.MockTransport(store.handle))
    client.close()
    for call in (lambda: client.get("k"), lambda: client.put("k", b""), lambda: list(client.scan())):
        with pytest.raises(ClientClosedError):
            call()
    other = AsyncDougClient(transport=httpx.MockTransport(store.handle))
    await other.close()
    with pytest.raises(ClientClosedError) as caught:
        await other.put("k", b"")
    assert (caught.value.outcome, store.requests) == ("not_applied", [])
