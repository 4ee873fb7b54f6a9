"""Peers come and go: connected when the core writes to them, disconnected when it is done with them."""

from __future__ import annotations

import asyncio

import pytest

from raft_node.observability.metrics import Metrics
from raft_node.raft.membership import with_learner, without
from raft_node.raft.messages import Heartbeat, Message
from raft_node.raft.types import Configuration, NodeId
from raft_node.rpc.channels import REOPEN_S, Dialled
from raft_node.rpc.raft.addresses import AddressBook
from raft_node.rpc.raft.peers import LocalMember, Peers

A, B, C = NodeId("a", 1), NodeId("b", 2), NodeId("c", 3)
SHARD = 3


class Sender:
    """The peers of member a."""

    def __init__(self) -> None:
        self.metrics = Metrics(SHARD)
        self.addresses: dict[NodeId, str] = {}
        self.peers = Peers(LocalMember(A, b"cluster", SHARD, ""), self.metrics)
        self.peers.connect(self.addresses.get, lambda message: None, lambda peer: None)

    @property
    def dropped(self) -> float:
        value = self.metrics.registry.get_sample_value(
            "dougdb_raft_messages_dropped_total", {"shard": str(SHARD), "reason": "unknown_peer"}
        )
        return value or 0.0


async def test_a_message_to_an_unknown_peer_is_dropped_and_counted() -> None:
    sender = Sender()
    sender.peers.send([Heartbeat(A, B, 1, 0, 0), Heartbeat(A, B, 1, 0, 0)])
    assert sender.dropped == 2 and sender.peers.connected == frozenset()


async def test_who_left_is_disconnected_and_who_moved_is_found_again() -> None:
    sender = Sender()
    sender.addresses.update({B: "127.0.0.1:1", C: "127.0.0.1:2"})
    running = asyncio.create_task(sender.peers.run())
    await asyncio.sleep(0)
    sender.peers.send([Heartbeat(A, B, 1, 0, 0), Heartbeat(A, C, 1, 0, 0)])
    assert sender.peers.connected == {B, C}
    sender.peers.retain({B, C})
    assert sender.peers.connected == {B, C}, "nothing has changed"
    sender.addresses[B] = "127.0.0.1:3"
    sender.peers.retain({B})
    assert sender.peers.connected == frozenset()
    sender.peers.send([Heartbeat(A, B, 1, 0, 0)])
    assert sender.peers.connected == {B}
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert sender.dropped == 0


@pytest.mark.seconds
async def test_a_peer_that_joined_while_all_was_running_is_reached(
    received: tuple[asyncio.Queue[Message], str],
) -> None:
    queue, address = received
    sender = Sender()
    running = asyncio.create_task(sender.peers.run())
    await asyncio.sleep(0)
    sender.peers.send([Heartbeat(A, B, 1, 0, 0)])
    sender.addresses[B] = address
    sender.peers.send([Heartbeat(A, B, 2, 0, 0)])
    async with asyncio.timeout(60):
        assert await queue.get() == Heartbeat(A, B, 2, 0, 0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


class TestAddressBook:
    """The settings win over the configuration."""

    def test_both_are_asked_and_the_settings_first(self) -> None:
        configuration = with_learner(with_learner(Configuration((A,)), B, "b:1"), C, "c:1")
        book = AddressBook({"b": "settings:2"}, lambda: configuration)
        assert [book.find(node) for node in (A, B, C)] == [None, "settings:2", "c:1"]
        assert book.find(NodeId("c", 99)) is None, "another incarnation may be elsewhere"
        assert book.all() == {"b": "settings:2", "c": "c:1"}

    def test_who_was_removed_is_still_found(self) -> None:
        configuration = with_learner(Configuration((A,)), C, "c:1")
        book = AddressBook({}, lambda: configuration)
        assert book.find(C) == "c:1"
        configuration = without(configuration, C)
        assert book.find(C) == "c:1"


async def test_a_channel_that_does_not_reach_its_peer_is_opened_anew_but_not_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The peer's name may exist by now; gRPC by itself looks names up again after pauses of up to minutes."""
    now_s = 100.0
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now_s)
    dialled = Dialled("peer:1", None)
    first = dialled.channel
    now_s += 10 * REOPEN_S
    dialled.renew(0.0)
    assert dialled.channel is first, "nothing speaks against it"
    dialled.lost()
    dialled.renew(0.0)
    second = dialled.channel
    assert second is not first
    dialled.lost()
    dialled.renew(0.0)
    assert dialled.channel is second, "it is given time to connect"
    now_s += REOPEN_S
    dialled.renew(0.0)
    assert dialled.channel is not second
    monkeypatch.undo()
    await dialled.close()
