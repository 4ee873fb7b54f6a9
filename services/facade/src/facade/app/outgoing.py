"""The bytes that were written to one client, and that the client has not taken yet.

Must not know HTTP. Invariant: what the account says of a connection is what its transport held when it was last looked
at, and what was written since; nothing once the connection is gone.
"""

from __future__ import annotations

import asyncio

from facade.app.progress import Account, Progress

HIGH_WATER_BYTES = 16 << 10
"""The bytes that may wait in a transport uncounted: the kernel holds more than that for every connection."""


class Outgoing:
    """Writes to one client, and counts the bytes that the client has not taken."""

    __slots__ = ("_account", "_address", "_closing_since_s", "_counted", "_progress", "_transport", "_written")

    def __init__(self, transport: asyncio.Transport, account: Account, address: str) -> None:
        """Counts what the client at ``address`` has not taken in ``account``."""
        transport.set_write_buffer_limits(high=HIGH_WATER_BYTES)
        self._transport = transport
        self._account = account
        self._address = address
        self._progress = Progress()
        self._written = 0
        self._counted = 0
        self._closing_since_s: float | None = None

    def write(self, data: bytes) -> None:
        """Sends bytes to the client."""
        self._written += len(data)
        was_waiting = self._progress.since_s is not None
        self._transport.write(data)
        # Bytes that make the transport ask for a pause are counted by that.
        if was_waiting:
            self._count(self._counted + len(data))

    def write_answer(self, head: bytes, content: bytes) -> None:
        """Sends a whole answer in one call, unless its content is so long that it is not worth a copy."""
        if len(content) > HIGH_WATER_BYTES:
            self.write(head)
            self.write(content)
        else:
            self.write(head + content)

    def pause(self, now_s: float) -> None:
        """Notes that the client takes less than is written."""
        waiting = self._transport.get_write_buffer_size()
        self._count(waiting)
        self._progress.begin(now_s, self._written - waiting)

    def resume(self) -> None:
        """Notes that the client has taken most of what was written, or is gone."""
        self._progress.end()
        self._count(0)

    def is_too_slow(self, now_s: float, window_s: float, bytes_per_s: int) -> bool:
        """Whether the client takes bytes too slowly, also those that keep a connection from ending."""
        if self._progress.since_s is not None:
            waiting = self._transport.get_write_buffer_size()
            self._count(waiting)
            if self._progress.is_too_slow(now_s, self._written - waiting, window_s, bytes_per_s):
                return True
        if not self._transport.is_closing():
            return False
        if self._closing_since_s is None:
            self._closing_since_s = now_s
        return now_s - self._closing_since_s >= window_s

    def _count(self, waiting: int) -> None:
        self._account.add(self._address, waiting - self._counted)
        self._counted = waiting
