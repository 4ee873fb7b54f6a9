"""Runs the Go program of ``bench/peers`` as a client of one system; each run prints one line of JSON.

It must not know what the systems are: a peer's name and its endpoints are all that it passes on.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.cluster import ClusterError

if TYPE_CHECKING:
    from bench.systems import Load

GRACE_S = 120
"""How long a run may take beyond the load itself: connecting, late answers, a bucket that waits for its leader."""


class GoClient:
    """The client of one system.

    Attributes:
        endpoints: The ports of the members that it asks, in their order.
    """

    def __init__(self, program: Path, peer: str, endpoints: Sequence[int]) -> None:
        self._program = program
        self._peer = peer
        self.endpoints = list(endpoints)

    def command(self, what: str, *arguments: str) -> list[str]:
        """The command line of ``load``, ``open``, ``watch`` or ``leader``."""
        endpoints = ",".join(f"127.0.0.1:{port}" for port in self.endpoints)
        return [str(self._program), what, "-peer", self._peer, "-endpoints", endpoints, *arguments]

    def begin(self, what: str, *arguments: str) -> subprocess.Popen[str]:
        """Starts a run; ``result`` waits for its end."""
        command = self.command(what, *arguments)
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def result(self, process: subprocess.Popen[str], seconds: float) -> dict[str, Any]:
        """What a run that was begun has found.

        Raises:
            ClusterError: It failed, or did not end ``GRACE_S`` after ``seconds``; then it is ended.
        """
        try:
            told, complaint = process.communicate(timeout=seconds + GRACE_S)
        except subprocess.TimeoutExpired:
            raise ClusterError("the Go client did not end") from None
        finally:
            if process.poll() is None:
                process.kill()
                process.communicate()
        if process.returncode:
            raise ClusterError(f"the Go client failed: {complaint[-500:]}")
        figures: dict[str, Any] = json.loads(told)
        return figures

    def ask(self, what: str, seconds: float, *arguments: str) -> dict[str, Any]:
        """One whole run.

        Raises:
            ClusterError: See ``result``.
        """
        return self.result(self.begin(what, *arguments), seconds)

    def closed(self, load: Load, *more: str) -> dict[str, Any]:
        """A closed load.

        Raises:
            ClusterError: See ``result``.
        """
        sizes = ("-workers", str(load.connections), "-keys", str(load.keys), "-value-bytes", str(load.value_bytes))
        run = ("-seconds", f"{load.seconds:g}", "-batch", str(load.batch), "-entries", str(load.entries))
        return self.ask("load", load.seconds, "-kind", load.kind, *sizes, *run, *more)

    def leader(self) -> int:
        """The number of the endpoint whose member leads.

        Raises:
            ClusterError: None leads.
        """
        return int(self.ask("leader", 0.0)["leader"])
