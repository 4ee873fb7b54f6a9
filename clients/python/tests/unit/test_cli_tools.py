"""watch, top, bench, verify and doctor when something is in their way: one line, and the exit code that says what."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dougdb.cli import app
from dougdb.commands import top

TOOLS = {
    "watch": ["watch", "--count", "1"],
    "top": ["top", "--once", "--interval", "0.1"],
    "bench": ["bench", "--duration", "50ms", "--keys", "3", "--connections", "2"],
    "verify": ["verify", "--duration", "50ms", "--processes", "1"],
    "doctor": ["doctor", "--wait", "0"],
}
tools = pytest.mark.parametrize("name", TOOLS)
NODE = {
    "id": "n0", "address": "127.0.0.1:1", "admin": None, "role": "leader", "term": 1, "commit_index": 2,
    "applied_index": 2, "last_log_index": 2, "vitals": {"uptime_ms": 1000, "syncs": 1, "sync_seconds": 0.001},
}  # fmt: skip
FACADE = {"id": "facade", "version": "0.1.0", "map_epoch": 1, "time_us": 0, "certificate_ends_s": None}
GET = {
    "/v1/cluster": {"shards": [{"id": 0, "nodes": [NODE]}], "facade": FACADE},
    "/v1/partitions": {"epoch": 1, "slots": [{"from": 0, "to": 1023, "shard": 0}], "counts": [0] * 1024},
}
PROGRESS = {"event": "progress", "id": "w1-a-1-0:1", "data": {"revisions": {"0": "1"}}}
PUT = {"event": "put", "id": "w1-a-1-0:2", "data": {"key": "k", "value": "v", "revision": "2", "shard": 0}}
DELETED = {"deleted": 1, "complete": True, "dry_run": False, "next_cursor": None}


class Server(ThreadingHTTPServer):
    """As much of a facade as these commands need; ``holds`` has it answer nothing but deletions."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.holds = False
        self.asked, self.over = threading.Event(), threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def answer(self, status: int, document: Any = None, lines: bytes = b"") -> None:
        body = lines or (b"" if document is None else json.dumps(document).encode())
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def held(self) -> bool:
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        if self.server.holds:
            self.server.asked.set()
            self.server.over.wait()
            self.close_connection = True
        return self.server.holds

    def do_GET(self) -> None:
        if self.held():
            return
        path = self.path.partition("?")[0]
        if path == "/v1/watch":
            told = [PROGRESS] if "__dougctl_verify" in self.path else [PROGRESS, PUT]
            self.answer(200, lines=b"".join(json.dumps(each).encode() + b"\n" for each in told))
        elif path in GET:
            self.answer(200, GET[path])
        else:
            self.answer(404, {"code": "not_found"})

    def do_PUT(self) -> None:
        if not self.held():
            self.answer(200, {"revision": "1"})

    def do_POST(self) -> None:
        if not self.held():
            self.answer(200, {"id": PROGRESS["id"], "revisions": {}, "value": 1, "revision": "1", "succeeded": False,
                              "results": [{"revision": None}]})  # fmt: skip

    def do_DELETE(self) -> None:
        self.answer(200, DELETED)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Says nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.02,))
        thread.start()
        yield made
        made.over.set()
        made.shutdown()
        thread.join()


def complaints(text: str) -> list[str]:
    """Lines on stderr; not what says where to go on."""
    return [line for line in text.splitlines() if line and not line.startswith("dougctl: go on with --from ")]


def started(url: str, name: str, stdout: int) -> subprocess.Popen[str]:
    argv = [sys.executable, "-P", "-m", "dougdb", "--url", url, *TOOLS[name]]
    return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=stdout, stderr=subprocess.PIPE, text=True)


@tools
@pytest.mark.parametrize("url", ["nonsense", "ftp://127.0.0.1", "http://", "http://127.0.0.1:99999"])
def test_a_url_that_is_none_is_wrong_usage(name: str, url: str) -> None:
    result = CliRunner().invoke(app, ["--url", url, *TOOLS[name]])
    assert (result.exit_code, len(complaints(result.stderr)), result.stdout) == (2, 1, ""), result.output
    assert result.stderr.startswith("dougctl: ")


@tools
def test_a_facade_that_is_not_there_is_one_line(name: str) -> None:
    options = ["--deadline", "0"] if name != "verify" else []
    result = CliRunner().invoke(app, ["--url", "http://127.0.0.1:1", *TOOLS[name], *options])
    assert (result.exit_code, len(complaints(result.stderr)), result.stdout) == (4, 1, ""), result.output
    assert "127.0.0.1:1" in result.stderr


@pytest.mark.seconds
@tools
def test_ctrl_c_ends_it_without_a_traceback(server: Server, name: str) -> None:
    server.holds = True
    with started(server.url, name, subprocess.PIPE) as process:
        assert server.asked.wait(60), "it asked nothing"
        process.send_signal(signal.SIGINT)
        output, said = process.communicate(timeout=60)
    assert (process.returncode, complaints(said), output) == (130, [], "")


@pytest.mark.seconds
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
@tools
def test_output_that_cannot_be_written_is_one_line(server: Server, name: str) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        with started(server.url, name, full) as process:
            _, said = process.communicate(timeout=60)
    finally:
        os.close(full)
    line = "dougctl: standard output cannot be written to: No space left on device"
    assert (process.returncode, complaints(said)) == (1, [line])


@pytest.mark.seconds
@tools
def test_a_reader_that_has_seen_enough_is_no_complaint(server: Server, name: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        with started(server.url, name, writer) as process:
            _, said = process.communicate(timeout=60)
    finally:
        os.close(writer)
    assert (process.returncode, complaints(said)) == (1, [])


def test_top_in_a_narrow_and_low_terminal_shows_whole_lines_cut_at_its_edge(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line that the terminal folded would push the first ones out of it."""
    lines = [f"{number:02d}" + "x" * 78 for number in range(20)]
    for width, height in ((40, 10), (1, 4), (200, 30)):
        monkeypatch.setattr(os, "get_terminal_size", lambda size=(width, height): os.terminal_size(size))
        top._draw(lines)
        shown = capsys.readouterr().out.removeprefix(top._HOME).replace("\x1b[K", "").replace("\x1b[J", "")
        drawn = shown.replace("\r", "").splitlines()
        assert len(drawn) == min(height, len(lines))
        assert all(len(line) <= width for line in drawn)
        assert drawn[0] == lines[0][:width] and drawn[-1] == lines[-1][:width]
