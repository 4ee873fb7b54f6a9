"""The sending end of Doug.Scan: pages of records, as fast as the caller reads them.

A page is written only when HTTP/2's window lets the one before it go, so that memory is bounded by a page or two. It
knows neither blocks nor leaders: ``raft_node.rpc.doug.service`` has made sure that the state is fresh enough.

Invariants:
1. What is sent is one point in the log: a scan that cannot go on ends, and never begins anew by itself.
2. A scan ends with a page that says so, or with a status that says why not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from doug.v1 import doug_pb2 as pb
from doug_wire import command as commands
from doug_wire import scan as codec
from doug_wire.slots import SLOTS
from raft_node.kv.scan import PAGE_BYTES, Scan, ScanOptions, Step
from raft_node.rpc.doug.replica import Replica
from raft_node.runtime.reads.scans import HeldScan, Scans

Write = Callable[[pb.ScanPage], Awaitable[None]]

PROGRESS_S = 1.0
"""The time between two messages of a scan that finds nothing."""


class ScanRequestError(ValueError):
    """The request makes no sense."""


class ScanExpiredError(Exception):
    """The scan may not hold its state any longer, or its caller takes nothing."""


def options_of(request: pb.ScanRequest) -> ScanOptions:
    """The options of the scan that a request asks for.

    Raises:
        ScanRequestError: The request makes no sense.
    """
    for name, size, limit in (
        ("start", len(request.start), commands.KEY_BYTES_MAX + 1),
        ("end", len(request.end), commands.KEY_BYTES_MAX + 1),
        ("delimiter", len(request.delimiter), codec.DELIMITER_BYTES_MAX),
        ("prefix_bytes", request.prefix_bytes, commands.KEY_BYTES_MAX),
        ("page_bytes_max", request.page_bytes_max, codec.PAGE_BYTES_MAX),
    ):
        if size > limit:
            raise ScanRequestError(f"{name} is {size}, and at most {limit}")
    if request.prefix_bytes and not request.delimiter:
        raise ScanRequestError("prefix_bytes without a delimiter")
    slot = request.slot if request.HasField("slot") else None
    if slot is not None and (slot >= SLOTS or request.delimiter):
        raise ScanRequestError(f"slot {slot}, of {SLOTS}, and without a delimiter")
    return ScanOptions(
        start=request.start,
        end=request.end or None,
        reverse=request.reverse,
        limit=request.limit,
        page_bytes=request.page_bytes_max or PAGE_BYTES,
        keys_only=request.keys_only,
        count_only=request.count_only,
        delimiter=request.delimiter,
        prefix_bytes=request.prefix_bytes,
        slot=slot,
    )


async def send(replica: Replica, options: ScanOptions, write: Write, *, messages: bool) -> None:
    """Sends a whole scan of what is applied now.

    Raises:
        OverloadedError: Too many scans are under way.
        ScanExpiredError: The scan took too long, or the caller took nothing for too long.
        UnavailableError: A block is damaged or cannot be read.
    """
    scans = replica.reader.scans
    limits, loop = scans.limits, asyncio.get_running_loop()
    machine = replica.driver.machine
    with scans.begin(machine, options) as held:
        scan = held.scan
        held_since_s = sent_s = loop.time()
        # At once: the caller learns of the point in the log, and that it is being served.
        await _write(write, _first(replica, scan), held, scans)
        waiting = 0
        while True:
            step = await scans.step(scan)
            now_s = loop.time()
            waiting += step.found
            if step.records or step.last or now_s - sent_s >= PROGRESS_S:
                await _write(write, _page(step, waiting, messages=messages), held, scans)
                sent_s, waiting = loop.time(), 0
            if step.last:
                return
            if now_s - held_since_s > limits.hold_s:
                raise ScanExpiredError(f"the scan has held its state for {limits.hold_s:g} s")


async def _write(write: Write, page: pb.ScanPage, held: HeldScan, scans: Scans) -> None:
    limits, writing = scans.limits, asyncio.ensure_future(write(page))
    held.waits_since_s = asyncio.get_running_loop().time()
    try:
        await asyncio.wait((writing, held.let_go), timeout=limits.idle_s, return_when=asyncio.FIRST_COMPLETED)
        if not writing.done():
            # gRPC tells nothing while a message waits to be sent, so the page is kept, but the costly view is not.
            scans.let_go(held)
            await asyncio.wait((writing,), timeout=limits.hold_s)
        if held.let_go.done():
            raise ScanExpiredError("the caller took nothing for too long")
        writing.result()
    finally:
        held.waits_since_s = None
        writing.cancel()
    # A window that never shuts must not keep the loop from heartbeats.
    await asyncio.sleep(0)


def _first(replica: Replica, scan: Scan) -> pb.ScanPage:
    slots = [
        pb.SlotRange(**{"from": first, "to": last, "shard": replica.number, "epoch": epoch})
        for first, last, _, epoch in scan.state.slots
    ]
    return pb.ScanPage(receipt=replica.receipt(replica.freshness.proven_s), revision=scan.state.revision, slots=slots)


def _page(step: Step, count: int, *, messages: bool) -> pb.ScanPage:
    page = pb.ScanPage(count=count, last=step.last, limited=step.limited)
    blob = b"".join(step.records)
    if not messages:
        page.records = blob
        return page
    for record in codec.decode_page(blob):
        entry = page.entries.add(key=record.key)
        if record.kind == codec.PREFIX:
            entry.prefix = True
            continue
        entry.revision, entry.value, entry.expires_at_ms = record.revision, record.value, record.expires_at
        entry.content_type = record.content_type.decode("ascii", "replace")
        entry.content_encoding = record.content_encoding.decode("ascii", "replace")
    return page
