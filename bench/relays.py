"""Puts relays around one node, so that it can be cut off from its peers while clients and facades still reach it.

The node is started again behind them: connections between it and its peers, in both directions, go through relays. When
it is cut off, bytes stop in both directions and no connection is closed, as when a network drops packets.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine, Iterator
from dataclasses import replace
from typing import Any, TypeVar

from bench.cluster import Cluster, wait_for

BEHIND = "127.0.0.2"
"""The host at which the node then listens for its peers, at its old port; the relay has its old address."""
_READ_BYTES = 65_536

T = TypeVar("T")


class Relays:
    """The relays of one node, on a thread of their own."""

    def __init__(self) -> None:
        """Creates the thread; nothing is relayed yet."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="relays", daemon=True)
        self._thread.start()
        self._servers: list[asyncio.Server] = []
        self._open = asyncio.Event()
        self._open.set()

    def put_around(self, cluster: Cluster, name: str) -> None:
        """Kills a node and starts it again behind relays. Requires: no supervisor restarts it."""
        launch = cluster.launch_of(name)
        environment = dict(launch.environment)
        peers = dict(part.split("=", 1) for part in environment["DOUGDB_PEERS"].split(","))
        host, _, port = environment["DOUGDB_PEER_LISTEN"].rpartition(":")
        cluster.kill(name)
        wait_for(lambda: self._takes(host, int(port)), 30, f"{name} to leave its port")
        for peer, address in peers.items():
            if peer != name:
                to_host, _, to_port = address.rpartition(":")
                peers[peer] = f"127.0.0.1:{self._do(self._listen('127.0.0.1', 0, to_host, int(to_port)))}"
        environment["DOUGDB_PEER_LISTEN"] = f"{BEHIND}:{port}"
        environment["DOUGDB_PEERS"] = ",".join(f"{peer}={address}" for peer, address in peers.items())
        cluster.start_again(name, replace(launch, environment=environment))

    @contextlib.contextmanager
    def cut(self) -> Iterator[None]:
        """Stops all bytes for the time of the block."""
        self._do(self._pass(passes=False))
        try:
            yield
        finally:
            self._do(self._pass(passes=True))

    def close(self) -> None:
        """Ends all relays and the thread."""
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _takes(self, host: str, port: int) -> bool:
        """Listens at the node's address; returns False while threads of the killed process still have the socket."""
        try:
            self._do(self._listen(host, port, BEHIND, port))
        except OSError:
            return False
        return True

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    # On the loop.

    async def _pass(self, *, passes: bool) -> None:
        if passes:
            self._open.set()
        else:
            self._open.clear()

    async def _listen(self, host: str, port: int, to_host: str, to_port: int) -> int:
        """Relays connections to an address to another one; returns the port."""

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self._relay(reader, writer, to_host, to_port)

        server = await asyncio.start_server(accept, host, port)
        self._servers.append(server)
        found: int = server.sockets[0].getsockname()[1]
        return found

    async def _relay(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, to_host: str, to_port: int
    ) -> None:
        writers = [writer]
        try:
            await self._open.wait()
            onward, back = await asyncio.open_connection(to_host, to_port)
            writers.append(back)
            pumps = {asyncio.ensure_future(self._pump(*each)) for each in ((reader, back), (onward, writer))}
            _, others = await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            for other in others:
                other.cancel()
        except OSError:
            return  # The target does not listen now; the client sees its connection end, and connects again.
        finally:
            for each in writers:
                each.transport.abort()
            for each in writers:
                with contextlib.suppress(OSError):
                    await each.wait_closed()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_READ_BYTES):
                await self._open.wait()
                writer.write(data)
                await writer.drain()

    async def _end(self) -> None:
        for server in self._servers:
            server.close()
        self._open.set()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
