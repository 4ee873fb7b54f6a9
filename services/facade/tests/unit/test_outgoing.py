"""What is counted of the bytes that a client has not taken."""

from __future__ import annotations

import asyncio
import socket

from facade.app.outgoing import HIGH_WATER_BYTES, Outgoing
from facade.app.progress import Account

ADDRESS = "192.0.2.1"


class _Connection(asyncio.Protocol):
    """The server's end of a connection whose client reads only when it is told to."""

    outgoing: Outgoing

    def pause_writing(self) -> None:
        self.outgoing.pause(0.0)

    def resume_writing(self) -> None:
        self.outgoing.resume()


async def test_a_byte_that_waits_is_counted_once() -> None:
    """Those of the write with which the waiting begins were counted by the pause and again by the write."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for each in (ours, theirs):
            each.setblocking(False)
        loop = asyncio.get_running_loop()
        transport, connection = await loop.create_connection(_Connection, sock=ours)
        account = Account(1 << 20)
        outgoing = connection.outgoing = Outgoing(transport, account, ADDRESS)
        try:
            outgoing.write(b"x" * HIGH_WATER_BYTES)
            assert account.held == 0, "the kernel takes that"
            for size in (4 << 20, 1000):
                outgoing.write(b"x" * size)
                assert account.held == transport.get_write_buffer_size() > HIGH_WATER_BYTES
            while account.held:
                await loop.sock_recv(theirs, 1 << 20)
                await asyncio.sleep(0)
            assert transport.get_write_buffer_size() <= HIGH_WATER_BYTES
        finally:
            transport.abort()
