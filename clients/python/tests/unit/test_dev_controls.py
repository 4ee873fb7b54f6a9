"""The socket where the console's wishes arrive."""

from __future__ import annotations

import json
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dougdb.dev.controls import LINE_BYTES_MAX, LINE_S, WAITING_MAX, Controls, RefusedWishError, path_in


class Rig:
    """A socket with a clock of the test's. Its folder is a short one, as a socket's path has to be."""

    def __init__(self, folder: Path) -> None:
        self.now = 0.0
        self.done: list[str] = []
        self.path = folder / "s"
        self.controls = Controls(self.path, {"kill": self.kill}, lambda: self.now)

    def kill(self, name: str) -> None:
        if name == "gone":
            raise RefusedWishError("gone does not run now.")
        self.done.append(name)

    def call(self) -> socket.socket:
        caller = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        caller.settimeout(10)
        caller.connect(str(self.path))
        return caller

    def ask(self, line: bytes) -> object:
        with self.call() as caller:
            caller.sendall(line)
            self.controls.step()
            answer: object = json.loads(caller.makefile().readline())
            return answer


@pytest.fixture
def rig() -> Iterator[Rig]:
    with tempfile.TemporaryDirectory() as folder:
        made = Rig(Path(folder))
        with made.controls:
            yield made
        assert not made.path.exists()


def test_a_wish_is_done_and_answered(rig: Rig) -> None:
    assert rig.ask(b'{"do": "kill", "node": "shard-0-1"}\n') == {"done": True}
    assert rig.done == ["shard-0-1"]
    assert rig.ask(b'{"do": "kill", "node": "gone"}\n') == {"error": "gone does not run now."}
    for wrong in (b"\n", b"x\n", b"[]\n", b"{}\n", b'{"do": "stop", "node": "a"}\n', b'{"do": [], "node": "a"}\n'):
        assert rig.ask(wrong) == {"error": "This is not understood."}, wrong
    assert rig.done == ["shard-0-1"]
    assert rig.path.stat().st_mode & 0o777 == 0o600


def test_nobody_keeps_it_waiting(rig: Rig) -> None:
    silent = [rig.call() for _ in range(WAITING_MAX)]
    rig.controls.step()
    rig.now = LINE_S
    rig.controls.step()
    assert [caller.recv(1) for caller in silent] == [b""] * WAITING_MAX
    with rig.call() as endless:
        endless.sendall(b"x" * LINE_BYTES_MAX)
        rig.controls.step()
        assert endless.recv(1) == b""
    with rig.call() as slow:
        slow.sendall(b'{"do": "kill", ')
        rig.controls.step()
        slow.sendall(b'"node": "slow"}\n')
        rig.controls.step()
        assert json.loads(slow.recv(100)) == {"done": True}
    for caller in silent:
        caller.close()


def test_a_path_that_is_too_long_for_a_socket_gives_none(tmp_path: Path) -> None:
    assert path_in(Path("/data/run")) == Path("/data/run/supervisor.sock")
    assert path_in(tmp_path / ("long" * 25)) is None
