"""dougctl's commands for every operation: what they do, print, and end with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from dougdb.cli import app
from dougdb.client import DougClient
from dougdb.commands import common, dump, operations
from dougdb.running import Command

RUNNER = CliRunner()


@pytest.fixture(autouse=True)
def _served_from_memory(monkeypatch: pytest.MonkeyPatch, store: Any) -> None:
    def make(url: str, **options: Any) -> DougClient:
        return DougClient(url, **options, transport=httpx.MockTransport(store.handle))

    monkeypatch.setattr(common, "DougClient", make)
    monkeypatch.setattr(dump, "DougClient", make)


def run(*arguments: str, stdin: bytes | None = None) -> Any:
    return RUNNER.invoke(app, list(arguments), input=stdin)


def test_conditions_counters_and_expiry(store: Any) -> None:
    assert run("put", "k", "v", "--if-absent", "--ttl", "30s").exit_code == 0
    assert store.ttls[b"k"] == "30s"
    result = run("put", "k", "w", "--if-absent")
    assert (result.exit_code, "412" in result.stderr) == (1, True)
    assert ".;" not in result.stderr
    assert run("put", "k", "w", "--if-revision", "7").exit_code == 0
    assert run("get", "k", "--if-revision", "7").exit_code == 1
    assert run("touch", "k", "5m", "--if-revision", "8").exit_code == 0
    assert store.ttls[b"k"] == "5m"
    assert run("touch", "absent", "5m").exit_code == 3
    assert run("increment", "n").stdout == "1\n"
    assert run("increment", "n", "-2").stdout == "-1\n"
    assert run("increment", "n", "2").stdout == "1\n"
    assert run("increment", "n", "--if-exits").exit_code == run("increment", "n", "-x").exit_code == 2
    document = json.loads(run("increment", "n", "--json", "--", "-5").stdout)
    assert (document["value"], document["key"]) == ("-4", "n")
    assert run("increment", "k").exit_code == 1
    assert run("delete", "k", "--if-exists").exit_code == 0
    assert run("delete", "k", "--if-exists").exit_code == 1
    twice = [json.loads(run("increment", "m", "--idempotency-key", "a", "--json").stdout) for _ in range(2)]
    assert (twice[0]["value"], twice[1]["value"], twice[1]["replayed"]) == ("1", "1", True)
    assert run("op", "a", "m").stdout.startswith("applied, HTTP 200, revision ")
    assert json.loads(run("op", "b", "m", "--json").stdout)["state"] == "unknown"
    assert "key_bytes" in run("limits").stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["put", "k", "v", "--ttl", "soon"],
        ["put", "k", "v", "--if-revision", "x"],
        ["put", "k", "v", "--if-absent", "--if-exists"],
        ["touch", "k", "keep"],
        ["scan", "a", "--start", "b"],
        ["scan", "a", "--prefix", "a"],
        ["count", "--prefix", "a", "--start", "b"],
        ["delete-range", "a", "--prefix", "a"],
        ["delete-range"],
        ["delete-range", "photos/", "--all"],
        ["delete-range", "--start", "a", "--all"],
        ["delete-range", "--end", "a", "--all", "--dry-run"],
        ["lock", "", "--", "true"],
        ["auth", "can-i", "fly", "a"],
        ["auth", "can-i", "read"],
        ["auth", "can-i", "read", "a", "--prefix", "a"],
        ["auth", "can-i", "admin:auth", "a"],
        ["lock", "l"],
        ["lock", "l", "--ttl", "1ms", "--", "true"],
        ["lock", "l", "--wait", "long", "--", "true"],
        ["export", "--resume"],
        ["export", "--verify"],
        ["import", "-", "--resume"],
        ["get", "k", "--deadline", "-1"],
    ],
)
def test_wrong_usage(store: Any, arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert store.requests == []


def test_ranges(store: Any) -> None:
    for key in ("a", "b/\x1b[2J", "b/2"):
        assert run("put", key, "x" * 70).exit_code == 0
    assert run("put", os.fsdecode(b"\xff"), "").exit_code == 0
    lines = run("scan").stdout.splitlines()
    assert lines[0] == f"a\t{'x' * 60} ... (70 bytes)"
    assert lines[1].startswith("b/\\x1b[2J\t")
    assert run("scan", "b/", "--keys-only", "--limit", "1").stdout == "b/\\x1b[2J\n"
    documents = [json.loads(line) for line in run("scan", "--start", "b", "--end", "c", "--json").stdout.splitlines()]
    assert [each["key"] for each in documents] == ["b/\x1b[2J", "b/2"]
    assert json.loads(run("scan", "--start", "z", "--json", "--keys-only").stdout)["key64"] == "_w"
    assert run("count", "b/").stdout == run("count", "--prefix", "b/").stdout == "2\n"
    assert run("scan", "--prefix", "b/").stdout == run("scan", "b/").stdout
    assert run("delete-range", "b/", "--dry-run").stdout == "2 keys would be deleted\n"
    assert json.loads(run("delete-range", "b/", "--json").stdout)["deleted"] == 2
    assert run("delete-range", "--all").exit_code == 0
    assert store.values == {}


def test_folders(store: Any) -> None:
    page = {"items": [store_entry("p/a"), store_entry("p/z")], "prefixes": ["p/b/", {"prefix64": "cC__Lw"}]}
    store.script = [httpx.Response(200, json={**page, "next_cursor": None, "revisions": {}})] * 2
    assert run("scan", "p/", "--delimiter", "/", "--keys-only").stdout == "p/a\np/b/\np/z\np/\\xff/\n"
    assert run("scan", "p/", "--delimiter", "/", "--keys-only", "--limit", "2").stdout == "p/a\np/b/\n"


def store_entry(key: str) -> dict[str, Any]:
    return {"key": key, "value": "", "encoding": "utf-8", "revision": "7", "content_type": "a/b", "expires_at": None}


def test_batches_and_transactions(store: Any) -> None:
    lines = b'{"op":"put","key":"a","value":"1"}\n\n{"op":"get","key":"a"}\n{"op":"increment","key":"a","by":2}\n'
    result = run("batch", "-", stdin=lines)
    assert result.exit_code == 0
    documents = [json.loads(line) for line in result.stdout.splitlines()]
    assert [each["status"] for each in documents] == [200, 200, 200]
    assert (documents[1]["value"], documents[2]["value"]) == ("1", "3")
    result = run("batch", stdin=b'{"op":"touch","key":"absent","ttl":"5s"}\n')
    assert (result.exit_code, json.loads(result.stdout)["code"]) == (1, "not_found")
    txn = {"compare": [{"key": "a", "value": "3"}], "success": [{"op": "put", "key": "a", "value": "4"}]}
    document = json.loads(run("txn", "-", stdin=json.dumps(txn).encode()).stdout)
    assert (document["succeeded"], document["results"][0]["status"]) == (True, 200)
    document = json.loads(run("txn", stdin=json.dumps(txn).encode()).stdout)
    assert (document["succeeded"], document["results"]) == (False, [])


@pytest.mark.parametrize(
    "line",
    [
        "nonsense",
        "[]",
        '{"op":"jump","key":"a"}',
        '{"op":"put","key":"a"}',
        '{"op":"get"}',
        '{"op":"get","key":"a","ttl":"5s"}',
        '{"op":"touch","key":"a"}',
        '{"op":"put","key":"a","value":"?","encoding":"base64"}',
        '{"op":"put","key":"a","value":"6869","encoding":"hex"}',
        '{"op":"put","key":"a","value":{"b":1}}',
        '{"op":"put","key":"a","value":null}',
        '{"op":"put","key":5,"value":"1"}',
        '{"op":"put","key":"","value":"1"}',
        '{"op":"put","key":"a","value":"1","ttl":"soon"}',
        '{"op":"put","key":"a","value":"1","if_absent":"yes"}',
        '{"op":"put","key":"a","value":"1","if_absent":true,"if_exists":true}',
        '{"op":"increment","key":"a","by":1.5}',
        '{"op":"increment","key":"a","by":true}',
        '{"op":["put"],"key":"a"}',
    ],
)
def test_a_line_that_makes_no_sense_is_refused_alone(store: Any, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations, "GROUP", 2)
    good = '{"op":"put","key":"good","value":"1"}'
    for before in ([], [good] * 3):
        result = run("batch", stdin="\n".join([*before, line, good]).encode())
        results = [json.loads(shown) for shown in result.stdout.splitlines()]
        refused = results.pop(len(before))
        assert (result.exit_code, refused["status"], refused["line"]) == (1, 400, len(before) + 1)
        assert refused["outcome"] == "not_applied" and refused["detail"]
        assert [each["status"] for each in results] == [200] * (len(before) + 1)
    store.requests.clear()
    result = run("batch", "--idempotency-key", "a", stdin=f"{good}\n{line}".encode())
    assert (result.exit_code, "line 2" in result.stderr, store.requests) == (2, True, [])


def test_a_batch_with_an_idempotency_key_happens_once(store: Any) -> None:
    line = b'{"op":"increment","key":"n"}\n'
    shown = [run("batch", "--idempotency-key", "a", stdin=line * 2).stdout.splitlines() for _ in range(2)]
    assert [json.loads(each)["value"] for each in shown[0] + shown[1]] == ["1", "2", "1", "2"]
    assert json.loads(shown[1][0])["replayed"] is True


# -- export and import ----------------------------------------------------------------------------------------------


def fill(store: Any) -> dict[bytes, tuple[bytes, str]]:
    """Keys and values of any bytes."""
    for number in range(300):
        store.once({"op": "put", "key": f"k/{number:03}", "value": f"\u2028{number}", "content_type": "text/x"})
    store.once({"op": "put", "key64": "_wA=", "value": "AP8=", "encoding": "base64"})
    return dict(store.values)


def test_what_is_exported_is_imported_again(store: Any, tmp_path: Path) -> None:
    before = fill(store)
    path = tmp_path / "all.ndjson"
    result = run("export", str(path), "--verify", "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert (document["exported"], document["verified"], document["problems"]) == (301, 301, 0)
    assert path.stat().st_mode & 0o077 == 0
    assert run("export", str(path)).exit_code == 2, "a file is not replaced unasked"
    piped = run("export", "--prefix", "k/").stdout_bytes
    assert len(piped.splitlines()) == 302
    store.values.clear()
    result = run("import", str(path), "--verify", "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert (document["stored"], document["verified"], document["problems"]) == (301, 301, 0)
    assert store.values == before
    assert not any("Idempotency-Key" in request.headers for request in store.requests)
    assert list(tmp_path.iterdir()) == [path], "the mark goes when it is complete"
    assert run("import", "-", "--if-absent", stdin=piped).stdout.startswith("0 stored, 300 kept")
    store.values[b"k/000"] = (b"other", "text/x")
    store.values.pop(b"k/001")
    result = run("import", str(path), "--verify-only", "--json")
    assert json.loads(result.stdout)["verified"] == 299


def test_an_export_goes_on_where_it_was_cut_off(store: Any, tmp_path: Path) -> None:
    before = fill(store)
    path = tmp_path / "all.ndjson"
    assert run("export", str(path)).exit_code == 0
    whole = path.read_bytes()
    for size in (len(whole) // 2, whole.index(b"\n") + 1, len(whole) - 3, len(whole)):
        path.write_bytes(whole[:size])
        assert run("export", str(path), "--resume").exit_code == 0
        assert path.read_bytes() == whole, size
    assert run("export", str(path), "--resume", "--prefix", "k/").exit_code == 2, "another range"
    path.write_bytes(b"hello\n")
    assert run("export", str(path), "--resume").exit_code == 2
    assert store.values == before


def test_an_import_goes_on_where_it_was_cut_off(store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = fill(store)
    path = tmp_path / "all.ndjson"
    run("export", str(path))
    store.values.clear()
    monkeypatch.setattr("dougdb.dump.GROUP_ENTRIES", 50)
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:151]) + b"x" * (len(whole) - len(b"".join(lines[:151]))))
    result = run("import", str(path), "--concurrency", "1")
    assert (result.exit_code, "--resume" in result.stderr) == (1, True)
    assert len(store.values) >= 100
    path.write_bytes(whole)
    store.requests.clear()
    result = run("import", str(path), "--resume")
    assert result.exit_code == 0, result.output
    assert store.values == before
    assert sum(len(json.loads(request.content)["operations"]) for request in store.requests) < 300
    (tmp_path / "all.ndjson.import").write_text('{"lines": 5, "size": 1}')
    assert run("import", str(path), "--resume").exit_code == 2


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        (b"nonsense\n", 1, "line 1 is not JSON"),
        (b"[]\n", 1, "line 1 is not a JSON object"),
        (b'{"key": "a", "revision": "1"}\n', 1, "has no value"),
        (b'{"dougdb_export": 2}\n', 1, "not an export of version 1"),
        (b'{"dougdb_export": 1}\n{"key": "a", "value": "1"}\n', 1, "its last line is missing"),
        (
            b'{"dougdb_export": 1}\n{"key": "a", "value": "1"}\n{"complete": true, "count": 2}\n',
            1,
            "line 3: 1 entry stands before it, and it counts 2",
        ),
        (b'{"key": "a", "value": "1"}\n{"key": "b", "value": "2"}', 0, ""),
    ],
)
def test_what_is_no_export_or_is_cut_off_is_told(store: Any, text: bytes, code: int, said: str) -> None:
    result = run("import", "-", stdin=text)
    assert (result.exit_code, said in result.stderr) == (code, True), result.output


def test_expiry_goes_along(store: Any) -> None:
    soon = datetime.now(UTC).replace(year=datetime.now(UTC).year + 1).isoformat()
    lines = [
        {"key": "lives", "value": "1", "expires_at": soon},
        {"key": "gone", "value": "1", "expires_at": "2001-01-01T00:00:00.000Z"},
    ]
    result = run("import", "-", "--json", stdin=b"".join(json.dumps(line).encode() + b"\n" for line in lines))
    document = json.loads(result.stdout)
    assert (document["stored"], document["expired"]) == (1, 1)
    assert store.ttls[b"lives"].endswith("ms")
    assert b"gone" not in store.values


def test_entries_that_are_refused_are_named(store: Any) -> None:
    refused = {"status": 413, "code": "value_too_large", "detail": "too large", "outcome": "not_applied"}
    store.script = [httpx.Response(200, json={"results": [refused]})]
    result = run("import", "-", stdin=b'{"key": "a\\u001b", "value": "1"}\n')
    assert (result.exit_code, "a\\x1b: rejected with 413" in result.stderr) == (1, True)


# -- trees ----------------------------------------------------------------------------------------------------------


def test_keys_become_files(store: Any, tmp_path: Path) -> None:
    for key, value in {"t/a/b": b"1", "t/c": b"\x00", "u/x": b""}.items():
        store.values[key.encode()] = (value, "a/b")
    root = tmp_path / "new" / "tree"
    result = run("export-tree", str(root), "--prefix", "t/", "--verify", "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert (document["written"], document["verified"], document["problems"]) == (2, 2, 0)
    assert ((root / "a/b").read_bytes(), (root / "c").read_bytes()) == (b"1", b"\x00")
    assert (root / "c").stat().st_mode & 0o077 == 0
    result = run("export-tree", str(root), "--prefix", "t/", "--json")
    assert json.loads(result.stdout)["unchanged"] == 2
    (root / "c").write_bytes(b"mine")
    assert run("export-tree", str(root), "--prefix", "t/").exit_code == 1
    assert (root / "c").read_bytes() == b"mine"
    assert run("export-tree", str(root), "--prefix", "t/", "--overwrite").exit_code == 0
    assert (root / "c").read_bytes() == b"\x00"


def test_no_key_leads_out_of_the_directory(store: Any, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(outside)
    (root / "dangling").symlink_to(outside / "new")
    bad = ["../x", "a/../../x", "/etc/x", "a//b", "a/", ".", "z\0", "link/x", "dangling", "n" * 256]
    for key in [*bad, "both", "both/below", "good"]:
        store.values[key.encode()] = (b"v", "a/b")
    result = run("export-tree", str(root), "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["problems"] == len(bad) + 1
    assert list(outside.iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outside", "root"]
    assert (root / "good").read_bytes() == (root / "both").read_bytes() == b"v"


# -- locks ----------------------------------------------------------------------------------------------------------


def test_a_command_runs_while_the_lock_is_held(store: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shell = f'echo "$DOUGDB_FENCING_TOKEN" > {out}; exit 7'
    assert run("lock", "l", "--", "sh", "-c", shell).exit_code == 7
    assert out.read_text() == "7\n"
    assert b"locks/l" not in store.values
    assert run("lock", "l", "--", "true").exit_code == 0
    assert run("lock", "l", "--", "sh", "-c", "kill -TERM $$").exit_code == 128 + signal.SIGTERM
    result = run("lock", "l", "--", "/nonexistent")
    assert (result.exit_code, "command not found" in result.stderr) == (127, True)
    assert run("lock", "l", "--", str(tmp_path)).exit_code == 126
    assert store.values == {}
    store.once({"op": "put", "key": "locks/l", "value": '{"owner": "ann"}'})
    result = run("lock", "l", "--wait", "0", "--", "sh", "-c", f"rm {out}")
    assert (result.exit_code, "held by ann" in result.stderr) == (4, True)
    assert out.exists()


def test_a_command_is_stopped_when_the_lock_is_lost(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    left = [10.0]
    running = Command(
        ["sh", "-c", f"trap 'exit 3' TERM; touch {ready}; while :; do sleep 0.02; done"],
        os.environ,
        left_s=lambda: 0.5 if ready.exists() else left[0],
        grace_s=1.0,
    )
    assert (running.run(), running.stopped) == (3, True)


def test_a_command_that_does_not_stop_is_killed(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    running = Command(
        ["sh", "-c", f"trap '' TERM; touch {ready}; while :; do sleep 0.02; done"],
        os.environ,
        left_s=lambda: 0.0 if ready.exists() else 10.0,
        grace_s=1.0,
    )
    assert running.run() == 128 + signal.SIGKILL


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_signals_reach_the_command(tmp_path: Path, number: signal.Signals) -> None:
    ready = tmp_path / "ready"
    name = number.name.removeprefix("SIG")
    program = (
        "import os, sys\nfrom dougdb.running import Command\n"
        f"argv = ['sh', '-c', \"trap 'exit 9' {name}; touch {ready}; while :; do sleep 0.02; done\"]\n"
        "sys.exit(Command(argv, os.environ, left_s=lambda: 10.0, grace_s=1.0).run())\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], start_new_session=True, stdin=subprocess.DEVNULL) as process:
        wait_until(ready.exists)
        process.send_signal(number)
        assert process.wait(60) == 9


def test_a_signal_that_comes_while_the_command_is_started_reaches_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready, start = tmp_path / "ready", subprocess.Popen

    def interrupted(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        child = start(*arguments, **options)
        wait_until(ready.exists)
        os.kill(os.getpid(), signal.SIGTERM)
        return child

    monkeypatch.setattr("dougdb.running.subprocess.Popen", interrupted)
    argv = ["sh", "-c", f"trap 'exit 9' TERM; touch {ready}; while :; do sleep 0.02; done"]
    ends_s = time.monotonic() + 60
    running = Command(argv, os.environ, left_s=lambda: 10.0 if time.monotonic() < ends_s else 0.0, grace_s=1.0)
    assert running.run() == 9
    assert not running.stopped


def wait_until(holds: Callable[[], bool]) -> None:
    ends_s = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < ends_s


def test_a_ctrl_c_in_a_terminal_reaches_the_command_once(tmp_path: Path) -> None:
    """Its whole group gets it from the terminal; handed on once more it would count twice."""
    ready, told = tmp_path / "ready", tmp_path / "told"
    shell = (
        f"trap 'echo one >> {told}' INT; touch {ready}; while [ ! -s {told} ]; do sleep 0.02; done; sleep 0.2; exit 9"
    )
    program = (
        "import os, sys\nfrom dougdb.running import Command\n"
        f'sys.exit(Command(["sh", "-c", "{shell}"], os.environ, left_s=lambda: 10.0, grace_s=1.0).run())\n'
    )
    spawn = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn([sys.executable, '-c', sys.argv[1]])))"
    with subprocess.Popen(
        [sys.executable, "-c", spawn, program], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
    ) as process:
        assert process.stdin is not None
        wait_until(ready.exists)
        process.stdin.write(b"\x03")
        process.stdin.flush()
        assert process.wait(60) == 9
    assert told.read_text() == "one\n"
