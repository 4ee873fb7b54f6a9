"""Keeps the Pipe stream of one node open and carries batches and answers between its shard and the registry.

Must not know what a batch holds, or who leads. Invariant: one task writes and one reads; what is in flight when the
stream ends goes to the registry, whatever ended it.
"""

from __future__ import annotations

import asyncio

import structlog

from doug.v1 import doug_pb2
from doug_stream.client import ClientCall
from doug_stream.errors import CallError
from doug_wire import pipe
from facade.client.node import Node
from facade.client.registry import Registry
from facade.client.shard import Shard

REOPEN_S = 0.05
"""The pause between the end of a stream and the next try to open one."""

log = structlog.get_logger()


class Session:
    """Keeps the Pipe stream to one node: opens it again whenever it has ended."""

    def __init__(self, shard: Shard, node: Node, registry: Registry) -> None:
        self._shard = shard
        self._node = node
        self._registry = registry

    async def run(self) -> None:
        """Opens the stream once somebody wants it, and keeps it open; ends only by cancellation."""
        node = self._node
        try:
            await node.wanted()
            while True:
                await self._stream(await node.open_pipe())
                await asyncio.sleep(REOPEN_S)
        finally:
            await node.close()

    async def _stream(self, call: ClientCall) -> None:
        shard, node = self._shard, self._node
        shard.node_up(node)
        try:
            async with asyncio.TaskGroup() as group:
                writer = group.create_task(self._write(call))
                await self._read(call)
                writer.cancel()
        finally:
            call.cancel()
            self._registry.lost(node.id, shard.node_down(node))

    async def _write(self, call: ClientCall) -> None:
        shard, node = self._shard, self._node
        while True:
            batch = shard.next_batch(node)
            if batch is None:
                await node.idle()
                continue
            try:
                await call.write(batch)
            except CallError:
                return  # The stream has ended; the reader notices it, too, and returns all operations.

    async def _read(self, call: ClientCall) -> None:
        shard, node, settle = self._shard, self._node, self._registry.settle
        while True:
            try:
                message = await call.read()
            except CallError:
                return
            if not isinstance(message, doug_pb2.BatchResult):
                return  # The end of the stream.
            try:
                answers = shard.take_answers(node, message)
            except pipe.PipeError as error:
                log.error("node.malformed_result", node=node.id, error=str(error))
                return
            settle(answers)
