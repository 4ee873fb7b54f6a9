"""An event loop without sockets, threads or waiting, and a network in memory for what speaks by asyncio's transports.

Real protocols, links and servers run on it as they are: they connect and listen by the loop, and their bytes take a
time that a seed draws, arrive in pieces that it draws, and wait while a line is cut. The clock jumps to the next timer,
so that a minute takes as long as what happens in it. Must not know what is said.

Invariants:
1. As with TCP, bytes of one direction arrive in order, each once; what was under way when a connection broke is lost.
2. Of a host that is dead nothing leaves any more, and nothing reaches it.
3. Everything that happens depends on the seed alone, as long as what runs here orders nothing by addresses in memory.

Source: asyncio's documentation of transports and protocols, and ``asyncio.base_events``.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextvars import Context, ContextVar, copy_context
from random import Random
from typing import Any

HIGH_WATER_BYTES = 64 << 10
APART_S = 1e-6
"""The least time between two pieces of one direction: timers of the same moment have no order."""


class Host:
    """One process. What it starts runs in its context, so that the network knows who connects.

    Attributes:
        name: For messages.
        address: The address of its ports.
        alive: False once it was killed; a process that is started again is another host.
        context: The context in which everything of it runs.
    """

    def __init__(self, name: str, address: str) -> None:
        self.name, self.address, self.alive = name, address, True
        self.context: Context = copy_context()
        self.context.run(_HERE.set, self)


_HERE: ContextVar[Host] = ContextVar("here")


class _Timers:
    """Stands for the loop's selector: nothing comes from outside, so the next event is the next timer."""

    def __init__(self, loop: InMemoryLoop) -> None:
        self._loop = loop

    def select(self, timeout_s: float | None) -> list[object]:
        """Moves the clock on by the time for which the loop would wait."""
        if timeout_s is None:
            raise RuntimeError("everything waits, and nothing is left that could happen")
        self._loop.now_s += timeout_s
        return []

    def close(self) -> None:
        """Has nothing to close."""


class InMemoryLoop(asyncio.BaseEventLoop):
    """The event loop; its network is all that it reaches.

    Attributes:
        now_s: What the clock shows.
        network: Where connections are made.
    """

    def __init__(self, chance: Random) -> None:
        """Begins at a time that is no round number; ``chance`` draws all that the network does."""
        super().__init__()
        self.now_s = 1000.0
        self.network = Network(self, chance)
        self._selector = _Timers(self)

    def time(self) -> float:
        """See ``asyncio.AbstractEventLoop``."""
        return self.now_s

    def _process_events(self, event_list: list[object]) -> None:
        assert not event_list

    def _write_to_self(self) -> None:
        """Has nobody to wake: there are no threads."""

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:  # type: ignore[override]
        """Refuses: when a thread is done does not depend on the seed."""
        raise NotImplementedError(f"{func} would run in a thread")

    async def create_connection(  # type: ignore[override]
        self, protocol_factory: Callable[[], Any], host: str, port: int, **options: Any
    ) -> tuple[asyncio.Transport, Any]:
        """See ``asyncio.AbstractEventLoop``; plaintext alone."""
        assert not options, options
        return await self.network.connect(protocol_factory, host, port)


class Wire(asyncio.Transport):
    """One end of a connection, and the bytes that are under way from it to the other end."""

    def __init__(self, network: Network, here: Host, there: Host, port: int) -> None:
        super().__init__({"socket": None, "sockname": (here.address, port), "peername": (there.address, port)})
        self.here, self.there = here, there
        self.other: Wire
        self.protocol: Any = None
        self._network, self._loop = network, network.loop
        self._closing = self._broken = self.lost = False
        self._reading, self._full = True, False
        self._high = HIGH_WATER_BYTES
        self._size, self._last_s = 0, 0.0
        self._held: deque[bytes | None] = deque()

    # What the protocol asks for.

    def write(self, data: Any) -> None:
        """Sends bytes."""
        if self._closing or not data:
            return
        for piece in self._network.pieces(bytes(data)):
            self._size += len(piece)
            self._send(piece)
        if self._size > self._high and not self._full:
            self._full = True
            self.protocol.pause_writing()

    def close(self) -> None:
        """Closes this end; the other one has all bytes before it learns of it."""
        if not self._closing:
            self._closing = True
            self._send(None)
            self._loop.call_soon(self.lose, None, context=self.here.context)

    def abort(self) -> None:
        """Breaks the connection: what is under way is lost, in both directions."""
        if not self._broken:
            self._closing = self._broken = True
            self._loop.call_soon(self.lose, None, context=self.here.context)
            self._loop.call_later(self._network.delay_s(), self._reset, context=self.there.context)

    def is_closing(self) -> bool:
        """Whether it is closing or closed."""
        return self._closing

    def can_write_eof(self) -> bool:
        """Whether it may be closed in one direction."""
        return False

    def pause_reading(self) -> None:
        """Lets what arrives wait."""
        self._reading = False

    def resume_reading(self) -> None:
        """Takes what waits."""
        self._reading = True
        self._loop.call_soon(self.other.flow, context=self.here.context)

    def is_reading(self) -> bool:
        """Whether what arrives is taken."""
        return self._reading

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Sets from how many bytes on writers wait."""
        self._high = HIGH_WATER_BYTES if high is None else high

    def get_write_buffer_size(self) -> int:
        """The bytes that have not arrived."""
        return self._size

    # What the network does.

    def _send(self, piece: bytes | None) -> None:
        self._last_s = max(self._loop.time() + self._network.delay_s(), self._last_s + APART_S)
        self._loop.call_at(self._last_s, self._arrive, piece, context=self.there.context)

    def _arrive(self, piece: bytes | None) -> None:
        self._held.append(piece)
        self.flow()

    def flow(self) -> None:
        """Hands over what has arrived, as far as the line and the other end allow."""
        other = self.other
        while self._held and not self._broken and not other.lost and other._reading and self._is_open():
            piece = self._held.popleft()
            if piece is None:
                other.protocol.eof_received()
                other.close()
                return
            self._size -= len(piece)
            self._network.bytes_carried += len(piece)
            other.protocol.data_received(piece)
            if self._full and self._size <= self._high // 4:
                self._full = False
                self._loop.call_soon(self._resume, context=self.here.context)

    def _resume(self) -> None:
        if not self.lost and not self._full:
            self.protocol.resume_writing()

    def _is_open(self) -> bool:
        return self._network.is_open(self.here, self.there)

    def _reset(self) -> None:
        """The other end learns that this one is gone; not as long as the line is cut."""
        if self._is_open() or not self.there.alive:
            self.other._broken = self.other._closing = True
            self.other.lose(ConnectionResetError(f"{self.here.name} broke the connection"))
        else:
            self._loop.call_later(0.05, self._reset, context=self.there.context)

    def lose(self, error: Exception | None) -> None:
        """Tells the protocol that the connection is gone."""
        if not self.lost:
            self.lost = self._closing = True
            self._network.wires.pop(self, None)
            self.protocol.connection_lost(error)


class Network:
    """All lines between hosts.

    Attributes:
        loop: The loop that it belongs to.
        wires: The ends of all connections, in the order in which they were made.
        delays_s: Between which two times the way of a piece takes.
        late_share: The share of pieces that take twenty times as long.
        cut_share: The share of what is written that arrives in two pieces.
        bytes_carried: How many bytes have arrived.
    """

    def __init__(self, loop: InMemoryLoop, chance: Random) -> None:
        self.loop = loop
        self.wires: dict[Wire, None] = {}
        self.delays_s, self.late_share, self.cut_share = (0.0001, 0.001), 0.01, 0.2
        self.bytes_carried = 0
        self._chance = chance
        self._listeners: dict[tuple[str, int], tuple[Host, Callable[[], Any]]] = {}
        self._cut: set[frozenset[str]] = set()
        self._healed = asyncio.Event()
        self._ports = 40_000

    def delay_s(self) -> float:
        """How long the next piece takes."""
        shortest, longest = self.delays_s
        stretch = 20.0 if self._chance.random() < self.late_share else 1.0
        return self._chance.uniform(shortest, longest) * stretch

    def pieces(self, data: bytes) -> list[bytes]:
        """The pieces in which some bytes arrive."""
        if len(data) < 2 or self._chance.random() >= self.cut_share:
            return [data]
        # One draw, whatever the length, which may differ by a digit of a measured time from run to run.
        at = 1 + int(self._chance.random() * (len(data) - 1))
        return [data[:at], data[at:]]

    def listen(self, host: Host, port: int, factory: Callable[[], Any]) -> None:
        """Has a protocol serve each connection to a port."""
        self._listeners[host.address, port] = host, factory

    async def connect(self, factory: Callable[[], Any], address: str, port: int) -> tuple[Wire, Any]:
        """Connects the host that asks; as with TCP that waits while the line is cut.

        Raises:
            ConnectionError: Nobody listens there, or a host is dead.
        """
        here = _HERE.get()
        await asyncio.sleep(self.delay_s())
        there, make = self._listeners.get((address, port), (here, None))
        while not self.is_open(here, there):
            await self._healed.wait()
        if make is None or not there.alive or not here.alive:
            raise ConnectionRefusedError(f"nobody listens at {address}:{port}")
        self._ports += 1
        ours, theirs = Wire(self, here, there, self._ports), Wire(self, there, here, self._ports)
        ours.other, theirs.other = theirs, ours
        self.wires.update({ours: None, theirs: None})
        theirs.protocol = there.context.copy().run(make)
        ours.protocol = factory()
        there.context.copy().run(theirs.protocol.connection_made, theirs)
        ours.protocol.connection_made(ours)
        return ours, ours.protocol

    def is_open(self, one: Host, other: Host) -> bool:
        """Whether the line between two hosts carries anything."""
        return frozenset((one.name, other.name)) not in self._cut

    def cut(self, one: str, other: str) -> None:
        """Cuts a line: whatever is said on it waits until ``heal``."""
        self._cut.add(frozenset((one, other)))
        self._healed.clear()

    def heal(self) -> None:
        """Makes all lines whole."""
        self._cut.clear()
        self._healed.set()
        for wire in list(self.wires):
            self.loop.call_soon(wire.flow, context=wire.there.context)

    def break_off(self, one: str, other: str) -> None:
        """Breaks all connections between two hosts."""
        for wire in list(self.wires):
            if wire.here.name == one and wire.there.name == other:
                wire.abort()

    def kill(self, host: Host) -> None:
        """Ends a process: its ports are closed and its connections broken."""
        host.alive = False
        self._listeners = {at: found for at, found in self._listeners.items() if found[0] is not host}
        for wire in list(self.wires):
            if wire.here is host:
                wire.abort()
