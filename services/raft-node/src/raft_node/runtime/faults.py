"""The faults that a node brings upon itself in a cluster for trying things: cut off from the other nodes, a slow disk.

They are asked for on the node's standard input, a line for each, which only the process that started the node can write
to: ``dougctl dev``, whose setting ``DOUGDB_DEV_FAULTS`` turns this on. Must not know sockets or files. Invariants:

1. Each fault ends by itself after ``FAULT_S``.
2. A node without the setting has none of this, and nothing of it is in the way of a message or a sync.

Source: docs/console.md, Try it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Final

from raft_node.raft.messages import Message
from raft_node.runtime.driver_ports import Transport

FAULT_S: Final = 60.0
SLOW_SYNC_S: Final = 0.4
"""What each sync takes longer on a slow disk: more than ``DOUGDB_SLOW_APPEND_MS``, and less than what makes a leader
resign."""
LINE_BYTES_MAX: Final = 256

CUT_OFF: Final = "cut_off"
SLOW_DISK: Final = "slow_disk"


class Faults:
    """The faults of one node; none when it starts.

    Attributes:
        record: Notes an event of the node.
    """

    def __init__(self) -> None:
        self.record: Callable[..., None] = lambda name, **details: None
        self._rest = b""
        self._cut_off = False
        self._is_quick = threading.Event()
        self._is_quick.set()
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def is_cut_off(self) -> bool:
        """Whether this node neither sends anything to the other nodes nor hears them."""
        return self._cut_off

    def before_sync(self) -> None:
        """Waits as long as a slow disk takes longer; called by the thread that syncs."""
        # It is set as long as the disk is quick, and as soon as it is quick again.
        self._is_quick.wait(SLOW_SYNC_S)

    def hear(self, data: bytes) -> None:
        """Does what lines ask for: ``cut``, ``slow``, ``heal``; ignores others. Requires: on the event loop."""
        *lines, rest = (self._rest + data).split(b"\n")
        self._rest = rest[:LINE_BYTES_MAX]
        for line in lines:
            match line:
                case b"cut":
                    self._begin(CUT_OFF)
                case b"slow":
                    self._begin(SLOW_DISK)
                case b"heal":
                    for fault in list(self._timers):
                        self._end(fault)

    def _begin(self, fault: str) -> None:
        timer = self._timers.pop(fault, None)
        if timer is not None:
            timer.cancel()
        self._timers[fault] = asyncio.get_running_loop().call_later(FAULT_S, self._end, fault)
        self._set()
        self.record("fault_began", fault=fault, for_s=round(FAULT_S))

    def _end(self, fault: str) -> None:
        self._timers.pop(fault).cancel()
        self._set()
        self.record("fault_ended", fault=fault)

    def _set(self) -> None:
        self._cut_off = CUT_OFF in self._timers
        if SLOW_DISK in self._timers:
            self._is_quick.clear()
        else:
            self._is_quick.set()

    def incoming(self, receive: Callable[[Message], None]) -> Callable[[Message], None]:
        """Puts the cut in front of what takes messages of other nodes."""

        def take(message: Message) -> None:
            if not self._cut_off:
                receive(message)

        return take

    def outgoing(self, transport: Transport) -> Transport:
        """Puts the cut in front of what sends messages to other nodes."""
        return _Cuttable(self, transport)


class _Cuttable:
    """A way to the other nodes that is lost while the node is cut off."""

    def __init__(self, faults: Faults, transport: Transport) -> None:
        self._faults = faults
        self._transport = transport

    def send(self, messages: Sequence[Message]) -> None:
        if not self._faults.is_cut_off():
            self._transport.send(messages)
