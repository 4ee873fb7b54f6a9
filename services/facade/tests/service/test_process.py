"""The facade as a process: addresses, signals, and requests that no well-behaved client would send."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest
from fake_store import Entry
from free_ports import free_port

pytestmark = pytest.mark.seconds

MakeCluster = Callable[..., Awaitable[Any]]


class Running:
    """One facade process."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.process = process
        self.port = port

    async def until_ready(self) -> None:
        async with asyncio.timeout(60), httpx.AsyncClient() as http:
            while True:
                try:
                    if (await http.get(f"http://127.0.0.1:{self.port}/readyz")).status_code == 200:
                        return
                except httpx.TransportError:
                    pass
                assert self.process.returncode is None, "the facade ended"
                await asyncio.sleep(0.05)

    async def send(self, data: bytes) -> bytes:
        """Sends raw bytes and reads until the facade ends the connection."""
        return await asyncio.to_thread(self._send, data)

    def _send(self, data: bytes) -> bytes:
        answer = b""
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as connection:
            try:
                connection.sendall(data)
                while received := connection.recv(65536):
                    answer += received
            except (ConnectionResetError, BrokenPipeError):
                pass  # It closed before it had read all that was sent; the answer was here before that.
        return answer


async def spawn(
    nodes: dict[int, dict[str, str]], listen: str, *, files: int = 0, **variables: str
) -> asyncio.subprocess.Process:
    """Starts a facade; with ``files`` it may have so many descriptors and no more."""
    environment = {**os.environ, "DOUGDB_NODES": json.dumps(nodes), "DOUGDB_LISTEN": listen, **variables}
    limit = (lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))) if files else None
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "facade", env=environment, stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, preexec_fn=limit,
    )  # fmt: skip


@contextlib.asynccontextmanager
async def serving(cluster: Any, *, files: int = 0, **variables: str) -> AsyncIterator[Running]:
    """A facade of a test's own."""
    port = free_port()
    process = await spawn(cluster.addresses(), f"127.0.0.1:{port}", files=files, **variables)
    facade = Running(process, port)
    try:
        await facade.until_ready()
        yield facade
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.fixture
async def running(make_cluster: MakeCluster) -> AsyncIterator[Running]:
    cluster = await make_cluster(nodes=1)
    port = free_port()
    process = await spawn(
        cluster.addresses(), f"127.0.0.1:{port},[::1]:{port}", DOUGDB_STOP_ON_STDIN_EOF="true",
        DOUGDB_BODY_TIMEOUT_MS="1500", DOUGDB_HEAD_TIMEOUT_MS="1500", http_proxy="http://127.0.0.1:1",
        https_proxy="http://127.0.0.1:1", grpc_proxy="http://127.0.0.1:1",
    )  # fmt: skip
    facade = Running(process, port)
    await facade.until_ready()
    yield facade
    if process.returncode is None:
        process.kill()
    await process.communicate()


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


async def test_both_stacks_and_an_orderly_stop(running: Running) -> None:
    async with httpx.AsyncClient(trust_env=False) as http:
        assert (await http.put(f"http://127.0.0.1:{running.port}/v1/kv/k", content=b"v")).status_code == 200
        answer = await http.get(f"http://[::1]:{running.port}/v1/kv/k")
        assert (answer.content, "server" in answer.headers) == (b"v", False)
    running.process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(60):
        _, errors = await running.process.communicate()
    assert running.process.returncode == 0
    lines = errors.decode().splitlines()
    assert len(lines) == 1, errors
    assert "shard.leader_changed" in lines[0]


async def test_facades_share_an_address(make_cluster: MakeCluster) -> None:
    """Each request id begins with what its facade drew at its start."""
    cluster, shared = await make_cluster(nodes=1), free_port()
    listen = f"127.0.0.1:{shared},[::1]:{shared}"
    seen: set[str] = set()
    own: set[str] = set()
    async with (
        serving(cluster, DOUGDB_SHARED_LISTEN=listen) as one,
        serving(cluster, DOUGDB_SHARED_LISTEN=listen) as other,
    ):
        for port in (shared,) * 64 + (one.port, other.port):
            async with httpx.AsyncClient(trust_env=False) as http:
                answer = await http.get(f"http://127.0.0.1:{port}/v1/kv/none")
            assert answer.status_code == 404
            (seen if port == shared else own).add(answer.headers["doug-request-id"].partition("-")[0])
        assert len(own) == 2
        assert seen == own, "one of them got no connection in 64"


async def test_a_kept_connection_is_answered_and_told_to_close_before_it_is_closed(running: Running) -> None:
    """Else a client that sends at the moment of the stop sees a reset, and does not know what became of its request."""
    async with httpx.AsyncClient(trust_env=False, base_url=f"http://127.0.0.1:{running.port}") as http:
        assert "connection" not in (await http.put("/v1/kv/k", content=b"v")).headers
        running.process.send_signal(signal.SIGTERM)
        async with httpx.AsyncClient(trust_env=False, base_url=f"http://127.0.0.1:{running.port}") as other:
            async with asyncio.timeout(60):
                while (await other.get("/v1/kv/k")).headers.get("connection") != "close":
                    pass
        answer = await http.get("/v1/kv/k")
        assert (answer.content, answer.headers["connection"]) == (b"v", "close")
    async with asyncio.timeout(60):
        assert await running.process.wait() == 0


async def test_stops_when_stdin_ends(running: Running) -> None:
    assert running.process.stdin is not None
    running.process.stdin.close()
    async with asyncio.timeout(60):
        assert await running.process.wait() == 0


async def test_a_taken_port_is_said_in_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        process = await spawn({0: {"n": "127.0.0.1:1"}}, f"127.0.0.1:{port}")
        _, errors = await process.communicate()
    assert process.returncode == 2
    assert errors.decode() == f"facade: cannot listen on 127.0.0.1:{port}: it is in use\n"


async def test_settings_that_make_no_sense_are_said_in_one_line() -> None:
    process = await spawn({1: {"n": "127.0.0.1:1"}}, "127.0.0.1:27799")
    _, errors = await process.communicate()
    assert process.returncode == 2
    assert errors.decode().startswith("facade: DOUGDB_NODES: ")
    assert errors.decode().count("\n") == 1


async def test_kubernetes_outside_of_a_pod_is_said_in_one_line() -> None:
    process = await spawn(
        {0: {"n": "127.0.0.1:1"}},
        "127.0.0.1:27798",
        DOUGDB_DISCOVERY="kubernetes",
        KUBERNETES_SERVICE_HOST="",
        DOUGDB_TLS_MODE="disabled",
    )
    _, errors = await process.communicate()
    assert process.returncode == 2
    warning, refusal = errors.decode().splitlines()
    assert "tls.disabled" in warning
    assert refusal.startswith("facade: DOUGDB_DISCOVERY: kubernetes needs a pod with a service account")


BAD_BYTES: list[tuple[bytes, int, bytes]] = [
    (b"GARBAGE\r\n\r\n", 400, b"bad_request"),
    (b"GET /v1/kv/\xc3\xa9 HTTP/1.1\r\nHost: localhost\r\n\r\n", 400, b"bad_request"),
    (b"GET /v1/kv/a#b HTTP/1.1\r\nHost: localhost\r\n\r\n", 400, b"bad_request"),
    (b"GET /v1/kv/a HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 70_000 + b"\r\n\r\n", 431, b"head_too_large"),
    (b"GET /v1/kv/a HTTP/1.1\r\nHost: localhost\r\n" + b"A: b\r\n" * 20_000, 431, b"head_too_large"),
    (b"GET /v1/kv/" + b"k" * 200_000, 431, b"head_too_large"),
    (b"GET /v1/kv/a HTTP/1.1\r\nHost: localhost\r\n", 408, b"head_timeout"),
    (b"PUT /v1/kv/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nab", 408, b"body_timeout"),
    (
        b"PUT /v1/kv/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        400,
        b"bad_request",
    ),
    (
        b"PUT /v1/kv/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
        b"bad_request",
    ),
    (
        b"PUT /v1/kv/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999999\r\nExpect: 100-continue\r\n\r\n",
        413,
        b"value_too_large",
    ),
    (b"PUT /v1/kv/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\nxx", 413, b"value_too_large"),
]


async def test_requests_that_no_well_behaved_client_sends(running: Running) -> None:
    for request_head, status, code in BAD_BYTES:
        answer = await running.send(request_head)
        assert answer, request_head[:80]
        assert status_of(answer) == status, answer
        head, _, body = answer.partition(b"\r\n\r\n")
        assert b"application/problem+json" in head
        assert b'"code":"' + code + b'"' in body
        assert b"100 Continue" not in answer
    await _connection_goes_on_after_a_refused_body(running)


async def _connection_goes_on_after_a_refused_body(running: Running) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
    async with asyncio.timeout(60):
        writer.write(b"PUT /v1/kv/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2000000\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        assert status_of(head) == 413
        size = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        assert b"value_too_large" in await reader.readexactly(size)
        writer.write(b"x" * 2_000_000 + b"GET /v1/kv/a HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert status_of(await reader.read()) == 404
    writer.close()


async def test_clients_that_do_not_read_hold_little_and_not_for_ever(make_cluster: MakeCluster) -> None:
    cluster = await make_cluster(nodes=1)
    cluster.shards[0].data[b"large"] = Entry(bytes(1 << 20), b"", 1)
    own = serving(cluster, DOUGDB_UNREAD_BYTES_MAX=str(4 << 20), DOUGDB_WRITE_TIMEOUT_MS="4000")
    async with own as facade, httpx.AsyncClient(trust_env=False) as http:
        url = f"http://127.0.0.1:{facade.port}"
        request = b"GET /v1/kv/large?consistency=eventual HTTP/1.1\r\nHost: localhost\r\n\r\n"
        silent: list[socket.socket] = []
        try:
            for _ in range(30):
                connection = socket.socket()
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                connection.connect(("127.0.0.1", facade.port))
                silent.append(connection)
                connection.sendall(request * 6)
                if await asyncio.to_thread(connection.recv, 12) != b"HTTP/1.1 200":
                    break
            assert len(silent) < 30, "the later ones are refused"
            async with asyncio.timeout(60):
                while (answer := await http.get(f"{url}/v1/kv/large")).status_code == 200:
                    await asyncio.sleep(0.02)
            assert (answer.status_code, answer.json()["code"]) == (503, "overloaded")
            assert (await http.get(f"{url}/livez")).status_code == 200
            metrics = (await http.get(f"{url}/metrics")).text
            held = float(metrics.split("\ndougdb_facade_unread_bytes ")[1].split()[0])
            assert held < 20 << 20
            async with asyncio.timeout(60):
                while (await http.get(f"{url}/v1/kv/large")).status_code != 200:
                    await asyncio.sleep(0.1)
        finally:
            for connection in silent:
                connection.close()


async def test_more_connections_than_descriptors_are_refused_and_forgotten(make_cluster: MakeCluster) -> None:
    cluster = await make_cluster(nodes=1)
    # Nobody's time is up while this test looks on.
    held = serving(cluster, files=128, DOUGDB_HEAD_TIMEOUT_MS="600000")
    async with held as facade, httpx.AsyncClient(trust_env=False) as http:
        url = f"http://127.0.0.1:{facade.port}"
        opened = [socket.create_connection(("127.0.0.1", facade.port)) for _ in range(300)]
        try:
            # Nobody holds all of it: a probe is answered, or the facade would be restarted.
            head = b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            for path, status in ((b"/livez", 200), (b"/v1/cluster", 200), (b"/v1/kv/k", 503)):
                async with asyncio.timeout(60):
                    # While there is no descriptor at all, the system itself ends connections.
                    while not (answer := await facade.send(b"GET " + path + head)):
                        pass
                assert status_of(answer) == status
            refused = 0
            for connection in opened[100:]:
                connection.settimeout(60)
                answer = b""
                with contextlib.suppress(ConnectionResetError):
                    while received := await asyncio.to_thread(connection.recv, 65536):
                        answer += received
                refused += answer.startswith(b"HTTP/1.1 503 ")
            assert refused > 100, "and none of them is left without an answer"
        finally:
            for connection in opened:
                connection.close()
        async with asyncio.timeout(60):
            while (await http.get(f"{url}/livez")).status_code != 200:
                await asyncio.sleep(0.05)
        assert (await http.put(f"{url}/v1/kv/k", content=b"v")).status_code == 200
        assert facade.process.returncode is None
