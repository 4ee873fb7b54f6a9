"""The script of `helm test`, against a facade that is only played."""

from __future__ import annotations

import importlib.util
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import ModuleType
from urllib.parse import urlsplit

import pytest
from tools.helm_chart import CHART
from tools.rendering import render


class Facade:
    """Two shards, chosen by the last digit of the key, and a way to be wrong."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.leaders = [True, True]
        self.wrong = ""
        self.reachable = 2

    def answer(self, method: str, target: str, body: bytes) -> tuple[int, bytes, str]:
        path, query = urlsplit(target).path, urlsplit(target).query
        if path == "/v1/cluster":
            shards = [
                {"id": number, "nodes": [{"role": "leader" if led else "follower"}, {"role": "follower"}]}
                for number, led in enumerate(self.leaders)
            ]
            return 200, json.dumps({"shards": shards}).encode(), ""
        shard = str(int(path[-1]) % self.reachable)
        if self.wrong == f"{method} {query}".strip():
            return 200, b"something else", shard
        if method == "PUT":
            self.values[path] = body
            return 200, b"{}", shard
        if method == "DELETE":
            self.values.pop(path, None)
            return 204, b"", shard
        return (200, self.values[path], shard) if path in self.values else (404, b"{}", shard)


@pytest.fixture
def facade() -> Iterator[tuple[Facade, str]]:
    played = Facade()

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            status, answer, shard = played.answer(self.command, self.path, body)
            self.send_response(status)
            self.send_header("doug-shard", shard)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_GET = do_DELETE = do_PUT  # noqa: N815 - http.server looks for these names

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield played, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def smoke(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("smoke", CHART / "files" / "smoke.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, value in (("WAIT_S", 0.0), ("TIMEOUT_S", 0.3), ("KEYS_MAX", 20)):
        monkeypatch.setattr(module, name, value)
    return module


Run = Callable[..., int]


@pytest.fixture
def run(smoke: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Run:
    def call(*words: str) -> int:
        monkeypatch.setattr("sys.argv", ["smoke.py", *words])
        code: int = smoke.main()
        return code

    return call


def test_it_passes_and_leaves_nothing(facade: tuple[Facade, str], run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    played, url = facade
    assert run(url, "2") == 0
    assert not played.values
    shown = capsys.readouterr().out
    assert "shard 0: put, linearizable and eventual get, delete: ok" in shown
    assert "shard 1: put" in shown


def test_a_shard_without_a_leader_fails(
    facade: tuple[Facade, str], run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    facade[0].leaders[1] = False
    assert run(facade[1], "2") == 1
    assert "2 of 2 shards are known, with a leader: [0]" in capsys.readouterr().err


def test_a_missing_shard_fails(facade: tuple[Facade, str], run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(facade[1], "3") == 1
    assert "2 of 3 shards are known" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wrong", "text"),
    [("GET", "linearizable get"), ("GET consistency=eventual", "eventual get"), ("DELETE", "delete: expected 204")],
)
def test_a_wrong_answer_fails(
    wrong: str, text: str, facade: tuple[Facade, str], run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    facade[0].wrong = wrong
    assert run(facade[1], "2") == 1
    assert text in capsys.readouterr().err


def test_a_shard_that_no_key_reaches_fails(
    facade: tuple[Facade, str], run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    facade[0].reachable = 1
    assert run(facade[1], "2") == 1
    assert "no key of 20 was of another shard than ['0']" in capsys.readouterr().err


def test_nobody_there_and_wrong_usage(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("http://127.0.0.1:9", "1") == 1
    assert "the facade does not answer" in capsys.readouterr().err
    assert run("http://127.0.0.1:9") == 2


def test_the_pod_is_the_only_hook_and_has_the_whole_script(tools: None) -> None:
    """`helm test --logs` shows the pod of each hook's name: a second one of its name would show it twice."""
    (pod,) = [one for one in render() if "helm.sh/hook" in one["metadata"].get("annotations", {})]
    (container,) = pod["spec"]["containers"]
    python, option, script = container["command"]
    assert (python, option) == ("/opt/dougdb/bin/python", "-c")
    assert script.strip() == (CHART / "files" / "smoke.py").read_text().strip()
    assert len(container["args"]) == 2
