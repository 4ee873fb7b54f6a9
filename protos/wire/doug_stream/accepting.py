"""Accepts connections for as long as a listener lives.

accept(2) also returns the errors of the connection that it would have returned, such as that of a network that has
just gone or of a firewall that refuses it, and those of a process without a free descriptor. A listener that ended with
one of them would be deaf for ever, in a process that looks well. Must not know what a connection is for.

Invariant: only an error of the listener itself ends the accepting, and nobody overlooks that.

Source: accept(2), "Error handling".
"""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import Any

_OF_LISTENER = frozenset({errno.EBADF, errno.EINVAL, errno.ENOTSOCK})
TRY_AGAIN_S = 0.02


async def accepted(loop: asyncio.AbstractEventLoop, listener: socket.socket) -> tuple[socket.socket, Any]:
    """The next connection of a listener that does not block, and the address that it comes from.

    Raises:
        OSError: The listener cannot be used.
    """
    while True:
        try:
            return await loop.sock_accept(listener)
        except OSError as error:
            if error.errno in _OF_LISTENER:
                raise
        await asyncio.sleep(TRY_AGAIN_S)  # A descriptor may be free by then.


def raise_error(accepting: asyncio.Task[Any]) -> None:
    """Raises what ended the task of a listener, in a callback of the loop: a process that accepts nothing must end."""
    if not accepting.cancelled():
        accepting.result()
