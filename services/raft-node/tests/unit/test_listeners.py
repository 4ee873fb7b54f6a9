"""Silent strangers at a node's ports take neither its files' descriptors nor its place."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import structlog.testing
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric

from raft_node.app import admin as admins
from raft_node.app.admin import HEAD_BYTES_MAX, HEAD_LINES_MAX, AdminServer
from raft_node.app.descriptors import CONNECTIONS_MAX, connections_max, shares, watch
from raft_node.errors import DiskError
from raft_node.storage.files import OsFileSystem

pytestmark = pytest.mark.sockets


def test_files_keep_half_of_the_descriptors() -> None:
    for limit in (1024, 4096, 65536):
        assert sum(shares(limit)) <= limit // 2
    assert min(shares(64)) >= 8


def test_a_connection_that_is_carried_on_takes_three_descriptors() -> None:
    for limit in (1024, 4096, 65536):
        for share in shares(limit)[:2]:
            assert 3 * connections_max(share) <= share
    assert connections_max(1 << 20) == CONNECTIONS_MAX


async def test_what_is_nearly_used_up_is_told_once_each_time() -> None:
    opened, slept = iter((10, 80, 90, 10, 81)), list[float]()

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 5:
            raise TimeoutError

    with structlog.testing.capture_logs() as logs, pytest.raises(TimeoutError):
        await watch(100, lambda: next(opened), sleep)
    assert [log["open"] for log in logs if log["event"] == "descriptors.near_limit"] == [80, 81]


def test_a_descriptor_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others use them all at the moment: that says nothing about the disk, and must not end the node."""
    really_open, failures, slept = os.open, [errno.EMFILE, errno.ENFILE], list[float]()

    def open_(path: str, flags: int, mode: int = 0o777) -> int:
        if failures:
            raise OSError(failures.pop(), "too many")
        return really_open(path, flags, mode)

    monkeypatch.setattr("raft_node.storage.files.os.open", open_)
    monkeypatch.setattr("raft_node.storage.files.time.sleep", slept.append)
    OsFileSystem().create(f"{tmp_path}/f").close()
    assert len(slept) == 2
    failures.extend([errno.EIO])
    with pytest.raises(DiskError):
        OsFileSystem().create(f"{tmp_path}/g")
    assert len(slept) == 2
    failures.extend([errno.EMFILE] * 5000)
    with pytest.raises(DiskError):
        OsFileSystem().create(f"{tmp_path}/g")


async def test_connections_to_the_admin_port_are_bounded_in_number_and_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admins, "HEAD_S", 0.5)
    server = AdminServer("127.0.0.1:0", CollectorRegistry(), lambda: "", lambda: True, connections_max=3)
    port = server._socket.getsockname()[1]
    running = asyncio.create_task(server.run())
    opened = []
    try:
        async with asyncio.timeout(60):
            while not server._server.started:
                await asyncio.sleep(0)
            for _ in range(6):
                opened.append(await asyncio.open_connection("127.0.0.1", port))
            # Silent ones are closed, the last ones at once, the first ones after a while.
            for reader, writer in opened:
                writer.write(b"GET /livez HTTP/1.1\r\nhost: a\r\n")
                with contextlib.suppress(ConnectionResetError):
                    assert await reader.read() == b""
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            opened.append((reader, writer))
            writer.write(b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n")
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    finally:
        for _, writer in opened:
            writer.close()
        server.stop()
        await running


async def test_a_probe_finds_a_place_while_silent_connections_take_all() -> None:
    """None of them is closed by its time in this test: the one that is silent for longest makes room."""
    async with admin_port(connections_max=3) as (server, port):
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(9)]
        for _, writer in silent:
            writer.write(b"GET /livez HTTP/1.1\r\nhost: a\r\n")
        assert (await ask(port, "/livez")).startswith(b"HTTP/1.1 200")
        assert len(server._server.server_state.connections) <= 3
        for _, writer in silent:
            writer.close()


async def test_each_connection_of_a_crowd_makes_room_for_itself() -> None:
    """Many are taken in one turn of the loop: they all made the same one leave, and were as many as they liked."""
    async with admin_port(connections_max=3) as (server, port):
        first = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
        crowd = [socket.create_connection(("127.0.0.1", port)) for _ in range(40)]
        assert (await ask(port, "/livez")).startswith(b"HTTP/1.1 200")
        assert len(server._server.server_state.connections) <= 3
        for each in crowd:
            each.close()
        for _, writer in first:
            writer.close()


async def test_who_does_not_take_an_answer_is_cut_off() -> None:
    """To close such a connection is to wait until its answer was taken: for ever."""
    async with admin_port(connections_max=3, ready=lambda: "x" * (32 << 20)) as (server, port):
        opened = []
        for _ in range(3):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
            writer.write(b"GET /readyz HTTP/1.1\r\nhost: a\r\n\r\n")
            assert (await reader.readline()).startswith(b"HTTP/1.1 503")
            opened.append(writer)
        for _ in range(2):  # As time does.
            for connection in tuple(server._server.server_state.connections):
                connection._check()  # type: ignore[union-attr]
        async with asyncio.timeout(60):
            while server._server.server_state.connections:
                await asyncio.sleep(0)
        for writer in opened:
            writer.transport.abort()


HEAD = b"PUT /livez HTTP/1.1\r\nhost: a\r\n"


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (HEAD + b"transfer-encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 9, b"HTTP/1.1 400"),
        (HEAD + b"content-length: 5\r\n\r\nabcde", b"HTTP/1.1 400"),
        (HEAD + b"content-length: 0\r\n\r\n", b"HTTP/1.1 200"),
        (HEAD + b"a:\r\n" * (HEAD_LINES_MAX - 4) + b"\r\n", b"HTTP/1.1 200"),
        (HEAD + b"a:\r\n" * HEAD_LINES_MAX + b"\r\n", b""),
        (HEAD + b"a: " + b"b" * HEAD_BYTES_MAX + b"\r\n\r\n", b""),
        ((HEAD + b"\r\n") * HEAD_LINES_MAX, b""),
    ],
)
async def test_what_takes_long_to_read_is_not_read(sent: bytes, answer: bytes) -> None:
    """A body in chunks of a byte, which nobody had asked for, had a node that led lose its office."""
    async with admin_port(connections_max=3) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        line = b""
        with contextlib.suppress(ConnectionResetError):
            line = await reader.readline()
        assert line[:12] == answer
        writer.close()
        assert (await ask(port, "/livez")).startswith(b"HTTP/1.1 200")


async def test_a_connection_may_ask_again_and_again() -> None:
    async with admin_port(connections_max=3) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(HEAD_LINES_MAX):
            writer.write(HEAD + b"\r\n")
            assert (await reader.readuntil(b"\r\n\r\nok\n")).startswith(b"HTTP/1.1 200")
        writer.close()


async def test_metrics_are_made_once_in_a_turn_however_many_ask() -> None:
    """They take some milliseconds of the loop, and whoever asked on all connections at once had all of it."""
    made = list[None]()

    class Counted:
        def collect(self) -> Iterator[Metric]:
            made.append(None)
            return iter(())

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Counted())
    before = len(made)
    server = AdminServer("127.0.0.1:0", registry, lambda: "", lambda: True)
    assert server._respond("/metrics") == server._respond("/metrics")
    assert len(made) == before + 1
    await asyncio.sleep(0)
    server._respond("/metrics")
    assert len(made) == before + 2
    server._socket.close()


async def ask(port: int, path: str) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n".encode())
    try:
        return await reader.read()
    finally:
        writer.close()


@contextlib.asynccontextmanager
async def admin_port(
    connections_max: int, ready: Callable[[], str] = lambda: ""
) -> AsyncIterator[tuple[AdminServer, int]]:
    server = AdminServer("127.0.0.1:0", CollectorRegistry(), ready, lambda: True, connections_max=connections_max)
    running = asyncio.create_task(server.run())
    try:
        async with asyncio.timeout(60):
            while not server._server.started:
                await asyncio.sleep(0)
        yield server, int(server._socket.getsockname()[1])
    finally:
        server.stop()
        await running
