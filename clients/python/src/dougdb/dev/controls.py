"""What the console of a local cluster may have its supervisor do: kill a node, pause it, let it go on.

The facade asks at a Unix socket in the data folder, one line of JSON for each wish and one for each answer:
``{"do": "kill", "node": "shard-0-1"}``, ``{"done": true}`` or ``{"error": "..."}``. It must not know processes beyond
what the supervisor offers. Invariants:

1. ``step`` never waits, whoever is connected and whatever they send.
2. Only who may write to the data folder reaches the socket.
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
"""So long somebody may take to send a line."""
PATH_BYTES_MAX = 100
"""A Unix socket's path is short."""


class RefusedWishError(Exception):
    """It cannot be done now; the message says why."""


Wish = Callable[[str], None]
"""Does something to the process of a name, or raises ``RefusedWishError``."""


def path_in(run: Path) -> Path | None:
    """Where the socket is; None where its path would be too long for one."""
    path = run / "supervisor.sock"
    return path if len(os.fsencode(path)) <= PATH_BYTES_MAX else None


class Controls:
    """The socket."""

    def __init__(self, path: Path, wishes: Mapping[str, Wish], clock: Callable[[], float]) -> None:
        """Listens. Requires: the data folder is ours.

        Raises:
            OSError: It cannot.
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
        """Takes what has come, and answers."""
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
            pass  # Whoever asked has gone.
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
