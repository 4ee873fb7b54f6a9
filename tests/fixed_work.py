"""Fixed work of a whole shard in memory: prints its CPU and its messages per operation as one line of JSON.

    .venv/bin/python tests/fixed_work.py put 64

One facade, five nodes and so many clients share an event loop without sockets (``whole_parts``), where everything takes
the same time. So the same sources do the same work every time, whatever else the machine does; only the CPU that it
takes differs. ``test_guard.py`` runs it on the sources of two versions, by ``PYTHONPATH``: ``source`` in the line says
which one was measured. It must not depend on anything but what both have.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import sys
import time
from pathlib import Path
from random import Random

import structlog
from whole_by_seed import FACADES, HttpConnection, Whole
from whole_parts import HTTP_PORT, FacadeInMemory, Log, stand_ins

import facade
import raft_node
from doug_stream.endpoint import Call
from doug_stream.events import MessageReceived
from raft_testing.in_memory import InMemoryLoop

OPERATIONS = {1: 400, 64: 6400}
REQUESTS = {"put": ("PUT", ""), "linearizable": ("GET", ""), "eventual": ("GET", "?consistency=eventual")}
VALUE = b"v" * 100
WAY_S, WRITE_S = 0.0003, 0.001

messages = 0


def count_messages() -> None:
    """Counts every message that an end of an own stream receives."""
    received = Call.received

    def counted(self: Call, event: MessageReceived) -> None:
        global messages  # noqa: PLW0603
        messages += 1
        received(self, event)

    Call.received = counted  # type: ignore[method-assign]


async def ask(connection: HttpConnection, number: int, kind: str, count: int) -> None:
    """So many requests, one behind the other."""
    method, query = REQUESTS[kind]
    for _ in range(count):
        answer = await connection.ask(method, f"key-{number}{query}", VALUE if method == "PUT" else b"")
        assert answer.status == 200, answer


async def work(whole: Whole, kind: str, connections: int) -> dict[str, float]:
    """Starts everything, and does the work."""
    for name in whole.names:
        log = Log(Random(1))
        log.takes_s, log.late_share = (WRITE_S, WRITE_S), 0.0
        whole.start(name, log)
    served = whole.facade_hosts[0].context.run(FacadeInMemory, whole, whole.facade_hosts[0])
    while not served.router.ready:
        await asyncio.sleep(0.05)
    await asyncio.sleep(1.0)  # In virtual time: streams are open, and all nodes have told who they are.

    async def together(kind: str, count: int) -> None:
        async with asyncio.TaskGroup() as group:
            for number, connection in enumerate(clients):
                group.create_task(ask(connection, number, kind, count))

    address = whole.facade_hosts[0].address
    clients = [(await whole.loop.create_connection(HttpConnection, address, HTTP_PORT))[1] for _ in range(connections)]
    await together("put", 3)
    await asyncio.sleep(1.0)  # A follower learns a little later that what it has is committed.
    await together(kind, 3)
    gc.collect()
    gc.freeze()
    operations = OPERATIONS[connections]
    messages_before, cpu_before_s = messages, time.process_time()
    await together(kind, operations // connections)
    spent_s = time.process_time() - cpu_before_s
    found = {"cpu_us": spent_s * 1e6 / operations, "messages": (messages - messages_before) / operations}
    for connection in clients:
        connection.transport.close()
    await served.close()
    for node in whole.nodes.values():
        await node.close()
    for wire in list(whole.network.wires):
        wire.abort()
    await asyncio.sleep(1.0)
    return found


def main(kind: str, connections: int) -> None:
    """Does the work and prints the line."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    count_messages()
    loop = InMemoryLoop(Random(1))
    network = loop.network
    network.delays_s, network.late_share, network.cut_share = (WAY_S, WAY_S), 0.0, 0.0
    whole = Whole(loop, Random(1), names=tuple(f"n{number}" for number in range(5)))
    assert len(FACADES) == len(whole.facade_hosts)
    with stand_ins(loop), asyncio.Runner(loop_factory=lambda: loop) as runner:
        found = runner.run(work(whole, kind, connections), context=whole.client_host.context.copy())
    sources = [str(Path(str(module.__file__)).parent) for module in (raft_node, facade)]
    print(json.dumps({**found, "sources": sources}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
