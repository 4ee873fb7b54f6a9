"""The faults that a node of ``dougctl dev`` brings upon itself: a cut that loses all messages, and a slow disk."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from doug.v1 import raft_pb2 as pb
from raft_node.observability.metrics import Metrics
from raft_node.raft.messages import Heartbeat, Message
from raft_node.raft.types import NodeId
from raft_node.rpc.raft.service import RaftService
from raft_node.runtime import faults as module
from raft_node.runtime.faults import FAULT_S, Faults
from raft_node.storage.files import OsFileSystem

A, B = NodeId("a", 1), NodeId("b", 2)
BEAT = Heartbeat(A, B, 1, 0, 0)


class Rig:
    """The faults of one node, what came through them, and what was noted."""

    def __init__(self) -> None:
        self.faults = Faults()
        self.faults.record = self.record
        self.events: list[tuple[str, object]] = []
        self.heard: list[Message] = []
        self.sent: list[Message] = []
        self.receive = self.faults.incoming(self.heard.append)
        self.transport = self.faults.outgoing(self)

    def record(self, name: str, **details: object) -> None:
        self.events.append((name, details["fault"]))

    def send(self, messages: Sequence[Message]) -> None:
        self.sent += messages

    def exchange(self) -> tuple[int, int]:
        """Sends and hears one message; how many came through since the start."""
        self.transport.send([BEAT])
        self.receive(BEAT)
        return len(self.sent), len(self.heard)


async def test_a_node_that_is_cut_off_sends_and_hears_nothing_until_it_is_healed() -> None:
    rig = Rig()
    assert rig.exchange() == (1, 1)
    rig.faults.hear(b"cut\n")
    assert rig.faults.is_cut_off() and rig.exchange() == (1, 1)
    rig.faults.hear(b"heal\n")
    assert not rig.faults.is_cut_off() and rig.exchange() == (2, 2)
    assert rig.events == [("fault_began", "cut_off"), ("fault_ended", "cut_off")]


async def test_a_fault_ends_by_itself_and_counts_from_the_last_wish(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    timers: list[tuple[float, Any, Any]] = []

    class Timer:
        cancelled = False

        def cancel(self) -> None:
            self.cancelled = True

    def call_later(delay_s: float, callback: Any, *arguments: Any) -> Any:
        timer = Timer()
        timers.append((delay_s, timer, lambda: callback(*arguments)))
        return timer

    monkeypatch.setattr(loop, "call_later", call_later)
    rig = Rig()
    rig.faults.hear(b"cut\ncut\n")
    (first_s, first, _), (second_s, second, end) = timers
    assert (first_s, second_s, first.cancelled, second.cancelled) == (FAULT_S, FAULT_S, True, False)
    end()
    assert not rig.faults.is_cut_off()
    assert rig.events == [("fault_began", "cut_off")] * 2 + [("fault_ended", "cut_off")]
    monkeypatch.undo()


async def test_lines_come_in_pieces_and_nonsense_does_nothing() -> None:
    rig = Rig()
    for piece in (b"c", b"u", b"t", b"\nsl"):
        rig.faults.hear(piece)
    assert rig.events == [("fault_began", "cut_off")]
    rig.faults.hear(b"ow\nheal\nheal\n")
    assert [name for name, _ in rig.events] == ["fault_began", "fault_began", "fault_ended", "fault_ended"]
    for nonsense in (b"CUT\n", b"cut 5\n", b"\n\n", b"x" * 10_000, b"\xff\n"):
        rig.faults.hear(nonsense)
    assert len(rig.events) == 4


async def test_a_slow_disk_waits_before_each_sync_and_a_quick_one_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SLOW_SYNC_S", 600.0)
    rig = Rig()
    fs = OsFileSystem(rig.faults.before_sync)
    for file in (fs.create(f"{tmp_path}/f"), fs.open_for_write(f"{tmp_path}/f")):
        file.write_at(0, [b"x"])
        file.sync_data()
        rig.faults.hear(b"slow\n")
        synced = threading.Event()
        thread = threading.Thread(target=lambda file=file, synced=synced: (file.sync_data(), synced.set()))
        thread.start()
        assert not synced.is_set(), "it waits for ten minutes"
        rig.faults.hear(b"heal\n")
        await asyncio.to_thread(thread.join)
        assert synced.is_set()
        file.close()


class Context:
    """The little of gRPC that a refused call needs."""

    def __init__(self) -> None:
        self.code: grpc.StatusCode | None = None

    async def abort(self, code: grpc.StatusCode, details: str) -> None:
        self.code = code
        raise grpc.aio.AbortError(details)

    def auth_context(self) -> dict[str, list[bytes]]:
        return {}

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"


async def test_a_node_that_is_cut_off_answers_no_call_of_another_node() -> None:
    rig = Rig()
    service = RaftService(A, 0, Metrics(0))
    service.cut_off = rig.faults.is_cut_off
    service.attach(Any_, rig.receive)
    rig.faults.hear(b"cut\n")
    asked: list[tuple[Any, Any]] = [
        (service.Identify, pb.IdentifyRequest(shard=0, sender="b")),
        (service.RequestVote, pb.RequestVoteRequest()),
        (service.TimeoutNow, pb.TimeoutNowRequest()),
    ]
    for method, request in asked:
        context: Any = Context()
        with pytest.raises(grpc.aio.AbortError):
            await method(request, context)
        assert context.code is grpc.StatusCode.UNAVAILABLE
    rig.faults.hear(b"heal\n")
    context = Context()
    assert (await service.Identify(pb.IdentifyRequest(shard=0, sender="b"), context)).member.name == "a"


Any_: Any = object()
