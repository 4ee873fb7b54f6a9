"""Takes the console's requests to a local cluster's supervisor: kill a node, pause it, cut it off, let it go on.

The facade connects to a Unix socket in the data folder and sends one line of JSON for each request; each answer is one
line, too: ``{"do": "kill", "node": "shard-0-1"}``, ``{"done": true}`` or ``{"error": "..."}``. Must not know processes
beyond the supervisor's methods. Invariants:

1. ``step`` never waits, whatever clients send or do not send.
2. Only users who may write to the data folder can connect to the socket.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

LINE_BYTES_MAX = 4096
WAITING_MAX = 8
LINE_S = 1.0
"""How long a client may take to send a line."""
PATH_BYTES_MAX = 100
"""The longest path that a Unix socket can have on every system, in bytes."""


class RefusedWishError(Exception):
    """A request cannot be carried out now; the message says why."""


Wish = Callable[[str], None]
"""Takes the name of a process, and does something to it, or raises ``RefusedWishError``."""


def path_in(run: Path) -> Path | None:
    """The path of the socket; None if it would be longer than ``PATH_BYTES_MAX``."""
    path = run / "supervisor.sock"
    return path if len(os.fsencode(path)) <= PATH_BYTES_MAX else None


class Controls:
    """Serves the socket."""

    def __init__(self, path: Path, wishes: Mapping[str, Wish], clock: Callable[[], float]) -> None:
        """Begins to listen. Requires: the data folder is locked by this process.

        Raises:
            OSError: The socket cannot be made.
        """
        self._path = path
        self._wishes = wishes
        self._clock = clock
        self._callers: dict[socket.socket, tuple[float, bytes]] = {}
        path.unlink(missing_ok=True)
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listening.bind(str(path))
        path.chmod(0o600)
        self._listening.listen(WAITING_MAX)
        self._listening.setblocking(False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        for caller in (*self._callers, self._listening):
            caller.close()
        self._path.unlink(missing_ok=True)

    def step(self) -> None:
        """Reads the lines that have come, and answers them."""
        with contextlib.suppress(BlockingIOError):
            while len(self._callers) < WAITING_MAX:
                caller, _ = self._listening.accept()
                caller.setblocking(False)
                self._callers[caller] = (self._clock() + LINE_S, b"")
        for caller in list(self._callers):
            self._hear(caller)

    def _hear(self, caller: socket.socket) -> None:
        until_s, said = self._callers[caller]
        try:
            more = caller.recv(LINE_BYTES_MAX)
            said += more
            if b"\n" in said:
                caller.send(json.dumps(self._answer(said.partition(b"\n")[0])).encode() + b"\n")
            elif more and len(said) < LINE_BYTES_MAX:
                self._callers[caller] = (until_s, said)
                return
        except BlockingIOError:
            if self._clock() < until_s:
                return
        except OSError:
            pass  # The client has closed its connection.
        del self._callers[caller]
        caller.close()

    def _answer(self, line: bytes) -> dict[str, object]:
        try:
            asked = json.loads(line)
            act, node = asked["do"], asked["node"]
            wish = self._wishes[act]
        except (ValueError, TypeError, KeyError, RecursionError):
            return {"error": "This is not understood."}
        try:
            wish(str(node))
        except RefusedWishError as error:
            return {"error": str(error)}
        return {"done": True}
