"""Looking names up: a silent name server holds up neither other names nor the end of the process."""

from __future__ import annotations

import asyncio
import queue
import subprocess
import sys
import threading

import pytest

from doug_stream.names import Names

ENDS_S = 60


class Server:
    """A name server that answers when it is told to."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answers = threading.Event()

    def look_up(self, host: str, port: int) -> list[str]:
        self.asked.append(host)
        if host.startswith("slow"):
            self.answers.wait(ENDS_S)
        if host.startswith("unknown"):
            raise OSError(f"{host} is not known")
        return [f"10.0.0.{len(self.asked)}"]


async def test_a_slow_name_holds_up_no_other_and_is_looked_up_once() -> None:
    server = Server()
    names = Names(server.look_up)
    slow = [asyncio.create_task(names.addresses("slow-1", 1)) for _ in range(3)]
    slow += [asyncio.create_task(names.addresses(f"slow-{number}", 1)) for number in range(2, 40)]
    assert await names.addresses("quick", 1)
    assert not any(task.done() for task in slow)
    slow.pop(0).cancel()  # Who stops waiting takes nothing from the others.
    server.answers.set()
    assert all(await asyncio.gather(*slow))
    assert server.asked.count("slow-1") == 1
    await names.addresses("slow-1", 1)
    assert server.asked.count("slow-1") == 2, "an answer is not kept: addresses move"


async def test_a_name_without_an_address_and_one_that_is_an_address() -> None:
    server = Server()
    names = Names(server.look_up)
    with pytest.raises(OSError, match="is not known"):
        await names.addresses("unknown", 1)
    assert await names.addresses("127.0.0.1", 1) == ["127.0.0.1"]
    assert await names.addresses("::1", 1) == ["::1"]
    assert server.asked == ["unknown"]


async def test_what_cannot_be_a_name_is_an_error_of_the_system() -> None:
    with pytest.raises(OSError, match="no name of a host"):
        await Names().addresses("a" * 64 + ".example", 1)


async def test_a_lookup_that_breaks_off_blocks_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    reports: queue.SimpleQueue[threading.ExceptHookArgs] = queue.SimpleQueue()
    monkeypatch.setattr(threading, "excepthook", reports.put)
    answers: list[list[str]] = []
    names = Names(lambda host, port: answers.pop())
    with pytest.raises(OSError, match="could not be looked up"):
        await names.addresses("odd", 1)
    # The loop is told before the thread ends.
    report = await asyncio.to_thread(reports.get, timeout=30)
    assert report.exc_type is IndexError
    answers.append(["10.0.0.1"])
    assert await names.addresses("odd", 1) == ["10.0.0.1"]


async def test_without_a_thread_a_name_fails_and_is_free_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    names = Names(lambda host, port: ["10.0.0.1"])
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(OSError, match="can't start new thread"):
            await names.addresses("many", 1)
    assert await names.addresses("many", 1) == ["10.0.0.1"]


def test_the_process_ends_while_a_name_server_is_silent() -> None:
    script = """
import asyncio, socket, threading, uvloop
socket.getaddrinfo = lambda *_, **__: threading.Event().wait()
from doug_stream.client import connect
from doug_stream.errors import CallError

async def main():
    try:
        await connect("silent.example", 1, timeout_s=0.05)
    except CallError as error:
        print(error.details)

with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
    runner.run(main())
"""
    ended = subprocess.run((sys.executable, "-c", script), capture_output=True, text=True, timeout=ENDS_S, check=True)
    assert ended.stdout.strip() == "silent.example:1 did not answer in 0.05 s"
