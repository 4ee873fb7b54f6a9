"""What ``make bench-console`` calls beyond its limits, and what it counts as a state."""

from __future__ import annotations

import asyncio
from typing import Any

from bench.console import STATE, Consoles, beyond


def figures(facade: float = 0.03, nodes: float = 0.2, states: float = 2.0, lost: int = 0) -> dict[str, Any]:
    one = {"facade_core": 0.02, "nodes_core": 0.2, "states_per_console_and_s": 2.0}
    many = {"facade_core": facade, "nodes_core": nodes, "states_per_console_and_s": states}
    return {"consoles": {"0": one, "1": one, "100": many}, "lost": lost}


def test_what_is_within_the_limits_is_no_complaint() -> None:
    assert beyond(figures(), 100) == []


def test_each_limit_is_named() -> None:
    for bad in (figures(facade=0.1), figures(nodes=0.3), figures(states=0.1), figures(lost=1)):
        assert len(beyond(bad, 100)) == 1


async def test_states_are_counted_once_wherever_the_bytes_are_cut() -> None:
    told = b"HTTP/1.1 200 OK\r\n\r\nretry: 1000\n\n" + 3 * (STATE + b"data: {}\n\n")
    cuts = range(1, len(told), 7)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for first, last in zip([0, *cuts], [*cuts, len(told)], strict=True):
            writer.write(told[first:last])
            await writer.drain()
            await asyncio.sleep(0)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    consoles = Consoles("127.0.0.1", server.sockets[0].getsockname()[1])
    consoles.open(2)
    async with asyncio.timeout(60):
        while consoles.lost < 2:
            await asyncio.sleep(0)
    assert consoles.states == 6
    await consoles.close()
    server.close()
    await server.wait_closed()
