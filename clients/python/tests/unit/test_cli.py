"""dougctl as it is called: what it prints, and its exit codes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
import typer
from typer.testing import CliRunner

import dougdb.cli
from dougdb.cli import app
from dougdb.client import AsyncDougClient, DougClient
from dougdb.commands import common, import_tree

RUNNER = CliRunner()


@pytest.fixture(autouse=True)
def _served_from_memory(monkeypatch: pytest.MonkeyPatch, store: Any) -> None:
    transport = httpx.MockTransport(store.handle)
    monkeypatch.setattr(common, "DougClient", lambda url, **options: DougClient(url, **options, transport=transport))
    monkeypatch.setattr(
        import_tree, "AsyncDougClient", lambda url, **options: AsyncDougClient(url, **options, transport=transport)
    )


def run(*arguments: str, stdin: bytes | None = None) -> Any:
    return RUNNER.invoke(app, list(arguments), input=stdin)


def test_put_get_delete(store: Any, tmp_path: Path) -> None:
    assert run("put", "a/b", "hü").stdout == "OK\n"
    assert store.values[b"a/b"] == ("hü".encode(), "text/plain; charset=utf-8")
    assert run("get", "a/b").stdout_bytes == "hü".encode()
    assert run("put", "bin", "-", stdin=b"\x00\xff").exit_code == 0
    assert run("get", "bin", "--consistency", "eventual").stdout_bytes == b"\x00\xff"
    source = tmp_path / "page.html"
    source.write_text("<p>")
    assert run("put", "page", "--file", str(source)).exit_code == 0
    assert store.values[b"page"] == (b"<p>", "text/html")
    assert run("put", "page", "x", "--content-type", "a/b").exit_code == 0
    assert store.values[b"page"] == (b"x", "a/b")
    assert run("put", "dash", "--", "-5").exit_code == 0
    assert store.values[b"dash"][0] == b"-5"
    assert run("get", "bin", "-o", str(tmp_path / "out")).stdout == ""
    assert (tmp_path / "out").read_bytes() == b"\x00\xff"
    assert run("delete", "bin").exit_code == 0
    assert run("delete", "bin").exit_code == 0
    assert b"bin" not in store.values


def test_json(store: Any) -> None:
    assert json.loads(run("put", "k", "v", "--json").stdout) == {
        "key": "k",
        "shard": 1,
        "served_by": "shard-1-2",
        "revision": "7",
    }
    document = json.loads(run("get", "k", "--json").stdout)
    assert (document["value"], document["encoding"], document["shard"]) == ("v", "utf-8", 1)
    run("put", "k", "-", stdin=b"\xff")
    document = json.loads(run("get", "k", "--json").stdout)
    assert (document["value"], document["encoding"]) == ("/w==", "base64")


def test_status(store: Any) -> None:
    node = {"id": "shard-0-0", "address": "127.0.0.1:1", "admin": "", "role": "leader", "term": 3, "commit_index": 7}
    document = {"shards": [{"id": 0, "nodes": [node]}, {"id": 1, "nodes": [{**node, "role": "unreachable"}]}]}
    store.script = [httpx.Response(200, json=document), httpx.Response(200, json=document)]
    assert json.loads(run("status", "--json").stdout) == document
    shown = run("status").stdout
    assert "shard-0-0" in shown
    assert "leader" in shown
    assert "shard 1 has no leader" in shown
    store.script = [httpx.Response(200, json=document) for _ in range(3)]
    assert "no leader" not in run("status", "--shard", "0").stdout
    assert json.loads(run("status", "--shard", "1", "--json").stdout) == {"shards": document["shards"][1:]}
    assert run("status", "--shard", "2").exit_code == 1


@pytest.mark.parametrize(
    ("answer", "get_code", "put_code"),
    [
        (httpx.Response(404, json={"code": "not_found"}), 3, 3),
        (httpx.Response(404), 1, 1),
        (httpx.Response(404, json={"code": "unknown_route"}), 1, 1),
        (httpx.Response(400, json={"detail": "no"}), 1, 1),
        (httpx.Response(503, json={"outcome": "not_applied"}), 4, 4),
        (httpx.Response(504, json={"outcome": "unknown"}), 4, 5),
        (httpx.Response(500), 1, 5),
        (httpx.ConnectError("refused"), 4, 4),
        (httpx.ReadTimeout("slow"), 4, 5),
    ],
)
def test_exit_codes(store: Any, answer: Any, get_code: int, put_code: int) -> None:
    store.script = [answer, answer]
    read, written = run("get", "k", "--deadline", "0"), run("put", "k", "v", "--deadline", "0")
    assert (read.exit_code, written.exit_code) == (get_code, put_code)
    assert read.stderr.startswith("dougctl: ")
    assert read.stdout == written.stdout == ""


def test_who_shows_no_token_is_told_how(store: Any) -> None:
    store.script = [
        httpx.Response(401, json={"code": "unauthenticated", "detail": "Send Authorization: Bearer TOKEN."})
    ]
    result = run("get", "k", "--deadline", "0")
    assert (result.exit_code, "DOUGDB_TOKEN" in result.stderr) == (1, True)


@pytest.mark.parametrize(
    "arguments",
    [
        ["put", "k"],
        ["put", "k", "v", "--file", "f"],
        ["get", ""],
        ["get", "x" * 1025],
        ["get", "k", "--consistency", "hopeful"],
        ["get", "k", "--url", "ftp://x"],
        ["get", "k", "--url", "http://127.0.0.1:x"],
        ["get", "k", "--url", "http://"],
        ["get", "k", "--output", ""],
        ["put", "k", "--file", ""],
        ["import-tree", ""],
        ["dev", "--data", ""],
        ["backup", "create", ""],
        ["backup", "restore", "b", "--data", ""],
        ["get"],
        ["nonsense"],
        ["import-tree", "/nonexistent"],
        ["dev", "--node-env", "NOVALUE"],
        ["dev", "--shards", "0"],
    ],
)
def test_wrong_usage(arguments: list[str]) -> None:
    assert run(*arguments).exit_code == 2


def test_the_url_comes_from_the_option_or_the_environment(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOUGDB_URL", "http://127.0.0.1:26001/")
    run("put", "k", "v")
    run("--url", "http://127.0.0.1:26002", "put", "k", "v")
    run("--url", "http://127.0.0.1:26002", "put", "k", "v", "--url", "http://127.0.0.1:26003")
    assert [request.url.port for request in store.requests] == [26001, 26002, 26003]
    assert store.requests[0].url.raw_path == b"/v1/kv/k"


def test_the_authority_may_be_named_behind_the_command(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str | None] = []

    def make(url: str, ca_file: str | None = None, **options: Any) -> DougClient:
        seen.append(ca_file)
        return DougClient(url, transport=httpx.MockTransport(store.handle))

    monkeypatch.setattr(common, "DougClient", make)
    run("put", "k", "v")
    run("--ca-file", "before.crt", "put", "k", "v")
    run("--ca-file", "before.crt", "put", "k", "v", "--ca-file", "behind.crt")
    assert seen == [None, "before.crt", "behind.crt"]


def test_completion_can_be_installed() -> None:
    assert "--install-completion" in run("--help").stdout


def test_status_fits_80_columns_and_shows_who_waits(store: Any) -> None:
    figures = {"term": 12345, "commit_index": 123_456_789, "applied_index": 123_456_789, "last_log_index": 123_456_789}
    node = {"id": "dougdb-shard-0-4", "address": "x" * 60, "admin": "", "role": "waiting", **figures}
    store.script = [httpx.Response(200, json={"shards": [{"id": 0, "nodes": [node, {**node, "role": "unreachable"}]}]})]
    shown = run("status").stdout
    assert all(len(line.rstrip()) <= 80 for line in shown.splitlines())
    assert "dougdb-shard-0-4 is no member as it is, and waits" in shown


def test_a_key_is_shown_escaped(store: Any) -> None:
    result = run("get", "\x1b[31mred")
    assert result.exit_code == 3 and result.stderr == "dougctl: not found: \\x1b[31mred\n"


def test_an_interrupted_import_says_what_was_stored(
    store: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for number in range(5):
        (tmp_path / f"f{number}").touch()

    async def handle(request: httpx.Request) -> httpx.Response:
        if len(store.values) == 3:
            signal.raise_signal(signal.SIGINT)
        await asyncio.sleep(0)
        return cast("httpx.Response", store.handle(request))

    transport = httpx.MockTransport(handle)
    monkeypatch.setattr(
        import_tree, "AsyncDougClient", lambda url, **options: AsyncDougClient(url, **options, transport=transport)
    )
    result = run("import-tree", str(tmp_path), "--concurrency", "1")
    assert result.exit_code == 130
    assert result.stdout.startswith("stored 3 files")
    assert "interrupted before the end" in result.stderr


def test_interrupted(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(request: httpx.Request) -> httpx.Response:
        raise KeyboardInterrupt

    monkeypatch.setattr(
        common,
        "DougClient",
        lambda url, **options: DougClient(url, **options, transport=httpx.MockTransport(interrupt)),
    )
    assert run("get", "k").exit_code == 130


def test_import_tree(store: Any, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a").write_bytes(b"\x00" * 5)
    (tmp_path / "b").touch()
    result = run("import-tree", str(tmp_path), "--prefix", "p/", "--verify", "--json")
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    assert (document["stored"], document["stored_bytes"], document["verified"]) == (2, 5, 2)
    assert set(store.values) == {b"p/d/a", b"p/b"}
    del store.values[b"p/b"]
    result = run("import-tree", str(tmp_path), "--prefix", "p/", "--verify-only", "--consistency", "linearizable")
    assert result.exit_code == 1
    assert "1 read back equal, 1 missing" in result.stdout
    assert f"{tmp_path / 'b'}: missing" in result.stderr


def test_import_tree_names_what_is_too_large(store: Any, tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes((1 << 20) + 1))
    result = run("import-tree", str(tmp_path), "--verify")
    assert result.exit_code == 1
    assert "1 too large" in result.stdout
    assert "large: too large: 1048577 bytes" in result.stderr
    assert run("import-tree", str(tmp_path), "--skip-too-large").exit_code == 0
    Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), b"bad\xff"))).touch()
    result = run("import-tree", str(tmp_path), "--skip-too-large", "--json")
    assert result.exit_code == 1
    assert "not valid UTF-8" in result.stderr


def test_help_and_version() -> None:
    shown = run("--help").stdout
    assert "Exit codes" in shown
    assert all(name in shown for name in ("dev", "get", "put", "delete", "status", "import-tree"))
    assert run("--version").stdout.startswith(f"dougctl {dougdb.__version__} ")


def test_dev_on_windows_is_told_to_use_wsl(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.platform", "win32")
    result = run("dev")
    assert result.exit_code == common.ExitCode.USAGE
    assert "WSL2" in result.stderr
    assert list(tmp_path.iterdir()) == [], "nothing was touched"


def test_other_packages_add_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    group = typer.Typer()
    group.command()(lambda: print("group ran"))

    def single(number: int) -> None:
        """Double a number."""
        print(number * 2)

    targets = {"wal": group, "double": single}

    class Point(EntryPoint):
        def load(self) -> Any:
            if self.name == "broken":
                raise ImportError("no such module")
            return targets[self.name]

    points = [Point(name, f"x:{name}", dougdb.cli.GROUP) for name in ("wal", "double", "broken", "get")]

    def entry_points(group: str, name: str | None = None) -> list[Point]:
        return [point for point in points if name in (None, point.name)]

    monkeypatch.setattr(dougdb.cli, "entry_points", entry_points)
    assert run("double", "21").stdout == "42\n"
    assert run("wal").stdout == "group ran\n"
    assert run("broken").exit_code == 1
    shown = run("--help").stdout
    assert "Double a number" in shown
    assert shown.count("get ") == 1
    assert "exit_code" not in run("get", "k").stdout
